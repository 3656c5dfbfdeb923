// Beside a task's output: how far it is, where, why there, for how much, and what was asked.
import { FINAL, at, dollars, duration, local, moment, plain } from "../format.js";
import { Fallback, Panel, Simulated, State, Text, Tier, Said } from "../parts.jsx";
import { Chat } from "./chat.jsx";
import { Routing } from "./trace.jsx";

/** @import { RouteView, TaskDetail } from "../answers.d.ts" */
/** @import { Topics } from "../topics.d.ts" */

/**
 * How long each part took: waiting, starting, running.
 * @param {TaskDetail} task @param {number} now
 */
function phasesOf(task, now) {
  const over = FINAL.has(task.state);
  const since = at(task.waiting_since || task.submitted_at);
  const end = at(task.finished_at) || now;
  const routed = at(task.routed_at);
  const started = at(task.started_at);
  // A task that was taken back waits again: what came before is in its attempts.
  const again = routed < since && !over;
  const parts = [{ name: task.held && !over ? "held" : "queued", ms: (again ? Number.NaN : routed) - since }];
  if (Number.isNaN(parts[0].ms)) parts[0].ms = end - since;
  else if (started >= routed) {
    parts.push({ name: "start", ms: started - routed }, { name: "run", ms: task.execution_ms ?? end - started });
  } else parts.push({ name: "start", ms: end - routed });
  return parts.map((part) => ({ ...part, ms: Math.max(0, part.ms) }));
}

/** @param {{ task: TaskDetail, now: number }} props */
export function Phases({ task, now }) {
  const parts = phasesOf(task, now);
  const whole = parts.reduce((sum, { ms }) => sum + ms, 0) || 1;
  return (
    <Panel class="phases" title="State" action={<State state={task.state} />}>
      <div class="phase-bar" aria-hidden="true">
        {parts.map(({ name, ms }) => (
          <i
            class={`${name} ${name === "run" || parts.length < 3 ? task.state : ""}`}
            style={{ width: `${(ms / whole) * 100}%` }}
          />
        ))}
      </div>
      <p class="phase-words">
        {parts.map(({ name, ms }) => (
          <span>
            {name} <b>{duration(ms)}</b>
          </span>
        ))}
      </p>
      <dl class="pairs small">
        {[
          ["submitted", task.submitted_at],
          ["routed", task.routed_at],
          ["started", task.started_at],
          [FINAL.has(task.state) ? task.state : "finished", task.finished_at],
        ].map(
          ([name, when]) =>
            when && (
              <>
                <dt>{name}</dt>
                <dd title={new Date(when).toString()}>{moment(when)}</dd>
              </>
            ),
        )}
      </dl>
    </Panel>
  );
}

/** @param {{ task: TaskDetail }} props */
export function Where({ task }) {
  if (!task.host) return null;
  return (
    <Panel title="Where">
      <p>
        <a href={`#/fleet/${encodeURIComponent(task.host)}`}>
          <Text most={80}>{task.host}</Text>
        </a>
        {task.endpoint && (
          <>
            {" · "}
            <Text most={80}>{task.endpoint}</Text>
          </>
        )}
      </p>
      {task.model && (
        <p>
          <a href={`#/tasks?model=${encodeURIComponent(task.model)}`}>
            <Text most={80}>{task.model}</Text>
          </a>
        </p>
      )}
      <p>
        <Tier tier={task.tier} />
        <Fallback task={task} />
        <Simulated on={task.simulated} />
      </p>
    </Panel>
  );
}

/** @param {{ data: Topics["task"], now: number }} props */
export function Why({ data, now }) {
  const { routes, explained } = data;
  if (!routes.length) return <Routing data={data} />;
  return (
    <Panel title={routes.length > 1 ? `Why: ${routes.length} routes` : "Why"} id="attempts">
      <ol class="lanes">
        {routes.map((each, n) => (
          <Attempt
            attempt={each}
            all={routes}
            now={now}
            last={n === routes.length - 1}
            words={explained.find(({ generation }) => generation === each.generation)?.words ?? []}
          />
        ))}
      </ol>
      <Routing data={data} />
    </Panel>
  );
}

/** @param {{ attempt: RouteView, all: RouteView[], now: number, last: boolean, words: string[] }} props */
function Attempt({ attempt: each, all, now, last, words }) {
  const start = Math.min(...all.map((one) => at(one.routed_at)));
  const end = Math.max(...all.map((one) => at(one.ended_at) || now), start + 1);
  const part = (/** @type {string} */ time) => `${(((at(time) || now) - start) / (end - start)) * 100}%`;
  const width = `${Math.max(0.6, (((at(each.ended_at) || now) - at(each.routed_at)) / (end - start)) * 100)}%`;
  return (
    <li>
      <div class="lane-text">
        <b>{each.generation}.</b> <Tier tier={each.tier} />
        {each.fallback_used && <span class="badge fb">FB</span>}{" "}
        <Text most={90}>{[each.host, each.endpoint, each.model].filter(Boolean).join(" · ")}</Text>{" "}
        <span class={`outcome ${each.outcome}`}>
          {each.outcome || "under way"}
          {each.reason && `: ${plain(local(each.reason), 80)}`}
        </span>{" "}
        {each.local_retries > 0 && <span class="badge">{`${each.local_retries + 1} tries there`}</span>}
        {each.late && <span class="badge">late</span>}
        <Simulated on={each.simulated} />
      </div>
      {all.length > 1 && (
        <div class="lane" aria-hidden="true">
          <i class={`span ${each.outcome || "running"}`} style={{ left: part(each.routed_at), width }} />
        </div>
      )}
      {each.error && (
        <small class="bad">
          <Said most={300}>{each.error.message}</Said>
        </small>
      )}
      {words.length > 0 && (
        <details class="words" open={last}>
          <summary>Why it went there</summary>
          <ul>
            {words.map((line) => (
              <li>
                <Said>{line}</Said>
              </li>
            ))}
          </ul>
        </details>
      )}
    </li>
  );
}

