// The form that submits a task.
import { useState } from "preact/hooks";
import { carryOut, newKey, post } from "./api.js";
import { PRIORITIES, TIERS, shortId } from "./format.js";
import { Dialog, Text } from "./parts.jsx";

export function Submit({ close }) {
  const [task, set] = useState({ description: "", tier: "", priority: "normal", command: "", repo: "", branch: "", model: "", assign_to: "", needs: "" });
  const [key] = useState(newKey());
  const [dry, setDry] = useState(null);
  const [busy, setBusy] = useState(false);
  const change = (name) => (event) => set({ ...task, [name]: event.currentTarget.value });
  const body = () => {
    const made = { description: task.description, priority: task.priority };
    for (const name of ["tier", "repo", "branch", "model", "assign_to"]) if (task[name].trim()) made[name] = task[name].trim();
    if (task.command.trim()) made.shell = { command: task.command };
    const needs = task.needs.split(/[\s,]+/).filter(Boolean);
    if (needs.length) made.needs = needs;
    return made;
  };
  const send = async (event) => {
    event.preventDefault();
    setBusy(true);
    const answer = await carryOut(
      () => post("/tasks", { ...body(), idempotency_key: key }),
      (said) => `Task ${shortId(said.task_id)} was submitted as ${said.effective_tier}.`,
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
        <label>What is to be done
          <textarea name="description" rows="3" required maxlength="10000" autofocus value={task.description} onInput={change("description")} />
        </label>
        <label>Shell command <small>(runs it without any model)</small>
          <textarea name="command" rows="2" class="mono" value={task.command} onInput={change("command")} />
        </label>
        <div class="row">
          <label>Tier
            <select name="tier" value={task.tier} onChange={change("tier")}>
              <option value="">inferred</option>
              {TIERS.map((each) => <option>{each}</option>)}
            </select>
          </label>
          <label>Priority
            <select name="priority" value={task.priority} onChange={change("priority")}>
              {PRIORITIES.map((each) => <option>{each}</option>)}
            </select>
          </label>
        </div>
        <details>
          <summary>More</summary>
          <div class="row">
            {[["repo", "Repository"], ["branch", "Branch"], ["model", "Model"], ["assign_to", "Only on host"], ["needs", "Needs"]].map(([name, title]) => (
              <label>{title}<input name={name} value={task[name]} onInput={change(name)} /></label>
            ))}
          </div>
        </details>
        {dry && (
          <p class="note">
            {dry.decision ? <>It would go to <b>{dry.decision.effective_tier}</b>: <Text>{[dry.decision.selected_host, dry.decision.selected_endpoint, dry.decision.selected_model].filter(Boolean).join(" · ")}</Text></> : <>It would wait: <Text>{dry.waiting_for}</Text></>}
            <br /><small><Text>{dry.classification.reason}</Text></small>
          </p>
        )}
        <footer>
          <button type="button" onClick={tryIt} disabled={!task.description.trim()}>Where would it go?</button>
          <button type="submit" class="main" disabled={busy}>Submit</button>
        </footer>
      </form>
    </Dialog>
  );
}
