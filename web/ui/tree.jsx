// The tree that a task stands in: whose run submitted it, and what its own runs submitted.
import { count, dollars, plain } from "./format.js";
import { Panel, Scroll, State, Tier } from "./parts.jsx";
import { useTopic } from "./socket.js";
import { treeOf } from "./tree.js";

/** @import { TaskDetail } from "./answers.d.ts" */

const MOST = 500;

/** @param {{ task: TaskDetail }} props */
export function Tree({ task }) {
  const { root, task_id: id } = task;
  const { data } = useTopic(root ? "tasks" : null, { root: root ?? "", sort: "submitted", limit: MOST });
  if (!root || !data) return null;
  const lines = treeOf(data.rows, root);
  if (lines.length < 2) return null;
  const cut = data.total > data.rows.length ? ", the first" : "";
  return (
    <Panel title={`Tree: ${count(lines.length)} tasks${cut}`} id="tree">
      <Scroll label="Tasks that this tree's runs submitted" class="fit">
        <table>
          <thead>
            <tr>
              <th>Task</th>
              <th>State</th>
              <th>Tier</th>
              <th class="n">Tokens, with those below</th>
              <th class="n">Cost, with those below</th>
            </tr>
          </thead>
          <tbody>
            {lines.map((line) => (
              <tr key={line.task.task_id} aria-current={line.task.task_id === id ? "true" : undefined}>
                <td style={{ paddingLeft: `${0.75 + 1.5 * line.deep}rem` }}>
                  <a href={`#/task/${line.task.task_id}`}>{plain(line.task.description, 80)}</a>
                </td>
                <td>
                  <State state={line.task.state} />
                </td>
                <td>
                  <Tier tier={line.task.tier} />
                </td>
                <td class="n">{count(line.tokens)}</td>
                <td class="n">{line.usd === null ? "?" : dollars(line.usd)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </Panel>
  );
}
