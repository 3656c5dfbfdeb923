// A form's fields, and what there is to choose from for them.
import { useLayoutEffect, useRef } from "preact/hooks";
import { plain } from "./format.js";
import { useTopic } from "./socket.js";

/** @import { Field } from "./form.js" */
/** @import { Edit } from "./topics.d.ts" */

/**
 * A field with its title, and what is wrong with it.
 * @param {{
 *   field: Field, value: string, change: (event: Edit) => void,
 *   wrong: { field: string, message: string } | null, sets: Record<string, string[]>, required?: boolean,
 * }} props
 */
export function Input({ field, value, change, wrong, sets, required = false }) {
  const { name, title, kind = "text", hint = "", choices, set, mono } = field;
  const isWrong = wrong?.field === name;
  const given = {
    name,
    value,
    "aria-invalid": isWrong || undefined,
    "aria-describedby": isWrong ? `wrong-${name}` : undefined,
  };
  const long = kind === "area" || kind === "lines" || kind === "pairs" || kind === "json";
  return (
    <label class={kind === "yes" ? "inline" : ""}>
      {kind === "yes" ? (
        <>
          <input type="checkbox" name={name} checked={value === "yes"} onChange={change} /> {title}
        </>
      ) : (
        <>
          <span>
            {title} {long && hint && <small>({hint})</small>}
          </span>
          {choices ? (
            <select {...given} onChange={change}>
              <option value="">{hint}</option>
              {choices.map((each) => (
                <option>{each}</option>
              ))}
            </select>
          ) : long ? (
            <textarea
              {...given}
              rows={name === "description" ? 3 : 2}
              class={mono || kind === "json" ? "mono" : ""}
              required={required}
              maxlength={name === "description" ? 200000 : undefined}
              autofocus={name === "description"}
              onInput={change}
            />
          ) : (
            <input
              {...given}
              list={set && sets[set] ? `set-${set}` : undefined}
              inputmode={kind === "number" ? "decimal" : undefined}
              placeholder={hint}
              autofocus={name === "schedule"}
              onInput={change}
            />
          )}
        </>
      )}
      {isWrong && (
        <small class="bad" id={`wrong-${name}`} role="alert">
          {plain(wrong?.message, 600)}
        </small>
      )}
    </label>
  );
}

/**
 * The form that gets the result. Its wrong field has the focus as soon as the words are there:
 * a moment later it would take what is typed into another one.
 * @param {{ field: string } | null} wrong
 */
export function useFocusOn(wrong) {
  const box = useRef(/** @type {HTMLFormElement | null} */ (null));
  useLayoutEffect(() => {
    if (!wrong?.field) return;
    const input = /** @type {HTMLElement | null} */ (box.current?.querySelector(`[name="${wrong.field}"]`) ?? null);
    input?.closest("details")?.setAttribute("open", "");
    input?.focus();
  }, [wrong]);
  return box;
}

/** @param {{ sets: Record<string, string[]> }} props by the name of the set */
export const Suggestions = ({ sets }) =>
  Object.entries(sets).map(([name, values]) => (
    <datalist id={`set-${name}`}>
      {values.map((each) => (
        <option value={each} />
      ))}
    </datalist>
  ));

/** What there is to choose from now. @returns {Record<string, string[]>} */
export function useSuggestions() {
  const { data: fleet } = useTopic("fleet");
  const { data: tasks } = useTopic("tasks", { sort: "-submitted", offset: 0, limit: 100 });
  const hosts = (fleet?.hosts ?? []).filter((each) => each.state !== "left");
  const labels = (tasks?.rows ?? []).flatMap(({ labels = {} }) => Object.entries(labels).map((one) => one.join("=")));
  return {
    hosts: hosts.map((each) => each.host),
    models: (fleet?.models ?? []).map((each) => each.model),
    repos: [...new Set(hosts.flatMap((each) => each.repos))],
    needs: [...new Set(hosts.flatMap((each) => each.capabilities))],
    labels: [...new Set(labels)],
  };
}
