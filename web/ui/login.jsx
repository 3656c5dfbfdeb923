// For whoever comes without a token, or with one that is not right.
import { useState } from "preact/hooks";
import { Refused, wordsOf } from "./api.js";

/** @import { Edit } from "./topics.d.ts" */

/** @param {{ why: string, enter: (token: string) => Promise<void> }} props */
export function Login({ why, enter }) {
  const [token, set] = useState("");
  const [error, say] = useState(why);
  const send = async (/** @type {Event} */ event) => {
    event.preventDefault();
    try {
      // The whole address will do, too.
      await enter(token.trim().replace(/^.*token=/, ""));
    } catch (refused) {
      // The server's words for it are for programs.
      const wrong = refused instanceof Refused && refused.status === 401;
      say(wrong ? "That is no token of this AgentCom." : wordsOf(refused));
    }
  };
  return (
    <main id="main" class="login">
      <h1>AgentCom</h1>
      <form class="form" onSubmit={send}>
        <label>
          Token
          <input
            name="token"
            type="password"
            autocomplete="off"
            required
            autofocus
            value={token}
            onInput={(/** @type {Edit} */ event) => set(event.currentTarget.value)}
          />
        </label>
        {error && <p role="alert">{error}</p>}
        <div class="row">
          <button type="submit" class="main">
            Enter
          </button>
        </div>
      </form>
      <p>
        It is in the address that <code>agentcom up</code> and <code>agentcom dashboard</code> print, after{" "}
        <code>#token=</code>. Both tokens, the operator's and the viewer's for whoever should look only, are in{" "}
        <code>web-tokens.json</code> in the data folder. This browser keeps it until you sign out.
      </p>
    </main>
  );
}
