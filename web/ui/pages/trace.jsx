// Why a task went where it went, in numbers.
import { clock, count, duration, plain, local } from "../format.js";
import { Empty, Panel, Scroll, Text, Tier, Said } from "../parts.jsx";

/** @import { Candidate } from "../answers.d.ts" */
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
    <section id="routing">
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
              <Said>{route.classification_reason}</Said>
            </dd>
            {task.classification && task.classification.reason !== route.classification_reason && (
              <>
                <dt>Classification</dt>
                <dd>
                  <Said>{task.classification.reason}</Said>
                </dd>
              </>
            )}
            {route.fallback_used && (
              <>
                <dt>Fallback</dt>
                <dd>
                  from {route.fallback_from_tier}: <Said>{route.fallback_reason}</Said>
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
                  <Text>{each.name}</Text>: <Said>{each.reason}</Said>
                </li>
              ))}
            </ul>
          ) : (
            <p id="excluded">
              {Object.entries(route.excluded ?? {})
                .map(([reason, n]) => `${plain(local(reason))}: ${n}`)
                .join(", ") || "nobody"}
            </p>
          )}
        </div>
      </details>
    </section>
  );
}
