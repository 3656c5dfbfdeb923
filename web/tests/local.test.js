import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

const UI = new URL("../ui/", import.meta.url);
const FILES = readdirSync(UI, { recursive: true, encoding: "utf8" }).filter((name) => /\.jsx?$/.test(name));

// What AgentCom says of itself stands in these fields; it may name a point of time. What a
// form has got `wrong` went through wordsOf, which says it so.
const FIELDS = "reason|detail|sentence|warnings|why|message|waiting_for|fault|fallback_reason|classification_reason";
const SHOWN = new RegExp(
  `(?:<Text[^>]*>\\{|plain\\()(?![^<]*\\blocal\\b)[^<]*?\\b(?<!wrong\\??\\.)(?:${FIELDS})\\b(?!:)`,
);

test("what AgentCom says is shown with its times in the reader's zone, on every page", () => {
  const utc = FILES.flatMap((name) =>
    readFileSync(new URL(name, UI), "utf8")
      .split("\n")
      .filter((line) => SHOWN.test(line))
      .map((line) => `${name}: ${line.trim()}`),
  );
  assert.ok(FILES.length > 40);
  assert.deepEqual(utc, []);
});
