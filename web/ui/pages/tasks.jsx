// Tasks: however many there are, the table holds the rows that are looked at.
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { carryOut, get, notice, post, wordsOf } from "../api.js";
import { FINAL, STATES, TIERS, age, allTokens, count, dollars, guess, shortId } from "../format.js";
import { Empty, Fallback, Simulated, State, Sure, Text, Tier } from "../parts.jsx";
import { useNow, useTopic } from "../socket.js";
import { TaskList } from "../tasklist.js";

/** @import { TaskRow, TasksAnswer } from "../answers.d.ts" */
/** @import { Edit, PageProps } from "../topics.d.ts" */

const ROW = 44; // px, as in the style sheet
const WINDOW = 80;
const STEP = 20;
const AT_ONCE = 8;
const TYPING = 30; // ms
const NARROW = matchMedia("(max-width: 700px)");
const rowHeight = () => (NARROW.matches ? 92 : ROW);

/** @typedef {typeof ANY & { sort: string }} Filter */
/** @typedef {{ task: TaskRow | undefined, n: number, age: string, operator: boolean }} RowProps */
/** @typedef {Record<string, any>} Query */

const ANY = { state: /** @type {string[]} */ ([]), text: "", tier: "", host: "", model: "", repo: "", fallback: "" };
const UNTYPED = { text: "", host: "", model: "", repo: "" };
/** @type {(keyof typeof UNTYPED)[]} */
const SHORT = ["host", "model", "repo"];
/** @type {("tier" | "host" | "model" | "repo" | "fallback")[]} behind the button on a narrow screen */
const FOLDED = ["tier", "host", "model", "repo", "fallback"];

/**
 * The question that a filter asks.
 * @param {Filter} filter
 */
function queryOf(filter) {
  /** @type {Query} */
  const query = { sort: filter.sort };
  if (filter.state.length) query.state = filter.state;
  if (filter.text) query.text = filter.text;
  for (const name of FOLDED) if (filter[name]) query[name] = filter[name];
  if (filter.fallback) query.fallback = filter.fallback === "yes";
  return query;
}

