// Fleet: hosts, their endpoints, which model is where; and the shared endpoints.
import { useEffect, useState } from "preact/hooks";
import { carryOut, post, remove } from "../api.js";
import { ORDERS, fleetOf, slotsOf, troubles } from "../fleetlist.js";
import { age, bytes, count, plain } from "../format.js";
import { Dialog, Empty, Panel, Scroll, Simulated, State as StateOf, Sure, Text, Said } from "../parts.jsx";
import { useQuery } from "../route.js";
import { useNow, useTopic } from "../socket.js";

/** @import { EndpointView, HostRow, ModelRow, SharedView } from "../answers.d.ts" */
/** @import { PageProps } from "../topics.d.ts" */

/** With more hosts than this, each is a line that opens. */
const CARDS = 6;
/** With more than this, a model's hosts are named rather than given columns. */
const COLUMNS = 8;
const NAMED = 12;

/** @param {PageProps} props */
export function Fleet({ rest, operator }) {
  const { data } = useTopic("fleet");
  const [wanted, set] = useQuery({ text: "", state: "", sort: "problems" });
  const now = useNow();
  const named = rest[0] ?? "";
  const isThere = data !== null;
  useEffect(() => {
    if (named && isThere) document.getElementById(`host-${named}`)?.scrollIntoView({ block: "center" });
  }, [named, isThere]);
  if (!data) return <Empty>Waiting for the first snapshot…</Empty>;
  const here = data.hosts.filter((host) => host.state !== "left" && host.state !== "lost");
  const gone = data.hosts.filter((host) => host.state === "left");
  const lost = data.hosts.filter((host) => host.state === "lost");
  const shown = fleetOf(here, wanted);
  const isLong = here.length > CARDS;
  return (
    <div class="page">
      <h1 class="sr">Fleet</h1>
      {lost.length > 0 && <Gone title={`Lost: ${lost.length}`} id="lost" hosts={lost} now={now} operator={operator} />}
      {(here.length > 1 || wanted.text || wanted.state) && (
        <Wanted hosts={here} shown={shown.length} wanted={wanted} set={set} />
      )}
      <div class={isLong ? "rows" : "cards wide"} id="hosts">
        {shown.map((host) =>
          isLong ? (
            <Line key={host.host} host={host} now={now} operator={operator} open={host.host === named} />
          ) : (
            <Host key={host.host} host={host} now={now} operator={operator} />
          ),
        )}
        {!shown.length && <Empty>{here.length ? "No host is like that." : "No host is here."}</Empty>}
      </div>
      <Models models={data.models} hosts={here} />
      <Shared shared={data.shared_endpoints} operator={operator} />
      {gone.length > 0 && <Gone title="No longer here" id="gone" hosts={gone} now={now} operator={operator} />}
    </div>
  );
}

/** @typedef {{ text: string, state: string, sort: string }} Filter */

/**
 * Which hosts are looked at, and in what order.
 * @param {{
 *   hosts: HostRow[], shown: number, wanted: Filter, set: (part: Partial<Filter>, quietly?: boolean) => void,
 * }} props
 */
function Wanted({ hosts, shown, wanted, set }) {
  const wrong = hosts.filter((host) => troubles(host).length).length;
  /** @type {[string, string, number][]} */
  const states = [
    ["", "all", hosts.length],
    ["problems", "with problems", wrong],
    ["up", "up", hosts.filter((host) => host.state === "up").length],
    ["draining", "draining", hosts.filter((host) => host.state === "draining").length],
  ];
  return (
    <div class="filters" role="search">
      <input
        type="search"
        id="host-filter"
        aria-label="Hosts"
        placeholder="Host, model, repository, ability"
        value={wanted.text}
        onInput={(event) => set({ text: event.currentTarget.value }, true)}
      />
      <div class="chips" role="group" aria-label="States">
        {states.map(([state, title, n]) => (
          <button
            type="button"
            class="chip"
            aria-pressed={wanted.state === state}
            onClick={() => set({ state: wanted.state === state ? "" : state })}
          >
            {title} <b>{count(n)}</b>
          </button>
        ))}
      </div>
      <select aria-label="Order" value={wanted.sort} onChange={(event) => set({ sort: event.currentTarget.value })}>
        {Object.entries(ORDERS).map(([value, title]) => (
          <option value={value}>{title}</option>
        ))}
      </select>
      <small id="hosts-shown">{`${count(shown)} of ${count(hosts.length)} hosts`}</small>
    </div>
  );
}

