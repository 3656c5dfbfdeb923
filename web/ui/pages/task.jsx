// One task: its state, its attempts, its live output, why it went where, what it cost.
import { useCallback, useMemo, useRef, useState } from "preact/hooks";
import { carryOut, chunks, download, get, notice, post } from "../api.js";
import { Changes } from "../changes.jsx";
import { Checks } from "../checks.jsx";
import { FINAL, at, count, duration, moment, plain } from "../format.js";
import { Terminal } from "../log/terminal.js";
import { LogView } from "../log/view.jsx";
import { Output } from "../output.jsx";
import { Dialog, Empty, Fallback, Panel, Simulated, State, Sure, Text, Tier } from "../parts.jsx";
import { useNow, useTopic } from "../socket.js";
import { Logged } from "./logged.jsx";
import { Cost, Routing } from "./trace.jsx";

/** @import { AttemptView, Chunk, LoggedEvent, TaskDetail } from "../answers.d.ts" */
/** @import { Handle } from "../output.jsx" */
/** @import { Output as Piece, PageProps } from "../topics.d.ts" */

/** @param {PageProps} props */
export function Task({ rest, operator, theme }) {
  const id = rest[0] ?? "";
  const panel = useRef(/** @type {Handle | null} */ (null));
  const early = useRef(/** @type {Piece[]} */ ([])); // what comes before there is a panel
  const take = useCallback((/** @type {Piece} */ message) => {
    if (panel.current) panel.current.take(message);
    else early.current.push(message);
  }, []);
  const attach = useCallback((/** @type {Handle | null} */ handle) => {
    panel.current = handle;
    if (handle) for (const message of early.current.splice(0)) handle.take(message);
  }, []);
  const { data, error } = useTopic(id ? "task" : null, { task_id: id }, take);
  const now = useNow();
  if (error) return <Empty>{plain(error.error)}</Empty>;
  if (!data) return <Empty>Waiting for the task…</Empty>;
  const { task } = data;
  return (
    <div class="page" id="task" data-state={task.state}>
      <header class="task-head">
        <h1>
          <Text most={300}>{task.description}</Text>
        </h1>
        <p>
          <State state={task.state} /> <Tier tier={task.tier} />
          <Fallback task={task} /> <span class="badge">{task.priority}</span> <Simulated on={task.simulated} />{" "}
          <code title="The task's id">{task.task_id}</code>
        </p>
        <Actions task={task} operator={operator} />
      </header>
      <Strip task={task} now={now} />
      {data.why.length > 0 && (
        <Panel title="Why it waits">
          <ul>
            {data.why.map((line) => (
              <li>
                <Text>{line}</Text>
              </li>
            ))}
          </ul>
        </Panel>
      )}
      <Attempts attempts={data.attempts} now={now} />
      <Checks attempts={data.attempts} />
      <Details task={task} />
      <Output
        ref={attach}
        id={task.task_id}
        theme={theme}
        lines={linesOf(rest[1])}
        placeholder={
          FINAL.has(task.state)
            ? "This task has no live output that is still kept."
            : "Nothing yet. What the task writes appears here as it runs."
        }
      />
      <Routing data={data} />
      <Cost task={task} attempts={data.attempts} />
      <Result task={task} theme={theme} />
      <Changes changes={task.result?.changes} id={task.task_id} />
      <Events events={data.events} left={data.events_left_out} />
    </div>
  );
}

/**
 * The lines that an address names: L120, or L120-L130.
 * @param {string} [text] @returns {[number, number] | null}
 */
function linesOf(text = "") {
  const [, from, to] = /^L(\d{1,9})(?:-L(\d{1,9}))?$/.exec(text) ?? [];
  return from ? [Number(from), Math.max(Number(from), Number(to ?? from))] : null;
}

/** @param {{ task: TaskDetail, operator: boolean }} props */
function Actions({ task, operator }) {
  const [moving, move] = useState(false);
  const { task_id: id } = task;
  const over = FINAL.has(task.state);
  const command = `nats req agentcom.query.task '{"task_id": "${id}", "events": true}'`;
  const copy = () =>
    navigator.clipboard.writeText(command).then(
      () => notice(`Copied: ${command}`),
      () => notice(command),
    );
  const save = () =>
    carryOut(async () => {
      const whole = await get(`/tasks/${id}?events=true`);
      /** @type {Chunk[]} */
      const output = [];
      await chunks(id, (chunk) => output.push(chunk));
      download(`${id}.json`, JSON.stringify({ ...whole, output: { chunks: output } }, null, 2), "application/json");
    });
  return (
    <div class="actions">
      {operator && !over && (
        <Sure
          label="Cancel"
          sure="Cancel it?"
          act={() => carryOut(() => post(`/tasks/${id}/cancel`), "It is cancelled.")}
        />
      )}
      {operator && over && task.state !== "completed" && (
        <button type="button" onClick={() => carryOut(() => post(`/tasks/${id}/retry`), "It is tried anew.")}>
          Retry
        </button>
      )}
      {operator && !over && (
        <button type="button" onClick={() => move(true)}>
          Reassign
        </button>
      )}
      <button type="button" onClick={copy}>
        Copy nats command
      </button>
      <button type="button" onClick={save}>
        Export JSON
      </button>
      {moving && <Reassign id={id} close={() => move(false)} />}
    </div>
  );
}

