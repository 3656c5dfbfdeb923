// What if: the decisions of a span, decided again under another policy, one by one.
import { useEffect, useState } from "preact/hooks";
import { carryOut, post, put } from "../api.js";
import { count, dollars, duration, moment, plain, shortId } from "../format.js";
import { Figure, Panel, Scroll, Sure, Text, Said } from "../parts.jsx";
import { useQuery } from "../route.js";
import { pointOf } from "./events.jsx";
import { parsed } from "./policy.jsx";

/** @import { Changed, WhatIfAnswer } from "../answers.d.ts" */
/** @import { Edit, Json, PolicyView } from "../topics.d.ts" */

const SHOWN = 200;
/**
 * What is changed most: where it is in the policy, what it means, its range and unit.
 * @type {[string, string, string, number, number, string][]}
 */
const DIALS = [
  ["fallback_wait_s", "Wait before a task leaves its tier", "", 300, 1, " s"],
  ["max_escalations_in_flight", "Tasks that may be on Claude in place of a local model at once", "", 32, 1, ""],
  ["warm", "A model that is in memory already counts", "scoring", 3, 0.05, " times"],
  ["affinity", "A host that has the repository counts", "scoring", 3, 0.05, " times"],
  ["capacity_cap", "A large machine counts at most", "scoring", 4, 0.05, " times"],
  ["load_floor", "A machine that is fully loaded still counts", "scoring", 1, 0.01, " of an idle one"],
  ["load_unknown", "A machine whose load is unknown counts", "scoring", 1, 0.01, " of an idle one"],
  ["vram_base", "Graphics memory that is full still counts", "scoring", 2, 0.05, ""],
  ["vram_share", "Graphics memory that is free adds", "scoring", 2, 0.05, ""],
  ["vram_unknown", "Graphics memory that is unknown counts", "scoring", 2, 0.05, ""],
];

/**
 * A policy with changes laid over it, as the server lays them.
 * @param {Json} policy @param {Json} changes @returns {Json}
 */
function laidOver(policy, changes) {
  const whole = { ...policy };
  for (const [name, value] of Object.entries(changes)) {
    const isNested = value && typeof value === "object" && !Array.isArray(value) && whole[name];
    whole[name] = isNested && typeof whole[name] === "object" ? { ...whole[name], ...value } : value;
  }
  return whole;
}

/** @param {{ policy: Json, value: Json | null, write: (text: string) => void }} props */
function Dials({ policy, value, write }) {
  const change = (/** @type {string} */ name, /** @type {string} */ within, /** @type {number} */ n) => {
    const inForce = within ? policy[within]?.[name] : policy[name];
    const part = { ...(within ? value?.[within] : value) };
    if (n === inForce) delete part[name];
    else part[name] = n;
    /** @type {Json} */
    const next = within ? { ...value, [within]: part } : part;
    if (within && !Object.keys(part).length) delete next[within];
    write(JSON.stringify(next));
  };
  return (
    <div class="dials">
      {DIALS.map(([name, title, within, most, step, unit]) => {
        const inForce = within ? policy[within]?.[name] : policy[name];
        if (typeof inForce !== "number") return null;
        const said = (within ? value?.[within]?.[name] : value?.[name]) ?? inForce;
        return (
          <label class={said === inForce ? "" : "changed"}>
            <span>{title}</span>
            <input
              type="range"
              min="0"
              max={Math.max(most, inForce, said)}
              step={step}
              value={said}
              disabled={!value}
              onInput={(/** @type {Edit} */ event) => change(name, within, Number(event.currentTarget.value))}
            />
            <output>
              {said}
              {unit}
              {said !== inForce && <small>{` instead of ${inForce}`}</small>}
            </output>
          </label>
        );
      })}
    </div>
  );
}

/** A sequence as a number, an instant as the server takes it. @param {string} text */
const numbered = (text) => (/^\d+$/.test(pointOf(text)) ? Number(text) : pointOf(text));

