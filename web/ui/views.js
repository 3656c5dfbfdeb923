// Views that somebody keeps: an address under a name, in this browser.
import { keep, kept } from "./kept.js";
import { BASE } from "./session.js";

const KEY = `agentcom-views ${BASE}`;
const MOST = 100;
/** @typedef {{ name: string, address: string }} View `address` begins with "#/" */

/** Those that everybody has. @type {View[]} */
export const USUAL_VIEWS = [
  { name: "Failed today", address: "#/tasks?state=failed%2Cdead%2Cexpired&last=24h" },
  { name: "Waiting, oldest first", address: "#/tasks?state=waiting&sort=submitted" },
  { name: "Off their tier", address: "#/tasks?fallback=yes" },
  { name: "Dearest first", address: "#/tasks?sort=-cost" },
];

/**
 * What is stored, as far as it is views.
 * @param {string | null} text @returns {View[]}
 */
export function viewsIn(text) {
  try {
    const stored = JSON.parse(text ?? "[]");
    if (!Array.isArray(stored)) return [];
    return stored
      .filter((one) => typeof one?.name === "string" && one.name && String(one.address).startsWith("#/"))
      .map(({ name, address }) => ({ name, address }))
      .slice(-MOST);
  } catch {
    return [];
  }
}

/** With one more, which takes the place of one of that name. @param {View[]} all @param {View} view */
export const withView = (all, view) => [...all.filter(({ name }) => name !== view.name), view].slice(-MOST);

/** An address without where one is in it. @param {string} address */
export function bare(address) {
  const [path, query = ""] = address.split("?");
  const said = new URLSearchParams(query);
  said.delete("from");
  return `${path}${said.size ? `?${said}` : ""}`;
}

/** @type {Set<() => void>} told when the views have changed */
export const tellers = new Set();

export const views = {
  /** @returns {View[]} */
  all: () => viewsIn(kept(KEY)),
  /** @param {View[]} all */
  keep(all) {
    keep(KEY, JSON.stringify(all));
    for (const tell of tellers) tell();
  },
};
