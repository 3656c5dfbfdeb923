// Events: the log as it is written, with a filter, a pause, and a jump.
import { useEffect, useRef, useState } from "preact/hooks";
import { carryOut, get } from "../api.js";
import { count, plain } from "../format.js";
import { Empty, Panel } from "../parts.jsx";
import { useTopic } from "../socket.js";
import { Logged } from "./logged.jsx";

/** @import { LoggedEvent } from "../answers.d.ts" */

const SHOWN = 400;
const ALL = "agentcom.evt.>";
const USUAL = [
  ALL,
  "agentcom.evt.task.*",
  "agentcom.evt.run.>",
  "agentcom.evt.host.*",
  "agentcom.evt.tier.*",
  "agentcom.evt.policy",
  "agentcom.evt.scheduler",
  "agentcom.evt.fleet.*",
];

export function Events() {
  const [typed, type] = useState(ALL);
  const [subject, follow] = useState(ALL);
  const [paused, pause] = useState(/** @type {LoggedEvent[] | null} */ (null));
  const [past, jump] = useState(/** @type {{ events: LoggedEvent[], next: number | null } | null} */ (null));
  const [whole, show] = useState(false);
  const [goal, setGoal] = useState("");
  const { data, error } = useTopic("events", { subject });
  const top = useRef(/** @type {HTMLOListElement | null} */ (null));
  const live = data?.events ?? [];
  const shown = (past?.events ?? paused ?? live).slice(past ? 0 : -SHOWN);
  const newest = past ? shown : [...shown].reverse();
  // biome-ignore lint/correctness/useExhaustiveDependencies: another subject ends a pause and a jump
  useEffect(() => {
    jump(null);
    pause(null);
  }, [subject]);
  const go = async (/** @type {Event} */ event) => {
    event.preventDefault();
    await read(/^\d+$/.test(goal.trim()) ? goal.trim() : new Date(goal).toISOString());
  };
  const read = async (/** @type {string} */ from) => {
    const page = await carryOut(() => get(`/events?${new URLSearchParams({ subject, from, limit: "200" })}`));
    if (page) jump(page);
    top.current?.scrollTo(0, 0);
  };
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    follow(typed.trim() || ALL);
  };
  return (
    <div class="page">
      <h1 class="sr">Events</h1>
      <Panel>
        <div class="filters">
          <form class="inline" onSubmit={submit}>
            <input
              list="subjects"
              id="subject-filter"
              class="mono"
              aria-label="Subject pattern"
              value={typed}
              onInput={(event) => type(event.currentTarget.value)}
            />
            <datalist id="subjects">
              {USUAL.map((each) => (
                <option value={each} />
              ))}
            </datalist>
            <button type="submit">Filter</button>
          </form>
          <button type="button" id="pause" aria-pressed={paused !== null} onClick={() => pause(paused ? null : live)}>
            {paused
              ? `Go on (${count(live.filter((each) => each.seq > (paused.at(-1)?.seq ?? 0)).length)} new)`
              : "Pause"}
          </button>
          <form class="inline" onSubmit={go}>
            <input
              id="jump"
              aria-label="Sequence or time"
              placeholder="sequence, or 2026-01-31 12:00"
              value={goal}
              onInput={(event) => setGoal(event.currentTarget.value)}
            />
            <button
              type="submit"
              disabled={!goal.trim() || (!/^\d+$/.test(goal.trim()) && Number.isNaN(Date.parse(goal)))}
            >
              Jump
            </button>
          </form>
          {past && (
            <button type="button" onClick={() => jump(null)}>
              Back to live
            </button>
          )}
          <label class="inline">
            <input type="checkbox" checked={whole} onChange={() => show(!whole)} /> JSON
          </label>
        </div>
        {error && <p class="bad">{plain(error.error)}</p>}
        <ol class="log tall" id="events" ref={top} tabindex={0} aria-label="Events">
          {newest.map((each) => (
            <Logged key={each.seq} logged={each} whole={whole} link />
          ))}
        </ol>
        {past?.next && (
          <button type="button" onClick={() => read(String(past.next))}>
            Further
          </button>
        )}
        {!newest.length && <Empty>No event on this subject yet.</Empty>}
      </Panel>
    </div>
  );
}
