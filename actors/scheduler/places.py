"""The fleet as the scheduler knows it: hosts, endpoints, places, and ranked pools.

A *place* is where a task can run: a host's shell, its Claude Code, its agents, or a model
endpoint as called by a host. A *pool* holds, for one requirement, the places that meet it
ranked by score, and for all others the reason why not. Pools are kept incrementally: an
event or a beat touches one host's places in the few pools they belong to, so choosing for
a task looks at the best few places and scans nothing.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Final

from sortedcontainers import SortedList

from actors.rules.models import normal_model, usual_model
from actors.rules.scoring import Inputs, candidate, factors, product, ranked, spread
from events.catalogue import Excluded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from actors.rules.policy import Policy
    from actors.scheduler.queue import Requirement
    from events import catalogue as c

SLOT_KINDS: Final = {"sidecar": "shell", "agent": "agent", "noop": "noop"}
"""Kind of place to the kind of slot a host offers for it; the rest are endpoints."""

LOOK_AT: Final = 64
"""At most so many hosts with affinity are compared for one task beside the best ranked."""


class Slots:
    """Room for so many at once. `reserved` are decided but not yet read back."""

    __slots__ = ("in_flight", "reserved", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self.in_flight = 0
        self.reserved = 0

    @property
    def free(self) -> int:
        """How many more would fit; never below 0."""
        return max(0, self.total - self.in_flight - self.reserved)


class Host:
    """One machine's sidecar, in one of its lives."""

    __slots__ = (
        "beat_interval_s",
        "capabilities",
        "cpu",
        "default_repo",
        "draining",
        "endpoints",
        "held",
        "incarnation",
        "kinds",
        "last_beat",
        "last_id",
        "lost",
        "missing",
        "name",
        "present",
        "ram_bytes",
        "repos",
        "slots",
        "vram_free",
        "vram_total",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.incarnation = ""
        self.last_id = ""
        self.held: dict[str, str] = {}
        self.present = False
        self.lost = False
        self.draining = False
        self.kinds: dict[str, Place] = {}
        self.slots: dict[str, Slots] = {}
        self.endpoints: dict[str, Place] = {}
        self.capabilities: frozenset[str] = frozenset()
        self.repos: frozenset[str] = frozenset()
        self.default_repo: str | None = None
        self.ram_bytes: int | None = None
        self.cpu: float | None = None
        self.vram_total: int | None = None
        self.vram_free: int | None = None
        self.last_beat = 0.0
        self.beat_interval_s = 0.0
        """How often its incarnation beats, as its last beat said; 0: it has not said."""
        self.missing: dict[str, int] = {}

    @property
    def live(self) -> bool:
        """Whether it is here and has not been given up."""
        return self.present and not self.lost

    def places(self) -> Iterator[Place]:
        """Every place on this host."""
        yield from self.kinds.values()
        yield from self.endpoints.values()


class Place:
    """Where a task can run. `endpoint` is "" for a host's own kinds of work."""

    __slots__ = (
        "endpoint",
        "endpoint_kind",
        "host",
        "kind",
        "loaded",
        "models",
        "reason",
        "shared",
        "simulated",
        "slots",
        "up",
        "url",
    )

    def __init__(self, host: Host, kind: str, endpoint: str, slots: Slots) -> None:
        self.host = host
        self.kind = kind
        self.endpoint = endpoint
        self.endpoint_kind: c.EndpointKind | None = None
        self.slots = slots
        self.up = True
        self.reason = ""
        self.url = ""
        self.models: tuple[str, ...] = ()
        self.loaded: frozenset[str] = frozenset()
        self.simulated = False
        self.shared = False

    @property
    def name(self) -> str:
        """`endpoint@host`, or the host alone: unique over the fleet."""
        return f"{self.endpoint}@{self.host.name}" if self.endpoint else self.host.name

    def model_for(self, wanted: str, policy: Policy) -> str | None:
        """Return the model it would run, "" where none is needed, None if it lacks it."""
        if self.kind == "claude":
            return wanted or policy.claude_model
        if self.kind != "local":
            return ""
        if wanted:
            named = normal_model(wanted)
            return named if named in self.models else None
        return usual_model(self.models, self.loaded, policy)


class Pool:
    """For one requirement: who could take it now, best first, and why others cannot."""

    def __init__(self, fleet: Fleet, required: Requirement) -> None:
        self._fleet = fleet
        self.requirement = required
        # (-score, in flight, name): the best is first.
        self.ranking: SortedList[tuple[float, int, str]] = SortedList()
        self.places: dict[str, Place] = {}
        self._keys: dict[str, tuple[float, int, str]] = {}
        self._models: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self._available: set[str] = set()
        self.waiting_for_slot = 0

    @property
    def available(self) -> int:
        """How many places could run it if all their slots were free."""
        return len(self._available)

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
            return False
        inputs = self._inputs(place, repo=None)
        key = (
            -product(factors(inputs, self._fleet.policy.scoring)),
            inputs.slots_total - inputs.slots_free,
            name,
        )
        self._keys[name] = key
        self.ranking.add(key)
        return not could

    def forget(self, name: str) -> None:
        """Drop a place that is no more, or is about to be looked at again."""
        key = self._keys.pop(name, None)
        if key is not None:
            self.ranking.remove(key)
        reason = self.reasons.pop(name, None)
        if reason is not None:
            self.counts[reason] -= 1
            if self.counts[reason] <= 0:
                del self.counts[reason]
        self._available.discard(name)
        self.places.pop(name, None)

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
        model = place.model_for(required.model, self._fleet.policy)
        if model is None:
            wanted = required.model
            return (f"does not have {wanted}" if wanted else "has no model"), False
        self._models[place.name] = model
        if host.draining:
            return "draining", False
        if self._fleet.limited_until.get(place.kind, 0.0) > self._fleet.now:
            return "limited", True
        if place.slots.total < 1:
            return "offers no slot", False
        if self._fleet.paused(host.name):
            return "refused as busy a moment ago", True
        if place.slots.free < 1:
            return "no free slot", True
        return None, True

    def _inputs(self, place: Place, repo: str | None) -> Inputs:
        host = place.host
        model = self._models.get(place.name, "")
        # The caller's graphics memory says nothing of a model server elsewhere.
        own_model = place.kind == "local" and not place.shared
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
            slots_free=place.slots.free,
            slots_total=place.slots.total,
            local_model=place.kind == "local",
        )

    def open_to(self, excluded: tuple[str, ...]) -> bool:
        """Whether a place with a free slot is left after the excluded."""
        if not excluded:
            return bool(self.ranking)
        return any(
            not self._fleet.is_excluded(self.places[name], excluded)
            for _, _, name in self.ranking
        )

    def available_to(self, excluded: tuple[str, ...]) -> int:
        """How many places could run it with all slots free, the excluded apart."""
        if not excluded:
            return len(self._available)
        return sum(
            not self._fleet.is_excluded(self.places[name], excluded)
            for name in self._available
        )

    def best(
        self, task_id: str, repo: str | None, excluded: tuple[str, ...]
    ) -> list[c.Candidate]:
        """Return the best candidates for a task, best first, with all their inputs."""
        names = dict.fromkeys(self._window(task_id))
        if excluded:
            # The best may be just those it may not go to: go down the ranking past them.
            allowed = (
                name
                for _, _, name in self.ranking
                if not self._fleet.is_excluded(self.places[name], excluded)
            )
            most = self._fleet.policy.recorded_candidates
            names = dict.fromkeys(islice(allowed, most))
        if repo is not None:
            for host in self._fleet.hosts_with_repo(repo):
                for place in host.places():
                    if place.name in self._keys:
                        names.setdefault(place.name)
        scoring = self._fleet.policy.scoring
        found = [
            candidate(self._inputs(self.places[name], repo), scoring)
            for name in names
            if not (excluded and self._fleet.is_excluded(self.places[name], excluded))
        ]
        return ranked(task_id, found)[: self._fleet.policy.recorded_candidates]

    def _window(self, task_id: str) -> Iterable[str]:
        """The first places of the ranking; among too many equals, a part by hash.

        Only affinity can lift a place above these, and who has it is looked at beside.
        """
        ranking = self.ranking
        most = self._fleet.policy.recorded_candidates
        if len(ranking) <= most:
            return [name for _, _, name in ranking]
        last = ranking[most - 1]
        first_equal = ranking.bisect_left((last[0], last[1], ""))
        past_equal = ranking.bisect_right((last[0], last[1], "\U0010ffff"))
        names = [ranking[i][2] for i in range(first_equal)]
        equals = past_equal - first_equal
        offset = spread(task_id, "") % equals
        return names + [
            ranking[first_equal + (offset + i) % equals][2]
            for i in range(most - first_equal)
        ]

    def place(self, chosen: c.Candidate) -> Place:
        """Return the place a candidate stands for."""
        name = f"{chosen.endpoint}@{chosen.host}" if chosen.endpoint else chosen.host
        return self.places[name]

    def excluded_for(
        self, excluded: tuple[str, ...], most: int
    ) -> tuple[dict[str, int], list[Excluded]]:
        """Return why places are out, as counts, and by name where they are few."""
        counts = Counter(self.counts)
        out = (
            [Excluded(name, reason) for name, reason in self.reasons.items()]
            if (len(self.reasons) <= most)
            else []
        )
        if excluded:
            for name in list(self._keys):
                if self._fleet.is_excluded(self.places[name], excluded):
                    counts["failed on it before"] += 1
                    out.append(Excluded(name, "failed on it before"))
        few = sum(counts.values()) <= most
        return dict(counts), (sorted(out, key=lambda e: e.name) if few else [])


