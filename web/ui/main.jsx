// The page: the bar that is always there, and one of seven pages below it.
import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { get } from "./api.js";
import { Bar } from "./bar.jsx";
import { Costs } from "./pages/costs.jsx";
import { Events } from "./pages/events.jsx";
import { Fleet } from "./pages/fleet.jsx";
import { Now } from "./pages/now.jsx";
import { Routing } from "./pages/routing.jsx";
import { Task } from "./pages/task.jsx";
import { Tasks } from "./pages/tasks.jsx";
import { Notices } from "./parts.jsx";
import { connection } from "./socket.js";
import { Submit } from "./submit.jsx";
import { useTheme } from "./theme.js";
import "./style.css";

/** @import { PageProps } from "./topics.d.ts" */

/** @type {Record<string, (props: PageProps) => any>} */
const PAGES = { now: Now, tasks: Tasks, task: Task, fleet: Fleet, routing: Routing, costs: Costs, events: Events };

function where() {
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  return { name: PAGES[name] ? name : "now", rest: rest.map(decodeURIComponent) };
}

function App() {
  const [place, go] = useState(where());
  const [me, meet] = useState({ role: "viewer" });
  const [submitting, submit] = useState(false);
  const theme = useTheme();
  useEffect(() => {
    const moved = () => {
      go(where());
      document.getElementById("main")?.focus({ preventScroll: true });
      scrollTo(0, 0);
    };
    addEventListener("hashchange", moved);
    // Whoever came while the server went away is asked about again.
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const introduce = () => get("/me").then(meet, () => (timer = setTimeout(introduce, 2000)));
    introduce();
    return () => {
      clearTimeout(timer);
      removeEventListener("hashchange", moved);
    };
  }, []);
  useEffect(() => {
    const name = place.name[0].toUpperCase() + place.name.slice(1);
    document.title = `${name} · AgentCom`;
  }, [place.name]);
  const Page = PAGES[place.name];
  const operator = me.role === "operator";
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
      <Bar place={place.name} theme={theme} operator={operator} submit={() => submit(true)} />
      <main id="main" tabindex={-1}>
        <Page
          key={place.rest[0]}
          rest={place.rest}
          operator={operator}
          theme={theme.theme}
          submit={() => submit(true)}
        />
      </main>
      {submitting && <Submit close={() => submit(false)} />}
      <Notices />
    </>
  );
}

connection.connect();
render(<App />, /** @type {HTMLElement} */ (document.getElementById("app")));