/** @param {{ of: any[] }} props */
const Lines = ({ of }) => (
  <ul>
    {of.map((each) => (
      <li>
        <Text>{each}</Text>
      </li>
    ))}
  </ul>
);

/** @param {{ name: string, children?: any }} props */
const Detail = ({ name, children }) => (
  <>
    <dt>{name}</dt>
    <dd>{children}</dd>
  </>
);

/** @param {{ task: TaskDetail }} props */
export function Details({ task }) {
  const { shell, repo, branch, needs = [], attachments = [], metadata = {}, labels = {} } = task.spec ?? {};
  const { file_hints: files = [], success_criteria: success = [], verification_steps: steps = [] } = task.spec ?? {};
  const { model, timeout_s: limit, ttl_s: ttl, max_budget_usd: budget, retry_of: first } = task.spec ?? {};
  const timeout = limit ?? shell?.timeout_s;
  return (
    <Panel title="Details" id="details">
      <dl class="pairs">
        <Detail name="Description">
          <Text>{task.spec?.description ?? task.description}</Text>
        </Detail>
        {(task.spec?.messages ?? []).length > 0 && (
          <Detail name="Chat">
            <Chat task={task} />
          </Detail>
        )}
        {first && (
          <Detail name="Again, of">
            <a class="mono" href={`#/task/${encodeURIComponent(first)}`}>
              <Text most={64}>{first}</Text>
            </a>
          </Detail>
        )}
        {task.mode && (
          <Detail name="Mode">
            <Text>{`${task.mode} (${task.mode_reason})`}</Text>
          </Detail>
        )}
        {shell && (
          <Detail name="Command">
            <code class="block">{plain(shell.command)}</code>
          </Detail>
        )}
        {Object.keys(labels).length > 0 && (
          <Detail name="Labels">
            {Object.entries(labels).map(([key, value]) => (
              <a class="badge" href={`#/tasks?label=${encodeURIComponent(`${key}=${value}`)}`}>
                {plain(`${key}=${value}`, 120)}
              </a>
            ))}
          </Detail>
        )}
        {repo && (
          <Detail name="Repository">
            <Text>{`${repo}${branch ? ` @ ${branch}` : ""}`}</Text>
          </Detail>
        )}
        {task.assign_to && (
          <Detail name="Only on">
            <Text>{task.assign_to}</Text>
          </Detail>
        )}
        {model && (
          <Detail name="Model asked for">
            <Text>{model}</Text>
          </Detail>
        )}
        {task.cwd && (
          <Detail name="Working folder">
            <code>{plain(task.cwd)}</code>
            {task.host && <Text>{` on ${task.host}`}</Text>}
          </Detail>
        )}
        {needs.length > 0 && (
          <Detail name="Needs">
            <Text>{needs.join(", ")}</Text>
          </Detail>
        )}
        {attachments.length > 0 && (
          <Detail name="Attached">
            <Lines of={attachments.map(({ name, size_bytes }) => `${name} (${size_bytes} bytes)`)} />
          </Detail>
        )}
        {files.length > 0 && (
          <Detail name="Files">
            <Lines of={files.map(({ path, reason }) => `${path}${reason ? `: ${reason}` : ""}`)} />
          </Detail>
        )}
        {success.length > 0 && (
          <Detail name="Success">
            <Lines of={success} />
          </Detail>
        )}
        {steps.length > 0 && (
          <Detail name="Verification">
            <Lines of={steps} />
          </Detail>
        )}
        {Object.keys(metadata).length > 0 && (
          <Detail name="Metadata">
            <code class="block">{plain(JSON.stringify(metadata, null, 1))}</code>
          </Detail>
        )}
        <Detail name="Attempts">{`${task.attempts} of at most ${task.max_attempts}`}</Detail>
        <Detail name="Time limit">
          {timeout ? duration(timeout * 1000) : timeout === 0 ? "none" : "the policy's"}
        </Detail>
        {(ttl || task.deadline) && (
          <Detail name="Expires">
            {task.deadline ? moment(task.deadline) : `when nothing could take it for ${duration((ttl ?? 0) * 1000)}`}
          </Detail>
        )}
        {budget && <Detail name="Budget">{dollars(budget)}</Detail>}
        <Detail name="Priority">{task.priority}</Detail>
        <Detail name="Submitted by">
          <Text>{task.submitter || "–"}</Text>
        </Detail>
        {task.error && (
          <Detail name="Error">
            <span class="bad">
              <Said>{`${task.error.code}: ${task.error.message}`}</Said>
            </span>
          </Detail>
        )}
        {task.cancelled_by && (
          <Detail name="Cancelled by">
            <Said>{`${task.cancelled_by} ${task.reason}`}</Said>
          </Detail>
        )}
        {task.warnings.length > 0 && (
          <Detail name="Warnings">
            <Lines of={task.warnings.map(local)} />
          </Detail>
        )}
        {task.void > 0 && (
          <Detail name="Void events">{`${task.void}: not counted, they did not fit the task's state`}</Detail>
        )}
        {Object.keys(task.env).length > 0 && (
          <Detail name="Environment">
            <details>
              <summary>{`${Object.keys(task.env).length} variables`}</summary>
              <code class="block">
                {plain(
                  Object.entries(task.env)
                    .map(([name, value]) => `${name}=${value}`)
                    .join("\n"),
                )}
              </code>
            </details>
          </Detail>
        )}
      </dl>
    </Panel>
  );
}
