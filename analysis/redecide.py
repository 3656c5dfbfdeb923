"""Recorded decisions, decided again under another policy, one by one.

See `analysis.whatif` for what such an answer can know and what it cannot.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec.structs import replace

from actors.rules import scoring
from actors.rules.models import usual_model
from actors.rules.prices import price_result
from actors.scheduler import dispatch
from analysis.explain import recheck
from events import catalogue as c
from events.codec import fallback_code
from projections.answers_whatif import Changed
from projections.tiers import instant_of

if TYPE_CHECKING:
    from actors.rules.policy import Policy
    from analysis.reading import Bill, PastDecision, Reading
    from analysis.success import Success

AT_ONCE_S: Final = 1.0
"""A hop so soon after the wait had ended was held up by nothing but the wait."""


class Alternative(NamedTuple):
    """How a decision would have gone.

    `what` is the kind of change, "" for none. `place` is where the task would have gone,
    "" where the record does not say, and `model` what would have run there. `usd` is None
    where nothing is known of it; `estimated` says that it is the price list's. `tier` is the
    one where it would have run, "" where the record does not say.
    """

    what: str
    place: str
    model: str
    why: str
    usd: float | None
    waited_s: float
    hopped: bool
    estimated: bool = False
    tier: str = ""


class Case(NamedTuple):
    """A decision to be decided again: what was known, what it cost, how it went."""

    past: PastDecision
    bill: Bill
    policy: Policy | None
    """The one of its time, None where this version cannot read it."""
    recorded: Alternative


class Judge:
    """Decides each decision again under `other`, and adds up."""

    def __init__(
        self,
        by_version: dict[int, Policy],
        other: Policy,
        reading: Reading,
        success: Success,
    ) -> None:
        self._by_version = by_version
        self._other = other
        self._reading = reading
        self._success = success
        self._stays: Counter[str] = Counter()
        self._changed: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._places: Counter[str] = Counter()
        self._places_then: Counter[str] = Counter()
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._changes: list[Changed] = []
        self._left_out = 0

    def judge(self, past: PastDecision, limit: int) -> None:
        """Decide one decision again; of those that change, `limit` are kept for show."""
        event = past.event
        policy = self._by_version.get(event.policy_version)
        if policy is None:
            self._stays["its policy cannot be read by this version"] += 1
        elif recheck(event, policy).agrees:
            self._counts["reproduced"] += 1
        else:
            self._counts["not_reproduced"] += 1
        bill = self._reading.bills[event.id]
        recorded = Alternative(
            what="",
            place=_place(
                event.effective_tier, event.selected_host, event.selected_endpoint
            ),
            model=event.selected_model,
            why="",
            usd=bill.usd_if_known,
            waited_s=_waited(past),
            hopped=event.fallback_used,
            tier=event.effective_tier,
        )
        then = self._then(Case(past, bill, policy, recorded))
        self._count(bill, recorded, then)
        if not then.what:
            return
        self._changed[then.what] += 1
        passes, passes_then = self._passes(recorded, then)
        if len(self._changes) >= limit:
            self._left_out += 1
            return
        self._changes.append(
            Changed(
                seq=past.seq,
                task_id=event.task_id,
                at=event.at,
                what=then.what,
                was=_with_model(recorded),
                then=_with_model(then),
                why=then.why,
                usd=recorded.usd,
                usd_then=then.usd,
                estimated_cost_usd=recorded.usd,
                estimated_cost_usd_then=then.usd,
                passes=passes,
                passes_then=passes_then,
            )
        )

    def _passes(
        self, recorded: Alternative, then: Alternative
    ) -> tuple[float | None, float | None]:
        """Estimate how likely each passes at once, and add it up where the tier changes.

        None where nothing is known, and for both where the tier stays.
        """
        if then.tier == recorded.tier:
            return None, None
        self._counts["tier_changes"] += 1
        was = self._success.share(recorded.tier, recorded.model)
        would = self._success.share(then.tier, then.model) if then.tier else None
        if was is not None and would is not None:
            self._sums["passes"] += was.value
            self._sums["passes_then"] += would.value
        else:
            self._counts["passes_unknown"] += 1
        return was and was.value, would and would.value

    def _count(self, bill: Bill, recorded: Alternative, then: Alternative) -> None:
        self._sums["usd"] += bill.usd
        self._sums["usd_then"] += then.usd or 0.0
        self._sums["waited"] += recorded.waited_s
        self._sums["waited_then"] += then.waited_s
        self._places[recorded.place] += 1
        self._places_then[then.place or "not known"] += 1
        self._counts["fallbacks"] += recorded.hopped
        self._counts["fallbacks_then"] += then.hopped
        self._counts["estimated"] += then.estimated
        self._counts["unknown"] += then.usd is None

    def _then(self, case: Case) -> Alternative:
        hop = self._hop(case)
        if hop is not None and hop.what not in ("fallback_sooner", "fallback_later"):
            return hop
        anew = self._again(case)
        return hop or anew or case.recorded

    # -- where -------------------------------------------------------------------------

    def _again(self, case: Case) -> Alternative | None:
        """Score the recorded candidates anew; None if nothing would have changed."""
        event = case.past.event
        if not event.candidates:
            self._stays["it recorded no candidates"] += 1
            return None
        numbers, local = self._other.scoring, event.estimated_cost_tier == "local"
        best = scoring.ranked(
            scoring.scored_anew(self._with_model(case, one), numbers, local_model=local)
            for one in event.candidates
        )[0]
        usd, estimated = self._dollars(case, best.model)
        then = case.recorded._replace(
            place=_place(event.effective_tier, best.host, best.endpoint),
            model=best.model,
            usd=usd,
            estimated=estimated,
        )
        if then.place != case.recorded.place:
            return then._replace(what="route", why=_why(event, best), estimated=True)
        if best.model != event.selected_model:
            why = f"{best.model} instead of {event.selected_model}"
            return then._replace(what="model", why=why)
        return None

    def _with_model(self, case: Case, one: c.Candidate) -> c.Candidate:
        """Return a candidate with the model that it would run."""
        event, other = case.past.event, self._other
        if self._reading.named_models.get(event.task_id) or case.policy is None:
            return one
        if event.target_type == "claude":
            # Where the policy does not say otherwise, a default of an older version does.
            same = other.claude_model == case.policy.claude_model
            return one if same else replace(one, model=other.claude_model)
        endpoint = case.past.endpoints.get((one.host, one.endpoint))
        if (
            event.estimated_cost_tier != "local"
            or endpoint is None
            or other.local_models == case.policy.local_models
        ):
            return one
        kind, models, loaded = endpoint
        model = usual_model(kind, models, loaded, other) or one.model
        return replace(one, model=model, loaded=model in loaded)

    def _dollars(self, case: Case, model: str) -> tuple[float | None, bool]:
        """Return what the run would have cost with a model, and whether that is a guess."""
        event, result = case.past.event, case.bill.result
        if event.target_type != "claude" or model == event.selected_model:
            return case.recorded.usd, False
        if result is None:
            return 0.0, False
        return price_result(model, result), True

    def _on_claude(self, bill: Bill) -> float | None:
        """Return what a local route would have cost on Claude, None if nobody knows."""
        if bill.equivalent is not None or bill.result is None:
            return bill.equivalent
        return price_result(self._other.claude_model, bill.result)

    # -- whether it would have left its tier -------------------------------------------

    def _hop(self, case: Case) -> Alternative | None:
        wait = case.past.event.wait
        if case.past.event.fallback_used:
            return self._held_back(case) or self._taken(case)
        if wait is not None and wait.outcome == "avoided":
            return self._avoided(case, wait)
        return None

    def _held_back(self, case: Case) -> Alternative | None:
        """A hop was taken: would it have been allowed?"""
        past, other = case.past, self._other
        held_back = case.recorded._replace(
            what="held_back", place="", model="", usd=None, hopped=False, tier=""
        )
        if past.event.fallback_from_tier == "complex" and not other.allow_downgrade:
            why = "allow_downgrade is off: it would have waited for Claude"
            usd = self._on_claude(case.bill)
            return held_back._replace(why=why, usd=usd, estimated=True, tier="complex")
        if past.event.effective_tier != "complex":
            return None
        match dispatch.exhausted(other, past.escalated, past.escalated_usd):
            case "in flight":
                why = f"{past.escalated} escalations were in flight already"
            case "budget":
                why = f"${past.escalated_usd:.2f} were spent on escalations that day"
            case _:
                return None
        return held_back._replace(why=why)

    def _taken(self, case: Case) -> Alternative | None:
        """A hop was taken, and would have been: when?"""
        past, event, policy = case.past, case.past.event, case.policy
        wait = event.wait
        if wait is None or policy is None:
            return None
        if self._other.fallback_wait_s == policy.fallback_wait_s:
            return None
        cause = fallback_code(event)
        if cause == "absent":
            return None
        since, hopped_at = instant_of(wait.since), instant_of(event.at)
        begun = max(since, past.ready_at)
        hop_at = max(dispatch.hop_due(since, self._other), past.ready_at)
        waits = max(0.0, hop_at - begun)
        moved = case.recorded._replace(
            why=f"after {waits:.1f} s instead of {case.recorded.waited_s:.1f} s",
            waited_s=waits,
        )
        if hop_at > hopped_at:
            if cause != "down":
                self._stays["for how long nothing would have met its needs"] += 1
                return None
            home = event.fallback_from_tier or wait.tier
            back = self._back(home, since)
            if back is not None and back <= hop_at:
                return Alternative(
                    what="fallback_avoided",
                    place=f"{home}: a place that the record does not name",
                    model="",
                    why=f"{home} was back after {back - since:.1f} s",
                    usd=0.0 if home == "standard" else case.bill.equivalent,
                    waited_s=max(0.0, back - begun),
                    hopped=False,
                    estimated=True,
                    tier=home,
                )
            return moved._replace(what="fallback_later")
        if hop_at < hopped_at <= dispatch.hop_due(since, policy) + AT_ONCE_S:
            return moved._replace(what="fallback_sooner")
        # It hopped later than it might have: something else held it, and would again.
        return None

    def _avoided(self, case: Case, wait: c.Wait) -> Alternative | None:
        """It waited, and its tier came back in time: would it have hopped?"""
        past, event, other = case.past, case.past.event, self._other
        named = self._reading.named_models.get(event.task_id)
        if past.fixed or named or past.preferred == "trivial":
            return None
        if past.preferred == "complex" and not other.allow_downgrade:
            return None
        since = instant_of(wait.since)
        back = self._back(wait.tier, since) or instant_of(event.at)
        hop_at = max(dispatch.hop_due(since, other), past.ready_at)
        if hop_at >= back:
            return None
        if not past.other_tier_up:
            self._stays["whether the other tier could have taken it"] += 1
            return None
        tier: c.Tier = "standard"
        usd: float | None = 0.0
        if past.preferred == "standard":
            if dispatch.exhausted(other, past.escalated, past.escalated_usd):
                return None
            tier = "complex"
            if case.bill.result is not None:
                usd = self._on_claude(case.bill)
        return Alternative(
            what="fallback_added",
            place=f"{tier}: a place that the record does not name",
            model="",
            why=f"it would not have waited longer than {other.fallback_wait_s:g} s "
            f"for {wait.tier}",
            usd=usd,
            waited_s=max(0.0, hop_at - max(since, past.ready_at)),
            hopped=True,
            estimated=True,
            tier=tier,
        )

    def _back(self, tier: str, since: float) -> float | None:
        """Return when a tier that was down at `since` came back, None if it did not."""
        ups = self._reading.ups.get(tier, [])
        place = bisect_right(ups, since)
        return ups[place] if place < len(ups) else None

    # -- the sum -----------------------------------------------------------------------

    def sums(self) -> dict[str, Any]:
        """Return what was counted, as the fields of the answer."""
        counts, sums = self._counts, self._sums
        usd, usd_then = round(sums["usd"], 9), round(sums["usd_then"], 9)
        return {
            "reproduced": counts["reproduced"],
            "not_reproduced": counts["not_reproduced"],
            "changed": dict(sorted(self._changed.items())),
            "fallbacks": counts["fallbacks"],
            "fallbacks_then": counts["fallbacks_then"],
            "waited_s": round(sums["waited"], 3),
            "waited_s_then": round(sums["waited_then"], 3),
            "cost_usd": usd,
            "cost_usd_then": usd_then,
            "estimated_cost_usd": usd,
            "estimated_cost_usd_then": usd_then,
            "estimated_decisions": counts["estimated"],
            "unknown_dollars": counts["unknown"],
            "tier_changes": counts["tier_changes"],
            "passes": round(sums["passes"], 3),
            "passes_then": round(sums["passes_then"], 3),
            "passes_unknown": counts["passes_unknown"],
            "by_place": dict(sorted(self._places.items())),
            "by_place_then": dict(sorted(self._places_then.items())),
            "stays": dict(sorted(self._stays.items())),
            "changes": self._changes,
            "changes_left_out": self._left_out,
        }

    def said(self) -> list[str]:
        """Say what the estimate of success rests on, where there is one."""
        return [_of_success(self._success)] if self._counts["tier_changes"] else []


def _of_success(success: Success) -> str:
    """Say what the estimate of success rests on."""
    shares = "; ".join(success.said())
    if not shares:
        return (
            "Success of what would have changed its tier is not estimated: no work has "
            "been verified yet."
        )
    return (
        "Success of what would have changed its tier is estimated by how often work passed "
        f"its verification at the first round there: {shares}. A second round, and what "
        "an escalation after it would have cost, are not in it."
    )


def _why(event: c.TaskRouted, best: c.Candidate) -> str:
    """Name the factors of the one now chosen that differ from the recorded ones."""
    before = {(one.host, one.endpoint): one for one in event.candidates}
    recorded = before[best.host, best.endpoint]
    moved = [
        f"{name} {getattr(recorded.factors, name):.3g} → {getattr(best.factors, name):.3g}"
        for name in c.Factors.__struct_fields__
        if getattr(recorded.factors, name) != getattr(best.factors, name)
    ]
    return "; ".join(moved) or "the factors of the one chosen then fell below it"


def _waited(past: PastDecision) -> float:
    """Return how long the task itself waited for its tier."""
    wait = past.event.wait
    if wait is None:
        return 0.0
    begun = max(instant_of(wait.since), past.ready_at)
    if wait.outcome == "avoided":
        return wait.waited_s
    return max(0.0, instant_of(past.event.at) - begun)


def _place(tier: str, host: str, endpoint: str) -> str:
    return f"{tier} {endpoint}@{host}" if endpoint else f"{tier} {host}"


def _with_model(one: Alternative) -> str:
    return f"{one.place} {one.model}" if one.model else one.place
