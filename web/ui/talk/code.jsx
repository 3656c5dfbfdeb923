// Code with its words in colours; a language that is not known here is plain.
import bash from "highlight.js/lib/languages/bash";
import c from "highlight.js/lib/languages/c";
import css from "highlight.js/lib/languages/css";
import diff from "highlight.js/lib/languages/diff";
import go from "highlight.js/lib/languages/go";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import python from "highlight.js/lib/languages/python";
import rust from "highlight.js/lib/languages/rust";
import sql from "highlight.js/lib/languages/sql";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";
import { createLowlight } from "lowlight";
import { useMemo } from "preact/hooks";
import { toClipboard } from "../api.js";
import { plain, visible } from "../format.js";

const LONGEST = 50_000; // characters that are coloured
const light = createLowlight({
  ...{ bash, c, css, diff, go, java, javascript, json, python, rust, sql, typescript, xml, yaml },
});

/** @param {any} node of lowlight's tree @returns {any} */
const shown = (node) =>
  node.type === "text" ? (
    visible(node.value)
  ) : (
    <span class={node.properties.className?.join(" ")}>{node.children.map(shown)}</span>
  );

/** @param {{ text: string, language: string }} props */
export function Code({ text, language }) {
  const [name] = language.split(/[\s,{]/);
  const coloured = useMemo(() => {
    if (!name || text.length > LONGEST || !light.registered(name)) return visible(text);
    return light.highlight(name, text).children.map(shown);
  }, [text, name]);
  return (
    <div class="code">
      <header>
        <small>{plain(name, 40) || "text"}</small>
        <button type="button" class="quiet" onClick={() => toClipboard(text, "Copied.")}>
          Copy
        </button>
      </header>
      <pre tabindex={0}>
        <code>{coloured}</code>
      </pre>
    </div>
  );
}
