// A run's output as a conversation: what the model said and thought, the tools it used.

import { called } from "../calls.js";

/** @import { Chunk } from "../answers.d.ts" */
/**
 * A part of it. `version` counts its changes, `from` and `to` are ms since the epoch, `size` is in
 * characters. Of a tool: what it was asked (`name`, `input`), what it answered (`text`), `failed` null while
 * it has not.
 * @typedef {{
 *   kind: "token" | "thinking" | "tool" | "stdout" | "stderr" | "status" | "error" | "divider",
 *   text: string, from: number, to: number, version: number, size: number,
 *   name: string, input: Record<string, any>, failed: boolean | null,
 * }} Part
 */

/** Characters of a part; what follows is a part of its own. */
export const LONGEST_PART = 200_000;
/** Characters that are held; past them the first half goes. */
export const HELD = 32_000_000;
const CUT = "⋯ what came before is too much for a page: Raw has Download ⋯";
const FLOWS = new Set(["token", "thinking", "stdout", "stderr"]);

/** @param {Part["kind"]} kind @param {number} time @param {string} text @returns {Part} */
const made = (kind, time, text) => ({
  ...{ kind, text, from: time, to: time, version: 0, size: text.length },
  ...{ name: "", input: {}, failed: null },
});

export class Conversation {
  constructor() {
    /** @type {Part[]} */
    this.parts = [];
    /** @type {Map<string, Part>} by the tool call's id */
    this.calls = new Map();
    /** @type {string | null} route and segment that speak */
    this.place = null;
    this.version = 0;
    this.gone = 0; // parts that are not held any more
    this.size = 0; // characters
    /** whether a model has spoken */
    this.talks = false;
  }

  /** @param {Part["kind"]} kind @param {number} time @param {string} [text] @returns {Part} */
  push(kind, time, text = "") {
    const part = made(kind, time, text);
    this.parts.push(part);
    this.size += part.size;
    return part;
  }

  /** @param {Chunk} chunk */
  take(chunk) {
    this.version += 1;
    const { event_type: kind, text } = chunk;
    this.talks ||= kind === "token" || kind === "thinking" || kind === "tool";
    const time = Date.parse(chunk.timestamp);
    const place = `${chunk.route}/${chunk.segment}`;
    if (place !== this.place) {
      const isFirst = this.place === null && chunk.generation <= 1 && !chunk.segment;
      const part = chunk.segment ? ` · try ${chunk.segment + 1}` : "";
      if (!isFirst) this.push("divider", time, `attempt ${chunk.generation}${part}`);
      this.calls.clear();
      this.place = place;
    }
    if (kind === "tool") this.tool(chunk, time);
    else {
      const last = this.parts.at(-1);
      const [shown, said] = kind === "call" ? [/** @type {const} */ ("stdout"), called(text)] : [kind, text];
      if (FLOWS.has(shown) && last?.kind === shown && last.text.length < LONGEST_PART) this.add(last, said, time);
      else this.push(shown, time, kind === "call" ? said.trimStart() : said);
    }
    this.trim();
  }

  /** @param {Part} part @param {string} text @param {number} time */
  add(part, text, time) {
    part.text += text;
    part.size += text.length;
    this.size += text.length;
    part.to = time;
    part.version += 1;
  }

  /** Let go of the first parts where they are too much. @param {number} [held] */
  trim(held = HELD) {
    if (this.size <= held) return;
    let n = 0;
    for (; this.size > held / 2 && n < this.parts.length - 1; n += 1) this.size -= this.parts[n].size;
    const gone = new Set(this.parts.splice(0, n, made("divider", this.parts[n].from, CUT)));
    this.gone += n - 1;
    for (const [id, part] of this.calls) if (gone.has(part)) this.calls.delete(id);
  }

  /** Say that what came before is more than a page can show. */
  skip() {
    this.push("divider", Number.NaN, CUT);
  }

  /** @param {Chunk} chunk @param {number} time */
  tool({ text, tool }, time) {
    if (tool?.name) {
      const part = this.push("tool", time);
      part.name = tool.name;
      part.input = tool.input ?? {};
      part.size = text.length; // which spells the input
      this.size += text.length;
      this.calls.set(tool.id, part);
      return;
    }
    const asked = tool && this.calls.get(tool.id);
    if (asked) {
      const answer = tool.is_error && asked.failed === null ? text.replace(/^error: /, "") : text;
      if (tool.is_error !== undefined && tool.is_error !== null) asked.failed = tool.is_error;
      this.add(asked, answer, time);
      return;
    }
    // What a helper of the model says, and logs of before tools had fields.
    const last = this.parts.at(-1);
    if (last?.kind === "tool" && !tool) this.add(last, text, time);
    else this.push("tool", time, text).failed = tool?.is_error ?? false;
  }
}

/** @typedef {{ path: string, before: string, after: string }} Edit */

/** What a tool call changes in files. @param {Part} part @returns {Edit[]} */
export function editsOf({ name, input }) {
  const path = String(input.file_path ?? input.path ?? "");
  const text = (/** @type {unknown} */ value) => (typeof value === "string" ? value : "");
  switch (name) {
    case "Write":
      return [{ path, before: "", after: text(input.content) }];
    case "Edit":
      return [{ path, before: text(input.old_string), after: text(input.new_string) }];
    case "MultiEdit":
      return (Array.isArray(input.edits) ? input.edits : []).map((each) => ({
        path,
        before: text(each?.old_string),
        after: text(each?.new_string),
      }));
    default:
      return [];
  }
}

/** What a tool call is about, in a few words. @param {Part} part @returns {string} */
export function aboutOf({ name, input }) {
  for (const key of ["command", "file_path", "path", "pattern", "query", "url", "description", "prompt"])
    if (typeof input[key] === "string" && input[key])
      return `${name === "Bash" ? "$ " : ""}${input[key].split("\n")[0]}`;
  return "";
}
