// Markdown as elements. Nothing of it is ever read as HTML: the lexer's tokens become
// elements of a short list, all else is shown as text; pictures are links, not loaded.
import { Marked } from "marked";
import { visible } from "../format.js";
import { Code } from "./code.jsx";

/** @typedef {any} Token of marked's lexer */

const LONGEST = 200_000; // characters that are read as Markdown
const DEEPEST = 40;
const SAFE = /^(?:https?:\/\/|mailto:)/i;
const marked = new Marked({ gfm: true, breaks: false });
/** @type {Record<string, string>} */
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', "#39": "'", nbsp: "\u00a0" };

/** @param {string} text */
const written = (text) => visible(text.replace(/&(amp|lt|gt|quot|#39|nbsp);/g, (_, name) => ENTITIES[name]));

/** @param {{ text: string }} props */
export function Markdown({ text }) {
  let shown = null;
  try {
    if (text.length <= LONGEST) shown = all(marked.lexer(text), 0);
  } catch {
    // Too deep or too strange: then it is shown as it is.
  }
  return <div class="markdown">{shown ?? <pre>{visible(text)}</pre>}</div>;
}

/** @param {Token[] | undefined} tokens @param {number} depth @returns {any[]} */
function all(tokens, depth) {
  if (depth > DEEPEST) throw new RangeError("too deep");
  return (tokens ?? []).map((token) => one(token, depth + 1));
}

/** @param {Token} token @param {number} depth @returns {any} */
function one(token, depth) {
  const inner = () => (token.tokens ? all(token.tokens, depth) : written(token.text ?? token.raw));
  switch (token.type) {
    case "space":
    case "def":
      return null;
    case "heading": {
      const Tag = /** @type {"h3"} */ (`h${Math.min(6, token.depth + 2)}`);
      return <Tag>{inner()}</Tag>;
    }
    case "paragraph":
      return <p>{inner()}</p>;
    case "text":
      return token.tokens ? inner() : written(token.text);
    case "escape":
      return written(token.text);
    case "strong":
      return <strong>{inner()}</strong>;
    case "em":
      return <em>{inner()}</em>;
    case "del":
      return <del>{inner()}</del>;
    case "codespan":
      return <code>{visible(token.text)}</code>;
    case "br":
      return <br />;
    case "hr":
      return <hr />;
    case "code":
      return <Code text={token.text} language={token.lang ?? ""} />;
    case "blockquote":
      return <blockquote>{inner()}</blockquote>;
    case "list":
      return list(token, depth);
    case "table":
      return table(token, depth);
    case "link":
      return link(token.href, inner());
    case "image":
      return link(token.href, `picture: ${written(token.text)}`);
    default:
      return written(token.raw); // HTML too: as text
  }
}

/** @param {string} href @param {any} shown */
const link = (href, shown) =>
  SAFE.test(href) ? (
    <a href={href} target="_blank" rel="noopener noreferrer" title={visible(href)}>
      {shown}
    </a>
  ) : (
    <span title={visible(href)}>{shown}</span>
  );

/** @param {Token} token @param {number} depth */
function list(token, depth) {
  const items = token.items.map((/** @type {Token} */ item) => (
    <li class={item.task ? "todo" : ""}>
      {item.task && (item.checked ? "☑ " : "☐ ")}
      {all(item.tokens, depth)}
    </li>
  ));
  return token.ordered ? <ol start={Number(token.start) || 1}>{items}</ol> : <ul>{items}</ul>;
}

/** @param {Token} token @param {number} depth */
function table(token, depth) {
  const cells = (/** @type {Token[]} */ row, /** @type {"th" | "td"} */ Tag) =>
    row.map((cell, n) => <Tag class={token.align[n] === "right" ? "n" : ""}>{all(cell.tokens, depth)}</Tag>);
  return (
    <div class="scroll" tabindex={0} role="region" aria-label="Table">
      <table>
        <thead>
          <tr>{cells(token.header, "th")}</tr>
        </thead>
        <tbody>
          {token.rows.map((/** @type {Token[]} */ row) => (
            <tr>{cells(row, "td")}</tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