/** @param {{ id: string, close: () => void }} props */
function Reassign({ id, close }) {
  const { data } = useTopic("fleet");
  const [host, choose] = useState("");
  const hosts = (data?.hosts ?? []).filter((each) => each.state === "up");
  const send = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const answer = await carryOut(
      () => post(`/tasks/${id}/reassign`, { host: host || hosts[0]?.host }),
      "It goes to the other host.",
    );
    if (answer) close();
  };
  return (
    <Dialog title="Reassign to a host" close={close}>
      <form class="form" onSubmit={send}>
        <label>
          Host
          <select value={host} onChange={(event) => choose(event.currentTarget.value)}>
            {hosts.map((each) => (
              <option value={each.host}>{plain(each.host)}</option>
            ))}
          </select>
        </label>
        <footer>
          <button type="submit" class="main" disabled={!hosts.length}>
            Reassign
          </button>
        </footer>
      </form>
    </Dialog>
  );
}

/** @param {{ task: TaskDetail, now: number }} props */
function Strip({ task, now }) {
  const steps = [
    ["submitted", task.submitted_at],
    ["routed", task.routed_at],
    ["accepted", task.accepted_at],
    ["started", task.started_at],
    [FINAL.has(task.state) ? task.state : "finished", task.finished_at],
  ];
  const waited = task.wait_ms ?? (task.started_at || FINAL.has(task.state) ? null : now - at(task.waiting_since));
  const ran = task.run_ms ?? (task.started_at && !task.finished_at ? now - at(task.started_at) : null);
  return (
    <ol class="strip" aria-label="States">
      {steps.map(([name, when]) => (
        <li class={when ? "done" : ""}>
          <b>{name}</b>
          <small>{moment(when)}</small>
        </li>
      ))}
      <li class="times">
        <small>
          waited <b>{duration(waited)}</b>
        </small>
        <small>
          ran <b>{duration(ran)}</b>
        </small>
      </li>
    </ol>
  );
}

/** @param {{ attempts: AttemptView[], now: number }} props */
function Attempts({ attempts, now }) {
  if (!attempts.length) return null;
  const start = Math.min(...attempts.map((each) => at(each.routed_at)));
  const end = Math.max(...attempts.map((each) => at(each.ended_at) || now), start + 1);
  const part = (/** @type {string} */ time) => `${(((at(time) || now) - start) / (end - start)) * 100}%`;
  const width = (/** @type {string} */ from, /** @type {string} */ to) =>
    `${Math.max(0.6, (((at(to) || now) - at(from)) / (end - start)) * 100)}%`;
  return (
    <Panel title={`Attempts: ${attempts.length}`} id="attempts">
      <ol class="lanes">
        {attempts.map((each) => (
          <li>
            <div class="lane-text">
              <b>{each.generation}.</b> <Tier tier={each.tier} />
              {each.fallback_used && <span class="badge fb">FB</span>}{" "}
              <Text most={90}>{[each.host, each.endpoint, each.model].filter(Boolean).join(" · ")}</Text>{" "}
              <span class={`outcome ${each.outcome}`}>
                {each.outcome || "under way"}
                {each.reason && `: ${plain(each.reason, 80)}`}
              </span>{" "}
              {each.local_retries > 0 && (
                <span class="badge">
                  {each.local_retries} local {each.local_retries > 1 ? "retries" : "retry"}
                </span>
              )}
              {each.late && <span class="badge">late</span>}
              <Simulated on={each.simulated} />
            </div>
            <div class="lane" aria-hidden="true">
              <i
                class={`span ${each.outcome || "running"}`}
                style={{ left: part(each.routed_at), width: width(each.routed_at, each.ended_at) }}
              />
            </div>
            {(each.error || each.last_line) && (
              <small class={each.error ? "bad" : ""}>
                <Text most={300}>{each.error || each.last_line}</Text>
              </small>
            )}
          </li>
        ))}
      </ol>
    </Panel>
  );
}

/** @param {{ of: any[] }} props */
const Lines = ({ of }) => (
  <ul>
    {of.map((each) => (
      <li>
        <Text>{each}</Text>
      </li>
    ))}
  </ul>
);

/** @param {{ name: string, children?: any }} props */
const Detail = ({ name, children }) => (
  <>
    <dt>{name}</dt>
    <dd>{children}</dd>
  </>
);

