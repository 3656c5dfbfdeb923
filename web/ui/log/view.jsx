// The viewer of a log: its lines, and above them what one can do with them.
import { useEffect, useImperativeHandle, useLayoutEffect, useRef, useState } from "preact/hooks";
import { forwardRef } from "preact/compat";
import { notice, toClipboard } from "../api.js";
import { count, zone } from "../format.js";
import { keep, keptJson } from "../kept.js";
import { useQuery } from "../route.js";
import { Rows } from "./rows.js";
import { Search } from "./search.js";

/** @import { LogStore } from "./store.js" */
/** @import { View } from "./rows.js" */
/**
 * `changed` is to be called when the store has changed.
 * @typedef {{ changed: () => void }} Handle
 * @typedef {{
 *   id: string, store: LogStore, label: string, theme: string, placeholder?: any, busy?: boolean,
 *   lines?: [number, number] | null, href?: ((from: number, to?: number) => string) | null,
 *   save?: () => void, follow?: boolean, fit?: number,
 * }} Props `lines`: those that the address names
 */

const MOST_COPIED = 20_000_000; // characters
const onlyStderr = (/** @type {string} */ kind) => kind === "stderr" || kind === "error";
const all = () => true;
/** @type {[View["times"], string][]} */
const TIMES = [
  ["off", "no times"],
  ["since", "since start"],
  ["clock", `clock, ${zone(new Date())}`],
];

const SHAPE = "agentcom-log";
const remembered = () => ({ wrap: true, times: "off", ...keptJson(SHAPE) });

