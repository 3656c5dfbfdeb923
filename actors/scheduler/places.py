"""Hosts, the places on them, and pools of places ranked for one requirement.

A *place* is where a task can run: a host's shell, its agents or no-ops, or an endpoint (a
model server, Claude Code) as called by a host. A *pool* holds, for one requirement, the
places that meet it ranked by score, and for all others the reason why not.
`actors.scheduler.fleet` keeps them up to date.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from actors.rules.models import usual_model
from actors.rules.repos import may_clone, plain_repo
from actors.rules.scoring import Inputs, candidate, factors, ranked, spread, worth
from events import catalogue as c
from events.beats import CLOCKS_KEPT
from events.models import model_named

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from actors.rules.policy import Policy
    from actors.scheduler.fleet import Fleet
    from actors.scheduler.queue import Requirement

SLOT_KINDS: Final = {"sidecar": "shell", "agent": "agent", "noop": "noop"}
"""Kind of place to the kind of slot a host offers for it; the rest are endpoints."""


_BARRED: Final[dict[c.ExclusionCode, str]] = {
    "failed": "failed on it before",
    "suspect": "runs another task that lost runs with its host",
}
"""Why a place is barred, as a decision records it."""

CLOCK_FINE_S: Final = 0.25
"""A host's clock that differs less from the scheduler's counts as the same."""

RIVALS_AFTER: Final = 3
RIVALS_FORGOTTEN_S: Final = 60.0
"""Two incarnations of a host are two processes at once if one was heard again behind the
other so often. That is forgotten when it was not so for so long."""


class Slots:
    """Room for so many runs at once.

    `in_flight` are taken by routes in force, as the log says. `reserved` are taken by
    routes that have been decided and not yet come back from the log. `lent` of those in
    flight count as free for a child task, see `actors.scheduler.families`.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.in_flight = 0
        self.reserved = 0
        self.lent = 0

    @property
    def free(self) -> int:
        """How many more would fit; never below 0."""
        free = self.total - self.in_flight - self.reserved
        return free if free > 0 else 0

    def free_to(self, required: Requirement) -> int:
        """How many more tasks of this requirement would fit; never below 0."""
        if not required.child:
            return self.free
        return max(0, self.total - self.in_flight + self.lent - self.reserved)


