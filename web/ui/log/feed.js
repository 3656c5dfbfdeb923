// A task's output on its way from the server: what was left out on the websocket, because it
// was too much or too fast, is read again from the store, in order and each piece once.
import { chunks } from "../api.js";

/** @import { Chunk } from "../answers.d.ts" */
/** @import { Output } from "../topics.d.ts" */

const AGAIN = 1000; // ms, after the store was away

/**
 * `take` gets a piece, `lost` how many nobody has any more, `busy` whether pieces are being
 * read from the store; `begun`: what is kept of before is all there.
 * @typedef {{
 *   take: (chunk: Chunk) => void, lost: (n: number) => void, busy: (is: boolean) => void, begun: () => void,
 * }} Sink
 */

export class Feed {
  /** @param {string} id the task's @param {Sink} sink */
  constructor(id, sink) {
    this.id = id;
    this.sink = sink;
    /** @type {Record<string, number>} the number of the last piece, by route */
    this.reached = {};
    /** @type {Output[] | null} what came while the store is read */
    this.waiting = null;
    this.stop = new AbortController();
  }

  close() {
    this.stop.abort();
  }

  /** @param {Output} message */
  take(message) {
    if (this.waiting) {
      // A gap behind a gap is filled by the same reading, or by the next one.
      if (this.waiting.at(-1)?.type !== "gap" || message.type !== "gap") this.waiting.push(message);
    } else if (message.type === "gap") this.fill(message.lost);
    else if (message.type === "begun") this.sink.begun();
    else this.hand(message);
  }

  /** @param {Chunk} chunk */
  hand(chunk) {
    if (chunk.n <= (this.reached[chunk.route] ?? -1)) return;
    this.reached[chunk.route] = chunk.n;
    this.sink.take(chunk);
  }

  /** @param {number} lost how many pieces were left out */
  async fill(lost) {
    this.waiting = [];
    this.sink.busy(true);
    try {
      for (let done = false; !done; ) done = await this.read(lost);
    } catch {
      return; // the page is left
    }
    this.sink.busy(false);
    const waited = this.waiting ?? [];
    this.waiting = null;
    for (const each of waited) this.take(each);
  }

  /** @param {number} lost @returns {Promise<boolean>} whether there is no more to wait for */
  async read(lost) {
    try {
      await chunks(this.id, (chunk) => this.hand(chunk), this.stop.signal);
      return true;
    } catch (error) {
      if (this.stop.signal.aborted) throw error;
      const status = /** @type {{ status?: number }} */ (error).status ?? 0;
      if (status >= 400 && status < 500 && status !== 429) {
        this.sink.lost(lost);
        return true;
      }
      await new Promise((go) => setTimeout(go, AGAIN));
      return false;
    }
  }
}
