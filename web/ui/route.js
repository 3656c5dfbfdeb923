// The address: which page, of what, and how it is looked at. All that a reader has chosen is
// in it, so that reload, back and a copied address show the same again.
import { useEffect, useLayoutEffect, useState } from "preact/hooks";

/**
 * `wrong` says what is wrong with an address, "" where nothing is.
 * @typedef {{ name: string, rest: string[], query: Record<string, string>, wrong: string }} Place
 */

/** @param {string} hash with or without "#/" @returns {Place} */
export function placeOf(hash) {
  const [path, ...behind] = hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/");
  try {
    return {
      name: name || "now",
      rest: rest.map(decodeURIComponent),
      query: Object.fromEntries(new URLSearchParams(behind.join("?"))),
      wrong: "",
    };
  } catch {
    return {
      name,
      rest: [],
      query: {},
      wrong: `The address “#/${path.slice(0, 200)}” is not one: after % come two digits.`,
    };
  }
}

/** @param {Place} place @param {Record<string, string>} query @returns {string} */
function addressOf({ name, rest }, query) {
  const said = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== "")).toString();
  return `#/${[name, ...rest.map(encodeURIComponent)].join("/")}${said && `?${said}`}`;
}

/** @type {Set<() => void>} */
const listeners = new Set();
/** @param {() => void} tell called when the address has changed */
export function onMove(tell) {
  listeners.add(tell);
  return () => {
    listeners.delete(tell);
  };
}
/** Tell those who listen that the address has changed; one with a token is none of a page. */
export const moved = () => {
  if (location.hash.startsWith("#token=")) return;
  for (const tell of listeners) tell();
};
globalThis.addEventListener?.("hashchange", moved);

/**
 * The part of the address behind "?", as far as it is named in `usual`; what is at its usual
 * value is not in the address. `set` changes some; with `quietly` without a step back to it.
 * @template {Record<string, string>} T
 * @param {T} usual
 * @returns {[T, (part: Partial<T>, quietly?: boolean) => void]}
 */
export function useQuery(usual) {
  const [, render] = useState(0);
  useEffect(() => onMove(() => render((n) => n + 1)), []);
  const { query } = placeOf(location.hash);
  const values = { ...usual };
  for (const name of Object.keys(usual)) if (query[name] !== undefined) Object.assign(values, { [name]: query[name] });
  const set = (/** @type {Partial<T>} */ part, quietly = false) => {
    const place = placeOf(location.hash);
    const next = { ...place.query };
    for (const [name, value] of Object.entries(part)) next[name] = value === usual[name] ? "" : value;
    const address = addressOf(place, next);
    if (address === location.hash) return;
    if (quietly) history.replaceState(history.state, "", address);
    else history.pushState(null, "", address);
    moved();
  };
  return [values, set];
}

/**
 * The address of tasks that a filter finds.
 * @param {Record<string, string | string[] | undefined | null>} filter
 */
export const tasksLike = (filter) =>
  addressOf(
    { name: "tasks", rest: [], query: {}, wrong: "" },
    Object.fromEntries(Object.entries(filter).map(([name, value]) => [name, String(value ?? "")])),
  );

// -- the title ---------------------------------------------------------------------------

let page = ""; // what the page is called
let own = ""; // what the page itself says it shows, if it does
let waiting = 0;
const write = () => {
  const title = own || page;
  document.title = `${waiting ? `(${waiting > 99 ? "99+" : waiting}) ` : ""}${title}${title && " · "}AgentCom`;
};

/** Say in the title which page is looked at. @param {string} text */
export function usePageTitle(text) {
  useLayoutEffect(() => {
    page = text;
    write();
  }, [text]);
}

/** Say in the title what of its page is looked at, as long as it is. @param {string} text */
export function useTitle(text) {
  useLayoutEffect(() => {
    own = text;
    write();
    return () => {
      own = "";
      write();
    };
  }, [text]);
}

/** Say in the title how much needs attention. @param {number} n */
export function setWaiting(n) {
  waiting = n;
  write();
}
