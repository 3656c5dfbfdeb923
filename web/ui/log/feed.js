// A task's output on its way from the server: what was left out on the websocket, because it
// was too much or too fast, is read again from the store, in order and each piece once. What
// comes meanwhile waits, and little of it: the rest is read from the store as well, no faster
// than it is shown.
import { chunks } from "../api.js";

/** @import { Chunk } from "../answers.d.ts" */
/** @import { Output, Skipped } from "../topics.d.ts" */

const AGAIN = 1000; // ms, after the store was away
/** Characters that wait while the store is read. */
export const WAITING = 4_000_000;
const STATE = new Set(["status", "error"]); // of these none is left out
// A run that goes on in a later incarnation of its host counts on from the next million.
const INCARNATION = 1_000_000;

/**
 * `take` gets a piece, `lost` how many nobody has any more, `skipped` how many lines are more
 * than a page can show, `busy` whether pieces are being read from the store; `begun`: what is
 * kept of before is all there.
 * @typedef {{
 *   take: (chunk: Chunk) => void, lost: (n: number) => void, skipped: (lines: number) => void,
 *   busy: (is: boolean) => void, begun: () => void,
 * }} Sink
 */

export class Feed {
  /** @param {string} id the task's @param {Sink} sink @param {typeof chunks} [read] the store's reader */
  constructor(id, sink, read = chunks) {
    this.id = id;
    this.sink = sink;
    this.store = read;
    /** @type {Record<string, number>} the number of the last piece, by route */
    this.reached = {};
    this.next = 1; // where in the store it goes on
    /** @type {Output[] | null} what came while the store is read */
    this.waiting = null;
    this.size = 0; // characters that wait
    this.dropped = 0; // pieces that would have waited, and are in the store
    this.stop = new AbortController();
  }

  close() {
    this.stop.abort();
  }

  /** @param {Output} message */
  take(message) {
    if (this.waiting) this.wait(this.waiting, message);
    else if (message.type === "gap") this.fill(message.lost);
    else if (message.type === "begun") this.sink.begun();
    else if (message.type === "skipped") this.skip(message);
    else this.hand(message);
  }

  /** @param {Output[]} waiting @param {Output} message */
  wait(waiting, message) {
    // A gap behind a gap is filled by the same reading, or by the next one.
    if (waiting.at(-1)?.type === "gap" && message.type === "gap") return;
    waiting.push(message);
    this.size += sizeOf(message);
    if (this.size <= WAITING) return;
    this.waiting = waiting.filter((each) => each.type !== "execution_event" || STATE.has(each.event_type));
    this.dropped += waiting.length - this.waiting.length;
    this.size = this.waiting.reduce((sum, each) => sum + sizeOf(each), 0);
  }

  /** @param {Chunk} chunk */
  hand(chunk) {
    if (chunk.n <= (this.reached[chunk.route] ?? -1)) return;
    this.reached[chunk.route] = chunk.n;
    this.sink.take(chunk);
  }

  /** Go on with a later piece than the next one. @param {Skipped} place */
  skip({ seq, route, n, lines }) {
    if (seq <= this.next) return;
    this.next = seq;
    this.reached[route] = n - 1;
    this.sink.skipped(lines);
  }

  /** @param {Chunk & { seq: number }} chunk */
  stored(chunk) {
    this.next = chunk.seq + 1;
    const reached = Math.max(this.reached[chunk.route] ?? 0, chunk.n - (chunk.n % INCARNATION));
    if (chunk.n > reached + 1) this.sink.lost(chunk.n - reached - 1);
    this.hand(chunk);
  }

  /** @param {number} lost how many pieces were left out */
  async fill(lost) {
    this.waiting = [];
    this.size = this.dropped = 0;
    this.sink.busy(true);
    try {
      for (let done = false; !done; ) done = await this.read(lost);
    } catch {
      return; // the page is left
    }
    this.sink.busy(false);
    const waited = this.waiting ?? [];
    const { dropped } = this;
    this.waiting = null;
    if (dropped) this.fill(dropped);
    for (const each of waited) this.take(each);
  }

  /** @param {number} lost @returns {Promise<boolean>} whether there is no more to wait for */
  async read(lost) {
    try {
      await this.store(this.id, (chunk) => this.stored(chunk), this.stop.signal, this.next);
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

/** @param {Output} message */
const sizeOf = (message) => (message.type === "execution_event" ? message.text.length : 0);
