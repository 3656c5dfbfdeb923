import assert from "node:assert/strict";
import { test } from "node:test";
import { HELD, LogStore, PAGE } from "../ui/log/store.js";
import { Terminal } from "../ui/log/terminal.js";

globalThis.location = new URL("http://127.0.0.1/");
const { Feed, WAITING } = await import("../ui/log/feed.js");
const { OutputLog } = await import("../ui/log/output.js");

const piece = (n, text = `${n}\n`, event_type = "stdout") => ({
  type: "execution_event",
  task_id: "T",
  route: "R",
  n,
  text,
  event_type,
});

/** A store that is read when it is told to, and a sink that notes what it is told. */
function made(kept) {
  const asked = [];
  const told = [];
  let go = () => {};
  const read = async (_id, take, _signal, start) => {
    asked.push(start);
    await new Promise((done) => {
      go = done;
    });
    for (const [seq, each] of kept.entries()) if (seq + 1 >= start) take({ ...each, seq: seq + 1 });
  };
  const sink = {
    take: (each) => told.push(each.n),
    lost: (n) => told.push(`lost ${n}`),
    skipped: (n) => told.push(`skipped ${n}`),
    busy() {},
    begun() {},
  };
  const answered = async () => {
    go();
    await new Promise((done) => setTimeout(done));
  };
  return { feed: new Feed("T", sink, read), asked, told, answered };
}

test("what waits while the store is read is bounded, and comes from the store, once and in order", async () => {
  const text = "x".repeat(100_000);
  const kept = [];
  const { feed, asked, told, answered } = made(kept);
  feed.take({ type: "gap", task_id: "T", lost: 1 });
  kept.push(piece(1));
  const count = (3 * WAITING) / text.length;
  for (let n = 2; n <= count; n += 1) {
    feed.take(piece(n, text));
    assert.ok(feed.size <= WAITING);
  }
  feed.take(piece(count + 1, "Done", "status"));
  await answered();
  assert.equal(told[0], 1);
  for (let n = 2; n <= count; n += 1) kept.push(piece(n, text));
  kept.push(piece(count + 1, "Done", "status"));
  await answered();
  await answered();
  assert.deepEqual(
    told,
    Array.from({ length: count + 1 }, (_, n) => n + 1),
  );
  assert.deepEqual(asked, [1, 2], "it goes on where it stood");
});

test("a hole in the store is told where it is", async () => {
  const { feed, told, answered } = made([piece(3), piece(4), piece(7), piece(1_000_001), piece(2_000_004)]);
  feed.take({ type: "gap", task_id: "T", lost: 1 });
  await answered();
  assert.deepEqual(told, ["lost 2", 3, 4, "lost 2", 7, 1_000_001, "lost 3", 2_000_004]);
});

test("what is more than a page can show is not read, and no hole", async () => {
  const kept = Array.from({ length: 100 }, (_, n) => piece(n + 1));
  const { feed, asked, told, answered } = made(kept);
  const place = { type: "skipped", task_id: "T", route: "R" };
  feed.take({ ...place, seq: 91, n: 91, lines: 90 });
  feed.take({ type: "gap", task_id: "T", lost: 98 });
  feed.take(piece(99));
  feed.take({ ...place, seq: 50, n: 50, lines: 49 });
  feed.take(piece(100));
  await answered();
  assert.deepEqual(asked, [91]);
  assert.deepEqual(told, ["skipped 90", 91, 92, 93, 94, 95, 96, 97, 98, 99, 100]);
});

test("lines behind what is more than a page can show keep their numbers", () => {
  const log = new OutputLog();
  log.terminal.write("stdout", "one\nhalf", 0);
  log.skip(1_000);
  log.terminal.write("stdout", "the rest\n1004\n", 0);
  assert.equal(log.store.cut, 1_002);
  assert.equal(log.store.placeOf(1_002), -1);
  assert.deepEqual(
    [1_003, 1_004].map((n) => log.store.line(log.store.placeOf(n)).text),
    ["the rest", "1004"],
  );
  for (let n = 1_005; n <= 1_004 + 2 * PAGE; n += 1) log.terminal.write("stdout", `${n}\n`, 0);
  assert.equal(log.store.line(log.store.placeOf(1_500)).text, "1500");
});

test("of more lines than a page may hold the first ones go, and the others keep their numbers", () => {
  const terminal = new Terminal();
  for (let n = 1; n <= 5 * PAGE; n += 1) terminal.write("stdout", `${n}\n`, n);
  const whole = terminal.store;
  const { size } = whole;
  assert.equal(whole.trimmed(size), null);
  const store = whole.trimmed(size - 1);
  assert.ok(store && store.size <= size / 2);
  assert.ok(store.cut > 0 && store.cut % PAGE === 0);
  assert.equal(store.gone, store.cut, "by so much its lines have moved");
  const first = store.line(0);
  assert.deepEqual([first.text, first.number, first.at], [`${store.cut + 1}`, store.cut + 1, 0]);
  assert.equal(store.placeOf(store.cut), -1);
  assert.equal(store.line(store.placeOf(4 * PAGE)).text, `${4 * PAGE}`);
  assert.equal(whole.line(whole.length - 1).text, `${5 * PAGE}`, "who watches the old one still may");

  terminal.store = store;
  for (let n = 5 * PAGE + 1; n <= 8 * PAGE; n += 1) terminal.write("stdout", `${n}\n`, n);
  const last = store.line(store.length - 1);
  assert.deepEqual([last.text, last.number], [`${8 * PAGE}`, 8 * PAGE]);
  assert.equal(store.length, 8 * PAGE - store.cut);
  assert.equal(store.line(store.placeOf(6 * PAGE)).text, `${6 * PAGE}`);
});

test("a store of which nothing was sealed but what went counts on", () => {
  const store = new LogStore();
  const terminal = new Terminal(store);
  for (let n = 1; n <= 2 * PAGE; n += 1) terminal.write("stdout", `${n}\n`, n);
  const left = store.trimmed(0);
  assert.ok(left);
  assert.equal(left.pages.length, 0);
  terminal.store = left;
  for (let n = 2 * PAGE + 1; n <= 4 * PAGE; n += 1) terminal.write("stdout", `${n}\n`, n);
  assert.equal(left.line(left.placeOf(3 * PAGE)).text, `${3 * PAGE}`);
});

test("a line without end is broken, so that it can be let go of", () => {
  const terminal = new Terminal();
  for (let n = 0; n < 50; n += 1) terminal.write("stdout", "x".repeat(64 * 1024), 0);
  assert.ok(terminal.store.length > 1);
  assert.equal(terminal.store.text().replaceAll("\n", "").length, 50 * 64 * 1024);
});

test("a text without line ends takes no more than one with them", () => {
  const log = new OutputLog();
  const text = "x".repeat(64 * 1024);
  for (let n = 0; n < 4000; n += 1) {
    log.terminal.write("stdout", text, 0);
    log.trim();
  }
  const live = log.store.live.reduce((sum, line) => sum + line.text.length, 0);
  assert.ok(log.store.size + live < 3 * HELD, `${log.store.size} + ${live}`);
  assert.ok(log.store.cut > 0);
});
