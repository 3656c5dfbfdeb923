// Made from the code by `make docs`; change it there.
export interface AlertView {
  tier: string;
  seq: number;
  raised_at: string;
  down_s: number;
  reason: string;
  acknowledged_at: string | null;
  acknowledged_by: string;
  cleared_at: string | null;
  host: string;
  code: string;
}
export interface Attachment {
  name: string;
  digest: string;
  size_bytes: number;
  media_type?: string;
}
export interface AttentionAnswer {
  seq: number;
  errors: number;
  warnings: number;
  rows: Array<AttentionRow>;
}
export interface AttentionRow {
  key: string;
  kind: string;
  severity: "error" | "info" | "warning";
  sentence: string;
  since: string;
  last: string;
  until: string;
  count: number;
  filter: TaskFilter | null;
  host: string;
  tier: string;
  action: "" | "acknowledge" | "cancel" | "clear_limit" | "open_host" | "retry";
  label: string;
}
export interface BulkProgress {
  ok: true;
  bulk_id: string;
  action: string;
  dry_run: boolean;
  finished: boolean;
  matched: number;
  done: number;
  unchanged: number;
  refused: number;
  outcomes: Record<string, number>;
  ids: Array<string>;
  seq: number;
}
export interface CalledFunction {
  name: string;
  arguments: string;
}
export interface CalledTool {
  id: string;
  type: "function";
  function: CalledFunction;
}
export interface Candidate {
  host: string;
  endpoint?: string;
  model?: string;
  cpu?: number | null;
  ram_bytes?: number | null;
  vram_total_bytes?: number | null;
  vram_free_bytes?: number | null;
  loaded?: boolean;
  has_repo?: boolean;
  slots_free: number;
  slots_total: number;
  in_flight?: number;
  factors: Factors;
  score: number;
}
export interface Changed {
  seq: number;
  task_id: string;
  at: string;
  what: string;
  was: string;
  then: string;
  why: string;
  usd: number | null;
  usd_then: number | null;
  passes: number | null;
  passes_then: number | null;
  estimated_cost_usd: number | null;
  estimated_cost_usd_then: number | null;
}
export interface ChangedFile {
  path: string;
  how?: "added" | "deleted" | "modified" | "renamed";
  insertions?: number | null;
  deletions?: number | null;
  was?: string;
}
export interface Changes {
  branch?: string;
  base?: string;
  commits?: Array<string>;
  files?: number;
  insertions?: number;
  deletions?: number;
  changed?: Array<ChangedFile>;
  patch?: string;
  patch_truncated?: boolean;
  patch_encoding?: "latin-1" | "utf-8";
}
export interface ChatMessage {
  role: "assistant" | "developer" | "system" | "tool" | "user";
  content?: string | Array<TextPart | PicturePart>;
  name?: string;
  tool_calls?: Array<CalledTool>;
  tool_call_id?: string;
}
export interface ChatWishes {
  tools?: Array<Record<string, any>>;
  tool_choice?: string | Record<string, any> | null;
  parallel_tool_calls?: boolean | null;
  seed?: number | null;
  stop?: Array<string>;
  top_p?: number | null;
  top_k?: number | null;
  min_p?: number | null;
  presence_penalty?: number | null;
  frequency_penalty?: number | null;
  reasoning_effort?: string | null;
}
export interface CheckView {
  round: number;
  rounds: number;
  step: number;
  of: number;
  command: string;
  passed: boolean;
  exit_code: number | null;
  signal: string | null;
  code: string;
  output: string;
  run_ms: number;
  tokens_in: number | null;
  tokens_out: number | null;
  cost_usd: number | null;
  estimated_cost_usd: number | null;
  execution_ms: number | null;
}
export interface Chunk {
  type?: "execution_event";
  task_id: string;
  event_type: "call" | "error" | "status" | "stderr" | "stdout" | "thinking" | "token" | "tool";
  text: string;
  timestamp: string;
  route: string;
  generation: number;
  attempt: number;
  segment: number;
  n: number;
  tokens_so_far?: number | null;
  model?: string | null;
  tool?: ToolUse | null;
}
export interface Classification {
  effective_tier: "complex" | "standard" | "trivial";
  explicit_tier: "complex" | "standard" | "trivial" | "unknown" | null;
  source: "explicit" | "inferred";
  inferred: Inferred;
  reason: string;
}
export interface ClaudeWishes {
  permission_mode?: "acceptEdits" | "bypassPermissions" | "default" | "dontAsk" | "plan" | null;
  allowed_tools?: Array<string> | null;
  disallowed_tools?: Array<string>;
  max_turns?: number | null;
  append_system_prompt?: string;
  mcp_servers?: Array<string>;
}
export interface CostLine {
  key: string;
  runs: number;
  completed: number;
  late: number;
  tokens_in: number | null;
  tokens_out: number | null;
  cache_read_tokens: number;
  cache_write_tokens: number;
  cost_usd: number;
  equivalent_claude_cost_usd: number;
  saved_usd: number;
  unpriced: number;
  guessed: number;
  unknown_tokens: number;
  part: string;
  estimated_cost_usd: number;
}
export interface CostsAnswer {
  seq: number;
  by: string;
  since: string;
  lines: Array<CostLine>;
  total: CostLine;
}
export interface Durations {
  n: number;
  mean_ms: number | null;
  p50_ms: number | null;
  p95_ms: number | null;
  p99_ms: number | null;
  counts: Array<number>;
}
export interface EmbedWishes {
  inputs: Array<string>;
  dimensions?: number | null;
}
export interface EndpointView {
  endpoint: string;
  kind: string;
  up: boolean;
  since: string;
  url: string;
  version: string;
  models: Array<string>;
  loaded: Array<string>;
  slots: number;
  reason: string;
  shared: boolean;
  simulated: boolean;
  again_at: string;
  capabilities: Array<string>;
  model_capabilities: Record<string, Array<string>>;
  context_tokens: Record<string, number>;
  notice: string;
  embedders: Array<string>;
}
export interface Excluded {
  name: string;
  reason: string;
  code?: "failed" | "suspect" | null;
}
export interface Factors {
  load: number;
  capacity: number;
  vram: number;
  warm: number;
  affinity: number;
  slots: number;
}
export interface FileHint {
  path: string;
  reason?: string;
}
export interface FirstRoundRow {
  tier: string;
  model: string;
  passed: number;
  failed: number;
}
export interface Gpu {
  name: string;
  vram_total_bytes: number;
  vram_free_bytes: number;
}
export interface GraphAnswer {
  seq: number;
  task_id: string;
  nodes: Array<GraphNode>;
  left_out: boolean;
}
export interface GraphNode {
  task_id: string;
  name: string;
  description: string;
  state: string;
  held: boolean;
  level: number;
  before: Array<string>;
  how: Array<"after" | "after_any" | "input_from">;
}
export interface HostRow {
  host: string;
  state: string;
  since: string;
  reason: string;
  incarnation: string;
  joined_at: string;
  version: string;
  platform: string;
  slots: Record<string, number>;
  in_flight: number;
  in_flight_by_endpoint: Record<string, number>;
  capabilities: Array<string>;
  repos: Array<string>;
  default_repo: string | null;
  endpoints: Array<EndpointView>;
  resources: Resources | null;
  outbox: number | null;
  ram_bytes: number | null;
  fault: string;
  clock_ahead_s: number | null;
  journal_lost: string;
}
export interface HostsAnswer {
  seq: number;
  hosts: Array<HostRow>;
  shared_endpoints: Array<SharedView>;
  models: Array<ModelRow>;
  tiers: Array<TierRow>;
  alerts: Array<AlertView>;
  leader: string;
  epoch: number;
  policy_version: number;
}
export interface Inferred {
  tier: "complex" | "standard" | "trivial" | "unknown";
  confidence: number;
  signals: Array<string>;
}
export interface LaneView {
  tier: string;
  priority: string;
  waiting: number;
  oldest: Oldest | null;
}
export interface LoggedEvent {
  seq: number;
  subject: string;
  event: any;
}
export interface ModelRow {
  model: string;
  loaded: Array<string>;
  on_disk: Array<string>;
}
export interface Oldest {
  task_id: string;
  submitted_at: string;
  waiting_since: string;
}
export interface PicturePart {
  digest: string;
}
export interface PlannedAnswer {
  seq: number;
  next: Array<string>;
}
export interface QueueAnswer {
  seq: number;
  waiting: number;
  lanes: Array<LaneView>;
  under_way: Record<string, number>;
  running: Array<TaskRow>;
  waiting_tasks: Array<TaskRow>;
  held: number;
}
export interface Resources {
  cpu?: number | null;
  cores?: number | null;
  ram_total_bytes?: number | null;
  ram_free_bytes?: number | null;
  gpus?: Array<Gpu>;
}
export interface Result {
  status: "failed" | "success";
  output?: string;
  stderr?: string;
  error?: RunError | null;
  model_used?: string;
  tokens_in?: number | null;
  tokens_out?: number | null;
  cache_read_tokens?: number;
  cache_write_tokens?: number;
  estimated_cost_usd?: number | null;
  equivalent_claude_cost_usd?: number | null;
  equivalent_model?: string | null;
  cost_basis?: string;
  price_list?: string | null;
  execution_ms?: number;
  exit_code?: number | null;
  signal?: string | null;
  output_bytes?: number;
  stderr_bytes?: number;
  output_sha256?: string | null;
  truncated?: boolean;
  length_limited?: boolean;
  session_id?: string | null;
  simulated?: boolean;
  cwd?: string;
  changes?: Changes | null;
  verified?: boolean | null;
  tool_calls?: Array<CalledTool>;
}
export interface RouteView {
  route: string;
  seq: number;
  generation: number;
  attempt: number;
  tier: string;
  target_type: string;
  host: string;
  endpoint: string;
  model: string;
  fallback_used: boolean;
  fallback_from_tier: string | null;
  fallback_reason: string | null;
  waited_s: number;
  outcome: string;
  reason: string;
  detail: string;
  error_code: string;
  routed_at: string;
  accepted_at: string;
  started_at: string;
  ended_at: string;
  run_ms: number | null;
  local_retries: number;
  lines: number;
  last_line: string;
  late: boolean;
  simulated: boolean;
  tokens_in: number | null;
  tokens_out: number | null;
  cache_read_tokens: number;
  cache_write_tokens: number;
  cost_usd: number;
  cost_basis: string;
  equivalent_claude_cost_usd: number;
  unpriced: boolean;
  checks: Array<CheckView>;
  error: RunError | null;
  error_message: string;
  estimated_cost_usd: number | null;
  execution_ms: number | null;
}
export interface RunError {
  code: string;
  message: string;
}
export interface RunRow {
  planned: string;
  what: "by_hand" | "fired" | "missed" | "overlap";
  task_id: string;
  until: string;
  count: number;
  state: string;
}
export interface SavingsAnswer {
  seq: number;
  model: string;
  price_list: string;
  booked_usd: number;
  saved_usd: number;
  unpriced: number;
  simulated_usd: number;
}
export interface ScheduleRow {
  schedule: string;
  cron: string;
  tz: string;
  missed: string;
  overlap: string;
  description: string;
  tier: string;
  added_at: string;
  added_by: string;
  added_seq: number;
  changed_at: string;
  changed_by: string;
  changed_seq: number;
  paused: boolean;
  paused_for: string;
  fired: number;
  skipped: number;
  next: Array<string>;
  runs: Array<RunRow>;
}
export interface SchedulesAnswer {
  seq: number;
  schedules: Array<ScheduleRow>;
}
export interface SharedView {
  endpoint: string;
  kind: string;
  url: string;
  slots: number;
  added_at: string;
  by: string;
}
export interface Shell {
  command: string;
  timeout_s?: number | null;
  env?: Record<string, string>;
  cwd?: string | null;
  exclusive?: boolean;
  secret_env?: Array<string>;
}
export interface StatsAnswer {
  seq: number;
  states: Record<string, number>;
  decisions_by_tier: Record<string, number>;
  decisions_by_target: Record<string, number>;
  fallbacks: number;
  fallbacks_by_hop: Record<string, number>;
  waits_avoided: number;
  disagreements: Record<string, number>;
  minutes: Record<string, any>;
  buckets_ms: Array<number>;
  wait: Record<string, Durations>;
  run: Record<string, Durations>;
  cost_usd: number;
  saved_usd: number;
  first_rounds: Array<FirstRoundRow>;
  estimated_cost_usd: number;
}
export interface TaskAnswer {
  seq: number;
  task: TaskDetail;
  route: TaskRouted | null;
  attempts: Array<RouteView>;
  events: Array<LoggedEvent>;
  events_left_out: number;
  routes: Array<RouteView>;
}
export interface TaskDetail {
  task_id: string;
  seq: number;
  state: string;
  description: string;
  priority: string;
  tier: string;
  preferred_tier: string;
  explicit_tier: string | null;
  target_type: string;
  host: string;
  endpoint: string;
  model: string;
  repo: string;
  fallback_used: boolean;
  fallback_from_tier: string | null;
  attempts: number;
  max_attempts: number;
  generation: number;
  tokens_in: number | null;
  tokens_out: number | null;
  cost_usd: number;
  cost_basis: string;
  equivalent_claude_cost_usd: number;
  saved_usd: number;
  unpriced_runs: number;
  submitted_at: string;
  waiting_since: string;
  waiting_for: string;
  routed_at: string;
  started_at: string;
  finished_at: string;
  wait_ms: number | null;
  run_ms: number | null;
  status: string;
  error_code: string;
  late: boolean;
  simulated: boolean;
  updated_seq: number;
  error: RunError | null;
  error_message: string;
  model_used: string;
  estimated_cost_usd: number | null;
  execution_ms: number | null;
  submitter: string;
  labels: Record<string, string>;
  short_id: string;
  not_before: string;
  held: boolean;
  parent: string;
  root: string;
  depth: number;
  children: number;
  name: string;
  comes_after: number;
  schedule: string;
  spec: TaskSpec | null;
  classification: Classification | null;
  warnings: Array<string>;
  accepted_at: string;
  cache_read_tokens: number;
  cache_write_tokens: number;
  reason: string;
  cancelled_by: string;
  assign_to: string;
  deadline: string;
  exclude: string;
  void: number;
  voids: Array<Void>;
  result: Result | null;
  cwd: string;
  env: Record<string, string>;
  mode: "answer" | "work" | null;
  mode_reason: string;
}
export interface TaskFilter {
  state?: Array<"accepted" | "cancelled" | "cancelling" | "completed" | "dead" | "expired" | "failed" | "returned" | "routed" | "running" | "waiting">;
  tier?: "" | "complex" | "standard" | "trivial";
  host?: string;
  model?: string;
  repo?: string;
  priority?: "" | "high" | "low" | "normal" | "urgent";
  submitter?: string;
  root?: string;
  label?: Array<string>;
  need?: string;
  text?: string;
  error_code?: string;
  error?: string;
  since?: string;
  until?: string;
  fallback?: boolean | null;
}
export interface TaskRouted {
  id: string;
  at: string;
  by: string;
  task_id: string;
  epoch?: number;
  generation: number;
  attempt: number;
  effective_tier: "complex" | "standard" | "trivial";
  target_type: "agent" | "claude" | "noop" | "ollama" | "openai" | "sidecar";
  selected_host: string;
  selected_endpoint?: string;
  selected_model?: string;
  fallback_used?: boolean;
  fallback_from_tier?: "complex" | "standard" | "trivial" | null;
  fallback_reason?: string | null;
  fallback_code?: "absent" | "down" | "failed" | "unmet" | "verification" | null;
  wait?: Wait | null;
  classification_reason: string;
  candidate_count: number;
  candidates: Array<Candidate>;
  excluded?: Record<string, number>;
  excluded_names?: Array<Excluded>;
  estimated_cost_tier: "api" | "free" | "local";
  estimated_cost_usd?: number | null;
  policy_version: number;
  log_seq: number;
  decided_us?: number;
  simulated?: boolean;
  clock_ahead_s?: number;
}
export interface TaskRow {
  task_id: string;
  seq: number;
  state: string;
  description: string;
  priority: string;
  tier: string;
  preferred_tier: string;
  explicit_tier: string | null;
  target_type: string;
  host: string;
  endpoint: string;
  model: string;
  repo: string;
  fallback_used: boolean;
  fallback_from_tier: string | null;
  attempts: number;
  max_attempts: number;
  generation: number;
  tokens_in: number | null;
  tokens_out: number | null;
  cost_usd: number;
  cost_basis: string;
  equivalent_claude_cost_usd: number;
  saved_usd: number;
  unpriced_runs: number;
  submitted_at: string;
  waiting_since: string;
  waiting_for: string;
  routed_at: string;
  started_at: string;
  finished_at: string;
  wait_ms: number | null;
  run_ms: number | null;
  status: string;
  error_code: string;
  late: boolean;
  simulated: boolean;
  updated_seq: number;
  error: RunError | null;
  error_message: string;
  model_used: string;
  estimated_cost_usd: number | null;
  execution_ms: number | null;
  submitter: string;
  labels: Record<string, string>;
  short_id: string;
  not_before: string;
  held: boolean;
  parent: string;
  root: string;
  depth: number;
  children: number;
  name: string;
  comes_after: number;
  schedule: string;
}
export interface TaskSpec {
  description: string;
  priority?: "high" | "low" | "normal" | "urgent";
  tier?: "complex" | "standard" | "trivial" | "unknown" | null;
  shell?: Shell | null;
  repo?: string | null;
  branch?: string | null;
  cwd?: string | null;
  file_hints?: Array<FileHint>;
  success_criteria?: Array<string>;
  verification_steps?: Array<string>;
  needs?: Array<string>;
  assign_to?: string | null;
  model?: string | null;
  max_attempts?: number;
  ttl_s?: number | null;
  deadline?: string | null;
  idempotency_key?: string | null;
  executor?: "agent" | "noop" | null;
  mode?: "answer" | "work" | null;
  system?: string;
  max_tokens?: number | null;
  temperature?: number | null;
  json_schema?: Record<string, any> | null;
  attachments?: Array<Attachment>;
  verify_rounds?: number | null;
  metadata?: Record<string, any>;
  labels?: Record<string, string>;
  retry_of?: string | null;
  traceparent?: string | null;
  timeout_s?: number | null;
  retries?: number | null;
  claude?: ClaudeWishes | null;
  max_budget_usd?: number | null;
  messages?: Array<ChatMessage>;
  chat?: ChatWishes | null;
  embed?: EmbedWishes | null;
  at?: string | null;
  name?: string | null;
  after?: Array<string>;
  after_any?: Array<string>;
  input_from?: Array<string>;
}
export interface TasksAnswer {
  seq: number;
  total: number;
  tasks: Array<TaskRow>;
  states: Record<string, number>;
  next: string | null;
}
export interface TextPart {
  text: string;
}
export interface TierRow {
  tier: string;
  state: "down" | "limited" | "unknown" | "up";
  since: string;
  until: string | null;
  account: string;
  reason: string;
  offered: string;
  free: number;
  waiting: number;
  condition: string;
  wording: string;
  wording_at: string;
  slots: number;
}
export interface ToolUse {
  id: string;
  name?: string;
  input?: Record<string, any>;
  is_error?: boolean | null;
}
export interface Void {
  seq: number;
  type: string;
  reason: string;
}
export interface Wait {
  tier: "complex" | "standard" | "trivial";
  since: string;
  waited_s: number;
  outcome: "avoided" | "taken";
}
export interface WhatIfAnswer {
  seq: number;
  from_seq: number;
  to_seq: number;
  policy_version: number;
  differences: Array<string>;
  decisions: number;
  reproduced: number;
  not_reproduced: number;
  changed: Record<string, number>;
  fallbacks: number;
  fallbacks_then: number;
  waited_s: number;
  waited_s_then: number;
  cost_usd: number;
  cost_usd_then: number;
  estimated_cost_usd: number;
  estimated_cost_usd_then: number;
  estimated_decisions: number;
  unknown_dollars: number;
  by_place: Record<string, number>;
  by_place_then: Record<string, number>;
  stays: Record<string, number>;
  changes: Array<Changed>;
  changes_left_out: number;
  said: Array<string>;
  tier_changes: number;
  passes: number;
  passes_then: number;
  passes_unknown: number;
}
