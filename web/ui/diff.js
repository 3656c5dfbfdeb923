// A patch as lines to show: git's own text, split into files. Nothing of it is markup.

/** @typedef {{ kind: "add" | "del" | "hunk" | "meta" | "same", text: string }} Line */
/** @typedef {{ lines: Line[], left: number }} Shown */

const MOST = 2000; // lines of a file that are shown

/**
 * The text as people wrote it: bytes that are no UTF-8 as a whole came as latin-1.
 * @param {string} patch @param {string} [encoding]
 */
export function readable(patch, encoding) {
  if (encoding !== "latin-1") return patch;
  return new TextDecoder().decode(Uint8Array.from(patch, (each) => each.charCodeAt(0)));
}

/**
 * One entry for each file, in the patch's order.
 * @param {string} patch @returns {Shown[]}
 */
export function filesOf(patch) {
  /** @type {Shown[]} */
  const files = [];
  let inHunk = false;
  const lines = patch.split("\n");
  if (lines.at(-1) === "") lines.pop();
  for (const text of lines) {
    if (text.startsWith("diff --git ")) {
      files.push({ lines: [], left: 0 });
      inHunk = false;
    }
    const file = files.at(-1);
    if (!file) continue;
    if (text.startsWith("@@")) inHunk = true;
    if (file.lines.length >= MOST) file.left += 1;
    else file.lines.push({ kind: kindOf(text, inHunk), text });
  }
  return files;
}

/** @param {string} text @param {boolean} inHunk @returns {Line["kind"]} */
function kindOf(text, inHunk) {
  if (!inHunk) return "meta"; // where `--- a/file` is a header and no line
  if (text.startsWith("@@")) return "hunk";
  if (text.startsWith("+")) return "add";
  if (text.startsWith("-")) return "del";
  return text.startsWith("\\") ? "meta" : "same";
}
