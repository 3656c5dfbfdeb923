import assert from "node:assert/strict";
import { test } from "node:test";
import { burn, spentAt } from "../ui/burn.js";

const NOON = Date.parse("2026-01-31T12:00:00Z");

test("a day's dollars are what an hour costs on average, and a month", () => {
  const hours = [
    { key: "2026-01-30T09", estimated_cost_usd: 50 },
    { key: "2026-01-31T02", estimated_cost_usd: 6 },
    { key: "2026-01-31T11", estimated_cost_usd: 4 },
  ];
  const found = burn(hours, NOON);
  assert.equal(found.day, 10);
  assert.equal(found.hour, 1);
  assert.equal(found.month, 720);
  assert.deepEqual(burn([], NOON), { day: 0, hour: 0, month: 0 });
});

test("a budget is spent at a time, has been, or lasts the day", () => {
  assert.equal(spentAt(6, 9, NOON), NOON + 6 * 3_600_000);
  assert.equal(spentAt(9, 9, NOON), NOON);
  assert.equal(spentAt(4, 9, NOON), null);
  assert.equal(spentAt(0, 9, NOON), null);
});
