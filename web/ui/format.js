// Numbers, times and foreign text, as people read them.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;
/** @param {string} char */
const code = (char) => `⟨${char.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
// Where joiners are part of how words are written: Persian, Hindi and their kin.
const SCRIPTS =
  "Arabic Syriac Mongolian Nko Devanagari Bengali Gurmukhi Gujarati Oriya Tamil Telugu Kannada Malayalam Sinhala";
const JOINED = new RegExp(
  `[${SCRIPTS.split(" ")
    .map((each) => `\\p{Script=${each}}`)
    .join("")}]`,
  "u",
);
const PICTURE_BEFORE = /\p{Extended_Pictographic}(?:\ufe0f|\p{Emoji_Modifier})?$/u;
const PICTURE = /^\p{Extended_Pictographic}/u;

/**
 * A character that is not seen, as it is shown: joiners inside emoji and words are text.
 * @param {string} char @param {number} at @param {string} text
 */
function seen(char, at, text) {
  if (char !== "\u200c" && char !== "\u200d") return code(char);
  const before = text.slice(Math.max(0, at - 4), at);
  const after = text.slice(at + 1, at + 3);
  if (JOINED.test(before.slice(-1)) && JOINED.test(after.slice(0, 1))) return char;
  return char === "\u200d" && PICTURE_BEFORE.test(before) && PICTURE.test(after) ? char : code(char);
}

/**
 * Text from tasks, hosts and models: nothing in it may hide, reorder or run on for ever.
 * @param {unknown} text
 * @param {number} [most]
 */
export function plain(text, most = 10_000) {
  if (text === null || text === undefined) return "";
  const whole = String(text);
  const cut =
    whole.length > most
      ? `${whole.slice(0, most)}…${most < 1000 ? "" : ` (${whole.length - most} more characters)`}`
      : whole;
  return cut.replace(HIDDEN, seen);
}
/**
 * In running output line ends and tabs stay; colours are taken out before.
 * @param {string} text
 */
export const visible = (text) => text.replace(HIDDEN, seen);

/** @param {number | null | undefined} usd */
export const dollars = (usd) => `$${(usd ?? 0).toFixed(4)}`;
/** @param {number} usd */
export const savedText = (usd) => `$${usd >= 0.01 ? usd.toFixed(2) : usd.toFixed(4)}`;
/** @param {number | null | undefined} n */
export const count = (n) => (n === null ? "–" : (n ?? 0).toLocaleString("en-US"));

/**
 * A sum, `+` behind it where some of what it adds up nobody knows.
 * @param {string} sum @param {number} unknown how many of its parts
 */
export const atLeast = (sum, unknown) => (unknown > 0 && sum !== "–" ? `${sum}+` : sum);

/**
 * A task's tokens in all, null where those of a run are unknown.
 * @param {{tokens_in: number | null, tokens_out: number | null}} task
 */
export const allTokens = ({ tokens_in, tokens_out }) =>
  tokens_in === null || tokens_out === null ? null : tokens_in + tokens_out;

/**
 * What stands before dollars that are a guess.
 * @param {{cost_basis: string, estimated_cost_usd: number | null}} run
 */
export const guess = (run) =>
  run.estimated_cost_usd && ["estimated", "reported_unpriced"].includes(run.cost_basis) ? "~" : "";

/** @param {number | null | undefined} n */
export function bytes(n) {
  if (n === null || n === undefined) return "unknown";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = n;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value.toFixed(unit && value < 100 ? 1 : 0)} ${units[unit]}`;
}

/** @param {number | null | undefined} ms */
export function duration(ms) {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return "–";
  if (ms < 1) return `${ms.toFixed(2)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 60) return `${s.toFixed(s < 10 ? 1 : 0)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** @param {string | null | undefined} text */
export const at = (text) => (text ? Date.parse(text) : NaN);
/** @param {string | null | undefined} text @param {number} now */
export const age = (text, now) => (text ? duration(Math.max(0, now - at(text))) : "–");

/** The zone of the reader at a time: `CET`. @param {Date} date */
export const zone = (date) =>
  new Intl.DateTimeFormat([], { timeZoneName: "short" }).formatToParts(date).find(({ type }) => type === "timeZoneName")
    ?.value ?? "";
/** The time of day, where its zone is said beside. @param {string | number | null | undefined} time */
export function hours(time) {
  const date = typeof time === "string" ? new Date(time) : new Date(time ?? NaN);
  if (Number.isNaN(date.getTime())) return "–";
  return date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
}
/** @param {string | number | null | undefined} time */
export function clock(time) {
  const said = hours(time);
  return said === "–" ? said : `${said} ${zone(new Date(time ?? NaN))}`;
}
/** @param {string | number | null | undefined} text */
export function moment(text) {
  const date = new Date(text ?? NaN);
  if (!text || Number.isNaN(date.getTime())) return "–";
  const today = new Date().toDateString() === date.toDateString();
  return today ? clock(text) : `${date.toLocaleDateString()} ${clock(text)}`;
}
const INSTANT = /(?<![\w'/])\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|\+00:00)(?!\w)/g;
/**
 * A sentence of AgentCom's own with its instants in the reader's zone; what is quoted stays.
 * @param {string} sentence
 */
export const local = (sentence) => sentence.replace(INSTANT, (text) => moment(text));
/** @param {string} id */
export const shortId = (id) => `${id.slice(0, 6)}…${id.slice(-4)}`;
export const FINAL = new Set(["completed", "failed", "dead", "cancelled", "expired"]);
export const STATES = [
  "waiting",
  "routed",
  "accepted",
  "running",
  "returned",
  "cancelling",
  "completed",
  "failed",
  "dead",
  "cancelled",
  "expired",
];
export const TIERS = ["trivial", "standard", "complex"];
export const PRIORITIES = ["urgent", "high", "normal", "low"];
