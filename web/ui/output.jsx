// The panel of live output. Pieces are appended to the document as they come, as text.
import { useEffect, useImperativeHandle, useRef, useState } from "preact/hooks";
import { forwardRef } from "preact/compat";
import { Ansi } from "./ansi.js";
import { visible } from "./format.js";

const MOST_NODES = 12_000;
const LONGEST_RUN = 200;
const LONGEST_LINE = 8_000;
const LONGEST_TOOL = 64_000;
const NEAR_END = 40; // px

const cut = (line) => (line.length > LONGEST_LINE ? `${line.slice(0, LONGEST_LINE)}… (${line.length - LONGEST_LINE} more characters)` : line);

class Writer {
  constructor(box) {
    this.box = box;
    this.streams = {};
    this.place = null; // route and segment that is being written
    this.run = null; // the element that takes text of one kind
    this.kind = "";
    this.gaps = null;
    this.nodes = 0;
    this.older = null; // says that the beginning is no longer shown
  }

  take(message) {
    if (message.type === "gap") return this.gap(message.lost);
    this.gaps = null;
    const place = `${message.route}/${message.segment}`;
    if (place !== this.place) this.divide(message, place);
    const kind = message.event_type;
    if (kind === "status" || kind === "error") return this.line(kind, message.text);
    if (kind === "tool") return this.tool(message.text);
    if (this.kind !== kind || !this.run || this.run.childNodes.length >= LONGEST_RUN) {
      this.run = this.box.appendChild(document.createElement("span"));
      this.run.className = kind;
      this.kind = kind;
      this.glue = true;
    }
    this.text(kind, message.text);
  }

  text(kind, text) {
    const shown = text.length > LONGEST_LINE ? text.split("\n").map(cut).join("\n") : text;
    this.streams[kind] ??= new Ansi();
    const made = this.streams[kind].spans(shown);
    this.run.append(...made);
    this.nodes += made.length;
    this.open = !text.endsWith("\n");
    this.trim();
  }

  element(tag, kind, text) {
    if (this.open) this.box.append("\n");
    this.open = false;
    this.run = null;
    const made = this.box.appendChild(document.createElement(tag));
    made.className = kind;
    if (text !== undefined) made.textContent = text;
    this.nodes += 1;
    this.trim();
    return made;
  }

  line(kind, text) {
    this.element("div", kind, visible(text));
  }

  tool(text) {
    const made = this.element("details", "tool");
    const [first] = text.split("\n", 1);
    made.appendChild(document.createElement("summary")).textContent = visible(`tool: ${first.slice(0, 120)}`);
    made.appendChild(document.createElement("div")).textContent = visible(text.slice(0, LONGEST_TOOL));
  }

  divide(message, place) {
    const known = this.place !== null;
    this.place = place;
    this.streams = {};
    const what = message.segment ? ` · retry ${message.segment}` : "";
    if (known || message.generation > 1 || message.segment) {
      this.element("div", "divider", `── attempt ${message.generation}${what} ──`);
    }
  }

  gap(lost) {
    if (this.gaps) this.gaps.count += lost;
    else this.gaps = { count: lost, box: this.element("div", "gap") };
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
      const size = oldest.tagName === "SPAN" ? oldest.childNodes.length : Number(oldest.nodeType === Node.ELEMENT_NODE);
      oldest.remove();
      this.nodes -= size;
    }
  }
}

export const Output = forwardRef(({ placeholder }, outside) => {
  const box = useRef(null);
  const stream = useRef(null);
  const writer = useRef(null);
  const follow = useRef(true);
  const [any, setAny] = useState(false);
  const pending = useRef([]);
  const timer = useRef(null);
  const flush = () => {
    timer.current = null;
    if (!box.current || !stream.current) return;
    writer.current ??= new Writer(stream.current);
    for (const message of pending.current) writer.current.take(message);
    pending.current = [];
    if (follow.current) box.current.scrollTop = box.current.scrollHeight;
  };
  useImperativeHandle(outside, () => ({
    take(message) {
      setAny(true);
      pending.current.push(message);
      timer.current ??= setTimeout(flush, 40);
    },
  }), []);
  useEffect(() => () => clearTimeout(timer.current), []);
  const scrolled = () => {
    const { scrollTop, scrollHeight, clientHeight } = box.current;
    follow.current = scrollHeight - scrollTop - clientHeight < NEAR_END;
  };
  return (
    <details class="panel output" open>
      <summary><h2>Live output</h2></summary>
      <div id="execution-output" ref={box} onScroll={scrolled} tabindex="0" role="log" aria-label="Live output" aria-live="off">
        {!any && <p class="placeholder">{placeholder}</p>}
        <div class="stream" ref={stream} />
      </div>
    </details>
  );
});
