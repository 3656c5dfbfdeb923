// The time slider: queue and fleet as they were at any sequence of the log.
import { useEffect, useRef, useState } from "preact/hooks";
import { carryOut, get } from "../api.js";
import { count, moment } from "../format.js";
import { Empty, Panel, Text, Tier } from "../parts.jsx";

/** @import { HostsAnswer, QueueAnswer, TaskRow } from "../answers.d.ts" */
/** @import { Edit } from "../topics.d.ts" */
/**
 * Queue and fleet as they were at a sequence.
 * @typedef {{ now: boolean, seq: number, queue: QueueAnswer, fleet: HostsAnswer, at: number | string }} Then
 */

const SLIDE_MS = 120;
const PRESENT_MS = 1000;
const LISTED = 8;

/**
 * Fleet and queue as of any sequence; without one, as they are.
 * @param {{ last: number }} props
 */
export function Past({ last }) {
  const [seq, choose] = useState(/** @type {number | null} */ (null));
  const [then, show] = useState(/** @type {Then | null} */ (null));
  const questions = useRef(0);
  const shownAt = useRef(0);
  const now = seq === null;
  // biome-ignore lint/correctness/useExhaustiveDependencies: while it shows now, the log's growth asks again
  useEffect(() => {
    const wait = now ? Math.max(SLIDE_MS, shownAt.current + PRESENT_MS - Date.now()) : SLIDE_MS;
    const timer = setTimeout(async () => {
      // An answer that comes after that to a later question is passed by.
      questions.current += 1;
      const mine = questions.current;
      const look = () => world(seq);
      const answer = await (now ? look().catch(() => null) : carryOut(look));
      shownAt.current = Date.now();
      if (answer && mine === questions.current) show(answer);
    }, wait);
    return () => clearTimeout(timer);
  }, [seq, now ? last : 0]);
  const slide = (/** @type {Edit} */ event) => {
    const sequence = Number(event.currentTarget.value);
    choose(sequence >= last ? null : sequence);
  };
  return (
    <Panel
      title="Time slider"
      id="past"
      action={
        <button type="button" onClick={() => choose(null)} disabled={now}>
          Back to now
        </button>
      }
    >
      <label>
        {now ? "Now, at sequence" : "As of sequence"} <b>{count(seq ?? last)}</b> of {count(last)}
        <input type="range" id="time-slider" min="1" max={Math.max(last, 1)} value={seq ?? last} onInput={slide} />
      </label>
      {then ? <World world={then} /> : <Empty>Looking…</Empty>}
    </Panel>
  );
}

/**
 * @param {number | null} seq
 * @returns {Promise<Then>}
 */
async function world(seq) {
  if (seq === null) {
    const [queue, fleet] = await Promise.all([get(`/queue?limit=${LISTED}`), get("/fleet")]);
    return { now: true, seq: queue.seq, queue, fleet, at: Date.now() };
  }
  const [queue, fleet, log] = await Promise.all([
    get(`/queue?at=${seq}&limit=${LISTED}`),
    get(`/fleet?at=${seq}`),
    get(`/events?from=${seq}&limit=1`),
  ]);
  return { now: false, seq, queue, fleet, at: log.events[0]?.event.at };
}

/** @param {{ world: Then }} props */
function World({ world: { now, seq, queue, fleet, at } }) {
  const underWay = Object.values(queue.under_way).reduce((a, b) => a + b, 0);
  return (
    <div id="then" data-seq={seq} data-now={now}>
      <p>
        {now ? "now" : moment(at)}: <b>{count(queue.waiting)}</b> waiting, <b>{count(underWay)}</b> under way
      </p>
      <div class="columns">
        <div>
          <h3>Queue</h3>
          {queue.lanes.length > 0 && (
            <p>
              {queue.lanes.map((lane) => (
                <span class="lane-count">
                  <Tier tier={lane.tier} />
                  {lane.priority}: {count(lane.waiting)}
                </span>
              ))}
            </p>
          )}
          <ul class="list" id="then-waiting">
            {queue.waiting_tasks.map((task) => (
              <Open task={task} />
            ))}
          </ul>
          {queue.waiting > queue.waiting_tasks.length && (
            <p>
              <small>and {count(queue.waiting - queue.waiting_tasks.length)} more that waited</small>
            </p>
          )}
          <ul class="list" id="then-running">
            {queue.running.map((task) => (
              <Open task={task} />
            ))}
          </ul>
          {underWay > queue.running.length && (
            <p>
              <small>and {count(underWay - queue.running.length)} more under way</small>
            </p>
          )}
          {!queue.waiting && !underWay && <Empty>Empty.</Empty>}
        </div>
        <div>
          <h3>Fleet</h3>
          <ul class="list">
            {fleet.tiers.map((tier) => (
              <li>
                <Tier tier={tier.tier} /> {tier.wording}
                {tier.wording_at && ` ${moment(tier.wording_at)}`}
              </li>
            ))}
            {fleet.hosts.map((host) => (
              <li>
                <span class={`badge state-${host.state}`}>{host.state}</span> <Text>{host.host}</Text>:{" "}
                {host.endpoints.filter((each) => each.up).length} of {host.endpoints.length} endpoints up
              </li>
            ))}
          </ul>
        </div>
      </div>
    </div>
  );
}

/** @param {{ task: TaskRow }} props */
const Open = ({ task }) => (
  <li>
    <span class={`badge state-${task.state}`}>{task.state}</span>{" "}
    <a href={`#/task/${task.task_id}`}>
      <Text most={70}>{task.description}</Text>
    </a>
  </li>
);
