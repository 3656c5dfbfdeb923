// One task: what it puts out, and beside that its state, where and why there, what it cost.
import { useCallback, useMemo, useRef, useState } from "preact/hooks";
import { carryOut, chunks, download, get, post, toClipboard } from "../api.js";
import { Changes } from "../changes.jsx";
import { Checks } from "../checks.jsx";
import { FINAL, count, plain } from "../format.js";
import { Graph } from "../graph.jsx";
import { Terminal, settled } from "../log/terminal.js";
import { LogView } from "../log/view.jsx";
import { Output } from "../output.jsx";
import { Dialog, Empty, Fallback, Panel, Simulated, State, Sure, Text, Tier, Said } from "../parts.jsx";
import { useTitle } from "../route.js";
import { useNow, useTopic } from "../socket.js";
import { Tree } from "../tree.jsx";
import { callsIn } from "./chat.jsx";
import { Logged } from "./logged.jsx";
import { Details, Phases, Where, Why } from "./side.jsx";
import { Cost } from "./taskcost.jsx";

/** @import { Chunk, LoggedEvent, TaskDetail } from "../answers.d.ts" */
/** @import { Handle } from "../output.jsx" */
/** @import { Live } from "./taskcost.jsx" */
/** @import { Output as Piece, PageProps } from "../topics.d.ts" */

/** @param {PageProps} props */
export function Task({ rest, operator, theme, submit }) {
  const id = rest[0] ?? "";
  const panel = useRef(/** @type {Handle | null} */ (null));
  const early = useRef(/** @type {Piece[]} */ ([])); // what comes before there is a panel
  const live = useRef(/** @type {Live} */ ({ tokens: null }));
  const take = useCallback((/** @type {Piece} */ message) => {
    if (message.type === "execution_event" && message.tokens_so_far != null)
      live.current.tokens = message.tokens_so_far;
    if (panel.current) panel.current.take(message);
    else early.current.push(message);
  }, []);
  const attach = useCallback((/** @type {Handle | null} */ handle) => {
    panel.current = handle;
    if (handle) for (const message of early.current.splice(0)) handle.take(message);
  }, []);
  const { data, error } = useTopic(id ? "task" : null, { task_id: id }, take);
  const now = useNow();
  useTitle(data ? `${plain(data.task.description, 60)} · ${data.task.state}` : "Task");
  if (error)
    return (
      <div class="page" id="not-found">
        <h1>There is no such task</h1>
        <p>{plain(error.error)}</p>
        <p>
          <a href="#/tasks">All tasks</a>
        </p>
      </div>
    );
  if (!data) return <Empty>Waiting for the task…</Empty>;
  const { task } = data;
  return (
    <div class="page wide" id="task" data-state={task.state}>
      <header class="task-head">
        <h1>
          <Text most={300}>{task.description}</Text>
        </h1>
        <p>
          <State state={task.state} /> <Tier tier={task.tier} />
          <Fallback task={task} /> <span class="badge">{task.priority}</span> <Simulated on={task.simulated} />{" "}
          <code title="The task's id">{task.task_id}</code>
        </p>
        <Actions task={task} operator={operator} submit={submit} />
      </header>
      <div class="task-columns">
        <div class="task-main">
          <Failure task={task} operator={operator} submit={submit} />
          <Waits why={data.why} />
          <Output
            ref={attach}
            task={task}
            over={FINAL.has(task.state)}
            theme={theme}
            lines={linesOf(rest[1])}
            tab={rest[1] === "raw" || rest[1] === "conversation" ? rest[1] : ""}
            pick={(tab) => {
              location.hash = `#/task/${task.task_id}/${tab}`;
            }}
            placeholder={placeholderOf(task)}
          />
          <Graph id={task.task_id} />
          <Tree task={task} />
          <Changes changes={task.result?.changes} id={task.task_id} />
          <Checks routes={data.routes} />
          <Result task={task} theme={theme} />
          <Events events={data.events} left={data.events_left_out} />
        </div>
        <aside class="task-side" aria-label="About the task" tabindex={-1}>
          <Phases task={task} now={now} />
          <Where task={task} />
          <Cost task={task} routes={data.routes} live={live.current} />
          <Why data={data} now={now} />
          <Details task={task} />
        </aside>
      </div>
    </div>
  );
}

