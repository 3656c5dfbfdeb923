// The sections of each topic, as web/topics.py makes them, and what else the socket brings.
import type {
  RouteView,
  AttentionRow,
  Chunk,
  CostLine,
  Durations,
  FirstRoundRow,
  GraphNode,
  HostRow,
  LaneView,
  LoggedEvent,
  ModelRow,
  ScheduleRow,
  SharedView,
  TaskDetail,
  TaskRouted,
  TaskRow,
  TierRow,
} from "./answers.d.ts";

type Counts = Record<string, number>;
type Json = Record<string, any>;

/** A finished minute's counts. */
export type Minutes = Record<string, { submitted?: number; completed?: number; failed?: number }>;

/** The last hour's durations by tier. */
export type LastHour = Record<string, Pick<Durations, "n" | "p50_ms" | "counts">>;

/** The last hour by the minute: half of the waits in ms by tier, tasks at a time by tier and host. */
export interface Curves {
  wait: Record<string, (number | null)[]>;
  busy: Record<string, number[]>;
  hosts: Record<string, number[]>;
}

/** A host in the strip; `wrong`: why it takes nothing, or how many endpoints are down. */
export interface Glimpse {
  host: string;
  state: string;
  wrong: string | number;
  in_flight: number;
  slots: number;
}

/** A decision in the list of the latest. */
export interface Decision {
  seq: number;
  at: string;
  task_id: string;
  tier: string;
  target: string;
  host: string;
  endpoint: string;
  model: string;
  fallback: boolean;
  why: string | null;
  reason: string;
  candidates: number;
  excluded: number;
  decided_us: number;
}

export interface PolicyView {
  version: number;
  changed_at: string;
  by: string;
  policy: Json;
}

export interface Overview {
  tiers: TierRow[];
  waiting: number;
  lanes: LaneView[];
  under_way: Counts;
  running: TaskRow[];
  expiring: Counts;
  decisions: Counts;
  fallbacks: { count: number; hops: Counts };
  minutes: Minutes;
  wait: LastHour;
  run: LastHour;
  curves: Curves;
  hosts: { total: number; first: Glimpse[] };
  today: { total: CostLine; lines: CostLine[] };
  ever: { total: CostLine; lines: CostLine[] };
}

export interface Costs {
  by: string;
  total: CostLine;
  lines: CostLine[];
  times: CostLine[];
  targets: CostLine[];
  fallbacks: CostLine[];
  before?: CostLine[];
  fallbacks_before?: CostLine[];
  burn?: {
    hours: CostLine[];
    escalated_usd: number;
    budget_usd: number | null;
    task_budget_usd: number | null;
  };
  prices: { price_list?: string; equivalent_model?: string };
}

export interface Topics {
  status: {
    connected: boolean;
    position: number;
    lag: number;
    leader: string;
    simulated: string[];
    notifying: { target: string; delivered: number; waiting: number; failing_since: string; last_error: string }[];
  };
  overview: Overview;
  attention: { rows: AttentionRow[] };
  tails: { tails: Record<string, { type: string; text: string }[]> };
  tasks: { total: number; states: Counts; offset: number; rows: TaskRow[] };
  schedules: { schedules: ScheduleRow[] };
  graph: { nodes: GraphNode[]; left_out: boolean };
  task: {
    task: TaskDetail;
    route: TaskRouted | null;
    routes: RouteView[];
    events: LoggedEvent[];
    events_left_out: number;
    why: string[];
    explained: { generation: number; words: string[] }[];
  };
  fleet: { hosts: HostRow[]; shared_endpoints: SharedView[]; models: ModelRow[] };
  routing: {
    decisions: Decision[];
    by_tier: Counts;
    by_target: Counts;
    fallbacks: number;
    hops: Counts;
    waits_avoided: number;
    disagreements: Counts;
    first_rounds: FirstRoundRow[];
    policy: PolicyView;
  };
  costs: Costs;
  events: { events: LoggedEvent[] };
}

/** That so many pieces of a task's text were left out. */
export interface Gap {
  type: "gap";
  task_id: string;
  lost: number;
}

/** That what comes before this piece, in so many lines, is more than a page can show. */
export interface Skipped {
  type: "skipped";
  task_id: string;
  seq: number;
  route: string;
  n: number;
  lines: number;
}

/** That what is kept of a task's output was all sent; what comes is new. */
export interface Begun {
  type: "begun";
  task_id: string;
}

export type Output = (Chunk & { type: "execution_event" }) | Gap | Skipped | Begun;

/** What the server sends. */
export type Message =
  | Output
  | { type: "refused"; id: string; error: Fault }
  | { type: "snapshot" | "change"; id: string; topic: string; seq: number; position: string; data: Json };

/** A refusal's body, as the HTTP API has it too. */
export interface Fault {
  error: string;
  code?: string;
  path?: string;
}

/** What each page of the dashboard gets. */
export interface PageProps {
  rest: string[];
  operator: boolean;
  theme: string;
  /** Opens the form, filled in with a task's fields. */
  submit: (spec?: Json) => void;
}

/** What a form's field tells when it is changed. */
export type Edit = { currentTarget: HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement };
