// Costs: who spent how much on what, how that changed, and what local work saved.
import { useEffect, useMemo, useState } from "preact/hooks";
import { carryOut, download, get } from "../api.js";
import { burn as rate, spentAt } from "../burn.js";
import { Chart } from "../charts.jsx";
import { atLeast, clock, count, dollars, moment, plain, savedText } from "../format.js";
import { Empty, Figure, Panel, Scroll, Text } from "../parts.jsx";
import { tasksLike, useQuery } from "../route.js";
import { useNow, useTopic } from "../socket.js";

/** @import { Axis, Data, Series } from "../charts.jsx" */
/** @import { CostLine, SavingsAnswer } from "../answers.d.ts" */
/** @import { PageProps, Topics } from "../topics.d.ts" */

const BY = ["submitter", "day", "model", "tier", "repo", "host", "endpoint", "target", "fallback"];
/** @type {Record<string, string>} what a dimension is called, where that is not its name */
const NAMED = { fallback: "outage", target: "program" };
/** @type {Record<string, string>} by which field of the filter a row's tasks are found */
const LEADS = { submitter: "submitter", model: "model", tier: "tier", repo: "repo", host: "host" };
const SPANS = [
  ["1", "today"],
  ["7", "7 days"],
  ["30", "30 days"],
  ["", "everything"],
];

const ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone;

/** When a span begins: at midnight where the reader is. @param {string} days how many, or "" for all */
function since(days) {
  if (!(Number(days) > 0)) return "";
  const date = new Date();
  date.setHours(0, 0, 0, 0);
  date.setDate(date.getDate() - (Number(days) - 1));
  return date.toISOString();
}

