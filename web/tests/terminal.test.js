import assert from "node:assert/strict";
import { test } from "node:test";
import { contrast, look, readable, restyled } from "../ui/log/sgr.js";
import { LogStore, PAGE, REACH } from "../ui/log/store.js";
import { Terminal, settled } from "../ui/log/terminal.js";
import { Layout } from "../ui/log/layout.js";
import { Search } from "../ui/log/search.js";

const ESC = "\u001b";
const written = (...pieces) => {
  const terminal = new Terminal();
  for (const piece of pieces) terminal.write("stdout", piece, 0);
  return terminal.store;
};
const lines = (store) => Array.from({ length: store.length }, (_, at) => store.line(at).text);
const styled = (line, theme = "dark") =>
  line.runs.flatMap((each, n) => (n % 2 ? [] : [[each, look(line.runs[n + 1], theme).color]]));

test("a bar that returns to its line's start is one line", () => {
  const bar = Array.from({ length: 101 }, (_, n) => `\r${n}%|${"█".repeat(n / 10)}|`).join("");
  assert.deepEqual(settled(`start\n${bar}\ndone`), ["start", `100%|${"█".repeat(10)}|`, "done"]);
});

test("what is written over stays where the new text is shorter, unless the line is erased", () => {
  assert.deepEqual(settled("abcdef\rxy"), ["xycdef"]);
  assert.deepEqual(settled(`abcdef\r${ESC}[Kxy`), ["xy"]);
  assert.deepEqual(settled(`abcdef\r${ESC}[2Kxy`), ["xy"]);
  assert.deepEqual(settled(`abcdef${ESC}[3D${ESC}[1K`), ["    ef"]);
  assert.deepEqual(settled("ab\b\bx"), ["xb"]);
});

test("a cursor that goes up changes earlier lines, and comes down again", () => {
  const text = `one\ntwo\n${ESC}[2A${ESC}[2K1\n${ESC}[2K2\nthree\n`;
  assert.deepEqual(settled(text), ["1", "2", "three"]);
  assert.deepEqual(settled(`a\nb\nc\n${ESC}[3A${ESC}[Jnew\n`), ["new", "", ""]);
});

test("each kind of text has a line of its own, so a bar is not torn by what others print", () => {
  const terminal = new Terminal();
  terminal.write("stderr", "\r10%", 0);
  terminal.write("stdout", "a\nb\n", 0);
  terminal.write("stderr", "\r20%", 0);
  terminal.write("stdout", "c", 0);
  terminal.write("stderr", "\r30%\nend\n", 0);
  assert.deepEqual(lines(terminal.store), ["30%", "a", "b", "c", "end"]);
});

test("carriage return and newline are one line end, also when they come apart", () => {
  assert.deepEqual(settled("one\r\ntwo\r", 9), ["one", "two"]);
  assert.deepEqual(lines(written("one\r", "\ntwo")), ["one", "two"]);
  assert.deepEqual(lines(written("\n\nx")), ["", "", "x"]);
});

test("a sequence that is cut between two pieces is still one", () => {
  assert.deepEqual(lines(written(`a${ESC}[3`, "1mb")), ["ab"]);
  assert.deepEqual(lines(written(`a${ESC}`, "]0;title\u0007b")), ["ab"]);
  assert.deepEqual(lines(written(`a${ESC}]8;;https://example.org`, `${ESC}`, "\\b")), ["ab"]);
});

test("every other escape sequence is taken out", () => {
  for (const each of ["[2J", "[?25l", "[H", "]0;a title\u0007", `]8;;https://example.org${ESC}\\`, `Pq...${ESC}\\`])
    assert.deepEqual(settled(`a${ESC}${each}b`), ["ab"], each);
  for (const each of ["(B", "c", "=", "7", "8"]) assert.deepEqual(settled(`a${ESC}${each}b`), ["ab"], each);
});

test("remarks cannot move over what stands above them", () => {
  const terminal = new Terminal();
  terminal.remark("error", "true", 0);
  terminal.remark("error", `${ESC}[2Afalse${ESC}[1A`, 0);
  assert.deepEqual(lines(terminal.store), ["true", "false"]);
});

