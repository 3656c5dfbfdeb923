// One task: its state, its attempts, its live output, why it went where, what it cost.
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { Ansi } from "../ansi.js";
import { carryOut, download, get, notice, post } from "../api.js";
import { FINAL, at, clock, count, dollars, duration, moment, plain, savedText } from "../format.js";
import { Output } from "../output.jsx";
import { Dialog, Empty, Fallback, Panel, Scroll, Simulated, State, Sure, Text, Tier } from "../parts.jsx";
import { useNow, useTopic } from "../socket.js";

export function Task({ rest, operator }) {
  const id = rest[0] ?? "";
  const panel = useRef(null);
  const early = useRef([]);
  const take = useCallback((message) => {
    if (panel.current) panel.current.take(message);
    else early.current.push(message);
  }, []);
  const attach = useCallback((handle) => {
    panel.current = handle;
    if (handle) for (const message of early.current.splice(0)) handle.take(message);
  }, []);
  const { data, error } = useTopic(id ? "task" : null, { task_id: id }, take);
  const now = useNow();
  if (error) return <Empty>{plain(error.error)}</Empty>;
  if (!data) return <Empty>Waiting for the task…</Empty>;
  const { task } = data;
  return (
    <div class="page" id="task" data-state={task.state}>
      <header class="task-head">
        <h1><Text most={300}>{task.description}</Text></h1>
        <p>
          <State state={task.state} /> <Tier tier={task.tier} /><Fallback task={task} /> <span class="badge">{task.priority}</span> <Simulated on={task.simulated} /> <code title="The task's id">{task.task_id}</code>
        </p>
        <Actions task={task} operator={operator} />
      </header>
      <Strip task={task} now={now} />
      {data.why.length > 0 && <Panel title="Why it waits"><ul>{data.why.map((line) => <li><Text>{line}</Text></li>)}</ul></Panel>}
      <Attempts attempts={data.attempts} now={now} />
      <Details task={task} />
      <Output ref={attach} placeholder={FINAL.has(task.state) ? "This task has no live output that is still kept." : "Nothing yet. What the task writes appears here as it runs."} />
      <Routing data={data} />
      <Cost task={task} attempts={data.attempts} />
      <Result task={task} />
      <Events events={data.events} left={data.events_left_out} />
    </div>
  );
}

function Actions({ task, operator }) {
  const [moving, move] = useState(false);
  const { task_id: id } = task;
  const over = FINAL.has(task.state);
  const command = `nats req agentcom.query.task '{"task_id": "${id}", "events": true}'`;
  const copy = () => navigator.clipboard.writeText(command).then(() => notice(`Copied: ${command}`), () => notice(command));
  const save = () => carryOut(async () => {
    const whole = await get(`/tasks/${id}?events=true`);
    const output = await get(`/tasks/${id}/output`).catch((error) => ({ error: error.message }));
    download(`${id}.json`, JSON.stringify({ ...whole, output }, null, 2), "application/json");
  });
  return (
    <div class="actions">
      {operator && !over && <Sure label="Cancel" sure="Cancel it?" act={() => carryOut(() => post(`/tasks/${id}/cancel`), "It is cancelled.")} />}
      {operator && over && task.state !== "completed" && <button type="button" onClick={() => carryOut(() => post(`/tasks/${id}/retry`), "It is tried anew.")}>Retry</button>}
      {operator && !over && <button type="button" onClick={() => move(true)}>Reassign</button>}
      <button type="button" onClick={copy}>Copy nats command</button>
      <button type="button" onClick={save}>Export JSON</button>
      {moving && <Reassign id={id} close={() => move(false)} />}
    </div>
  );
}

function Reassign({ id, close }) {
  const { data } = useTopic("fleet");
  const [host, choose] = useState("");
  const hosts = (data?.hosts ?? []).filter((each) => each.state === "up");
  const send = async (event) => {
    event.preventDefault();
    const answer = await carryOut(() => post(`/tasks/${id}/reassign`, { host: host || hosts[0]?.host }), "It goes to the other host.");
    if (answer) close();
  };
  return (
    <Dialog title="Reassign to a host" close={close}>
      <form class="form" onSubmit={send}>
        <label>Host<select value={host} onChange={(event) => choose(event.currentTarget.value)}>{hosts.map((each) => <option value={each.host}>{plain(each.host)}</option>)}</select></label>
        <footer><button type="submit" class="main" disabled={!hosts.length}>Reassign</button></footer>
      </form>
    </Dialog>
  );
}

