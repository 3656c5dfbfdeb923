"""What would have been: recorded decisions, decided again under another policy.

Every decision carries the raw inputs of its candidates, so it can be scored anew, and the
log before it says which models each endpoint had and since when a tier was down. What the
record does not hold is not made up: a place that was no candidate is no candidate here,
what one changed decision would have done to the next is not followed, and dollars of runs
that never happened are estimates. The answer says so.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec.structs import replace

from actors.rules import policy as policies
from actors.rules import routing, scoring
from actors.scheduler.places import normal_model
from events import catalogue as c
from events import subjects
from events.codec import instant
from events.errors import Malformed
from projections.answers import Changed, WhatIfAnswer
from projections.timetravel import TimeTravel

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.rules.policy import Policy
    from events.log import EventLog
    from projections.checkpoints import Checkpoints
    from projections.judged import JudgedEvent
    from projections.questions import AskWhatIf
    from projections.world import World

    Price = Callable[[str, c.Result], float | None]

HOP_UP: Final = ("standard", "complex")
UNDER_WAY: Final = frozenset({"routed", "accepted", "running", "cancelling"})
BUILT_IN: Final = 0
"""The version of the policy that is in force before anybody changed it."""

A_WHILE: Final = 50
"""Decisions that are decided again before others get their turn."""

SAID: Final = (
    "Only recorded candidates are considered: a place that was excluded or not among the "
    "best then is not looked at, even where the other policy might have chosen it.",
    "Each decision is looked at by itself: what one that changed would have done to the "
    "load, and so to the decisions after it, is not followed.",
    "Dollars of runs that would have gone elsewhere are estimates: local runs count $0, "
    "Claude runs what the price list says for the tokens that were used where it ran.",
)


class Seen(NamedTuple):
    """A decision, and what was true around it."""

    seq: int
    event: c.TaskRouted
    preferred: c.Tier
    ready_at: float
    fixed: bool
    endpoints: dict[tuple[str, str], tuple[frozenset[str], tuple[str, ...]]]
    escalated: int
    escalated_usd: float
    other_tier_up: bool
    submitted_seq: int


class Bill:
    """What a route was booked for; `unknown` where nobody knows all of it."""

    __slots__ = ("equivalent", "result", "unknown", "usd")

    def __init__(self) -> None:
        self.usd = 0.0
        self.equivalent: float | None = None
        self.unknown = False
        self.result: c.Result | None = None

    def add(self, result: c.Result) -> None:
        """Book a result."""
        self.result = result
        if result.estimated_cost_usd is None:
            self.unknown = True
        else:
            self.usd += result.estimated_cost_usd
        if result.equivalent_claude_cost_usd is not None:
            self.equivalent = (
                self.equivalent or 0.0
            ) + result.equivalent_claude_cost_usd


class Then(NamedTuple):
    """How a decision would have gone. `usd` is None where nothing is known of it."""

    what: str
    place: str
    why: str
    usd: float | None
    waited_s: float
    hopped: bool
    estimated: bool = False


async def policies_of(log: EventLog) -> tuple[dict[int, Policy], int]:
    """Return every policy there was, by its version, and the version in force.

    One that this version of AgentCom cannot read is left out.
    """
    found = {BUILT_IN: policies.Policy()}
    version = BUILT_IN
    for recorded in await log.read(subjects.POLICY):
        event = recorded.event
        if not isinstance(event, c.PolicyChanged) or event.version != version + 1:
            continue
        version = event.version
        try:
            found[version] = policies.parse(event.policy)
        except Malformed:
            continue
    return found, version


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a policy document with changes in it, `{"scoring": {"warm": 2}}` style."""
    made = dict(base)
    for name, value in changes.items():
        under = made.get(name)
        made[name] = (
            merged(under, value)
            if isinstance(under, dict) and isinstance(value, dict)
            else value
        )
    return made


def comes_out_same(routed: c.TaskRouted, policy: Policy) -> bool:
    """Whether a decision comes out as recorded, from its inputs and its own policy."""
    if not routed.candidates:
        return False
    best = routing.recheck(routed, policy.scoring)
    recorded = routed.candidates[0]
    return (
        (best.host, best.endpoint, best.model)
        == (routed.selected_host, routed.selected_endpoint, routed.selected_model)
        and best.factors == recorded.factors
        and best.score == recorded.score
    )


def no_price(model: str, result: c.Result) -> float | None:
    """Know no prices."""
    return None


