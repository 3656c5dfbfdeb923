// The past: queue and fleet as they were at any time, over a ribbon of what was done and down.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { get, wordsOf } from "../api.js";
import { fleetOf } from "../fleetlist.js";
import { at as instant, clock, count, duration, moment, plain, local } from "../format.js";
import { Empty, Panel, State, Text, Tier } from "../parts.jsx";
import { useQuery } from "../route.js";
import { losses, outages, throughput } from "../timeline.js";
import { Logged } from "./logged.jsx";

/** @import { HostsAnswer, LoggedEvent, QueueAnswer, TaskRow } from "../answers.d.ts" */
/** @import { Edit } from "../topics.d.ts" */
/** @import { Loss, Outage, Part } from "../timeline.js" */
/**
 * Queue and fleet as they were after a sequence; `at` is its moment, `events` those about it.
 * @typedef {{
 *   now: boolean, seq: number, queue: QueueAnswer, fleet: HostsAnswer, at: number, events: LoggedEvent[],
 * }} Then
 * @typedef {{ from: number, until: number, outages: Outage[], losses: Loss[], parts: Part[] }} Ribbon
 */

const SLIDE_MS = 120;
const PRESENT_MS = 1000;
const AGAIN_MS = 20_000;
const PLAY_MS = 700;
const STEPS = 60; // of a whole play
const BY_KEY = 200; // as many arrow keys go through the whole span
const LISTED = 8;
const HOSTS = 12; // those with a problem first
const ABOUT = 6; // events before the moment, and after it
const PAGES = 5;
/** @type {[string, string, number][]} */
const SPANS = [
  ["1h", "1 hour", 3600_000],
  ["24h", "24 hours", 86_400_000],
  ["7d", "7 days", 7 * 86_400_000],
  ["all", "everything", Number.POSITIVE_INFINITY],
];

/**
 * Fleet and queue as of any moment; without one, as they are.
 * @param {{ last: number }} props
 */
export function Past({ last }) {
  const [{ at, span }, set] = useQuery({ at: "", span: "24h" });
  const [slid, slide] = useState(/** @type {number | null} */ (null)); // before the address says it
  const [then, show] = useState(/** @type {Then | null} */ (null));
  const [wrong, say] = useState("");
  const [plays, play] = useState(false);
  const ribbon = useRibbon(span);
  const questions = useRef(0);
  const shownAt = useRef(0);
  const now = at === "" && slid === null;
  // biome-ignore lint/correctness/useExhaustiveDependencies: while it shows now, the log's growth asks again
  useEffect(() => {
    const wait = now ? Math.max(SLIDE_MS, shownAt.current + PRESENT_MS - Date.now()) : SLIDE_MS;
    const timer = setTimeout(async () => {
      if (slid !== null) {
        set({ at: new Date(slid).toISOString() }, true);
        slide(null);
        return; // the address asks
      }
      // An answer that comes after that to a later question is passed by.
      questions.current += 1;
      const mine = questions.current;
      let answer = null;
      let fault = "";
      try {
        answer = await world(at);
      } catch (error) {
        fault = now ? "" : wordsOf(error);
      }
      shownAt.current = Date.now();
      if (mine !== questions.current) return;
      say(fault);
      if (answer) show(answer);
    }, wait);
    return () => clearTimeout(timer);
  }, [at, slid, now ? last : 0]);
  const from = ribbon?.from ?? Date.now() - 1;
  const until = ribbon?.until ?? Date.now();
  const chosen = slid ?? (at && !/^\d+$/.test(at) ? instant(at) : at ? (then?.at ?? until) : until);
  const here = Number.isNaN(chosen) ? until : Math.max(from, Math.min(until, chosen));
  const go = (/** @type {number} */ when) => {
    if (when < until) slide(Math.max(from, when));
    else {
      slide(null);
      set({ at: "" }, true);
      play(false);
    }
  };
  // The next step comes once this one is shown.
  // biome-ignore lint/correctness/useExhaustiveDependencies: a step for each world that is shown
  useEffect(() => {
    if (!plays) return undefined;
    const timer = setTimeout(() => go((now ? from : here) + (until - from) / STEPS), PLAY_MS);
    return () => clearTimeout(timer);
  }, [plays, then]);
  const start = () => {
    if (!plays && now) slide(from);
    play(!plays);
  };
  return (
    <Panel
      title="The past"
      id="past"
      action={
        <button
          type="button"
          onClick={() => {
            play(false);
            slide(null);
            set({ at: "" });
          }}
          disabled={now}
        >
          Back to now
        </button>
      }
    >
      <div class="filters">
        <div class="chips" role="group" aria-label="Span">
          {SPANS.map(([value, title]) => (
            <button type="button" class="chip" aria-pressed={span === value} onClick={() => set({ span: value })}>
              {title}
            </button>
          ))}
        </div>
        <button type="button" id="play" aria-pressed={plays} onClick={start} disabled={!ribbon}>
          {plays ? "Stop" : "Play"}
        </button>
        <span class="when">
          {now ? "Now" : "At"} <b>{moment(here)}</b>
        </span>
      </div>
      {ribbon && <Band ribbon={ribbon} here={here} />}
      <input
        type="range"
        id="time-slider"
        aria-label="Moment"
        aria-valuetext={now ? "now" : moment(here)}
        min={from}
        max={until}
        step="1"
        value={here}
        onInput={(/** @type {Edit} */ event) => {
          play(false);
          go(Number(event.currentTarget.value));
        }}
        onKeyDown={(/** @type {KeyboardEvent} */ event) => {
          const way = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
          // By itself it would go a millisecond.
          if (!way || event.altKey || event.ctrlKey || event.metaKey) return;
          event.preventDefault();
          play(false);
          go(here + (way * (until - from)) / BY_KEY);
        }}
      />
      {ribbon && <Ends from={ribbon.from} until={ribbon.until} />}
      {ribbon && <Outages ribbon={ribbon} go={go} />}
      {wrong && <p class="bad">{plain(wrong)}</p>}
      {then ? <World world={then} /> : !wrong && <Empty>Looking…</Empty>}
    </Panel>
  );
}

