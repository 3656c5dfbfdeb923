// The panel of what a task puts out: as a conversation where a model speaks, and as it came.
import { useCallback, useEffect, useImperativeHandle, useMemo, useRef, useState } from "preact/hooks";
import { forwardRef } from "preact/compat";
import { carryOut, saveOutput } from "./api.js";
import { Feed } from "./log/feed.js";
import { OutputLog } from "./log/output.js";
import { LogView } from "./log/view.jsx";
import { Conversation } from "./talk/conversation.js";
import { Counts, Talk, changedFiles } from "./talk/talk.jsx";

/** @import { TaskDetail } from "./answers.d.ts" */
/** @import { Output as Piece } from "./topics.d.ts" */
/** @import { Handle as LogHandle } from "./log/view.jsx" */
/** @typedef {{ take: (message: Piece) => void }} Handle */
/**
 * @typedef {{
 *   task: TaskDetail, over: boolean, theme: string, placeholder: string,
 *   lines: [number, number] | null, tab: string, pick: (tab: string) => void,
 * }} Props
 */

const TOGETHER = 50; // ms: what comes close together is drawn together
const SILENT = new Set(["sidecar", "noop"]);

/** Its handle takes what comes. */
export const Output = forwardRef(function Output(
  /** @type {Props} */ { task, over, theme, placeholder, lines, tab, pick },
  /** @type {import("preact").Ref<Handle>} */ outside,
) {
  const { task_id: id, result } = task;
  // A command's output is a log alone, and may be long; it is not kept twice.
  const kind = useRef(task.target_type);
  kind.current = task.target_type;
  const view = useRef(/** @type {LogHandle | null} */ (null));
  const [busy, setBusy] = useState(false);
  const [begun, setBegun] = useState(false);
  const [, render] = useState(0); // where the log has another store
  const [version, tell] = useState(0);
  const timer = useRef(/** @type {ReturnType<typeof setTimeout> | undefined} */ (undefined));
  const [log] = useState(() => new OutputLog());
  const [talk] = useState(() => new Conversation());
  const [feed] = useState(
    () =>
      new Feed(id, {
        take: (chunk) => {
          log.take(chunk);
          if (log.trim()) render((n) => n + 1);
          if (!SILENT.has(kind.current)) talk.take(chunk);
          view.current?.changed();
          timer.current ??= setTimeout(() => {
            timer.current = undefined;
            tell(talk.version);
          }, TOGETHER);
        },
        lost: (n) => log.lost(n),
        skipped: (lines) => {
          log.skip(lines);
          talk.skip();
          render((n) => n + 1);
        },
        busy: setBusy,
        begun: () => setBegun(true),
      }),
  );
  useEffect(
    () => () => {
      feed.close();
      clearTimeout(timer.current);
    },
    [feed],
  );
  useImperativeHandle(outside, () => ({ take: (message) => feed.take(message) }), [feed]);
  const href = useCallback(
    (/** @type {number} */ from, to = from) => `#/task/${id}/L${from}${to === from ? "" : `-L${to}`}`,
    [id],
  );
  // biome-ignore lint/correctness/useExhaustiveDependencies: the conversation changes with its version
  const edited = useMemo(() => changedFiles(talk), [version]);
  const talks = talk.talks || !(SILENT.has(task.target_type) || task.target_type === "");
  const nothing = begun || !over ? placeholder : "Reading what this task printed…";
  const shown = lines ? "raw" : tab || (talks ? "conversation" : "raw");
  const { files, added, removed } = result?.changes?.files
    ? { files: result.changes.files, added: result.changes.insertions ?? 0, removed: result.changes.deletions ?? 0 }
    : edited;
  return (
    <section class="panel output" aria-label="Output">
      <h2 class="sr">Output</h2>
      {talks && (
        <header class="tabs">
          <div role="tablist" aria-label="Output">
            {["conversation", "raw"].map((each) => (
              <button
                type="button"
                role="tab"
                aria-selected={shown === each}
                aria-controls="execution-output"
                onClick={() => pick(each)}
              >
                {each === "raw" ? "Raw" : "Conversation"}
              </button>
            ))}
          </div>
          {files > 0 && (
            <button
              type="button"
              class="quiet push"
              onClick={() => document.getElementById("changes")?.scrollIntoView({ block: "start" })}
            >
              {`Files changed ${files}`} <Counts added={added} removed={removed} />
            </button>
          )}
        </header>
      )}
      {shown === "conversation" ? (
        <Talk
          talk={talk}
          version={version}
          over={over}
          placeholder={nothing}
          answer={over ? (result?.output ?? "") : ""}
        />
      ) : (
        <LogView
          id="execution-output"
          ref={view}
          store={log.store}
          label="Live output"
          theme={theme}
          placeholder={nothing}
          busy={busy}
          lines={lines}
          href={href}
          save={() => carryOut(() => saveOutput(id))}
        />
      )}
    </section>
  );
});