class Redecider:
    """Answers `whatif` from a log. `price` says what a run costs on a Claude model."""

    def __init__(
        self,
        log: EventLog,
        *,
        price: Price = no_price,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self._log = log
        self._price = price
        self._checkpoints = checkpoints

    async def __call__(self, asked: AskWhatIf) -> WhatIfAnswer:
        """Answer; raises Malformed for a policy or an instant that is none."""
        known, version = await policies_of(self._log)
        base = known.get(version, known[BUILT_IN])
        other = policies.parse(merged(policies.document(base), asked.policy))
        past = TimeTravel(self._log, checkpoints=self._checkpoints)
        try:
            last = await self._log.last_sequence()
            start = max(await _sequence(past, asked.since, after=True), 1)
            end = last
            if asked.until is not None:
                end = min(await _sequence(past, asked.until, after=False), last)
            reading = Reading(start, end)
            # What runs cost is known later than where they went.
            await past.walk(start, last, reading.see)
        finally:
            past.close()
        wanted = await self._wanted_models(reading)
        judge = Judge(known, other, reading, wanted, self._price)
        for n, seen in enumerate(reading.decisions):
            judge.judge(seen, asked.limit)
            if not n % A_WHILE:
                # Whoever runs this has others to answer meanwhile.
                await asyncio.sleep(0)
        return judge.answer(
            WhatIfAnswer(
                seq=last,
                from_seq=start,
                to_seq=end,
                policy_version=version,
                differences=policies.differences(base, other),
                decisions=len(reading.decisions),
                reproduced=0,
                not_reproduced=0,
                changed={},
                fallbacks=0,
                fallbacks_then=0,
                waited_s=0.0,
                waited_s_then=0.0,
                cost_usd=0.0,
                cost_usd_then=0.0,
                estimated_decisions=0,
                unknown_dollars=0,
                by_place={},
                by_place_then={},
                stays={},
                changes=[],
                changes_left_out=0,
                said=list(SAID),
            )
        )

    async def _wanted_models(self, reading: Reading) -> dict[str, str]:
        """Return the exact models that tasks asked for, also of those from before."""
        wanted = reading.wanted
        for seen in reading.decisions:
            task_id = seen.event.task_id
            if task_id not in wanted:
                recorded = await self._log.get(seen.submitted_seq)
                event = recorded.event if recorded is not None else None
                model = event.spec.model if isinstance(event, c.TaskSubmitted) else None
                wanted[task_id] = model or ""
        return wanted


async def _sequence(past: TimeTravel, at: int | str, *, after: bool) -> int:
    if isinstance(at, int):
        return at
    return await past.sequence_at(at) + after


class Reading:
    """What the walk through the log gathers."""

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.decisions: list[Seen] = []
        self.bills: dict[str, Bill] = {}
        self.ups: dict[str, list[float]] = {}
        self.wanted: dict[str, str] = {}
        self._escalated: set[str] = set()
        self._escalated_usd: dict[str, float] = {}

    def see(self, world: World, judged: JudgedEvent) -> None:
        """Take one event in; `world` is what it has led to."""
        if judged.verdict == "foreign":
            return
        event = judged.recorded.event
        task = judged.task
        if judged.result is not None and judged.routing is not None:
            bill = self.bills.get(judged.routing.route)
            if bill is not None:
                bill.add(judged.result)
            if judged.routing.fallback_used and judged.routing.tier == "complex":
                day = event.at[:10]
                spent = judged.result.estimated_cost_usd or 0.0
                self._escalated_usd[day] = self._escalated_usd.get(day, 0.0) + spent
        if task is not None and judged.after not in UNDER_WAY:
            self._escalated.discard(task.id)
        if judged.verdict != "applied":
            return
        if isinstance(event, c.TaskSubmitted):
            self.wanted[event.task_id] = event.spec.model or ""
        elif isinstance(event, c.TierUp):
            self.ups.setdefault(event.tier, []).append(_epoch(event.at))
        elif isinstance(event, c.TaskRouted) and task is not None:
            if judged.recorded.seq <= self.end:
                self._decision(world, judged, event)
            if event.fallback_used and event.effective_tier == "complex":
                self._escalated.add(task.id)

    def _decision(self, world: World, judged: JudgedEvent, event: c.TaskRouted) -> None:
        task = judged.task
        assert task is not None
        self.bills[event.id] = Bill()
        endpoints = {}
        for one in event.candidates:
            host = world.fleet.hosts.get(one.host)
            known = host.endpoints.get(one.endpoint) if host is not None else None
            if known is not None and known.kind != "claude":
                endpoints[one.host, one.endpoint] = (
                    frozenset(normal_model(model) for model in known.models),
                    tuple(sorted(normal_model(model) for model in known.loaded)),
                )
        other = "standard" if task.preferred_tier == "complex" else "complex"
        tier = world.fleet.tiers.get(other)
        self.decisions.append(
            Seen(
                seq=judged.recorded.seq,
                event=event,
                preferred=_tier(task.preferred_tier),
                ready_at=_epoch(task.waiting_since),
                fixed=bool(task.assign_to or task.executor),
                endpoints=endpoints,
                escalated=len(self._escalated - {task.id}),
                escalated_usd=self._escalated_usd.get(event.at[:10], 0.0),
                other_tier_up=tier is not None and tier.state == "up",
                submitted_seq=task.seq,
            )
        )


class Judge:
    """Decides each decision again, and adds up."""

    def __init__(
        self,
        known: dict[int, Policy],
        other: Policy,
        reading: Reading,
        wanted: dict[str, str],
        price: Price,
    ) -> None:
        self._known = known
        self._other = other
        self._reading = reading
        self._wanted = wanted
        self._price = price
        self._stays: dict[str, int] = {}
        self._changed: dict[str, int] = {}
        self._changes: list[Changed] = []
        self._left_out = 0
        self._sums = dict.fromkeys(("usd", "usd_then", "waited", "waited_then"), 0.0)
        self._counts: dict[str, int] = {}
        self._places: dict[str, int] = {}
        self._places_then: dict[str, int] = {}

    def judge(self, seen: Seen, limit: int) -> None:
        """Decide one decision again."""
        event = seen.event
        at_the_time = self._known.get(event.policy_version)
        if at_the_time is None:
            self._stay("its policy cannot be read by this version")
        elif comes_out_same(event, at_the_time):
            _count(self._counts, "reproduced")
        else:
            _count(self._counts, "not_reproduced")
        bill = self._reading.bills[event.id]
        was = _place(event.effective_tier, event.selected_host, event.selected_endpoint)
        waited = _waited(seen)
        then = self._then(seen, bill, was, waited, at_the_time)
        usd = None if bill.unknown else bill.usd
        self._sums["usd"] += bill.usd
        self._sums["usd_then"] += then.usd or 0.0
        self._sums["waited"] += waited
        self._sums["waited_then"] += then.waited_s
        _count(self._places, was)
        _count(self._places_then, then.place or "not known")
        if event.fallback_used:
            _count(self._counts, "fallbacks")
        if then.hopped:
            _count(self._counts, "fallbacks_then")
        if then.estimated:
            _count(self._counts, "estimated")
        if then.usd is None:
            _count(self._counts, "unknown")
        if not then.what:
            return
        _count(self._changed, then.what)
        if len(self._changes) >= limit:
            self._left_out += 1
            return
        self._changes.append(
            Changed(
                seq=seen.seq,
                task_id=event.task_id,
                at=event.at,
                what=then.what,
                was=_with_model(was, event.selected_model),
                then=then.place,
                why=then.why,
                usd=usd,
                usd_then=then.usd,
            )
        )

    def _then(
        self,
        seen: Seen,
        bill: Bill,
        was: str,
        waited: float,
        at_the_time: Policy | None,
    ) -> Then:
        hop = self._hop(seen, bill, waited, at_the_time)
        if hop is not None and hop.what not in ("fallback_sooner", "fallback_later"):
            return hop
        ranked = self._again(seen, at_the_time)
        if ranked is None:
            return hop or Then(
                "", was, "", _usd(bill), waited, seen.event.fallback_used
            )
        return hop or ranked

    # -- where -------------------------------------------------------------------------

    def _again(self, seen: Seen, at_the_time: Policy | None) -> Then | None:
        """Score the recorded candidates anew; None if nothing would have changed."""
        event = seen.event
        if not event.candidates:
            self._stay("it recorded no candidates")
            return None
        local = event.estimated_cost_tier == "local"
        numbers = self._other.scoring
        anew = [
            scoring.candidate(self._inputs(seen, one, local, at_the_time), numbers)
            for one in event.candidates
        ]
        best = scoring.ranked(event.task_id, anew)[0]
        before = (event.selected_host, event.selected_endpoint)
        bill = self._reading.bills[event.id]
        hopped, waited = event.fallback_used, _waited(seen)
        place = _place(event.effective_tier, best.host, best.endpoint)
        shown = _with_model(place, best.model)
        usd, estimated = self._dollars(event, bill, best.model)
        if (best.host, best.endpoint) != before:
            why = self._why(event, best)
            return Then("route", shown, why, usd, waited, hopped, True)
        if best.model != event.selected_model:
            why = f"{best.model} instead of {event.selected_model}"
            return Then("model", shown, why, usd, waited, hopped, estimated)
        return None

    def _inputs(
        self, seen: Seen, one: c.Candidate, local: bool, at_the_time: Policy | None
    ) -> scoring.Inputs:
        """Take a candidate's inputs, with the model that it would run."""
        inputs, other = scoring.inputs_of(one, local_model=local), self._other
        if self._wanted.get(seen.event.task_id) or at_the_time is None:
            return inputs
        if seen.event.target_type == "claude":
            return replace(inputs, model=other.claude_model)
        known = seen.endpoints.get((one.host, one.endpoint))
        if not local or known is None or other.local_models == at_the_time.local_models:
            return inputs
        models, loaded = known
        model = _model(models, loaded, other) or one.model
        return replace(inputs, model=model, loaded=model in loaded)

    def _why(self, event: c.TaskRouted, best: c.Candidate) -> str:
        before = {(one.host, one.endpoint): one for one in event.candidates}
        recorded = before[best.host, best.endpoint]
        moved = [
            f"{name} {getattr(recorded.factors, name):.3g} → {getattr(best.factors, name):.3g}"
            for name in c.Factors.__struct_fields__
            if getattr(recorded.factors, name) != getattr(best.factors, name)
        ]
        return "; ".join(moved) or "the factors of the one chosen then fell below it"

    def _dollars(
        self, event: c.TaskRouted, bill: Bill, model: str
    ) -> tuple[float | None, bool]:
        """Return what the run would have cost with a model, and whether that is a guess."""
        if event.target_type != "claude" or model == event.selected_model:
            return _usd(bill), False
        if bill.result is None:
            return 0.0, False
        return self._price(model, bill.result), True

    # -- whether it would have left its tier -------------------------------------------

    def _hop(
        self, seen: Seen, bill: Bill, waited: float, at_the_time: Policy | None
    ) -> Then | None:
        event, wait = seen.event, seen.event.wait
        if event.fallback_used:
            return self._taken(seen, bill, waited, at_the_time)
        if wait is None or wait.outcome != "avoided":
            return None
        return self._avoided(seen, bill, waited)

    def _taken(
        self, seen: Seen, bill: Bill, waited: float, at_the_time: Policy | None
    ) -> Then | None:
        """A hop was taken: would it have been, and when?"""
        event, wait, other = seen.event, seen.event.wait, self._other
        if event.fallback_from_tier == "complex" and not other.allow_downgrade:
            usd = bill.equivalent
            if usd is None and bill.result is not None:
                usd = self._price(other.claude_model, bill.result)
            return Then(
                "held_back",
                "",
                "allow_downgrade is off: it would have waited for Claude",
                usd,
                waited,
                False,
                True,
            )
        if event.effective_tier == "complex":
            if seen.escalated >= other.max_escalations_in_flight:
                why = f"{seen.escalated} escalations were in flight already"
                return Then("held_back", "", why, None, waited, False)
            budget = other.escalation_budget_usd_per_day
            if budget is not None and seen.escalated_usd >= budget:
                why = f"${seen.escalated_usd:.2f} were spent on escalations that day"
                return Then("held_back", "", why, None, waited, False)
        if wait is None or at_the_time is None:
            return None
        reason = event.fallback_reason or ""
        if reason.endswith("is not set up"):
            return None
        if other.fallback_wait_s == at_the_time.fallback_wait_s:
            return None
        since, hopped_at = _epoch(wait.since), _epoch(event.at)
        begun = max(since, seen.ready_at)
        hop_at = max(since + other.fallback_wait_s, seen.ready_at)
        if hop_at > hopped_at:
            if " was down for " not in reason:
                self._stay("for how long nothing would have met its needs")
                return None
            back = self._back(event.fallback_from_tier or "", since)
            if back is not None and back <= hop_at:
                spared = max(0.0, back - begun)
                return Then(
                    "fallback_avoided",
                    f"{event.fallback_from_tier}: a place that the record does not name",
                    f"{event.fallback_from_tier} was back after {back - since:.1f} s",
                    0.0 if event.fallback_from_tier == "standard" else bill.equivalent,
                    spared,
                    False,
                    True,
                )
            return self._moved(seen, bill, "fallback_later", hop_at - begun)
        if hop_at < hopped_at and (
            hopped_at - since <= at_the_time.fallback_wait_s + 1.0
        ):
            return self._moved(seen, bill, "fallback_sooner", max(0.0, hop_at - begun))
        # It hopped later than it might have: something else held it, and would again.
        return None

    def _moved(self, seen: Seen, bill: Bill, what: str, waits: float) -> Then:
        event = seen.event
        place = _place(
            event.effective_tier, event.selected_host, event.selected_endpoint
        )
        why = f"after {waits:.1f} s instead of {_waited(seen):.1f} s"
        return Then(
            what,
            _with_model(place, event.selected_model),
            why,
            _usd(bill),
            waits,
            True,
        )

    def _avoided(self, seen: Seen, bill: Bill, waited: float) -> Then | None:
        """It waited, and its tier came back in time: would it have hopped?"""
        event, wait, other = seen.event, seen.event.wait, self._other
        assert wait is not None
        if seen.fixed or self._wanted.get(event.task_id) or seen.preferred == "trivial":
            return None
        if seen.preferred == "complex" and not other.allow_downgrade:
            return None
        since = _epoch(wait.since)
        back = self._back(wait.tier, since) or _epoch(event.at)
        hop_at = max(since + other.fallback_wait_s, seen.ready_at)
        if hop_at >= back:
            return None
        if not seen.other_tier_up:
            self._stay("whether the other tier could have taken it")
            return None
        if seen.preferred == "standard":
            if seen.escalated >= other.max_escalations_in_flight:
                return None
            tier = "complex"
            usd = bill.equivalent
            if usd is None and bill.result is not None:
                usd = self._price(other.claude_model, bill.result)
            if bill.result is None:
                usd = 0.0
        else:
            tier, usd = "standard", 0.0
        waits = max(0.0, hop_at - max(since, seen.ready_at))
        return Then(
            "fallback_added",
            f"{tier}: a place that the record does not name",
            f"it would not have waited longer than {other.fallback_wait_s:g} s "
            f"for {wait.tier}",
            usd,
            waits,
            True,
            True,
        )

    def _back(self, tier: str, since: float) -> float | None:
        """Return when a tier that was down at `since` came back, None if it did not."""
        ups = self._reading.ups.get(tier, [])
        place = bisect_right(ups, since)
        return ups[place] if place < len(ups) else None

    # -- the sum -----------------------------------------------------------------------

    def _stay(self, why: str) -> None:
        _count(self._stays, why)

    def answer(self, answer: WhatIfAnswer) -> WhatIfAnswer:
        """Fill in what was counted."""
        counts, sums = self._counts, self._sums
        answer.reproduced = counts.get("reproduced", 0)
        answer.not_reproduced = counts.get("not_reproduced", 0)
        answer.changed = dict(sorted(self._changed.items()))
        answer.fallbacks = counts.get("fallbacks", 0)
        answer.fallbacks_then = counts.get("fallbacks_then", 0)
        answer.waited_s = round(sums["waited"], 3)
        answer.waited_s_then = round(sums["waited_then"], 3)
        answer.cost_usd = round(sums["usd"], 9)
        answer.cost_usd_then = round(sums["usd_then"], 9)
        answer.estimated_decisions = counts.get("estimated", 0)
        answer.unknown_dollars = counts.get("unknown", 0)
        answer.by_place = dict(sorted(self._places.items()))
        answer.by_place_then = dict(sorted(self._places_then.items()))
        answer.stays = dict(sorted(self._stays.items()))
        answer.changes = self._changes
        answer.changes_left_out = self._left_out
        return answer


def _count(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1


def _usd(bill: Bill) -> float | None:
    return None if bill.unknown else bill.usd


def _waited(seen: Seen) -> float:
    """Return how long the task itself waited for its tier."""
    wait = seen.event.wait
    if wait is None:
        return 0.0
    begun = max(_epoch(wait.since), seen.ready_at)
    if wait.outcome == "avoided":
        return wait.waited_s
    return max(0.0, _epoch(seen.event.at) - begun)


def _model(models: frozenset[str], loaded: tuple[str, ...], policy: Policy) -> str:
    """Choose an endpoint's model as the scheduler does, see `actors.scheduler.places.Place`."""
    for preferred in policy.local_models:
        if normal_model(preferred) in models:
            return normal_model(preferred)
    return min(loaded or models, default="")


def _place(tier: str, host: str, endpoint: str) -> str:
    return f"{tier} {endpoint}@{host}" if endpoint else f"{tier} {host}"


def _with_model(place: str, model: str) -> str:
    return f"{place} {model}" if model else place


def _epoch(at: str) -> float:
    try:
        return instant(at)
    except Malformed:
        return 0.0


def _tier(name: str) -> c.Tier:
    match name:
        case "trivial" | "standard" | "complex":
            return name
        case _:
            return "standard"
