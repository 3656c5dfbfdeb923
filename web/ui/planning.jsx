// The form that plans a task, or changes what is planned: when, in which zone, and what.
import { useEffect, useState } from "preact/hooks";
import { Refused, get, notice, post, wordsOf } from "./api.js";
import { Input, Suggestions, useFocusOn, useSuggestions } from "./fields.jsx";
import { Wrong, saysWhat } from "./form.js";
import { moment, plain } from "./format.js";
import { Dialog } from "./parts.jsx";
import { TASK, WHEN, changeOf, fieldOfPlan, formOfPlan, planOf } from "./plan.js";

/** @import { Field, Form } from "./form.js" */
/** @import { Edit } from "./topics.d.ts" */
/** @typedef {{ field: string, message: string }} Fault */

const TYPING_MS = 250;
const ZONES = { zones: Intl.supportedValuesOf?.("timeZone") ?? [] }; // older browsers cannot list them
const NEW = { tz: Intl.DateTimeFormat().resolvedOptions().timeZone };

/** @param {unknown} error @returns {Fault} */
const faultOf = (error) => ({
  field: error instanceof Wrong ? error.field : error instanceof Refused ? fieldOfPlan(error.path) : "",
  message: wordsOf(error),
});

/**
 * @param {{ there: Record<string, any> | null, close: () => void }} props
 *   `there`: the event with the rule of the one that is changed, null for a new one
 */
export function Planning({ there, close }) {
  const [began] = useState(/** @type {Form} */ (formOfPlan(there ?? NEW)));
  const [form, set] = useState(began);
  const [wrong, setWrong] = useState(/** @type {Fault | null} */ (null));
  const [busy, setBusy] = useState(false);
  const box = useFocusOn(wrong);
  const sets = { ...useSuggestions(), ...ZONES };
  const change = (/** @type {string} */ name) => (/** @type {Edit} */ event) => {
    const { currentTarget: input } = event;
    const value = input.type === "checkbox" ? (/** @type {any} */ (input).checked ? "yes" : "") : input.value;
    set((old) => ({ ...old, [name]: value }));
    if (wrong?.field === name) setWrong(null);
  };
  const save = async (/** @type {Event} */ event) => {
    event.preventDefault();
    setBusy(true);
    setWrong(null);
    try {
      if (there) await post(`/schedules/${there.schedule}/change`, changeOf(form, there.task));
      else await post("/schedules", planOf(form));
      notice(there ? `${there.schedule} is changed.` : `${form.schedule.trim()} is planned.`);
      close();
    } catch (error) {
      setWrong(faultOf(error));
    }
    setBusy(false);
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
  const [[, first], ...more] = TASK;
  return (
    <Dialog title={there ? `Change ${plain(there.schedule, 60)}` : "Plan a task"} close={close}>
      <form onSubmit={save} class="form" ref={box} id="planning">
        <div class="row">{WHEN.slice(there ? 1 : 0, 3).map(one)}</div>
        <Next cron={form.cron} tz={form.tz} />
        <div class="row">{WHEN.slice(3).map(one)}</div>
        {first.slice(0, 2).map(one)}
        <div class="row">{first.slice(2).map(one)}</div>
        {more.map(([title, fields]) => (
          <details open={fields.some(({ name }) => began[name])}>
            <summary>{title}</summary>
            <div class="row">{fields.map(one)}</div>
          </details>
        ))}
        <Suggestions sets={sets} />
        {wrong && !wrong.field && (
          <p class="bad" role="alert">
            {plain(wrong.message, 600)}
          </p>
        )}
        <footer>
          <button type="submit" class="main" disabled={busy}>
            {there ? "Change it" : "Plan it"}
          </button>
        </footer>
      </form>
    </Dialog>
  );
}

/** When it would fire, said while it is typed. @param {{ cron: string, tz: string }} props */
function Next({ cron, tz }) {
  const [said, say] = useState(/** @type {{ next: string[], wrong: string }} */ ({ next: [], wrong: "" }));
  useEffect(() => {
    if (!cron.trim()) {
      say({ next: [], wrong: "" });
      return undefined;
    }
    let over = false;
    const timer = setTimeout(async () => {
      const asked = new URLSearchParams({ cron: cron.trim(), tz: tz.trim() || "UTC", limit: "5" });
      try {
        const { next } = await get(`/schedules/next?${asked}`);
        if (!over) say({ next, wrong: "" });
      } catch (error) {
        if (!over) say({ next: [], wrong: wordsOf(error) });
      }
    }, TYPING_MS);
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, [cron, tz]);
  return (
    <div class="note" id="next-times" role="status">
      {said.wrong && <p class="bad">{plain(said.wrong, 300)}</p>}
      {!said.wrong && !said.next.length && <p>The next times appear here.</p>}
      {said.next.length > 0 && (
        <>
          Next:
          <ol class="list">
            {said.next.map((each) => (
              <li>
                <time dateTime={each}>{moment(each)}</time>
              </li>
            ))}
          </ol>
        </>
      )}
    </div>
  );
}
