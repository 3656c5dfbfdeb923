// Tasks: however many there are, the table holds the rows that are looked at.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { carryOut, get, notice, post } from "../api.js";
import { FINAL, STATES, TIERS, age, count, dollars, shortId } from "../format.js";
import { Empty, Fallback, Simulated, State, Sure, Text, Tier } from "../parts.jsx";
import { useNow, useTopic } from "../socket.js";

const ROW = 44; // px, as in the style sheet
const WINDOW = 80;
const STEP = 20;
const AT_ONCE = 8;
const NARROW = matchMedia("(max-width: 700px)");
const rowHeight = () => (NARROW.matches ? 92 : ROW);

export function Tasks({ rest, operator }) {
  const [filter, setFilter] = useState({ state: rest[0] ? rest[0].split(",").filter((s) => STATES.includes(s)) : [], text: "", tier: "", host: "", model: "", repo: "", fallback: "", sort: "-submitted" });
  const [typed, type] = useState({ text: "", host: "", model: "", repo: "" });
  const [first, setFirst] = useState(0);
  const now = useNow();
  useEffect(() => {
    const timer = setTimeout(() => setFilter((old) => ({ ...old, ...typed })), 30);
    return () => clearTimeout(timer);
  }, [typed]);
  const wanted = useMemo(() => {
    const made = { sort: filter.sort };
    if (filter.state.length) made.state = filter.state;
    for (const name of ["text", "tier", "host", "model", "repo"]) if (filter[name]) made[name] = filter[name];
    if (filter.fallback) made.fallback = filter.fallback === "yes";
    return made;
  }, [filter]);
  const key = JSON.stringify(wanted);
  useEffect(() => setFirst(0), [key]);
  const offset = Math.max(0, Math.floor((first - STEP) / STEP) * STEP);
  const { data } = useTopic("tasks", { ...wanted, offset, limit: WINDOW });
  const known = useRef({ key: "", rows: new Map(), total: 0, states: {} });
  if (known.current.key !== key) known.current = { key, rows: new Map(), total: known.current.total, states: known.current.states, fresh: true };
  if (data && data.rows !== known.current.seen) {
    // The first answer to a filter is its own; what an older subscription said is not.
    known.current.seen = data.rows;
    known.current.total = data.total;
    known.current.states = data.states;
    if (known.current.rows.size > 2000) known.current.rows.clear();
    data.rows.forEach((row, n) => known.current.rows.set(data.offset + n, row));
  }
  const { rows, total, states } = known.current;
  const toggle = (state) => setFilter({ ...filter, state: filter.state.includes(state) ? filter.state.filter((s) => s !== state) : [...filter.state, state] });
  const pick = (name) => (event) => setFilter({ ...filter, [name]: event.currentTarget.value });
  return (
    <div class="page">
      <h1 class="sr">Tasks</h1>
      <div class="chips" role="group" aria-label="States">
        <button type="button" class="chip" aria-pressed={!filter.state.length} onClick={() => setFilter({ ...filter, state: [] })}>all <b>{count(Object.values(states).reduce((a, b) => a + b, 0))}</b></button>
        {STATES.filter((state) => states[state] || filter.state.includes(state)).map((state) => (
          <button type="button" class={`chip state-${state}`} aria-pressed={filter.state.includes(state)} onClick={() => toggle(state)}>{state} <b>{count(states[state])}</b></button>
        ))}
      </div>
      <div class="filters" role="search">
        <input type="search" id="task-filter" placeholder="Text in the description, or an id" aria-label="Text" value={typed.text} onInput={(event) => type({ ...typed, text: event.currentTarget.value })} />
        <select aria-label="Tier" value={filter.tier} onChange={pick("tier")}><option value="">any tier</option>{TIERS.map((tier) => <option>{tier}</option>)}</select>
        {["host", "model", "repo"].map((name) => <input class="short" placeholder={name} aria-label={name} value={typed[name]} onInput={(event) => type({ ...typed, [name]: event.currentTarget.value })} />)}
        <select aria-label="Fallback" value={filter.fallback} onChange={pick("fallback")}><option value="">fallback or not</option><option value="yes">fell back</option><option value="no">did not</option></select>
        <select aria-label="Order" value={filter.sort} onChange={pick("sort")}>
          {[["-submitted", "newest first"], ["submitted", "oldest first"], ["-updated", "last changed"], ["-cost", "dearest first"], ["-tokens", "most tokens"], ["-attempts", "most attempts"]].map(([value, title]) => <option value={value}>{title}</option>)}
        </select>
      </div>
      <p class="summary"><span id="task-total">{count(total)}</span> tasks{operator && total > 0 && <Bulk wanted={wanted} total={total} />}</p>
      <Table rows={rows} total={total} now={now} operator={operator} seen={setFirst} reset={key} />
    </div>
  );
}