/** @param {{ policy: PolicyView, operator: boolean }} props */
export function WhatIf({ policy: view, operator }) {
  const { policy, version } = view;
  const [{ whatif, since, until }, set] = useQuery({ whatif: "", since: "1", until: "" });
  const [text, write] = useState(whatif || "{}");
  const [from, setFrom] = useState(since);
  const [to, setTo] = useState(until);
  const [answer, show] = useState(/** @type {WhatIfAnswer | null} */ (null));
  const [busy, setBusy] = useState(false);
  const [value, wrong] = parsed(text);
  const ask = async () => {
    setBusy(true);
    /** @type {Json} */
    const body = { policy: value, since: numbered(from) || 1, limit: SHOWN };
    if (to.trim()) body.until = numbered(to);
    show(await carryOut(() => post("/whatif", body)));
    setBusy(false);
  };
  // biome-ignore lint/correctness/useExhaustiveDependencies: an address that asks is answered once
  useEffect(() => {
    if (whatif && value) ask();
  }, []);
  const send = (/** @type {Event} */ event) => {
    event.preventDefault();
    set({ whatif: text, since: from, until: to });
    ask();
  };
  const force = () =>
    carryOut(
      () => put("/policy", { policy: laidOver(policy, value ?? {}), based_on: version }),
      (done) => done.detail,
    );
  const isOther = value !== null && JSON.stringify(laidOver(policy, value)) !== JSON.stringify(policy);
  return (
    <Panel title="What if" id="whatif">
      <form onSubmit={send} class="form">
        <fieldset>
          <legend>What would have been decided, had it been otherwise</legend>
          <Dials policy={policy} value={value} write={write} />
        </fieldset>
        <details open={wrong !== ""}>
          <summary>Any part of the policy, as JSON</summary>
          <textarea
            class="mono"
            rows={3}
            spellcheck={false}
            aria-label="What is different, as JSON"
            value={text}
            onInput={(event) => write(event.currentTarget.value)}
          />
          {wrong && <p class="bad">{plain(wrong)}</p>}
        </details>
        <div class="row">
          <label>
            From
            <input
              placeholder="sequence, or 2026-01-31 12:00"
              value={from}
              onInput={(event) => setFrom(event.currentTarget.value)}
            />
          </label>
          <label>
            To
            <input placeholder="now" value={to} onInput={(event) => setTo(event.currentTarget.value)} />
          </label>
          <div class="actions">
            <button type="submit" class="main" disabled={busy || !value}>
              {busy ? "Deciding…" : "Decide again"}
            </button>
            <button type="button" onClick={() => write("{}")} disabled={text === "{}"}>
              As it is
            </button>
            {operator && isOther && <Sure label="Put it in force" sure="For all that comes?" act={force} />}
          </div>
        </div>
      </form>
      {answer && <Then answer={answer} />}
    </Panel>
  );
}