/** What was done and down in a span, asked again from time to time. @param {string} span */
function useRibbon(span) {
  const [ribbon, show] = useState(/** @type {Ribbon | null} */ (null));
  useEffect(() => {
    let over = false;
    const look = () =>
      read(span).then(
        (found) => !over && show(found),
        () => {}, // it is asked again
      );
    look();
    const timer = setInterval(look, AGAIN_MS);
    return () => {
      over = true;
      clearInterval(timer);
    };
  }, [span]);
  return ribbon;
}

/** @param {string} span @returns {Promise<Ribbon>} */
async function read(span) {
  const until = Date.now();
  const length = (SPANS.find(([value]) => value === span) ?? SPANS[1])[2];
  const [first, fleet, stats] = await Promise.all([get("/events?limit=1"), get("/fleet"), get("/stats")]);
  const began = instant(first.events[0]?.event.at) || until - 60_000;
  const from = Math.min(Math.max(began, until - length), until - 1000);
  const since = new Date(from).toISOString();
  const [tiers, hosts, booked] = await Promise.all([
    every("agentcom.evt.tier.*", since),
    every("agentcom.evt.fleet.*", since),
    get(`/costs?${new URLSearchParams({ by: "hour", since })}`),
  ]);
  return {
    from,
    until,
    outages: outages(tiers, fleet.tiers, from, until),
    losses: losses(hosts, from, until),
    parts: throughput(stats.minutes, booked.lines, from, until),
  };
}

/** The events of a subject, from an instant on. @param {string} subject @param {string} since */
async function every(subject, since) {
  /** @type {LoggedEvent[]} */
  const found = [];
  let from = since;
  for (let n = 0; n < PAGES && from; n += 1) {
    const page = await get(`/events?${new URLSearchParams({ subject, from, limit: "1000" })}`);
    found.push(...page.events);
    from = page.next ? String(page.next) : "";
  }
  return found;
}

const HIGH = 40;

/** The ribbon: bars of what ended, and below them what was down. @param {{ ribbon: Ribbon, here: number }} props */
function Band({ ribbon: { from, until, outages: down, losses: lost, parts }, here }) {
  const drawn = useMemo(() => {
    const x = (/** @type {number} */ when) => ((Math.max(from, Math.min(until, when)) - from) / (until - from)) * 1000;
    const most = Math.max(...parts.map((part) => part.done + part.failed), 1);
    const tall = (/** @type {number} */ n) => (n / most) * HIGH;
    return (
      <>
        {parts.map((part) => {
          const width = Math.max(0.5, x(part.until) - x(part.from) - 1);
          return (
            <g>
              <title>{`${moment(part.from)}: ${count(part.done)} completed, ${count(part.failed)} not`}</title>
              <rect class="hit" x={x(part.from)} y="0" width={width} height={HIGH} />
              <rect class="done" x={x(part.from)} y={HIGH - tall(part.done)} width={width} height={tall(part.done)} />
              <rect
                class="failed"
                x={x(part.from)}
                y={HIGH - tall(part.done + part.failed)}
                width={width}
                height={tall(part.failed)}
              />
            </g>
          );
        })}
        {down.map((one) => (
          <rect
            class={one.kind}
            x={x(one.from)}
            y={HIGH + 3}
            width={Math.max(2, x(one.until) - x(one.from))}
            height="6"
          >
            <title>{saidOf(one)}</title>
          </rect>
        ))}
        {lost.map((one) => (
          <rect class="lost" x={x(one.at) - 1.5} y={HIGH + 3} width="3" height="6">
            <title>{`${plain(one.host, 80)} lost ${moment(one.at)}`}</title>
          </rect>
        ))}
      </>
    );
  }, [from, until, down, lost, parts]);
  const done = parts.reduce((sum, part) => sum + part.done, 0);
  const failed = parts.reduce((sum, part) => sum + part.failed, 0);
  const words = `${count(done)} completed, ${count(failed)} not, ${down.length} outages, ${lost.length} hosts lost`;
  return (
    <svg
      class="ribbon"
      viewBox={`0 0 1000 ${HIGH + 10}`}
      preserveAspectRatio="none"
      role="img"
      aria-label={`From ${moment(from)} to ${moment(until)}: ${words}`}
    >
      {drawn}
      <rect
        class="here"
        x={Math.max(0, Math.min(998, ((here - from) / (until - from)) * 1000 - 1))}
        y="0"
        width="2"
        height={HIGH + 10}
      />
    </svg>
  );
}

