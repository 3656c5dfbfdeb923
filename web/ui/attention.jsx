// What wants a person: the one list of causes, its count in title and icon, and one action each.
import { useEffect, useState } from "preact/hooks";
import { carryOut, notice, post } from "./api.js";
import { forMany } from "./bulk.jsx";
import { age, at, clock, count, local, plain } from "./format.js";
import { keep, keptJson } from "./kept.js";
import { Empty, Panel, Said, Sure } from "./parts.jsx";
import { setWaiting, tasksLike } from "./route.js";
import { BASE } from "./session.js";
import { useTopic } from "./socket.js";

/** @import { AttentionRow } from "./answers.d.ts" */

const FIRST = 8; // rows that are shown at once
const ASIDE = `agentcom-aside ${BASE}`;
const TELL = `agentcom-tell ${BASE}`;
const WORDS = { error: "Error", warning: "Warning", info: "Note" };
const MARKS = { error: "✗", warning: "!", info: "i" };

/** @type {Record<string, string>} rows that were put aside, and up to when */
let aside = keptJson(ASIDE) ?? {};
/** @type {Set<() => void>} */
const listeners = new Set();
/** A row comes back when there is more of it than was put aside. @param {AttentionRow} row */
const isAside = (row) => aside[row.key] !== undefined && aside[row.key] >= (row.last ?? "");

/** @param {AttentionRow} row */
function putAside(row) {
  aside = Object.fromEntries(Object.entries({ ...aside, [row.key]: row.last ?? "" }).slice(-500));
  keep(ASIDE, JSON.stringify(aside));
  for (const tell of listeners) tell();
}

/** What wants a person now, without what was put aside. @returns {AttentionRow[] | null} */
export function useAttention() {
  const { data } = useTopic("attention");
  const [, render] = useState(0);
  useEffect(() => {
    const tell = () => render((n) => n + 1);
    listeners.add(tell);
    return () => {
      listeners.delete(tell);
    };
  }, []);
  return data ? data.rows.filter((row) => !isAside(row)) : null;
}

/** Title, icon and notifications say how much there is. @param {AttentionRow[] | null} rows */
export function useSigns(rows) {
  const n = rows?.filter(({ severity }) => severity !== "info").length ?? 0;
  useEffect(() => {
    setWaiting(n);
    const icon = /** @type {HTMLLinkElement | null} */ (document.querySelector("link[rel=icon]"));
    if (icon) icon.href = `${BASE}${n ? "favicon-alert.svg" : "favicon.svg"}`;
  }, [n]);
  const [told] = useState(() => ({ keys: /** @type {Set<string> | null} */ (null) }));
  useEffect(() => {
    if (!rows) return;
    const fresh = rows.filter(({ key }) => told.keys && !told.keys.has(key));
    told.keys = new Set(rows.map(({ key }) => key));
    if (!keptJson(TELL) || !document.hidden || globalThis.Notification?.permission !== "granted") return;
    for (const row of fresh.slice(0, 3))
      new Notification("AgentCom", { body: plain(local(row.sentence), 200), tag: row.key });
  }, [rows, told]);
}

/** @param {{ rows: AttentionRow[] | null, now: number, operator: boolean }} props */
export function Attention({ rows, now, operator }) {
  const [whole, show] = useState(false);
  const shown = whole ? (rows ?? []) : (rows ?? []).slice(0, FIRST);
  return (
    <Panel
      title={rows?.length ? `Needs attention: ${rows.length}` : "Needs attention"}
      id="attention"
      action={<Tell />}
    >
      {rows && !rows.length && <Empty>No issues.</Empty>}
      <ul class="list attention">
        {shown.map((row) => (
          <Row key={row.key} row={row} now={now} operator={operator} />
        ))}
      </ul>
      {(rows?.length ?? 0) > shown.length && (
        <button type="button" class="link" onClick={() => show(true)}>
          {`${count((rows?.length ?? 0) - shown.length)} more`}
        </button>
      )}
    </Panel>
  );
}

/** Whether this browser tells of new ones while it shows something else. */
function Tell() {
  const [on, set] = useState(keptJson(TELL) === true);
  if (!globalThis.Notification) return null;
  const turn = async () => {
    const wanted = !on && (await Notification.requestPermission()) === "granted";
    if (!on && !wanted) notice("The browser does not let this page notify.", "bad");
    keep(TELL, JSON.stringify(wanted));
    set(wanted);
  };
  return (
    <button type="button" class="quiet" aria-pressed={on} onClick={turn}>
      {on ? "Notifies" : "Notify me"}
    </button>
  );
}

/** @param {{ row: AttentionRow, now: number, operator: boolean }} props */
function Row({ row, now, operator }) {
  const { severity, sentence, since = "", last = "", until = "", filter, count: n = 0 } = row;
  return (
    <li class={severity} data-kind={row.kind}>
      <span class={`mark ${severity}`} role="img" aria-label={WORDS[severity]}>
        {MARKS[severity]}
      </span>
      <span class="sentence">
        <Said most={400}>{sentence}</Said>{" "}
        <small>
          {since && <span title={new Date(since).toString()}>{`since ${age(since, now)}`}</span>}
          {last && last !== since && `, last ${age(last, now)} ago`}
          {until && at(until) > now && `, until ${clock(until)}`}
        </small>
      </span>
      <span class="acts">
        {filter && n > 0 && <a href={tasksLike({ .../** @type {any} */ (filter) })}>{`Show ${count(n)}`}</a>}
        <Act row={row} operator={operator} />
        <button type="button" class="quiet" aria-label="Dismiss" title="Dismiss" onClick={() => putAside(row)}>
          ✕
        </button>
      </span>
    </li>
  );
}

/** @param {{ row: AttentionRow, operator: boolean }} props */
function Act({ row, operator }) {
  const { action, label = "", tier = "", host = "", filter } = row;
  const [busy, setBusy] = useState("");
  if (action === "open_host") return <a href={`#/fleet/${encodeURIComponent(host)}`}>{plain(label, 80)}</a>;
  if (!operator || !action) return null;
  if (busy) return <span role="status">{busy}</span>;
  if (action === "retry" || action === "cancel") {
    const run = async () => {
      setBusy("…");
      await forMany(action, { filter: /** @type {any} */ (filter) }, (done, all) =>
        setBusy(`${count(done)} of ${count(all)}`),
      );
      setBusy("");
    };
    return <Sure label={plain(label, 80)} sure={`${plain(label, 60)}?`} act={run} />;
  }
  const act = () =>
    action === "acknowledge"
      ? carryOut(() => post(`/alerts/${tier}/acknowledge`), "The alert is acknowledged.")
      : carryOut(() => post(`/tiers/${tier}/clear-limit`), "The tier is used again.");
  return (
    <button type="button" onClick={act}>
      {plain(label, 80)}
    </button>
  );
}
