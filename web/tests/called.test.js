// Calls of tools in live output, as people read them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { called } from "../ui/calls.js";

test("a call's pieces are one line that begins with its name", () => {
  const first = '{"index":0,"id":"c","type":"function","function":{"name":"weather","arguments":""}}\n';
  const more = '{"index":0,"function":{"arguments":"{\\"city\\":\\"Wien\\"}"}}\n';
  assert.equal(called(first + more), '\ncalls weather {"city":"Wien"}');
});

test("what is no piece of a call is shown as it is", () => {
  assert.equal(called("half a li"), "half a li");
  assert.equal(called(""), "");
});