class Host:
    """One machine's sidecar, as it described itself and as its beats find it."""

    def __init__(self, name: str) -> None:
        self.name = name
        # Names one start of its process. Incarnations sort by age, and what an older one
        # says does not count.
        self.incarnation = ""
        # The ids of its last join, and of the last event it wrote since of itself ("") and
        # of each endpoint, see `events.lifecycle.heard_before`.
        self.joined_id = ""
        self.last_ids: dict[str, str] = {}
        # Routes it had on its disk when it joined, and the phase of each ("accepted" is
        # not begun yet).
        self.runs: dict[str, str] = {}
        # It has joined and not left.
        self.present = False
        # It was silent for its whole lease.
        self.lost = False
        # It has said that it takes no more work.
        self.draining = False
        # Its places: by kind what it runs itself, by name the endpoints that it calls.
        self.own_places: dict[str, Place] = {}
        self.endpoints: dict[str, Place] = {}
        # Its room, by kind of slot ("shell") or as "endpoint:<name>". It outlives the
        # places, because routes in force may hold slots where a place is gone.
        self.slots: dict[str, Slots] = {}
        # What it says it can do (a task's `needs`), and the repositories it has.
        self.capabilities: frozenset[str] = frozenset()
        self.repos: frozenset[str] = frozenset()
        # The same in the one form of their URLs, and what it may clone.
        self.plain_repos: frozenset[str] = frozenset()
        self.clones: tuple[str, ...] = ()
        # Whether it runs verification steps; an earlier version would pass them over.
        self.verifies = False
        # What its last beat said, memory in bytes, cpu 0 to 1; None while unknown.
        self.ram_bytes: int | None = None
        self.cpu: float | None = None
        self.vram_total: int | None = None
        self.vram_free: int | None = None
        # When it was last heard of (log time).
        self.last_beat = 0.0
        # How often this incarnation beats, as its last beat said; 0: it has not said.
        self.beat_interval_s = 0.0
        # Why it can take no work, as its last beat said, "" where it can; and since when
        # it has had some fault, or none.
        self.fault = ""
        self.fault_since = 0.0
        # How far its clock was ahead of the scheduler's with each of its last beats, as
        # they came in.
        self.clocks: deque[float] = deque(maxlen=CLOCKS_KEPT)
        # Alerts about it that are active in the log, by code: since when.
        self.alerts: dict[str, float] = {}
        # Where in the log each of its last incarnations joined first. Those whose beats came
        # last, the latest behind; how often one came back behind another (which a process
        # that is gone never does), and when that was last so.
        self.joins: dict[str, int] = {}
        self.heard: list[str] = []
        self.swaps = 0
        self.swapped_at = 0.0
        # Routes that the log has here and its beats do not name: how many beats in a row.
        self.missing: dict[str, int] = {}

    @property
    def clock_ahead_s(self) -> float:
        """How far its clock is ahead of the scheduler's; 0.0 where that is too little.

        What a message took on its way makes a clock look behind: the fastest counts.
        """
        ahead_s = max(self.clocks, default=0.0)
        return ahead_s if abs(ahead_s) >= CLOCK_FINE_S else 0.0

    @property
    def live(self) -> bool:
        """Whether it is here and not lost."""
        return self.present and not self.lost

    def hear(self, incarnation: str, now: float) -> str:
        """Note whose beat came; return who is to leave where two processes are this host.

        That is whoever joined later.
        """
        if now - self.swapped_at >= RIVALS_FORGOTTEN_S:
            self.swaps = 0
        if self.heard and incarnation != self.heard[-1]:
            if incarnation in self.heard:
                self.heard.remove(incarnation)
                self.swaps += 1
                self.swapped_at = now
            del self.heard[:-3]
            self.heard.append(incarnation)
        elif not self.heard:
            self.heard.append(incarnation)
        if self.swaps < RIVALS_AFTER:
            return ""
        # One whose join is not known counts as the later.
        return max(self.heard[-2:], key=lambda one: self.joins.get(one, 1 << 62))

    def may_work_on(self, repo: str) -> bool:
        """Whether it has a checkout of a repository, or may make one."""
        return plain_repo(repo) in self.plain_repos or may_clone(repo, self.clones)

    def places(self) -> Iterator[Place]:
        """Every place on this host."""
        yield from self.own_places.values()
        yield from self.endpoints.values()


