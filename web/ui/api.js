// Questions and commands over HTTP, and what came of them, said to the reader.
export class Refused extends Error {
  constructor(answer, status) {
    super(answer?.error ?? `HTTP ${status}`);
    this.code = answer?.code ?? "";
    this.path = answer?.path ?? "";
  }
}

async function ask(method, path, body) {
  let response;
  try {
    response = await fetch(`/api/v1${path}`, {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Refused({ error: "The server cannot be reached." }, 0);
  }
  let answer = null;
  try {
    answer = await response.json();
  } catch {
    // An answer without a body: its status says enough.
  }
  if (!response.ok) throw new Refused(answer, response.status);
  return answer;
}

export const get = (path) => ask("GET", path);
export const post = (path, body = {}) => ask("POST", path, body);
export const put = (path, body) => ask("PUT", path, body);
export const del = (path) => ask("DELETE", path);

// A key that makes a command safe to repeat.
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const tellers = new Set();
export const onNotice = (tell) => {
  tellers.add(tell);
  return () => tellers.delete(tell);
};
export function notice(text, kind = "good") {
  for (const tell of tellers) tell({ text, kind });
}

// Run a command; say what came of it. Returns its answer, null if it was refused.
export async function carryOut(work, done) {
  try {
    const answer = await work();
    if (done) notice(typeof done === "function" ? done(answer) : done);
    return answer;
  } catch (error) {
    notice(error.message, "bad");
    return null;
  }
}

export function download(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
