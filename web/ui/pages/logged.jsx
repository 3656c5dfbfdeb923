// One event of the log, as a line.
import { moment, plain } from "../format.js";
import { Text } from "../parts.jsx";

/** @import { LoggedEvent } from "../answers.d.ts" */

const SKIPPED = new Set([
  "type",
  "id",
  "at",
  "by",
  "task_id",
  "host",
  "route",
  "incarnation",
  "candidates",
  "spec",
  "classification",
  "result",
  "policy",
]);

/** `here`: the one meant. @param {{ logged: LoggedEvent, whole: boolean, link?: boolean, here?: boolean }} props */
export function Logged({ logged, whole, link = false, here = false }) {
  const { seq, subject, event } = logged;
  const short = Object.entries(event)
    .filter(([name, value]) => !SKIPPED.has(name) && typeof value !== "object")
    .map(([name, value]) => `${name}=${value}`)
    .join(" ");
  const about = <Text most={120}>{subject.replace("agentcom.evt.", "")}</Text>;
  return (
    <li class={here ? "here" : ""} aria-current={here ? "true" : undefined}>
      <code class="seq">{seq}</code> <time>{moment(event.at)}</time>{" "}
      <b>
        <Text>{event.type}</Text>
      </b>{" "}
      <small class="mono">
        {link && event.task_id ? <a href={`#/task/${encodeURIComponent(event.task_id)}`}>{about}</a> : about}
      </small>
      {whole ? (
        <pre>{plain(JSON.stringify(event, null, 2), 50_000)}</pre>
      ) : (
        <span class="fields">
          {" "}
          <Text most={300}>{short}</Text>
        </span>
      )}
    </li>
  );
}
