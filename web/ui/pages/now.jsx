// Now: what runs, what waits, what is wrong, and what today has cost.
import { useMemo } from "preact/hooks";
import { Attention, useAttention } from "../attention.jsx";
import { Chart, Spark } from "../charts.jsx";
import { PRIORITIES, TIERS, age, at, atLeast, clock, count, dollars, duration, plain, savedText } from "../format.js";
import { settled } from "../log/terminal.js";
import { Empty, Fallback, Figure, Panel, Scroll, Simulated, State, Text, Tier, Said } from "../parts.jsx";
import { useNow, useTopic } from "../socket.js";
import { CLAUDES, WouldBe } from "./costs.jsx";

/** @import { LaneView } from "../answers.d.ts" */
/** @import { Axis, Data } from "../charts.jsx" */
/** @import { LastHour, Minutes, Overview, PageProps, Topics } from "../topics.d.ts" */
/** @typedef {Topics["tails"]["tails"]} Tails by task */
/** @typedef {Tails[string][number]} Line */

/** @param {PageProps} props */
export function Now({ operator, theme, submit }) {
  const { data } = useTopic("overview");
  const { data: live } = useTopic("tails");
  const { data: status } = useTopic("status");
  const rows = useAttention();
  const now = useNow();
  if (!data) return <Empty>Waiting for the first snapshot…</Empty>;
  return (
    <div class="page">
      <h1 class="sr">Now</h1>
      <Attention rows={rows} now={now} operator={operator} />
      <Strip data={data} now={now} />
      <Queue data={data} now={now} />
      <Running data={data} tails={live?.tails ?? {}} now={now} operator={operator} submit={submit} />
      <Charts data={data} now={now} theme={theme} />
      <Money data={data} simulated={(status?.simulated.length ?? 0) > 0} />
    </div>
  );
}

/** @param {Overview["tiers"][number]} tier @param {number} now A limit ends by the clock, without news. */
const byTheClock = (tier, now) =>
  tier.condition === "limited" && at(tier.wording_at) <= now
    ? { ...tier, condition: "up", wording: "up", wording_at: "" }
    : tier;

/**
 * Tiers and hosts in one strip: how they stand, and how the last hour went.
 * @param {{ data: Overview, now: number }} props
 */
function Strip({ data, now }) {
  const { curves, hosts } = data;
  return (
    <section class="panel strip" aria-label="Tiers and hosts">
      <div class="tiers">
        {data.tiers
          .map((tier) => byTheClock(tier, now))
          .map((tier) => {
            const busy = tier.slots - tier.free;
            const waits = data.wait[tier.tier];
            return (
              <article class={`tier-card ${tier.condition}`} id={`tier-${tier.tier}`}>
                <p>
                  <Tier tier={tier.tier} />
                  <b>{[tier.wording, tier.wording_at && clock(tier.wording_at)].join(" ").trim()}</b>
                  {tier.condition === "down" && tier.reason && (
                    <small>
                      {" "}
                      <Said most={200}>{tier.reason}</Said>
                    </small>
                  )}
                </p>
                <p class="curve">
                  <span>{tier.slots ? `${count(busy)} of ${count(tier.slots)} in use` : "no slots"}</span>
                  <Spark
                    values={curves.busy[tier.tier]}
                    most={tier.slots}
                    label={`Slots of ${tier.tier} in use, last hour`}
                  />
                </p>
                <p class="curve">
                  <span>{waits ? `wait p50 ${duration(waits.p50_ms)}` : "no waits"}</span>
                  <Spark
                    values={curves.wait[tier.tier]}
                    label={`Half of the waits for ${tier.tier}, last hour`}
                    color="--c-fb"
                  />
                </p>
              </article>
            );
          })}
      </div>
      <ul class="hosts" aria-label="Hosts">
        {hosts.first.map((host) => (
          <li class={host.state !== "up" || host.wrong ? "wrong" : ""} key={host.host}>
            <a href={`#/fleet/${encodeURIComponent(host.host)}`}>
              <Text most={40}>{host.host}</Text>
            </a>
            {host.state !== "up" && <State state={host.state} />}
            {host.state === "up" && host.wrong !== 0 && (
              <span class="badge state-down">
                {typeof host.wrong === "number" ? `${host.wrong} down` : plain(host.wrong, 40)}
              </span>
            )}
            <small>{`${count(host.in_flight)}/${count(host.slots)}`}</small>
            <Spark
              values={curves.hosts[host.host]}
              most={host.slots}
              label={`Slots of ${plain(host.host, 40)} in use, last hour`}
            />
          </li>
        ))}
        {hosts.total > hosts.first.length && (
          <li>
            <a href="#/fleet">{`${count(hosts.total - hosts.first.length)} more`}</a>
          </li>
        )}
        {!hosts.total && <li>No host is here.</li>}
      </ul>
    </section>
  );
}

