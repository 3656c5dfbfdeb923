import assert from "node:assert/strict";
import { test } from "node:test";
import { Wrong } from "../ui/form.js";
import { changeOf, fieldOfPlan, formOfPlan, planOf } from "../ui/plan.js";

const ADDED = {
  type: "schedule.added.v1",
  id: "01",
  schedule: "nightly",
  cron: "0 3 * * *",
  tz: "Europe/Berlin",
  missed: "one",
  overlap: "skip",
  task: { description: "look", tier: "trivial", shell: { command: "true" }, network: "none" },
};

test("a plan that is not changed in its form is the plan that was added", () => {
  const { type: _, id: __, ...plan } = ADDED;
  assert.deepEqual(planOf(formOfPlan(ADDED), ADDED.task), plan);
});

test("what is left empty is left to the server", () => {
  assert.deepEqual(planOf({ schedule: " a ", cron: "* * * * *", tz: "", description: "x" }), {
    schedule: "a",
    cron: "* * * * *",
    task: { description: "x" },
  });
});

test("a change says the whole rule, also what was emptied in its form", () => {
  const form = { ...formOfPlan(ADDED), tz: "", overlap: "", description: "look again" };
  const { type: _, id: __, schedule: ___, ...rule } = ADDED;
  assert.deepEqual(changeOf(form, ADDED.task), {
    ...rule,
    tz: "UTC",
    overlap: "queue",
    task: { ...ADDED.task, description: "look again" },
  });
});

test("what belongs to no command is said at its field", () => {
  assert.throws(
    () => planOf({ schedule: "a", cron: "* * * * *", description: "x", env: "A=1" }),
    (/** @type {unknown} */ wrong) => wrong instanceof Wrong && wrong.field === "env",
  );
});

test("a refusal names the field of the schedule, or of its task", () => {
  assert.equal(fieldOfPlan("cron"), "cron");
  assert.equal(fieldOfPlan("schedule"), "schedule");
  assert.equal(fieldOfPlan("task.labels"), "labels");
  assert.equal(fieldOfPlan("task.shell.command"), "command");
  assert.equal(fieldOfPlan("elsewhere"), "");
});
