// Tasks: however many there are, the table holds the rows that are looked at.
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { carryOut, post } from "../api.js";
import { Bulk } from "../bulk.jsx";
import {
  FINAL,
  STATES,
  TIERS,
  age,
  allTokens,
  at,
  count,
  dollars,
  duration,
  guess,
  plain,
  shortId,
  local,
} from "../format.js";
import { heldFor } from "../held.js";
import { Empty, Fallback, Simulated, State, Text, Tier } from "../parts.jsx";
import { useQuery, useTitle } from "../route.js";
import { SavedViews } from "../savedviews.jsx";
import { useNow, useTopic } from "../socket.js";
import { TaskList } from "../tasklist.js";

/** @import { TaskRow } from "../answers.d.ts" */
/** @import { Edit, PageProps } from "../topics.d.ts" */

const ROW = 48; // px, as in the style sheet
const WINDOW = 80;
const STEP = 20;
const TYPING = 30; // ms
const NARROW = matchMedia("(max-width: 700px)");
const rowHeight = () => (NARROW.matches ? 92 : ROW);

/** @typedef {typeof USUAL} Filter */
/**
 * @typedef {{
 *   task: TaskRow | undefined, n: number, now: number, operator: boolean, chosen: boolean,
 *   choose: (n: number, range: boolean) => void,
 * }} RowProps
 */
/** @typedef {Record<string, any>} Query */

/** What the address says of the filter; `from` is the row at the top. */
const USUAL = {
  ...{ state: "", text: "", tier: "", host: "", model: "", repo: "", fallback: "", label: "", submitter: "" },
  ...{
    error: "",
    error_code: "",
    need: "",
    priority: "",
    since: "",
    until: "",
    last: "",
    sort: "-submitted",
    from: "",
  },
};
/** @type {(keyof Filter)[]} typed into */
const TYPED = ["text", "host", "model", "repo", "label", "submitter", "error"];
/** @type {(keyof Filter)[]} behind the button on a narrow screen */
const FOLDED = ["tier", "host", "model", "repo", "label", "submitter", "error", "fallback", "last"];
/** @type {(keyof Filter)[]} that are in the address alone */
const GIVEN = ["error_code", "need", "priority", "since", "until"];
/** @type {[string, string, number][]} */
const LAST = [
  ["1h", "last hour", 3600],
  ["24h", "last 24 hours", 86_400],
  ["7d", "last 7 days", 604_800],
];

/**
 * The question that a filter asks.
 * @param {Filter} filter
 */
function queryOf(filter) {
  /** @type {Query} */
  const query = { sort: filter.sort };
  const states = filter.state.split(",").filter((state) => STATES.includes(state));
  if (states.length) query.state = states;
  for (const name of [...TYPED, ...GIVEN, /** @type {"tier"} */ ("tier")])
    if (filter[name]) query[name] = name === "label" ? filter.label.split(/[\s,]+/).filter(Boolean) : filter[name];
  if (filter.fallback) query.fallback = filter.fallback === "yes";
  const [, , seconds = 0] = LAST.find(([name]) => name === filter.last) ?? [];
  // To the minute, so that the same question stays the same for a while.
  if (seconds) query.since = new Date(Math.floor(Date.now() / 60_000 - seconds / 60) * 60_000).toISOString();
  return query;
}

