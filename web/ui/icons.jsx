// The page's icons: sixteen units square, drawn by lines in the colour of the text beside them.

/** @type {Record<string, string>} name to path */
const PATHS = {
  // states
  clock: "M8 4.5V8l2.3 1.6M8 1.8a6.2 6.2 0 1 1 0 12.4A6.2 6.2 0 0 1 8 1.8Z",
  arrow: "M2.5 8h10.5M9 4l4 4-4 4",
  inbox: "M2 9.5h3.5l1 2h3l1-2H14M2 9.5 4 3h8l2 6.5V13H2Z",
  play: "M5 3v10l8-5Z",
  back: "M13.5 12.5v-2a3 3 0 0 0-3-3H3M6.5 4 3 7.5 6.5 11",
  ban: "M8 1.8a6.2 6.2 0 1 1 0 12.4A6.2 6.2 0 0 1 8 1.8ZM3.7 3.7l8.6 8.6",
  check: "M2.5 8.5 6 12l7.5-8",
  cross: "M3.5 3.5l9 9M12.5 3.5l-9 9",
  stop: "M5.3 1.8h5.4l3.5 3.5v5.4l-3.5 3.5H5.3l-3.5-3.5V5.3ZM8 4.8v4M8 11.2v.1",
  glass: "M4 2h8M4 14h8M5 2v2.5L8 8l3-3.5V2M5 14v-2.5L8 8l3 3.5V14",
  unplugged: "M2 14l3-3M14 2l-3 3M5.5 7 9 10.5 7.5 12a2.5 2.5 0 0 1-3.5-3.5ZM7.5 5 9 3.5A2.5 2.5 0 0 1 12.5 7L11 8.5Z",
  drain: "M8 2v7M4.5 6 8 9.5 11.5 6M3 13.5h10",
  // pages
  now: "M1.5 8.5h3l2-5.5 3 10 2-4.5h3",
  tasks: "M6 4h8M6 8h8M6 12h8M2 4h1M2 8h1M2 12h1",
  schedules: "M2.5 3h11v10.5h-11ZM2.5 6.5h11M5 1.5v3M11 1.5v3M5.5 9h.1M8 9h.1M10.5 9h.1",
  fleet: "M2.5 2.5h11v4.5h-11ZM2.5 9h11v4.5h-11ZM5 4.8h.1M5 11.2h.1",
  routing: "M2.5 8H6l4-4.5h3.5M6 8l4 4.5h3.5M11.5 1.5l2 2-2 2M11.5 10.5l2 2-2 2",
  costs: "M8 1.5v13M11 4.5C10.5 3.3 5.3 2.7 5 5.5c-.3 2.5 6.2 2 6 5-.2 3-5.5 2.5-6.2.7",
  events: "M3 1.8h7l3 3v9.4H3ZM5.5 7.5h5M5.5 10.5h5",
  search: "M7 2a5 5 0 1 1 0 10A5 5 0 0 1 7 2ZM10.7 10.7 14 14",
  sun: "M8 5a3 3 0 1 1 0 6 3 3 0 0 1 0-6ZM8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1 1M12 12l1 1M3 13l1-1M12 4l1-1",
  moon: "M13.5 9.5A6 6 0 1 1 6.5 2.5a4.8 4.8 0 0 0 7 7Z",
};

/** @type {Record<string, string>} state of a task, a host or an endpoint to icon */
export const OF_STATE = {
  ...{ waiting: "clock", routed: "arrow", accepted: "inbox", running: "play", returned: "back", cancelling: "ban" },
  ...{ completed: "check", failed: "cross", dead: "stop", cancelled: "ban", expired: "glass" },
  ...{ up: "check", down: "cross", lost: "unplugged", left: "unplugged", draining: "drain" },
};

/** Beside a text that says the same. @param {{ name?: string }} props */
export const Icon = ({ name = "" }) =>
  PATHS[name] ? (
    <svg class="icon" viewBox="0 0 16 16" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  ) : null;
