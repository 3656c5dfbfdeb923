// What a held task waits for, and where a graph's tasks are drawn.
import assert from "node:assert/strict";
import { test } from "node:test";
import { heldFor } from "../ui/held.js";

test("a held task says what it is held for", () => {
  assert.equal(heldFor({ comes_after: 1, not_before: "" }), "after 1 task");
  assert.match(heldFor({ comes_after: 3, not_before: "2099-01-01T00:00:00Z" }), /^after 3 tasks, not before \d/);
});