class Place:
    """Where a task can run.

    `kind` is as in `actors.scheduler`: sidecar, local, claude, agent or noop.
    `endpoint` is the endpoint's name, "" for what the host runs itself; `endpoint_kind`
    the program that answers there (ollama, openai, claude). `models` are those it has,
    `loaded` those of them in memory, named as the server writes them. `reason` says why it
    is down, `notice` that its program has announced the end of its model. A `shared`
    endpoint is called by several hosts: each has a place of its own, and all of these have
    one `slots`. `name` is `endpoint@host`, or the host alone for what that runs itself.
    """

    def __init__(self, host: Host, kind: str, endpoint: str, slots: Slots) -> None:
        self.host = host
        self.kind = kind
        self.endpoint = endpoint
        self.name = f"{endpoint}@{host.name}" if endpoint else host.name
        self.endpoint_kind: c.EndpointKind | None = None
        self.slots = slots
        self.up = True
        self.reason = ""
        self.notice = ""
        self.url = ""
        self.models: tuple[str, ...] = ()
        self.loaded: frozenset[str] = frozenset()
        self.simulated = False
        self.shared = False
        # As in `EndpointState`; empty where nobody says.
        self.capabilities: frozenset[str] = frozenset()
        self.model_capabilities: dict[str, list[str]] = {}
        self.context_tokens: dict[str, int] = {}
        self.embedders: tuple[str, ...] = ()

    def is_in(self, barred: Collection[str]) -> bool:
        """Whether it is barred: by its endpoint, its host, or the two together."""
        return (
            self.name in barred
            or self.host.name in barred
            or (bool(self.endpoint) and self.endpoint in barred)
        )

    def barred_as(
        self, barred: Mapping[str, c.ExclusionCode]
    ) -> c.ExclusionCode | None:
        """Return why it is barred, None where it is not.

        What is said of the place goes before what is said of its host.
        """
        names = (self.name, self.endpoint or self.name, self.host.name)
        return next((barred[name] for name in names if name in barred), None)

    def model_for(
        self, required: Requirement, policy: Policy
    ) -> tuple[str | None, str]:
        """Return the model it would run, "" where none is needed; None with the reason
        where it has none that meets the requirement."""
        if self.kind == "claude":
            return required.model or policy.claude_model, ""
        if self.kind != "local":
            return "", ""
        if required.work and "hands" not in self.capabilities:
            served = "messages" in self.capabilities
            lacks = "Claude Code on its host" if served else "the Messages API"
            return None, f"no hands: lacks {lacks}"
        if required.choice and self.endpoint_kind != "openai":
            return None, "cannot be told which tool to call"
        models, named = self.models, required.model
        if required.embeds:
            able = (*self.embedders, *models)
            exact = model_named(named, self.endpoint_kind, able)
            return exact, "" if exact is not None else f"does not have {named}"
        if named:
            exact = model_named(named, self.endpoint_kind, models)
            if exact is None:
                return None, f"does not have {named}"
            models = (exact,)
        if not models and not self.loaded:
            return None, "has no model"
        for word, can in (("tools", "call tools"), ("vision", "see pictures")):
            needed = (
                required.work or required.tools if word == "tools" else required.vision
            )
            if needed and models:
                models = tuple(name for name in models if self._can(name, word))
                if not models:
                    return (
                        None,
                        f"{named or 'none of its models'} can{'not' if named else ''} {can}",
                    )
        if required.context and models:
            largest = max(self.context_tokens.get(name, 0) for name in models)
            models = tuple(
                name for name in models if self._reads(name, required.context)
            )
            if not models:
                return None, (
                    f"its context of {largest:,} tokens is less than the "
                    f"{required.context:,} it takes"
                )
        if named:
            return models[0], ""
        loaded = self.loaded
        if models != self.models:
            loaded &= frozenset(models)
        return usual_model(self.endpoint_kind, models, loaded, policy), ""

    def _can(self, model: str, word: str) -> bool:
        return word in self.model_capabilities.get(model, self.capabilities)

    def _reads(self, model: str, tokens: int) -> bool:
        """Whether a model's context holds so many tokens; an unknown one is believed to."""
        return self.context_tokens.get(model, tokens) >= tokens


