// Events: the log as it is written, with a filter, a pause, and a jump.
import { useEffect, useRef, useState } from "preact/hooks";
import { carryOut, get } from "../api.js";
import { count, plain } from "../format.js";
import { Empty, Panel } from "../parts.jsx";
import { useQuery } from "../route.js";
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

/** A point of the log as the server takes it: a sequence or an instant. @param {string} text */
export function pointOf(text) {
  const said = text.trim();
  if (/^\d+$/.test(said)) return said;
  const date = new Date(said);
  return Number.isNaN(date.getTime()) ? said : date.toISOString();
}

export function Events() {
  const [{ subject, from, json }, set] = useQuery({ subject: ALL, from: "", json: "" });
  const [typed, type] = useState(subject);
  const [paused, pause] = useState(/** @type {LoggedEvent[] | null} */ (null));
  const [past, jump] = useState(/** @type {{ events: LoggedEvent[], next: number | null } | null} */ (null));
  const [goal, setGoal] = useState(from);
  const whole = json !== "";
  const { data, error } = useTopic("events", { subject });
  const asked = useRef(0); // counts what was asked, and each change of what is looked at
  const top = useRef(/** @type {HTMLOListElement | null} */ (null));
  const live = data?.events ?? [];
  const shown = (past?.events ?? paused ?? live).slice(past ? 0 : -SHOWN);
  const newest = past ? shown : [...shown].reverse();
  // The address says what is looked at: the log as it is written, or from somewhere on.
  // biome-ignore lint/correctness/useExhaustiveDependencies: another subject or place begins anew
  useEffect(() => {
    jump(null);
    pause(null);
    type(subject);
    setGoal(from);
    if (from) read(pointOf(from));
    return () => {
      asked.current += 1;
    };
  }, [subject, from]);
  const read = async (/** @type {string} */ from) => {
    asked.current += 1;
    const mine = asked.current;
    const page = await carryOut(() => get(`/events?${new URLSearchParams({ subject, from, limit: "200" })}`));
    // What comes when something else is looked at is passed by.
    if (!page || mine !== asked.current) return;
    jump(page);
    top.current?.scrollTo(0, 0);
  };
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    set({ subject: typed.trim() || ALL, from: "" });
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
          <form
            class="inline"
            onSubmit={(event) => {
              event.preventDefault();
              set({ from: goal.trim() });
            }}
          >
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
            <button type="button" onClick={() => set({ from: "" })}>
              Back to live
            </button>
          )}
          <label class="inline">
            <input type="checkbox" checked={whole} onChange={() => set({ json: whole ? "" : "yes" })} /> JSON
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
