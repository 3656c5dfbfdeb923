// Draws the lines of a log that are in sight, and no others.
import { hours, duration, visible } from "../format.js";
import { LONGEST, Layout } from "./layout.js";
import { look } from "./sgr.js";

/** @import { Line, LogStore } from "./store.js" */
/**
 * @typedef {{
 *   wrap: boolean, times: "off" | "since" | "clock", only: ((kind: string) => boolean) | null,
 *   theme: string, text: string, hit: number, hitCol: number, from: number, to: number,
 *   href: ((number: number) => string) | null, fit: number,
 * }} View what is shown, and how; `hit` is the line of the found text that one is at,
 * `fit` the height in px that it takes at most, 0: what its box has
 */

export const ROW = 18; // px, as in the style sheet
const TALLEST = 15_000_000; // px: browsers have no taller elements
const BEYOND = 20; // rows that are drawn above and below what is in sight
const NEAR_END = 24; // px

export class Rows {
  /**
   * @param {HTMLElement} box that is scrolled @param {HTMLElement} room as high as all lines
   * @param {HTMLElement} sheet that holds those in sight @param {LogStore} store
   * @param {View} view
   */
  constructor(box, room, sheet, store, view) {
    this.box = box;
    this.room = room;
    this.sheet = sheet;
    this.store = store;
    this.view = view;
    this.layout = new Layout(store, 0, null);
    /** @type {Map<number, { element: HTMLElement, text: string, runs: number[], styled: number }>} */
    this.drawn = new Map();
    this.styled = 0; // counts changes of how lines look
    this.total = 0; // rows
    this.scale = 1;
    this.digits = 0; // of the numbers of lines
  }

  /** @param {View} view */
  show(view) {
    const top = this.top();
    this.view = view;
    this.styled += 1;
    this.measure();
    if (this.store.length) this.place(top.at, top.into);
    this.draw();
  }

  /** Where lines are wrapped has changed, or which are shown. */
  measure() {
    this.digits = this.widest();
    this.box.style.setProperty("--digits", String(this.digits));
    const columns = this.view.wrap ? this.columns() : 0;
    if (this.layout.columns !== columns || this.layout.wanted !== this.view.only || this.layout.store !== this.store)
      this.layout = new Layout(this.store, columns, this.view.only);
    this.size();
  }

  /** How many digits the longest number of a line has. */
  widest() {
    return Math.max(3, String(this.store.numbered || 1).length);
  }

  columns() {
    const probe = document.createElement("span");
    probe.className = "probe";
    probe.textContent = "0".repeat(100);
    this.sheet.append(probe);
    const wide = probe.getBoundingClientRect().width / 100;
    probe.remove();
    const gutter = 12 + this.digits * wide + 12 + { off: 0, since: 11, clock: 13 }[this.view.times] * wide;
    return Math.max(20, Math.floor((this.box.clientWidth - gutter - 8) / (wide || 7.5)));
  }

  size() {
    this.total = this.layout.total();
    if (this.view.fit) this.box.style.height = `${Math.min(this.view.fit, this.total * ROW + 18)}px`;
    const tall = this.total * ROW;
    const view = this.box.clientHeight;
    const scale = tall > TALLEST ? (tall - view) / (TALLEST - view) : 1;
    if (scale !== this.scale && this.scale && this.box.scrollTop) {
      const at = this.box.scrollTop * this.scale;
      this.scale = scale;
      this.room.style.height = `${Math.min(tall, TALLEST)}px`;
      this.box.scrollTop = at / scale;
      return;
    }
    this.scale = scale;
    this.room.style.height = `${Math.min(tall, TALLEST)}px`;
  }

  /** The first line in sight, and how many px of it are above. */
  top() {
    const px = this.box.scrollTop * this.scale;
    const { at, rows } = this.layout.find(Math.floor(px / ROW));
    return { at, into: px - rows * ROW };
  }

  /** Bring a line to the top. @param {number} at @param {number} [into] px of it that are above */
  place(at, into = 0) {
    this.box.scrollTop = (this.layout.above(Math.min(at, this.store.length - 1)) * ROW + into) / this.scale;
  }

  /** Bring a line into sight. @param {number} at */
  goTo(at) {
    this.place(at, -Math.floor(this.box.clientHeight / 3));
    this.draw();
  }

  isAtEnd() {
    const { scrollTop, scrollHeight, clientHeight } = this.box;
    return scrollHeight - scrollTop - clientHeight < NEAR_END;
  }

  toEnd() {
    this.box.scrollTop = this.box.scrollHeight;
  }

