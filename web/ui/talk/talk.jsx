// A conversation, part by part.
import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { count, duration, plain, visible } from "../format.js";
import { settled } from "../log/terminal.js";
import { aboutOf, editsOf } from "./conversation.js";
import { counted, differing, near } from "./lines.js";
import { Markdown } from "./markdown.jsx";

/** @import { Conversation, Edit, Part } from "./conversation.js" */
/** @typedef {{ talk: Conversation, version: number, over: boolean, placeholder: string, answer: string }} Props */

const NEAR_END = 40; // px
const SHOWN = 200; // parts that are drawn, and how many more at a time
const END = Number.POSITIVE_INFINITY;
const LONGEST = 20_000; // characters of what a tool answered that are shown

/** `answer` is shown where nothing of the conversation is kept. @param {Props} props */
export function Talk({ talk, version, over, placeholder, answer }) {
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const follow = useRef(!over);
  // The parts that are drawn, those let go counted: while it goes on, up to the last one.
  const drawn = useRef(over ? { from: 0, to: SHOWN } : { from: END, to: END });
  const [, render] = useState(0);
  // biome-ignore lint/correctness/useExhaustiveDependencies: after each change
  useLayoutEffect(() => {
    if (follow.current && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [version]);
  const scrolled = () => {
    if (!box.current) return;
    const { scrollTop, scrollHeight, clientHeight } = box.current;
    follow.current = !over && scrollHeight - scrollTop - clientHeight < NEAR_END;
  };
  const { parts, gone } = talk;
  const last = Math.max(0, gone + parts.length - SHOWN);
  if (drawn.current.to === END && (follow.current || drawn.current.from > last)) drawn.current.from = last;
  const from = Math.max(0, drawn.current.from - gone);
  const to = Math.min(parts.length, Math.max(SHOWN, drawn.current.to - gone));
  const draw = (/** @type {Partial<typeof drawn.current>} */ part) => {
    follow.current = false;
    Object.assign(drawn.current, part);
    render((n) => n + 1);
  };
  const toEnd = () => {
    draw({ from: last, to: END });
    requestAnimationFrame(() => box.current?.scrollTo(0, box.current.scrollHeight));
  };
  return (
    <div
      id="execution-output"
      class="talk"
      ref={box}
      onScroll={scrolled}
      tabindex={0}
      role="log"
      aria-label="Conversation"
      aria-live="off"
    >
      {from > 0 && (
        <button type="button" class="link" onClick={() => draw({ from: gone + Math.max(0, from - SHOWN) })}>
          {`${count(Math.min(from, SHOWN))} earlier of ${count(from)}`}
        </button>
      )}
      {parts.slice(from, to).map((part, n) => (
        <Memo key={gone + from + n} part={part} version={part.version} open={!over && from + n === parts.length - 1} />
      ))}
      {to < parts.length && (
        <p>
          <button type="button" class="link" onClick={() => draw({ to: gone + to + SHOWN })}>
            {`${count(Math.min(parts.length - to, SHOWN))} later of ${count(parts.length - to)}`}
          </button>{" "}
          <button type="button" class="link" onClick={toEnd}>
            To the end
          </button>
        </p>
      )}
      {!parts.length && (answer ? <Markdown text={answer} /> : <p class="placeholder">{placeholder}</p>)}
    </div>
  );
}

/** @typedef {{ part: Part, version: number, open: boolean }} PartProps `open`: it still goes on */

/** What did not change is not drawn again. @param {PartProps} props */
const Memo = ({ part, version, open }) =>
  useMemo(() => <One part={part} version={version} open={open} />, [part, version, open]);

/** @param {PartProps} props */
function One({ part, open }) {
  switch (part.kind) {
    case "token":
      return (
        <div class="token">
          <Markdown text={part.text} />
        </div>
      );
    case "thinking":
      return (
        <details class="thinking">
          <summary>{open ? "Thinking…" : `Thought${took(part)}`}</summary>
          <Markdown text={part.text} />
        </details>
      );
    case "tool":
      return <Tool part={part} />;
    case "stdout":
    case "stderr":
      return <pre class={part.kind}>{visible(settled(part.text, 500).join("\n"))}</pre>;
    case "divider":
      return <p class="divider">{part.text}</p>;
    default:
      return <p class={part.kind}>{visible(part.text.trimEnd())}</p>;
  }
}

/** @type {WeakMap<Part, { edit: Edit, lines: ReturnType<typeof differing> }[]>} */
const known = new WeakMap();

/** What a call changes, line by line; reckoned once. @param {Part} part */
function diffsOf(part) {
  let diffs = known.get(part);
  if (!diffs) {
    diffs = editsOf(part).map((edit) => ({ edit, lines: differing(edit.before, edit.after) }));
    known.set(part, diffs);
  }
  return diffs;
}

/** How long it took, where that is worth saying. @param {Part} part */
const took = ({ from, to }) => (to - from >= 1000 ? ` for ${duration(to - from)}` : "");

/** @param {{ part: Part }} props */
function Tool({ part }) {
  const { name, failed, input, from, to } = part;
  const diffs = diffsOf(part);
  const { added, removed } = counted(diffs.flatMap(({ lines }) => lines));
  const todos = name === "TodoWrite" && Array.isArray(input.todos) ? input.todos : null;
  const how = failed === null ? "runs" : failed ? "failed" : "ok";
  return (
    <details class={`tool-card ${how}`} open={failed === true || diffs.length > 0 || todos !== null}>
      <summary>
        <span class="mark" role="img" aria-label={{ runs: "runs", failed: "failed", ok: "done" }[how]}>
          {{ runs: "…", failed: "✗", ok: "✓" }[how]}
        </span>{" "}
        <b>{plain(name || "tool", 60)}</b> <code>{plain(aboutOf(part), 200)}</code>
        {diffs.length > 0 && <Counts added={added} removed={removed} />}
        {failed !== null && name && to > from && <small>{duration(to - from)}</small>}
      </summary>
      {name === "Bash" && <pre class="command">{`$ ${visible(String(input.command ?? ""))}`}</pre>}
      {diffs.map(({ lines }) => (
        <Diff lines={lines} />
      ))}
      {todos && <Todos todos={todos} />}
      {name !== "Bash" && !diffs.length && !todos && <Asked input={input} />}
      {part.text.trim() && (failed || (!diffs.length && !todos)) && <Answered part={part} />}
    </details>
  );
}

/** @param {{ added: number, removed: number }} props */
export const Counts = ({ added, removed }) => (
  <span class="counts">
    <span class="saved">+{count(added)}</span> <span class="bad">−{count(removed)}</span>
  </span>
);

/** @param {{ input: Record<string, any> }} props */
function Asked({ input }) {
  const entries = Object.entries(input);
  if (!entries.length) return null;
  return (
    <dl class="pairs small">
      {entries.map(([key, value]) => (
        <>
          <dt>{plain(key, 60)}</dt>
          <dd>
            <code>{plain(typeof value === "string" ? value : JSON.stringify(value), 2000)}</code>
          </dd>
        </>
      ))}
    </dl>
  );
}

/** @param {{ part: Part }} props */
function Answered({ part }) {
  const [, code] = (part.name === "Bash" && /^(?:Error: )?Exit code (\d+)/.exec(part.text)) || [];
  const shown = settled(part.text.trimEnd()).join("\n");
  return (
    <>
      <pre class={part.failed ? "stderr" : ""} tabindex={0}>
        {plain(shown, LONGEST)}
      </pre>
      {part.name === "Bash" && part.failed !== null && (
        <small class={part.failed ? "bad" : ""}>{code ? `exit ${code}` : part.failed ? "failed" : "exit 0"}</small>
      )}
    </>
  );
}

/** @param {{ lines: ReturnType<typeof differing> }} props */
const Diff = ({ lines }) => (
  <pre class="diff" tabindex={0}>
    {near(lines).map((line) =>
      line ? (
        <span class={`diff-${line.kind}`}>
          {`${{ add: "+", del: "-", same: " " }[line.kind]}${visible(line.text).slice(0, 2000)}\n`}
        </span>
      ) : (
        <span class="diff-meta">{"⋯\n"}</span>
      ),
    )}
  </pre>
);

/** @param {{ todos: any[] }} props */
const Todos = ({ todos }) => (
  <ul class="todos">
    {todos.slice(0, 200).map((each) => (
      <li class={each?.status === "completed" ? "done" : each?.status === "in_progress" ? "now" : ""}>
        <span role="img" aria-label={plain(each?.status, 40)}>
          {each?.status === "completed" ? "☑" : each?.status === "in_progress" ? "◐" : "☐"}
        </span>{" "}
        {plain(each?.content, 500)}
      </li>
    ))}
  </ul>
);

/** How many files a conversation has changed, and by how many lines. @param {Conversation} talk */
export function changedFiles(talk) {
  const files = new Set();
  let [added, removed] = [0, 0];
  for (const part of talk.parts) {
    if (part.kind !== "tool" || part.failed !== false) continue;
    for (const { edit, lines } of diffsOf(part)) {
      files.add(edit.path);
      const own = counted(lines);
      added += own.added;
      removed += own.removed;
    }
  }
  return { files: files.size, added, removed };
}
