// Questions and commands over HTTP, and what came of them, said to the reader.
import { local } from "./format.js";
import { BASE, session } from "./session.js";

/** @import { Chunk } from "./answers.d.ts" */
/** @import { Fault } from "./topics.d.ts" */

/** The server's no, as an error whose message is for the reader. */
export class Refused extends Error {
  /**
   * @param {Fault | null} answer the body, if there is one
   * @param {number} status
   */
  constructor(answer, status) {
    super(answer?.error ?? `HTTP ${status}`);
    this.status = status;
    this.code = answer?.code ?? "";
    this.path = answer?.path ?? "";
  }
}

/**
 * @param {string} method
 * @param {string} path below /api/v1
 * @param {{ body?: unknown, token?: string, signal?: AbortSignal }} [more] `token`: another
 *   than the session's
 */
async function send(method, path, { body, token, signal } = {}) {
  const shown = token ?? session.token;
  /** @type {Record<string, string>} */
  const headers = { "AgentCom-Page": location.origin };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (shown) headers.Authorization = `Bearer ${shown}`;
  let response;
  try {
    response = await fetch(`${BASE}api/v1${path}`, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
    });
  } catch {
    throw new Refused({ error: "The server cannot be reached." }, 0);
  }
  if (response.status === 401 && token === undefined && shown === session.token) session.changed();
  if (!response.ok) throw new Refused(await response.json().catch(() => null), response.status);
  return response;
}

/**
 * @param {string} method @param {string} path @param {unknown} [body] @param {string} [token]
 * @returns {Promise<any>} the answer; what is in it depends on the path
 */
const ask = async (method, path, body, token) => (await send(method, path, { body, token })).json();

/** @param {string} path */
export const get = (path) => ask("GET", path);
/** @param {string} path @param {unknown} [body] */
export const post = (path, body = {}) => ask("POST", path, body);
/** @param {string} path */
export const remove = (path) => ask("DELETE", path);
/** @param {string} path @param {unknown} body */
export const put = (path, body) => ask("PUT", path, body);

/**
 * Who a token belongs to; asks nobody to log in where it is refused.
 * @param {string} token
 */
export const me = (token) => ask("GET", "/me", undefined, token);

/**
 * What is kept of a task's live output, piece by piece, oldest first, from a place on.
 * @param {string} id @param {(chunk: Chunk & { seq: number }) => void} take
 * @param {AbortSignal} [signal] @param {number} [start]
 */
export async function chunks(id, take, signal, start = 1) {
  const response = await send("GET", `/tasks/${id}/output.ndjson?start=${start}`, { signal });
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    const lines = (rest + decoder.decode(value, { stream: !done })).split("\n");
    rest = done ? "" : (lines.pop() ?? "");
    for (const line of lines) if (line) take(JSON.parse(line));
    if (done) return;
  }
}

/** Save all that a task has printed as a file. @param {string} id */
export async function saveOutput(id) {
  const response = await send("GET", `/tasks/${id}/output.txt`);
  saveBlob(`${id}.log`, await response.blob());
}

/** A key that makes a command safe to repeat. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @typedef {{ text: string, kind: string }} Notice */

/** @type {Set<(one: Notice) => void>} */
const tellers = new Set();
/** @param {(one: Notice) => void} tell */
export const onNotice = (tell) => {
  tellers.add(tell);
  return () => {
    tellers.delete(tell);
  };
};
/** @param {string} text @param {string} [kind] */
export function notice(text, kind = "good") {
  for (const tell of tellers) tell({ text, kind });
}

/**
 * Run a command; say what came of it. Returns its answer, null if it was refused.
 * @template T
 * @param {() => Promise<T>} work
 * @param {string | ((answer: T) => string)} [done]
 * @returns {Promise<T | null>}
 */
export async function carryOut(work, done) {
  try {
    const answer = await work();
    if (done) notice(local(typeof done === "function" ? done(answer) : done));
    return answer;
  } catch (error) {
    notice(wordsOf(error), "bad");
    return null;
  }
}

/** @param {unknown} error */
export const wordsOf = (error) => local(error instanceof Error ? error.message : String(error));

/**
 * Copy a text, or say that it cannot be: without TLS a page has no clipboard.
 * @param {string} text @param {string} done what is said then @param {string} [failed]
 */
export async function toClipboard(text, done, failed = "The browser does not let this page copy.") {
  try {
    await navigator.clipboard.writeText(text);
    notice(done);
  } catch {
    notice(failed, "bad");
  }
}

/** @param {string} name @param {string} text @param {string} type */
export const download = (name, text, type) => saveBlob(name, new Blob([text], { type }));

/** @param {string} name @param {Blob} blob */
function saveBlob(name, blob) {
  const url = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
