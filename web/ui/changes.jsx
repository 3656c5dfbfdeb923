// What a run changed in its checkout: the files with their counts, and the patch.
import { filesOf, readable } from "./diff.js";
import { count, plain, visible } from "./format.js";
import { Panel, Text } from "./parts.jsx";

/** @import { ChangedFile, Changes as All } from "./answers.d.ts" */
/** @import { Shown } from "./diff.js" */

const SIGN = { added: "+", deleted: "−", renamed: "→", modified: "±" };

/** @param {{ changes?: All | null, id: string }} props */
export function Changes({ changes, id }) {
  if (!changes) return null;
  const { branch = "", base = "", commits = [], files = 0, insertions = 0, deletions = 0 } = changes;
  const { changed = [], patch = "", patch_truncated: cut = false, patch_encoding: encoding } = changes;
  const shown = filesOf(readable(patch, encoding));
  return (
    <Panel title={`Changes: ${files} ${files === 1 ? "file" : "files"}`} id="changes">
      <p>
        <span class="saved">+{count(insertions)}</span> <span class="bad">−{count(deletions)}</span>
        {branch && <Text>{` on ${branch}`}</Text>}
        {base && <span title={base}>{`, since ${base.slice(0, 10)}`}</span>}
        {commits.length > 0 && <span title={commits.join("\n")}>{`, ${commits.length} committed`}</span>}
      </p>
      {changed.length > 0 && (
        <ul class="changed">
          {changed.map((each) => (
            <File file={each} />
          ))}
        </ul>
      )}
      {files > changed.length && <p>{count(files - changed.length)} more.</p>}
      {shown.map((each) => (
        <Patch file={each} open={shown.length <= 5} />
      ))}
      {cut && <p>The patch does not hold all of it.</p>}
      {patch && (
        <p>
          <code>{`agentcom diff ${id} | git apply`}</code>
        </p>
      )}
    </Panel>
  );
}

/** @param {{ file: ChangedFile }} props */
function File({ file }) {
  const { path, how = "modified", insertions, deletions, was = "" } = file;
  return (
    <li>
      <span title={how}>{SIGN[/** @type {keyof typeof SIGN} */ (how)] ?? "±"}</span>{" "}
      <code>
        <Text most={300}>{was ? `${was} → ${path}` : path}</Text>
      </code>{" "}
      {insertions != null && <span class="saved">+{insertions}</span>}{" "}
      {deletions != null && <span class="bad">−{deletions}</span>}
      {insertions == null && <small>binary</small>}
    </li>
  );
}

/** @param {{ file: Shown, open: boolean }} props */
function Patch({ file, open }) {
  const [head] = file.lines;
  return (
    <details open={open}>
      <summary>
        <code>{plain(head?.text.replace("diff --git ", ""), 300)}</code>
      </summary>
      <pre class="diff" tabindex={0}>
        {file.lines.slice(1).map((line) => (
          <span class={`diff-${line.kind}`}>{`${visible(line.text)}\n`}</span>
        ))}
        {file.left > 0 && <span class="diff-meta">{`${file.left} more lines\n`}</span>}
      </pre>
    </details>
  );
}
