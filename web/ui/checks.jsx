// How work was verified: a task's rounds and steps, and how often a model's work passed at once.
import { count, duration, plain } from "./format.js";
import { Panel, Scroll, Text, Tier } from "./parts.jsx";

/** @import { RouteView, CheckView, FirstRoundRow } from "./answers.d.ts" */

/** @param {{ routes: RouteView[] }} props */
export function Checks({ routes }) {
  const checks = routes.flatMap(({ generation, checks }) => checks.map((each) => ({ generation, each })));
  if (!checks.length) return null;
  return (
    <Panel title="Verification" id="checks">
      <Scroll label="Verification">
        <table class="small">
          <thead>
            <tr>
              <th class="n">Routing</th>
              <th class="n">Round</th>
              <th class="n">Step</th>
              <th>Command</th>
              <th>Ended</th>
              <th class="n">Ran</th>
            </tr>
          </thead>
          <tbody>
            {checks.map(({ generation, each }) => (
              <Check generation={generation} check={each} />
            ))}
          </tbody>
        </table>
      </Scroll>
    </Panel>
  );
}

/** @param {{ generation: number, check: CheckView }} props */
function Check({ generation, check }) {
  const { round, rounds, step, of, command, passed, exit_code: code, output, execution_ms: ran } = check;
  const how = code === null ? check.signal || check.code : `exit ${code}`;
  return (
    <tr>
      <td class="n">{generation}</td>
      <td class="n">{`${round}/${rounds}`}</td>
      <td class="n">{`${step}/${of}`}</td>
      <td>
        <code>{plain(command, 200)}</code>
        {!passed && output && (
          <details>
            <summary>The end of its output</summary>
            <pre tabindex={0}>{plain(output)}</pre>
          </details>
        )}
      </td>
      <td class={passed ? "saved" : "bad"}>{`${passed ? "passed" : "failed"}${how ? `, ${plain(how, 80)}` : ""}`}</td>
      <td class="n">{duration(ran)}</td>
    </tr>
  );
}

/** @param {{ rows: FirstRoundRow[] }} props */
export function FirstRounds({ rows }) {
  if (!rows.length) return null;
  return (
    <Panel title="Passed its verification at the first round" id="first-rounds">
      <table class="small narrow">
        <thead>
          <tr>
            <th>Tier</th>
            <th>Model</th>
            <th class="n">Passed</th>
            <th class="n">Of</th>
            <th class="n">Share</th>
          </tr>
        </thead>
        <tbody>
          {rows.map(({ tier, model, passed, failed }) => (
            <tr>
              <td>
                <Tier tier={tier} />
              </td>
              <td>
                <Text most={60}>{model}</Text>
              </td>
              <td class="n">{count(passed)}</td>
              <td class="n">{count(passed + failed)}</td>
              <td class="n">{`${Math.round((100 * passed) / (passed + failed))} %`}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Panel>
  );
}