test("colours hold on over lines and pieces, and are kept in sealed pages", () => {
  const store = written(`${ESC}[32mone\n`, `two${ESC}[0m!\n`);
  const green = look(restyled(0, "32"), "dark").color;
  assert.deepEqual(styled(store.line(0)), [[0, green]]);
  assert.deepEqual(styled(store.line(1)), [
    [0, green],
    [3, ""],
  ]);
  const many = written(Array.from({ length: 5000 }, (_, n) => `${n} ${ESC}[31mred${ESC}[m\n`).join(""));
  const red = look(restyled(0, "31"), "dark").color;
  for (const n of [0, 999, 1000, 4321, 4999]) {
    assert.equal(many.line(n).text, `${n} red`);
    assert.deepEqual(styled(many.line(n)), [[`${n} `.length, red]]);
    assert.equal(many.line(n).number, n + 1);
    assert.equal(many.placeOf(n + 1), n);
  }
});

test("an overwritten part has its own colour and leaves the rest theirs", () => {
  const store = written(`${ESC}[31mabcdef\r${ESC}[32mxy${ESC}[0m`);
  const [red, green] = ["31", "32"].map((each) => look(restyled(0, each), "dark").color);
  assert.deepEqual(styled(store.line(0)), [
    [0, green],
    [2, red],
  ]);
});

test("half of a character is never left over", () => {
  assert.deepEqual(settled("🔥🔥\rx"), ["x 🔥"]);
  assert.deepEqual(settled("🔥\b🔥"), [" 🔥"]);
});

test("inverse swaps, 256 colours and 24 bits are read with semicolons and colons", () => {
  const inverse = look(restyled(0, "7"), "light");
  assert.deepEqual([inverse.color, inverse.background], ["rgb(251 251 252)", "rgb(27 35 48)"]);
  const one = restyled(0, "38;5;196");
  assert.equal(restyled(0, "38:5:196"), one);
  assert.equal(restyled(0, "38:2::1:2:3"), restyled(0, "38;2;1;2;3"));
  assert.equal(restyled(one, "0"), 0);
  assert.equal(restyled(0, "1;38;5;196;22"), one);
});

test("every colour of the table can be read, in light and dark, on every ground", () => {
  const rgb = (css) => css.match(/\d+/g).map(Number);
  for (const [theme, ground] of [
    ["light", [251, 251, 252]],
    ["dark", [11, 14, 19]],
  ])
    for (let n = 0; n < 256; n += 1) {
      assert.ok(contrast(rgb(look(restyled(0, `38;5;${n}`), theme).color), ground) >= 4.5, `${theme} ${n}`);
      const on = look(restyled(0, `38;5;${n};48;5;${(n * 7) % 256}`), theme);
      assert.ok(contrast(rgb(on.color), rgb(on.background)) >= 4.5, `${theme} ${n} on another`);
    }
  assert.deepEqual(readable([0, 0, 0], [255, 255, 255]), [0, 0, 0]);
});

test("rows are found by place and place by rows, wrapped, filtered and plain", () => {
  const terminal = new Terminal();
  for (let n = 0; n < 4000; n += 1) terminal.write(n % 10 ? "stdout" : "stderr", `${"x".repeat(n % 95)}\n`, 0);
  for (const [columns, wanted] of [
    [0, null],
    [20, null],
    [0, (kind) => kind === "stderr"],
    [33, (kind) => kind === "stderr"],
  ]) {
    const layout = new Layout(terminal.store, columns, wanted);
    let rows = 0;
    for (let at = 0; at < 4000; at += 1) {
      if (at % 371 === 0) assert.equal(layout.above(at), rows);
      const own = layout.rows(at);
      if (own && at % 50 === 0) assert.deepEqual(layout.find(rows + own - 1), { at, rows });
      rows += own;
    }
    assert.equal(layout.total(), rows);
  }
});

test("a search finds every place, whatever the case, and counts on as the log grows", () => {
  const terminal = new Terminal();
  const say = (n) => terminal.write("stdout", `${n} Needle and needle\n`, 0);
  for (let n = 0; n < PAGE + REACH + 10; n += 1) n % 100 ? terminal.write("stdout", "hay\n", 0) : say(n);
  const search = new Search(terminal.store, "NEEDLE", () => true);
  while (!search.step(() => 0));
  assert.equal(search.count, 32);
  assert.equal(search.line(search.from(101)), 200);
  for (let n = 0; n < 3000; n += 1) say(n);
  while (!search.step(() => 0));
  assert.equal(search.count, 6032);
});

test("a store of a million lines finds each of them by its number", () => {
  const store = new LogStore();
  for (let n = 1; n <= 100_000; n += 1) store.push(n % 7 ? "stdout" : "status", n).text = `t${n}`;
  for (const number of [1, 500, 857, 50_000, store.numbered])
    assert.equal(store.line(store.placeOf(number)).number, number);
  assert.equal(store.placeOf(store.numbered + 1), -1);
  assert.equal(store.line(12_345).time, 12_346);
});
