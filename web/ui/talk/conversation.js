// A run's output as a conversation: what the model said and thought, the tools it used.

import { called } from "../calls.js";

/** @import { Chunk } from "../answers.d.ts" */
/**
 * A part of it. `version` counts its changes, `from` and `to` are ms since the epoch. Of a
 * tool: what it was asked (`name`, `input`), what it answered (`text`), `failed` null while
 * it has not.
 * @typedef {{
 *   kind: "token" | "thinking" | "tool" | "stdout" | "stderr" | "status" | "error" | "divider",
 *   text: string, from: number, to: number, version: number,
 *   name: string, input: Record<string, any>, failed: boolean | null,
 * }} Part
 */

const FLOWS = new Set(["token", "thinking", "stdout", "stderr"]);

export class Conversation {
  constructor() {
    /** @type {Part[]} */
    this.parts = [];
    /** @type {Map<string, Part>} by the tool call's id */
    this.calls = new Map();
    /** @type {string | null} route and segment that speak */
    this.place = null;
    this.version = 0;
    /** whether a model has spoken */
    this.talks = false;
  }

  /** @param {Part["kind"]} kind @param {number} time @param {string} [text] @returns {Part} */
  push(kind, time, text = "") {
    const part = { kind, text, from: time, to: time, version: 0, name: "", input: {}, failed: null };
    this.parts.push(part);
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
      if (FLOWS.has(shown) && last?.kind === shown) this.add(last, said, time);
      else this.push(shown, time, kind === "call" ? said.trimStart() : said);
    }
  }

  /** @param {Part} part @param {string} text @param {number} time */
  add(part, text, time) {
    part.text += text;
    part.to = time;
    part.version += 1;
  }

  /** @param {Chunk} chunk @param {number} time */
  tool({ text, tool }, time) {
    if (tool?.name) {
      const part = this.push("tool", time);
      part.name = tool.name;
      part.input = tool.input ?? {};
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