/** @param {PageProps} props */
export function Tasks({ rest, operator }) {
  const [filter, setFilter] = useQuery({ ...USUAL, state: rest[0] ?? "" });
  const [typed, type] = useState(/** @type {Partial<Filter>} */ ({}));
  const [chosen, setChosen] = useState(/** @type {Set<string>} */ (new Set()));
  const now = useNow();
  const minute = filter.last ? Math.floor(now / 60_000) : 0;
  const typing = useRef({ timer: /** @type {ReturnType<typeof setTimeout> | undefined} */ (undefined), at: 0 });
  useEffect(() => () => clearTimeout(typing.current.timer), []);
  const first = Math.floor((Number(filter.from) || 0) / STEP) * STEP;
  const refine = (/** @type {Partial<Filter>} */ changed, quietly = false) => {
    setFilter({ ...changed, from: "" }, quietly);
    setChosen(new Set());
  };
  // The first letter is looked for at once, those that follow it quickly together.
  const write = (/** @type {keyof Filter} */ name) => (/** @type {Edit} */ event) => {
    const all = { ...typed, [name]: event.currentTarget.value };
    const done = () => {
      refine(all, true);
      type({});
    };
    type(all);
    clearTimeout(typing.current.timer);
    if (Date.now() - typing.current.at > 10 * TYPING) done();
    else typing.current.timer = setTimeout(done, TYPING);
    typing.current.at = Date.now();
  };
  const spelled = JSON.stringify({ ...filter, from: "" });
  // biome-ignore lint/correctness/useExhaustiveDependencies: the filter is spelled out; time moves what `last` means
  const query = useMemo(() => queryOf(filter), [spelled, minute]);
  const part = { ...query, offset: Math.max(0, first - STEP), limit: WINDOW };
  const { data, key, error } = useTopic("tasks", part);
  const { current: list } = useRef(new TaskList());
  if (data && key === JSON.stringify(part)) list.take(JSON.stringify(query), data);
  const { total, states } = list;
  const picked = filter.state.split(",").filter((state) => STATES.includes(state));
  const toggle = (/** @type {string} */ state) =>
    refine({ state: (picked.includes(state) ? picked.filter((s) => s !== state) : [...picked, state]).join(",") });
  const pick = (/** @type {keyof Filter} */ name) => (/** @type {Edit} */ event) =>
    refine({ [name]: event.currentTarget.value });
  const clear = () => {
    clearTimeout(typing.current.timer);
    type({});
    refine({ ...USUAL, sort: filter.sort });
  };
  const said = (/** @type {keyof Filter} */ name) => typed[name] ?? filter[name];
  const sort = (/** @type {string} */ by) => refine({ sort: filter.sort === `-${by}` ? by : `-${by}` });
  useTitle(picked.length ? `${picked.join(", ")} tasks` : "Tasks");
  const last = useRef(-1);
  const choose = (/** @type {number} */ n, /** @type {boolean} */ range) => {
    const next = new Set(chosen);
    const own = list.rows.get(n)?.task_id ?? "";
    const on = !next.has(own);
    const [from, to] = range && last.current >= 0 ? [Math.min(n, last.current), Math.max(n, last.current)] : [n, n];
    for (let at = from; at <= to; at += 1) {
      const id = list.rows.get(at)?.task_id;
      if (id && on) next.add(id);
      else if (id) next.delete(id);
    }
    last.current = n;
    setChosen(next);
  };
  return (
    <div class="page">
      <h1 class="sr">Tasks</h1>
      <div class="chips" role="group" aria-label="States">
        <button type="button" class="chip" aria-pressed={!picked.length} onClick={() => refine({ state: "" })}>
          all <b>{count(Object.values(states).reduce((a, b) => a + b, 0))}</b>
        </button>
        {STATES.filter((state) => states[state] || picked.includes(state)).map((state) => (
          <button
            type="button"
            class={`chip state-${state}`}
            aria-pressed={picked.includes(state)}
            onClick={() => toggle(state)}
          >
            {state} <b>{count(states[state])}</b>
          </button>
        ))}
      </div>
      <Filters
        active={FOLDED.filter((name) => filter[name]).length}
        any={[...FOLDED, ...GIVEN].some((name) => filter[name]) || filter.text !== "" || picked.length > 0}
        clear={clear}
        text={
          <input
            type="search"
            id="task-filter"
            placeholder="Text in description, error, submitter, labels, or an id"
            aria-label="Text"
            value={said("text")}
            onInput={write("text")}
          />
        }
      >
        <select aria-label="Tier" value={filter.tier} onChange={pick("tier")}>
          <option value="">any tier</option>
          {TIERS.map((tier) => (
            <option>{tier}</option>
          ))}
        </select>
        {TYPED.slice(1).map((name) => (
          <input class="short" placeholder={name} aria-label={name} value={said(name)} onInput={write(name)} />
        ))}
        <select aria-label="Fallback" value={filter.fallback} onChange={pick("fallback")}>
          <option value="">fallback or not</option>
          <option value="yes">fell back</option>
          <option value="no">did not</option>
        </select>
        <select aria-label="Time" value={filter.last} onChange={pick("last")}>
          <option value="">any time</option>
          {LAST.map(([value, title]) => (
            <option value={value}>{title}</option>
          ))}
        </select>
        <select class="narrow-only" aria-label="Order" value={filter.sort} onChange={pick("sort")}>
          {[
            ["-submitted", "newest first"],
            ["submitted", "oldest first"],
            ["-updated", "last changed"],
            ["-cost", "dearest first"],
            ["-tokens", "most tokens"],
            ["-attempts", "most attempts"],
          ].map(([value, title]) => (
            <option value={value}>{title}</option>
          ))}
        </select>
        <SavedViews />
      </Filters>
      {error && <p class="bad">{plain(error.error)}</p>}
      <div class="summary">
        <span>
          <span id="task-total">{count(total)}</span> task{total === 1 ? "" : "s"}
        </span>
        {GIVEN.filter((name) => filter[name]).map((name) => (
          <button type="button" class="chip" title="Leave this out" onClick={() => refine({ [name]: "" })}>
            {`${name.replace("_", " ")}: ${plain(filter[name], 80)} ✕`}
          </button>
        ))}
        {operator && total > 0 && (
          <Bulk query={query} states={states} picked={picked} chosen={chosen} clear={() => setChosen(new Set())} />
        )}
      </div>
      <Table
        list={list}
        asked={spelled}
        now={now}
        operator={operator}
        from={Number(filter.from) || 0}
        seen={(n) => setFilter({ from: n ? String(n) : "" }, true)}
        sort={filter.sort}
        order={sort}
        chosen={chosen}
        choose={choose}
      />
    </div>
  );
}