export const LogView = forwardRef(function LogView(
  /** @type {Props} */ { id, store, label, theme, placeholder, busy = false, lines = null, href = null, save, ...more },
  /** @type {import("preact").Ref<Handle>} */ outside,
) {
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const room = useRef(/** @type {HTMLDivElement | null} */ (null));
  const sheet = useRef(/** @type {HTMLDivElement | null} */ (null));
  const input = useRef(/** @type {HTMLInputElement | null} */ (null));
  const rows = useRef(/** @type {Rows | null} */ (null));
  const frame = useRef(0);
  const left = useRef(/** @type {{ at: number, into: number } | null} */ (null)); // where the reader was
  const follow = useRef(more.follow !== false && !lines);
  const [following, setFollowing] = useState(follow.current);
  const [seen, setSeen] = useState(0); // lines there were when following ended
  const [length, setLength] = useState(store.length);
  const [shape, setShape] = useState(remembered);
  const [said, say] = useQuery({ find: "", only: "" });
  const [own, setOwn] = useState({ find: "", only: "" });
  // Where lines have addresses, what is looked for is in the address, too.
  const { find: text, only: kinds } = href ? said : own;
  const look = (/** @type {Partial<typeof own>} */ part) => (href ? say(part, true) : setOwn({ ...own, ...part }));
  const stderr = kinds === "stderr";
  const [full, setFull] = useState(false);
  const { found, step, hit } = useSearch(store, text, stderr, rows, () => stay());
  const only = stderr ? onlyStderr : null;
  /** @type {View} */
  const view = {
    ...shape,
    only,
    theme,
    text,
    hit: hit < found.count ? found.found[2 * hit] : -1,
    hitCol: hit < found.count ? found.found[2 * hit + 1] : -1,
    from: lines?.[0] ?? 0,
    to: lines?.[1] ?? 0,
    href,
    fit: full ? 0 : (more.fit ?? 0),
  };
  const stay = () => {
    if (follow.current) setSeen(store.length);
    follow.current = false;
    setFollowing(false);
  };
  const goOn = () => {
    follow.current = true;
    setFollowing(true);
    rows.current?.toEnd();
    rows.current?.draw();
  };
  const draw = () => {
    frame.current = 0;
    const here = rows.current;
    if (!here) return;
    here.size();
    if (follow.current) here.toEnd();
    here.draw();
    setLength(store.length);
  };
  const later = () => {
    frame.current ||= requestAnimationFrame(draw);
  };
  // biome-ignore lint/correctness/useExhaustiveDependencies: reads refs and the store alone
  useImperativeHandle(outside, () => ({ changed: later }), [store]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: once for each store
  useLayoutEffect(() => {
    const [outer, inner, paper] = [box.current, room.current, sheet.current];
    if (!outer || !inner || !paper) return undefined;
    const made = new Rows(outer, inner, paper, store, view);
    rows.current = made;
    // A log that let its first lines go shows the same ones as before, if it still has them.
    if (left.current && store.length) {
      left.current.at = Math.max(0, left.current.at - store.gone);
      made.measure();
      made.place(left.current.at, left.current.into);
    }
    setSeen((n) => Math.max(0, n - store.gone));
    setLength(store.length);
    const watcher = new ResizeObserver(() => {
      made.measure();
      if (follow.current) made.toEnd();
      made.draw();
    });
    watcher.observe(outer);
    // Letters are as wide as their font, which may come later.
    document.fonts?.ready.then(() => {
      if (rows.current !== made) return;
      made.measure();
      if (follow.current) made.toEnd();
      made.draw();
    });
    return () => {
      watcher.disconnect();
      cancelAnimationFrame(frame.current);
      frame.current = 0;
      rows.current = null;
    };
  }, [store]);
  const looks = JSON.stringify({ ...view, only: stderr, href: null });
  // biome-ignore lint/correctness/useExhaustiveDependencies: `looks` spells the view
  useLayoutEffect(() => {
    rows.current?.show(view);
    if (follow.current) rows.current?.toEnd();
  }, [looks, store]);
  // The line that the address names: as soon as it is there.
  const goal = lines?.[0] ?? 0;
  const arrived = useRef(0);
  const reached = goal > store.cut && store.numbered >= goal;
  // biome-ignore lint/correctness/useExhaustiveDependencies: once for each goal
  useEffect(() => {
    if (!reached || arrived.current === goal) return;
    arrived.current = goal;
    stay();
    rows.current?.size();
    rows.current?.goTo(store.placeOf(goal));
  }, [goal, reached]);
  const scrolled = () => {
    const here = rows.current;
    if (!here) return;
    if (here.isAtEnd()) {
      if (!follow.current) goOn();
    } else if (follow.current) stay();
    left.current = follow.current ? null : here.top();
    here.draw();
  };
  const change = (/** @type {Partial<typeof shape>} */ part) => {
    const next = { ...shape, ...part };
    setShape(next);
    keep(SHAPE, JSON.stringify(next));
  };
  const copy = () => {
    const [from, to] = lines ? [store.placeOf(lines[0]), store.placeOf(lines[1]) + 1] : [0, store.length];
    const copied = store.text(Math.max(0, from), to || store.length, only ?? all);
    if (copied.length > MOST_COPIED) notice("That is too much for the clipboard. Download it instead.", "bad");
    else toClipboard(copied, lines ? `Copied lines ${lines[0]} to ${lines[1]}.` : "Copied.");
  };
  const pressed = (/** @type {KeyboardEvent} */ event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "f") {
      event.preventDefault();
      input.current?.focus();
      input.current?.select();
    } else if (event.key === "Escape" && full) setFull(false);
  };
  // Shift-click on a number names all lines from the one that is named to this one.
  const clicked = (/** @type {MouseEvent} */ event) => {
    const number = /** @type {HTMLElement} */ (event.target).closest("a.ln");
    if (!number || !href || !event.shiftKey || !lines) return;
    event.preventDefault();
    const [one, other] = [lines[0], Number(number.textContent)].sort((a, b) => a - b);
    location.hash = href(one, other);
  };
  const typed = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Enter") step(event.shiftKey ? -1 : 1);
    else if (event.key === "Escape" && text) {
      event.stopPropagation();
      look({ find: "" });
    } else return;
    event.preventDefault();
  };
  const fresh = following ? 0 : length - seen;
  return (
    <div class={`log-view ${full ? "full" : ""}`} onKeyDown={pressed}>
      <div class="log-tools" role="toolbar" aria-label={`${label}: tools`}>
        <span class="log-search">
          <input
            type="search"
            ref={input}
            placeholder="Search"
            aria-label={`Search in ${label}`}
            value={text}
            onInput={(event) => look({ find: event.currentTarget.value })}
            onKeyDown={typed}
          />
          {text && (
            <>
              <span class="log-hits" role="status">
                {found.count ? `${count(hit + 1)}/${count(found.count)}` : found.over ? "none" : "…"}
              </span>
              <button type="button" class="quiet" aria-label="Previous hit" onClick={() => step(-1)}>
                ↑
              </button>
              <button type="button" class="quiet" aria-label="Next hit" onClick={() => step(1)}>
                ↓
              </button>
            </>
          )}
        </span>
        <button type="button" aria-pressed={stderr} onClick={() => look({ only: stderr ? "" : "stderr" })}>
          stderr only
        </button>
        <button type="button" aria-pressed={shape.wrap} onClick={() => change({ wrap: !shape.wrap })}>
          Wrap
        </button>
        <select
          aria-label={`Times in ${label}`}
          value={shape.times}
          onChange={(event) => change({ times: event.currentTarget.value })}
        >
          {TIMES.map(([value, title]) => (
            <option value={value}>{title}</option>
          ))}
        </select>
        {store.hasBoth && (
          <small
            class="pipes"
            title="They come by two pipes; what was written at one moment may stand in either order."
          >
            two streams, by arrival
          </small>
        )}
        <span class="push" />
        <button type="button" onClick={copy} disabled={!length}>
          Copy
        </button>
        {save && (
          <button type="button" onClick={save} disabled={!length}>
            Download
          </button>
        )}
        <button type="button" aria-pressed={full} onClick={() => setFull(!full)}>
          {full ? "Smaller" : "Full height"}
        </button>
      </div>
      {store.cut > 0 && (
        <p class="log-cut" role="note">
          {`⋯ the first ${count(store.cut)} lines are too much for a page${save ? ": Download has them" : ""} ⋯`}
        </p>
      )}
      <div
        id={id}
        class={`log-box ${shape.wrap ? "wrap" : ""}`}
        ref={box}
        onScroll={scrolled}
        onClick={clicked}
        tabindex={0}
        role="log"
        aria-label={label}
        aria-live="off"
        aria-busy={busy}
      >
        {!length && <p class="placeholder">{placeholder}</p>}
        <div class="log-room" ref={room}>
          <div class="log-sheet" ref={sheet} />
        </div>
      </div>
      {!following && length > 0 && more.follow !== false && (
        <button type="button" class="log-follow" onClick={goOn}>
          {fresh > 0 ? `↓ ${count(fresh)} new` : "↓ Follow"}
        </button>
      )}
      {busy && (
        <p class="log-busy" role="status">
          Reading the log: {count(length)} lines…
        </p>
      )}
    </div>
  );
});