/** @param {{ task: TaskDetail }} props */
function Details({ task }) {
  const { shell, repo, branch, needs = [], attachments = [], metadata = {} } = task.spec ?? {};
  const { file_hints: files = [], success_criteria: success = [], verification_steps: steps = [] } = task.spec ?? {};
  return (
    <Panel title="Details">
      <dl class="pairs">
        <Detail name="Description">
          <Text>{task.description}</Text>
        </Detail>
        {task.mode && (
          <Detail name="Mode">
            <Text>{`${task.mode} (${task.mode_reason})`}</Text>
          </Detail>
        )}
        {shell && (
          <Detail name="Command">
            <code class="block">{plain(shell.command)}</code>
          </Detail>
        )}
        {repo && (
          <Detail name="Repository">
            <Text>{`${repo}${branch ? ` @ ${branch}` : ""}`}</Text>
          </Detail>
        )}
        {task.cwd && (
          <Detail name="Working folder">
            <code>{plain(task.cwd)}</code>
            {task.host && <Text>{` on ${task.host}`}</Text>}
          </Detail>
        )}
        {needs.length > 0 && (
          <Detail name="Needs">
            <Text>{needs.join(", ")}</Text>
          </Detail>
        )}
        {attachments.length > 0 && (
          <Detail name="Attached">
            <Lines of={attachments.map(({ name, size_bytes }) => `${name} (${size_bytes} bytes)`)} />
          </Detail>
        )}
        {files.length > 0 && (
          <Detail name="Files">
            <Lines of={files.map(({ path, reason }) => `${path}${reason ? `: ${reason}` : ""}`)} />
          </Detail>
        )}
        {success.length > 0 && (
          <Detail name="Success">
            <Lines of={success} />
          </Detail>
        )}
        {steps.length > 0 && (
          <Detail name="Verification">
            <Lines of={steps} />
          </Detail>
        )}
        {Object.keys(metadata).length > 0 && (
          <Detail name="Metadata">
            <code class="block">{plain(JSON.stringify(metadata, null, 1))}</code>
          </Detail>
        )}
        <Detail name="Submitted by">
          <Text>{task.submitter || "–"}</Text>
        </Detail>
        {task.error && (
          <Detail name="Error">
            <span class="bad">
              <Text>{`${task.error_code}: ${task.error}`}</Text>
            </span>
          </Detail>
        )}
        {task.cancelled_by && (
          <Detail name="Cancelled by">
            <Text>{`${task.cancelled_by} ${task.reason}`}</Text>
          </Detail>
        )}
        {task.warnings.length > 0 && (
          <Detail name="Warnings">
            <Lines of={task.warnings} />
          </Detail>
        )}
        {task.void > 0 && (
          <Detail name="Void events">{`${task.void}: not counted, they did not fit the task's state`}</Detail>
        )}
      </dl>
    </Panel>
  );
}

/** @param {{ text: string, kind: "stdout" | "stderr", theme: string }} props */
function Printed({ text, kind, theme }) {
  const store = useMemo(() => {
    const terminal = new Terminal();
    terminal.write(kind, text, Number.NaN);
    return terminal.store;
  }, [text, kind]);
  return <LogView id={`result-${kind}`} store={store} label={kind} theme={theme} follow={false} />;
}

/** @param {{ task: TaskDetail, theme: string }} props */
function Result({ task, theme }) {
  const { result } = task;
  if (!result) return null;
  return (
    <Panel title="Result" id="result">
      <details open={!!result.error}>
        <summary>
          {result.status}
          {result.exit_code !== undefined && result.exit_code !== null ? `, exit ${result.exit_code}` : ""}
          {typeof result.verified === "boolean" && (result.verified ? ", verified" : ", not verified")}
          {result.truncated ? ", head and tail of it" : ""}
        </summary>
        {result.error && (
          <p class="bad">
            <Text>{`${result.error.code}: ${result.error.message}`}</Text>
          </p>
        )}
        {result.output && <Printed text={result.output} kind="stdout" theme={theme} />}
        {result.stderr && <Printed text={result.stderr} kind="stderr" theme={theme} />}
      </details>
    </Panel>
  );
}

/** @param {{ events: LoggedEvent[], left: number }} props */
function Events({ events, left }) {
  const [whole, show] = useState(false);
  return (
    <Panel
      title={`Events: ${events.length}`}
      id="raw-events"
      action={
        <label class="inline">
          <input type="checkbox" checked={whole} onChange={() => show(!whole)} /> JSON
        </label>
      }
    >
      <details>
        <summary>Everything the log has about it</summary>
        <ol class="log">
          {events.map((each) => (
            <Logged key={each.seq} logged={each} whole={whole} />
          ))}
        </ol>
        {left > 0 && <p>{count(left)} more are in the log.</p>}
      </details>
    </Panel>
  );
}