/**
 * Beside the text, which is always there, the rest; on a narrow screen behind a button.
 * @param {{ text: any, active: number, any: boolean, clear: () => void, children?: any }} props
 */
function Filters({ text, active, any, clear, children }) {
  const [open, fold] = useState(false);
  const button = useRef(/** @type {HTMLButtonElement | null} */ (null));
  const leave = (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Escape" || !NARROW.matches) return;
    fold(false);
    button.current?.focus();
  };
  return (
    <div class="filters" role="search">
      {text}
      <button
        type="button"
        id="filters-button"
        class="narrow-only"
        ref={button}
        aria-expanded={open}
        aria-controls="more-filters"
        onClick={() => fold(!open)}
      >
        Filters
        {active > 0 && (
          <>
            {" "}
            <b class="number">{active}</b>
            <span class="sr"> in use</span>
          </>
        )}
      </button>
      <div id="more-filters" class={open ? "open" : ""} onKeyDown={leave}>
        {children}
        {any && (
          <button type="button" onClick={clear}>
            Clear
          </button>
        )}
      </div>
    </div>
  );
}

/** @type {[string, string, string][]} class, title, what it is ordered by */
const COLUMNS = [
  ["c-text", "Task", ""],
  ["c-how", "State", "updated"],
  ["c-where", "Where", ""],
  ["n c-tries", "Attempts", "attempts"],
  ["n c-tokens", "Tokens", "tokens"],
  ["n c-cost", "Cost", "cost"],
  ["n c-age", "Took, age", "submitted"],
];

