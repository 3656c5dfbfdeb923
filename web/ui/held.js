// What a task is held for, in few words: it waits outside the queue.
import { moment } from "./format.js";

/** @import { TaskRow } from "./answers.d.ts" */

/** @param {Pick<TaskRow, "comes_after" | "not_before">} task */
export function heldFor({ comes_after: others, not_before: start }) {
  const said = [];
  if (others) said.push(others === 1 ? "after 1 task" : `after ${others} tasks`);
  if (start) said.push(`not before ${moment(start)}`);
  return said.join(", ");
}
