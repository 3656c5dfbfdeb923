// Always visible: where one is, and whether what one sees is true.
/** @import { Connection } from "./socket.js" */
/** @import { Theme } from "./theme.js" */
/** @import { Topics } from "./topics.d.ts" */
import { useEffect } from "preact/hooks";
import { useAttention, useSigns } from "./attention.jsx";
import { clock, count, moment, plain } from "./format.js";
import { Icon } from "./icons.jsx";
import { useConnection, useNow, useTopic } from "./socket.js";

/** @param {{ notifying: Topics["status"]["notifying"] }} props */
function NotTold({ notifying }) {
  const failing = notifying.filter((each) => each.failing_since);
  if (!failing.length) return null;
  const title = failing.map((each) => `${each.target}: ${each.last_error}`).join("; ");
  return (
    <span class="badge alert" id="not-told" title={plain(title, 500)}>
      {`not notified: ${plain(failing.map((each) => each.target).join(", "), 60)}`}
    </span>
  );
}

const PAGES = [
  ["now", "Now"],
  ["tasks", "Tasks"],
  ["schedules", "Schedules"],
  ["fleet", "Fleet"],
  ["routing", "Routing"],
  ["costs", "Costs"],
  ["events", "Events"],
];

/**
 * @param {{
 *   place: string, theme: Theme, operator: boolean, submit: () => void, leave: (() => void) | null,
 *   search: () => void, who: string,
 * }} props
 */
export function Bar({ place, theme, operator, submit, leave, search, who }) {
  const connection = useConnection();
  const { data: status } = useTopic("status");
  const rows = useAttention();
  useSigns(rows);
  const issues = rows?.filter(({ severity }) => severity !== "info").length ?? 0;
  useNow(5000);
  const reached = connection.open && status?.connected !== false;
  const stale = staleSince(connection, status);
  const here = place === "task" ? "tasks" : place;
  useEffect(() => {
    document.body.classList.toggle("is-stale", stale !== null);
  }, [stale]);
  return (
    <header class="bar">
      <a class="brand" href="#/now">
        AgentCom
      </a>
      <nav aria-label="Pages">
        {PAGES.map(([name, title]) => (
          <a href={`#/${name}`} aria-current={here === name ? "page" : undefined}>
            <Icon name={name} />
            {title}
          </a>
        ))}
      </nav>
      <div class="standing" role="group" aria-label="Connection">
        <button type="button" class="search-button" id="open-search" onClick={search}>
          <Icon name="search" />
          Search <kbd>{/Mac|iP/.test(navigator.platform) ? "⌘K" : "Ctrl K"}</kbd>
        </button>
        <details class="health">
          <summary>
            <span class={`dot ${reached ? "good" : "bad"}`} aria-hidden="true" />{" "}
            <span id="connection">{connection.open ? (reached ? "live" : "no broker") : "disconnected"}</span>
          </summary>
          <div class="popover">
            <p title="The last sequence of the log that is shown">
              sequence <b id="last-seq">{count(status?.position)}</b>
            </p>
            <p title="Events that are not folded in yet">lag {count(status?.lag)}</p>
            {status?.leader && <p>scheduler {plain(status.leader, 60)}</p>}
            {(status?.notifying ?? []).map((each) => (
              <p class="notifying">
                {`${plain(each.target, 60)}: ${count(each.delivered)} notifications delivered`}
                {each.failing_since && `, ${count(each.waiting)} wait since ${moment(each.failing_since)}: `}
                {each.failing_since && plain(each.last_error, 200)}
              </p>
            ))}
          </div>
        </details>
        <NotTold notifying={status?.notifying ?? []} />
        {stale && (
          <span class="badge stale" id="stale" role="alert">
            stale since {clock(stale)}
          </span>
        )}
        {issues > 0 ? (
          <a class="badge alert" href="#/now">
            {`${count(issues)} ${issues > 1 ? "issues" : "issue"}`}
          </a>
        ) : (
          rows && <span>No issues</span>
        )}
        {status && status.simulated.length > 0 && (
          <span class="badge simulated" title={plain(status.simulated.join(", "))}>
            simulated
            <span class="wide-only">: {plain(status.simulated.map((each) => each.split(" ")[0]).join(", "), 60)}</span>
          </span>
        )}
        {operator && (
          <button type="button" class="main" id="submit-task" onClick={submit}>
            Submit a task
          </button>
        )}
        <button
          type="button"
          class="quiet theme"
          onClick={theme.toggle}
          aria-label={`Switch to ${theme.theme === "dark" ? "light" : "dark"} colours`}
        >
          <Icon name={theme.theme === "dark" ? "sun" : "moon"} />
        </button>
        <span class="wide-only" title="Who you are here, by your token">
          {plain(who, 40)}
        </span>
        {leave && (
          <button type="button" class="quiet" id="sign-out" onClick={leave}>
            Sign out
          </button>
        )}
      </div>
    </header>
  );
}

/** @type {number | null} */
let brokenSince = null;
/**
 * Since when what is shown may be old; null while it is true.
 * @param {Connection} connection
 * @param {Topics["status"] | null} status
 */
function staleSince(connection, status) {
  if (!connection.open) return connection.since;
  if (status && !status.connected) {
    brokenSince ??= Date.now();
    return brokenSince;
  }
  brokenSince = null;
  return null;
}
