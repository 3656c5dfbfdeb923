// The page: the bar that is always there, and one of eight pages below it.
import { render } from "preact";
import { useCallback, useEffect, useMemo, useState } from "preact/hooks";
import { Refused, me, wordsOf } from "./api.js";
import { Bar } from "./bar.jsx";
import { Login } from "./login.jsx";
import { Costs } from "./pages/costs.jsx";
import { Events } from "./pages/events.jsx";
import { Fleet } from "./pages/fleet.jsx";
import { Now } from "./pages/now.jsx";
import { Routing } from "./pages/routing.jsx";
import { Schedules } from "./pages/schedules.jsx";
import { Task } from "./pages/task.jsx";
import { Tasks } from "./pages/tasks.jsx";
import { Notices } from "./parts.jsx";
import { Keys, Palette, useKeys } from "./palette.jsx";
import { onMove, placeOf, usePageTitle } from "./route.js";
import { SaveView } from "./savedviews.jsx";
import { session, tokenInAddress } from "./session.js";
import { connection } from "./socket.js";
import { Submit } from "./submit.jsx";
import { useTheme } from "./theme.js";
import "./style.css";

/** @import { Place } from "./route.js" */
/** @import { Theme } from "./theme.js" */
/** @import { PageProps } from "./topics.d.ts" */

/** @type {Record<string, (props: PageProps) => any>} */
const PAGES = {
  ...{ now: Now, tasks: Tasks, task: Task, schedules: Schedules, fleet: Fleet },
  ...{ routing: Routing, costs: Costs, events: Events },
};

/** @typedef {{ role: string, name: string }} Visitor */
/**
 * Who is here, or why nobody is: "" where a token is wanted, null while that is not known.
 * @typedef {{ visitor: Visitor | null, why: string | null }} Entrance
 */

/**
 * Find the token that is right: the address's, or the one that is kept; none where the
 * server needs none. Throws the server's no.
 * @returns {Promise<Visitor>}
 */
async function introduce() {
  const brought = tokenInAddress();
  for (const token of new Set([brought, session.token].filter(Boolean))) {
    try {
      return await enter(token);
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 401) throw error;
    }
  }
  return me("");
}

/** @param {string} token @returns {Promise<Visitor>} */
async function enter(token) {
  const visitor = await me(token);
  session.keep(token);
  return visitor;
}

/** The page for whoever may see it; for others, where to say a token. */
function Entry() {
  const theme = useTheme();
  const [{ visitor, why }, set] = useState(/** @type {Entrance} */ ({ visitor: null, why: null }));
  useEffect(() => {
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const begin = async () => {
      clearTimeout(timer);
      try {
        set({ visitor: await introduce(), why: null });
      } catch (error) {
        const status = error instanceof Refused ? error.status : 0;
        if (status === 401) set({ visitor: null, why: "" });
        else if (status === 403) set({ visitor: null, why: wordsOf(error) });
        // The server goes away or comes: it is asked again.
        else timer = setTimeout(begin, 2000);
      }
    };
    // An address with a token may also be typed into a page that is open already.
    const moved = () => {
      if (location.hash.startsWith("#token=")) begin();
    };
    addEventListener("hashchange", moved);
    session.changed = begin;
    begin();
    return () => {
      clearTimeout(timer);
      removeEventListener("hashchange", moved);
    };
  }, []);
  useEffect(() => {
    if (!visitor) return undefined;
    connection.connect();
    return () => connection.disconnect();
  }, [visitor]);
  const leave = () => {
    session.keep("");
    set({ visitor: null, why: "" });
  };
  const login = async (/** @type {string} */ token) => set({ visitor: await enter(token), why: null });
  if (visitor)
    return (
      <App
        theme={theme}
        who={visitor.name || visitor.role}
        operator={visitor.role === "operator"}
        leave={session.token ? leave : null}
      />
    );
  return why === null ? null : <Login key={why} why={why} enter={login} />;
}

/** @type {Record<string, string>} */
const TITLES = Object.fromEntries(Object.keys(PAGES).map((name) => [name, name[0].toUpperCase() + name.slice(1)]));