/** @param {PageProps} props */
export function Tasks({ rest, operator }) {
  const [filter, setFilter] = useState(
    /** @type {Filter} */ ({
      ...ANY,
      sort: "-submitted",
      state: rest[0] ? rest[0].split(",").filter((state) => STATES.includes(state)) : [],
    }),
  );
  const [typed, type] = useState(UNTYPED);
  const [first, setFirst] = useState(0);
  const now = useNow();
  const typing = useRef({ timer: /** @type {ReturnType<typeof setTimeout> | undefined} */ (undefined), at: 0 });
  useEffect(() => () => clearTimeout(typing.current.timer), []);
  const refine = (/** @type {Partial<Filter>} */ changed) => {
    setFilter((old) => ({ ...old, ...changed }));
    setFirst(0);
  };
  // The first letter is looked for at once, those that follow it quickly together.
  const write = (/** @type {keyof typeof UNTYPED} */ name) => (/** @type {Edit} */ event) => {
    const all = { ...typed, [name]: event.currentTarget.value };
    type(all);
    clearTimeout(typing.current.timer);
    if (Date.now() - typing.current.at > 10 * TYPING) refine(all);
    else typing.current.timer = setTimeout(() => refine(all), TYPING);
    typing.current.at = Date.now();
  };
  const query = useMemo(() => queryOf(filter), [filter]);
  const part = { ...query, offset: Math.max(0, first - STEP), limit: WINDOW };
  const { data, key } = useTopic("tasks", part);
  const { current: list } = useRef(new TaskList());
  if (data && key === JSON.stringify(part)) list.take(JSON.stringify(query), data);
  const { total, states } = list;
  const toggle = (/** @type {string} */ state) =>
    refine({
      state: filter.state.includes(state) ? filter.state.filter((s) => s !== state) : [...filter.state, state],
    });
  const pick = (/** @type {keyof Filter} */ name) => (/** @type {Edit} */ event) =>
    refine({ [name]: event.currentTarget.value });
  const clear = () => {
    clearTimeout(typing.current.timer);
    type(UNTYPED);
    refine(ANY);
  };
  return (
    <div class="page">
      <h1 class="sr">Tasks</h1>
      <div class="chips" role="group" aria-label="States">
        <button type="button" class="chip" aria-pressed={!filter.state.length} onClick={() => refine({ state: [] })}>
          all <b>{count(Object.values(states).reduce((a, b) => a + b, 0))}</b>
        </button>
        {STATES.filter((state) => states[state] || filter.state.includes(state)).map((state) => (
          <button
            type="button"
            class={`chip state-${state}`}
            aria-pressed={filter.state.includes(state)}
            onClick={() => toggle(state)}
          >
            {state} <b>{count(states[state])}</b>
          </button>
        ))}
      </div>
      <Filters
        active={FOLDED.filter((name) => filter[name]).length}
        any={FOLDED.some((name) => filter[name]) || filter.text !== "" || filter.state.length > 0}
        clear={clear}
        text={
          <input
            type="search"
            id="task-filter"
            placeholder="Text in the description, or an id"
            aria-label="Text"
            value={typed.text}
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
        {SHORT.map((name) => (
          <input class="short" placeholder={name} aria-label={name} value={typed[name]} onInput={write(name)} />
        ))}
        <select aria-label="Fallback" value={filter.fallback} onChange={pick("fallback")}>
          <option value="">fallback or not</option>
          <option value="yes">fell back</option>
          <option value="no">did not</option>
        </select>
        <select aria-label="Order" value={filter.sort} onChange={pick("sort")}>
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
      </Filters>
      <p class="summary">
        <span>
          <span id="task-total">{count(total)}</span> task{total === 1 ? "" : "s"}
        </span>
        {operator && total > 0 && <Bulk query={query} total={total} />}
      </p>
      <Table list={list} now={now} operator={operator} seen={setFirst} />
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

/** @param {{ list: TaskList, now: number, operator: boolean, seen: (n: number) => void }} props */
function Table({ list, now, operator, seen }) {
  const { rows, total, filter } = list;
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const [top, setTop] = useState(0); // the first row in sight
  const [height, setHeight] = useState(600);
  const size = rowHeight();
  useEffect(() => {
    const watcher = new ResizeObserver(([{ contentRect }]) => setHeight(contentRect.height));
    watcher.observe(/** @type {HTMLDivElement} */ (box.current));
    return () => watcher.disconnect();
  }, []);
  // biome-ignore lint/correctness/useExhaustiveDependencies: what another filter finds begins at the top
  useLayoutEffect(() => {
    if (box.current) box.current.scrollTop = 0;
    setTop(0);
  }, [filter]);
  const scrolled = () => {
    const row = Math.floor((box.current?.scrollTop ?? 0) / size);
    setTop(row);
    seen(Math.floor(row / STEP) * STEP);
  };
  const first = Math.max(0, Math.min(top, total) - 5);
  const last = Math.min(total, top + Math.ceil(height / size) + 6);
  const shown = [];
  for (let n = first; n < last; n += 1) shown.push(n);
  return (
    <div class="grid" ref={box} onScroll={scrolled} tabindex={0} role="region" aria-label="Tasks">
      <table aria-rowcount={total + 1}>
        <thead>
          <tr>
            <th>Id</th>
            <th>Task</th>
            <th>State</th>
            <th>Tier</th>
            <th>Where</th>
            <th class="n">Tries</th>
            <th class="n">Tokens</th>
            <th class="n">Cost</th>
            <th class="n">Age</th>
            {operator && <th>Do</th>}
          </tr>
        </thead>
        <tbody>
          {first > 0 && (
            <tr class="spacer" key="before" aria-hidden="true">
              <td colspan={10} style={{ height: `${first * size}px` }} />
            </tr>
          )}
          {shown.map((n) => (
            <Row
              key={rows.get(n)?.task_id ?? n}
              n={n}
              task={rows.get(n)}
              age={age(rows.get(n)?.submitted_at, now)}
              operator={operator}
            />
          ))}
          {last < total && (
            <tr class="spacer" key="after" aria-hidden="true">
              <td colspan={10} style={{ height: `${(total - last) * size}px` }} />
            </tr>
          )}
        </tbody>
      </table>
      {total === 0 && <Empty>No task is like that.</Empty>}
    </div>
  );
}

/**
 * The same row is not drawn again, however often the table moves.
 * @param {RowProps} props
 */
const Row = ({ task, n, age, operator }) =>
  useMemo(() => <Drawn task={task} n={n} age={age} operator={operator} />, [task, n, age, operator]);

/** @param {RowProps} props */
function Drawn({ task, n, age, operator }) {
  if (!task)
    return (
      <tr class="task unknown" aria-rowindex={n + 2}>
        <td colspan={10}>…</td>
      </tr>
    );
  return (
    <tr class="task" aria-rowindex={n + 2}>
      <td class="c-id">
        <a class="mono" href={`#/task/${task.task_id}`} title={task.task_id}>
          {shortId(task.task_id)}
        </a>
      </td>
      <td class="c-text">
        <a href={`#/task/${task.task_id}`}>
          <Text most={200}>{task.description}</Text>
        </a>
      </td>
      <td class="c-state">
        <State state={task.state} />
      </td>
      <td class="c-tier">
        <Tier tier={task.tier} />
        <Fallback task={task} />
      </td>
      <td class="c-where">
        <Text most={80}>{[task.endpoint || task.host, task.model].filter(Boolean).join(" · ")}</Text>{" "}
        <Simulated on={task.simulated} />
      </td>
      <td class="n c-tries">
        {task.attempts}/{task.max_attempts}
      </td>
      <td class="n c-tokens">{count(allTokens(task))}</td>
      <td class="n c-cost">
        {task.unpriced_runs > 0 ? "?" : guess(task)}
        {task.unpriced_runs > 0 ? "" : dollars(task.cost_usd)}
      </td>
      <td class="n c-age">{age}</td>
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

/**
 * The same command for every task that the filter finds.
 * @param {{ query: Query, total: number }} props
 */
function Bulk({ query, total }) {
  const [busy, setBusy] = useState(false);
  const all = async (/** @type {string} */ what, /** @type {(task: TaskRow) => boolean} */ fits) => {
    setBusy(true);
    try {
      const ids = await find(query, fits);
      const failed = await each(ids, what);
      notice(
        `${what}: ${ids.length - failed} of ${ids.length} tasks${failed ? `, ${failed} refused` : ""}.`,
        failed ? "bad" : "good",
      );
    } catch (error) {
      notice(wordsOf(error), "bad");
    }
    setBusy(false);
  };
  return (
    <span class="bulk">
      <Sure
        label="Cancel all of these"
        sure={`Cancel ${count(total)}?`}
        act={() => all("cancel", (task) => !FINAL.has(task.state))}
        class={busy ? "busy" : ""}
      />
      <Sure
        label="Retry all of these"
        sure={`Retry ${count(total)}?`}
        act={() => all("retry", (task) => FINAL.has(task.state) && task.state !== "completed")}
        class={busy ? "busy" : ""}
      />
    </span>
  );
}

/**
 * @param {Query} query
 * @param {(task: TaskRow) => boolean} fits
 */
async function find(query, fits) {
  /** @type {string[]} */
  const ids = [];
  for (let offset = 0; ; offset += 500) {
    const page = new URLSearchParams({ ...query, limit: "500", offset: String(offset), sort: "submitted" });
    /** @type {TasksAnswer} */
    const { tasks, total } = await get(`/tasks?${page}`);
    ids.push(...tasks.filter(fits).map((task) => task.task_id));
    if (offset + 500 >= total || !tasks.length) return ids;
  }
}

/**
 * Run a command on each; return how many were refused.
 * @param {string[]} ids
 * @param {string} what
 */
async function each(ids, what) {
  const left = [...ids];
  let failed = 0;
  const work = async () => {
    for (let id = left.pop(); id; id = left.pop()) {
      try {
        await post(`/tasks/${id}/${what}`);
      } catch {
        failed += 1;
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return failed;
}
