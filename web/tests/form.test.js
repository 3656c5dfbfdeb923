import assert from "node:assert/strict";
import { test } from "node:test";
import { FIELDS, Wrong, fieldOf, formOf, saysWhat, specOf } from "../ui/form.js";

const WHOLE = {
  description: "do: it",
  tier: "complex",
  priority: "high",
  labels: { team: "search", part: "a=b" },
  repo: "shop",
  branch: "main",
  cwd: "/srv",
  model: "opus",
  assign_to: "h1",
  needs: ["gpu", "docker"],
  executor: "agent",
  mode: "work",
  timeout_s: 60,
  ttl_s: 0.5,
  deadline: "2026-01-31T12:00:00Z",
  at: "2026-01-31T11:00:00+01:00",
  after: ["01A"],
  after_any: ["01B", "01C"],
  input_from: ["01D"],
  max_attempts: 5,
  retries: 0,
  max_budget_usd: 1.5,
  file_hints: [{ path: "a.py" }, { path: "b.py", reason: "it: breaks" }],
  success_criteria: ["green", "fast"],
  verification_steps: ["make test"],
  verify_rounds: 2,
  claude: { max_turns: 3 },
  system: "be kind",
  max_tokens: 100,
  temperature: 0,
  json_schema: { type: "object" },
  shell: { command: "echo a\necho b", env: { A: "1=2" }, secret_env: ["KEY"], exclusive: true },
  metadata: { ticket: { n: 1 } },
};

test("a whole task becomes a form and the same task again", () => {
  assert.deepEqual(specOf(formOf(WHOLE)), WHOLE);
  for (const { name } of FIELDS) assert.ok(formOf(WHOLE)[name], name);
});

test("a command alone says what is to be done", () => {
  const spec = specOf({ description: " ", command: "echo hi" });
  assert.deepEqual(spec, { description: "echo hi", shell: { command: "echo hi" } });
  assert.ok(saysWhat({ command: "echo hi" }) && saysWhat({ description: "greet" }));
  assert.ok(!saysWhat({ description: " ", tier: "trivial" }));
});

test("what cannot be read is said at its field", () => {
  for (const [field, text] of [
    ["ttl_s", "soon"],
    ["metadata", "[1]"],
    ["labels", "team"],
    ["env", "A=1"],
    ["at", "soon"],
  ])
    assert.throws(
      () => specOf({ description: "x", [field]: text }),
      (error) => error instanceof Wrong && error.field === field,
    );
});

test("a time without a zone is the reader's", () => {
  const { at } = specOf({ description: "x", at: "2026-01-31 12:00" });
  assert.equal(at, new Date(2026, 0, 31, 12).toISOString());
});

test("a refusal is about the field that its path names", () => {
  assert.equal(fieldOf("ttl_s"), "ttl_s");
  assert.equal(fieldOf("$.shell.command"), "command");
  assert.equal(fieldOf("shell"), "command");
  assert.equal(fieldOf("attachments[0].digest"), "attachments");
  assert.equal(fieldOf("id"), "");
});
