// A log's lines: the last ones as they can still be changed, the others sealed in pages, each
// of which is one text with a few numbers. A million lines take what their text takes and a
// little more. Of more text than a page may hold the first lines go.

/** Kinds of lines; those up to `tool` have numbers, the others are remarks between them. */
export const KINDS = ["stdout", "stderr", "token", "thinking", "tool", "status", "error", "divider", "gap"];
/** @typedef {"stdout" | "stderr" | "token" | "thinking" | "tool" | "status" | "error" | "divider" | "gap"} Kind */
/** @type {Record<string, number>} */
const CODE = Object.fromEntries(KINDS.map((kind, n) => [kind, n]));
const NUMBERED = CODE.tool;

/**
 * A line. `runs` holds pairs: from which place on which style holds. `at` is its place in
 * the log, `number` what is written beside it (0: nothing), `time` ms since the epoch.
 * @typedef {{ text: string, runs: number[], kind: Kind, time: number, at: number, number: number }} Line
 */

export const PAGE = 1000;
/** How many lines can still be reached by a cursor. */
export const REACH = 500;
/** Characters that are held; past them the first half goes. */
export const HELD = 64_000_000;

class Page {
  /** @param {Line[]} lines */
  constructor(lines) {
    this.first = lines[0].at;
    this.count = lines.length;
    this.starts = new Uint32Array(lines.length + 1);
    this.kinds = new Uint8Array(lines.length);
    this.numbered = 0; // lines with a number before this page
    /** @type {number[]} pairs: from which line on which time holds */
    const times = [];
    /** @type {number[]} */
    const runs = [];
    let place = 0;
    for (const [n, line] of lines.entries()) {
      this.starts[n] = place;
      this.kinds[n] = CODE[line.kind];
      if (times.at(-1) !== line.time) times.push(n, line.time);
      for (let r = 0; r < line.runs.length; r += 2) runs.push(place + line.runs[r], line.runs[r + 1]);
      place += line.text.length + 1;
    }
    this.starts[lines.length] = place;
    this.times = Float64Array.from(times);
    this.runs = Uint32Array.from(runs);
    this.text = lines.map((line) => line.text).join("\n");
  }

  /** @param {number} n a line's place in the page */
  length(n) {
    return this.starts[n + 1] - this.starts[n] - 1;
  }

  /** @param {number} n @returns {Line} */
  line(n) {
    const from = this.starts[n];
    const to = this.starts[n + 1] - 1;
    const runs = [];
    for (let r = after(this.runs, from); r < this.runs.length && this.runs[r] < to; r += 2)
      runs.push(this.runs[r] - from, this.runs[r + 1]);
    const time = this.times[after(this.times, n + 0.5) - 1];
    let number = this.numbered;
    for (let each = 0; each <= n; each += 1) number += Number(this.kinds[each] <= NUMBERED);
    const kind = /** @type {Kind} */ (KINDS[this.kinds[n]]);
    if (this.kinds[n] > NUMBERED) number = 0;
    return { text: this.text.slice(from, to), runs, kind, time, at: this.first + n, number };
  }

  /** @param {number} n */
  kind(n) {
    return KINDS[this.kinds[n]];
  }
}

/**
 * Of pairs whose first members rise: where the first one begins that is `value` or more.
 * @param {Uint32Array | Float64Array} pairs @param {number} value
 */
function after(pairs, value) {
  let [low, high] = [0, pairs.length / 2];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (pairs[2 * middle] < value) low = middle + 1;
    else high = middle;
  }
  return 2 * low;
}

/** @param {Line[]} lines how many of them have a number */
const numbers = (lines) => lines.reduce((sum, line) => sum + Number(line.number > 0), 0);

export class LogStore {
  constructor() {
    /** @type {Page[]} */
    this.pages = [];
    /** @type {Line[]} the last lines, which may still change */
    this.live = [];
    this.sealed = 0; // lines in pages
    this.numbered = 0; // lines with a number
    this.size = 0; // characters in pages
    this.cut = 0; // lines with a number that are not held any more
    this.gone = 0; // lines by which those here stood further down in the store before this one
    /** @type {Set<Kind>} */
    this.seen = new Set();
  }

