// Who is here: the token that the server knows them by. It lies in the storage of this origin
// (scheme, name and port) and is sent by this page alone, as a header: nothing that a browser
// would send along by itself, to another port or for another page.
import { keep, kept } from "./kept.js";
import { moved } from "./route.js";

/** The path that the page is served at: "/", or where a proxy has put it. */
export const BASE = new URL(".", location.href).pathname;
const KEY = `agentcom-token ${BASE}`;

export const session = {
  token: kept(KEY) ?? "",
  /** @type {() => void} called when the token was refused, or another tab changed it */
  changed: () => {},
  /** @param {string} token */
  keep(token) {
    this.token = token;
    keep(KEY, token);
  },
};

globalThis.addEventListener?.("storage", (event) => {
  if (event.key !== KEY) return;
  session.token = kept(KEY) ?? "";
  session.changed();
});

/** The token in the address, which is taken out of it; "" where there is none. */
export function tokenInAddress() {
  const named = (/** @type {string} */ text) => new URLSearchParams(text.slice(1)).get("token");
  // Addresses of earlier versions had it in the query.
  const token = named(location.hash) ?? named(location.search) ?? "";
  if (token) {
    history.replaceState(null, "", BASE);
    moved();
  }
  return token;
}

/** What says the token where no header can be set: a name among the websocket's protocols. */
export function protocols() {
  const encoded = encodeURIComponent(session.token).replace(/[()]/g, (each) => (each === "(" ? "%28" : "%29"));
  return session.token ? ["agentcom", `token.${encoded}`] : ["agentcom"];
}
