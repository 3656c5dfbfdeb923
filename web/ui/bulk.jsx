// One command for many tasks: those that are chosen, or all that a filter finds.
import { useState } from "preact/hooks";
import { newKey, notice, post, wordsOf } from "./api.js";
import { FINAL, STATES, count } from "./format.js";
import { Sure } from "./parts.jsx";

/** @import { BulkProgress } from "./answers.d.ts" */
/** @typedef {{ filter: Record<string, any> } | { ids: string[] }} Which */

const OPEN = STATES.filter((state) => !FINAL.has(state));
const AGAIN = ["failed", "dead", "expired", "cancelled"];

/**
 * Carry out a command on many; say how far it is, and what came of it.
 * @param {"cancel" | "retry"} action @param {Which} which
 * @param {(done: number, matched: number) => void} [told]
 * @returns {Promise<boolean>} whether nothing was refused
 */
export async function forMany(action, which, told = () => {}) {
  const id = newKey();
  try {
    for (;;) {
      /** @type {BulkProgress} */
      const { finished, matched, done, unchanged, refused } = await post("/tasks/bulk?wait=0", {
        id,
        action,
        ...which,
      });
      told(done + unchanged + refused, matched);
      if (!finished) continue;
      const left = unchanged ? `, ${count(unchanged)} were so already` : "";
      const no = refused ? `, ${count(refused)} refused` : "";
      notice(`${action}: ${count(done)} of ${count(matched)} tasks${left}${no}.`, refused ? "bad" : "good");
      return refused === 0;
    }
  } catch (error) {
    notice(wordsOf(error), "bad");
    return false;
  }
}

/**
 * The same for every task that the filter finds, or that is chosen.
 * @param {{
 *   query: Record<string, any>, states: Record<string, number>, picked: string[], chosen: Set<string>,
 *   clear: () => void,
 * }} props `states` counts what the filter finds in each state, `picked` are those it is narrowed to
 */
export function Bulk({ query, states, picked, chosen, clear }) {
  const [busy, setBusy] = useState("");
  const run = async (/** @type {"cancel" | "retry"} */ action, /** @type {Which} */ which) => {
    setBusy("…");
    await forMany(action, which, (done, matched) => setBusy(`${count(done)} of ${count(matched)}`));
    setBusy("");
    if ("ids" in which) clear();
  };
  /** @type {["cancel" | "retry", string, string[]][]} */
  const actions = [
    ["cancel", "Cancel", OPEN],
    ["retry", "Retry", AGAIN],
  ];
  const { sort: _, ...filter } = query;
  return (
    <span class="bulk" aria-busy={busy !== ""}>
      {busy && <progress aria-label="Under way" />}
      {busy && <span role="status">{busy}</span>}
      {!busy &&
        actions.map(([action, title, fitting]) => {
          if (chosen.size)
            return (
              <Sure
                label={`${title} ${count(chosen.size)} chosen`}
                sure={`${title} ${count(chosen.size)}?`}
                act={() => run(action, { ids: [...chosen] })}
              />
            );
          const meant = fitting.filter((state) => !picked.length || picked.includes(state));
          const n = meant.reduce((sum, state) => sum + (states[state] ?? 0), 0);
          if (!n) return null;
          const [only] = meant.filter((state) => states[state]);
          const what = meant.filter((state) => states[state]).length === 1 ? ` ${only}` : "";
          return (
            <Sure
              label={`${title} ${count(n)}${what}`}
              sure={`${title} ${count(n)}?`}
              act={() => run(action, { filter: { ...filter, state: meant } })}
            />
          );
        })}
      {chosen.size > 0 && !busy && (
        <button type="button" class="quiet" onClick={clear}>
          Choose none
        </button>
      )}
    </span>
  );
}
