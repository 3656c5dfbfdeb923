// Bundles ui/ into static/: one script, one style sheet, the page and its icon; script and
// style also compressed, beside themselves, for browsers that take them so.
import { build } from "esbuild";
import { cp, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { brotliCompressSync, gzipSync } from "node:zlib";

const here = new URL(".", import.meta.url).pathname;
const out = `${here}static`;
await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
await build({
  absWorkingDir: here,
  entryPoints: { app: "ui/main.jsx" },
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2022"],
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "eof",
  external: ["*.woff2"],
  logLevel: "warning",
});
// Latin letters alone; others are the system's.
for (const [name, file] of [
  ["inter", "inter/files/inter-latin-wght-normal.woff2"],
  ["mono", "jetbrains-mono/files/jetbrains-mono-latin-wght-normal.woff2"],
])
  await cp(`${here}node_modules/@fontsource-variable/${file}`, `${out}/${name}.woff2`);
for (const name of ["index.html", "favicon.svg", "favicon-alert.svg"]) await cp(`${here}ui/${name}`, `${out}/${name}`);
for (const name of ["app.js", "app.css"]) {
  const file = await readFile(`${out}/${name}`);
  await writeFile(`${out}/${name}.gz`, gzipSync(file, { level: 9 }));
  await writeFile(`${out}/${name}.br`, brotliCompressSync(file));
}