/** Where the reader was on this page, when it is come back to; else its top. */
function keepPlace() {
  const y = history.state?.y ?? 0;
  let tries = 0;
  const scroll = () => {
    scrollTo(0, y);
    tries += 1;
    // What is shown comes a little later than the page.
    if (Math.abs(scrollY - y) > 2 && tries < 40) setTimeout(scroll, 50);
  };
  scroll();
}

/** @param {{ place: Place }} props */
const NotFound = ({ place }) => (
  <div class="page" id="not-found">
    <h1>There is no such page</h1>
    <p>{place.wrong || `There is no page “${place.name.slice(0, 80)}” here.`}</p>
    <ul class="list">
      {Object.entries(TITLES).map(
        ([name, title]) =>
          name !== "task" && (
            <li>
              <a href={`#/${name}`}>{title}</a>
            </li>
          ),
      )}
    </ul>
  </div>
);

/** @param {{ theme: Theme, who: string, operator: boolean, leave: (() => void) | null }} props */
function App({ theme, who, operator, leave }) {
  const [place, go] = useState(placeOf(location.hash));
  const [submitting, setSubmitting] = useState(/** @type {Record<string, any> | null} */ (null));
  const submit = useCallback((/** @type {Record<string, any>} */ spec = {}) => setSubmitting(spec), []);
  const [looking, look] = useState(/** @type {"" | "search" | "keys" | "view"} */ (""));
  useKeys(look);
  const { toggle } = theme;
  const actions = useMemo(
    () => [
      ...(operator ? [{ title: "Submit a task", about: "action", go: () => submit() }] : []),
      { title: "Save this view", about: "action", go: () => look("view") },
      { title: "Switch colours", about: "action", go: toggle },
      { title: "Keys", about: "help", go: () => look("keys") },
    ],
    [operator, submit, toggle],
  );
  useEffect(() => {
    let last = placeOf(location.hash);
    return onMove(() => {
      const next = placeOf(location.hash);
      const same = next.name === last.name && next.rest[0] === last.rest[0];
      last = next;
      go(next);
      if (same) return; // another view of the same page
      document.getElementById("main")?.focus({ preventScroll: true });
      keepPlace();
    });
  }, []);
  useEffect(() => {
    const scrolled = () => history.replaceState({ ...history.state, y: scrollY }, "");
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const later = () => {
      clearTimeout(timer);
      timer = setTimeout(scrolled, 150);
    };
    addEventListener("scroll", later, { passive: true });
    keepPlace();
    return () => {
      clearTimeout(timer);
      removeEventListener("scroll", later);
    };
  }, []);
  const Page = place.wrong ? null : PAGES[place.name];
  usePageTitle(Page ? TITLES[place.name] : "Not found");
  return (
    <>
      <a
        class="skip"
        href="#main"
        onClick={(event) => {
          event.preventDefault();
          document.getElementById("main")?.focus();
        }}
      >
        Skip to content
      </a>
      <Bar
        place={place.name}
        theme={theme}
        operator={operator}
        submit={() => submit()}
        leave={leave}
        search={() => look("search")}
        who={who}
      />
      <main id="main" tabindex={-1} data-place={Page ? `${place.name}/${place.rest[0] ?? ""}` : "not-found"}>
        {Page ? (
          <Page
            key={`${place.name}/${place.rest[0]}`}
            rest={place.rest}
            operator={operator}
            theme={theme.theme}
            submit={submit}
          />
        ) : (
          <NotFound place={place} />
        )}
      </main>
      {submitting && <Submit spec={submitting} close={() => setSubmitting(null)} />}
      {looking === "search" && <Palette actions={actions} close={() => look((now) => (now === "search" ? "" : now))} />}
      {looking === "view" && <SaveView close={() => look("")} />}
      {looking === "keys" && <Keys close={() => look("")} />}
      <Notices />
    </>
  );
}

render(<Entry />, /** @type {HTMLElement} */ (document.getElementById("app")));