  get length() {
    return this.sealed + this.live.length;
  }

  /** Whether it holds what came by two pipes. */
  get hasBoth() {
    return this.seen.has("stdout") && this.seen.has("stderr");
  }

  /** @param {Kind} kind @param {number} time @returns {Line} an empty one, at the end */
  push(kind, time) {
    this.seen.add(kind);
    if (this.live.length >= PAGE + REACH) this.seal();
    const number = CODE[kind] <= NUMBERED ? ++this.numbered : 0;
    /** @type {Line} */
    const line = { text: "", runs: [], kind, time, at: this.length, number };
    this.live.push(line);
    return line;
  }

  seal() {
    const page = new Page(this.live.splice(0, PAGE));
    const before = this.pages.at(-1);
    page.numbered = before
      ? before.numbered + before.kinds.filter((code) => code <= NUMBERED).length
      : this.numbered - numbers(this.live) - page.kinds.filter((code) => code <= NUMBERED).length;
    this.pages.push(page);
    this.sealed += page.count;
    this.size += page.text.length;
  }

  /**
   * The store that goes on where this one holds too much: itself without its first pages.
   * What watches this one may still read it.
   * @param {number} [held] @returns {LogStore | null} null where it does not hold too much
   */
  trimmed(held = HELD) {
    if (this.size <= held) return null;
    const store = new LogStore();
    let gone = 0; // pages
    for (store.size = this.size; store.size > held / 2 && gone < this.pages.length; gone += 1)
      store.size -= this.pages[gone].text.length;
    store.pages = this.pages.slice(gone);
    store.live = this.live;
    this.live = [...this.live];
    store.gone = gone * PAGE;
    store.sealed = this.sealed - store.gone;
    store.numbered = this.numbered;
    store.seen = this.seen;
    store.cut = store.pages[0]?.numbered ?? this.numbered - numbers(store.live);
    for (const page of store.pages) page.first -= store.gone;
    for (const line of store.live) line.at -= store.gone;
    return store;
  }

  /** Whether a line can still be changed. @param {Line} line */
  isLive(line) {
    return line.at >= this.sealed;
  }

  /** @param {number} at @returns {Line} */
  line(at) {
    if (at >= this.sealed) return this.live[at - this.sealed];
    return this.pages[Math.floor(at / PAGE)].line(at % PAGE);
  }

  /** @param {number} at */
  textLength(at) {
    if (at >= this.sealed) return this.live[at - this.sealed].text.length;
    return this.pages[Math.floor(at / PAGE)].length(at % PAGE);
  }

  /** @param {number} at */
  kind(at) {
    if (at >= this.sealed) return this.live[at - this.sealed].kind;
    return this.pages[Math.floor(at / PAGE)].kind(at % PAGE);
  }

  /** The place of the line with this number; -1 where there is none. @param {number} number */
  placeOf(number) {
    if (number <= this.cut || number > this.numbered) return -1;
    let [low, high] = [0, this.pages.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.pages[middle].numbered < number) low = middle + 1;
      else high = middle;
    }
    // The page before `low` begins below it; what follows the last page is live.
    for (let at = Math.max(0, low - 1) * PAGE; at < this.length; at += 1) {
      const page = at < this.sealed ? this.pages[Math.floor(at / PAGE)] : null;
      if (page && at % PAGE === 0) {
        let number_ = page.numbered;
        for (let n = 0; n < page.count; n += 1) {
          number_ += Number(page.kinds[n] <= NUMBERED);
          if (number_ === number && page.kinds[n] <= NUMBERED) return at + n;
        }
        at += page.count - 1;
      } else if (this.live[at - this.sealed]?.number === number) return at;
    }
    return -1;
  }

  /**
   * The text of lines, as it was printed but without colours.
   * @param {number} [from] @param {number} [to] @param {(kind: string) => boolean} [wanted]
   */
  text(from = 0, to = this.length, wanted = () => true) {
    const lines = [];
    for (let at = from; at < to; at += 1) if (wanted(this.kind(at))) lines.push(this.line(at).text);
    return lines.join("\n");
  }
}
