"""Laws of the pure core, held against random histories and against slower ways."""

from __future__ import annotations

import heapq
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from actors import lifecycle
from actors.lifecycle import Epochs
from actors.rules.policy import Policy
from actors.scheduler.fleet import Fleet
from actors.scheduler.queue import (
    LANES,
    Expiries,
    Group,
    Queue,
    Requirement,
    Waiting,
    rank_of,
)
from events import catalogue as c
from events import subjects
from events.codec import rfc3339
from events.lifecycle import FINAL, ON_HOST, TABLE
from tests.support.decisions import check
from tests.support.histories import plausible
from tests.support.world import START, World, claude, ollama

HOSTS = ("h1", "h2", "h3")

# -- a task's life ---------------------------------------------------------------------


def about_tasks(seed: int):
    """Return a random history: who led when, and each task's events, in the log's order."""
    epochs = Epochs()
    tasks: dict[str, list[c.Recorded]] = {}
    for recorded in plausible(seed, tasks=15, odd=0.2):
        if isinstance(recorded.event, c.SchedulerElected):
            epochs.observe(recorded.seq, recorded.event.epoch)
        parts = recorded.subject.split(".")
        if len(parts) > 3 and parts[2] in ("task", "run"):
            tasks.setdefault(parts[-1], []).append(recorded)
    return epochs, tasks


def steps(task_id: str, history: list[c.Recorded], epochs: Epochs):
    state = lifecycle.initial(task_id)
    for recorded in history:
        host = recorded.subject.split(".")[3] if ".run." in recorded.subject else ""
        before = state
        state, verdict = lifecycle.evolve(
            state, recorded, epoch=epochs.at(recorded.seq), host=host
        )
        yield before, recorded, state, verdict


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000))
def test_a_step_is_in_the_table_and_what_is_void_changes_nothing(seed):
    epochs, tasks = about_tasks(seed)
    for task_id, history in tasks.items():
        for before, recorded, after, verdict in steps(task_id, history, epochs):
            if verdict == "applied":
                step = (before.phase, type(recorded.event))
                assert TABLE[step] == after.phase
                continue
            stands = after.last_seq
            # A run that is no longer wanted was paid for all the same.
            assert after.spent_usd >= before.spent_usd
            assert before == structs.replace(
                after,
                last_seq=before.last_seq,
                spent_usd=before.spent_usd,
                unbilled=before.unbilled,
            )
            assert stands in (before.last_seq, recorded.seq)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000))
def test_generations_rise_attempts_do_not_fall_and_no_task_hops_twice(seed):
    epochs, tasks = about_tasks(seed)
    for task_id, history in tasks.items():
        hops = 0
        for before, recorded, after, verdict in steps(task_id, history, epochs):
            if verdict != "applied":
                continue
            if isinstance(recorded.event, c.TaskRouted):
                assert after.generation > before.generation
            else:
                assert after.generation == before.generation
            if isinstance(recorded.event, c.TaskRetried):
                assert after.attempts == 0
                hops = 0
            else:
                assert before.attempts <= after.attempts <= before.attempts + 1
            if isinstance(recorded.event, c.TaskRouted):
                assert before.phase == "waiting"
                hops += recorded.event.fallback_used
            assert (after.hopped_from is not None) == (hops > 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000))
def test_what_is_said_twice_counts_once(seed):
    epochs, tasks = about_tasks(seed)
    for task_id, history in tasks.items():
        once = lifecycle.fold(task_id, history, epochs)
        twice = [r for r in history for r in ([r, r] if ".run." in r.subject else [r])]
        assert lifecycle.fold(task_id, twice, epochs) == once


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000))
def test_at_most_one_result_counts_between_two_retries(seed):
    epochs, tasks = about_tasks(seed)
    for task_id, history in tasks.items():
        results = 0
        for _, recorded, _, verdict in steps(task_id, history, epochs):
            if verdict != "applied":
                continue
            if isinstance(recorded.event, c.TaskRetried):
                results = 0
            results += isinstance(recorded.event, c.TaskCompleted | c.TaskFailed)
            assert results <= 1


# -- the queue -------------------------------------------------------------------------

WANTED = [
    Requirement(kind="sidecar", tier="trivial"),
    Requirement(kind="local", tier="standard"),
    Requirement(kind="local", tier="standard", needs=("gpu",)),
]

tasks_waiting = st.lists(
    st.tuples(
        st.sampled_from(sorted(LANES.values())),
        st.sampled_from(WANTED),
        st.floats(0, 1_000),
    ),
    max_size=40,
)