/** @param {Outage} one */
const saidOf = ({ tier, kind, from, until, lasts, reason }) =>
  `${tier} ${kind} ${moment(from)} ${lasts ? "until now" : `for ${duration(until - from)}`}${
    reason ? `: ${plain(local(reason), 120)}` : ""
  }`;

/** @param {{ from: number, until: number }} props */
const Ends = ({ from, until }) => (
  <p class="ends" aria-hidden="true">
    <small>{moment(from)}</small>
    <small>
      <i class="swatch c-good" />
      completed <i class="swatch c-bad" />
      not, or down <i class="swatch c-fb" />
      limited
    </small>
    <small>{clock(until)}</small>
  </p>
);

/** @param {{ ribbon: Ribbon, go: (when: number) => void }} props */
function Outages({ ribbon: { outages: down, losses: lost, until }, go }) {
  const all = [
    ...down.map((one) => ({ at: Math.ceil((one.from + one.until) / 2), words: saidOf(one) })),
    ...lost.map((one) => ({ at: one.at, words: `host ${plain(one.host, 80)} lost ${moment(one.at)}` })),
  ].sort((a, b) => b.at - a.at);
  if (!all.length) return null;
  return (
    <details>
      <summary>{`${count(down.length)} outage${down.length === 1 ? "" : "s"}, ${count(lost.length)} lost host${
        lost.length === 1 ? "" : "s"
      }`}</summary>
      <ul class="list" id="outages">
        {all.slice(0, 50).map((one) => (
          <li>
            <button type="button" class="link" onClick={() => go(Math.min(one.at, until - 1))}>
              {one.words}
            </button>
          </li>
        ))}
      </ul>
    </details>
  );
}

/**
 * @param {string} at a sequence or an instant, "" for now
 * @returns {Promise<Then>}
 */
async function world(at) {
  if (at === "") {
    const [queue, fleet] = await Promise.all([get(`/queue?limit=${LISTED}`), get("/fleet")]);
    return { now: true, seq: queue.seq, queue, fleet, at: Date.now(), events: [] };
  }
  const queue = await get(`/queue?${new URLSearchParams({ at, limit: String(LISTED) })}`);
  const [fleet, log] = await Promise.all([
    get(`/fleet?at=${queue.seq}`),
    get(`/events?from=${Math.max(1, queue.seq - ABOUT + 1)}&limit=${2 * ABOUT}`),
  ]);
  /** @type {LoggedEvent[]} */
  const events = log.events;
  const last = events.findLast(({ seq }) => seq <= queue.seq);
  const when = /^\d+$/.test(at) ? instant(last?.event.at) : instant(at);
  return { now: false, seq: queue.seq, queue, fleet, at: when, events };
}

/** @param {{ world: Then }} props */
function World({ world: { now, seq, queue, fleet, at, events } }) {
  const underWay = Object.values(queue.under_way).reduce((a, b) => a + b, 0);
  const hosts = fleetOf(fleet.hosts, { text: "", state: "", sort: "problems" });
  return (
    <div id="then" data-seq={seq} data-now={now}>
      <p>
        {now ? "now" : moment(at)}: <b>{count(queue.waiting)}</b> waiting, <b>{count(underWay)}</b> under way
        <small>{`, at sequence ${count(seq)}`}</small>
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
            {hosts.slice(0, HOSTS).map((host) => (
              <li>
                <State state={host.state} /> <Text>{host.host}</Text>
                {`: ${host.endpoints.filter((each) => each.up).length} of ${host.endpoints.length} endpoints up`}
              </li>
            ))}
            {hosts.length > HOSTS && (
              <li>
                <small>{`and ${count(hosts.length - HOSTS)} more hosts`}</small>
              </li>
            )}
          </ul>
        </div>
      </div>
      {events.length > 0 && (
        <>
          <h3>
            Events of that moment <a href={`#/events?from=${Math.max(1, seq - ABOUT)}`}>more</a>
          </h3>
          <ol class="log" id="then-events">
            {events.map((each) => (
              <Logged key={each.seq} logged={each} whole={false} link here={each.seq === seq} />
            ))}
          </ol>
        </>
      )}
    </div>
  );
}

/** @param {{ task: TaskRow }} props */
const Open = ({ task }) => (
  <li>
    <State state={task.state} />{" "}
    <a href={`#/task/${task.task_id}`}>
      <Text most={70}>{task.description}</Text>
    </a>
  </li>
);