/** @param {PageProps} props */
export function Costs({ theme }) {
  const [{ by, days, label }, set] = useQuery({ by: "tier", days: "", label: "" });
  const from = since(days);
  const labels = label.split(/[\s,]+/).filter(Boolean);
  const { data, error } = useTopic("costs", {
    ...{ by, since: from },
    ...(labels.length ? { label: labels } : {}),
    ...(ZONE === "UTC" ? {} : { tz: ZONE }),
  });
  const { data: status } = useTopic("status");
  const [typed, type] = useState(by.startsWith("label:") ? by.slice(6) : "");
  if (error)
    return (
      <div class="page">
        <p class="bad">{plain(error.error)}</p>
        <p>
          <a href="#/costs">All costs</a>
        </p>
      </div>
    );
  if (!data) return <Empty>Waiting for the first snapshot…</Empty>;
  const { total } = data;
  return (
    <div class="page">
      <h1 class="sr">Costs</h1>
      <div class="filters">
        <div class="chips" role="group" aria-label="Span">
          {SPANS.map(([value, title]) => (
            <button type="button" class="chip" aria-pressed={days === value} onClick={() => set({ days: value })}>
              {title}
            </button>
          ))}
        </div>
        {from && <small>{`since ${moment(from)}, in ${ZONE}`}</small>}
        {label && (
          <button type="button" class="chip" title="Leave this out" onClick={() => set({ label: "" })}>
            {`${plain(label, 80)} ✕`}
          </button>
        )}
      </div>
      <Panel title="Spent">
        <Figures data={data} simulated={(status?.simulated.length ?? 0) > 0} />
        {total.unpriced > 0 && (
          <p class="bad">{count(total.unpriced)} runs could not be priced; they are not in the dollars.</p>
        )}
        {data.prices.price_list && (
          <p>
            <small>
              Priced by{" "}
              <b>
                <Text>{data.prices.price_list}</Text>
              </b>
              {data.prices.equivalent_model && (
                <>
                  ; savings are against{" "}
                  <b>
                    <Text>{data.prices.equivalent_model}</Text>
                  </b>{" "}
                  (the policy's equivalent_model)
                </>
              )}
              . Each run keeps the price list it was booked with.
            </small>
          </p>
        )}
      </Panel>
      {data.burn && <Burn burn={data.burn} />}
      <Times lines={data.times} theme={theme} />
      <Panel
        title={`By ${by.startsWith("label:") ? `label ${plain(by.slice(6), 60)}` : (NAMED[by] ?? by)}`}
        id="costs-by"
        action={
          <button type="button" onClick={() => save(data)}>
            Download CSV
          </button>
        }
      >
        <div class="filters">
          <div class="chips" role="group" aria-label="By">
            {BY.map((each) => (
              <button type="button" class="chip" aria-pressed={by === each} onClick={() => set({ by: each })}>
                {NAMED[each] ?? each}
              </button>
            ))}
          </div>
          <form
            class="inline"
            onSubmit={(event) => {
              event.preventDefault();
              set({ by: typed.trim() ? `label:${typed.trim()}` : "tier" });
            }}
          >
            <input
              class="short"
              placeholder="label, team"
              aria-label="By label"
              value={typed}
              onInput={(event) => type(event.currentTarget.value)}
            />
            <button type="submit" aria-pressed={by.startsWith("label:")}>
              By label
            </button>
          </form>
        </div>
        <Lines lines={data.lines} total={total} by={data.by} from={from} label={label} />
      </Panel>
      <Saved />
    </div>
  );
}

/** How fast it goes, and how long budgets last. @param {{ burn: NonNullable<Topics["costs"]["burn"]> }} props */
function Burn({ burn }) {
  const now = useNow(30_000);
  const { day, hour, month } = useMemo(() => rate(burn.hours, now), [burn.hours, now]);
  const { escalated_usd: escalated, budget_usd: budget, task_budget_usd: each } = burn;
  const when = budget ? spentAt(escalated, budget, now) : null;
  return (
    <Panel title="Budget and burn" id="burn">
      <dl class="figures">
        <Figure label="The last 24 hours">{dollars(day)}</Figure>
        <Figure label="An hour, on average">{dollars(hour)}</Figure>
        <Figure label="A month, at that rate">{dollars(month)}</Figure>
        <Figure label="Escalations today, UTC">
          {dollars(escalated)}
          {budget !== null && (
            <small class="below">
              of {dollars(budget)}
              <span
                class="meter"
                role="meter"
                aria-label="Spent"
                aria-valuemin={0}
                aria-valuemax={budget}
                aria-valuenow={Math.min(escalated, budget)}
              >
                <i
                  style={{ width: `${Math.min(100, (escalated / (budget || 1)) * 100)}%` }}
                  class={escalated >= budget ? "full" : ""}
                />
              </span>
              {escalated >= budget
                ? "spent: no more of them today"
                : when === null
                  ? "lasts the day at that rate"
                  : `spent about ${clock(when)} at that rate`}
            </small>
          )}
          {budget === null && <small class="below">no budget is set</small>}
        </Figure>
        <Figure label="A task may cost">{each === null ? "anything" : dollars(each)}</Figure>
      </dl>
      <p>
        <small>
          Budgets are parts of the <a href="#/routing">policy</a>: escalation_budget_usd_per_day,
          max_budget_usd_per_task.
        </small>
      </p>
    </Panel>
  );
}

/** @param {CostLine[] | undefined} lines @param {string[]} [keys] */
const spent = (lines, keys) =>
  (lines ?? []).reduce((sum, line) => sum + (keys && !keys.includes(line.key) ? 0 : line.estimated_cost_usd), 0);

/** @param {{ data: Topics["costs"], simulated: boolean }} props */
function Figures({ data, simulated }) {
  const { total, targets, before, fallbacks, fallbacks_before: earlier } = data;
  const saved = (before ?? []).reduce((sum, line) => sum + line.saved_usd, 0);
  const claude = ["claude"];
  return (
    <dl class="figures">
      <Figure label="Spent">
        {atLeast(dollars(total.estimated_cost_usd), total.unpriced)}
        <Change now={total.estimated_cost_usd} then={before && spent(before)} />
      </Figure>
      <Figure label="On Claude">
        {dollars(spent(targets, claude))}
        <Change now={spent(targets, claude)} then={before && spent(before, claude)} />
      </Figure>
      <Figure label="By fallbacks">
        {dollars(spent(fallbacks))}
        <Change now={spent(fallbacks)} then={earlier && spent(earlier)} />
      </Figure>
      <Figure label="Saved against Claude" class="saved">
        {savedText(total.saved_usd)}
        <Change now={total.saved_usd} then={before && saved} good />
      </Figure>
      {simulated && <WouldBe model={data.prices.equivalent_model ?? CLAUDES[0]} runs={total.runs} />}
      <Figure label="Runs">{count(total.runs)}</Figure>
      <Figure label="Tokens in / out">
        {atLeast(count(total.tokens_in), total.unknown_tokens)} /{" "}
        {atLeast(count(total.tokens_out), total.unknown_tokens)}
      </Figure>
    </dl>
  );
}

/**
 * How a figure has changed against the span before; `good` where more is better.
 * @param {{ now: number, then?: number, good?: boolean }} props
 */
function Change({ now, then, good = false }) {
  if (then === undefined) return null;
  if (!then) return <small class="below">{now ? "nothing the span before" : "as the span before"}</small>;
  const change = (now - then) / then;
  const name = Math.abs(change) < 0.005 ? "absent" : change > 0 === good ? "saved" : "bad";
  return (
    <small class={`below ${name}`} title={`${dollars(then)} the span before`}>
      {Math.abs(change) < 0.005
        ? "as the span before"
        : `${change > 0 ? "▲" : "▼"} ${count(Math.round(Math.abs(change) * 100))} % against the span before`}
    </small>
  );
}

/**
 * What simulated local work would have saved: nothing of it is booked.
 * @param {{ model: string, runs: number }} props
 */
export function WouldBe({ model, runs }) {
  const [usd, set] = useState(/** @type {number | null} */ (null));
  // Asked again as the books grow, not with each run of many.
  const step = Math.ceil(runs / 10);
  // biome-ignore lint/correctness/useExhaustiveDependencies: `step` asks again
  useEffect(() => {
    let over = false;
    get(`/savings?${new URLSearchParams({ model })}`).then(
      (/** @type {SavingsAnswer} */ answer) => !over && set(answer.simulated_usd ?? 0),
      () => {},
    );
    return () => {
      over = true;
    };
  }, [model, step]);
  if (usd === null) return null;
  return (
    <Figure label="Would be saved">
      {savedText(usd)}
      <small class="below">
        <span class="badge simulated">simulated</span> against {plain(model, 60)}, ever
      </small>
    </Figure>
  );
}

export const CLAUDES = [
  "claude-sonnet-4-5",
  "claude-opus-4-5",
  "claude-haiku-4-5",
  "claude-opus-4-1",
  "claude-3-5-haiku-latest",
];

function Saved() {
  const [model, choose] = useState(CLAUDES[0]);
  const [answer, show] = useState(/** @type {SavingsAnswer | null} */ (null));
  const ask = async (/** @type {Event} */ event) => {
    event.preventDefault();
    show(await carryOut(() => get(`/savings?${new URLSearchParams({ model })}`)));
  };
  return (
    <Panel title="What local work has saved ever, against a Claude model of your choice" id="savings">
      <form class="filters" onSubmit={ask}>
        <input
          list="claudes"
          class="mono"
          aria-label="Claude model"
          value={model}
          onInput={(event) => choose(event.currentTarget.value)}
        />
        <datalist id="claudes">
          {CLAUDES.map((each) => (
            <option value={each} />
          ))}
        </datalist>
        <button type="submit" disabled={!model.trim()}>
          Compare
        </button>
        {answer && (
          <span>
            <b class="saved">{savedText(answer.saved_usd)}</b> on <Text>{answer.model}</Text> by{" "}
            <Text>{answer.price_list}</Text>; {savedText(answer.booked_usd)} as booked
            {answer.unpriced > 0 && <span class="bad">; {count(answer.unpriced)} runs without a price</span>}
          </span>
        )}
      </form>
    </Panel>
  );
}

/** @param {string} text */
const capital = (text) => text[0].toUpperCase() + text.slice(1);

/** @param {{ lines: CostLine[], total: CostLine, by: string, from: string, label: string }} props */
function Lines({ lines, total, by, from, label }) {
  const most = Math.max(...lines.map((line) => line.estimated_cost_usd), 0) || 1;
  const leads = (/** @type {string} */ key) => {
    if (by.startsWith("label:"))
      return key && tasksLike({ label: `${by.slice(6)}=${key} ${label}`.trim(), since: from });
    return LEADS[by] && key && tasksLike({ [LEADS[by]]: key, since: from, label });
  };
  const cells = (/** @type {CostLine} */ line) => (
    <>
      <td class="n">{count(line.runs)}</td>
      <td class="n">{count(line.completed)}</td>
      <td class="n">{atLeast(count(line.tokens_in), line.unknown_tokens)}</td>
      <td class="n">{atLeast(count(line.tokens_out), line.unknown_tokens)}</td>
      <td class="n">{count(line.cache_read_tokens + line.cache_write_tokens)}</td>
      <td class="n">{atLeast(dollars(line.estimated_cost_usd), line.unpriced)}</td>
      <td class="n saved">{savedText(line.saved_usd)}</td>
    </>
  );
  return (
    <Scroll label="Costs">
      <table class="small">
        <thead>
          <tr>
            <th>{by.startsWith("label:") ? plain(by, 60) : capital(NAMED[by] ?? by)}</th>
            <th>
              <span class="sr">Share</span>
            </th>
            <th class="n">Runs</th>
            <th class="n">Completed</th>
            <th class="n">Tokens in</th>
            <th class="n">Tokens out</th>
            <th class="n">Cache</th>
            <th class="n">Dollars</th>
            <th class="n">Saved</th>
          </tr>
        </thead>
        <tbody>
          {lines.map((line) => (
            <tr>
              <td>
                {leads(line.key) ? (
                  <a href={leads(line.key)}>
                    <Text most={120}>{line.key}</Text>
                  </a>
                ) : (
                  <Text most={120}>{line.key || "none"}</Text>
                )}
              </td>
              <td class="share" aria-hidden="true">
                <span class="meter">
                  <i style={{ width: `${(line.estimated_cost_usd / most) * 100}%` }} />
                </span>
              </td>
              {cells(line)}
            </tr>
          ))}
        </tbody>
        <tfoot>
          <tr>
            <th colspan={2}>In all</th>
            {cells(total)}
          </tr>
        </tfoot>
      </table>
    </Scroll>
  );
}

/** @type {[string, string, string][]} program, name, colour */
const PARTS = [
  ["claude", "Claude", "--complex-bar"],
  ["agent", "agents", "--c-fb"],
  ["openai", "OpenAI-compatible", "--c-good"],
  ["ollama", "Ollama", "--c-submitted"],
];

/** Dollars by day or hour, one part on top of the other. @param {{ lines: CostLine[], theme: string }} props */
function Times({ lines, theme }) {
  const hourly = lines.some(({ key }) => key.length > 10);
  const { data, series, names, values } = useMemo(() => stacked(lines), [lines]);
  const every = Math.ceil(names.length / 8);
  /** @type {Axis} */
  const x = {
    splits: () => names.map((_, n) => n).filter((n) => n % every === 0),
    values: (_, ticks) => ticks.map((n) => names[n] ?? ""),
  };
  return (
    <Panel title={hourly ? "By hour" : "By day"}>
      {names.length ? (
        <Chart
          label={hourly ? "Dollars an hour" : "Dollars a day"}
          series={series}
          data={data}
          key={names.join() + series.length}
          time={false}
          x={x}
          y={{ values: (_, ticks) => ticks.map((n) => `$${n < 1 ? n.toFixed(3) : n}`) }}
          theme={theme}
          told={(n) => values[n] ?? ""}
        />
      ) : (
        <Empty>Nothing was booked yet.</Empty>
      )}
    </Panel>
  );
}

/** @param {CostLine[]} lines */
function stacked(lines) {
  const keys = [...new Set(lines.map(({ key }) => key))].sort().slice(-72);
  const names = keys.map(timeOf);
  const parts = PARTS.filter(([part]) => lines.some((line) => line.part === part && line.estimated_cost_usd));
  const shown = parts.length ? parts : PARTS.slice(0, 1);
  const usd = (/** @type {string} */ key, /** @type {string} */ part) =>
    lines.find((line) => line.key === key && line.part === part)?.estimated_cost_usd ?? 0;
  // Each stands on those behind it, and is drawn before them.
  const sums = shown.map((_, n) => keys.map((key) => shown.slice(n).reduce((sum, [part]) => sum + usd(key, part), 0)));
  const series = /** @type {Series[]} */ (shown.map(([, label, color]) => ({ label, color, bars: true })));
  const values = keys.map(
    (key, n) => `${names[n]}: ${shown.map(([part, label]) => `${label} ${dollars(usd(key, part))}`).join(", ")}`,
  );
  return { data: /** @type {Data} */ ([keys.map((_, n) => n), ...sums]), series, names, values };
}

/** A day as it is, an hour where the reader is. @param {string} key "2026-01-31" or "2026-01-31T12" */
function timeOf(key) {
  if (key.length <= 10) return key;
  const date = new Date(`${key.slice(0, 13)}:00:00Z`);
  return date.toLocaleString([], { day: "numeric", month: "short", hour: "2-digit" });
}

/**
 * A cell that begins like a formula would be run by a spreadsheet.
 * @param {unknown} value
 */
function cell(value) {
  const text = String(value);
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return `"${safe.replaceAll('"', '""')}"`;
}

/** @param {Topics["costs"]} data */
function save(data) {
  const names = /** @type {(keyof CostLine)[]} */ (Object.keys(data.total));
  const rows = [names, ...[...data.lines, data.total].map((line) => names.map((name) => line[name]))];
  download(
    `agentcom-costs-by-${plain(data.by)}.csv`,
    rows.map((row) => row.map(cell).join(",")).join("\r\n"),
    "text/csv",
  );
}