@given(
    tasks_waiting,
    st.randoms(use_true_random=False),
    st.lists(
        st.tuples(st.floats(0, 400), st.sampled_from([60.0, 300.0, 1e9])), min_size=1
    ),
)
def test_a_groups_head_is_the_best_of_all_its_tasks(tasks, chance: Random, turns):
    queue = Queue()
    for seq, (lane, required, since) in enumerate(tasks, 1):
        queue.add(Waiting(f"t{seq}", seq, lane, since, required))
    now = 1_000.0
    for later, ageing in turns:
        now += later
        for group in list(queue.groups.values()):
            assert len(list(group)) == len(set(group)) == group.count
            best = min(group, key=lambda w: rank_of(w, now, ageing))
            assert group.head(now, ageing) is best
            if chance.random() < 0.5:
                queue.remove(best.task_id)
            elif chance.random() < 0.5:
                # It ran, and comes back: its wait begins anew, its place in the log stays.
                queue.add(
                    Waiting(best.task_id, best.seq, best.lane, now, group.requirement)
                )


@given(tasks_waiting, st.randoms(use_true_random=False), st.floats(1_000, 2_000))
def test_tasks_leave_their_lane_in_the_order_they_came_whatever_leaves_between(
    tasks, chance: Random, now
):
    queue = Queue()
    for seq, (lane, required, _) in enumerate(tasks, 1):
        queue.add(Waiting(f"t{seq}", seq, lane, now, required))
    left: dict[tuple[Requirement, int], int] = {}
    while len(queue):
        if chance.random() < 0.3:
            queue.remove(chance.choice(sorted(queue.tasks)))
            continue
        group = chance.choice(list(queue.groups.values()))
        head = group.head(now, 300)
        assert head is not None
        key = (head.requirement, head.lane)
        assert head.seq > left.get(key, 0)
        left[key] = head.seq
        queue.remove(head.task_id)
    assert queue.groups == {}


@given(tasks_waiting, st.randoms(use_true_random=False))
def test_groups_count_who_is_in_them(tasks, chance: Random):
    queue = Queue()
    waiting_in: dict[str, Requirement] = {}
    for seq, (lane, required, since) in enumerate(tasks, 1):
        task_id = f"t{chance.randrange(12)}"
        if chance.random() < 0.3:
            queue.remove(task_id)
            waiting_in.pop(task_id, None)
        else:
            queue.add(Waiting(task_id, seq, lane, since, required))
            waiting_in[task_id] = required
        assert len(queue) == len(waiting_in)
        counted = {r: g.count for r, g in queue.groups.items()}
        real = {
            r: n
            for r in WANTED
            if (n := sum(1 for one in waiting_in.values() if one == r))
        }
        assert counted == real
        assert all(isinstance(g, Group) for g in queue.groups.values())


def test_a_task_that_came_back_does_not_hold_up_one_that_has_aged():
    group = Group(WANTED[0])
    first, second = (Waiting(f"t{n}", n, 3, 0.0, WANTED[0]) for n in (1, 2))
    again = Waiting("t1", 1, 3, 290.0, WANTED[0])
    for waiting in (first, second, again):
        group.add(waiting)
    first.waits = False
    high = Waiting("t3", 3, 2, 290.0, WANTED[0])
    group.add(high)
    assert group.head(299.0, 300.0) is high
    assert group.head(301.0, 300.0) is second


def test_tasks_that_come_back_again_and_again_leave_nothing_behind():
    queue = Queue()
    for n in range(10):
        queue.add(Waiting(f"t{n}", n, 3, 0.0, WANTED[0]))
    (group,) = queue.groups.values()
    for now in range(1, 2_000):
        head = group.head(float(now), 300.0)
        assert head is not None
        queue.add(Waiting(head.task_id, head.seq, 3, float(now), WANTED[0]))
    assert group._disordered is not None
    assert sum(map(len, group._disordered._ranks)) < 200
    assert sum(map(len, group._disordered._moving.values())) < 200


def test_heaps_of_waiting_tasks_are_heaps_by_their_place_in_the_log():
    lane = [Waiting(f"t{n}", n, 2, 0.0, WANTED[0]) for n in (5, 3, 9, 1)]
    heapq.heapify(lane)
    assert [heapq.heappop(lane).seq for _ in range(4)] == [1, 3, 5, 9]


# -- pools -----------------------------------------------------------------------------


