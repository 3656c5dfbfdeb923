// Why a task went where it went, and what that cost.
import { allTokens, clock, count, dollars, duration, guess, plain, savedText } from "../format.js";
import { Empty, Panel, Scroll, Text, Tier } from "../parts.jsx";

/** @import { AttemptView, Candidate, TaskDetail } from "../answers.d.ts" */
/** @import { Topics } from "../topics.d.ts" */

/** @type {(keyof Candidate["factors"])[]} */
const FACTORS = ["load", "capacity", "vram", "warm", "affinity", "slots"];

/** @param {{ data: Topics["task"] }} props */
export function Routing({ data }) {
  const { route, task } = data;
  if (!route)
    return (
      <Panel title="Routing">
        <Empty>Not routed yet.</Empty>
      </Panel>
    );
  return (
    <Panel title="Routing" id="routing">
      <details>
        <summary id="trace-summary">
          <Tier tier={route.effective_tier} />
          {route.fallback_used && <span class="badge fb">FB</span>}{" "}
          <Text>
            {[route.selected_host, route.selected_endpoint, route.selected_model].filter(Boolean).join(" · ")}
          </Text>{" "}
          <small>
            ({count(route.candidate_count)} candidate{route.candidate_count === 1 ? "" : "s"})
          </small>
        </summary>
        <div id="trace">
          <dl class="pairs">
            <dt>Reason</dt>
            <dd>
              <Text>{route.classification_reason}</Text>
            </dd>
            {task.classification && task.classification.reason !== route.classification_reason && (
              <>
                <dt>Classification</dt>
                <dd>
                  <Text>{task.classification.reason}</Text>
                </dd>
              </>
            )}
            {route.fallback_used && (
              <>
                <dt>Fallback</dt>
                <dd>
                  from {route.fallback_from_tier}: <Text>{route.fallback_reason}</Text>
                </dd>
              </>
            )}
            <dt>Wait</dt>
            <dd>
              {route.wait
                ? `${duration(route.wait.waited_s * 1000)} for ${route.wait.tier} since ${clock(route.wait.since)}, ` +
                  `fallback ${route.wait.outcome}`
                : "none"}
            </dd>
            <dt>Decided</dt>
            <dd>
              in {Math.round(route.decided_us ?? 0)} µs, under{" "}
              {route.policy_version ? `version ${route.policy_version} of the policy` : "the built-in policy"}, knowing
              the log up to sequence {count(route.log_seq)}
            </dd>
          </dl>
          <h3>Candidates</h3>
          <Scroll label="Candidates">
            <table class="small">
              <thead>
                <tr>
                  <th>Candidate</th>
                  <th class="n">Score</th>
                  {FACTORS.map((name) => (
                    <th class="n">{name}</th>
                  ))}
                  <th class="n">CPU</th>
                  <th class="n">Free</th>
                </tr>
              </thead>
              <tbody>
                {route.candidates.map((each) => (
                  <tr
                    class={
                      each.host === route.selected_host && (each.endpoint ?? "") === (route.selected_endpoint ?? "")
                        ? "chosen"
                        : ""
                    }
                  >
                    <td>
                      <Text>{[each.host, each.endpoint, each.model].filter(Boolean).join(" · ")}</Text>
                    </td>
                    <td class="n">
                      <b>{each.score.toFixed(4)}</b>
                    </td>
                    {FACTORS.map((name) => (
                      <td class="n">{each.factors[name].toFixed(3)}</td>
                    ))}
                    <td class="n">
                      {each.cpu === undefined || each.cpu === null ? "unknown" : `${Math.round(each.cpu * 100)}%`}
                    </td>
                    <td class="n">
                      {each.slots_free}/{each.slots_total}
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </Scroll>
          <h3>Excluded</h3>
          {route.excluded_names?.length ? (
            <ul id="excluded">
              {route.excluded_names.map((each) => (
                <li>
                  <Text>{each.name}</Text>: <Text>{each.reason}</Text>
                </li>
              ))}
            </ul>
          ) : (
            <p id="excluded">
              {Object.entries(route.excluded ?? {})
                .map(([reason, n]) => `${plain(reason)}: ${n}`)
                .join(", ") || "nobody"}
            </p>
          )}
        </div>
      </details>
    </Panel>
  );
}

/** @param {{ task: TaskDetail, attempts: AttemptView[] }} props */
export function Cost({ task, attempts }) {
  const shell = task.target_type === "sidecar" || task.target_type === "noop";
  const local = task.target_type === "ollama" || task.target_type === "openai";
  const lines = attempts.filter((each) => each.started_at);
  return (
    <Panel title="Cost" id="cost">
      {shell && allTokens(task) === 0 && task.cost_usd === 0 ? (
        <p>
          <b>0 tokens, $0.00 (shell execution)</b>
        </p>
      ) : (
        <p>
          <b>{local && task.cost_usd === 0 ? "$0.00 (local)" : guess(task) + dollars(task.cost_usd)}</b>
          {task.saved_usd > 0 && <span class="saved"> Saved: {savedText(task.saved_usd)} vs Claude</span>}
          {task.unpriced_runs > 0 && <span class="bad"> {task.unpriced_runs} runs could not be priced</span>}
        </p>
      )}
      <Scroll label="Cost by attempt">
        <table class="small">
          <thead>
            <tr>
              <th>Attempt</th>
              <th>Model</th>
              <th class="n">Tokens in</th>
              <th class="n">Tokens out</th>
              <th class="n">Cache read</th>
              <th class="n">Cache write</th>
              <th class="n">Dollars</th>
            </tr>
          </thead>
          <tbody>
            {lines.map((each) => (
              <tr>
                <td>{each.generation}.</td>
                <td>
                  <Text>{each.target_type === "sidecar" ? "none" : each.model || "none"}</Text>
                </td>
                <td class="n">{count(each.tokens_in)}</td>
                <td class="n">{count(each.tokens_out)}</td>
                <td class="n">{count(each.cache_read_tokens)}</td>
                <td class="n">{count(each.cache_write_tokens)}</td>
                <td class="n">{each.unpriced ? "unknown" : guess(each) + dollars(each.cost_usd)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
      {task.result?.price_list && (
        <small>
          Prices: <Text>{task.result.price_list}</Text>
          {task.result.equivalent_model && (
            <>
              , compared with <Text>{task.result.equivalent_model}</Text>
            </>
          )}
          ; {plain(task.result.cost_basis)}
        </small>
      )}
    </Panel>
  );
}
