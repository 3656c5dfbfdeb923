// Routing: decisions as they fall, the world as it was, and what another policy would do.
import { FirstRounds } from "../checks.jsx";
import { TIERS, clock, count, plain, shortId, local } from "../format.js";
import { Empty, Figure, Panel, Scroll, Text, Tier, Said } from "../parts.jsx";
import { useQuery } from "../route.js";
import { useTopic } from "../socket.js";
import { Past } from "./past.jsx";
import { Policy } from "./policy.jsx";
import { WhatIf } from "./whatif.jsx";

/** @import { Decision, PageProps } from "../topics.d.ts" */

/** @type {Record<string, string>} */
const TARGETS = {
  sidecar: "To the shell",
  ollama: "To Ollama",
  openai: "To OpenAI-compatible servers",
  claude: "To Claude Code",
};

/** @param {PageProps} props */
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
          {TIERS.map((tier) => (
            <Figure label={`Tier ${tier}`}>{count(data.by_tier[tier])}</Figure>
          ))}
          {targets.map(([target, n]) => (
            <Figure label={TARGETS[target] ?? `To ${target}`}>{count(n)}</Figure>
          ))}
          <Figure label="Fallbacks">{count(data.fallbacks)}</Figure>
          <Figure label="Fallbacks avoided">{count(data.waits_avoided)}</Figure>
        </dl>
        {Object.keys(data.hops).length > 0 && (
          <p>
            Hops:{" "}
            {Object.entries(data.hops)
              .map(([hop, n]) => `${hop.replace("->", " → ")}: ${n}`)
              .join(", ")}
          </p>
        )}
      </Panel>
      <Decisions decisions={data.decisions} />
      {last > 0 && <Past last={last} />}
      <FirstRounds rows={data.first_rounds} />
      <Disagreements counts={data.disagreements} />
      <Policy policy={data.policy} operator={operator} />
      <WhatIf policy={data.policy} operator={operator} />
    </div>
  );
}

/** @param {{ decisions: Decision[] }} props */
function Decisions({ decisions }) {
  const [{ tier, target, fell }, set] = useQuery({ tier: "", target: "", fell: "" });
  const targets = [...new Set([...decisions.map((each) => each.target), ...(target ? [target] : [])])].sort();
  const shown = decisions.filter(
    (each) => (!tier || each.tier === tier) && (!target || each.target === target) && (!fell || each.fallback),
  );
  return (
    <Panel title="Latest decisions" id="decisions">
      <div class="filters">
        <select aria-label="Tier" value={tier} onChange={(event) => set({ tier: event.currentTarget.value })}>
          <option value="">any tier</option>
          {TIERS.map((each) => (
            <option>{each}</option>
          ))}
        </select>
        <select aria-label="Target" value={target} onChange={(event) => set({ target: event.currentTarget.value })}>
          <option value="">any target</option>
          {targets.map((each) => (
            <option>{each}</option>
          ))}
        </select>
        <label class="inline">
          <input type="checkbox" checked={fell !== ""} onChange={() => set({ fell: fell ? "" : "yes" })} /> fallbacks
          only
        </label>
      </div>
      <Scroll label="Latest decisions" class="tall">
        <table class="small">
          <thead>
            <tr>
              <th>Seq</th>
              <th>At</th>
              <th>Task</th>
              <th>Tier</th>
              <th>Where</th>
              <th>Because</th>
              <th class="n">Candidates</th>
              <th class="n">Took</th>
            </tr>
          </thead>
          <tbody>
            {shown.map((each) => (
              <tr key={each.seq}>
                <td class="mono">{each.seq}</td>
                <td>{clock(each.at)}</td>
                <td>
                  <a class="mono" href={`#/task/${each.task_id}`}>
                    {shortId(each.task_id)}
                  </a>
                </td>
                <td>
                  <Tier tier={each.tier} />
                  {each.fallback && (
                    <span class="badge fb" title={plain(local(each.why ?? ""))}>
                      FB
                    </span>
                  )}
                </td>
                <td>
                  <Text most={60}>{[each.host, each.endpoint, each.model].filter(Boolean).join(" · ")}</Text>
                </td>
                <td>
                  <Said most={120}>{each.fallback ? each.why : each.reason}</Said>
                </td>
                <td class="n">
                  {each.candidates}
                  {each.excluded ? ` (+${each.excluded} out)` : ""}
                </td>
                <td class="n">{Math.round(each.decided_us)} µs</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
      {!shown.length && <Empty>No decision is like that.</Empty>}
    </Panel>
  );
}

/** @param {{ counts: Record<string, number> }} props */
function Disagreements({ counts }) {
  const pairs = Object.entries(counts);
  return (
    <Panel title="Said one tier, worded like another">
      {pairs.length ? (
        <table class="small narrow">
          <thead>
            <tr>
              <th>Submitter said</th>
              <th>Wording suggests</th>
              <th class="n">Tasks</th>
            </tr>
          </thead>
          <tbody>
            {pairs.map(([pair, n]) => {
              const [explicit, inferred] = pair.split("/");
              return (
                <tr>
                  <td>
                    <Tier tier={explicit} />
                  </td>
                  <td>
                    <Tier tier={inferred} />
                  </td>
                  <td class="n">{count(n)}</td>
                </tr>
              );
            })}
          </tbody>
        </table>
      ) : (
        <Empty>None so far.</Empty>
      )}
    </Panel>
  );
}
