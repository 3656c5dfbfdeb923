import assert from "node:assert/strict";
import { test } from "node:test";
import { treeOf } from "../ui/tree.js";

/** @param {string} task_id @param {string} [parent] @param {object} [more] */
const row = (task_id, parent = "", more = {}) =>
  /** @type {any} */ ({
    task_id,
    parent,
    seq: task_id.charCodeAt(0),
    tokens_in: 1,
    tokens_out: 1,
    estimated_cost_usd: 0.5,
    ...more,
  });

test("each task stands behind its parent, with what it and all below it cost", () => {
  const lines = treeOf([row("d", "b"), row("c", "a"), row("b", "a"), row("a")], "a");
  assert.deepEqual(
    lines.map(({ task, deep, below, tokens, usd }) => [task.task_id, deep, below, tokens, usd]),
    [
      ["a", 0, 3, 8, 2],
      ["b", 1, 1, 4, 1],
      ["d", 2, 0, 2, 0.5],
      ["c", 1, 0, 2, 0.5],
    ],
  );
});

test("what one does not know, no sum above it knows", () => {
  const [top, b] = treeOf([row("a"), row("b", "a"), row("c", "a", { tokens_in: null, estimated_cost_usd: null })], "a");
  assert.deepEqual([top?.tokens, top?.usd, b?.tokens, b?.usd], [null, null, 2, 0.5]);
});

test("a task whose parent is not among the rows is left out", () => {
  assert.deepEqual(
    treeOf([row("b", "x"), row("a")], "a").map(({ task }) => task.task_id),
    ["a"],
  );
});
