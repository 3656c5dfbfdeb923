// The form that submits a task, or one like another again.
import { useState } from "preact/hooks";
import { Refused, carryOut, newKey, notice, post, wordsOf } from "./api.js";
import { store } from "./files.js";
import { GROUPS, Wrong, fieldOf, formOf, saysWhat, specOf } from "./form.js";
import { bytes, plain, shortId } from "./format.js";
import { Input, Suggestions, useFocusOn, useSuggestions } from "./fields.jsx";
import { Dialog, Said, Text } from "./parts.jsx";

/** @import { Stored } from "./files.js" */
/** @import { Field, Form } from "./form.js" */
/** @import { Edit } from "./topics.d.ts" */
/** @typedef {{ form: Form, files: Stored[], key: string }} Draft */

/** @type {Map<string, Draft>} what was typed and not sent, by the task that is done again */
const drafts = new Map();

/** @param {{ spec: Record<string, any>, close: () => void }} props */
export function Submit({ spec, close }) {
  const again = String(spec.retry_of ?? "");
  const [draft, set] = useState(
    () => drafts.get(again) ?? { form: formOf(spec), files: spec.attachments ?? [], key: newKey() },
  );
  const keep = (/** @type {(old: Draft) => Partial<Draft>} */ change) =>
    set((old) => {
      const next = { ...old, ...change(old) };
      drafts.set(again, next);
      return next;
    });
  const [wrong, setWrong] = useState(/** @type {{ field: string, message: string } | null} */ (null));
  const [dry, setDry] = useState(/** @type {any} */ (null));
  const [busy, setBusy] = useState(false);
  const [storing, setStoring] = useState(0); // files that are on their way
  const box = useFocusOn(wrong);
  const sets = useSuggestions();
  const { form, files, key } = draft;
  const change = (/** @type {string} */ name) => (/** @type {Edit} */ event) => {
    const { currentTarget: input } = event;
    const value = input.type === "checkbox" ? (/** @type {any} */ (input).checked ? "yes" : "") : input.value;
    keep((old) => ({ form: { ...old.form, [name]: value }, key: newKey() }));
    if (wrong?.field === name) setWrong(null);
  };
  const body = () => {
    /** @type {Record<string, any>} */
    const made = specOf(form);
    if (files.length) made.attachments = files;
    if (again) made.retry_of = again;
    return made;
  };
  /** Say what is wrong, at the field where it is. */
  const blame = (/** @type {unknown} */ error) => {
    const field = error instanceof Wrong ? error.field : error instanceof Refused ? fieldOf(error.path) : "";
    setWrong({ field, message: wordsOf(error) });
  };
  const send = async (/** @type {Event} */ event) => {
    event.preventDefault();
    setBusy(true);
    setWrong(null);
    try {
      const answer = await post("/tasks", { ...body(), idempotency_key: key });
      drafts.delete(again);
      notice(`Task ${shortId(answer.task_id)} was submitted as ${answer.effective_tier}.`);
      close();
      location.hash = `#/task/${answer.task_id}`;
    } catch (error) {
      blame(error);
    }
    setBusy(false);
  };
  const tryIt = async () => {
    setWrong(null);
    try {
      setDry(await post("/tasks/route", body()));
    } catch (error) {
      blame(error);
    }
  };
  const attach = async (/** @type {FileList | null} */ chosen) => {
    const files = [...(chosen ?? [])];
    setStoring((n) => n + files.length);
    for (const file of files) {
      const stored = await carryOut(() => store(file));
      setStoring((n) => n - 1);
      if (stored)
        keep((old) => ({
          files: [...old.files.filter((/** @type {Stored} */ one) => one.name !== stored.name), stored],
          key: newKey(),
        }));
    }
  };
  const clear = () => {
    drafts.delete(again);
    set({ form: formOf(spec), files: spec.attachments ?? [], key: newKey() });
    setWrong(null);
  };
  const one = (/** @type {Field} */ field) => (
    <Input
      field={field}
      value={form[field.name] ?? ""}
      change={change(field.name)}
      wrong={wrong}
      sets={sets}
      required={field.name === "description" && !saysWhat(form)}
    />
  );
  return (
    <Dialog title={again ? `Run ${shortId(again)} again with…` : "Submit a task"} close={close}>
      <form onSubmit={send} class="form" ref={box}>
        {GROUPS.map(([title, fields]) =>
          title ? (
            <details open={fields.some(({ name }) => formOf(spec)[name])}>
              <summary>{title}</summary>
              <div class="row">{fields.map(one)}</div>
            </details>
          ) : (
            <>
              {fields.slice(0, 2).map(one)}
              <div class="row">{fields.slice(2).map(one)}</div>
              <Files
                wrong={wrong}
                files={files}
                attach={attach}
                drop={(at) =>
                  keep((old) => ({
                    files: old.files.filter((/** @type {Stored} */ _, /** @type {number} */ n) => n !== at),
                    key: newKey(),
                  }))
                }
              />
            </>
          ),
        )}
        <Suggestions sets={sets} />
        {wrong && !wrong.field && (
          <p class="bad" role="alert">
            {plain(wrong.message, 600)}
          </p>
        )}
        {dry && <Dry dry={dry} />}
        <footer>
          {drafts.has(again) && (
            <button type="button" class="quiet" onClick={clear}>
              Begin anew
            </button>
          )}
          <button type="button" onClick={tryIt} disabled={!saysWhat(form)}>
            Where would it go?
          </button>
          <button type="submit" class="main" disabled={busy || storing > 0}>
            {storing > 0 ? "Files are on their way…" : "Submit"}
          </button>
        </footer>
      </form>
    </Dialog>
  );
}

/**
 * @param {{
 *   files: Stored[], attach: (files: FileList | null) => void, drop: (at: number) => void,
 *   wrong: { field: string, message: string } | null,
 * }} props
 */
function Files({ files, attach, drop, wrong }) {
  return (
    <div class="files">
      <label>
        <span>
          Files <small>(text or pictures, 1 MiB in all)</small>
        </span>
        <input
          type="file"
          name="attachments"
          multiple
          onChange={(event) => {
            attach(event.currentTarget.files);
            event.currentTarget.value = "";
          }}
        />
      </label>
      {files.length > 0 && (
        <ul class="list">
          {files.map((each, at) => (
            <li>
              <Text most={120}>{each.name}</Text> <small>{bytes(each.size_bytes)}</small>
              <button type="button" class="quiet" aria-label={`Leave out ${each.name}`} onClick={() => drop(at)}>
                ✕
              </button>
            </li>
          ))}
        </ul>
      )}
      {wrong?.field === "attachments" && (
        <small class="bad" id="wrong-attachments" role="alert">
          {plain(wrong.message, 600)}
        </small>
      )}
    </div>
  );
}

/** @param {{ dry: any }} props */
const Dry = ({ dry }) => (
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
        It would wait: <Said>{dry.waiting_for}</Said>
      </>
    )}
    <br />
    <small>
      <Said>{dry.classification.reason}</Said>
    </small>
  </p>
);
