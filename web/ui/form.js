// The fields of a task as a form has them: every one as text, and back again.

/**
 * `kind`: how its text is read. `set` names the list of suggestions, `choices` all there are.
 * @typedef {{
 *   name: string, title: string,
 *   kind?: "text" | "area" | "lines" | "words" | "pairs" | "number" | "json" | "yes" | "time",
 *   hint?: string, set?: string, choices?: string[], mono?: boolean,
 * }} Field
 * @typedef {Record<string, string>} Form by the field's name
 */

/** @type {[string, Field[]][]} */
export const GROUPS = [
  [
    "",
    [
      { name: "description", title: "What is to be done", kind: "area" },
      { name: "command", title: "Shell command", kind: "area", hint: "runs it without any model", mono: true },
      { name: "tier", title: "Tier", choices: ["trivial", "standard", "complex"], hint: "inferred" },
      { name: "priority", title: "Priority", choices: ["urgent", "high", "normal", "low"], hint: "normal" },
      { name: "labels", title: "Labels", kind: "pairs", hint: "team=search", set: "labels" },
    ],
  ],
  [
    "Where",
    [
      { name: "repo", title: "Repository", set: "repos" },
      { name: "branch", title: "Branch" },
      { name: "cwd", title: "Folder", hint: "on the host" },
      { name: "model", title: "Model", set: "models" },
      { name: "assign_to", title: "Only on host", set: "hosts" },
      { name: "needs", title: "Needs", kind: "words", hint: "gpu, docker", set: "needs" },
      { name: "executor", title: "Executor", choices: ["agent", "noop"], hint: "by tier" },
      { name: "mode", title: "Mode", choices: ["answer", "work"], hint: "inferred" },
    ],
  ],
  [
    "Limits",
    [
      { name: "timeout_s", title: "Time limit of a run", kind: "number", hint: "seconds, 0: none" },
      { name: "ttl_s", title: "Expires after", kind: "number", hint: "seconds in which nothing could take it" },
      { name: "deadline", title: "Deadline", kind: "time", hint: "2026-01-31 12:00" },
      { name: "max_attempts", title: "Attempts at most", kind: "number", hint: "over all hosts" },
      { name: "retries", title: "Retries on the host", kind: "number", hint: "of a command" },
      { name: "max_budget_usd", title: "Budget", kind: "number", hint: "dollars" },
    ],
  ],
  [
    "Later",
    [
      { name: "at", title: "Not before", kind: "time", hint: "2026-01-31 12:00" },
      { name: "after", title: "After these are completed", kind: "words", hint: "ids of tasks" },
      { name: "after_any", title: "After these are over", kind: "words", hint: "ids of tasks" },
      { name: "input_from", title: "With the answers of", kind: "words", hint: "ids of tasks" },
    ],
  ],
  [
    "Work",
    [
      { name: "file_hints", title: "Files to look at", kind: "lines", hint: "one a line; path: why" },
      { name: "success_criteria", title: "Success", kind: "lines", hint: "one a line" },
      { name: "verification_steps", title: "Verification", kind: "lines", hint: "one command a line", mono: true },
      { name: "verify_rounds", title: "Rounds of verification", kind: "number" },
      { name: "claude", title: "Claude Code's options", kind: "json", hint: '{"max_turns": 20}' },
    ],
  ],
  [
    "Answer",
    [
      { name: "system", title: "System message", kind: "area" },
      { name: "max_tokens", title: "Tokens at most", kind: "number" },
      { name: "temperature", title: "Temperature", kind: "number" },
      { name: "json_schema", title: "JSON schema", kind: "json" },
    ],
  ],
  [
    "Command's surroundings and notes",
    [
      { name: "env", title: "Environment", kind: "pairs", hint: "NAME=value, one a line" },
      { name: "secret_env", title: "Secrets", kind: "words", hint: "names that the host has" },
      { name: "exclusive", title: "Alone on the host", kind: "yes" },
      { name: "metadata", title: "Metadata", kind: "json", hint: '{"ticket": "A-1"}' },
    ],
  ],
];
export const FIELDS = GROUPS.flatMap(([, fields]) => fields);
const OF_SHELL = new Set(["command", "env", "secret_env", "exclusive"]);

