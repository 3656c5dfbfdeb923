// What a task has cost: in a line, and by route.
import { useEffect, useState } from "preact/hooks";
import { get } from "../api.js";
import { FINAL, allTokens, count, dollars, guess, plain, savedText } from "../format.js";
import { Panel, Scroll, Text } from "../parts.jsx";

/** @import { CostsAnswer, RouteView, TaskDetail } from "../answers.d.ts" */
/** @typedef {{ tokens: number | null }} Live what its output has told so far */

/** @param {number | null} usd */
const orUnknown = (usd) => (usd === null ? "unknown dollars" : dollars(usd));

/**
 * What a token that was written has cost on average, with all that was read for it; null where none was yet.
 * @param {string} target whose runs, "" to ask nothing
 */
function useRate(target) {
  const [rate, set] = useState(/** @type {number | null} */ (null));
  useEffect(() => {
    set(null);
    if (!target) return undefined;
    let over = false;
    get("/costs?by=target").then(
      (/** @type {CostsAnswer} */ { lines }) => {
        const line = lines.find(({ key }) => key === target);
        if (!over && line?.tokens_out) set(line.estimated_cost_usd / line.tokens_out);
      },
      () => {}, // then it says nothing of dollars
    );
    return () => {
      over = true;
    };
  }, [target]);
  return rate;
}

/** What a task costs, in a line. @param {{ task: TaskDetail, live: Live }} props */
function CostLine({ task, live }) {
  const shell = task.target_type === "sidecar" || task.target_type === "noop";
  const local = task.target_type === "ollama" || task.target_type === "openai";
  const known = allTokens(task);
  const running = !FINAL.has(task.state) && live.tokens !== null && !known;
  const rate = useRate(running && !local ? task.target_type : "");
  if (running)
    return (
      <p>
        <b>{`${count(live.tokens)} tokens so far`}</b>
        {local ? (
          ", $0.00 (local)"
        ) : rate ? (
          <span title="By what as many tokens of such runs have cost until now; the bill comes with the end.">
            {`, ~${dollars((live.tokens ?? 0) * rate)} so far`}
          </span>
        ) : (
          ", dollars when it ends"
        )}
      </p>
    );
  if (shell && known === 0 && task.estimated_cost_usd === 0)
    return (
      <p>
        <b>0 tokens, $0.00 (shell execution)</b>
      </p>
    );
  return (
    <p>
      <b>
        {local && task.estimated_cost_usd === 0 ? "$0.00 (local)" : guess(task) + orUnknown(task.estimated_cost_usd)}
      </b>
      {known !== null && `, ${count(known)} tokens`}
      {task.saved_usd > 0 && <span class="saved"> Saved: {savedText(task.saved_usd)} vs Claude</span>}
      {task.unpriced_runs > 0 && <span class="bad"> {task.unpriced_runs} runs could not be priced</span>}
    </p>
  );
}

/** A run that goes on has told nothing of what it takes. @param {RouteView} each */
const isOpen = (each) => !each.ended_at && !each.tokens_in && !each.tokens_out && each.target_type !== "sidecar";

/** @param {{ lines: RouteView[] }} props */
function ByRoute({ lines }) {
  return (
    <Scroll label="Cost by route">
      <table class="small">
        <thead>
          <tr>
            <th>Route</th>
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
              {[each.tokens_in, each.tokens_out, each.cache_read_tokens, each.cache_write_tokens].map((n) => (
                <td class="n">{isOpen(each) ? "–" : count(n)}</td>
              ))}
              <td class="n">
                {isOpen(each) ? "–" : each.unpriced ? "unknown" : guess(each) + dollars(each.estimated_cost_usd)}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

/** @param {{ task: TaskDetail, routes: RouteView[], live: Live }} props */
export function Cost({ task, routes, live }) {
  const lines = routes.filter((each) => each.started_at);
  return (
    <Panel title="Cost" id="cost">
      <CostLine task={task} live={live} />
      {lines.length > 0 && <ByRoute lines={lines} />}
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