/**
 * @param {{
 *   list: TaskList, asked: string, now: number, operator: boolean, from: number, seen: (n: number) => void,
 *   sort: string, order: (by: string) => void, chosen: Set<string>, choose: RowProps["choose"],
 * }} props `asked`: the filter as it is asked for, answered or not; `from`: the row that is at the
 *   top when the table comes
 */
function Table({ list, asked, now, operator, from, seen, sort, order, chosen, choose }) {
  const { rows, total } = list;
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const [top, setTop] = useState(0); // the first row in sight
  const [height, setHeight] = useState(600);
  const timer = useRef(/** @type {ReturnType<typeof setTimeout> | undefined} */ (undefined));
  const size = rowHeight();
  useEffect(() => {
    const watcher = new ResizeObserver(([{ contentRect }]) => setHeight(contentRect.height));
    watcher.observe(/** @type {HTMLDivElement} */ (box.current));
    return () => {
      watcher.disconnect();
      clearTimeout(timer.current);
    };
  }, []);
  // What another filter finds begins at the top, from the moment it is asked for: who scrolls
  // before the answer comes stays there. What the address names, there.
  const placed = useRef("");
  useLayoutEffect(() => {
    if (!box.current || !total || placed.current === asked) return;
    const begin = placed.current === "" ? from : 0;
    placed.current = asked;
    box.current.scrollTop = begin * size;
    setTop(begin);
  }, [asked, total, from, size]);
  const scrolled = () => {
    const row = Math.floor((box.current?.scrollTop ?? 0) / size);
    setTop(row);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => seen(row), 80);
  };
  const first = Math.max(0, Math.min(top, total) - 5);
  const last = Math.min(total, top + Math.ceil(height / size) + 6);
  const shown = [];
  for (let n = first; n < last; n += 1) shown.push(n);
  const spacer = (/** @type {string} */ key, /** @type {number} */ n) =>
    n > 0 && (
      <tr class="spacer" key={key} aria-hidden="true">
        <td style={{ height: `${n * size}px` }} />
      </tr>
    );
  return (
    <div class="grid" ref={box} onScroll={scrolled} tabindex={0} role="region" aria-label="Tasks">
      <table aria-rowcount={total + 1}>
        <thead>
          <tr>
            {operator && (
              <th class="c-pick">
                <span class="sr">Chosen</span>
              </th>
            )}
            {COLUMNS.map(([name, title, by]) => (
              <th class={name} aria-sort={sort === `-${by}` ? "descending" : sort === by ? "ascending" : undefined}>
                {by ? (
                  <button type="button" class="order" onClick={() => order(by)}>
                    {title}
                    {sort.replace("-", "") === by && (sort.startsWith("-") ? " ↓" : " ↑")}
                  </button>
                ) : (
                  title
                )}
              </th>
            ))}
            {operator && <th class="c-do">Actions</th>}
          </tr>
        </thead>
        <tbody>
          {spacer("before", first)}
          {shown.map((n) => (
            <Row
              key={rows.get(n)?.task_id ?? n}
              n={n}
              task={rows.get(n)}
              now={now}
              operator={operator}
              chosen={chosen.has(rows.get(n)?.task_id ?? "")}
              choose={choose}
            />
          ))}
          {spacer("after", total - last)}
        </tbody>
      </table>
      {total === 0 && <Empty>No task is like that.</Empty>}
    </div>
  );
}

