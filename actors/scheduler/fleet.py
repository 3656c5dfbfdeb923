"""The fleet as the scheduler knows it: all hosts and endpoints, and the pools over them.

Pools are kept incrementally: an event or a beat touches one host's places in the few
pools they belong to, so choosing for a task looks at the best few places of a pool and
scans nothing.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from actors.rules.repos import plain_repo
from actors.scheduler.places import SLOT_KINDS, Host, Place, Pool, Slots
from actors.scheduler.queue import PLACE_KIND, Requirement
from events.models import listed_models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from actors.rules.policy import Policy
    from events import catalogue as c

NEAR_MOST: Final = 64
"""At most so many hosts with affinity are compared for one task beside the best ranked."""

REJECTED_PAUSE_S: Final = 0.5
MOST_PAUSE_S: Final = 120.0
"""A host that rejected a route is not offered more work for so long: asking again at once
would only fill the log. Each pause is twice the one before, up to the second number, until
the host has accepted a route."""

_OF_NO_MODEL: Final[dict[str, Any]] = {
    **dict.fromkeys(("work", "tools", "choice", "vision", "embeds"), False),
    "context": 0,
}
"""What a requirement says of a model endpoint, as it is of all other kinds of place."""
_WHOLE_TIER: Final = {
    tier: Requirement(kind=PLACE_KIND[tier], tier=tier) for tier in PLACE_KIND
}


class Fleet:
    """All hosts and endpoints, and the pools over them."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.now = 0.0
        self.hosts: dict[str, Host] = {}
        # Until when the account behind a kind of place is limited (log time).
        self.limited_until: dict[str, float] = {}
        # Every pool by its key (see `pool_key` below); and the same pools
        # by what can change them: those bound to a host under it, all others by kind.
        self._pools: dict[Requirement, Pool] = {}
        self._pools_by_kind: dict[str, dict[Requirement, Pool]] = {}
        self._pools_by_host: dict[str, dict[Requirement, Pool]] = {}
        # Affinity: hosts that have a repository checked out, and who last worked on it.
        self._by_repo: dict[str, set[str]] = {}
        self._last_on_repo: dict[str, str] = {}
        # Kinds of place that were ever offered: a tier without one is absent, not down.
        self._offered: set[str] = set()
        # The slots of endpoints that several hosts call.
        self._shared_slots: dict[str, Slots] = {}
        # Where in the log a host or endpoint last came up: exclusions from before are
        # lifted by it.
        self._up_seq: dict[str, int] = {}
        # Hosts that rejected a route a moment ago, and until when they are offered none;
        # and how long each one's last pause was.
        self._paused_until: dict[str, float] = {}
        self._last_pause_s: dict[str, float] = {}
        # For the scheduler to take from here: the keys of pools in which a place
        # has opened or gone, and kinds of place of which one has changed.
        self.changed_pools: set[Requirement] = set()
        self.changed_kinds: set[str] = set()

    # -- events and beats --------------------------------------------------------------

    def host(self, name: str) -> Host:
        """Return a host, made known if it was not."""
        host = self.hosts.get(name)
        if host is None:
            host = self.hosts[name] = Host(name)
        return host

    def has_joined(self, name: str) -> bool:
        """Whether a host of this name has joined and was not forgotten."""
        host = self.hosts.get(name)
        return host is not None and host.incarnation != ""

    def joined(self, event: c.HostJoined, seq: int, now: float) -> None:
        """A host begins anew: what it said before no longer holds."""
        host = self.host(event.host)
        for place in list(host.places()):
            self._drop(place)
        host.incarnation = event.incarnation
        host.runs = {one.route: one.phase for one in event.held}
        host.present = True
        host.lost = False
        host.draining = event.draining
        host.capabilities = frozenset(event.capabilities)
        host.repos = frozenset(event.repos)
        host.plain_repos = frozenset(map(plain_repo, event.repos))
        host.clones = tuple(event.clones)
        host.verifies = event.verifies
        host.ram_bytes = event.ram_bytes
        host.cpu = host.vram_total = host.vram_free = None
        host.last_beat = now
        host.beat_interval_s = 0.0
        host.fault, host.fault_since = "", now
        host.missing.clear()
        host.clocks.clear()
        for names in self._by_repo.values():
            names.discard(host.name)
        for repo in host.plain_repos:
            self._by_repo.setdefault(repo, set()).add(host.name)
        for kind, slot in SLOT_KINDS.items():
            total = event.slots.get(slot, 0)
            slots = host.slots.setdefault(slot, Slots(total))
            slots.total = total
            if total or kind == "sidecar":
                host.own_places[kind] = Place(host, kind, "", slots)
        self._offered.update(host.own_places)
        self._up_seq[host.name] = seq
        for state in event.endpoints:
            self.endpoint_seen(event.host, state, seq)
        self.touch(host)

    def left(self, name: str) -> None:
        """A host ended in good order."""
        host = self.host(name)
        host.present = False
        self.touch(host)

    def forget(self, name: str) -> None:
        """A host that is gone is as if it had never been; runs of it keep their slots.

        What nobody else offers is not set up any more, rather than down.
        """
        host = self.host(name)
        kinds = {place.kind for place in host.places()}
        for place in list(host.places()):
            self._drop(place)
        blank = self.hosts[name] = Host(name)
        blank.slots, blank.alerts = host.slots, host.alerts
        for names in self._by_repo.values():
            names.discard(name)
        others = {p.kind for other in self.hosts.values() for p in other.places()}
        self._offered -= kinds - others

    def lost(self, name: str) -> None:
        """A host was silent for its whole lease."""
        host = self.host(name)
        host.lost = True
        host.cpu = host.vram_total = host.vram_free = None
        self.touch(host)

    def recovered(self, name: str, seq: int, now: float) -> None:
        """A host that was lost is heard of again."""
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

    def endpoint_seen(self, name: str, seen: c.EndpointState, seq: int) -> None:
        """An endpoint as its host reports it: up, down, or changed."""
        host = self.host(name)
        place = host.endpoints.get(seen.endpoint)
        kind = "claude" if seen.kind == "claude" else "local"
        if place is None or place.kind != kind:
            place = Place(host, kind, seen.endpoint, self._endpoint_slots(host, seen))
            host.endpoints[seen.endpoint] = place
        place.shared = seen.shared
        place.endpoint_kind = seen.kind
        place.slots.total = seen.slots
        if seen.up and (not place.up or seen.endpoint not in self._up_seq):
            self._up_seq[seen.endpoint] = seq
        if seen.up:
            self._offered.add(kind)
        place.up = seen.up
        place.reason = seen.reason
        place.notice = seen.notice
        place.url = seen.url
        place.models = tuple(listed_models(seen.kind, seen.models))
        place.loaded = frozenset(listed_models(seen.kind, seen.loaded))
        place.simulated = seen.simulated
        place.capabilities = frozenset(seen.capabilities)
        place.model_capabilities = seen.model_capabilities
        place.context_tokens = seen.context_tokens
        place.embedders = tuple(listed_models(seen.kind, seen.embedders))
        self._touch_place(place)

    def _endpoint_slots(self, host: Host, seen: c.EndpointState) -> Slots:
        """An endpoint that several hosts may call has one set of slots for all."""
        if not seen.shared:
            name = f"endpoint:{seen.endpoint}"
            return host.slots.setdefault(name, Slots(0))
        slots = self._shared_slots.setdefault(seen.endpoint, Slots(0))
        host.slots[f"endpoint:{seen.endpoint}"] = slots
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
        """Take in a host's resources; of an older incarnation nothing is taken."""
        host = self.hosts.get(beat.host)
        if host is None or host.incarnation != beat.incarnation:
            return
        host.last_beat = now
        host.beat_interval_s = beat.interval_s
        if beat.fault != host.fault:
            if bool(beat.fault) != bool(host.fault):
                host.fault_since = now
            host.fault = beat.fault
            self.touch(host)
        resources = beat.resources
        total = sum(gpu.vram_total_bytes for gpu in resources.gpus)
        free = sum(gpu.vram_free_bytes for gpu in resources.gpus)
        cpu = None if resources.cpu is None else round(resources.cpu, 2)
        new = (cpu, resources.ram_total_bytes, total or None, free if total else None)
        if new != (host.cpu, host.ram_bytes, host.vram_total, host.vram_free):
            host.cpu, host.ram_bytes, host.vram_total, host.vram_free = new
            self.touch(host)

    def forget_resources(self, host: Host) -> None:
        """What its beats said of its resources is too old to be true: unknown again."""
        if host.cpu is not None or host.vram_total is not None:
            host.cpu = host.vram_total = host.vram_free = None
            self.touch(host)

    def ran_on(self, repo: str, host: str) -> None:
        """Remember who was the last to run a task of this repository."""
        self._last_on_repo[repo] = host

    def pause(self, host: str, now: float) -> float:
        """Offer no more work to a host that rejected some; return until when.

        What is rejected during a pause had been sent before it, and does not prolong it.
        """
        if host not in self._paused_until:
            pause = min(
                2 * self._last_pause_s.get(host, REJECTED_PAUSE_S / 2), MOST_PAUSE_S
            )
            self._last_pause_s[host] = pause
            self._paused_until[host] = now + pause
            self.touch(self.host(host))
        return self._paused_until[host]

    def accepted(self, host: str) -> None:
        """A host has accepted work: its next pause is the shortest again."""
        self._last_pause_s.pop(host, None)

    def resume_paused(self, now: float) -> None:
        """Offer to hosts again whose pause is over."""
        for host in [
            name for name, until in self._paused_until.items() if until <= now
        ]:
            del self._paused_until[host]
            self.touch(self.host(host))

    def came_up_after(self, name: str, seq: int) -> bool:
        """Whether a host or endpoint has come up since that place in the log."""
        return self._up_seq.get(name, 0) > seq

    def limit(self, kind: str, until: float) -> None:
        """The account behind a kind of place is limited until then (log time)."""
        self.limited_until[kind] = until
        self.refresh(kind)

    def set_policy(self, policy: Policy) -> None:
        """Go by another policy: the scores, and with them the ranks, change."""
        self.policy = policy
        for kind in list(self._pools_by_kind):
            self.refresh(kind)

    # -- slots -------------------------------------------------------------------------

    def find(self, host: str, endpoint: str, kind: str) -> Place | None:
        """Return the place a route names, if it is known."""
        of_host = self.hosts.get(host)
        if of_host is None:
            return None
        return (
            of_host.endpoints.get(endpoint)
            if endpoint
            else of_host.own_places.get(kind)
        )

    def slots_of(self, host: str, endpoint: str, kind: str) -> Slots:
        """Return the slots a route occupies, also where its place is gone."""
        name = f"endpoint:{endpoint}" if endpoint else SLOT_KINDS.get(kind, kind)
        return self.host(host).slots.setdefault(name, Slots(0))

    def slots_changed(self, host: str, endpoint: str, kind: str) -> None:
        """Rank a place anew after its slots changed."""
        place = self.find(host, endpoint, kind)
        if place is None:
            return
        if not place.shared:
            self._rank(place, Pool.slots_moved)
            return
        for other in self.hosts.values():
            if endpoint in other.endpoints:
                self._rank(other.endpoints[endpoint], Pool.slots_moved)

    # -- pools -------------------------------------------------------------------------

    def pool(self, required: Requirement) -> Pool:
        """Return the pool of a requirement; what the task may still try does not matter."""
        key = pool_key(required)
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

    def tier_pool(self, tier: c.Tier) -> Pool:
        """Return the pool of a whole tier: the tier is up where any is `available`."""
        return self.pool(_WHOLE_TIER[tier])

    def release_pool(self, required: Requirement) -> None:
        """Forget a pool that nobody waits for; it is made again when asked for.

        Those of whole tiers stay: their state is watched.
        """
        key = pool_key(required)
        if key != Requirement(kind=key.kind, tier=key.tier):
            self._pools.pop(key, None)
            self._pools_by_kind.get(key.kind, {}).pop(key, None)
            self._pools_by_host.get(key.assign_to, {}).pop(key, None)

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Forget at the end the pools that were made meanwhile, for a question alone."""
        before = len(self._pools)
        try:
            yield
        finally:
            made = islice(reversed(self._pools), len(self._pools) - before)
            for key in list(made):
                self.release_pool(key)

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

    def _rank(
        self, place: Place, look: Callable[[Pool, Place], bool] = Pool.update
    ) -> None:
        """Have every pool that has this place look at it again, by `look`."""
        for pools in (
            self._pools_by_kind.get(place.kind),
            self._pools_by_host.get(place.host.name),
        ):
            if not pools:
                continue
            for key, pool in pools.items():
                if key.kind != place.kind:
                    continue
                before = pool.available
                if look(pool, place) or pool.available < before:
                    # A place that is gone matters too: who counted on it may have to
                    # hop, to expire, or to try again what failed on it.
                    self.changed_pools.add(key)

    def _drop(self, place: Place) -> None:
        for pools in (self._pools_by_kind, self._pools_by_host):
            for by_requirement in pools.values():
                for pool in by_requirement.values():
                    if (
                        place.name in pool.places
                        and pool.requirement.kind == place.kind
                    ):
                        pool.forget(place.name)
                        self.changed_pools.add(pool.requirement)
        place.host.endpoints.pop(place.endpoint, None)
        place.host.own_places.pop(place.kind, None)
        self.changed_kinds.add(place.kind)

    # -- facts -------------------------------------------------------------------------

    def has_repo(self, host: Host, repo: str) -> bool:
        """Whether a host has a repository checked out or was the last to run it."""
        has = plain_repo(repo) in host.plain_repos
        return has or self._last_on_repo.get(repo) == host.name

    def hosts_with_repo(self, repo: str) -> list[Host]:
        """Return hosts with affinity to a repository, at most NEAR_MOST by checkout
        and the one that ran it last."""
        names = sorted(self._by_repo.get(plain_repo(repo), ()))[:NEAR_MOST]
        last = self._last_on_repo.get(repo)
        if last is not None and last not in names:
            names.append(last)
        return [self.hosts[name] for name in names if name in self.hosts]

    def offered(self, kind: str) -> bool:
        """Whether any host ever offered this kind of place."""
        return kind in self._offered

    def paused(self, host: str) -> bool:
        """Whether a host refused work a moment ago."""
        return host in self._paused_until


def pool_key(required: Requirement) -> Requirement:
    """Return a requirement without what the task may still try: pools go by the rest.

    What is asked of a model endpoint alone is left out of every other kind.
    """
    place = structs.replace(
        required,
        shell=False,
        chat=False,
        hopped=False,
        unverified=False,
        excluded=(),
        suspect=False,
    )
    return place if place.kind == "local" else structs.replace(place, **_OF_NO_MODEL)
