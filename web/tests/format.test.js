import assert from "node:assert/strict";
import { test } from "node:test";
import {
  age,
  atLeast,
  bytes,
  clock,
  count,
  dollars,
  duration,
  local,
  moment,
  plain,
  savedText,
  shortId,
  visible,
} from "../ui/format.js";

test("foreign text hides nothing: control and direction characters are shown as codes", () => {
  assert.equal(plain("a\u0000b\u001bc\u202ed\u200be"), "a⟨0000⟩b⟨001B⟩c⟨202E⟩d⟨200B⟩e");
  assert.equal(plain("tab\tand\nline"), "tab\tand\nline");
});

test("foreign text does not run on for ever, and says what was cut", () => {
  assert.equal(plain("x".repeat(30), 10), `${"x".repeat(10)}…`);
  assert.equal(plain("x".repeat(2500), 2000), `${"x".repeat(2000)}… (500 more characters)`);
});

test("nothing is shown as nothing", () => {
  assert.equal(plain(null), "");
  assert.equal(plain(undefined), "");
  assert.equal(plain(0), "0");
});

test("running output keeps its line ends", () => {
  assert.equal(visible("a\nb\u0007"), "a\nb⟨0007⟩");
});

test("money has four digits, savings two from a cent on", () => {
  assert.equal(dollars(0.12345), "$0.1235");
  assert.equal(dollars(null), "$0.0000");
  assert.equal(savedText(1.239), "$1.24");
  assert.equal(savedText(0.001234), "$0.0012");
});

test("numbers are grouped, and an unknown one counts nothing", () => {
  assert.equal(count(1234567), "1,234,567");
  assert.equal(count(undefined), "0");
  assert.equal(count(null), "–");
});

test("a sum says where parts of it are unknown", () => {
  assert.equal(atLeast("$0.2500", 0), "$0.2500");
  assert.equal(atLeast(count(100), 2), "100+");
  assert.equal(atLeast(count(null), 2), "–");
});

test("bytes are told in the unit that fits", () => {
  assert.equal(bytes(0), "0 B");
  assert.equal(bytes(1023), "1023 B");
  assert.equal(bytes(1536), "1.5 KiB");
  assert.equal(bytes(64 * 2 ** 30), "64.0 GiB");
  assert.equal(bytes(null), "unknown");
});

test("durations are told in two units at most", () => {
  const told = [0.5, 12.4, 999, 1500, 59_000, 61_000, 3_661_000, 90_000_000].map(duration);
  assert.deepEqual(told, ["0.50 ms", "12 ms", "999 ms", "1.5 s", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
  assert.equal(duration(null), "–");
  assert.equal(duration(Number.NaN), "–");
});

test("ages are never negative, whatever the clocks say", () => {
  const now = Date.parse("2026-01-31T12:00:00Z");
  assert.equal(age("2026-01-31T11:59:30Z", now), "30 s");
  assert.equal(age("2026-01-31T12:00:30Z", now), "0.00 ms");
  assert.equal(age("", now), "–");
});

test("a time that is none is a dash", () => {
  assert.equal(clock(undefined), "–");
  assert.equal(moment(""), "–");
  assert.equal(moment("not a time"), "–");
});

test("today is told by the clock, another day with its date", () => {
  const today = new Date().toISOString();
  assert.equal(moment(today), clock(today));
  assert.ok(moment("2001-02-03T04:05:06Z").endsWith(clock("2001-02-03T04:05:06Z")));
  assert.notEqual(moment("2001-02-03T04:05:06Z"), clock("2001-02-03T04:05:06Z"));
});

test("a sentence's instants are told with date and zone, what is quoted stays", () => {
  const at = "2001-02-03T04:05:06.789Z";
  assert.match(clock(at), /^\d\d:\d\d:\d\d \S+/);
  assert.equal(local(`The tier is down since ${at}: why.`), `The tier is down since ${moment(at)}: why.`);
  assert.equal(local(`got '${at}'`), `got '${at}'`);
  assert.equal(local("nothing of time"), "nothing of time");
});

test("a short id keeps both ends", () => {
  assert.equal(shortId("01ARZ3NDEKTSV4RRFFQ69G5FAV"), "01ARZ3…5FAV");
});
