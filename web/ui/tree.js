// A task with the tasks that its runs submitted, and theirs, as lines with what each cost in all.

/** @import { TaskRow } from "./answers.d.ts" */
/** @typedef {{ task: TaskRow, deep: number, below: number, tokens: number | null, usd: number | null }} Line */

/**
 * The lines of a tree, each task behind its parent. What any of them does not know is null in the sum.
 * @param {TaskRow[]} rows @param {string} root @returns {Line[]}
 */
export function treeOf(rows, root) {
  /** @type {Map<string, TaskRow[]>} */
  const children = new Map();
  for (const row of [...rows].sort((a, b) => a.seq - b.seq)) {
    const key = row.task_id === root ? "" : (row.parent ?? "");
    children.set(key, [...(children.get(key) ?? []), row]);
  }
  /** @type {Line[]} */
  const lines = [];
  const add = (/** @type {TaskRow} */ task, /** @type {number} */ deep) => {
    const own = task.tokens_in === null || task.tokens_out === null ? null : task.tokens_in + task.tokens_out;
    /** @type {Line} */
    const line = { task, deep, below: 0, tokens: own, usd: task.estimated_cost_usd ?? null };
    lines.push(line);
    for (const child of children.get(task.task_id) ?? []) {
      const under = add(child, deep + 1);
      line.below += 1 + under.below;
      line.tokens = line.tokens === null || under.tokens === null ? null : line.tokens + under.tokens;
      line.usd = line.usd === null || under.usd === null ? null : line.usd + under.usd;
    }
    return line;
  };
  for (const top of children.get("") ?? []) if (top.task_id === root) add(top, 0);
  return lines;
}