def random_fleet(chance: Random) -> Fleet:
    """A fleet after random joins, beats, routes, ups and downs; its pools were made at
    some time on the way."""
    fleet = Fleet(Policy(recorded_candidates=chance.choice((1, 2, 16))))
    for seq in range(1, 61):
        name = chance.choice(HOSTS)
        fleet.now += chance.random()
        known = name in fleet.hosts and fleet.hosts[name].present
        match chance.choice(
            ("join", "beat", "slots", "endpoint", "drain", "lost", "pool", "pause")
        ):
            case "join":
                fleet.joined(_joined(name, seq, chance), seq, fleet.now)
            case "beat" if known:
                fleet.beat(_beat(fleet, name, chance), fleet.now)
            case "slots" if known:
                place = chance.choice(list(fleet.hosts[name].places()))
                place.slots.in_flight = chance.randrange(place.slots.total + 1)
                fleet.slots_changed(name, place.endpoint, place.kind)
            case "endpoint" if known:
                state = ollama(
                    f"{name}-o", up=chance.random() < 0.7, slots=2,
                    loaded=chance.choice(((), ("llama3.2",))),
                )  # fmt: skip
                fleet.endpoint_seen(name, state, seq)
            case "drain" if known:
                fleet.draining(name, chance.random() < 0.5)
            case "lost" if known:
                if chance.random() < 0.5:
                    fleet.lost(name)
                else:
                    fleet.recovered(name, seq, fleet.now)
            case "pool":
                fleet.pool(chance.choice(WANTED))
            case "pause" if known:
                fleet.pause(name, fleet.now + 1)
            case _:
                fleet.resume_paused(fleet.now)
    return fleet


def _joined(name: str, n: int, chance: Random) -> c.HostJoined:
    return c.HostJoined(
        id=f"J{n}", at=rfc3339(START), by="test", host=name, incarnation=f"i{n}",
        version="1", slots={"shell": chance.choice((1, 4))},
        capabilities=chance.choice(([], ["gpu"])), repos=chance.choice(([], ["web"])),
        endpoints=[ollama(f"{name}-o", slots=2), claude(f"{name}-c")],
        ram_bytes=chance.choice((None, 8 << 30, 64 << 30)),
    )  # fmt: skip


def _beat(fleet: Fleet, name: str, chance: Random) -> c.Beat:
    gpus = [c.Gpu("g", 100, chance.choice((20, 90)))] if chance.random() < 0.5 else []
    resources = c.Resources(
        cpu=chance.choice((None, 0.0, 0.5, 0.99)), ram_total_bytes=16 << 30, gpus=gpus
    )
    return c.Beat(
        host=name, incarnation=fleet.hosts[name].incarnation, n=1, at=rfc3339(START),
        resources=resources,
    )  # fmt: skip


def fresh(fleet: Fleet, required: Requirement):
    """Rank all places from nothing, as the pool would if it kept nothing."""
    fleet._pools.clear()
    for index in (fleet._pools_by_kind, fleet._pools_by_host):
        index.clear()
    return fleet.pool(required)


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(WANTED))
def test_a_pool_that_was_kept_equals_one_that_is_made_now(chance, required):
    fleet = random_fleet(chance)
    kept = fleet.pool(required)
    seen = (
        [(key, list(kept._ranks[key])) for key in kept._order],
        dict(kept.reasons),
        {reason: n for reason, n in kept.counts.items() if n},
        kept.available,
        sorted(kept.places),
    )
    anew = fresh(fleet, required)
    assert seen == (
        [(key, list(anew._ranks[key])) for key in anew._order],
        dict(anew.reasons),
        {reason: n for reason, n in anew.counts.items() if n},
        anew.available,
        sorted(anew.places),
    )


@settings(max_examples=150, deadline=None)
@given(
    st.randoms(use_true_random=False),
    st.sampled_from(WANTED),
    st.sampled_from([None, "web"]),
    st.sampled_from([(), ("h1",), ("h2-o",)]),
)
def test_the_best_of_a_pool_is_the_best_of_all_its_places(
    chance, required, repo, excluded
):
    pool = random_fleet(chance).pool(required)
    fleet = pool._fleet
    every = [
        pool._candidate(place, repo)
        for name, place in pool.places.items()
        if name in pool._keys and not place.is_in(excluded)
    ]
    pool.best("another", None, ())  # what it makes is kept
    best = pool.best("task", repo, excluded)
    assert all(one in every for one in best)
    assert [rank(one) for one in best] == sorted(map(rank, every))[
        : fleet.policy.recorded_candidates
    ]


def rank(one: c.Candidate) -> tuple[float, int]:
    return -one.score, one.in_flight


def test_equal_places_share_tasks_as_the_tasks_ids_say():
    fleet = Fleet(Policy(recorded_candidates=4))
    for n in range(10):
        fleet.joined(
            structs.replace(_joined(f"h{n}", n, Random(1)), repos=[]), n + 1, 0.0
        )
    pool = fleet.pool(Requirement(kind="sidecar", tier="trivial"))
    best = {n: pool.best(f"task-{n}", None, ()) for n in range(1_000)}
    assert {len({one.host for one in each}) for each in best.values()} == {4}
    firsts = Counter(each[0].host for each in best.values())
    assert len(firsts) == 10
    assert max(firsts.values()) < 2 * min(firsts.values())