/** A model without whose it is and of when. @param {string} model */
const shortModel = (model) =>
  model
    .replace(/^.*\//, "")
    .replace(/:latest$/, "")
    .replace(/-\d{8}$/, "");

/**
 * The same row is not drawn again, however often the table moves.
 * @param {RowProps} props
 */
function Row({ task, n, now, operator, chosen, choose }) {
  const old = age(task?.submitted_at, now);
  const runs = task?.started_at && !task.finished_at ? duration(now - at(task.started_at)) : "";
  const latest = useRef(choose);
  latest.current = choose;
  return useMemo(
    () => (
      <Drawn
        task={task}
        n={n}
        old={old}
        took={task?.execution_ms != null ? duration(task.execution_ms) : runs}
        operator={operator}
        chosen={chosen}
        choose={(at, range) => latest.current(at, range)}
      />
    ),
    [task, n, old, runs, operator, chosen],
  );
}

/**
 * @param {{
 *   task: TaskRow | undefined, n: number, old: string, took: string, operator: boolean, chosen: boolean,
 *   choose: RowProps["choose"],
 * }} props
 */
function Drawn({ task, n, old, took, operator, chosen, choose }) {
  if (!task)
    return (
      <tr class="task unknown" aria-rowindex={n + 2}>
        <td>…</td>
      </tr>
    );
  // What it takes is told with its end.
  const untold = !FINAL.has(task.state) && !allTokens(task) && !task.estimated_cost_usd;
  const wrong = local(task.error?.message ?? "");
  return (
    <tr class={`task ${chosen ? "chosen" : ""}`} aria-rowindex={n + 2}>
      {operator && (
        <td class="c-pick">
          <input
            type="checkbox"
            checked={chosen}
            aria-label={`Choose ${shortId(task.task_id)}`}
            onClick={(event) => choose(n, event.shiftKey)}
          />
        </td>
      )}
      <td class="c-text">
        <a href={`#/task/${task.task_id}`} title={plain(task.description, 500)}>
          <Text most={200}>{task.description}</Text>
        </a>
        <small title={wrong ? plain(wrong, 1000) : task.task_id}>
          {wrong ? (
            <span class="bad">
              <Text most={200}>{`${task.error?.code}: ${wrong}`}</Text>
            </span>
          ) : (
            <span class="mono">{shortId(task.task_id)}</span>
          )}
        </small>
      </td>
      <td class="c-how">
        <span class="c-state">
          <State state={task.state} />
        </span>
        <span class="c-tier">
          <Tier tier={task.tier} />
          <Fallback task={task} />
        </span>
      </td>
      <td class="c-where" title={plain([task.host, task.endpoint, task.model].filter(Boolean).join(" · "), 300)}>
        <Text most={80}>
          {task.host ||
            task.endpoint ||
            (task.held ? heldFor(task) : FINAL.has(task.state) ? "" : local(task.waiting_for))}
        </Text>
        <small>
          <Text most={80}>{shortModel(task.model)}</Text> <Simulated on={task.simulated} />
        </small>
      </td>
      <td class="n c-tries">
        {task.attempts}/{task.max_attempts}
      </td>
      <td class="n c-tokens">{untold ? "–" : count(allTokens(task))}</td>
      <td class="n c-cost">
        {untold ? "–" : task.estimated_cost_usd === null ? "?" : guess(task) + dollars(task.estimated_cost_usd)}
      </td>
      <td class="n c-age" title={new Date(task.submitted_at).toString()}>
        {took || "–"}
        <small>{old} ago</small>
      </td>
      {operator && (
        <td class="c-do">
          {FINAL.has(task.state) ? (
            <button
              type="button"
              onClick={() => retry(task.task_id)}
              disabled={task.state === "completed"}
              aria-label={`Retry ${shortId(task.task_id)}`}
            >
              Retry
            </button>
          ) : (
            <button type="button" onClick={() => cancel(task.task_id)} aria-label={`Cancel ${shortId(task.task_id)}`}>
              Cancel
            </button>
          )}
        </td>
      )}
    </tr>
  );
}

/** @param {string} id */
const cancel = (id) => carryOut(() => post(`/tasks/${id}/cancel`), `Task ${shortId(id)} is cancelled.`);
/** @param {string} id */
const retry = (id) => carryOut(() => post(`/tasks/${id}/retry`), `Task ${shortId(id)} is tried anew.`);
