// The form that submits a task.
import { useState } from "preact/hooks";
import { carryOut, newKey, post } from "./api.js";
import { PRIORITIES, TIERS, shortId } from "./format.js";
import { Dialog, Text } from "./parts.jsx";

/** @import { Edit } from "./topics.d.ts" */

const EMPTY = {
  description: "",
  tier: "",
  priority: "normal",
  command: "",
  repo: "",
  branch: "",
  model: "",
  assign_to: "",
  needs: "",
};

/** @typedef {keyof typeof EMPTY} Name */
/** @type {Name[]} */
const OPTIONAL = ["tier", "repo", "branch", "model", "assign_to"];
/** @type {[Name, string][]} */
const MORE = [
  ["repo", "Repository"],
  ["branch", "Branch"],
  ["model", "Model"],
  ["assign_to", "Only on host"],
  ["needs", "Needs"],
];

/** @param {{ close: () => void }} props */
export function Submit({ close }) {
  const [task, set] = useState(EMPTY);
  const [key] = useState(newKey());
  const [dry, setDry] = useState(/** @type {any} */ (null));
  const [busy, setBusy] = useState(false);
  const change = (/** @type {Name} */ name) => (/** @type {Edit} */ event) =>
    set({ ...task, [name]: event.currentTarget.value });
  const body = () => {
    /** @type {Record<string, any>} */
    const spec = { description: task.description, priority: task.priority };
    for (const name of OPTIONAL) if (task[name].trim()) spec[name] = task[name].trim();
    if (task.command.trim()) spec.shell = { command: task.command };
    const needs = task.needs.split(/[\s,]+/).filter(Boolean);
    if (needs.length) spec.needs = needs;
    return spec;
  };
  const send = async (/** @type {Event} */ event) => {
    event.preventDefault();
    setBusy(true);
    const answer = await carryOut(
      () => post("/tasks", { ...body(), idempotency_key: key }),
      ({ task_id, effective_tier }) => `Task ${shortId(task_id)} was submitted as ${effective_tier}.`,
    );
    setBusy(false);
    if (!answer) return;
    close();
    location.hash = `#/task/${answer.task_id}`;
  };
  const tryIt = async () => setDry(await carryOut(() => post("/tasks/route", body())));
  return (
    <Dialog title="Submit a task" close={close}>
      <form onSubmit={send} class="form">
        <label>
          What is to be done
          <textarea
            name="description"
            rows={3}
            required
            maxlength={200000}
            autofocus
            value={task.description}
            onInput={change("description")}
          />
        </label>
        <label>
          Shell command <small>(runs it without any model)</small>
          <textarea name="command" rows={2} class="mono" value={task.command} onInput={change("command")} />
        </label>
        <div class="row">
          <label>
            Tier
            <select name="tier" value={task.tier} onChange={change("tier")}>
              <option value="">inferred</option>
              {TIERS.map((each) => (
                <option>{each}</option>
              ))}
            </select>
          </label>
          <label>
            Priority
            <select name="priority" value={task.priority} onChange={change("priority")}>
              {PRIORITIES.map((each) => (
                <option>{each}</option>
              ))}
            </select>
          </label>
        </div>
        <details>
          <summary>More</summary>
          <div class="row">
            {MORE.map(([name, title]) => (
              <label>
                {title}
                <input name={name} value={task[name]} onInput={change(name)} />
              </label>
            ))}
          </div>
        </details>
        {dry && (
          <p class="note">
            {dry.decision ? (
              <>
                It would go to <b>{dry.decision.effective_tier}</b>:{" "}
                <Text>
                  {[dry.decision.selected_host, dry.decision.selected_endpoint, dry.decision.selected_model]
                    .filter(Boolean)
                    .join(" · ")}
                </Text>
              </>
            ) : (
              <>
                It would wait: <Text>{dry.waiting_for}</Text>
              </>
            )}
            <br />
            <small>
              <Text>{dry.classification.reason}</Text>
            </small>
          </p>
        )}
        <footer>
          <button type="button" onClick={tryIt} disabled={!task.description.trim()}>
            Where would it go?
          </button>
          <button type="submit" class="main" disabled={busy}>
            Submit
          </button>
        </footer>
      </form>
    </Dialog>
  );
}
