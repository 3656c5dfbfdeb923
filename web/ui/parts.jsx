// Small pieces that every page uses.
import { useEffect, useRef, useState } from "preact/hooks";
import { onNotice } from "./api.js";
import { plain } from "./format.js";

// Foreign text: shown as text, whatever is in it.
export const Text = ({ children, most, class: name = "" }) => (
  <bdi class={name}>{plain(Array.isArray(children) ? children.join("") : children, most)}</bdi>
);

export const Tier = ({ tier }) => <span class={`badge tier-${tier || "none"}`}>{tier || "–"}</span>;
export const State = ({ state }) => <span class={`badge state-${state}`}>{state}</span>;
export const Fallback = ({ task }) =>
  task.fallback_used ? (
    <span class="badge fb" title={`fell back from ${task.fallback_from_tier}`}>FB</span>
  ) : null;
export const Simulated = ({ on }) => (on ? <span class="badge simulated">simulated</span> : null);

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

export const Empty = ({ children }) => <p class="empty">{children}</p>;

export function Figure({ label, children, class: name = "" }) {
  return (
    <div class={`figure ${name}`}>
      <dt>{label}</dt>
      <dd>{children}</dd>
    </div>
  );
}

export function Dialog({ title, close, children }) {
  const box = useRef(null);
  useEffect(() => {
    box.current.showModal();
  }, []);
  return (
    <dialog ref={box} onClose={close} aria-labelledby="dialog-title">
      <header>
        <h2 id="dialog-title">{title}</h2>
        <button type="button" class="quiet" aria-label="Close" onClick={() => box.current.close()}>✕</button>
      </header>
      {children}
    </dialog>
  );
}

// A button that asks once more before it acts.
export function Sure({ label, sure, act, class: name = "" }) {
  const [asked, ask] = useState(false);
  useEffect(() => {
    if (!asked) return undefined;
    const timer = setTimeout(() => ask(false), 4000);
    return () => clearTimeout(timer);
  }, [asked]);
  return (
    <button
      type="button"
      class={`${name} ${asked ? "danger" : ""}`}
      onClick={() => {
        if (asked) act();
        ask(!asked);
      }}
    >
      {asked ? sure : label}
    </button>
  );
}

export function Notices() {
  const [shown, show] = useState([]);
  useEffect(
    () =>
      onNotice((one) => {
        show((all) => [...all.slice(-3), one]);
        setTimeout(() => show((all) => all.filter((each) => each !== one)), 6000);
      }),
    [],
  );
  return (
    <div class="notices" role="status" aria-live="polite">
      {shown.map((one) => (
        <p class={one.kind}>{plain(one.text, 600)}</p>
      ))}
    </div>
  );
}

// A wide table may be scrolled sideways, by keyboard too.
export const Scroll = ({ label, children, class: name = "" }) => (
  <div class={`scroll ${name}`} tabindex="0" role="region" aria-label={label}>{children}</div>
);