class Fleet:
    """All hosts and endpoints, and the pools over them."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.now = 0.0
        self.hosts: dict[str, Host] = {}
        self.limited_until: dict[str, float] = {}
        self._pools: dict[Requirement, Pool] = {}
        self._pools_by_kind: dict[str, dict[Requirement, Pool]] = {}
        self._pools_by_host: dict[str, dict[Requirement, Pool]] = {}
        self._by_repo: dict[str, set[str]] = {}
        self._last_on_repo: dict[str, str] = {}
        self._offered: set[str] = set()
        self._shared_slots: dict[str, Slots] = {}
        self._up_seq: dict[str, int] = {}
        self._paused: dict[str, float] = {}
        # Requirements that a place opened for, and kinds whose availability may differ:
        # the scheduler takes them from here.
        self.opened: set[Requirement] = set()
        self.changed_kinds: set[str] = set()

    # -- events and beats --------------------------------------------------------------

    def host(self, name: str) -> Host:
        """Return a host, made known if it was not."""
        host = self.hosts.get(name)
        if host is None:
            host = self.hosts[name] = Host(name)
        return host

    def joined(self, event: c.HostJoined, seq: int, now: float) -> None:
        """A host begins a life: what it said before no longer holds."""
        host = self.host(event.host)
        for place in list(host.places()):
            self._drop(place)
        host.incarnation = event.incarnation
        host.held = {one.route: one.phase for one in event.held}
        host.present = True
        host.lost = False
        host.draining = event.draining
        host.capabilities = frozenset(event.capabilities)
        host.repos = frozenset(event.repos)
        host.default_repo = event.default_repo
        host.ram_bytes = event.ram_bytes
        host.cpu = host.vram_total = host.vram_free = None
        host.last_beat = now
        host.beat_interval_s = 0.0
        host.missing.clear()
        for names in self._by_repo.values():
            names.discard(host.name)
        for repo in event.repos:
            self._by_repo.setdefault(repo, set()).add(host.name)
        for kind, slot in SLOT_KINDS.items():
            total = event.slots.get(slot, 0)
            slots = host.slots.setdefault(slot, Slots(total))
            slots.total = total
            if total or kind == "sidecar":
                host.kinds[kind] = Place(host, kind, "", slots)
        self._offered.update(host.kinds)
        self._up_seq[host.name] = seq
        for state in event.endpoints:
            self.endpoint_seen(event.host, state, seq)
        self.touch(host)

    def left(self, name: str) -> None:
        """A host ended in good order."""
        host = self.host(name)
        host.present = False
        self.touch(host)

    def gave_up(self, name: str) -> None:
        """A host's lease has run out."""
        host = self.host(name)
        host.lost = True
        host.cpu = host.vram_total = host.vram_free = None
        self.touch(host)

    def recovered(self, name: str, seq: int, now: float) -> None:
        """A host that was given up lives on."""
        host = self.host(name)
        host.lost = False
        host.last_beat = now
        self._up_seq[name] = seq
        self.touch(host)

    def draining(self, name: str, draining: bool) -> None:
        """A host takes no more work, or takes work again."""
        host = self.host(name)
        host.draining = draining
        self.touch(host)

    def endpoint_seen(self, name: str, state: c.EndpointState, seq: int) -> None:
        """An endpoint as its host reports it: up, down, or changed."""
        host = self.host(name)
        place = host.endpoints.get(state.endpoint)
        kind = "claude" if state.kind == "claude" else "local"
        if place is None or place.kind != kind:
            place = Place(host, kind, state.endpoint, self._endpoint_slots(host, state))
            host.endpoints[state.endpoint] = place
        place.shared = state.shared
        place.endpoint_kind = state.kind
        place.slots.total = state.slots
        if state.up and (not place.up or state.endpoint not in self._up_seq):
            self._up_seq[state.endpoint] = seq
        if state.up:
            self._offered.add(kind)
        place.up = state.up
        place.reason = state.reason
        place.url = state.url
        place.models = tuple(normal_model(m) for m in state.models)
        place.loaded = frozenset(normal_model(m) for m in state.loaded)
        place.simulated = state.simulated
        self._touch_place(place)

    def _endpoint_slots(self, host: Host, state: c.EndpointState) -> Slots:
        """An endpoint that several hosts may call has one set of slots for all."""
        if not state.shared:
            name = f"endpoint:{state.endpoint}"
            return host.slots.setdefault(name, Slots(0))
        slots = self._shared_slots.setdefault(state.endpoint, Slots(0))
        host.slots[f"endpoint:{state.endpoint}"] = slots
        return slots

    def remove_endpoint(self, endpoint: str) -> None:
        """An operator took a shared endpoint away."""
        for host in self.hosts.values():
            place = host.endpoints.get(endpoint)
            if place is not None and place.shared:
                self._drop(place)

    def endpoint_down(self, name: str, endpoint: str, reason: str) -> None:
        """An endpoint does not answer."""
        place = self.host(name).endpoints.get(endpoint)
        if place is not None:
            place.up = False
            place.reason = reason
            place.loaded = frozenset()
            self._touch_place(place)

    def beat(self, beat: c.Beat, now: float) -> None:
        """Take in a host's resources; of another life's beat nothing is taken."""
        host = self.hosts.get(beat.host)
        if host is None or host.incarnation != beat.incarnation:
            return
        host.last_beat = now
        host.beat_interval_s = beat.interval_s
        resources = beat.resources
        total = sum(gpu.vram_total_bytes for gpu in resources.gpus)
        free = sum(gpu.vram_free_bytes for gpu in resources.gpus)
        cpu = None if resources.cpu is None else round(resources.cpu, 2)
        new = (cpu, resources.ram_total_bytes, total or None, free if total else None)
        if new != (host.cpu, host.ram_bytes, host.vram_total, host.vram_free):
            host.cpu, host.ram_bytes, host.vram_total, host.vram_free = new
            self.touch(host)

    def unconfirmed(self, host: Host) -> None:
        """Its resources are too old to be true: they are unknown."""
        if host.cpu is not None or host.vram_total is not None:
            host.cpu = host.vram_total = host.vram_free = None
            self.touch(host)

    def ran_on(self, repo: str, host: str) -> None:
        """Remember who was the last to run a task of this repository."""
        self._last_on_repo[repo] = host

    def pause(self, host: str, until: float) -> None:
        """A host refused for lack of room that we thought it had: not before then."""
        self._paused[host] = until
        self.touch(self.host(host))

    def resume_paused(self, now: float) -> None:
        """Offer to hosts again whose pause is over."""
        for host in [name for name, until in self._paused.items() if until <= now]:
            del self._paused[host]
            self.touch(self.host(host))

    def came_up_after(self, name: str, seq: int) -> bool:
        """Whether a host or endpoint has come up since that place in the log."""
        return self._up_seq.get(name, 0) > seq

    def limit(self, kind: str, until: float) -> None:
        """The account behind a kind of place is limited until then (epoch seconds)."""
        self.limited_until[kind] = until
        self.refresh(kind)

    def set_policy(self, policy: Policy) -> None:
        """Other numbers, other ranks."""
        self.policy = policy
        for kind in list(self._pools_by_kind):
            self.refresh(kind)

    # -- slots -------------------------------------------------------------------------

    def find(self, host: str, endpoint: str, kind: str) -> Place | None:
        """Return the place a route names, if it is known."""
        known = self.hosts.get(host)
        if known is None:
            return None
        return known.endpoints.get(endpoint) if endpoint else known.kinds.get(kind)

    def slots_of(self, host: str, endpoint: str, kind: str) -> Slots:
        """Return the slots a route occupies, also where its place is gone."""
        known = self.host(host)
        name = f"endpoint:{endpoint}" if endpoint else SLOT_KINDS.get(kind, kind)
        return known.slots.setdefault(name, Slots(0))

    def slots_changed(self, host: str, endpoint: str, kind: str) -> None:
        """Rank a place anew after its slots changed."""
        place = self.find(host, endpoint, kind)
        if place is None:
            return
        if not place.shared:
            self._rank(place)
            return
        for other in self.hosts.values():
            if endpoint in other.endpoints:
                self._rank(other.endpoints[endpoint])

    # -- pools -------------------------------------------------------------------------

    def pool(self, required: Requirement) -> Pool:
        """Return the pool of a requirement; its exclusions and history do not matter."""
        key = plain(required)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = Pool(self, key)
            if key.assign_to:
                self._pools_by_host.setdefault(key.assign_to, {})[key] = pool
                members = (
                    [self.hosts[key.assign_to]] if key.assign_to in self.hosts else []
                )
            else:
                self._pools_by_kind.setdefault(key.kind, {})[key] = pool
                members = list(self.hosts.values())
            for host in members:
                for place in host.places():
                    if place.kind == key.kind:
                        pool.update(place)
        return pool

    def release_pool(self, required: Requirement) -> None:
        """Forget a pool that nobody waits for; it is made again when asked for.

        Those of whole tiers stay: their state is watched.
        """
        key = plain(required)
        if key.assign_to or key.model or key.needs:
            self._pools.pop(key, None)
            self._pools_by_kind.get(key.kind, {}).pop(key, None)
            self._pools_by_host.get(key.assign_to, {}).pop(key, None)

    def touch(self, host: Host) -> None:
        """Rank all places of a host anew."""
        for place in list(host.places()):
            self._touch_place(place)

    def refresh(self, kind: str) -> None:
        """Rank all places of a kind anew."""
        for host in self.hosts.values():
            for place in list(host.places()):
                if place.kind == kind:
                    self._touch_place(place)

    def _touch_place(self, place: Place) -> None:
        self.changed_kinds.add(place.kind)
        self._rank(place)

    def _rank(self, place: Place) -> None:
        for pools in (
            self._pools_by_kind.get(place.kind),
            self._pools_by_host.get(place.host.name),
        ):
            for key, pool in (pools or {}).items():
                if key.kind != place.kind:
                    continue
                had = pool.available
                if pool.update(place) or pool.available < had:
                    # A place that is gone matters too: who counted on it may have to
                    # hop, to expire, or to try again what failed on it.
                    self.opened.add(key)

    def _drop(self, place: Place) -> None:
        for pools in (self._pools_by_kind, self._pools_by_host):
            for by_requirement in pools.values():
                for pool in by_requirement.values():
                    if (
                        place.name in pool.places
                        and pool.requirement.kind == place.kind
                    ):
                        pool.forget(place.name)
                        self.opened.add(pool.requirement)
        place.host.endpoints.pop(place.endpoint, None)
        place.host.kinds.pop(place.kind, None)
        self.changed_kinds.add(place.kind)

    # -- facts -------------------------------------------------------------------------

    def has_repo(self, host: Host, repo: str) -> bool:
        """Whether a host has a repository checked out or was the last to run it."""
        return repo in host.repos or self._last_on_repo.get(repo) == host.name

    def hosts_with_repo(self, repo: str) -> list[Host]:
        """Return hosts with affinity to a repository, at most LOOK_AT of them."""
        names = sorted(self._by_repo.get(repo, ()))[:LOOK_AT]
        last = self._last_on_repo.get(repo)
        if last is not None and last not in names:
            names.append(last)
        return [self.hosts[name] for name in names if name in self.hosts]

    def is_excluded(self, place: Place, excluded: tuple[str, ...]) -> bool:
        """Whether a task's exclusions cover a place, by endpoint, host or both."""
        return (
            place.name in excluded
            or place.host.name in excluded
            or (bool(place.endpoint) and place.endpoint in excluded)
        )

    def offered(self, kind: str) -> bool:
        """Whether any host ever offered this kind of place."""
        return kind in self._offered

    def paused(self, host: str) -> bool:
        """Whether a host refused work a moment ago."""
        return host in self._paused


def plain(required: Requirement) -> Requirement:
    """The part of a requirement that decides about places."""
    if not (required.excluded or required.hopped or required.shell):
        return required
    return type(required)(
        kind=required.kind,
        tier=required.tier,
        model=required.model,
        needs=required.needs,
        assign_to=required.assign_to,
    )
