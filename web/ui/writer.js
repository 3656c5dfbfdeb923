// Writes a task's live output into the document, piece by piece as it comes, as text.
import { Ansi } from "./ansi.js";
import { visible } from "./format.js";

/** @import { Chunk } from "./answers.d.ts" */
/** @import { Output } from "./topics.d.ts" */

const MOST_NODES = 12_000;
const LONGEST_RUN = 200;
const LONGEST_LINE = 8_000;
const LONGEST_TOOL = 64_000;

/** @param {string} line */
const cut = (line) =>
  line.length > LONGEST_LINE ? `${line.slice(0, LONGEST_LINE)}… (${line.length - LONGEST_LINE} more characters)` : line;

export class Writer {
  /** @param {HTMLElement} box what is written into */
  constructor(box) {
    this.box = box;
    /** @type {Record<string, Ansi>} by kind of text */
    this.streams = {};
    /** @type {string | null} route and segment that is being written */
    this.place = null;
    /** @type {HTMLElement | null} the element that takes text of one kind */
    this.run = null;
    this.kind = "";
    /** whether the last text did not end its line */
    this.open = false;
    /** @type {{ count: number, box: HTMLElement } | null} the gap that the output stands in */
    this.gaps = null;
    this.nodes = 0;
    /** @type {HTMLElement | null} says that the beginning is no longer shown */
    this.older = null;
  }

  /** @param {Output} message */
  take(message) {
    if (message.type === "gap") {
      this.gap(message.lost);
      return;
    }
    this.gaps = null;
    const place = `${message.route}/${message.segment}`;
    if (place !== this.place) this.divide(message, place);
    const kind = message.event_type;
    if (kind === "status" || kind === "error") this.element("div", kind, visible(message.text));
    else if (kind === "tool") this.tool(message.text);
    else this.text(kind, message.text);
  }

  /** @param {string} kind @param {string} text */
  text(kind, text) {
    if (this.kind !== kind || !this.run || this.run.childNodes.length >= LONGEST_RUN) {
      this.run = this.box.appendChild(document.createElement("span"));
      this.run.className = kind;
      this.kind = kind;
    }
    const shown = text.length > LONGEST_LINE ? text.split("\n").map(cut).join("\n") : text;
    this.streams[kind] ??= new Ansi();
    const spans = this.streams[kind].spans(shown);
    this.run.append(...spans);
    this.nodes += spans.length;
    this.open = !text.endsWith("\n");
    this.trim();
  }

  /**
   * Begin an element of its own line.
   * @param {string} tag
   * @param {string} kind
   * @param {string} [text]
   */
  element(tag, kind, text) {
    if (this.open) this.box.append("\n");
    this.open = false;
    this.run = null;
    const element = this.box.appendChild(document.createElement(tag));
    element.className = kind;
    if (text !== undefined) element.textContent = text;
    this.nodes += 1;
    this.trim();
    return element;
  }

  /** @param {string} text */
  tool(text) {
    const element = this.element("details", "tool");
    const [first] = text.split("\n", 1);
    element.appendChild(document.createElement("summary")).textContent = visible(`tool: ${first.slice(0, 120)}`);
    element.appendChild(document.createElement("div")).textContent = visible(text.slice(0, LONGEST_TOOL));
  }

  /**
   * Say which attempt begins here; the first one needs no saying.
   * @param {Chunk} message
   * @param {string} place
   */
  divide(message, place) {
    const isFirst = this.place === null && message.generation <= 1 && !message.segment;
    this.place = place;
    this.streams = {};
    if (isFirst) return;
    // A try by the host itself, or a check of the work: what comes first in it says which.
    const part = message.segment ? ` · part ${message.segment + 1}` : "";
    this.element("div", "divider", `── attempt ${message.generation}${part} ──`);
  }

  /** @param {number} lost */
  gap(lost) {
    this.gaps ??= { count: 0, box: this.element("div", "gap") };
    this.gaps.count += lost;
    this.gaps.box.textContent = `⋯ ${this.gaps.count} pieces of output were left out here ⋯`;
  }

  trim() {
    while (this.nodes > MOST_NODES) {
      if (!this.older) {
        this.older = document.createElement("div");
        this.older.className = "gap";
        this.older.textContent = "⋯ what came before is not shown here any more ⋯";
        this.box.prepend(this.older);
      }
      const oldest = this.older.nextSibling;
      if (!oldest || oldest === this.run) return;
      const isRun = oldest.nodeName === "SPAN";
      this.nodes -= isRun ? oldest.childNodes.length : Number(oldest.nodeType === Node.ELEMENT_NODE);
      oldest.remove();
    }
  }
}
