import assert from "node:assert/strict";
import { test } from "node:test";
import "./document.js";
import { Ansi } from "../ui/ansi.js";

const read = (...pieces) => {
  const ansi = new Ansi();
  return pieces.flatMap((piece) => ansi.spans(piece));
};
const textOf = (spans) => spans.map((each) => each.textContent).join("");

test("plain text is one text node", () => {
  const spans = read("nothing special\n");
  assert.deepEqual(
    spans.map((each) => [each.nodeName, each.textContent]),
    [["#text", "nothing special\n"]],
  );
});

test("colours become classes, of the sixteen and of the table of 256", () => {
  const [red, grey, cube] = read("\u001b[31mred\u001b[38;5;240mgrey\u001b[38;5;196mcube");
  assert.deepEqual(red.classes, ["fg-red"]);
  assert.equal(grey.style.color, "rgb(88 88 88)");
  assert.equal(cube.style.color, "rgb(255 0 0)");
});

test("24-bit colours, backgrounds and decorations are kept", () => {
  const [span] = read("\u001b[1;48;2;1;2;3mloud");
  assert.equal(span.style.backgroundColor, "rgb(1 2 3)");
  assert.deepEqual(span.classes, ["ansi-bold"]);
});

test("a colour holds on in the pieces after it", () => {
  const [, second] = read("\u001b[32mone", "two");
  assert.deepEqual(second.classes, ["fg-green"]);
});

test("a sequence that is cut between two pieces is still one", () => {
  assert.equal(textOf(read("a\u001b[3", "1mb")), "ab");
  assert.equal(textOf(read("a\u001b", "]0;title\u0007b")), "ab");
});

test("every other escape sequence is taken out", () => {
  const sequences = [
    "\u001b[2J", // clear the screen
    "\u001b[?25l", // hide the cursor
    "\u001b]0;a title\u0007",
    "\u001b]8;;https://example.org\u001b\\",
    "\u001bPq...\u001b\\", // device control
    "\u001b(B", // character set
    "\u001bc", // reset
    "\u001b=",
  ];
  for (const each of sequences) assert.equal(textOf(read(`a${each}b`)), "ab", JSON.stringify(each));
});

test("carriage returns are line ends, and what hides or reorders text is shown as its code", () => {
  assert.equal(textOf(read("one\r\ntwo\rthree")), "one\ntwo\nthree");
  assert.equal(textOf(read("\u202egnihsihp")), "⟨202E⟩gnihsihp");
});