function Strip({ task, now }) {
  const steps = [["submitted", task.submitted_at], ["routed", task.routed_at], ["accepted", task.accepted_at], ["started", task.started_at], [FINAL.has(task.state) ? task.state : "finished", task.finished_at]];
  const waited = task.wait_ms ?? (task.started_at || FINAL.has(task.state) ? null : now - at(task.waiting_since));
  const ran = task.run_ms ?? (task.started_at && !task.finished_at ? now - at(task.started_at) : null);
  return (
    <ol class="strip" aria-label="States">
      {steps.map(([name, when]) => <li class={when ? "done" : ""}><b>{name}</b><small>{moment(when)}</small></li>)}
      <li class="times"><small>waited <b>{duration(waited)}</b></small><small>ran <b>{duration(ran)}</b></small></li>
    </ol>
  );
}

function Attempts({ attempts, now }) {
  if (!attempts.length) return null;
  const start = Math.min(...attempts.map((each) => at(each.routed_at)));
  const end = Math.max(...attempts.map((each) => at(each.ended_at) || now), start + 1);
  const part = (time) => `${(((at(time) || now) - start) / (end - start)) * 100}%`;
  const width = (from, to) => `${Math.max(0.6, (((at(to) || now) - at(from)) / (end - start)) * 100)}%`;
  return (
    <Panel title={`Attempts: ${attempts.length}`} id="attempts">
      <ol class="lanes">
        {attempts.map((each) => (
          <li>
            <div class="lane-text">
              <b>{each.generation}.</b> <Tier tier={each.tier} />{each.fallback_used && <span class="badge fb">FB</span>} <Text most={90}>{[each.host, each.endpoint, each.model].filter(Boolean).join(" · ")}</Text>
              {" "}<span class={`outcome ${each.outcome}`}>{each.outcome || "under way"}{each.reason && `: ${plain(each.reason, 80)}`}</span>
              {" "}
              {each.local_retries > 0 && <span class="badge">{each.local_retries} local {each.local_retries > 1 ? "retries" : "retry"}</span>}
              {each.late && <span class="badge">late</span>}
              <Simulated on={each.simulated} />
            </div>
            <div class="lane" aria-hidden="true"><i class={`span ${each.outcome || "running"}`} style={{ left: part(each.routed_at), width: width(each.routed_at, each.ended_at) }} /></div>
            {(each.error || each.last_line) && <small class={each.error ? "bad" : ""}><Text most={300}>{each.error || each.last_line}</Text></small>}
          </li>
        ))}
      </ol>
    </Panel>
  );
}

function Details({ task }) {
  const spec = task.spec ?? {};
  const rows = [
    ["Description", <Text>{task.description}</Text>],
    spec.shell && ["Command", <code class="block">{plain(spec.shell.command)}</code>],
    spec.repo && ["Repository", <Text>{spec.repo}{spec.branch ? ` @ ${spec.branch}` : ""}</Text>],
    spec.needs?.length && ["Needs", <Text>{spec.needs.join(", ")}</Text>],
    spec.file_hints?.length && ["Files", <ul>{spec.file_hints.map((hint) => <li><Text>{hint.path}{hint.reason ? `: ${hint.reason}` : ""}</Text></li>)}</ul>],
    spec.success_criteria?.length && ["Success", <ul>{spec.success_criteria.map((line) => <li><Text>{line}</Text></li>)}</ul>],
    spec.verification_steps?.length && ["Verification", <ul>{spec.verification_steps.map((line) => <li><Text>{line}</Text></li>)}</ul>],
    spec.metadata && Object.keys(spec.metadata).length && ["Metadata", <code class="block">{plain(JSON.stringify(spec.metadata, null, 1))}</code>],
    ["Submitted by", <Text>{task.submitter || "–"}</Text>],
    task.error && ["Error", <span class="bad"><Text>{`${task.error_code}: ${task.error}`}</Text></span>],
    task.cancelled_by && ["Cancelled by", <Text>{`${task.cancelled_by} ${task.reason}`}</Text>],
    task.warnings?.length && ["Warnings", <ul>{task.warnings.map((line) => <li><Text>{line}</Text></li>)}</ul>],
    task.void > 0 && ["Void events", `${task.void}: not counted, they did not fit the task's state`],
  ].filter(Boolean);
  return <Panel title="Details"><dl class="pairs">{rows.map(([name, value]) => <><dt>{name}</dt><dd>{value}</dd></>)}</dl></Panel>;
}

