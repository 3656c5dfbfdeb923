import assert from "node:assert/strict";
import { test } from "node:test";
import { Conversation, HELD, LONGEST_PART, aboutOf, editsOf } from "../ui/talk/conversation.js";
import { counted, differing, near } from "../ui/talk/lines.js";

let n = 0;
const chunk = (event_type, text, more = {}) => ({
  event_type,
  text,
  timestamp: new Date(1000 * n).toISOString(),
  route: "r1",
  generation: 1,
  segment: 0,
  n: ++n,
  ...more,
});
const heard = (...chunks) => {
  const talk = new Conversation();
  for (const each of chunks) talk.take(each);
  return talk.parts.map(({ kind, text, failed }) => [kind, text, failed]);
};

test("what comes in pieces is one part, and an answer goes to its call", () => {
  const call = (id, name) => chunk("tool", `${name} {}`, { tool: { id, name, input: {} } });
  const answer = (id, text, is_error = false) => chunk("tool", text, { tool: { id, is_error } });
  assert.deepEqual(
    heard(
      chunk("thinking", "hm"),
      chunk("thinking", "m"),
      call("a", "Read"),
      call("b", "Bash"),
      answer("b", "error: Exit code 1\n", true),
      answer("a", "one "),
      answer("a", "two"),
      chunk("token", "so "),
      chunk("token", "it is"),
    ),
    [
      ["thinking", "hmm", null],
      ["tool", "one two", false],
      ["tool", "Exit code 1\n", true],
      ["token", "so it is", null],
    ],
  );
});

test("another attempt is another part, and its calls are its own", () => {
  const later = { route: "r2", generation: 2 };
  assert.deepEqual(heard(chunk("token", "a"), chunk("token", "b", later)), [
    ["token", "a", null],
    ["divider", "attempt 2", null],
    ["token", "b", null],
  ]);
});

test("logs of before tools had fields are shown too", () => {
  assert.deepEqual(heard(chunk("tool", 'Read {"x":1}\n'), chunk("tool", "text\n")), [
    ["tool", 'Read {"x":1}\ntext\n', false],
  ]);
});

test("edits of whatever shape are lines, with what is around them alone", () => {
  const input = { file_path: "a", edits: [{ old_string: "x", new_string: "y" }, null, { old_string: 7 }] };
  assert.equal(editsOf({ name: "MultiEdit", input }).length, 3);
  assert.deepEqual(editsOf({ name: "MultiEdit", input: { edits: "no" } }), []);
  const before = Array.from({ length: 100 }, (_, i) => `${i}\n`).join("");
  const lines = differing(before, before.replace("\n50\n", "\nfifty\n"));
  assert.deepEqual(counted(lines), { added: 1, removed: 1 });
  assert.equal(near(lines).length, 9);
  assert.equal(aboutOf({ name: "Bash", input: { command: "ls\nrm" } }), "$ ls");
});

test("a part ends where it is long, and of too many the first ones go", () => {
  const talk = new Conversation();
  const piece = "x".repeat(LONGEST_PART);
  for (let at = 0; at < 3; at += 1) talk.take(chunk("stdout", piece));
  assert.deepEqual(
    talk.parts.map(({ text }) => text.length),
    [LONGEST_PART, LONGEST_PART, LONGEST_PART],
  );
  talk.take(chunk("tool", "Read {}", { tool: { id: "a", name: "Read", input: {} } }));
  const places = () => talk.parts.map((part, n) => [talk.gone + n, part.kind]);
  const [, , third, call] = places();
  talk.trim(2.5 * LONGEST_PART);
  // What is left stands where it stood, behind a word that it is not all.
  assert.deepEqual(places().slice(1), [third, call]);
  assert.match(talk.parts[0].text, /too much/);
  assert.ok(talk.size < 1.25 * LONGEST_PART);
  talk.take(chunk("tool", "one", { tool: { id: "a", is_error: false } }));
  assert.equal(talk.parts.at(-1).text, "one");
  for (let at = 0; at * LONGEST_PART <= HELD; at += 1) talk.take(chunk("stdout", piece));
  assert.ok(talk.size <= HELD);
});