/**
 * The search for a text: what was found, and the hit that one is at.
 * @param {LogStore} store @param {string} text @param {boolean} stderr
 * @param {import("preact/hooks").MutableRef<Rows | null>} rows
 * @param {() => void} moved told before the view is moved to a hit
 */
function useSearch(store, text, stderr, rows, moved) {
  const search = useRef(new Search(store, "", all));
  const looked = useRef(""); // for what
  const [hit, setHit] = useState(0);
  const [, tell] = useState(0);
  const goTo = (/** @type {number} */ n) => {
    const { current } = search;
    setHit(n);
    moved();
    rows.current?.goTo(current.line(n));
  };
  // biome-ignore lint/correctness/useExhaustiveDependencies: begun anew for another text or store alone
  useEffect(() => {
    // In a log that let its first lines go one stays at the hit where one is.
    const stays = looked.current === `${stderr} ${text}`;
    looked.current = `${stderr} ${text}`;
    const at = search.current.line(hit) - store.gone;
    const made = new Search(store, text, stderr ? onlyStderr : all);
    search.current = made;
    if (!text) {
      setHit(0);
      tell((n) => n + 1);
      return undefined;
    }
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const begun = stays ? Math.max(0, at) : rows.current?.store.length ? rows.current.top().at : 0;
    let isAt = false;
    const look = () => {
      const over = made.step(() => performance.now());
      made.over ||= over;
      if (!isAt && made.count && (over || made.line(made.count - 1) >= begun)) {
        isAt = true;
        const first = made.from(begun);
        const there = first < made.count ? first : 0;
        if (stays) setHit(there);
        else goTo(there);
      }
      tell((n) => n + 1);
      timer = setTimeout(look, over ? 300 : 0);
    };
    look();
    return () => clearTimeout(timer);
  }, [store, text, stderr]);
  const step = (/** @type {number} */ by) => {
    const { count: n } = search.current;
    if (n) goTo((hit + by + n) % n);
  };
  return { found: search.current, step, hit };
}
