// What a terminal would show: text with returns, erased lines, cursors that go up, colours.
// Each kind of text has a cursor of its own, so that a bar on stderr stays one line while
// stdout prints others below it.
import { PLAIN, restyled } from "./sgr.js";
import { LogStore } from "./store.js";

/** @import { Kind, Line } from "./store.js" */
/** @typedef {{ line: Line | null, col: number, style: number, rest: string }} Cursor */

const SPECIAL = /[\n\r\b\u0007\u001b]/g;
const CSI = /\u001b\[([0-?]*)[ -/]*([@-~])/y;
// Titles and links; device control and the like; character sets; two characters.
const OTHER =
  /\u001b(?:\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[PX^_][^\u001b]*\u001b\\|[ -/]+[0-~]|[@-OQ-WYZ\\`-~=>0-9])/y;
const UNFINISHED = /\u001b(?:\[[0-?]*[ -/]*|\][^\u0007\u001b]*\u001b?|[PX^_][^\u001b]*\u001b?|[ -/]*)$/y;
const MOVES = /\u001b\[[0-?]*[ -/]*[@-ln-~]/g;
const LONGEST_SEQUENCE = 4096;
/**
 * Characters of a line; what follows stands in the next one. Some 1,500 lines can still be
 * changed and are never let go of, so a longer one, in a text without line ends, fills memory.
 */
const LONGEST_LINE = 50_000;

export class Terminal {
  /** @param {LogStore} [store] */
  constructor(store = new LogStore()) {
    this.store = store;
    /** @type {Record<string, Cursor>} by kind */
    this.cursors = {};
  }

  /** What comes now is another run's: it writes below, without colour. */
  reset() {
    this.cursors = {};
  }

  /**
   * Lines of their own, which nothing changes any more.
   * @param {Kind} kind @param {string} text @param {number} time
   */
  remark(kind, text, time) {
    for (const each of text.replace(MOVES, "").replace(/\n$/, "").split("\n")) {
      const cursor = { line: this.store.push(kind, time), col: 0, style: PLAIN, rest: "" };
      this.write_(cursor, kind, each, time);
    }
  }

  /** @param {Kind} kind @param {string} text @param {number} time ms since the epoch */
  write(kind, text, time) {
    this.cursors[kind] ??= { line: null, col: 0, style: PLAIN, rest: "" };
    this.write_(this.cursors[kind], kind, text, time);
  }

  /** @param {Cursor} cursor @param {Kind} kind @param {string} piece @param {number} time */
  write_(cursor, kind, piece, time) {
    const text = cursor.rest + piece;
    cursor.rest = "";
    let from = 0;
    while (from < text.length) {
      SPECIAL.lastIndex = from;
      const found = SPECIAL.exec(text);
      const to = found ? found.index : text.length;
      if (to > from) this.put(cursor, kind, text.slice(from, to), time);
      if (!found) return;
      from = to + 1;
      switch (found[0]) {
        case "\n":
          this.down(cursor, kind, time);
          break;
        case "\r":
          cursor.col = 0;
          break;
        case "\b":
          cursor.col = Math.max(0, cursor.col - 1);
          break;
        case "\u001b":
          from = this.escape(cursor, kind, text, to);
          if (from < 0) {
            cursor.rest = text.slice(to);
            return;
          }
      }
    }
  }

  /**
   * Obey the sequence that begins here; return where it ends, -1 where that is not there yet.
   * @param {Cursor} cursor @param {Kind} kind @param {string} text @param {number} at
   */
  escape(cursor, kind, text, at) {
    CSI.lastIndex = at;
    const found = CSI.exec(text);
    if (found) {
      this.obey(cursor, kind, found[2], found[1]);
      return CSI.lastIndex;
    }
    OTHER.lastIndex = at;
    if (OTHER.test(text)) return OTHER.lastIndex;
    UNFINISHED.lastIndex = at;
    return text.length - at < LONGEST_SEQUENCE && UNFINISHED.test(text) ? -1 : at + 1;
  }

  /** @param {Cursor} cursor @param {Kind} kind @param {string} what @param {string} params */
  obey(cursor, kind, what, params) {
    if (what === "m") {
      cursor.style = restyled(cursor.style, params);
      return;
    }
    const n = Math.min(Math.max(1, Number.parseInt(params, 10) || 1), 10_000);
    switch (what) {
      case "K":
        this.erase(cursor, Number.parseInt(params, 10) || 0);
        break;
      case "A":
        this.up(cursor, kind, n);
        break;
      case "F":
        this.up(cursor, kind, n);
        cursor.col = 0;
        break;
      case "B":
      case "E":
        for (let step = 0; step < n && cursor.line; step += 1) cursor.line = this.next(cursor.line, kind);
        if (what === "E") cursor.col = 0;
        break;
      case "C":
        cursor.col += n;
        break;
      case "D":
        cursor.col = Math.max(0, cursor.col - n);
        break;
      case "G":
        cursor.col = n - 1;
        break;
      case "P":
        if (this.here(cursor)) remove(/** @type {Line} */ (cursor.line), cursor.col, n);
        break;
      case "J":
        if ((Number.parseInt(params, 10) || 0) === 0) {
          this.erase(cursor, 0);
          for (let below = this.here(cursor); below; below = this.next(below, kind))
            if (below !== cursor.line) [below.text, below.runs] = ["", []];
        }
    }
  }

  /** The line that is written on, if it can still be. @param {Cursor} cursor */
  here(cursor) {
    if (cursor.line && !this.store.isLive(cursor.line)) [cursor.line, cursor.col] = [null, 0];
    return cursor.line;
  }

  /** @param {Line} line @param {Kind} kind @returns {Line | null} the next one of its kind */
  next(line, kind) {
    const { live, sealed } = this.store;
    for (let n = line.at - sealed + 1; n < live.length; n += 1) if (live[n].kind === kind) return live[n];
    return null;
  }

  /** @param {Cursor} cursor @param {Kind} kind @param {number} time */
  down(cursor, kind, time) {
    const line = this.here(cursor) ?? this.store.push(kind, time);
    cursor.line = line.at + 1 < this.store.length ? this.next(line, kind) : null;
    cursor.col = 0;
  }

  /** @param {Cursor} cursor @param {Kind} kind @param {number} n */
  up(cursor, kind, n) {
    const { live, sealed } = this.store;
    const line = this.here(cursor);
    let left = n;
    for (let at = (line ? line.at - sealed : live.length) - 1; at >= 0 && left > 0; at -= 1) {
      if (live[at].kind !== kind) continue;
      cursor.line = live[at];
      left -= 1;
    }
  }

  /** @param {Cursor} cursor @param {Kind} kind @param {string} piece @param {number} time */
  put(cursor, kind, piece, time) {
    if ((this.here(cursor)?.text.length ?? 0) > LONGEST_LINE) this.down(cursor, kind, time);
    let line = this.here(cursor);
    if (!line) {
      line = this.store.push(kind, time);
      cursor.line = line;
    }
    if (cursor.col > line.text.length) append(line, " ".repeat(Math.min(cursor.col - line.text.length, 1000)), PLAIN);
    cursor.col = Math.min(cursor.col, line.text.length);
    if (cursor.col === line.text.length) append(line, piece, cursor.style);
    else overwrite(line, cursor.col, piece, cursor.style);
    cursor.col += piece.length;
  }

  /** @param {Cursor} cursor @param {number} which 0: what follows, 1: what is before, 2: all */
  erase(cursor, which) {
    const line = this.here(cursor);
    if (!line) return;
    if (which === 1) overwrite(line, 0, " ".repeat(Math.min(cursor.col + 1, line.text.length)), PLAIN);
    else remove(line, which === 2 ? 0 : cursor.col, line.text.length);
  }
}

/** @param {Line} line @param {string} piece @param {number} style */
function append(line, piece, style) {
  if ((line.runs.at(-1) ?? PLAIN) !== style) line.runs.push(line.text.length, style);
  line.text += piece;
}

/** @param {Line} line @param {number} col @returns {number} the style there */
function styleAt({ runs }, col) {
  let style = PLAIN;
  for (let r = 0; r < runs.length && runs[r] <= col; r += 2) style = runs[r + 1];
  return style;
}

/** @param {Line} line @param {number} col @param {string} piece @param {number} style */
function overwrite(line, col, piece, style) {
  const end = col + piece.length;
  const { text, runs } = line;
  const behind = styleAt(line, end);
  const kept = [];
  for (let r = 0; r < runs.length && runs[r] < col; r += 2) kept.push(runs[r], runs[r + 1]);
  if ((kept.at(-1) ?? PLAIN) !== style) kept.push(col, style);
  if (end < text.length) {
    if (style !== behind) kept.push(end, behind);
    for (let r = 0; r < runs.length; r += 2) if (runs[r] > end) kept.push(runs[r], runs[r + 1]);
  }
  // Half a character is none.
  const before = isSecondHalf(text, col) ? `${text.slice(0, col - 1)} ` : text.slice(0, col);
  const after = isSecondHalf(text, end) ? ` ${text.slice(end + 1)}` : text.slice(end);
  line.text = before + piece + after;
  line.runs = kept;
}

/** @param {string} text @param {number} at */
const isSecondHalf = (text, at) => (text.charCodeAt(at) & 0xfc00) === 0xdc00 && at > 0;

/** Take out characters. @param {Line} line @param {number} col @param {number} n */
function remove(line, col, n) {
  const { text, runs } = line;
  const end = Math.min(text.length, col + n);
  if (end <= col) return;
  const behind = styleAt(line, end);
  const kept = [];
  for (let r = 0; r < runs.length && runs[r] < col; r += 2) kept.push(runs[r], runs[r + 1]);
  if (end < text.length) {
    if ((kept.at(-1) ?? PLAIN) !== behind) kept.push(col, behind);
    for (let r = 0; r < runs.length; r += 2) if (runs[r] > end) kept.push(runs[r] - (end - col), runs[r + 1]);
  }
  line.text = text.slice(0, col) + text.slice(end);
  line.runs = kept;
}

/**
 * What a terminal shows in the end of a text, as lines without colour.
 * @param {string} text @param {number} [most] the last so many
 */
export function settled(text, most = Number.POSITIVE_INFINITY) {
  const terminal = new Terminal();
  terminal.write("stdout", text, 0);
  const { store } = terminal;
  return store.text(Math.max(0, store.length - most)).split("\n");
}
