// A task's live output, written into a log: which attempt speaks, what it printed, remarks.
import { local } from "../format.js";
import { called } from "../calls.js";
import { LogStore } from "./store.js";
import { Terminal } from "./terminal.js";

/** @import { Chunk } from "../answers.d.ts" */

export class OutputLog {
  constructor() {
    this.terminal = new Terminal();
    /** @type {string | null} route and segment that speak */
    this.place = null;
  }

  get store() {
    return this.terminal.store;
  }

  /** @param {Chunk} chunk */
  take(chunk) {
    const { event_type: kind, text } = chunk;
    const time = Date.parse(chunk.timestamp);
    const place = `${chunk.route}/${chunk.segment}`;
    if (place !== this.place) this.divide(chunk, place, time);
    if (kind === "status" || kind === "error") this.terminal.remark(kind, local(text), time);
    else if (kind === "tool") this.terminal.remark(kind, text, time);
    else if (kind === "call") this.terminal.write("tool", called(text), time);
    else this.terminal.write(kind, text, time);
  }

  /**
   * Say which attempt begins here; the first one needs no saying.
   * @param {Chunk} chunk @param {string} place @param {number} time
   */
  divide(chunk, place, time) {
    const isFirst = this.place === null && chunk.generation <= 1 && !chunk.segment;
    this.place = place;
    this.terminal.reset();
    if (isFirst) return;
    // A try by the host itself, or a check of the work: what comes first in it says which.
    const part = chunk.segment ? ` · try ${chunk.segment + 1}` : "";
    this.terminal.remark("divider", `attempt ${chunk.generation}${part}`, time);
  }

  /** Let go of the first lines where there are too many; whether it did. */
  trim() {
    const store = this.terminal.store.trimmed();
    if (store) this.terminal.store = store;
    return store !== null;
  }

  /** Begin anew behind lines that are too many to show. @param {number} lines */
  skip(lines) {
    const store = new LogStore();
    store.cut = store.numbered = this.store.numbered + lines;
    this.terminal.store = store;
    this.terminal.reset();
  }

  /** @param {number} count */
  lost(count) {
    this.terminal.remark("gap", `⋯ ${count} pieces of output are not kept any more ⋯`, Date.now());
  }
}
