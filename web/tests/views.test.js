import assert from "node:assert/strict";
import { test } from "node:test";

globalThis.location ??= { href: "http://127.0.0.1/", hash: "" };
const { bare, viewsIn, withView } = await import("../ui/views.js");

test("what is stored is views, or nothing", () => {
  assert.deepEqual(viewsIn(null), []);
  assert.deepEqual(viewsIn("{"), []);
  assert.deepEqual(viewsIn('{"name": 1}'), []);
  const good = { name: "a", address: "#/tasks?state=failed" };
  const stored = [good, { name: "b", address: "javascript:alert(1)" }, { name: 3, address: "#/" }, null];
  assert.deepEqual(viewsIn(JSON.stringify(stored)), [good]);
});

test("a name is kept once, and the oldest go", () => {
  const a = { name: "a", address: "#/tasks" };
  assert.deepEqual(withView([a], { name: "a", address: "#/fleet" }), [{ name: "a", address: "#/fleet" }]);
  let all = [];
  for (let n = 0; n < 120; n += 1) all = withView(all, { name: `v${n}`, address: "#/tasks" });
  assert.equal(all.length, 100);
  assert.equal(all[0].name, "v20");
});

test("where one is in a table is no part of a view", () => {
  assert.equal(bare("#/tasks?state=failed&from=40"), "#/tasks?state=failed");
  assert.equal(bare("#/tasks?from=40"), "#/tasks");
});