def test_what_a_decision_records_is_enough_to_decide_it_again():
    alike, others = check(2_000)
    assert others == []
    assert alike >= 2_000


# -- slots -----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_slots_are_counted_right_whatever_happens(chance):
    w = World()
    for name in HOSTS[:2]:
        w.join(name, slots={"shell": 2}, endpoints=[ollama(f"{name}-o")])
    for n in range(chance.randrange(4, 14)):
        if chance.random() < 0.5:
            w.shell(f"t{n}")
        else:
            w.submit(f"t{n}", tier="standard")
        _something(w, chance)
        _recount(w)
    for _ in range(40):
        _something(w, chance)
        _recount(w)


def _something(w: World, chance: Random) -> None:
    routes = [r for r in w.routes() if w.phase(r.task_id) in ON_HOST]
    if not routes or chance.random() < 0.2:
        w.beat_on(chance.choice((0.5, 6.0)), *HOSTS[:2])
        return
    routed = chance.choice(routes)
    kind, fields = chance.choice(
        (
            (c.TaskAccepted, {}),
            (c.TaskStarted, {"executor": "x"}),
            (c.TaskCompleted, {"result": c.Result(status="success")}),
            (c.TaskReturned, {"reason": "endpoint_failed", "exclude": "h1"}),
            (c.TaskRejected, {"reason": "busy"}),
            (c.TaskStopped, {}),
            (c.TaskCancelled, {}),
        )
    )
    if kind is c.TaskCancelled:
        event = kind(**w.head(), task_id=routed.task_id)
        w.store(subjects.task(routed.task_id), event)
        w.turn()
    else:
        w.report(routed.task_id, kind, route=routed, **fields)


def _recount(w: World) -> None:
    taken: dict[tuple[str, str], int] = {}
    for task_id, live in w.scheduler.state.tasks.items():
        state = live.task
        assert state.phase not in FINAL
        if state.phase in ON_HOST:
            what = f"endpoint:{state.endpoint}" if state.endpoint else "shell"
            taken[state.host, what] = taken.get((state.host, what), 0) + 1
        waits = state.phase == "waiting" and not live.deciding
        assert waits == (task_id in w.scheduler.state.queue.tasks)
    for name, host in w.scheduler.state.fleet.hosts.items():
        for what, slots in host.slots.items():
            assert slots.in_flight == taken.get((name, what), 0)
            assert slots.reserved == 0
            assert slots.in_flight <= slots.total


@pytest.mark.parametrize("seed", range(5))
def test_a_random_history_ends_with_every_slot_free(seed):
    chance = Random(seed)
    w = World()
    w.join("h1", slots={"shell": 3})
    for n in range(10):
        w.shell(f"t{n}")
    while any(w.phase(f"t{n}") not in FINAL for n in range(10)):
        routes = [r for r in w.routes() if w.phase(r.task_id) in ON_HOST]
        w.run(chance.choice(routes).task_id)
    assert all(
        s.in_flight == 0 for s in w.scheduler.state.fleet.hosts["h1"].slots.values()
    )


@given(
    before=st.lists(st.floats(0, 100), max_size=20),
    meanwhile=st.lists(st.floats(0, 100), max_size=20),
    at_once=st.integers(1, 30),
    steps=st.lists(st.tuples(st.booleans(), st.floats(0, 100)), max_size=60),
)
def test_who_of_a_group_expires_first_is_the_one_that_is_due_first(
    before, meanwhile, at_once, steps
):
    queue, dues = Queue(), {}

    def came(due: float) -> Waiting:
        waiting = Waiting(f"t{len(dues)}", len(dues), 2, 0.0, WANTED[0])
        dues[waiting.task_id] = due
        queue.add(waiting)
        return waiting

    came(50.0)
    for due in before:
        came(due)
    (group,) = queue.groups.values()
    expiries = Expiries(group, lambda waiting: dues[waiting.task_id])
    while not expiries.take(at_once):
        if meanwhile:
            expiries.add(came(meanwhile.pop()))
    for goes, due in steps:
        first = expiries.first()
        assert first is not None
        assert first[0] == min(dues[task_id] for task_id in queue.tasks)
        assert first[0] == dues[first[1].task_id]
        if goes and len(queue) > 1:
            queue.remove(first[1].task_id)
        else:
            expiries.add(came(due))