/** @param {{ title: string, id: string, hosts: HostRow[], now: number, operator: boolean }} props */
const Gone = ({ title, id, hosts, now, operator }) => (
  <Panel title={title} id={id}>
    <ul class="list">
      {hosts.map((host) => (
        <li id={`host-${host.host}`} key={host.host}>
          <StateOf state={host.state} /> <Text>{host.host}</Text> since {age(host.since, now)}{" "}
          <small>
            <Said>{host.reason}</Said>
          </small>
          {operator && host.state === "lost" && (
            <Sure
              label="Forget"
              sure="It never comes back?"
              act={() => carryOut(() => post(`/hosts/${host.host}/forget`), `${host.host} is forgotten.`)}
            />
          )}
        </li>
      ))}
    </ul>
  </Panel>
);

/**
 * A host as a line, which opens.
 * @param {{ host: HostRow, now: number, operator: boolean, open: boolean }} props
 */
function Line({ host, now, operator, open }) {
  const [isOpen, set] = useState(open);
  const wrong = troubles(host);
  const slots = slotsOf(host);
  return (
    <details
      class={`host-line ${wrong.length ? "wrong" : ""}`}
      open={isOpen}
      onToggle={(event) => set(event.currentTarget.open)}
    >
      <summary id={isOpen ? undefined : `host-${host.host}`}>
        <b>
          <Text most={60}>{host.host}</Text>
        </b>
        <StateOf state={host.state} />
        <span class="what">{wrong.length > 0 && <Text most={200}>{wrong.join("; ")}</Text>}</span>
        <span class="n" title="Tasks under way, and the slots for them">
          {`${count(host.in_flight)}/${count(slots)}`}
          <span class="meter" aria-hidden="true">
            <i style={{ width: `${Math.min(100, (host.in_flight / Math.max(1, slots)) * 100)}%` }} />
          </span>
        </span>
        <small class="n">
          {host.resources?.cpu == null ? "CPU unknown" : `CPU ${Math.round(host.resources.cpu * 100)}%`}
        </small>
        <small class="n">{age(host.since, now)}</small>
      </summary>
      {isOpen && <Host host={host} now={now} operator={operator} />}
    </details>
  );
}

/** @param {{ label: string, share: number | null | undefined, text: string }} props */
function Bar({ label, share, text }) {
  const part = share ?? Number.NaN;
  const isKnown = !Number.isNaN(part);
  return (
    <div class="meter-row">
      <span>{label}</span>
      <span
        class="meter"
        role="meter"
        aria-label={label}
        aria-valuemin={0}
        aria-valuemax={100}
        aria-valuenow={isKnown ? Math.round(part * 100) : 0}
        aria-valuetext={isKnown ? text : "unknown"}
      >
        <i style={{ width: isKnown ? `${Math.min(100, part * 100)}%` : "0" }} class={part > 0.9 ? "full" : ""} />
      </span>
      <span class="n">{isKnown ? text : "unknown"}</span>
    </div>
  );
}

/** @param {{ host: HostRow }} props */
function Resources({ host }) {
  const now = host.resources ?? {};
  const { cpu, ram_total_bytes: total, ram_free_bytes: free, gpus = [] } = now;
  const used = total && free !== null && free !== undefined ? total - free : null;
  return (
    <div class="meters">
      <Bar
        label="CPU"
        share={cpu}
        text={`${Math.round((cpu ?? 0) * 100)}%${now.cores ? ` of ${now.cores} cores` : ""}`}
      />
      <Bar label="RAM" share={used === null ? null : used / Number(total)} text={`${bytes(used)} of ${bytes(total)}`} />
      {gpus.map((gpu) => (
        <Bar
          label={`VRAM ${plain(gpu.name, 24)}`}
          share={(gpu.vram_total_bytes - gpu.vram_free_bytes) / gpu.vram_total_bytes}
          text={`${bytes(gpu.vram_total_bytes - gpu.vram_free_bytes)} of ${bytes(gpu.vram_total_bytes)}`}
        />
      ))}
      {!gpus.length && <Bar label="VRAM" share={null} text="unknown" />}
    </div>
  );
}

/**
 * What an endpoint can do, and how much its models read where that is known.
 * @param {EndpointView} endpoint
 */
