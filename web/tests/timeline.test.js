import assert from "node:assert/strict";
import { test } from "node:test";
import { losses, outages, throughput } from "../ui/timeline.js";

const T0 = Date.parse("2026-01-31T12:00:00Z");
const S = 1000;
const iso = (ms) => new Date(ms).toISOString();
const said = (type, s, more = {}) => ({ seq: s, event: { type, tier: "standard", at: iso(T0 + s * S), ...more } });
const spans = (found) => found.map(({ kind, from, until, lasts }) => [kind, (from - T0) / S, (until - T0) / S, lasts]);

test("an outage lasts from down to up, and to the window's end while nobody came back", () => {
  const events = [said("tier.down.v1", 10, { reason: "gone" }), said("tier.up.v1", 40), said("tier.down.v1", 50)];
  const found = outages(events, [], T0, T0 + 60 * S);
  assert.deepEqual(spans(found), [
    ["down", 10, 40, false],
    ["down", 50, 60, true],
  ]);
  assert.equal(found[0].reason, "gone");
});

test("what began before the window is known by its end, or by how the tier stands", () => {
  const up = said("tier.up.v1", 20, { down_s: 100 });
  assert.deepEqual(spans(outages([up], [], T0, T0 + 60 * S)), [["down", 0, 20, false]]);
  const stands = [{ tier: "complex", state: "down", since: iso(T0 - 900 * S), reason: "" }];
  assert.deepEqual(spans(outages([], stands, T0, T0 + 60 * S)), [["down", 0, 60, true]]);
});

test("a limit ends at its time, with the next one, or when it is lifted", () => {
  const limited = (s, until) => said("tier.limited.v1", s, { until: iso(T0 + until * S) });
  const events = [
    limited(0, 10),
    limited(20, 90),
    limited(30, 80),
    said("tier.limit_cleared.v1", 45),
    limited(50, 500),
  ];
  assert.deepEqual(spans(outages(events, [], T0, T0 + 60 * S)), [
    ["limited", 0, 10, false],
    ["limited", 20, 30, false],
    ["limited", 30, 45, false],
    ["limited", 50, 60, true],
  ]);
});

test("hosts are lost at a moment", () => {
  const lost = { seq: 1, event: { type: "host.lost.v1", host: "h1", at: iso(T0 + 5 * S) } };
  assert.deepEqual(losses([lost, said("tier.down.v1", 6)], T0, T0 + 60 * S), [{ host: "h1", at: T0 + 5 * S }]);
});

test("what was done is counted by the minute in a short window, by the hour in a long one", () => {
  const minutes = { "2026-01-31T12:00": { completed: 3, failed: 1 }, "2026-01-31T12:02": { completed: 2 } };
  const short = throughput(minutes, [], T0, T0 + 180 * S);
  assert.deepEqual(
    short.map(({ done, failed }) => [done, failed]),
    [
      [3, 1],
      [0, 0],
      [2, 0],
    ],
  );
  const hours = [
    { key: "2026-01-31T12", runs: 5, completed: 4 },
    { key: "2026-01-30T11", runs: 9, completed: 9 },
  ];
  const day = throughput(minutes, hours, T0, T0 + 86_400 * S);
  assert.equal(day.length, 24);
  assert.deepEqual([day[0].done, day[0].failed], [4, 1]);
  assert.equal(
    day.slice(1).every(({ done }) => done === 0),
    true,
  );
  const month = throughput({}, hours, T0 - 30 * 86_400 * S, T0 + 3600 * S);
  assert.ok(month.length <= 60);
  assert.equal(
    month.reduce((sum, { done }) => sum + done, 0),
    13,
  );
});
