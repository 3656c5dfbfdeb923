// The rows of a long list that are known so far, as windows of it arrive one by one.

const MOST_ROWS = 2000;

/** @import { TaskRow } from "./answers.d.ts" */
/** @import { Topics } from "./topics.d.ts" */

/** What a filter has found. What an earlier one found stays until there is an answer to this one. */
export class TaskList {
  constructor() {
    this.filter = "";
    /** @type {Map<number, TaskRow>} by place in the whole list */
    this.rows = new Map();
    this.total = 0;
    /** @type {Record<string, number>} */
    this.states = {};
    /** @type {Topics["tasks"] | null} the answer that was taken last */
    this.taken = null;
  }

  /**
   * Take an answer for `filter`. Any of its sections may have changed alone, so it is the
   * whole answer, a new object with every message, that tells whether it is known.
   * @param {string} filter
   * @param {Topics["tasks"]} answer
   */
  take(filter, answer) {
    if (answer === this.taken) return;
    if (this.filter !== filter || this.rows.size > MOST_ROWS) this.rows = new Map();
    this.filter = filter;
    this.taken = answer;
    this.total = answer.total;
    this.states = answer.states;
    for (const [n, row] of answer.rows.entries()) this.rows.set(answer.offset + n, row);
  }
}
