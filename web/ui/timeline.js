// What the log says of a span of time: how much was done when, and what was down.
import { at } from "./format.js";

/** @import { CostLine, LoggedEvent, TierRow } from "./answers.d.ts" */
/** @import { Minutes } from "./topics.d.ts" */
/**
 * Instants are milliseconds since 1970. `until` is the window's end where it lasts still.
 * @typedef {{
 *   tier: string, kind: "down" | "limited", from: number, until: number, lasts: boolean, reason: string,
 * }} Outage
 * @typedef {{ host: string, at: number }} Loss
 * @typedef {{ from: number, until: number, done: number, failed: number }} Part
 */

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const PARTS = 60;
/** A window of no more than this is counted by the minute; the read models keep as many. */
export const BY_MINUTE = 2 * HOUR;

/**
 * When each tier was down or limited, cut to the window, oldest first.
 *
 * What began before the first event is known from the end of it, or from how the tiers stand.
 * @param {LoggedEvent[]} events of tiers, oldest first @param {TierRow[]} tiers as they stand
 * @param {number} from @param {number} until
 * @returns {Outage[]}
 */
export function outages(events, tiers, from, until) {
  /** @type {Outage[]} */
  const found = [];
  /** @type {Map<string, Outage>} those that have not ended, by tier and kind */
  const open = new Map();
  const begin = (/** @type {string} */ key, /** @type {Outage} */ one) => {
    if (open.has(key)) return;
    open.set(key, one);
    found.push(one);
  };
  const end = (/** @type {string} */ key, /** @type {number} */ when) => {
    const one = open.get(key);
    if (one) Object.assign(one, { until: Math.min(one.until, when), lasts: false });
    open.delete(key);
    return one !== undefined;
  };
  for (const { event } of events) {
    const { tier, type, reason = "" } = event;
    const when = at(event.at);
    if (Number.isNaN(when) || !tier) continue;
    const down = `down/${tier}`;
    const limited = `limited/${tier}`;
    if (type === "tier.down.v1") begin(down, { tier, kind: "down", from: when, until, lasts: true, reason });
    else if (type === "tier.up.v1") {
      const began = when - (event.down_s ?? 0) * 1000;
      if (!end(down, when) && began < when)
        found.push({ tier, kind: "down", from: began, until: when, lasts: false, reason });
    } else if (type === "tier.limited.v1") {
      end(limited, when);
      const ends = at(event.until);
      const lasts = !(ends <= until);
      begin(limited, { tier, kind: "limited", from: when, until: lasts ? until : ends, lasts, reason });
    } else if (type === "tier.limit_cleared.v1") end(limited, when);
  }
  for (const { tier, state, since, reason } of tiers)
    if (state === "down" && since)
      begin(`down/${tier}`, { tier, kind: "down", from: at(since), until, lasts: true, reason });
  return found
    .map((one) => ({ ...one, from: Math.max(one.from, from), until: Math.min(one.until, until) }))
    .filter((one) => one.from < one.until)
    .sort((a, b) => a.from - b.from);
}

/**
 * When hosts were lost, within the window.
 * @param {LoggedEvent[]} events of the fleet @param {number} from @param {number} until
 * @returns {Loss[]}
 */
export const losses = (events, from, until) =>
  events
    .filter(({ event }) => event.type === "host.lost.v1")
    .map(({ event }) => ({ host: event.host, at: at(event.at) }))
    .filter((one) => one.at >= from && one.at <= until);

/**
 * How many tasks ended in each part of the window, the good and the others apart.
 *
 * By the minute where the window is short, else by the hour, from what was booked.
 * @param {Minutes} minutes @param {CostLine[]} hours by "2026-01-31T12"
 * @param {number} from @param {number} until
 * @returns {Part[]}
 */
export function throughput(minutes, hours, from, until) {
  const isShort = until - from <= BY_MINUTE;
  const unit = isShort ? MINUTE : HOUR;
  const first = Math.floor(from / unit) * unit;
  const size = Math.max(1, Math.ceil((until - first) / unit / PARTS)) * unit;
  /** @type {Part[]} */
  const parts = [];
  for (let start = first; start < until; start += size)
    parts.push({ from: start, until: start + size, done: 0, failed: 0 });
  const put = (/** @type {number} */ when, /** @type {number} */ done, /** @type {number} */ failed) => {
    const part = parts[Math.floor((when - first) / size)];
    if (!part) return;
    part.done += done;
    part.failed += failed;
  };
  if (isShort)
    for (const [minute, { completed = 0, failed = 0 }] of Object.entries(minutes))
      put(at(`${minute}:00Z`), completed, failed);
  else for (const { key, runs, completed } of hours) put(at(`${key}:00:00Z`), completed, runs - completed);
  return parts;
}