function abilities({ capabilities, context_tokens: contexts }) {
  const tokens = Object.values(contexts);
  const least = Math.min(...tokens);
  const most = Math.max(...tokens);
  const context = least === most ? count(most) : `${count(least)} to ${count(most)}`;
  return [...capabilities, ...(tokens.length ? [`context ${context}`] : [])].join(", ");
}

/** @param {{ host: HostRow, now: number, operator: boolean }} props */
function Host({ host, now, operator }) {
  const draining = host.state === "draining";
  const slots = Object.entries(host.slots);
  return (
    <section class="panel host" id={`host-${host.host}`}>
      <header>
        <h2>
          <Text>{host.host}</Text>
        </h2>
        <StateOf state={host.state} />
        <small>for {age(host.since, now)}</small>
        {host.fault ? (
          <small>
            takes nothing: <Said>{host.fault}</Said>
          </small>
        ) : null}
        {operator &&
          (draining ? (
            <button
              type="button"
              onClick={() => carryOut(() => post(`/hosts/${host.host}/resume`), `${host.host} takes work again.`)}
            >
              Resume
            </button>
          ) : (
            <Sure
              label="Drain"
              sure="Take no more work?"
              act={() =>
                carryOut(
                  () => post(`/hosts/${host.host}/drain`, { reason: "from the dashboard" }),
                  `${host.host} takes no more work.`,
                )
              }
            />
          ))}
      </header>
      <p>
        <small>
          <Text>{[host.platform, host.version && `AgentCom ${host.version}`].filter(Boolean).join(" · ")}</Text>
        </small>
      </p>
      <Resources host={host} />
      <p>
        Slots: {slots.map(([kind, n]) => `${n} ${plain(kind)}`).join(", ") || "none"}; {count(host.in_flight)} under way
        {host.outbox ? `; ${count(host.outbox)} reports not delivered yet` : ""}
      </p>
      {host.capabilities.length > 0 && (
        <p>
          <small>
            Can: <Text>{host.capabilities.join(", ")}</Text>
          </small>
        </p>
      )}
      {host.repos.length > 0 && (
        <p>
          <small>
            Has: <Text>{host.repos.join(", ")}</Text>
          </small>
        </p>
      )}
      {host.endpoints.length > 0 && (
        <Scroll label={`Endpoints of ${plain(host.host)}`}>
          <table class="small">
            <thead>
              <tr>
                <th>Endpoint</th>
                <th>Kind</th>
                <th>State</th>
                <th>Can</th>
                <th class="n">In use</th>
                <th>Since</th>
              </tr>
            </thead>
            <tbody>
              {host.endpoints.map((each) => (
                <tr>
                  <td>
                    <Text most={80}>{each.endpoint}</Text> {each.shared && <span class="badge">shared</span>}{" "}
                    <Simulated on={each.simulated} />
                  </td>
                  <td>
                    <Text>{`${each.kind} ${each.version}`}</Text>
                  </td>
                  <td>
                    <StateOf state={each.up ? "up" : "down"} />{" "}
                    <small>
                      <Said most={160}>{each.reason}</Said>
                    </small>
                  </td>
                  <td>
                    <Text most={200}>{abilities(each)}</Text>
                  </td>
                  <td class="n">
                    {host.in_flight_by_endpoint[each.endpoint] ?? 0}/{each.slots}
                  </td>
                  <td>{age(each.since, now)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
    </section>
  );
}

/** @param {{ names: string[] }} props */
const Hosts = ({ names }) => (
  <>
    {names.slice(0, NAMED).map((name, n) => (
      <>
        {n > 0 && ", "}
        <a href={`#/fleet/${encodeURIComponent(name)}`}>{plain(name, 40)}</a>
      </>
    ))}
    {names.length > NAMED && ` and ${names.length - NAMED} more`}
    {!names.length && <span class="absent">–</span>}
  </>
);

/** Why no model is listed: a server that is down may have some. @param {HostRow[]} hosts */
function silent(hosts) {
  const servers = hosts.flatMap((host) => host.endpoints).filter(({ kind }) => kind === "ollama" || kind === "openai");
  const down = servers.filter(({ up }) => !up).length;
  if (!servers.length) return "No host has a model server.";
  if (!down) return "No model server has a model.";
  const of = `${down} of ${servers.length} model server${servers.length === 1 ? "" : "s"}`;
  return `${of} ${down === 1 ? "is" : "are"} down; what it has is not known.`;
}

/** @param {{ models: ModelRow[], hosts: HostRow[] }} props */
function Models({ models, hosts }) {
  const isWide = hosts.length > COLUMNS;
  return (
    <Panel title="Models" id="models">
      {models.length ? (
        <Scroll label="Models" class={hosts.length < 3 || isWide ? "fit" : ""}>
          <table class="small matrix">
            <thead>
              <tr>
                <th>Model</th>
                <th>How many</th>
                {isWide ? (
                  <>
                    <th>Loaded</th>
                    <th>On disk</th>
                  </>
                ) : (
                  hosts.map((host) => (
                    <th>
                      <Text most={24}>{host.host}</Text>
                    </th>
                  ))
                )}
              </tr>
            </thead>
            <tbody>
              {models.map((row) => {
                const n = new Set([...row.loaded, ...row.on_disk]).size;
                return (
                  <tr>
                    <td class="mono">
                      <Text most={80}>{row.model}</Text>
                    </td>
                    <td>
                      {n} host{n === 1 ? " has" : "s have"} <Text most={40}>{row.model}</Text>
                    </td>
                    {isWide && (
                      <>
                        <td>
                          <Hosts names={row.loaded} />
                        </td>
                        <td>
                          <Hosts names={row.on_disk.filter((host) => !row.loaded.includes(host))} />
                        </td>
                      </>
                    )}
                    {(isWide ? [] : hosts).map(({ host }) => (
                      <td>
                        {row.loaded.includes(host) ? (
                          <span class="badge state-up">loaded</span>
                        ) : row.on_disk.includes(host) ? (
                          <span class="badge">on disk</span>
                        ) : (
                          <span class="absent">absent</span>
                        )}
                      </td>
                    ))}
                  </tr>
                );
              })}
            </tbody>
          </table>
        </Scroll>
      ) : (
        <Empty>{silent(hosts)}</Empty>
      )}
    </Panel>
  );
}

/** @param {{ shared: SharedView[], operator: boolean }} props */
function Shared({ shared, operator }) {
  const [adding, add] = useState(false);
  return (
    <Panel
      title="Shared endpoints"
      id="shared"
      action={
        operator && (
          <button type="button" onClick={() => add(true)}>
            Add an endpoint
          </button>
        )
      }
    >
      {shared.length ? (
        <ul class="list">
          {shared.map((each) => (
            <li key={each.endpoint}>
              <b>
                <Text>{each.endpoint}</Text>
              </b>{" "}
              <Text>{`${each.kind} at ${each.url}, ${each.slots} slot${each.slots > 1 ? "s" : ""}`}</Text>{" "}
              <small>
                by <Text>{each.by}</Text>
              </small>
              {operator && (
                <Sure
                  label="Remove"
                  sure="Remove it?"
                  act={() => carryOut(() => remove(`/endpoints/${each.endpoint}`), "The endpoint is removed.")}
                />
              )}
            </li>
          ))}
        </ul>
      ) : (
        <Empty>None. A model server that several hosts may call is added here.</Empty>
      )}
      {adding && <Add close={() => add(false)} />}
    </Panel>
  );
}

/** @param {{ close: () => void }} props */
function Add({ close }) {
  const send = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const form = new FormData(/** @type {HTMLFormElement} */ (event.currentTarget));
    const body = {
      endpoint: form.get("endpoint"),
      kind: form.get("kind"),
      url: form.get("url"),
      slots: Number(form.get("slots")),
    };
    if (await carryOut(() => post("/endpoints", body), "The endpoint is added; hosts look for it now.")) close();
  };
  return (
    <Dialog title="Add a shared endpoint" close={close}>
      <form class="form" onSubmit={send}>
        <label>
          Name
          <input name="endpoint" required pattern="[A-Za-z0-9_\-]{1,64}" title="letters, digits, _ and -" autofocus />
        </label>
        <label>
          Kind
          <select name="kind">
            <option>ollama</option>
            <option>openai</option>
          </select>
        </label>
        <label>
          URL
          <input name="url" type="url" required placeholder="http://10.0.0.5:11434" />
        </label>
        <label>
          Slots
          <input name="slots" type="number" min="1" max="10000" value="1" />
        </label>
        <footer>
          <button type="submit" class="main">
            Add
          </button>
        </footer>
      </form>
    </Dialog>
  );
}
