// Routing: decisions as they fall, the world as it was, and what another policy would do.
import { useEffect, useRef, useState } from "preact/hooks";
import { carryOut, get, post, put } from "../api.js";
import { TIERS, clock, count, dollars, duration, moment, plain, shortId } from "../format.js";
import { Empty, Figure, Panel, Scroll, Text, Tier } from "../parts.jsx";
import { useTopic } from "../socket.js";

const SLIDE_MS = 120;
const PRESENT_MS = 1000;
const LISTED = 8;
const TARGETS = { sidecar: "To the shell", ollama: "To Ollama", openai: "To OpenAI-compatible servers", claude: "To Claude Code" };

export function Routing({ operator }) {
  const { data } = useTopic("routing");
  const { data: status } = useTopic("status");
  if (!data) return <Empty>Waiting for the first snapshot…</Empty>;
  const targets = Object.entries(data.by_target);
  const last = status?.position ?? 0;
  return (
    <div class="page">
      <h1 class="sr">Routing</h1>
      <Panel title="Decisions, counted">
        <dl class="figures">
          {TIERS.map((tier) => <Figure label={`Tier ${tier}`}>{count(data.by_tier[tier])}</Figure>)}
          {targets.map(([target, n]) => <Figure label={TARGETS[target] ?? `To ${target}`}>{count(n)}</Figure>)}
          <Figure label="Fallbacks">{count(data.fallbacks)}</Figure>
          <Figure label="Fallbacks avoided">{count(data.waits_avoided)}</Figure>
        </dl>
        {Object.keys(data.hops).length > 0 && <p>Hops: {Object.entries(data.hops).map(([hop, n]) => `${hop.replace("->", " → ")}: ${n}`).join(", ")}</p>}
      </Panel>
      <Decisions decisions={data.decisions} />
      {last > 0 && <Past last={last} />}
      <Disagreements found={data.disagreements} />
      <Policy policy={data.policy} operator={operator} />
      <WhatIf last={last} policy={data.policy.policy} />
    </div>
  );
}

