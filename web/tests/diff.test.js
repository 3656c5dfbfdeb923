import assert from "node:assert/strict";
import { test } from "node:test";
import { filesOf, readable } from "../ui/diff.js";

const PATCH = `diff --git a/a b/a
index 1..2 100644
--- a/a
+++ b/a
@@ -1,2 +1,2 @@ head
-one
+-- two
 same
\\ No newline at end of file
diff --git a/b b/b
deleted file mode 100644
--- a/b
+++ /dev/null
@@ -1 +0,0 @@
--- a/b
`;

test("a patch is split into files, and a header is no changed line", () => {
  const files = filesOf(PATCH);
  assert.deepEqual(
    files.map((each) => each.lines.map((line) => line.kind).join(" ")),
    ["meta meta meta meta hunk del add same meta", "meta meta meta meta hunk del"],
  );
  assert.equal(files[1]?.lines.at(-1)?.text, "--- a/b");
});

test("of a very long file the rest is counted", () => {
  const [file] = filesOf(`diff --git a/a b/a\n@@ -1 +1 @@\n${"+x\n".repeat(5000)}`);
  assert.equal(file?.lines.length, 2000);
  assert.equal(file?.left, 3002);
});

test("what is no patch shows nothing", () => {
  assert.deepEqual(filesOf(""), []);
  assert.deepEqual(filesOf("hello\n<script>"), []);
});

test("bytes that came as latin-1 are read as UTF-8 where they are that", () => {
  assert.equal(readable("Ã©", "latin-1"), "é");
  assert.equal(readable("é", "utf-8"), "é");
  assert.equal(readable("caf\xe9", "latin-1"), "caf\ufffd");
});