/**
 * When the first of a lane expires, if nothing can take it before.
 * @param {LaneView} lane
 * @param {Overview} data
 * @param {number} now
 */
function expiry(lane, data, now) {
  const due = data.expiring[`${lane.tier}/${lane.priority}`];
  if (!due) return "–";
  return due > now ? duration(due - now) : "about to";
}

/** @param {{ data: Overview, now: number }} props */
function Queue({ data, now }) {
  const lanes = [...data.lanes].sort(
    (a, b) =>
      TIERS.indexOf(a.tier) - TIERS.indexOf(b.tier) || PRIORITIES.indexOf(a.priority) - PRIORITIES.indexOf(b.priority),
  );
  return (
    <Panel title={`Queue: ${count(data.waiting)} waiting`} id="queue">
      {lanes.length ? (
        <Scroll label="Queue" class="fit">
          <table>
            <thead>
              <tr>
                <th>Tier</th>
                <th>Priority</th>
                <th class="n">Waiting</th>
                <th class="n">Oldest</th>
                <th class="n" title="The first of them, if nothing can take it before">
                  Expires in
                </th>
              </tr>
            </thead>
            <tbody>
              {lanes.map((lane) => (
                <tr>
                  <td>
                    <Tier tier={lane.tier} />
                  </td>
                  <td>{lane.priority}</td>
                  <td class="n">{count(lane.waiting)}</td>
                  <td class="n">{age(lane.oldest?.waiting_since, now)}</td>
                  <td class="n">{expiry(lane, data, now)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      ) : (
        <Empty>Nothing waits.</Empty>
      )}
    </Panel>
  );
}

/**
 * Last lines as a terminal shows them; one that has not begun takes no room.
 * @param {Line[]} lines @returns {Line[]}
 */
function tailOf(lines) {
  /** @type {Line[]} */
  const runs = [];
  for (const { type, text } of lines) {
    const last = runs.at(-1);
    if (last?.type === type) last.text += `\n${text}`;
    else runs.push({ type, text });
  }
  return runs.flatMap(({ type, text }) => settled(text, 4).map((each) => ({ type, text: each }))).slice(-4);
}

/** @param {{ data: Overview, tails: Tails, now: number, operator: boolean, submit: () => void }} props */
function Running({ data, tails, now, operator, submit }) {
  const total = Object.values(data.under_way).reduce((a, b) => a + b, 0);
  return (
    <Panel
      title={`Running: ${count(total)}`}
      id="running"
      action={total > data.running.length && <a href="#/tasks/running">all of them</a>}
    >
      {data.running.length ? (
        <div class="cards">
          {data.running.map((task) => (
            <article class="card" key={task.task_id}>
              <header>
                <Tier tier={task.tier} />
                <Fallback task={task} />
                <State state={task.state} />
                <small class="push">{age(task.started_at || task.routed_at, now)}</small>
              </header>
              <a href={`#/task/${task.task_id}`} class="title">
                <Text most={140}>{task.description}</Text>
              </a>
              <small>
                <Text>{[task.host, task.endpoint, task.model].filter(Boolean).join(" · ")}</Text>{" "}
                <Simulated on={task.simulated} />
              </small>
              <div class="tail" aria-hidden="true">
                {tailOf(tails[task.task_id] ?? []).map((line) => (
                  <div class={line.type}>{plain(line.text, 400) || " "}</div>
                ))}
              </div>
            </article>
          ))}
        </div>
      ) : (
        <Empty>
          Nothing runs.{" "}
          {operator && (
            <button type="button" class="link" onClick={() => submit()}>
              Submit a task
            </button>
          )}
        </Empty>
      )}
    </Panel>
  );
}

/** @type {("submitted" | "completed" | "failed")[]} */
const COUNTED = ["submitted", "completed", "failed"];
const THROUGHPUT = [
  { label: "submitted", color: "--c-submitted" },
  { label: "completed", color: "--c-good" },
  { label: "failed", color: "--c-bad" },
];

/**
 * @param {Minutes} minutes
 * @param {number} now
 * @returns {Data}
 */
function hour(minutes, now) {
  const last = Math.floor(now / 60000);
  const xs = Array.from({ length: 60 }, (_, n) => (last - 59 + n) * 60);
  const each = xs.map((x) => minutes[new Date(x * 1000).toISOString().slice(0, 16)] ?? {});
  return [xs, ...COUNTED.map((name) => each.map((minute) => minute[name] ?? 0))];
}

/**
 * @param {LastHour} durations
 * @param {number[]} edges
 * @returns {Data}
 */
function spread(durations, edges) {
  const counts = edges.map((_, n) => TIERS.reduce((sum, tier) => sum + (durations[tier]?.counts[n] ?? 0), 0));
  return [edges.map((_, n) => n), counts.map((n) => n || null)]; // no bar where there is nothing
}
const EDGES = Array.from({ length: 27 }, (_, n) => 2 ** n / 4);
const BARS = [{ label: "tasks", color: "--c-submitted", bars: true }];
/** @type {Record<number, string>} */
const ROUND = { 2: "1 ms", 6: "16 ms", 10: "¼ s", 14: "4 s", 18: "1 min", 22: "17 min", 26: "hours" };
const CROWDED = 320; // below so many pixels they would run into each other
/** @type {Axis} */
const POWERS = {
  splits: () => Object.keys(ROUND).map(Number),
  values: (plot, ticks) => ticks.map((n, at) => (plot.width < CROWDED && at % 2 ? "" : (ROUND[n] ?? ""))),
};

/** @param {{ data: Overview, now: number, theme: string }} props */
function Charts({ data, now, theme }) {
  const tick = Math.floor(now / 10_000);
  const through = useMemo(() => hour(data.minutes, tick * 10_000), [data.minutes, tick]);
  const wait = useMemo(() => spread(data.wait, EDGES), [data.wait]);
  const run = useMemo(() => spread(data.run, EDGES), [data.run]);
  return (
    <Panel title="The last hour" id="last-hour">
      <div class="charts">
        <Chart label="Tasks a minute, last hour" series={THROUGHPUT} data={through} whole theme={theme} />
        <Chart
          label={`Wait until started, last hour (${summed(data.wait)})`}
          series={BARS}
          data={wait}
          x={POWERS}
          time={false}
          whole
          theme={theme}
        />
        <Chart
          label={`Run time, last hour (${summed(data.run)})`}
          series={BARS}
          data={run}
          x={POWERS}
          time={false}
          whole
          theme={theme}
        />
      </div>
    </Panel>
  );
}

/** @param {LastHour} durations */
function summed(durations) {
  const tiers = TIERS.filter((tier) => durations[tier]?.n);
  const total = tiers.reduce((sum, tier) => sum + durations[tier].n, 0);
  const halves = tiers.map((tier) => `${tier} ${duration(durations[tier].p50_ms)}`).join(", ");
  return `${count(total)} task${total === 1 ? "" : "s"}${halves && `, half within: ${halves}`}`;
}

/** @param {{ data: Overview, simulated: boolean }} props */
function Money({ data, simulated }) {
  const { today, ever } = data;
  const fallbacks = today.lines.filter((line) => line.key && line.key !== "none" && line.key !== "false");
  const cost = fallbacks.reduce((sum, line) => sum + line.estimated_cost_usd, 0);
  return (
    <Panel title="Money and totals" action={<a href="#/costs">all costs</a>}>
      <dl class="figures">
        <Figure label="Today">{atLeast(dollars(today.total.estimated_cost_usd), today.total.unpriced)}</Figure>
        <Figure label="Saved against Claude" class="saved">
          {savedText(today.total.saved_usd)}
        </Figure>
        {simulated && <WouldBe model={CLAUDES[0]} runs={ever.total.runs} />}
        <Figure label="Cost of fallbacks today">{dollars(cost)}</Figure>
        <Figure label="In all">{atLeast(dollars(ever.total.estimated_cost_usd), ever.total.unpriced)}</Figure>
        {TIERS.map((tier) => (
          <Figure label={`Routed to ${tier}`}>{count(data.decisions[tier])}</Figure>
        ))}
        <Figure label="Fallbacks">
          {count(data.fallbacks.count)}{" "}
          <small class="below">
            {Object.entries(data.fallbacks.hops)
              .map(([hop, n]) => `${hop.replace("->", " → ")}: ${n}`)
              .join(", ")}
          </small>
        </Figure>
      </dl>
    </Panel>
  );
}
