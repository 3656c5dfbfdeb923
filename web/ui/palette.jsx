// The keyboard: one search for pages, actions, hosts and tasks, and a key for what is done often.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { plain, shortId } from "./format.js";
import { Dialog } from "./parts.jsx";
import { useViews } from "./savedviews.jsx";
import { useTopic } from "./socket.js";
import { USUAL_VIEWS } from "./views.js";

/** @typedef {{ title: string, about: string, go: () => void }} Found */

const PAGES = ["now", "tasks", "schedules", "fleet", "routing", "costs", "events"];
const MOST = 12;
/** @type {[string, string][]} */
export const KEYS = [
  ["⌘K, Ctrl K", "search pages, actions, views, hosts, tasks"],
  ["/", "to the page's search"],
  ["g n, g t, g s, g f, g r, g c, g e", "to Now, Tasks, Schedules, Fleet, Routing, Costs, Events"],
  ["j, k", "to the next task, or the one before"],
  ["Enter", "opens it"],
  ["?", "these keys"],
];

/** @param {string} address */
const to = (address) => () => {
  location.hash = address;
};

/** Whether somebody writes there. @param {EventTarget | null} target */
const writes = (target) =>
  target instanceof HTMLElement && !!target.closest("input, textarea, select, [contenteditable]");

/** Go to the next task of the list, or the one before. @param {number} by */
function step(by) {
  const links = /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("tr.task .c-text a"));
  const at = [...links].indexOf(/** @type {HTMLElement} */ (document.activeElement));
  links[at < 0 ? (by > 0 ? 0 : links.length - 1) : Math.max(0, Math.min(links.length - 1, at + by))]?.focus();
}

/**
 * Listens to keys wherever nobody writes.
 * @param {(what: "search" | "keys") => void} open
 */
export function useKeys(open) {
  const latest = useRef(open);
  latest.current = open;
  useEffect(() => {
    let after = ""; // "g", for a second
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const pressed = (/** @type {KeyboardEvent} */ event) => {
      if ((event.metaKey || event.ctrlKey) && event.key.toLowerCase() === "k") {
        event.preventDefault();
        latest.current("search");
        return;
      }
      if (event.metaKey || event.ctrlKey || event.altKey || writes(event.target)) return;
      if (document.querySelector("dialog[open]")) return;
      const page = after === "g" && PAGES.find((name) => name[0] === event.key);
      after = "";
      clearTimeout(timer);
      if (page) location.hash = `#/${page}`;
      else if (event.key === "g") {
        after = "g";
        timer = setTimeout(() => {
          after = "";
        }, 1000);
      } else if (event.key === "j" || event.key === "k") step(event.key === "j" ? 1 : -1);
      else if (event.key === "?") latest.current("keys");
      else if (event.key === "/") {
        const search = /** @type {HTMLElement | null} */ (document.querySelector("main input[type=search]"));
        if (search) search.focus();
        else latest.current("search");
      } else return;
      event.preventDefault();
    };
    addEventListener("keydown", pressed);
    return () => {
      clearTimeout(timer);
      removeEventListener("keydown", pressed);
    };
  }, []);
}

/** @param {{ close: () => void }} props */
export const Keys = ({ close }) => (
  <Dialog title="Keys" close={close}>
    <dl class="pairs keys">
      {KEYS.map(([keys, what]) => (
        <>
          <dt>
            <kbd>{keys}</kbd>
          </dt>
          <dd>{what}</dd>
        </>
      ))}
    </dl>
  </Dialog>
);

/** @param {{ close: () => void, actions: Found[] }} props */
export function Palette({ close, actions }) {
  const [text, type] = useState("");
  const [at, move] = useState(0);
  const wanted = text.trim().toLowerCase();
  const { data: fleet } = useTopic("fleet");
  const kept = useViews();
  const { data: tasks } = useTopic(wanted ? "tasks" : null, { text: text.trim(), sort: "-submitted", limit: 8 });
  const found = useMemo(() => {
    const fits = (/** @type {Found} */ one) => `${one.title} ${one.about}`.toLowerCase().includes(wanted);
    const pages = PAGES.map((name) => ({
      title: name[0].toUpperCase() + name.slice(1),
      about: "page",
      go: to(`#/${name}`),
    }));
    const hosts = (fleet?.hosts ?? []).map(({ host, state }) => ({
      title: plain(host, 80),
      about: `host, ${state}`,
      go: to(`#/fleet/${encodeURIComponent(host)}`),
    }));
    const views = [...kept, ...USUAL_VIEWS].map(({ name, address }) => ({
      title: plain(name, 80),
      about: "view",
      go: to(address),
    }));
    const rows = (wanted ? (tasks?.rows ?? []) : []).map((task) => ({
      title: plain(task.description, 90),
      about: `task ${shortId(task.task_id)}, ${task.state}`,
      go: to(`#/task/${task.task_id}`),
    }));
    return [...[...pages, ...actions, ...views, ...hosts].filter(fits), ...rows].slice(0, MOST);
  }, [wanted, fleet, tasks, actions, kept]);
  const here = Math.min(at, found.length - 1);
  const take = (/** @type {Found | undefined} */ one) => {
    if (!one) return;
    close();
    one.go();
  };
  const pressed = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "ArrowDown") move((here + 1) % Math.max(1, found.length));
    else if (event.key === "ArrowUp") move((here - 1 + found.length) % Math.max(1, found.length));
    else if (event.key === "Enter") take(found[here]);
    else return;
    event.preventDefault();
  };
  return (
    <Dialog title="Search" close={close}>
      <input
        type="search"
        id="palette"
        autofocus
        role="combobox"
        aria-expanded="true"
        aria-controls="palette-found"
        aria-activedescendant={found.length ? `found-${here}` : undefined}
        aria-label="Pages, actions, views, hosts, tasks"
        placeholder="Pages, actions, views, hosts, tasks"
        value={text}
        onInput={(event) => {
          type(event.currentTarget.value);
          move(0);
        }}
        onKeyDown={pressed}
      />
      <ul id="palette-found" role="listbox" aria-label="Found" class="found">
        {found.map((one, n) => (
          <li id={`found-${n}`} role="option" aria-selected={n === here} onClick={() => take(one)}>
            <span>{one.title}</span> <small>{one.about}</small>
          </li>
        ))}
        {!found.length && (
          <li role="option" aria-selected="false" aria-disabled="true">
            Nothing is called so.
          </li>
        )}
      </ul>
    </Dialog>
  );
}
