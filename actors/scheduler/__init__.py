"""The scheduler: decides which host runs which task, from the log and the hosts' beats.

Any number of scheduler processes fold the same log; the one that holds a lease leads and
decides, the others stand by. Every decision is an event, appended on condition that the
subject it belongs to still stands where the decider saw it. A leader's election is an
event too and raises the *epoch*; a decision of an older epoch is void when it is folded.

The words that are used here, each for one thing:

- A *task* belongs to a *tier*: trivial (a shell command), standard (a local model) or
  complex (Claude Code). Work of a fixed kind (agent, noop) belongs to none.
- A *host* runs a sidecar. Each start of it has a new *incarnation*. Every few seconds it
  sends a *beat*, outside the log: its resources, and the runs that it holds.
- A *place* is where a task can run: a host's shell, agents or no-ops, or an *endpoint*
  (a model server, Claude Code) as called by a host. It has so many *slots*.
- A *requirement* is what a place must be to take a task. A *pool* is the places that meet
  one, ranked by score; a *group* is the waiting tasks that have one.
- A *route* is one assignment of a task to a place: `task.routed` begins it, and its id is
  that event's. Each raises the task's *generation*. A route that was started, or failed
  in a way that counts, is an *attempt*; so many are allowed, then comes the *dead letter*.
- A *hop* (a fallback) takes a task to another tier where its own has no place for it,
  after a wait. Each task hops once at most. From standard to complex it is an
  *escalation*, of which only so many may run at once, because they cost money.
- A group *starves* while none of the tiers that it may use has a place for it, not even
  one that is taken. Only then does the time to live of its tasks run.

Read them in this order: `outputs` (what comes out), `live`, `queue`, `places`, `fleet`
(the parts of the state), `state` (the fold), `leadership` (what only a leader remembers),
then the deciders `dispatch`, `expiry`, `returns`, `hosts`, `tiers`, and `mailing`;
`decide` composes them, and `role` gives that a log, a bus and a `lease`.
"""
