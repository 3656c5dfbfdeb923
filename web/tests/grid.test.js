import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const STYLE = readFileSync(new URL("../ui/style.css", import.meta.url), "utf8");

test("what stands between things is a multiple of 4 px, or a hair's breadth", () => {
  const off = [];
  for (const [said, , value] of STYLE.matchAll(/\b((?:row-|column-)?gap|(?:padding|margin)[\w-]*)\s*:\s*([^;}]+)/g))
    for (const [, px] of value.matchAll(/(?<![\w.-])-?([\d.]+)px/g))
      if (Number(px) % 4 && Number(px) > 2) off.push(said);
  assert.deepEqual(off, []);
});

test("type has four sizes", () => {
  const sizes = [...STYLE.matchAll(/\bfont(?:-size)?\s*:[^;}]*?([\d.]+)px/g)].map(([, px]) => Number(px));
  assert.deepEqual(
    [...new Set(sizes)].filter((px) => ![12, 14, 20, 28].includes(px)),
    [],
  );
});