const FACTORS = ["load", "capacity", "vram", "warm", "affinity", "slots"];

function Routing({ data }) {
  const { route, task } = data;
  if (!route) return <Panel title="Routing"><Empty>Not routed yet.</Empty></Panel>;
  return (
    <Panel title="Routing" id="routing">
      <details>
        <summary id="trace-summary">
          <Tier tier={route.effective_tier} />{route.fallback_used && <span class="badge fb">FB</span>} <Text>{[route.selected_host, route.selected_endpoint, route.selected_model].filter(Boolean).join(" · ")}</Text> <small>({count(route.candidate_count)} candidate{route.candidate_count === 1 ? "" : "s"})</small>
        </summary>
        <div id="trace">
          <dl class="pairs">
            <dt>Reason</dt><dd><Text>{route.classification_reason}</Text></dd>
            {task.classification && task.classification.reason !== route.classification_reason && <><dt>Classification</dt><dd><Text>{task.classification.reason}</Text></dd></>}
            {route.fallback_used && <><dt>Fallback</dt><dd>from {route.fallback_from_tier}: <Text>{route.fallback_reason}</Text></dd></>}
            <dt>Wait</dt><dd>{route.wait ? `${duration(route.wait.waited_s * 1000)} for ${route.wait.tier} since ${clock(route.wait.since)}, fallback ${route.wait.outcome}` : "none"}</dd>
            <dt>Decided</dt><dd>in {Math.round(route.decided_us ?? 0)} µs, under {route.policy_version ? `version ${route.policy_version} of the policy` : "the built-in policy"}, knowing the log up to sequence {count(route.log_seq)}</dd>
          </dl>
          <h3>Candidates</h3>
          <Scroll label="Candidates">
            <table class="small">
              <thead><tr><th>Candidate</th><th class="n">Score</th>{FACTORS.map((name) => <th class="n">{name}</th>)}<th class="n">CPU</th><th class="n">Free</th></tr></thead>
              <tbody>
                {route.candidates.map((each) => (
                  <tr class={each.host === route.selected_host && (each.endpoint ?? "") === (route.selected_endpoint ?? "") ? "chosen" : ""}>
                    <td><Text>{[each.host, each.endpoint, each.model].filter(Boolean).join(" · ")}</Text></td>
                    <td class="n"><b>{each.score.toFixed(4)}</b></td>
                    {FACTORS.map((name) => <td class="n">{each.factors[name].toFixed(3)}</td>)}
                    <td class="n">{each.cpu === undefined || each.cpu === null ? "unknown" : `${Math.round(each.cpu * 100)}%`}</td>
                    <td class="n">{each.slots_free}/{each.slots_total}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </Scroll>
          <h3>Excluded</h3>
          {route.excluded_names?.length ? (
            <ul id="excluded">{route.excluded_names.map((each) => <li><Text>{each.name}</Text>: <Text>{each.reason}</Text></li>)}</ul>
          ) : (
            <p id="excluded">{Object.entries(route.excluded ?? {}).map(([reason, n]) => `${plain(reason)}: ${n}`).join(", ") || "nobody"}</p>
          )}
        </div>
      </details>
    </Panel>
  );
}

function Cost({ task, attempts }) {
  const shell = task.target_type === "sidecar" || task.target_type === "noop";
  const local = task.target_type === "ollama" || task.target_type === "openai";
  const lines = attempts.filter((each) => each.started_at);
  return (
    <Panel title="Cost" id="cost">
      {shell && task.tokens_in + task.tokens_out === 0 && task.cost_usd === 0 ? (
        <p><b>0 tokens, $0.00 (shell execution)</b></p>
      ) : (
        <p>
          <b>{local && task.cost_usd === 0 ? "$0.00 (local)" : dollars(task.cost_usd)}</b>
          {task.saved_usd > 0 && <span class="saved"> Saved: {savedText(task.saved_usd)} vs Claude</span>}
          {task.unpriced_runs > 0 && <span class="bad"> {task.unpriced_runs} runs could not be priced</span>}
        </p>
      )}
      <Scroll label="Cost by attempt">
        <table class="small">
          <thead><tr><th>Attempt</th><th>Model</th><th class="n">Tokens in</th><th class="n">Tokens out</th><th class="n">Cache read</th><th class="n">Cache write</th><th class="n">Dollars</th></tr></thead>
          <tbody>
            {lines.map((each) => (
              <tr>
                <td>{each.generation}.</td><td><Text>{each.target_type === "sidecar" ? "none" : each.model || "none"}</Text></td>
                <td class="n">{count(each.tokens_in)}</td><td class="n">{count(each.tokens_out)}</td><td class="n">{count(each.cache_read_tokens)}</td><td class="n">{count(each.cache_write_tokens)}</td>
                <td class="n">{each.unpriced ? "unknown" : dollars(each.cost_usd)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
      {task.result?.price_list && <small>Prices: <Text>{task.result.price_list}</Text>{task.result.equivalent_model && <>, compared with <Text>{task.result.equivalent_model}</Text></>}; {plain(task.result.cost_basis)}</small>}
    </Panel>
  );
}

function Coloured({ text, class: name = "" }) {
  const box = useRef(null);
  useEffect(() => box.current.replaceChildren(...new Ansi().spans(text)), [text]);
  return <pre ref={box} class={name} tabindex="0" />;
}

function Result({ task }) {
  const { result } = task;
  if (!result) return null;
  return (
    <Panel title="Result" id="result">
      <details open={!!result.error}>
        <summary>{result.status}{result.exit_code !== undefined && result.exit_code !== null ? `, exit ${result.exit_code}` : ""}{result.truncated ? ", head and tail of it" : ""}</summary>
        {result.error && <p class="bad"><Text>{`${result.error.code}: ${result.error.message}`}</Text></p>}
        {result.output && <Coloured text={result.output} />}
        {result.stderr && <Coloured text={result.stderr} class="stderr" />}
      </details>
    </Panel>
  );
}

function Events({ events, left }) {
  const [whole, show] = useState(false);
  return (
    <Panel title={`Events: ${events.length}`} id="raw-events" action={<label class="inline"><input type="checkbox" checked={whole} onChange={() => show(!whole)} /> JSON</label>}>
      <details>
        <summary>Everything the log has about it</summary>
        <ol class="log">{events.map((each) => <Logged key={each.seq} logged={each} whole={whole} />)}</ol>
        {left > 0 && <p>{count(left)} more are in the log.</p>}
      </details>
    </Panel>
  );
}

const SKIPPED = new Set(["type", "id", "at", "by", "task_id", "host", "route", "incarnation", "candidates", "spec", "classification", "result", "policy"]);

export function Logged({ logged, whole, link = false }) {
  const { seq, subject, event } = logged;
  const short = Object.entries(event).filter(([name, value]) => !SKIPPED.has(name) && typeof value !== "object").map(([name, value]) => `${name}=${value}`).join(" ");
  const about = <Text most={120}>{subject.replace("agentcom.evt.", "")}</Text>;
  return (
    <li>
      <code class="seq">{seq}</code> <time>{moment(event.at)}</time> <b><Text>{event.type}</Text></b> <small class="mono">{link && event.task_id ? <a href={`#/task/${encodeURIComponent(event.task_id)}`}>{about}</a> : about}</small>
      {whole ? <pre>{plain(JSON.stringify(event, null, 2), 50_000)}</pre> : <span class="fields"> <Text most={300}>{short}</Text></span>}
    </li>
  );
}
