// The policy in force, and what another one would have decided.
import { useState } from "preact/hooks";
import { carryOut, post, put, wordsOf } from "../api.js";
import { count, dollars, duration, moment, plain } from "../format.js";
import { Figure, Panel, Text } from "../parts.jsx";

/** @import { WhatIfAnswer } from "../answers.d.ts" */
/** @import { PolicyView, Json } from "../topics.d.ts" */

/**
 * Read a policy; the second says what is wrong with it.
 * @param {string} text
 * @returns {[Json | null, string]}
 */
function parsed(text) {
  try {
    const value = JSON.parse(text || "{}");
    return typeof value === "object" && value && !Array.isArray(value) ? [value, ""] : [null, "an object is expected"];
  } catch (error) {
    return [null, wordsOf(error)];
  }
}

/** @param {{ policy: PolicyView, operator: boolean }} props */
export function Policy({ policy, operator }) {
  const [text, write] = useState(/** @type {string | null} */ (null));
  const inForce = JSON.stringify(policy.policy, null, 2);
  const [value, wrong] = parsed(text ?? inForce);
  const save = () =>
    carryOut(
      () => put("/policy", { policy: value, based_on: policy.version }),
      (answer) => answer.detail,
    ).then((answer) => answer && write(null));
  const check = () =>
    carryOut(
      () => post("/policy/validate", { policy: value }),
      (answer) => answer.detail,
    );
  return (
    <Panel title={`Policy, version ${policy.version}`} id="policy">
      <p>
        <small>
          {policy.version ? (
            <>
              changed {moment(policy.changed_at)} by <Text>{policy.by}</Text>
            </>
          ) : (
            "the built-in one; what is written here is laid over it"
          )}
        </small>
      </p>
      <details>
        <summary>{operator ? "Look at it and change it" : "Look at it"}</summary>
        <label>
          As JSON; what is left out stays as it is
          <textarea
            class="mono"
            rows={14}
            spellcheck={false}
            readOnly={!operator}
            value={text ?? inForce}
            onInput={(event) => write(event.currentTarget.value)}
          />
        </label>
        {wrong && <p class="bad">{plain(wrong)}</p>}
        <div class="actions">
          <button type="button" onClick={check} disabled={!value}>
            Check
          </button>
          {operator && (
            <button type="button" class="main" onClick={save} disabled={!value || text === null}>
              Put it in force
            </button>
          )}
          {text !== null && (
            <button type="button" onClick={() => write(null)}>
              Undo
            </button>
          )}
        </div>
      </details>
    </Panel>
  );
}

/** The numbers that are changed most, as fields; each is a part of the JSON below them. */
const WEIGHTS = [
  "warm",
  "affinity",
  "vram_base",
  "vram_share",
  "vram_unknown",
  "load_floor",
  "load_unknown",
  "capacity_cap",
];

/** @param {{ policy: Json, value: Json | null, write: (text: string) => void }} props */
function Weights({ policy, value, write }) {
  const put = (/** @type {Json} */ changed) => write(JSON.stringify({ ...value, ...changed }));
  const field = (
    /** @type {string} */ title,
    /** @type {number} */ number,
    /** @type {(n: number) => void} */ change,
  ) => (
    <label>
      {title}
      <input
        type="number"
        step="any"
        min="0"
        value={number}
        disabled={!value}
        onInput={(event) => event.currentTarget.value !== "" && change(Number(event.currentTarget.value))}
      />
    </label>
  );
  return (
    <div class="row weights">
      {field("fallback wait, s", value?.fallback_wait_s ?? policy.fallback_wait_s, (n) => put({ fallback_wait_s: n }))}
      {WEIGHTS.filter((name) => policy.scoring?.[name] !== undefined).map((name) =>
        field(name.replaceAll("_", " "), value?.scoring?.[name] ?? policy.scoring[name], (n) =>
          put({ scoring: { ...value?.scoring, [name]: n } }),
        ),
      )}
    </div>
  );
}

/** @param {{ last: number, policy: Json }} props */
export function WhatIf({ last, policy }) {
  const [text, write] = useState('{"scoring": {"warm": 2.0}, "fallback_wait_s": 30}');
  const [from, setFrom] = useState("1");
  const [until, setUntil] = useState("");
  const [answer, show] = useState(/** @type {WhatIfAnswer | null} */ (null));
  const [busy, setBusy] = useState(false);
  const [value, wrong] = parsed(text);
  const ask = async (/** @type {Event} */ event) => {
    event.preventDefault();
    setBusy(true);
    /** @type {Json} */
    const body = { policy: value, since: Number(from) || 1, limit: 50 };
    if (until) body.until = Number(until);
    show(await carryOut(() => post("/whatif", body)));
    setBusy(false);
  };
  return (
    <Panel title="What if" id="whatif">
      <form onSubmit={ask} class="form">
        <fieldset>
          <legend>Other weights and waits</legend>
          <Weights policy={policy} value={value} write={write} />
        </fieldset>
        <label>
          What is different, as JSON; any part of the policy
          <textarea
            class="mono"
            rows={3}
            spellcheck={false}
            value={text}
            onInput={(event) => write(event.currentTarget.value)}
          />
        </label>
        {wrong && <p class="bad">{plain(wrong)}</p>}
        <div class="row">
          <label>
            From sequence
            <input
              type="number"
              min="1"
              max={last}
              value={from}
              onInput={(event) => setFrom(event.currentTarget.value)}
            />
          </label>
          <label>
            To sequence
            <input
              type="number"
              min="1"
              max={last}
              placeholder="now"
              value={until}
              onInput={(event) => setUntil(event.currentTarget.value)}
            />
          </label>
          <button type="submit" class="main" disabled={busy || !value}>
            {busy ? "Deciding…" : "Decide again"}
          </button>
        </div>
      </form>
      {answer && <Then answer={answer} />}
    </Panel>
  );
}

/** @param {{ answer: WhatIfAnswer }} props */
function Then({ answer }) {
  const changed = Object.entries(answer.changed);
  const places = [...new Set([...Object.keys(answer.by_place), ...Object.keys(answer.by_place_then)])].sort();
  return (
    <div id="whatif-answer">
      <dl class="figures">
        <Figure label="Decisions">{count(answer.decisions)}</Figure>
        <Figure label="Would differ">{count(changed.reduce((sum, [, n]) => sum + n, 0))}</Figure>
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
      {changed.length > 0 && (
        <p>{changed.map(([kind, n]) => `${plain(kind.replaceAll("_", " "))}: ${n}`).join(", ")}</p>
      )}
      {places.length > 0 && (
        <table class="small">
          <thead>
            <tr>
              <th>Place</th>
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
      )}
      {answer.said.map((line) => (
        <p>
          <small>
            <Text>{line}</Text>
          </small>
        </p>
      ))}
    </div>
  );
}
