// The menu of views: go to one, keep the present one under a name, let one go.
import { useEffect, useState } from "preact/hooks";
import { notice } from "./api.js";
import { Dialog } from "./parts.jsx";
import { USUAL_VIEWS, bare, tellers, views, withView } from "./views.js";

/** @import { View } from "./views.js" */

/** What is kept, as it changes. @returns {View[]} */
export function useViews() {
  const [all, set] = useState(() => views.all());
  useEffect(() => {
    const tell = () => set(views.all());
    tellers.add(tell);
    return () => {
      tellers.delete(tell);
    };
  }, []);
  return all;
}

export function SavedViews() {
  const kept = useViews();
  const [naming, name] = useState(false);
  const here = bare(location.hash);
  const all = [...USUAL_VIEWS, ...kept];
  const present = all.find(({ address }) => address === here);
  const isKept = kept.some(({ address }) => address === here);
  return (
    <span class="views">
      <select
        aria-label="View"
        value={present?.address ?? ""}
        onChange={(event) => {
          if (event.currentTarget.value) location.hash = event.currentTarget.value;
        }}
      >
        <option value="">Views</option>
        <optgroup label="Usual">
          {USUAL_VIEWS.map((one) => (
            <option value={one.address}>{one.name}</option>
          ))}
        </optgroup>
        {kept.length > 0 && (
          <optgroup label="Yours">
            {kept.map((one) => (
              <option value={one.address}>{one.name}</option>
            ))}
          </optgroup>
        )}
      </select>
      {isKept ? (
        <button type="button" onClick={() => views.keep(kept.filter(({ address }) => address !== here))}>
          Forget this view
        </button>
      ) : (
        !present && (
          <button type="button" id="save-view" onClick={() => name(true)}>
            Save view
          </button>
        )
      )}
      {naming && <SaveView close={() => name(false)} />}
    </span>
  );
}

/** @param {{ close: () => void }} props */
export function SaveView({ close }) {
  const save = (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const said = String(new FormData(/** @type {HTMLFormElement} */ (event.currentTarget)).get("name")).trim();
    if (!said) return;
    views.keep(withView(views.all(), { name: said, address: bare(location.hash) }));
    notice(`The view “${said}” is kept in this browser; its address goes to anybody.`);
    close();
  };
  return (
    <Dialog title="Save this view" close={close}>
      <form class="form" onSubmit={save}>
        <label>
          Name
          <input name="name" required maxLength={60} autofocus />
        </label>
        <footer>
          <button type="submit" class="main">
            Save
          </button>
        </footer>
      </form>
    </Dialog>
  );
}
