// How high a log is and where its lines are, in rows of text, without drawing any of it.
/** @import { LogStore } from "./store.js" */
import { PAGE } from "./store.js";

export const LONGEST = 8000; // characters of a line that are shown

/** Rows of lines: one each, as many as it is wrapped into, none where it is not wanted. */
export class Layout {
  /**
   * @param {LogStore} store
   * @param {number} columns that a line is wrapped at; 0: it is not
   * @param {((kind: string) => boolean) | null} wanted null: all
   */
  constructor(store, columns, wanted) {
    this.store = store;
    this.columns = columns;
    this.wanted = wanted;
    /** @type {number[]} rows before each sealed page, and behind the last */
    this.before = [0];
  }

  /** @param {number} at */
  rows(at) {
    if (this.wanted && !this.wanted(this.store.kind(at))) return 0;
    if (!this.columns) return 1;
    return Math.max(1, Math.ceil(Math.min(this.store.textLength(at), LONGEST) / this.columns));
  }

  sealedRows() {
    const { pages } = this.store;
    while (this.before.length <= pages.length) {
      const page = pages[this.before.length - 1];
      let rows = page.count;
      if (this.wanted || this.columns) {
        rows = 0;
        for (let n = 0; n < page.count; n += 1) rows += this.rows(page.first + n);
      }
      this.before.push((this.before.at(-1) ?? 0) + rows);
    }
    return this.before[pages.length];
  }

  /** Rows in all. */
  total() {
    let rows = this.sealedRows();
    for (let at = this.store.sealed; at < this.store.length; at += 1) rows += this.rows(at);
    return rows;
  }

  /** Rows before a line. @param {number} at */
  above(at) {
    const sealed = this.sealedRows();
    const page = Math.floor(at / PAGE);
    const inside = at < this.store.sealed;
    let rows = inside ? this.before[page] : sealed;
    for (let n = inside ? page * PAGE : this.store.sealed; n < at; n += 1) rows += this.rows(n);
    return rows;
  }

  /** The line that a row is in, and the rows before it. @param {number} row */
  find(row) {
    const sealed = this.sealedRows();
    let at = this.store.sealed;
    let rows = sealed;
    if (row < sealed) {
      let [low, high] = [0, this.store.pages.length - 1];
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        if (this.before[middle] <= row) low = middle;
        else high = middle - 1;
      }
      at = low * PAGE;
      rows = this.before[low];
    }
    for (; at < this.store.length; at += 1) {
      const own = this.rows(at);
      if (rows + own > row) return { at, rows };
      rows += own;
    }
    return { at: Math.max(0, this.store.length - 1), rows };
  }
}
