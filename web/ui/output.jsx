// The panel of live output.
import { useCallback, useEffect, useImperativeHandle, useRef, useState } from "preact/hooks";
import { forwardRef } from "preact/compat";
import { carryOut, saveOutput } from "./api.js";
import { Feed } from "./log/feed.js";
import { OutputLog } from "./log/output.js";
import { LogView } from "./log/view.jsx";

/** @import { Output as Piece } from "./topics.d.ts" */
/** @import { Handle as LogHandle } from "./log/view.jsx" */
/** @typedef {{ take: (message: Piece) => void }} Handle */
/** @typedef {{ id: string, theme: string, placeholder: string, lines: [number, number] | null }} Props */

/** Its handle takes what comes. */
export const Output = forwardRef(function Output(
  /** @type {Props} */ { id, theme, placeholder, lines },
  /** @type {import("preact").Ref<Handle>} */ outside,
) {
  const view = useRef(/** @type {LogHandle | null} */ (null));
  const [busy, setBusy] = useState(false);
  const [log] = useState(() => new OutputLog());
  const [feed] = useState(
    () =>
      new Feed(id, {
        take: (chunk) => {
          log.take(chunk);
          view.current?.changed();
        },
        lost: (n) => log.lost(n),
        busy: setBusy,
      }),
  );
  useEffect(() => () => feed.close(), [feed]);
  useImperativeHandle(outside, () => ({ take: (message) => feed.take(message) }), [feed]);
  const href = useCallback(
    (/** @type {number} */ from, to = from) => `#/task/${id}/L${from}${to === from ? "" : `-L${to}`}`,
    [id],
  );
  return (
    <section class="panel output" aria-label="Live output">
      <LogView
        id="execution-output"
        ref={view}
        store={log.store}
        label="Live output"
        theme={theme}
        placeholder={placeholder}
        busy={busy}
        lines={lines}
        href={href}
        save={() => carryOut(() => saveOutput(id))}
      />
    </section>
  );
});