function Decisions({ decisions }) {
  const [tier, setTier] = useState("");
  const [target, setTarget] = useState("");
  const [fell, setFell] = useState(false);
  const targets = [...new Set(decisions.map((each) => each.target))].sort();
  const shown = decisions.filter((each) => (!tier || each.tier === tier) && (!target || each.target === target) && (!fell || each.fallback));
  return (
    <Panel title="Latest decisions" id="decisions">
      <div class="filters">
        <select aria-label="Tier" onChange={(event) => setTier(event.currentTarget.value)}><option value="">any tier</option>{TIERS.map((each) => <option>{each}</option>)}</select>
        <select aria-label="Target" onChange={(event) => setTarget(event.currentTarget.value)}><option value="">any target</option>{targets.map((each) => <option>{each}</option>)}</select>
        <label class="inline"><input type="checkbox" checked={fell} onChange={() => setFell(!fell)} /> fallbacks only</label>
      </div>
      <Scroll label="Latest decisions" class="tall">
        <table class="small">
          <thead><tr><th>Seq</th><th>At</th><th>Task</th><th>Tier</th><th>Where</th><th>Because</th><th class="n">Candidates</th><th class="n">Took</th></tr></thead>
          <tbody>
            {shown.map((each) => (
              <tr key={each.seq}>
                <td class="mono">{each.seq}</td><td>{clock(each.at)}</td>
                <td><a class="mono" href={`#/task/${each.task_id}`}>{shortId(each.task_id)}</a></td>
                <td><Tier tier={each.tier} />{each.fallback && <span class="badge fb" title={plain(each.why)}>FB</span>}</td>
                <td><Text most={60}>{[each.host, each.endpoint, each.model].filter(Boolean).join(" · ")}</Text></td>
                <td><Text most={120}>{each.fallback ? each.why : each.reason}</Text></td>
                <td class="n">{each.candidates}{each.excluded ? ` (+${each.excluded} out)` : ""}</td><td class="n">{Math.round(each.decided_us)} µs</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
      {!shown.length && <Empty>No decision is like that.</Empty>}
    </Panel>
  );
}

function Disagreements({ found }) {
  const pairs = Object.entries(found);
  return (
    <Panel title="Said one tier, worded like another">
      {pairs.length ? (
        <table class="small narrow"><thead><tr><th>Submitter said</th><th>Wording suggests</th><th class="n">Tasks</th></tr></thead>
          <tbody>{pairs.map(([pair, n]) => { const [said, inferred] = pair.split("/"); return <tr><td><Tier tier={said} /></td><td><Tier tier={inferred} /></td><td class="n">{count(n)}</td></tr>; })}</tbody></table>
      ) : <Empty>None so far.</Empty>}
    </Panel>
  );
}

// Fleet and queue as of any sequence; without one, as they are.
function Past({ last }) {
  const [seq, choose] = useState(null);
  const [then, show] = useState(null);
  const asked = useRef(0);
  const shownAt = useRef(0);
  const now = seq === null;
  useEffect(() => {
    const wait = now ? Math.max(SLIDE_MS, shownAt.current + PRESENT_MS - Date.now()) : SLIDE_MS;
    const timer = setTimeout(async () => {
      // An answer that comes after that to a later question is passed by.
      const mine = (asked.current += 1);
      const look = () => world(now ? null : seq);
      const found = await (now ? look().catch(() => null) : carryOut(look));
      shownAt.current = Date.now();
      if (found && mine === asked.current) show(found);
    }, wait);
    return () => clearTimeout(timer);
  }, [seq, now ? last : 0]);
  const slide = (event) => {
    const wanted = Number(event.currentTarget.value);
    choose(wanted >= last ? null : wanted);
  };
  return (
    <Panel title="Time slider" id="past" action={<button type="button" onClick={() => choose(null)} disabled={now}>Back to now</button>}>
      <label>{now ? "Now, at sequence" : "As of sequence"} <b>{count(seq ?? last)}</b> of {count(last)}
        <input type="range" id="time-slider" min="1" max={Math.max(last, 1)} value={seq ?? last} onInput={slide} />
      </label>
      {then ? <World world={then} /> : <Empty>Looking…</Empty>}
    </Panel>
  );
}

async function world(seq) {
  if (seq === null) {
    const [queue, fleet] = await Promise.all([get(`/queue?limit=${LISTED}`), get("/fleet")]);
    return { now: true, seq: queue.seq, queue, fleet, at: Date.now() };
  }
  const [queue, fleet, log] = await Promise.all([get(`/queue?at=${seq}&limit=${LISTED}`), get(`/fleet?at=${seq}`), get(`/events?from=${seq}&limit=1`)]);
  return { now: false, seq, queue, fleet, at: log.events[0]?.event.at };
}

function World({ world: { now, seq, queue, fleet, at } }) {
  const underWay = Object.values(queue.under_way).reduce((a, b) => a + b, 0);
  return (
    <div id="then" data-seq={seq} data-now={now}>
      <p>{now ? "now" : moment(at)}: <b>{count(queue.waiting)}</b> waiting, <b>{count(underWay)}</b> under way</p>
      <div class="columns">
        <div>
          <h3>Queue</h3>
          {queue.lanes.length > 0 && <p>{queue.lanes.map((lane) => <span class="lane-count"><Tier tier={lane.tier} />{lane.priority}: {count(lane.waiting)}</span>)}</p>}
          <ul class="list" id="then-waiting">{queue.waiting_tasks.map((task) => <Open task={task} />)}</ul>
          {queue.waiting > queue.waiting_tasks.length && <p><small>and {count(queue.waiting - queue.waiting_tasks.length)} more that waited</small></p>}
          <ul class="list" id="then-running">{queue.running.map((task) => <Open task={task} />)}</ul>
          {underWay > queue.running.length && <p><small>and {count(underWay - queue.running.length)} more under way</small></p>}
          {!queue.waiting && !underWay && <Empty>Empty.</Empty>}
        </div>
        <div>
          <h3>Fleet</h3>
          <ul class="list">
            {fleet.tiers.map((tier) => <li><Tier tier={tier.tier} /> {tier.wording}{tier.wording_at && ` ${moment(tier.wording_at)}`}</li>)}
            {fleet.hosts.map((host) => <li><span class={`badge state-${host.state}`}>{host.state}</span> <Text>{host.host}</Text>: {host.endpoints.filter((each) => each.up).length} of {host.endpoints.length} endpoints up</li>)}
          </ul>
        </div>
      </div>
    </div>
  );
}

const Open = ({ task }) => <li><span class={`badge state-${task.state}`}>{task.state}</span> <a href={`#/task/${task.task_id}`}><Text most={70}>{task.description}</Text></a></li>;

function parsed(text) {
  try {
    const value = JSON.parse(text || "{}");
    return typeof value === "object" && value && !Array.isArray(value) ? [value, ""] : [null, "an object is expected"];
  } catch (error) {
    return [null, error.message];
  }
}

function Policy({ policy, operator }) {
  const [text, write] = useState(null);
  const known = JSON.stringify(policy.policy, null, 2);
  const [value, wrong] = parsed(text ?? known);
  const save = () => carryOut(() => put("/policy", { policy: value, based_on: policy.version }), (said) => said.detail).then((answer) => answer && write(null));
  const check = () => carryOut(() => post("/policy/validate", { policy: value }), (said) => said.detail);
  return (
    <Panel title={`Policy, version ${policy.version}`} id="policy">
      <p><small>{policy.version ? <>changed {moment(policy.changed_at)} by <Text>{policy.by}</Text></> : "the built-in one; what is written here is laid over it"}</small></p>
      <details>
        <summary>{operator ? "Look at it and change it" : "Look at it"}</summary>
        <label>As JSON; what is left out stays as it is
          <textarea class="mono" rows="14" spellcheck={false} readOnly={!operator} value={text ?? known} onInput={(event) => write(event.currentTarget.value)} />
        </label>
        {wrong && <p class="bad">{plain(wrong)}</p>}
        <div class="actions">
          <button type="button" onClick={check} disabled={!value}>Check</button>
          {operator && <button type="button" class="main" onClick={save} disabled={!value || text === null}>Put it in force</button>}
          {text !== null && <button type="button" onClick={() => write(null)}>Undo</button>}
        </div>
      </details>
    </Panel>
  );
}

// The numbers that are changed most, as fields; each is a part of the JSON below them.
const WEIGHTS = ["warm", "affinity", "vram_base", "vram_share", "vram_unknown", "load_floor", "load_unknown", "capacity_cap"];

function Weights({ policy, value, write }) {
  const put = (changed) => write(JSON.stringify({ ...value, ...changed }));
  const field = (title, number, change) => (
    <label>{title}<input type="number" step="any" min="0" value={number} disabled={!value} onInput={(event) => event.currentTarget.value !== "" && change(Number(event.currentTarget.value))} /></label>
  );
  return (
    <div class="row weights">
      {field("fallback wait, s", value?.fallback_wait_s ?? policy.fallback_wait_s, (n) => put({ fallback_wait_s: n }))}
      {WEIGHTS.filter((name) => policy.scoring?.[name] !== undefined).map((name) =>
        field(name.replaceAll("_", " "), value?.scoring?.[name] ?? policy.scoring[name], (n) => put({ scoring: { ...value.scoring, [name]: n } })))}
    </div>
  );
}

function WhatIf({ last, policy }) {
  const [text, write] = useState('{"scoring": {"warm": 2.0}, "fallback_wait_s": 30}');
  const [from, setFrom] = useState(1);
  const [until, setUntil] = useState("");
  const [answer, show] = useState(null);
  const [busy, setBusy] = useState(false);
  const [value, wrong] = parsed(text);
  const ask = async (event) => {
    event.preventDefault();
    setBusy(true);
    const body = { policy: value, since: Number(from) || 1, limit: 50 };
    if (until) body.until = Number(until);
    show(await carryOut(() => post("/whatif", body)));
    setBusy(false);
  };
  return (
    <Panel title="What if" id="whatif">
      <form onSubmit={ask} class="form">
        <fieldset><legend>Other weights and waits</legend><Weights policy={policy} value={value} write={write} /></fieldset>
        <label>What is different, as JSON; any part of the policy
          <textarea class="mono" rows="3" spellcheck={false} value={text} onInput={(event) => write(event.currentTarget.value)} />
        </label>
        {wrong && <p class="bad">{plain(wrong)}</p>}
        <div class="row">
          <label>From sequence<input type="number" min="1" max={last} value={from} onInput={(event) => setFrom(event.currentTarget.value)} /></label>
          <label>To sequence<input type="number" min="1" max={last} placeholder="now" value={until} onInput={(event) => setUntil(event.currentTarget.value)} /></label>
          <button type="submit" class="main" disabled={busy || !value}>{busy ? "Deciding…" : "Decide again"}</button>
        </div>
      </form>
      {answer && <Then answer={answer} />}
    </Panel>
  );
}

function Then({ answer }) {
  const changed = Object.entries(answer.changed);
  const places = [...new Set([...Object.keys(answer.by_place), ...Object.keys(answer.by_place_then)])].sort();
  return (
    <div id="whatif-answer">
      <dl class="figures">
        <Figure label="Decisions">{count(answer.decisions)}</Figure>
        <Figure label="Would differ">{count(changed.reduce((sum, [, n]) => sum + n, 0))}</Figure>
        <Figure label="Fallbacks">{count(answer.fallbacks)} → {count(answer.fallbacks_then)}</Figure>
        <Figure label="Waited">{duration(answer.waited_s * 1000)} → {duration(answer.waited_s_then * 1000)}</Figure>
        <Figure label="Dollars">{dollars(answer.cost_usd)} → {dollars(answer.cost_usd_then)}</Figure>
        <Figure label="Reproduced">{count(answer.reproduced)}{answer.not_reproduced ? `, ${answer.not_reproduced} not` : ""}</Figure>
      </dl>
      {changed.length > 0 && <p>{changed.map(([kind, n]) => `${plain(kind.replaceAll("_", " "))}: ${n}`).join(", ")}</p>}
      {places.length > 0 && (
        <table class="small"><thead><tr><th>Place</th><th class="n">Was</th><th class="n">Would be</th></tr></thead>
          <tbody>{places.map((place) => <tr><td><Text>{place}</Text></td><td class="n">{count(answer.by_place[place])}</td><td class="n">{count(answer.by_place_then[place])}</td></tr>)}</tbody></table>
      )}
      {(answer.said ?? []).map((line) => <p><small><Text>{line}</Text></small></p>)}
    </div>
  );
}
