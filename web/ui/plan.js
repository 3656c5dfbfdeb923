// A schedule as a form has it: when, and the task that is submitted then.
import { FIELDS, GROUPS, fieldOf, formOf, specOf } from "./form.js";

/** @import { Field, Form } from "./form.js" */

/** What a schedule's task cannot have: it is no single moment's. */
const NOT_PLANNED = new Set(["deadline", "at", "after", "after_any", "input_from"]);
const BY_HAND = /^[^a-z]*(schedule|cron|tz|missed|overlap)\b/;

/** @type {Field[]} */
export const WHEN = [
  { name: "schedule", title: "Name", hint: "nightly" },
  { name: "cron", title: "When", hint: "0 3 * * mon-fri", mono: true },
  { name: "tz", title: "Time zone", set: "zones" },
  { name: "missed", title: "Times that were missed", choices: ["skip", "one", "all"], hint: "one" },
  {
    name: "overlap",
    title: "While the one before is not over",
    choices: ["skip", "queue", "replace"],
    hint: "queue",
  },
];
export const TASK = /** @type {[string, Field[]][]} */ (
  GROUPS.map(([title, fields]) => [title, fields.filter(({ name }) => !NOT_PLANNED.has(name))])
).filter(([, fields]) => fields.length);
const OF_TASK = new Set(["shell", ...FIELDS.map(({ name }) => name)]);

/**
 * The form of a schedule that is there, or of one that is to be.
 * @param {Record<string, any>} added as its event says it: schedule, cron, tz, missed, overlap, task
 * @returns {Form}
 */
export function formOfPlan({ task = {}, ...when }) {
  const own = Object.fromEntries(WHEN.map(({ name }) => [name, String(when[name] ?? "")]));
  return { ...formOf(task), ...own };
}

/**
 * The command that adds what a form describes; throws Wrong. What the form has no field for
 * stays as it was in `task`.
 * @param {Form} form @param {Record<string, any>} [task] @returns {Record<string, any>}
 */
export function planOf(form, task = {}) {
  const left = Object.fromEntries(Object.entries(task).filter(([name]) => !OF_TASK.has(name)));
  const when = WHEN.filter(({ name }) => form[name]?.trim()).map(({ name }) => [name, form[name].trim()]);
  return { ...Object.fromEntries(when), task: { ...left, ...specOf(form) } };
}

/**
 * The command that gives a schedule the whole rule that a form describes; throws Wrong. What
 * was left empty is said as what a new schedule has.
 * @param {Form} form @param {Record<string, any>} task @returns {Record<string, any>}
 */
export function changeOf(form, task) {
  const { schedule: _, ...rule } = planOf(form, task);
  return { tz: "UTC", missed: "one", overlap: "queue", ...rule };
}

/** The field that a refusal is about; "" where it is about none. @param {string} path */
export const fieldOfPlan = (path) => BY_HAND.exec(path)?.[1] ?? fieldOf(path);