function Table({ rows, total, now, operator, seen, reset }) {
  const box = useRef(null);
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(600);
  const size = rowHeight();
  useEffect(() => {
    const watcher = new ResizeObserver(() => setHeight(box.current?.clientHeight ?? 600));
    watcher.observe(box.current);
    return () => watcher.disconnect();
  }, []);
  useEffect(() => {
    box.current.scrollTop = 0;
    setTop(0);
  }, [reset]);
  const scrolled = () => {
    setTop(box.current.scrollTop);
    seen(Math.floor(box.current.scrollTop / size));
  };
  const first = Math.max(0, Math.floor(top / size) - 5);
  const last = Math.min(total, Math.ceil((top + height) / size) + 5);
  const shown = [];
  for (let n = first; n < last; n += 1) shown.push(n);
  return (
    <div class="grid" ref={box} onScroll={scrolled} tabindex="0" role="region" aria-label="Tasks">
      <table aria-rowcount={total + 1}>
        <thead><tr>
          <th>Id</th><th>Task</th><th>State</th><th>Tier</th><th>Where</th><th class="n">Tries</th><th class="n">Tokens</th><th class="n">Cost</th><th class="n">Age</th>{operator && <th>Do</th>}
        </tr></thead>
        <tbody>
          {first > 0 && <tr class="spacer" aria-hidden="true"><td colspan="10" style={{ height: `${first * size}px` }} /></tr>}
          {shown.map((n) => <Row key={rows.get(n)?.task_id ?? n} n={n} task={rows.get(n)} now={now} operator={operator} />)}
          {last < total && <tr class="spacer" aria-hidden="true"><td colspan="10" style={{ height: `${(total - last) * size}px` }} /></tr>}
        </tbody>
      </table>
      {total === 0 && <Empty>No task is like that.</Empty>}
    </div>
  );
}

function Row({ task, n, now, operator }) {
  if (!task) return <tr class="task unknown" aria-rowindex={n + 2}><td colspan="10">…</td></tr>;
  return (
    <tr class="task" aria-rowindex={n + 2}>
      <td class="c-id"><a class="mono" href={`#/task/${task.task_id}`} title={task.task_id}>{shortId(task.task_id)}</a></td>
      <td class="c-text"><a href={`#/task/${task.task_id}`}><Text most={200}>{task.description}</Text></a></td>
      <td class="c-state"><State state={task.state} /></td>
      <td class="c-tier"><Tier tier={task.tier} /><Fallback task={task} /></td>
      <td class="c-where"><Text most={80}>{[task.endpoint || task.host, task.model].filter(Boolean).join(" · ")}</Text> <Simulated on={task.simulated} /></td>
      <td class="n c-tries">{task.attempts}/{task.max_attempts}</td>
      <td class="n c-tokens">{count(task.tokens_in + task.tokens_out)}</td>
      <td class="n c-cost">{dollars(task.cost_usd)}</td>
      <td class="n c-age">{age(task.submitted_at, now)}</td>
      {operator && (
        <td class="c-do">
          {FINAL.has(task.state) ? (
            <button type="button" onClick={() => retry(task.task_id)} disabled={task.state === "completed"} aria-label={`Retry ${shortId(task.task_id)}`}>Retry</button>
          ) : (
            <button type="button" onClick={() => cancel(task.task_id)} aria-label={`Cancel ${shortId(task.task_id)}`}>Cancel</button>
          )}
        </td>
      )}
    </tr>
  );
}

const cancel = (id) => carryOut(() => post(`/tasks/${id}/cancel`), `Task ${shortId(id)} is cancelled.`);
const retry = (id) => carryOut(() => post(`/tasks/${id}/retry`), `Task ${shortId(id)} is tried anew.`);

// The same command for every task that the filter finds.
function Bulk({ wanted, total }) {
  const [busy, setBusy] = useState(false);
  const all = async (what, fits) => {
    setBusy(true);
    try {
      const ids = await find(wanted, fits);
      const failed = await each(ids, what);
      notice(`${what}: ${ids.length - failed} of ${ids.length} tasks${failed ? `, ${failed} refused` : ""}.`, failed ? "bad" : "good");
    } catch (error) {
      notice(error.message, "bad");
    }
    setBusy(false);
  };
  return (
    <span class="bulk">
      <Sure label="Cancel all of these" sure={`Cancel ${count(total)}?`} act={() => all("cancel", (task) => !FINAL.has(task.state))} class={busy ? "busy" : ""} />
      <Sure label="Retry all of these" sure={`Retry ${count(total)}?`} act={() => all("retry", (task) => FINAL.has(task.state) && task.state !== "completed")} class={busy ? "busy" : ""} />
    </span>
  );
}

async function find(wanted, fits) {
  const ids = [];
  for (let offset = 0; ; offset += 500) {
    const query = new URLSearchParams({ ...wanted, limit: 500, offset, sort: "submitted" });
    const { tasks, total } = await get(`/tasks?${query}`);
    ids.push(...tasks.filter(fits).map((task) => task.task_id));
    if (offset + 500 >= total || !tasks.length) return ids;
  }
}

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
