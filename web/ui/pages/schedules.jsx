// Schedules: what is submitted again and again, when next, and what became of the last times.
import { useState } from "preact/hooks";
import { carryOut, get, post, remove } from "../api.js";
import { count, moment, plain } from "../format.js";
import { Planning } from "../planning.jsx";
import { Empty, Panel, Scroll, State, Sure, Text } from "../parts.jsx";
import { useTopic } from "../socket.js";

/** @import { RunRow, ScheduleRow } from "../answers.d.ts" */
/** @import { PageProps } from "../topics.d.ts" */

/** @type {Record<string, string>} */
const MISSED = { skip: "left out", one: "the last one is made up for", all: "all are made up for" };
/** @type {Record<string, string>} */
const OVERLAP = { skip: "leaves the time out", queue: "waits for it", replace: "takes its place" };

/** @param {PageProps} props */
export function Schedules({ operator }) {
  const { data } = useTopic("schedules");
  const [planning, plan] = useState(/** @type {{ there: Record<string, any> | null } | null} */ (null));
  if (!data) return <Empty>Waiting for the schedules…</Empty>;
  return (
    <div class="page" id="schedules">
      <header class="head">
        <h1>Schedules</h1>
        {operator && (
          <button type="button" id="plan-task" onClick={() => plan({ there: null })}>
            Plan a task
          </button>
        )}
      </header>
      {data.schedules.length === 0 && (
        <Empty>
          Nothing is planned. In a terminal: <code>agentcom schedule add nightly '0 3 * * *' -- submit …</code>
        </Empty>
      )}
      {data.schedules.map((row) => (
        <Schedule key={row.schedule} row={row} operator={operator} edit={plan} />
      ))}
      {planning && <Planning {...planning} close={() => plan(null)} />}
    </div>
  );
}

/**
 * @param {{
 *   row: ScheduleRow, operator: boolean,
 *   edit: (what: { there: Record<string, any> }) => void,
 * }} props
 */
function Schedule({ row, operator, edit }) {
  const path = `/schedules/${row.schedule}`;
  // The whole task stands in the event that changed it last, or else added it.
  const change = () =>
    carryOut(async () => {
      const { events } = await get(`/events?from=${row.changed_seq || row.added_seq}&limit=1`);
      edit({ there: events[0].event });
    });
  const act = (/** @type {string} */ verb, /** @type {string} */ done) => () =>
    carryOut(() => post(`${path}/${verb}`), done);
  return (
    <Panel
      title={row.schedule}
      id={`schedule-${row.schedule}`}
      action={
        operator && (
          <div class="actions">
            <button type="button" onClick={act("run", "Its task is submitted.")}>
              Run now
            </button>
            <button type="button" onClick={change}>
              Edit
            </button>
            {row.paused ? (
              <button type="button" onClick={act("resume", "It goes on.")}>
                Resume
              </button>
            ) : (
              <button type="button" onClick={act("pause", "It is paused.")}>
                Pause
              </button>
            )}
            <Sure
              label="Remove"
              sure="Remove it?"
              act={() => carryOut(() => remove(path), "It is removed; its tasks stay.")}
            />
          </div>
        )
      }
    >
      <p>
        <code>{plain(row.cron)}</code> in <Text>{row.tz}</Text>: <Text most={200}>{row.description}</Text>{" "}
        <span class="badge">{row.tier}</span>
      </p>
      <p>
        <small>
          {`Missed times: ${MISSED[row.missed] ?? row.missed}. While the task before is not over, the next one `}
          {`${OVERLAP[row.overlap] ?? row.overlap}. So far ${count(row.fired)} fired, ${count(row.skipped)} left out.`}
        </small>
      </p>
      {row.paused ? (
        <p>
          <b>Paused</b> <Text>{row.paused_for}</Text>
        </p>
      ) : (
        <details>
          <summary>
            Next <time dateTime={row.next[0]}>{row.next.length ? moment(row.next[0]) : "never"}</time>
          </summary>
          <ol class="list">
            {row.next.map((each) => (
              <li>
                <time dateTime={each}>{moment(each)}</time>
              </li>
            ))}
          </ol>
        </details>
      )}
      {row.runs.length > 0 && <Runs row={row} />}
    </Panel>
  );
}

/** @param {{ row: ScheduleRow }} props */
const Runs = ({ row }) => (
  <Scroll label={`Last runs of ${row.schedule}`} class="fit">
    <table>
      <thead>
        <tr>
          <th>planned</th>
          <th>what came of it</th>
          <th>task</th>
        </tr>
      </thead>
      <tbody>
        {row.runs.map((run) => (
          <tr>
            <td>
              <time dateTime={run.planned}>{moment(run.planned)}</time>
              {run.what === "by_hand" && <small> by hand</small>}
            </td>
            <td>{run.state ? <State state={run.state} /> : leftOut(run)}</td>
            <td>{run.task_id && <a href={`#/task/${run.task_id}`}>{plain(run.task_id)}</a>}</td>
          </tr>
        ))}
      </tbody>
    </table>
  </Scroll>
);

/** @param {RunRow} run */
function leftOut({ what, count: n }) {
  const times = n > 1 ? `${count(n)} times ` : "";
  return what === "missed" ? `${times}missed` : `${times}left out: the one before was not over`;
}