/** Why nothing is shown. @param {TaskDetail} task */
function placeholderOf({ state, result }) {
  if (!FINAL.has(state)) return "Nothing yet. What the task writes appears here as it runs.";
  if (!result) return "This task did not run to its end, and printed nothing that is kept.";
  if (!result.output_bytes && !result.stderr_bytes && !result.output) return "This task printed nothing.";
  return "What this task printed is not kept any more. Its result, below, has its beginning and its end.";
}

/** @param {{ why: string[] }} props */
function Waits({ why }) {
  if (!why.length) return null;
  return (
    <Panel title="Why it waits">
      <ul>
        {why.map((line) => (
          <li>
            <Said>{line}</Said>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

const FAILED = new Set(["failed", "dead", "expired"]);

/**
 * What went wrong, on top, with what one can do about it.
 * @param {{ task: TaskDetail, operator: boolean, submit: PageProps["submit"] }} props
 */
function Failure({ task, operator, submit }) {
  const { state, error, reason, result } = task;
  const stderr = result?.stderr ?? "";
  const last = useMemo(() => lastLines(stderr, 5), [stderr]);
  if (!FAILED.has(state)) return null;
  return (
    <Panel class="failure" id="failure">
      <h2>
        {state} {error && <code>{plain(error.code, 80)}</code>}
        {result?.exit_code != null && <span class="badge">{`exit ${result.exit_code}`}</span>}
      </h2>
      <p>
        <Said most={2000}>{error?.message || reason || "Nobody said why."}</Said>
      </p>
      {last.length > 0 && <pre aria-label="The last lines of stderr">{plain(last.join("\n"))}</pre>}
      {operator && (
        <div class="actions">
          <Retry id={task.task_id} />
          <Again task={task} submit={submit} />
        </div>
      )}
    </Panel>
  );
}

/** @param {string} text @param {number} most */
const lastLines = (text, most) => (text ? settled(text.trimEnd(), most) : []);

/** @param {{ id: string }} props */
const Retry = ({ id }) => (
  <button type="button" onClick={() => carryOut(() => post(`/tasks/${id}/retry`), "It is tried anew.")}>
    Retry
  </button>
);

/** @param {{ task: TaskDetail, submit: PageProps["submit"] }} props */
const Again = ({ task, submit }) => (
  <button type="button" onClick={() => submit({ ...(task.spec ?? {}), retry_of: task.task_id })}>
    Run again with…
  </button>
);

/**
 * The lines that an address names: L120, or L120-L130.
 * @param {string} [text] @returns {[number, number] | null}
 */
function linesOf(text = "") {
  const [, from, to] = /^L(\d{1,9})(?:-L(\d{1,9}))?$/.exec(text) ?? [];
  return from ? [Number(from), Math.max(Number(from), Number(to ?? from))] : null;
}

/** @param {{ task: TaskDetail, operator: boolean, submit: PageProps["submit"] }} props */
function Actions({ task, operator, submit }) {
  const [moving, move] = useState(false);
  const { task_id: id } = task;
  const over = FINAL.has(task.state);
  const command = `nats req agentcom.query.task '{"task_id": "${id}", "events": true}'`;
  const save = () =>
    carryOut(async () => {
      const whole = await get(`/tasks/${id}?events=true`);
      /** @type {Chunk[]} */
      const output = [];
      await chunks(id, (chunk) => output.push(chunk));
      download(`${id}.json`, JSON.stringify({ ...whole, output: { chunks: output } }, null, 2), "application/json");
    });
  return (
    <div class="actions">
      {operator && !over && (
        <Sure
          label="Cancel"
          sure="Cancel it?"
          act={() => carryOut(() => post(`/tasks/${id}/cancel`), "It is cancelled.")}
        />
      )}
      {operator && task.state === "cancelled" && <Retry id={id} />}
      {operator && over && !FAILED.has(task.state) && <Again task={task} submit={submit} />}
      {operator && !over && (
        <button type="button" onClick={() => move(true)}>
          Reassign
        </button>
      )}
      <button type="button" onClick={() => toClipboard(command, `Copied: ${command}`, command)}>
        Copy nats command
      </button>
      <button type="button" onClick={save}>
        Export JSON
      </button>
      {moving && <Reassign id={id} close={() => move(false)} />}
    </div>
  );
}

/** @param {{ id: string, close: () => void }} props */
function Reassign({ id, close }) {
  const { data } = useTopic("fleet");
  const [host, choose] = useState("");
  const hosts = (data?.hosts ?? []).filter((each) => each.state === "up");
  const send = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const answer = await carryOut(() => post(`/tasks/${id}/reassign`, { host }), "It goes to the other host.");
    if (answer) close();
  };
  return (
    <Dialog title="Reassign to a host" close={close}>
      <form class="form" onSubmit={send}>
        <label>
          Host
          <select value={host} required onChange={(event) => choose(event.currentTarget.value)}>
            <option value="">Choose one</option>
            {hosts.map((each) => (
              <option value={each.host}>{plain(each.host)}</option>
            ))}
          </select>
        </label>
        <footer>
          <button type="submit" class="main" disabled={!host}>
            Reassign
          </button>
        </footer>
      </form>
    </Dialog>
  );
}

/** @param {{ text: string, kind: "stdout" | "stderr", theme: string }} props */
function Printed({ text, kind, theme }) {
  const store = useMemo(() => {
    const terminal = new Terminal();
    terminal.write(kind, text, Number.NaN);
    return terminal.store;
  }, [text, kind]);
  return <LogView id={`result-${kind}`} store={store} label={kind} theme={theme} follow={false} fit={400} />;
}

/** @param {{ task: TaskDetail, theme: string }} props */
function Result({ task, theme }) {
  const { result } = task;
  if (!result) return null;
  return (
    <Panel title="Result" id="result">
      <details>
        <summary>
          {result.status}
          {result.exit_code !== undefined && result.exit_code !== null ? `, exit ${result.exit_code}` : ""}
          {typeof result.verified === "boolean" && (result.verified ? ", verified" : ", not verified")}
          {result.truncated ? ", head and tail of it" : ""}
        </summary>
        {result.error && (
          <p class="bad">
            <Said>{`${result.error.code}: ${result.error.message}`}</Said>
          </p>
        )}
        {(result.tool_calls ?? []).length > 0 && (
          <code class="block">{plain(callsIn(result.tool_calls ?? []).join("\n"))}</code>
        )}
        {result.output && <Printed text={result.output} kind="stdout" theme={theme} />}
        {result.stderr && <Printed text={result.stderr} kind="stderr" theme={theme} />}
      </details>
    </Panel>
  );
}

/** @param {{ events: LoggedEvent[], left: number }} props */
function Events({ events, left }) {
  const [whole, show] = useState(false);
  return (
    <Panel
      title={`Events: ${events.length}`}
      id="raw-events"
      action={
        <label class="inline">
          <input type="checkbox" checked={whole} onChange={() => show(!whole)} /> JSON
        </label>
      }
    >
      <details>
        <summary>Everything the log has about it</summary>
        <ol class="log">
          {events.map((each) => (
            <Logged key={each.seq} logged={each} whole={whole} />
          ))}
        </ol>
        {left > 0 && <p>{count(left)} more are in the log.</p>}
      </details>
    </Panel>
  );
}
