// Files that go with a task: stored beside the log before the task names them.
import { newKey, post } from "./api.js";

const PIECE = 384 * 1024;
export const MOST = 1024 * 1024; // bytes of a file

/** @typedef {{ name: string, digest: string, size_bytes: number, media_type: string }} Stored */

/** @param {Uint8Array} bytes */
function base64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

/** @param {Uint8Array} bytes @returns {string} "" for what is neither text nor a picture */
function kindOf(bytes) {
  const head = String.fromCharCode(...bytes.subarray(0, 12));
  if (head.startsWith("\x89PNG")) return "image/png";
  if (head.startsWith("\xff\xd8\xff")) return "image/jpeg";
  if (head.startsWith("GIF8")) return "image/gif";
  if (head.startsWith("RIFF") && head.slice(8) === "WEBP") return "image/webp";
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    return "text/plain";
  } catch {
    return "";
  }
}

/** Store a file; throws what is wrong with it. @param {File} file @returns {Promise<Stored>} */
export async function store(file) {
  if (file.size > MOST) throw new Error(`${file.name}: at most 1 MiB may go along, this has more.`);
  const bytes = new Uint8Array(await file.arrayBuffer());
  const kind = kindOf(bytes);
  if (!kind) throw new Error(`${file.name}: it is neither text in UTF-8 nor a picture (png, jpeg, gif, webp).`);
  const upload = newKey();
  let stored = { digest: "" };
  for (let at = 0; at < Math.max(bytes.length, 1); at += PIECE)
    stored = await post("/attachments", {
      data: base64(bytes.subarray(at, at + PIECE)),
      upload,
      last: at + PIECE >= bytes.length,
    });
  return { name: file.name, digest: stored.digest, size_bytes: bytes.length, media_type: kind };
}