class Pool:
    """For one requirement: who could take it now, best first, and why others cannot.

    What is known of an open place is kept until something about it moves: a decision then
    looks at the first few ranks and makes nothing anew but what has moved since the last.
    """

    def __init__(self, fleet: Fleet, required: Requirement) -> None:
        self._fleet = fleet
        self.requirement = required
        self._local = required.kind == "local"
        # The open places by rank, (-score, in flight), their names sorted; and the ranks
        # there are, the best first. Affinity (a task goes where its repository is) is not
        # in these scores: it differs from task to task.
        self._ranks: dict[tuple[float, int], list[str]] = {}
        self._order: list[tuple[float, int]] = []
        self.places: dict[str, Place] = {}
        # Of each open place: its rank, its score with all slots free, and itself as a
        # decision records it.
        self._keys: dict[str, tuple[float, int]] = {}
        self._worth: dict[str, float] = {}
        self._candidates: dict[str, c.Candidate] = {}
        # What each place would run, "" without a model.
        self._models: dict[str, str] = {}
        # Why each other place cannot take it now, and how often each reason occurs. And
        # what `left_out` answers where nothing is barred, None until one asks.
        self.reasons: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self._out: tuple[dict[str, int], list[c.Excluded]] | None = None
        # The available ones: they could run it if all their slots were free, and no limit of
        # the account and no pause of the host held.
        self._available: set[str] = set()

    @property
    def available(self) -> int:
        """How many places could run it if all their slots were free."""
        return len(self._available)

    @property
    def open(self) -> int:
        """How many places could take it now."""
        return len(self._keys)

    def update(self, place: Place) -> bool:
        """Look at a place again; True if a task could go there that could not before."""
        name = place.name
        could = name in self._keys
        self.forget(name)
        self.places[name] = place
        reason, available = self._why_not(place)
        if available:
            self._available.add(name)
        if reason is not None:
            self.reasons[name] = reason
            self.counts[reason] += 1
            self._out = None
            return False
        inputs, scoring = self._inputs(place, repo=None), self._fleet.policy.scoring
        self._worth[name] = worth(factors(inputs, scoring, local_model=self._local))
        self._rank(place)
        return not could

    def slots_moved(self, place: Place) -> bool:
        """`update` for a place of which nothing but the slots has moved."""
        name = place.name
        if name not in self._worth or place.slots.free_to(self.requirement) < 1:
            return self.update(place)
        self._unrank(name)
        self._rank(place)
        return False

    def forget(self, name: str) -> None:
        """Drop a place that is no more, or is about to be looked at again."""
        if name in self._keys:
            self._unrank(name)
            del self._worth[name]
        reason = self.reasons.pop(name, None)
        if reason is not None:
            self._out = None
            self.counts[reason] -= 1
            if self.counts[reason] <= 0:
                del self.counts[reason]
        self._available.discard(name)
        self.places.pop(name, None)

    def _rank(self, place: Place) -> None:
        name, slots = place.name, place.slots
        free = slots.free_to(self.requirement)
        key = (-self._worth[name] * (free / slots.total), slots.total - free)
        self._keys[name] = key
        equals = self._ranks.get(key)
        if equals is None:
            self._ranks[key] = [name]
            insort(self._order, key)
        else:
            insort(equals, name)

    def _unrank(self, name: str) -> None:
        key = self._keys.pop(name)
        self._candidates.pop(name, None)
        equals = self._ranks[key]
        if len(equals) > 1:
            del equals[bisect_left(equals, name)]
        else:
            del self._ranks[key]
            del self._order[bisect_left(self._order, key)]

    def _why_not(self, place: Place) -> tuple[str | None, bool]:
        """Return why a task cannot go there now (None if it can), and whether only
        slots or a limit stand in the way."""
        required, host = self.requirement, place.host
        if not host.present:
            return "host left", False
        if host.lost:
            return "host lost", False
        if not place.up:
            return f"endpoint down: {place.reason or 'no reason given'}", False
        if any(need not in host.capabilities for need in required.needs):
            missing = [n for n in required.needs if n not in host.capabilities]
            return f"lacks {', '.join(missing)}", False
        if required.repo and not host.may_work_on(required.repo):
            return f"has no checkout of {required.repo[:200]}", False
        if required.verifies and not host.verifies:
            return "runs no verification steps", False
        model, lacks = place.model_for(required, self._fleet.policy)
        if model is None:
            return lacks, False
        self._models[place.name] = model
        if host.draining:
            return "draining", False
        if host.fault:
            return host.fault, False
        if self._fleet.limited_until.get(place.kind, 0.0) > self._fleet.now:
            return "limited", True
        if place.slots.total < 1:
            return "offers no slot", False
        if self._fleet.paused(host.name):
            return "refused as busy a moment ago", True
        if place.slots.free_to(required) < 1:
            return "no free slot", True
        return None, True

    def _inputs(self, place: Place, repo: str | None) -> Inputs:
        host = place.host
        model = self._models.get(place.name, "")
        # The caller's graphics memory says nothing of a model server elsewhere.
        own_model = self._local and not place.shared
        return Inputs(
            host=host.name,
            endpoint=place.endpoint,
            model=model,
            cpu=host.cpu,
            ram_bytes=host.ram_bytes,
            vram_total_bytes=host.vram_total if own_model else None,
            vram_free_bytes=host.vram_free if own_model else None,
            loaded=model in place.loaded,
            has_repo=repo is not None and self._fleet.has_repo(host, repo),
            slots_free=place.slots.free_to(self.requirement),
            slots_total=place.slots.total,
        )

    def _candidate(self, place: Place, repo: str | None) -> c.Candidate:
        """Return a place as a decision records it."""
        inputs, scoring = self._inputs(place, repo), self._fleet.policy.scoring
        return candidate(inputs, scoring, local_model=self._local)

    def open_to(self, barred: Collection[str]) -> bool:
        """Whether a place with a free slot is left after the barred."""
        if not barred:
            return bool(self._keys)
        return any(not self.places[name].is_in(barred) for name in self._keys)

    def available_to(self, barred: Collection[str]) -> bool:
        """Whether a place could run it with all slots free, the barred apart."""
        if not barred:
            return bool(self._available)
        return any(not self.places[name].is_in(barred) for name in self._available)

    def best(
        self, task_id: str, repo: str | None, barred: Collection[str]
    ) -> list[c.Candidate]:
        """Return the best candidates for a task, best first, with all their inputs.

        Among equals the task's id says who comes first, and so who is chosen.
        """
        most = self._fleet.policy.recorded_candidates
        known = self._candidates
        names = self._first(task_id, most, barred)
        best = [known.get(name) or self._recorded(name) for name in names]
        near = self._near(repo, barred) if repo is not None else []
        if not near:
            return best
        # Only affinity can lift a place above these.
        candidates = dict(zip(names, best, strict=True))
        for place in near:
            candidates[place.name] = self._candidate(place, repo)
        return ranked(candidates.values())[:most]

    def _first(self, task_id: str, most: int, barred: Collection[str]) -> list[str]:
        """Name the first places of the ranking; of equals, from where the task begins."""
        names: list[str] = []
        for key in self._order:
            equals, room = self._ranks[key], most - len(names)
            if barred:
                equals = [e for e in equals if not self.places[e].is_in(barred)]
            if len(equals) > 1:
                start = spread(task_id) % len(equals)
                equals = equals[start : start + room] + equals[: min(start, room)]
            names += equals[:room]
            if len(names) == most:
                break
        return names

    def _recorded(self, name: str) -> c.Candidate:
        """Return a place as a decision records it, and keep that until it moves."""
        one = self._candidates[name] = self._candidate(self.places[name], None)
        return one

    def _near(self, repo: str, barred: Collection[str]) -> list[Place]:
        """Return the open places on hosts with affinity to a repository."""
        return [
            place
            for host in self._fleet.hosts_with_repo(repo)
            for place in host.places()
            if place.name in self._keys and not place.is_in(barred)
        ]

    def place(self, chosen: c.Candidate) -> Place:
        """Return the place a candidate stands for."""
        name = f"{chosen.endpoint}@{chosen.host}" if chosen.endpoint else chosen.host
        return self.places[name]

    def left_out(
        self, barred: Mapping[str, c.ExclusionCode], most: int
    ) -> tuple[dict[str, int], list[c.Excluded]]:
        """Return why places are out, as counts, and by name where they are few."""
        if barred:
            return self._left_out(barred, most)
        if self._out is None:
            self._out = self._left_out({}, most)
        return self._out

    def _left_out(
        self, barred: Mapping[str, c.ExclusionCode], most: int
    ) -> tuple[dict[str, int], list[c.Excluded]]:
        counts = Counter(self.counts)
        out: list[c.Excluded] = []
        if len(self.reasons) <= most:
            out = [c.Excluded(name, reason) for name, reason in self.reasons.items()]
        if barred:
            for name in self._keys:
                code = self.places[name].barred_as(barred)
                if code is not None:
                    counts[_BARRED[code]] += 1
                    out.append(c.Excluded(name, _BARRED[code], code))
        few = sum(counts.values()) <= most
        return dict(counts), (sorted(out, key=lambda e: e.name) if few else [])
