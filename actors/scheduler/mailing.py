"""What hosts are told: assignments, cancellations, shared endpoints, to join again.

Nothing here is the truth: an assignment is mailed because its routing is in the log. What
gets lost on the way is sent again, by `role` where nobody answered or because a beat shows
that it is missing, so a host may be told anything twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from actors import lifecycle
from actors.scheduler import dispatch, returns
from actors.scheduler.outputs import Mail, SpecNeeded
from events.mail import Assign, Cancel, Evict, Rejoin, SharedEndpoint, UseEndpoints

if TYPE_CHECKING:
    from actors.lifecycle import TaskState
    from actors.scheduler.leadership import Leadership
    from actors.scheduler.live import LiveTask
    from actors.scheduler.outputs import Effect
    from actors.scheduler.state import SchedulerState
    from events import catalogue as c


def send_assignment(
    state: SchedulerState, lead: Leadership, live: LiveTask
) -> list[Effect]:
    """Send a route to its host; its task may have to be read from the log first."""
    task = live.task
    spec = state.specs.get(task.task_id)
    if spec is None or task.inputs:
        seq = task.submitted_seq
        return [SpecNeeded(task.task_id, task.route, seq, task.inputs)]
    mail = assignment(state, lead, task.task_id, task.route, spec)
    return [mail] if mail is not None else []


def assignment(
    state: SchedulerState, lead: Leadership, task_id: str, route: str, spec: c.TaskSpec
) -> Mail | None:
    """Write the assignment of a route; None if it is no longer to be sent."""
    live = state.tasks.get(task_id)
    if live is None or live.routed is None:
        return None
    if live.task.route != route or live.task.phase != "routed":
        return None
    routed, policy = live.routed, state.policy
    host = state.fleet.hosts.get(routed.selected_host)
    place = state.fleet.find(routed.selected_host, routed.selected_endpoint, live.kind)
    return Mail(
        routed.selected_host,
        Assign(
            epoch=lead.epoch,
            task_id=task_id,
            route=route,
            generation=routed.generation,
            attempt=routed.attempt,
            spec=spec,
            tier=routed.effective_tier,
            target_type=routed.target_type,
            endpoint=routed.selected_endpoint,
            endpoint_kind=place.endpoint_kind if place is not None else None,
            endpoint_url=place.url if place is not None else "",
            model=routed.selected_model,
            equivalent_model=policy.equivalent,
            max_budget_usd=lifecycle.budget_left(
                live.task, policy.max_budget_usd_per_task
            ),
            limits=policy.limits,
            mode="work" if live.base.work else None,
            incarnation=host.incarnation if host is not None and host.present else "",
            escalates=_escalates(state, live, spec),
            lent=_lent(state, live),
            last_resort=_is_last_resort(live, routed),
            others=_has_others(state, live, routed),
            log_s=round(max(0.0, state.time.last), 3),
        ),
    )


def _lent(state: SchedulerState, live: LiveTask) -> list[str]:
    """Return the routes on a child's host whose slots count as free for it."""
    task = live.task
    if not live.base.child:
        return []
    slots = state.fleet.slots_of(task.host, task.endpoint, live.kind)
    return state.families.lent_to(task.host, slots, state.tasks)


def _is_last_resort(live: LiveTask, routed: c.TaskRouted) -> bool:
    """Whether a route leads to what was excluded: only for want of any other place."""
    host, endpoint = routed.selected_host, routed.selected_endpoint
    names = {host, endpoint, f"{endpoint}@{host}"} - {""}
    return any(excluded in names for excluded, _ in live.task.excluded)


def _has_others(state: SchedulerState, live: LiveTask, routed: c.TaskRouted) -> bool:
    """Whether Claude Code of another host could do it, busy or not."""
    if routed.target_type != "claude":
        return False
    place = f"{routed.selected_endpoint}@{routed.selected_host}"
    pool = state.fleet.pool(live.requirement(()))
    return pool.available_to((*state.excluded(live), place))


def _escalates(state: SchedulerState, live: LiveTask, spec: c.TaskSpec) -> bool:
    """Whether work of this route that fails its verification is to be given back."""
    task = live.task
    if not spec.verification_steps or returns.is_used_up(task, task.attempts + 1):
        return False
    return dispatch.may_escalate(state, live.requirement(()))


def cancellation(lead: Leadership, task: TaskState) -> Mail:
    """Tell a task's host to stop its run."""
    return _cancel(lead, task.host, task.task_id, task.route, "cancelled")


def _cancel(lead: Leadership, host: str, task_id: str, route: str, reason: str) -> Mail:
    message = Cancel(epoch=lead.epoch, task_id=task_id, route=route, reason=reason)
    return Mail(host, message)


def stop_strays(state: SchedulerState, lead: Leadership, beat: c.Beat) -> list[Mail]:
    """Cancel what a host runs on routes that are not in force."""
    mails = []
    for run in beat.held:
        if run.phase == "finished" or run.task_id in state.coming_back:
            continue
        live = state.tasks.get(run.task_id)
        if (
            live is None
            or live.task.route != run.route
            or live.task.phase not in ("routed", "accepted", "running")
        ):
            reason = "its route is not in force"
            mails.append(_cancel(lead, beat.host, run.task_id, run.route, reason))
    return mails


def rejoin(state: SchedulerState, lead: Leadership, name: str) -> Mail:
    """Ask a host to join or to recover: it beats, and the log does not have it as here."""
    host = state.fleet.hosts.get(name)
    incarnation = host.incarnation if host is not None and host.present else ""
    return Mail(name, Rejoin(epoch=lead.epoch, incarnation=incarnation))


def evict(lead: Leadership, name: str, incarnation: str, reason: str) -> Mail:
    """Tell one of two processes that are the same host to leave."""
    return Mail(name, Evict(epoch=lead.epoch, incarnation=incarnation, reason=reason))


def share_with_all(state: SchedulerState, lead: Leadership) -> list[Mail]:
    """Tell every host that is here which endpoints are shared."""
    message = _shared_endpoints(state, lead)
    return [
        Mail(host.name, message) for host in state.fleet.hosts.values() if host.live
    ]


def share_with(state: SchedulerState, lead: Leadership, name: str) -> Mail:
    """Tell one host which endpoints are shared."""
    return Mail(name, _shared_endpoints(state, lead))


def _shared_endpoints(state: SchedulerState, lead: Leadership) -> UseEndpoints:
    return UseEndpoints(
        epoch=lead.epoch,
        as_of=state.position,
        endpoints=[
            SharedEndpoint(
                endpoint=one.endpoint,
                kind=one.kind,
                url=one.url,
                slots=one.slots,
                added=one.id,
            )
            for one in state.shared.values()
        ],
    )
