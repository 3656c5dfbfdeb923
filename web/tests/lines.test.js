import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

test("no line of the page's code is longer than 120 characters", () => {
  const ui = new URL("../ui/", import.meta.url);
  // answers.d.ts is made from the server's code.
  const files = readdirSync(ui, { recursive: true }).filter(
    (name) => /\.(jsx?|ts)$/.test(name) && name !== "answers.d.ts",
  );
  const long = files.flatMap((name) =>
    readFileSync(new URL(name, ui), "utf8")
      .split("\n")
      .map((line, n) => [line.length, `${name}:${n + 1}`])
      .filter(([length]) => length > 120),
  );
  assert.deepEqual(long, []);
});
