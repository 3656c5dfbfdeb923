// The difference of two texts, as lines.
import { diffLines } from "diff";

/** @typedef {{ kind: "add" | "del" | "same", text: string }} Line */

const AROUND = 3; // lines that stay shown around a change

/** @param {string} before @param {string} after @returns {Line[]} */
export function differing(before, after) {
  const parts = diffLines(before, after, { timeout: 100, maxEditLength: 5000 }) ?? [
    { removed: true, added: false, value: before },
    { removed: false, added: true, value: after },
  ];
  return parts.flatMap(({ added, removed, value }) => {
    const lines = value.split("\n");
    if (lines.at(-1) === "") lines.pop();
    const kind = added ? "add" : removed ? "del" : "same";
    return lines.map((text) => ({ kind: /** @type {Line["kind"]} */ (kind), text }));
  });
}

/** @param {Line[]} lines */
export const counted = (lines) => ({
  added: lines.filter(({ kind }) => kind === "add").length,
  removed: lines.filter(({ kind }) => kind === "del").length,
});

/** Without what stands far from any change. @param {Line[]} lines @returns {(Line | null)[]} null: left out */
export function near(lines) {
  const wanted = new Set();
  for (const [n, { kind }] of lines.entries())
    if (kind !== "same") for (let at = n - AROUND; at <= n + AROUND; at += 1) wanted.add(at);
  /** @type {(Line | null)[]} */
  const shown = [];
  for (const [n, line] of lines.entries()) {
    if (wanted.has(n)) shown.push(line);
    else if (shown.length && shown.at(-1) !== null) shown.push(null);
  }
  return shown;
}