/** @param {{ answer: WhatIfAnswer }} props */
function Then({ answer }) {
  const changed = Object.entries(answer.changed);
  const differ = changed.reduce((sum, [, n]) => sum + n, 0);
  const places = [...new Set([...Object.keys(answer.by_place), ...Object.keys(answer.by_place_then)])]
    .filter((place) => (answer.by_place[place] ?? 0) !== (answer.by_place_then[place] ?? 0))
    .sort();
  return (
    <div id="whatif-answer">
      <dl class="figures">
        <Figure label="Decisions">{count(answer.decisions)}</Figure>
        <Figure label="Would differ">{count(differ)}</Figure>
        <Figure label="Fallbacks">
          {count(answer.fallbacks)} → {count(answer.fallbacks_then)}
        </Figure>
        <Figure label="Waited">
          {duration(answer.waited_s * 1000)} → {duration(answer.waited_s_then * 1000)}
        </Figure>
        <Figure label="Dollars">
          {dollars(answer.estimated_cost_usd)} → {dollars(answer.estimated_cost_usd_then)}
        </Figure>
        {answer.tier_changes > answer.passes_unknown && (
          <Figure label={`Pass at the first round, of ${answer.tier_changes - answer.passes_unknown}`}>
            ~{answer.passes.toFixed(1)} → ~{answer.passes_then.toFixed(1)}
          </Figure>
        )}
        <Figure label="Reproduced">
          {count(answer.reproduced)}
          {answer.not_reproduced ? `, ${answer.not_reproduced} not` : ""}
        </Figure>
      </dl>
      {differ === 0 && (
        <p class="note" id="nothing-moved">
          Nothing would have moved: {answer.differences.length ? "" : "this is the policy in force, and "}
          {answer.decisions === 1
            ? "the one decision comes out as it was."
            : `all ${count(answer.decisions)} decisions come out as they were.`}
        </p>
      )}
      {differ > 0 && (
        <p>
          {changed.map(([kind, n]) => `${plain(kind.replaceAll("_", " "))}: ${n}`).join(", ")}
          {answer.unknown_dollars > 0 && `; dollars of ${count(answer.unknown_dollars)} are not known`}
        </p>
      )}
      {places.length > 0 && <Places answer={answer} places={places} />}
      {answer.changes.length > 0 && <Changes answer={answer} />}
      {Object.entries(answer.stays).map(([why, n]) => (
        <p>
          <small>
            Not decided for {count(n)}: <Said most={200}>{why}</Said>
          </small>
        </p>
      ))}
      {answer.said.map((line) => (
        <p>
          <small>
            <Said>{line}</Said>
          </small>
        </p>
      ))}
    </div>
  );
}

/** @param {{ answer: WhatIfAnswer, places: string[] }} props those where the number differs */
const Places = ({ answer, places }) => (
  <Scroll label="Places" class="fit">
    <table class="small narrow">
      <thead>
        <tr>
          <th>Decisions for</th>
          <th class="n">Was</th>
          <th class="n">Would be</th>
        </tr>
      </thead>
      <tbody>
        {places.map((place) => (
          <tr>
            <td>
              <Text>{place}</Text>
            </td>
            <td class="n">{count(answer.by_place[place])}</td>
            <td class="n">{count(answer.by_place_then[place])}</td>
          </tr>
        ))}
      </tbody>
    </table>
  </Scroll>
);

/** Dollars more or less, "?" where those of one side are not known. @param {Changed} one */
function delta({ estimated_cost_usd: usd, estimated_cost_usd_then: then }) {
  if (usd === null || then === null) return "?";
  const more = then - usd;
  return `${more > 0 ? "+" : more < 0 ? "−" : ""}${dollars(Math.abs(more))}`;
}

/** @param {{ answer: WhatIfAnswer }} props */
const Changes = ({ answer }) => (
  <>
    <Scroll label="Decisions that would differ" class="tall">
      <table class="small" id="whatif-changes">
        <thead>
          <tr>
            <th>When</th>
            <th>Task</th>
            <th>What</th>
            <th>Was → would be</th>
            <th class="n">Δ $</th>
            <th>Because</th>
          </tr>
        </thead>
        <tbody>
          {answer.changes.map((each) => (
            <tr key={each.seq}>
              <td>
                <a href={`#/events?from=${each.seq}`} title={`sequence ${each.seq}`}>
                  {moment(each.at)}
                </a>
              </td>
              <td>
                <a class="mono" href={`#/task/${encodeURIComponent(each.task_id)}`}>
                  {shortId(each.task_id)}
                </a>
              </td>
              <td>{plain(each.what.replaceAll("_", " "))}</td>
              <td>
                <Text most={80}>{each.was}</Text> → <Text most={80}>{each.then || "not known"}</Text>
              </td>
              <td class="n">{delta(each)}</td>
              <td>
                <Said most={200}>{each.why}</Said>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
    {answer.changes_left_out > 0 && (
      <p>
        <small>and {count(answer.changes_left_out)} more</small>
      </p>
    )}
  </>
);
