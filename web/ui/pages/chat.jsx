// A chat's messages and wishes, and the calls of tools that an answer ends with.
import { plain } from "../format.js";

/** @import { CalledTool, ChatMessage, TaskDetail } from "../answers.d.ts" */

/** @param {CalledTool[]} calls */
export const callsIn = (calls) => calls.map(({ function: { name, arguments: given } }) => `calls ${name} ${given}`);

/** @param {{ message: ChatMessage }} props */
function Message({ message }) {
  const { role, content = "", tool_calls: calls = [] } = message;
  const parts =
    typeof content === "string" ? [content] : content.map((part) => ("text" in part ? part.text : "[picture]"));
  const said = [...parts, ...callsIn(calls)].filter((text) => text !== "");
  return (
    <>
      <strong>{role}</strong>
      <code class="block">{plain(said.join("\n"))}</code>
    </>
  );
}

/** @param {{ task: TaskDetail }} props */
export function Chat({ task }) {
  const { messages = [], chat } = task.spec ?? {};
  return (
    <details>
      <summary>{messages.length === 1 ? "1 message" : `${messages.length} messages`}</summary>
      {messages.map((message) => (
        <Message message={message} />
      ))}
      {chat && <code class="block">{plain(JSON.stringify(chat))}</code>}
    </details>
  );
}
