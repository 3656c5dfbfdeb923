// The policy in force: looked at, checked, changed.
import { useState } from "preact/hooks";
import { carryOut, post, put, wordsOf } from "../api.js";
import { moment, plain } from "../format.js";
import { Panel, Text } from "../parts.jsx";

/** @import { PolicyView, Json } from "../topics.d.ts" */

/**
 * Read a policy; the second says what is wrong with it.
 * @param {string} text
 * @returns {[Json | null, string]}
 */
export function parsed(text) {
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
