import assert from "node:assert/strict";
import { test } from "node:test";
import { TaskList } from "../ui/tasklist.js";

const answer = (ids, states = {}, offset = 0) => ({
  total: 100,
  states,
  offset,
  rows: ids.map((task_id) => ({ task_id })),
});
const ids = (list) => [...list.rows].map(([n, row]) => `${n}:${row.task_id}`);

test("windows of one list are laid beside each other", () => {
  const list = new TaskList();
  list.take("all", answer(["a", "b"]));
  list.take("all", answer(["k", "l"], {}, 10));
  assert.deepEqual(ids(list), ["0:a", "1:b", "10:k", "11:l"]);
});

test("a count that changed is taken though the rows are the same ones", () => {
  const list = new TaskList();
  const first = answer(["a"], { waiting: 1 });
  list.take("running", first);
  list.take("running", { ...first, states: { waiting: 2 }, total: 101 });
  assert.deepEqual(list.states, { waiting: 2 });
  assert.equal(list.total, 101);
});

test("another filter begins anew", () => {
  const list = new TaskList();
  list.take("all", answer(["a", "b"]));
  list.take("failed", answer(["z"]));
  assert.deepEqual(ids(list), ["0:z"]);
  assert.equal(list.filter, "failed");
});

test("rows that were scrolled past long ago are let go", () => {
  const list = new TaskList();
  for (let offset = 0; offset < 4000; offset += 500) list.take("all", answer(Array(500).fill("x"), {}, offset));
  assert.ok(list.rows.size <= 2500);
});
