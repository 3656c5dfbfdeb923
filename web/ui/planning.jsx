// The form that plans a task, or changes what is planned: when, in which zone, and what.
import { useEffect, useRef, useState } from "preact/hooks";
import { Refused, get, notice, post, remove, wordsOf } from "./api.js";
import { Input, Suggestions, useSuggestions } from "./fields.jsx";
import { Wrong } from "./form.js";
import { moment, plain } from "./format.js";
import { Dialog } from "./parts.jsx";
import { TASK, WHEN, fieldOfPlan, formOfPlan, planOf } from "./plan.js";

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
 * @param {{ added: Record<string, any> | null, paused?: boolean, close: () => void }} props
 *   `added`: the event that added the one that is changed, null for a new one
 */
export function Planning({ added, paused = false, close }) {
  const [began] = useState(/** @type {Form} */ (formOfPlan(added ?? NEW)));
  const [form, set] = useState(began);
  const [wrong, setWrong] = useState(/** @type {Fault | null} */ (null));
  const [busy, setBusy] = useState(false);
  const box = useRef(/** @type {HTMLFormElement | null} */ (null));
  const sets = { ...useSuggestions(), ...ZONES };
  const change = (/** @type {string} */ name) => (/** @type {Edit} */ event) => {
    const { currentTarget: input } = event;
    const value = input.type === "checkbox" ? (/** @type {any} */ (input).checked ? "yes" : "") : input.value;
    set((old) => ({ ...old, [name]: value }));
    if (wrong?.field === name) setWrong(null);
  };
  const blame = (/** @type {Fault} */ fault) => {
    setWrong(fault);
    requestAnimationFrame(() => {
      const input = /** @type {HTMLElement | null} */ (box.current?.querySelector(`[name="${fault.field}"]`) ?? null);
      input?.closest("details")?.setAttribute("open", "");
      input?.focus();
    });
  };
  const save = async (/** @type {Event} */ event) => {
    event.preventDefault();
    setBusy(true);
    setWrong(null);
    try {
      const plan = planOf(form, added?.task);
      if (added) await replace(added, plan, paused);
      else await post("/schedules", plan);
      notice(added ? `${plan.schedule} is changed.` : `${plan.schedule} is planned.`);
      close();
    } catch (error) {
      blame(faultOf(error));
    }
    setBusy(false);
  };
  const one = (/** @type {Field} */ field) => (
    <Input field={field} value={form[field.name] ?? ""} change={change(field.name)} wrong={wrong} sets={sets} />
  );
  const [[, first], ...more] = TASK;
  return (
    <Dialog title={added ? `Change ${plain(added.schedule, 60)}` : "Plan a task"} close={close}>
      <form onSubmit={save} class="form" ref={box} id="planning">
        <div class="row">{WHEN.slice(0, 3).map(one)}</div>
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
          {added && (
            <small class="push">Changed, it begins anew: its last runs stay tasks, but stand here no more.</small>
          )}
          <button type="submit" class="main" disabled={busy}>
            {added ? "Change it" : "Plan it"}
          </button>
        </footer>
      </form>
    </Dialog>
  );
}

/**
 * Put one schedule in the place of another. What is refused leaves the other as it was.
 * @param {Record<string, any>} added @param {Record<string, any>} plan @param {boolean} paused
 */
async function replace(added, plan, paused) {
  const { schedule, cron, tz, missed, overlap, task } = added;
  const path = `/schedules/${schedule}`;
  if (plan.schedule !== schedule) await post("/schedules", plan);
  else {
    // The same again but for its times is refused before anything is taken away.
    await get(`/schedules/next?${new URLSearchParams({ cron: plan.cron ?? "", tz: plan.tz ?? "UTC" })}`);
    await post("/tasks/route", plan.task);
  }
  await remove(path);
  if (plan.schedule === schedule)
    try {
      await post("/schedules", plan);
    } catch (error) {
      await post("/schedules", { schedule, cron, tz, missed, overlap, task });
      throw error;
    } finally {
      if (paused) await post(`${path}/pause`);
    }
  else if (paused) await post(`/schedules/${plan.schedule}/pause`);
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