/** What a field's text is wrong with. */
export class Wrong extends Error {
  /** @param {string} field @param {string} message */
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/** @param {Record<string, any>} spec a task's fields @returns {Form} */
export function formOf(spec) {
  /** @type {Form} */
  const form = {};
  for (const field of FIELDS) {
    const value = OF_SHELL.has(field.name) ? spec.shell?.[field.name] : spec[field.name];
    form[field.name] = written(field, value);
  }
  if (spec.shell?.timeout_s && !form.timeout_s) form.timeout_s = String(spec.shell.timeout_s);
  if (spec.shell?.cwd && !form.cwd) form.cwd = spec.shell.cwd;
  return form;
}

/** @param {Field} field @param {any} value */
function written({ name, kind }, value) {
  if (value === undefined || value === null || value === false) return "";
  switch (kind) {
    case "lines":
      return name === "file_hints"
        ? value.map((/** @type {any} */ hint) => (hint.reason ? `${hint.path}: ${hint.reason}` : hint.path)).join("\n")
        : value.join("\n");
    case "words":
      return value.join(", ");
    case "pairs":
      return Object.entries(value)
        .map(([key, each]) => `${key}=${each}`)
        .join("\n");
    case "json":
      return Object.keys(value).length ? JSON.stringify(value, null, 1) : "";
    case "yes":
      return "yes";
    default:
      return String(value);
  }
}

/** Whether a form says what is to be done: in words, or by a command. @param {Form} form */
export const saysWhat = (form) => !!(form.description?.trim() || form.command?.trim());

/** The task that a form describes; throws Wrong. @param {Form} form @returns {Record<string, any>} */
export function specOf(form) {
  /** @type {Record<string, any>} */
  const spec = {};
  /** @type {Record<string, any>} */
  const shell = {};
  for (const field of FIELDS) {
    const text = form[field.name] ?? "";
    if (!text.trim()) continue;
    const value = read(field, text);
    if (OF_SHELL.has(field.name)) shell[field.name] = value;
    else spec[field.name] = value;
  }
  if (shell.command) {
    spec.shell = shell;
    spec.description ??= shell.command; // as at every other door
  } else {
    const [other] = Object.keys(shell);
    if (other) throw new Wrong(other, "This belongs to a shell command, and there is none.");
  }
  return spec;
}

/** @param {Field} field @param {string} text */
function read({ name, title, kind }, text) {
  const lines = text.split("\n").filter((line) => line.trim());
  switch (kind) {
    case "area":
      return text;
    case "lines":
      if (name !== "file_hints") return lines;
      return lines.map((line) => {
        const [path, ...reason] = line.split(": ");
        return reason.length ? { path: path.trim(), reason: reason.join(": ") } : { path: path.trim() };
      });
    case "words":
      return text.split(/[\s,]+/).filter(Boolean);
    case "pairs":
      return Object.fromEntries(
        lines.map((line) => {
          const at = line.indexOf("=");
          if (at < 1) throw new Wrong(name, `${title}: expected NAME=value on each line, got ${line.slice(0, 60)}`);
          return [line.slice(0, at).trim(), line.slice(at + 1).trim()];
        }),
      );
    case "number": {
      const number = Number(text);
      if (Number.isNaN(number)) throw new Wrong(name, `${title}: expected a number, got ${text.slice(0, 60)}`);
      return number;
    }
    case "time": {
      // Without a zone it is the reader's.
      const said = text.trim();
      if (/(Z|[+-]\d\d:\d\d)$/.test(said)) return said;
      const date = new Date(said);
      if (Number.isNaN(date.getTime()))
        throw new Wrong(name, `${title}: expected a time such as 2026-01-31 12:00, got ${said.slice(0, 60)}`);
      return date.toISOString();
    }
    case "json": {
      let value = null;
      try {
        value = JSON.parse(text);
      } catch {
        // said below
      }
      if (typeof value !== "object" || value === null || Array.isArray(value))
        throw new Wrong(name, `${title}: expected a JSON object, {"name": value}`);
      return value;
    }
    case "yes":
      return true;
    default:
      return text.trim();
  }
}

/**
 * The field that a refusal is about; "" where it is about none.
 * @param {string} path "spec.shell.command", "labels", "attachments[0].name"
 */
export function fieldOf(path) {
  const words = path.split(/[^a-z_]+/i);
  const found = FIELDS.find(({ name }) => words.includes(name));
  if (found) return found.name;
  return words.includes("attachments") ? "attachments" : words.includes("shell") ? "command" : "";
}
