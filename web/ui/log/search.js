// Finds a text in a log, page by page, so that the browser stays free in between.
/** @import { LogStore } from "./store.js" */

const SLICE = 12; // ms at a time

/**
 * Where a text is: the places of its lines and columns, rising, in pairs.
 * Lines that can still change are looked at again each time.
 */
export class Search {
  /** @param {LogStore} store @param {string} text @param {(kind: string) => boolean} wanted */
  constructor(store, text, wanted) {
    this.store = store;
    this.text = text.toLowerCase();
    this.wanted = wanted;
    this.found = new Float64Array(1024);
    this.count = 0;
    this.pages = 0; // that were looked at
    this.settled = 0; // what was found in them
    this.over = false;
  }

  /** @param {number} at @param {number} col */
  add(at, col) {
    if (2 * this.count === this.found.length) {
      const larger = new Float64Array(2 * this.found.length);
      larger.set(this.found);
      this.found = larger;
    }
    this.found[2 * this.count] = at;
    this.found[2 * this.count + 1] = col;
    this.count += 1;
  }

  /** Look on. Returns whether all was looked at. @param {() => number} clock */
  step(clock) {
    const until = clock() + SLICE;
    const { pages, live, sealed } = this.store;
    this.count = this.settled;
    while (this.pages < pages.length) {
      this.page(pages[this.pages]);
      this.pages += 1;
      this.settled = this.count;
      if (clock() > until) return false;
    }
    for (const [n, line] of live.entries()) if (this.wanted(line.kind)) this.inside(line.text, sealed + n);
    return true;
  }

  /** @param {import("./store.js").LogStore["pages"][number]} page */
  page(page) {
    const text = page.text.toLowerCase();
    if (text.length !== page.text.length) {
      // A character whose small form is longer moves what follows it.
      for (let n = 0; n < page.count; n += 1)
        if (this.wanted(page.kind(n))) this.inside(page.line(n).text, page.first + n);
      return;
    }
    let n = 0;
    for (let at = text.indexOf(this.text); at >= 0; at = text.indexOf(this.text, at + this.text.length)) {
      while (page.starts[n + 1] <= at) n += 1;
      if (this.wanted(page.kind(n))) this.add(page.first + n, at - page.starts[n]);
    }
  }

  /** @param {string} text @param {number} at */
  inside(text, at) {
    const small = text.toLowerCase();
    for (let col = small.indexOf(this.text); col >= 0; col = small.indexOf(this.text, col + this.text.length))
      this.add(at, col);
  }

  /** The first hit in or behind a line; `count` where there is none. @param {number} at */
  from(at) {
    let [low, high] = [0, this.count];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.found[2 * middle] < at) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** @param {number} n which hit @returns {number} its line */
  line(n) {
    return this.found[2 * n];
  }
}
