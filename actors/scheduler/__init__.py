"""The scheduler: decides which host runs which task, from the log and the hosts' beats.

Any number of scheduler processes fold the same log; the one that holds a lease leads and
decides, the others stand by. Every decision is an event, appended on condition that its
subject's last sequence is still the one that the decider saw. A leader's election is an
event too and raises the *epoch*; a decision of an older epoch is void when it is folded: it
changes nothing.

The words that are used here, each for one thing:

- A *task* belongs to a *tier*: trivial (a shell command), standard (a local model) or
  complex (Claude Code). Work of a fixed kind (agent, noop) is outside the tiers: the tier
  that it was classified as stands in its events, but no place is chosen by it.
- A *host* runs a sidecar. Each start of it has a new *incarnation*. Every few seconds it
  sends a *beat*, outside the log: its resources, and the runs that it has.
- A *lease* is what one has to renew to keep its part. A scheduler's is a key that expires;
  while it is *ours*, this process may lead (`lease`). A host's is counted by the leader
  alone: each beat renews it, and a host that was silent for all of it is *lost*.
- A *place* is where a task can run: a host's shell, agents or no-ops, or an *endpoint*
  (a model server, Claude Code) as called by a host. It has so many *slots*. Its *kind* is
  the word of the task's `executor`: `sidecar` (the host's shell), `local` (a model),
  `claude`, `agent` or `noop`.
- A *requirement* is what a place must be to take a task, with what the task may still try.
  A *pool* is the places that meet one, ranked by score; a *group* is the waiting tasks
  that have one, and its *head* is the one whose turn is next.
- A place is *open* to a task if it has a free slot, and *available* to it if it could run
  it with all slots free. A tier is *up* while it has an available place, else *down*; it
  is *absent* if no known host ever offered one. The time that it is down is an *outage*.
  While the account behind it (the provider's, for Claude Code) is *limited*, its places are
  available and not open.
- A *route* is one assignment of a task to a place: `task.routed` begins it, and its id is
  that event's. It is *in force* until its end is in the log. Each raises the task's
  *generation*, so that of two routes the later is known. A route that was started, or
  failed in a way that counts, is an *attempt*; so many are allowed, then comes the *dead
  letter*. A host or endpoint that failed on a task is *excluded* for it until it has come
  up anew, or until nothing else is left. What a task may not have at the moment is
  *barred*: what is excluded, and for a suspect the hosts of other suspects.
- A *lane* is a priority: urgent, high, normal, low. Who waits long moves up a lane at a time,
  it *ages*.
- A *hop* (a fallback) takes a task to another tier where its own has no place for it,
  after a wait. Each task hops once at most. From standard to complex it is an
  *escalation*, of which only so many may run at once, because they cost money.
- A group is *met* while its own pool has an available place, and *unmet* otherwise. It
  *starves* while none of the tiers that it may use has one. Only then does the time to
  live of its tasks run.
- A waiting task is *deferred* once the log says why it waits. One that waits for a time or
  for other tasks is *held*: it stands in no queue until it is *released*. (A run that a host
  *holds* is another thing: one that it has on its disk, and has not reported to its end.)
- A *schedule* has a task submitted at each of its planned times. Such a time is *fired*, or
  *skipped* where it was missed or the task before is not over.
- A *child* is a task that another task's run, its *parent*, has submitted. Of a parent that
  has children the slot is *lent*: to a child it counts as free.
- A *suspect* is a task that lost runs with their hosts, and may be what ends them.

Times are seconds of *log time* (`logtime`) where nothing else is said; a *step* puts the
wall clock forward or back beside it (the steps of a task are those of its life). In a *turn*
the role folds what has come, decides, and gives out what follows. *Mail* is what it sends
to a host.

Everywhere `state` is the `SchedulerState`, `lead` the `Leadership`, `live` a `LiveTask` and
`task` its own state, `live.task`. `look_at` is what a leader has to look at in its next
turn: groups in `SchedulerState`, tasks in `HeldTasks`.

Read them in this order: `logtime` (what durations are reckoned in), `outputs` (what comes
out), `queue`, `live`, `specs`, `places`, `fleet` (the parts of the state), `state` (the
fold; `hosts`, `tiers`, `held`, `families` and `schedules` have a part of it), `leadership`
(what only a leader remembers), then the deciders `schedules`, `held`, `families`,
`dispatch`, `expiry`, `returns`, `hosts`, `tiers`, and `mailing`; `decide` composes them, and
`role` gives that a log, a bus and a `lease`. `checkpoint` writes the state and reads it
again, `checkpoint_file` keeps it on disk. `metrics` counts what goes through the role's log.
"""
