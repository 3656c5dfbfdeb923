// Which hosts are shown, and in what order: those with a problem first.
import { plain, local } from "./format.js";

/** @import { HostRow } from "./answers.d.ts" */

/** A host's clock that is so far off is an alert, `SKEW_S` in events/beats.py. */
const CLOCK_S = 2;

/**
 * What is wrong with a host, the worst first, in words; none where nothing is.
 * @param {HostRow} host
 * @returns {string[]}
 */
export function troubles(host) {
  const down = host.endpoints.filter((each) => !each.up);
  const ahead = host.clock_ahead_s ?? 0;
  return [
    host.state === "lost" && "lost",
    host.fault && `takes nothing: ${plain(local(host.fault), 120)}`,
    host.journal_lost && "its journal lost results",
    down.length > 0 && `${down.length} of ${host.endpoints.length} endpoints down`,
    host.endpoints.some((each) => each.notice) && "a model is retired",
    Math.abs(ahead) >= CLOCK_S && `its clock is ${Math.abs(Math.round(ahead))} s ${ahead > 0 ? "ahead" : "behind"}`,
    host.state === "draining" && "draining",
    host.outbox && `${host.outbox} reports not delivered`,
  ].flatMap((each) => (typeof each === "string" && each !== "" ? [each] : []));
}

/** How many tasks a host may run at once, by kind and by endpoint. @param {HostRow} host */
export const slotsOf = (host) =>
  Object.values(host.slots).reduce((a, b) => a + b, 0) +
  host.endpoints.reduce((sum, each) => sum + (each.kind in host.slots ? 0 : each.slots), 0);

/** What fleets are ordered by. @type {Record<string, string>} */
export const ORDERS = { problems: "problems first", name: "by name", busy: "busiest first", since: "newest first" };

/**
 * @param {HostRow[]} hosts
 * @param {{ text: string, state: string, sort: string }} wanted
 * @returns {HostRow[]}
 */
export function fleetOf(hosts, { text, state, sort }) {
  const words = text.trim().toLowerCase();
  const says = (/** @type {HostRow} */ host) =>
    [
      host.host,
      host.platform,
      host.version,
      ...host.capabilities,
      ...host.repos,
      ...host.endpoints.flatMap((each) => [each.endpoint, each.kind, ...each.models, ...each.loaded]),
    ]
      .join("\n")
      .toLowerCase();
  const found = hosts.filter(
    (host) =>
      (!words || says(host).includes(words)) &&
      (!state || (state === "problems" ? troubles(host).length > 0 : host.state === state)),
  );
  const name = (/** @type {HostRow} */ a, /** @type {HostRow} */ b) => a.host.localeCompare(b.host);
  const rank = (/** @type {HostRow} */ host) => {
    const wrong = troubles(host);
    if (!wrong.length) return 0;
    return host.state === "lost" || host.fault ? 3 : wrong[0] === "draining" ? 1 : 2;
  };
  const busy = (/** @type {HostRow} */ host) => host.in_flight / Math.max(1, slotsOf(host));
  return found.sort((a, b) => {
    if (sort === "busy") return busy(b) - busy(a) || name(a, b);
    if (sort === "since") return b.since.localeCompare(a.since) || name(a, b);
    if (sort === "name") return name(a, b);
    return rank(b) - rank(a) || name(a, b);
  });
}
