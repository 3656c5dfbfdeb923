// The graph that a task stands in: what comes before it on the left, what waits for it on the right.
import { plain, shortId } from "./format.js";
import { Panel, Scroll } from "./parts.jsx";
import { useTopic } from "./socket.js";

/** @import { GraphNode } from "./answers.d.ts" */

const WIDE = 168;
const HIGH = 40;
const GAP = { x: 48, y: 12 };

/**
 * Where each task is drawn: a column for each level, in it from the top.
 * @param {GraphNode[]} nodes @returns {Map<string, { x: number, y: number, node: GraphNode }>}
 */
export function placed(nodes) {
  /** @type {number[]} */
  const rows = [];
  const places = new Map();
  for (const node of nodes) {
    const row = rows[node.level] ?? 0;
    rows[node.level] = row + 1;
    places.set(node.task_id, { x: node.level * (WIDE + GAP.x), y: row * (HIGH + GAP.y), node });
  }
  return places;
}

/** @param {{ id: string }} props */
export function Graph({ id }) {
  const { data } = useTopic("graph", { task_id: id });
  const nodes = data?.nodes ?? [];
  if (nodes.length < 2) return null;
  const places = placed(nodes);
  const all = [...places.values()];
  const width = Math.max(...all.map(({ x }) => x)) + WIDE + 2;
  const height = Math.max(...all.map(({ y }) => y)) + HIGH + 2;
  return (
    <Panel title={`Graph: ${nodes.length} tasks${data?.left_out ? ", the nearest" : ""}`} id="graph">
      <Scroll label="What comes after what" class="fit">
        <svg class="graph" width={width} height={height} viewBox={`-1 -1 ${width} ${height}`}>
          {all.flatMap(({ x, y, node }) =>
            node.before.map((other, n) => {
              const from = places.get(other);
              if (!from) return null;
              const [x1, y1, x2, y2] = [from.x + WIDE, from.y + HIGH / 2, x, y + HIGH / 2];
              const middle = (x1 + x2) / 2;
              return (
                <path
                  class={`edge ${node.how[n]}`}
                  fill="none"
                  stroke="currentColor"
                  stroke-dasharray={node.how[n] === "after_any" ? "4 3" : undefined}
                  opacity="0.5"
                  d={`M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`}
                />
              );
            }),
          )}
          {all.map(({ x, y, node }) => (
            <a href={`#/task/${node.task_id}`} aria-current={node.task_id === id ? "true" : undefined}>
              <title>{`${plain(node.description, 300)}: ${node.state}`}</title>
              <rect
                x={x}
                y={y}
                width={WIDE}
                height={HIGH}
                rx="4"
                fill="transparent"
                stroke="currentColor"
                stroke-width={node.task_id === id ? 2 : 1}
              />
              <text x={x + 8} y={y + 16} fill="currentColor" font-size="12">
                {plain(node.name || node.description, 22)}
              </text>
              <text x={x + 8} y={y + 32} fill="currentColor" font-size="11" opacity="0.75">
                {`${node.held ? "held" : node.state} · ${shortId(node.task_id)}`}
              </text>
            </a>
          ))}
        </svg>
      </Scroll>
    </Panel>
  );
}
