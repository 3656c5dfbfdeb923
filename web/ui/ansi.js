// ANSI colours as spans; every other escape sequence is taken out.
import { createAnsiSequenceParser } from "ansi-sequence-parser";
import { visible } from "./format.js";

// Every escape sequence but the colours (CSI ... m), which become spans.
const ESCAPES = new RegExp(
  [
    String.raw`\u001b\[[0-?]*[ -/]*[@-ln-~]`, // CSI, not ending in m
    String.raw`\u001b\][^\u0007\u001b]*(?:\u0007|\u001b\\)`, // OSC: titles, links
    String.raw`\u001b[PX^_][^\u001b]*\u001b\\`, // DCS, SOS, PM, APC
    String.raw`\u001b[ -/]+[0-~]`, // character sets
    String.raw`\u001b[@-OQ-WYZ\\\`-~=>]`, // two characters
  ].join("|"),
  "g",
);
const UNFINISHED = /\u001b(?:\[[0-?]*[ -/]*|\][^\u0007\u001b]{0,4096}|)$/;
const TABLE = [0, 95, 135, 175, 215, 255];

/**
 * @param {number} index in the table of 256 colours, from 16 on
 * @returns {number[]}
 */
function rgb(index) {
  if (index >= 232) return Array(3).fill(8 + (index - 232) * 10);
  const n = index - 16;
  return [TABLE[Math.floor(n / 36)], TABLE[Math.floor(n / 6) % 6], TABLE[n % 6]];
}

/**
 * @param {HTMLElement} span
 * @param {import("ansi-sequence-parser").Color | null} color
 * @param {"color" | "backgroundColor"} property
 * @param {"fg" | "bg"} prefix
 */
function paint(span, color, property, prefix) {
  if (!color) return;
  if (color.type === "named") span.classList.add(`${prefix}-${color.name}`);
  else if (color.type === "table" && color.index < 16) span.classList.add(`${prefix}-${color.index}`);
  else {
    const [r, g, b] = color.type === "rgb" ? color.rgb : rgb(color.index);
    span.style[property] = `rgb(${r} ${g} ${b})`;
  }
}

/** Turns pieces of one stream into spans, one piece after another. */
export class Ansi {
  constructor() {
    this.parser = createAnsiSequenceParser();
    /** the beginning of a sequence that the last piece ended in */
    this.rest = "";
    /** whether no colour has come yet: then there is nothing to parse */
    this.plain = true;
  }

  /**
   * @param {string} piece
   * @returns {(Text | HTMLElement)[]}
   */
  spans(piece) {
    let text = this.rest + piece;
    const unfinished = UNFINISHED.exec(text);
    this.rest = unfinished ? unfinished[0] : "";
    if (unfinished) text = text.slice(0, unfinished.index);
    text = text.replace(/\r\n?/g, "\n").replace(ESCAPES, "");
    if (!text.includes("\u001b") && this.plain) return [document.createTextNode(visible(text))];
    this.plain = false;
    return this.parser.parse(text).map((token) => {
      const span = document.createElement("span");
      paint(span, token.foreground, "color", "fg");
      paint(span, token.background, "backgroundColor", "bg");
      for (const each of token.decorations) span.classList.add(`ansi-${each}`);
      span.textContent = visible(token.value);
      return span;
    });
  }
}
