// The panel of live output.
import { useEffect, useImperativeHandle, useRef, useState } from "preact/hooks";
import { forwardRef } from "preact/compat";
import { Writer } from "./writer.js";

/** @import { Output as Piece } from "./topics.d.ts" */
/** @typedef {{ take: (message: Piece) => void }} Handle */

const NEAR_END = 40; // px
const TOGETHER = 40; // ms: pieces that come close together are written together

/** Its handle takes what comes. */
export const Output = forwardRef(function Output(
  /** @type {{ placeholder: string }} */ { placeholder },
  /** @type {import("preact").Ref<Handle>} */ outside,
) {
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const stream = useRef(/** @type {HTMLDivElement | null} */ (null));
  const writer = useRef(/** @type {Writer | null} */ (null));
  const follow = useRef(true);
  const [any, setAny] = useState(false);
  const pending = useRef(/** @type {Piece[]} */ ([]));
  const timer = useRef(/** @type {ReturnType<typeof setTimeout> | undefined} */ (undefined));
  const flush = () => {
    timer.current = undefined;
    if (!box.current || !stream.current) return;
    writer.current ??= new Writer(stream.current);
    for (const message of pending.current) writer.current.take(message);
    pending.current = [];
    if (follow.current) box.current.scrollTop = box.current.scrollHeight;
  };
  // biome-ignore lint/correctness/useExhaustiveDependencies: `flush` reads refs alone
  useImperativeHandle(
    outside,
    () => ({
      take(/** @type {Piece} */ message) {
        setAny(true);
        pending.current.push(message);
        timer.current ??= setTimeout(flush, TOGETHER);
      },
    }),
    [],
  );
  useEffect(() => () => clearTimeout(timer.current), []);
  const scrolled = () => {
    if (!box.current) return;
    const { scrollTop, scrollHeight, clientHeight } = box.current;
    follow.current = scrollHeight - scrollTop - clientHeight < NEAR_END;
  };
  return (
    <details class="panel output" open>
      <summary>
        <h2>Live output</h2>
      </summary>
      <div
        id="execution-output"
        ref={box}
        onScroll={scrolled}
        tabindex={0}
        role="log"
        aria-label="Live output"
        aria-live="off"
      >
        {!any && <p class="placeholder">{placeholder}</p>}
        <div class="stream" ref={stream} />
      </div>
    </details>
  );
});
