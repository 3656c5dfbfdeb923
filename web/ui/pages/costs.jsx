// Costs: by day, model, tier, repo, host; what fallbacks cost, what local work saved.
import { useMemo, useState } from "preact/hooks";
import { carryOut, download, get } from "../api.js";
import { Chart } from "../charts.jsx";
import { count, dollars, plain, savedText } from "../format.js";
import { Empty, Figure, Panel, Scroll, Text } from "../parts.jsx";
import { useTopic } from "../socket.js";

/** @import { Axis, Data } from "../charts.jsx" */
/** @import { CostLine, SavingsAnswer } from "../answers.d.ts" */
/** @import { PageProps, Topics } from "../topics.d.ts" */

const BY = ["day", "model", "tier", "repo", "host", "endpoint", "target", "fallback"];
/** @type {Record<string, string>} what a dimension is called, where that is not its name */
const NAMED = { fallback: "outage", target: "program" };
const SPANS = [
  ["", "everything"],
  ["1", "today"],
  ["7", "7 days"],
  ["30", "30 days"],
];

/** @param {string} days how many, or "" for all */
function since(days) {
  if (!days) return "";
  return new Date(Date.now() - (Number(days) - 1) * 86_400_000).toISOString().slice(0, 10);
}

/** @param {PageProps} props */
export function Costs({ theme }) {
  const [by, setBy] = useState("tier");
  const [days, setDays] = useState("");
  const { data } = useTopic("costs", { by, since: since(days) });
  if (!data) return <Empty>Waiting for the first snapshot…</Empty>;
  const { total } = data;
  return (
    <div class="page">
      <h1 class="sr">Costs</h1>
      <Panel title="Spent">
        <dl class="figures">
          <Figure label="Dollars">{dollars(total.cost_usd)}</Figure>
          <Figure label="Saved against Claude" class="saved">
            {savedText(total.saved_usd)}
          </Figure>
          <Figure label="Runs">{count(total.runs)}</Figure>
          <Figure label="Tokens in">{count(total.tokens_in)}</Figure>
          <Figure label="Tokens out">{count(total.tokens_out)}</Figure>
          <Figure label="Cache read / write">
            {count(total.cache_read_tokens)} / {count(total.cache_write_tokens)}
          </Figure>
        </dl>
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
      <Saved />
      <Days days={data.days} fallback={data.fallback_days} theme={theme} />
      <Panel
        title={`By ${NAMED[by] ?? by}`}
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
              <button type="button" class="chip" aria-pressed={by === each} onClick={() => setBy(each)}>
                {NAMED[each] ?? each}
              </button>
            ))}
          </div>
          <select aria-label="Since" value={days} onChange={(event) => setDays(event.currentTarget.value)}>
            {SPANS.map(([value, title]) => (
              <option value={value}>{title}</option>
            ))}
          </select>
        </div>
        <Lines lines={data.lines} by={data.by} />
      </Panel>
    </div>
  );
}

const CLAUDES = [
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
    <Panel title="What local work saved, against a Claude model of your choice" id="savings">
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

/** @param {{ lines: CostLine[], by: string }} props */
function Lines({ lines, by }) {
  return (
    <Scroll label="Costs">
      <table class="small">
        <thead>
          <tr>
            <th>{capital(NAMED[by] ?? by)}</th>
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
                <Text most={120}>{line.key || "none"}</Text>
              </td>
              <td class="n">{count(line.runs)}</td>
              <td class="n">{count(line.completed)}</td>
              <td class="n">{count(line.tokens_in)}</td>
              <td class="n">{count(line.tokens_out)}</td>
              <td class="n">{count(line.cache_read_tokens + line.cache_write_tokens)}</td>
              <td class="n">{dollars(line.cost_usd)}</td>
              <td class="n saved">{savedText(line.saved_usd)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

const SERIES = [
  { label: "spent", color: "--c-submitted", bars: true },
  { label: "by fallbacks", color: "--c-fb", bars: true },
];

/** @param {{ days: CostLine[], fallback: CostLine[], theme: string }} props */
function Days({ days, fallback, theme }) {
  const data = useMemo(() => {
    /** @type {Record<string, number>} */
    const byFallbacks = Object.fromEntries(fallback.map((line) => [line.key, line.cost_usd]));
    const sorted = [...days].sort((a, b) => a.key.localeCompare(b.key)).slice(-60);
    const spent = sorted.map((line) => line.cost_usd);
    return /** @type {Data} */ ([sorted.map((_, n) => n), spent, sorted.map((line) => byFallbacks[line.key] ?? 0)]);
  }, [days, fallback]);
  const names = [...days]
    .map((line) => line.key.slice(0, 10))
    .sort()
    .slice(-60);
  const every = Math.ceil(names.length / 8);
  /** @type {Axis} */
  const x = {
    splits: () => names.map((_, n) => n).filter((n) => n % every === 0),
    values: (_, ticks) => ticks.map((n) => names[n] ?? ""),
  };
  return (
    <Panel title="By day">
      {days.length ? (
        <Chart
          label="Dollars a day"
          series={SERIES}
          data={data}
          key={names.join()}
          time={false}
          x={x}
          y={{ values: (_, ticks) => ticks.map((n) => `$${n < 1 ? n.toFixed(3) : n}`) }}
          theme={theme}
        />
      ) : (
        <Empty>Nothing was booked yet.</Empty>
      )}
      {fallback.length > 0 && (
        <Scroll label="Fallbacks by day" class="fit">
          <table class="small">
            <thead>
              <tr>
                <th>Day</th>
                <th class="n">Fallback runs</th>
                <th class="n">Dollars</th>
              </tr>
            </thead>
            <tbody>
              {fallback.map((line) => (
                <tr>
                  <td>{line.key}</td>
                  <td class="n">{count(line.runs)}</td>
                  <td class="n">{dollars(line.cost_usd)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
    </Panel>
  );
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