  draw() {
    // Longer numbers than before leave the text less room.
    if (this.widest() !== this.digits) this.measure();
    const height = this.box.clientHeight;
    const px = this.box.scrollTop * this.scale;
    const first = this.layout.find(Math.max(0, Math.floor(px / ROW) - BEYOND));
    const until = px / ROW + height / ROW + BEYOND;
    /** @type {HTMLElement[]} */
    const shown = [];
    const kept = new Map();
    let rows = first.rows;
    let at = first.at;
    for (; at < this.store.length && rows < until; at += 1) {
      const own = this.layout.rows(at);
      if (!own) continue;
      rows += own;
      const row = this.row(at);
      kept.set(at, row);
      shown.push(row.element);
    }
    this.drawn = kept;
    let before = this.sheet.firstElementChild;
    for (const element of shown) {
      if (element === before) before = before.nextElementSibling;
      else this.sheet.insertBefore(element, before);
    }
    while (before) {
      const next = before.nextElementSibling;
      before.remove();
      before = next;
    }
    let y = this.box.scrollTop - (px - first.rows * ROW);
    // Lines may be higher than was reckoned (wide letters): the last one ends where the room does.
    if (at >= this.store.length && this.view.wrap)
      y = Math.min(this.total * ROW, TALLEST) - this.sheet.offsetHeight + (this.total * ROW < height ? 1e9 : 0);
    if (y > 1e8) y = 0;
    this.sheet.style.transform = `translateY(${y}px)`;
  }

  /** @param {number} at */
  row(at) {
    const line = this.store.line(at);
    const known = this.drawn.get(at);
    if (known && known.text === line.text && known.styled === this.styled && same(known.runs, line.runs)) return known;
    const element = this.element(line);
    return { element, text: line.text, runs: [...line.runs], styled: this.styled };
  }

  /** @param {Line} line */
  element(line) {
    const { view } = this;
    const row = document.createElement("div");
    row.className = `line ${line.kind}`;
    row.dataset.at = String(line.at);
    if (line.number && line.number >= view.from && line.number <= view.to) row.classList.add("target");
    const number = row.appendChild(document.createElement(view.href && line.number ? "a" : "span"));
    number.className = "ln";
    number.textContent = line.number ? String(line.number) : "";
    if (number instanceof HTMLAnchorElement && view.href) {
      number.href = view.href(line.number);
      number.tabIndex = -1;
    }
    if (view.times !== "off") {
      const time = row.appendChild(document.createElement("time"));
      time.textContent = this.time(line.time);
    }
    const text = row.appendChild(document.createElement("span"));
    text.className = "lt";
    this.fill(text, line);
    return row;
  }

  /** @param {number} time */
  time(time) {
    if (Number.isNaN(time)) return "–";
    if (this.view.times === "clock") return `${hours(time)}.${String(Math.floor(time) % 1000).padStart(3, "0")}`;
    return `+${duration(Math.max(0, time - this.store.line(0).time))}`;
  }

  /** @param {HTMLElement} box @param {Line} line */
  fill(box, line) {
    const { text, runs } = line;
    const end = Math.min(text.length, LONGEST);
    const edges = new Set([0, end]);
    for (let r = 0; r < runs.length; r += 2) if (runs[r] < end) edges.add(runs[r]);
    const hits = this.hits(text.slice(0, end));
    for (const hit of hits) edges.add(hit).add(Math.min(end, hit + this.view.text.length));
    const places = [...edges].sort((a, b) => a - b);
    let [r, h] = [0, 0];
    let style = 0;
    for (let n = 0; n + 1 < places.length; n += 1) {
      const [from, to] = [places[n], places[n + 1]];
      while (r < runs.length && runs[r] <= from) {
        style = runs[r + 1];
        r += 2;
      }
      while (h < hits.length && hits[h] + this.view.text.length <= from) h += 1;
      const isHit = h < hits.length && hits[h] <= from;
      const piece = visible(text.slice(from, to));
      if (!style && !isHit) {
        box.append(piece);
        continue;
      }
      const span = box.appendChild(document.createElement(isHit ? "mark" : "span"));
      if (isHit) {
        if (line.at === this.view.hit && hits[h] === this.view.hitCol) span.className = "current";
      } else dress(span, style, this.view.theme);
      span.textContent = piece;
    }
    if (text.length > end) {
      const more = box.appendChild(document.createElement("span"));
      more.className = "cut";
      more.textContent = `… (${text.length - end} more characters)`;
    }
    if (!text) box.append("\u00a0");
  }

  /** @param {string} text @returns {number[]} */
  hits(text) {
    const wanted = this.view.text.toLowerCase();
    const found = [];
    if (wanted) {
      const small = text.toLowerCase();
      for (let at = small.indexOf(wanted); at >= 0; at = small.indexOf(wanted, at + wanted.length)) found.push(at);
    }
    return found;
  }
}

/** @param {HTMLElement} span @param {number} style @param {string} theme */
function dress(span, style, theme) {
  const { color, background, flags } = look(style, theme);
  if (color) span.style.color = color;
  if (background) span.style.backgroundColor = background;
  if (flags) span.className = flags;
}

/** @param {number[]} one @param {number[]} other */
const same = (one, other) => one.length === other.length && one.every((each, n) => each === other[n]);
