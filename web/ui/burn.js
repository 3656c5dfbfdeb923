// How fast dollars go, and when a budget is spent at that rate.
import { at } from "./format.js";

/** @import { CostLine } from "./answers.d.ts" */

const HOUR = 3_600_000;
const DAY = 24 * HOUR;

/**
 * Dollars of the last 24 hours, and what that is an hour and a month.
 *
 * Where the first booking is younger than a day, the rate is over the time since then.
 * @param {CostLine[]} hours by "2026-01-31T12", of the last day @param {number} now
 */
export function burn(hours, now) {
  const all = hours.filter(({ key }) => at(`${key}:00:00Z`) > now - DAY);
  const day = all.reduce((sum, line) => sum + line.estimated_cost_usd, 0);
  const first = Math.min(...all.map(({ key }) => at(`${key}:00:00Z`)), now);
  const over = Math.max(HOUR, Math.min(DAY, now - first));
  const hour = (day * HOUR) / over;
  return { day, hour, month: hour * 24 * 30 };
}

/**
 * When a day's budget is spent if it goes on so; null where it lasts until midnight, UTC.
 * @param {number} spent today @param {number} budget @param {number} now
 */
export function spentAt(spent, budget, now) {
  const midnight = Math.floor(now / DAY) * DAY;
  if (spent >= budget) return now;
  if (spent <= 0) return null;
  const when = now + ((budget - spent) * (now - midnight)) / spent;
  return when < midnight + DAY ? when : null;
}
