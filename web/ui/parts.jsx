// Small pieces that every page uses.
import { useEffect, useRef, useState } from "preact/hooks";
import { onNotice } from "./api.js";
import { local, plain } from "./format.js";
import { Icon, OF_STATE } from "./icons.jsx";

/** @import { Notice } from "./api.js" */
/** @import { TaskRow } from "./answers.d.ts" */

// Foreign text: shown as text, whatever is in it.
/** @param {{ children?: any, most?: number, class?: string }} props */
export const Text = ({ children, most, class: name = "" }) => (
  <bdi class={name}>{plain(Array.isArray(children) ? children.join("") : children, most)}</bdi>
);
// What AgentCom says itself: its times are the reader's.
/** @param {{ children?: any, most?: number }} props */
export const Said = ({ children, most }) => <Text most={most}>{local(String(children ?? ""))}</Text>;

/** @param {{ tier: string }} props */
export const Tier = ({ tier }) => <span class={`tier tier-${tier || "none"}`}>{tier || "–"}</span>;
/** @param {{ state: string }} props */
export const State = ({ state }) => (
  <span class={`badge state-${state}`}>
    <Icon name={OF_STATE[state]} />
    {state}
  </span>
);
/** @param {{ task: TaskRow }} props */
export const Fallback = ({ task }) =>
  task.fallback_used ? (
    <span class="badge fb" title={`fell back from ${task.fallback_from_tier}`}>
      FB
    </span>
  ) : null;
/** @param {{ on: boolean }} props */
export const Simulated = ({ on }) => (on ? <span class="badge simulated">simulated</span> : null);

/** @param {{ title?: string, children?: any, action?: any, class?: string, id?: string }} props */
export function Panel({ title, children, action, class: name = "", id }) {
  return (
    <section class={`panel ${name}`} id={id}>
      {title && (
        <header>
          <h2>{title}</h2>
          {action}
        </header>
      )}
      {children}
    </section>
  );
}

/** @param {{ children?: any }} props */
export const Empty = ({ children }) => <p class="empty">{children}</p>;

/** @param {{ label: string, children?: any, class?: string }} props */
export function Figure({ label, children, class: name = "" }) {
  return (
    <div class={`figure ${name}`}>
      <dt>{label}</dt>
      <dd>{children}</dd>
    </div>
  );
}

/** @param {{ title: string, close: () => void, children?: any }} props */
export function Dialog({ title, close, children }) {
  const box = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => {
    box.current?.showModal();
  }, []);
  return (
    <dialog ref={box} onClose={close} aria-labelledby="dialog-title">
      <header>
        <h2 id="dialog-title">{title}</h2>
        <button type="button" class="quiet" aria-label="Close" onClick={() => box.current?.close()}>
          ✕
        </button>
      </header>
      {children}
    </dialog>
  );
}

const ASKS_MS = 15_000; // long enough to read the question

// A button that asks once more before it acts.
/** @param {{ label: string, sure: string, act: () => void, class?: string }} props */
export function Sure({ label, sure, act, class: name = "" }) {
  const [asking, ask] = useState(false);
  useEffect(() => {
    if (!asking) return undefined;
    const timer = setTimeout(() => ask(false), ASKS_MS);
    return () => clearTimeout(timer);
  }, [asking]);
  return (
    <button
      type="button"
      class={`${name} ${asking ? "danger" : ""}`}
      onClick={() => {
        if (asking) act();
        ask(!asking);
      }}
    >
      {asking ? sure : label}
    </button>
  );
}

export function Notices() {
  const [shown, show] = useState(/** @type {Notice[]} */ ([]));
  useEffect(
    () =>
      onNotice((one) => {
        show((all) => [...all.slice(-3), one]);
        setTimeout(() => show((all) => all.filter((each) => each !== one)), 6000);
      }),
    [],
  );
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  // Above everything, also above a dialog that was opened before.
  useEffect(() => {
    box.current?.hidePopover?.();
    if (shown.length) box.current?.showPopover?.();
  }, [shown]);
  return (
    <div class="notices" role="status" aria-live="polite" popover="manual" ref={box}>
      {shown.map((one) => (
        <p class={one.kind}>{plain(one.text, 600)}</p>
      ))}
    </div>
  );
}

// A wide table may be scrolled sideways, by keyboard too.
/** @param {{ label: string, children?: any, class?: string }} props */
export const Scroll = ({ label, children, class: name = "" }) => (
  <div class={`scroll ${name}`} tabindex={0} role="region" aria-label={label}>
    {children}
  </div>
);
