"""Commands about hosts, shared endpoints, alerts and the policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from actors.gateway.tasks import DECIDE_AGAIN, GatewayCommands, hosts_named, was_said
from actors.rules import policy as policies
from events import catalogue as c
from events import commands as m
from events import subjects
from events.codec import Reader, convert, encode
from events.errors import Conflict, Malformed, Unreachable
from events.mail import Drain, DrainOrResume, Fetch, Inspect, Reply, Resume

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.gateway.tasks import Said

HOST_ANSWER_S: Final = 2.0
"""How long a host may take to answer its mail."""
FETCH_ANSWER_S: Final = 10.0
"""How long it may take to read a piece of a file."""
DETAIL_LENGTH: Final = 1_000
"""So much is passed on of what a host says."""

_replies: Reader[Reply] = Reader(Reply)


class AdminCommands(GatewayCommands):
    """Carries out what operators ask for; each method is one command."""

    # -- hosts -------------------------------------------------------------------------

    async def drain(self, command: m.DrainHost, who: str) -> m.Done | m.Refusal:
        """Have a host finish what runs and take nothing new."""
        reason = command.reason or f"by {who}"
        return await self._steer(
            command.host,
            lambda incarnation, version: Drain(
                incarnation=incarnation, version=version, reason=reason
            ),
        )

    async def resume(self, command: m.ResumeHost, who: str) -> m.Done | m.Refusal:
        """Have a host take work again."""
        return await self._steer(
            command.host,
            lambda incarnation, version: Resume(
                incarnation=incarnation, version=version
            ),
        )

    async def forget(self, command: m.ForgetHost, who: str) -> m.Done | m.Refusal:
        """Strike a host that left or was lost from the lists."""
        if not self._view.fleet.has_joined(command.host):
            return m.refuse("not_found", self._no_host(command.host), "host")
        if self._view.fleet.hosts[command.host].live:
            return m.refuse(
                "conflict",
                f"host: {command.host} is there; end its sidecar first, or have it drain",
                "host",
            )
        event = self._stamp().on(c.HostForgotten, host=command.host, requested_by=who)
        return m.Done(seq=await self._log.append(subjects.fleet(command.host), event))

    async def fetch(self, command: m.FetchFile, who: str) -> m.Fetched | m.Refusal:
        """Read from the folder that its last host keeps of a task."""
        runs = await self._log.read(subjects.runs_of(command.task_id))
        hosts = [
            each.event.host
            for each in runs
            if isinstance(each.event, (c.TaskAccepted, c.TaskStarted))
        ]
        if not hosts:
            return m.refuse(
                "not_found", f"no host has worked on task {command.task_id}", "task_id"
            )
        host = hosts[-1]
        mail = Fetch(task_id=command.task_id, path=command.path, offset=command.offset)
        reply = await self._ask(
            host, mail, subjects.task_mailbox(host, command.task_id), FETCH_ANSWER_S
        )
        if isinstance(reply, m.Refusal):
            return reply
        if reply.ok:
            return convert({**reply.info, "ok": True, "host": host}, m.Fetched)
        if reply.code == "malformed":
            detail = f"host {host} is of an older version and keeps nothing to fetch"
            return m.refuse("refused", detail)
        problem = f"{host}: {reply.detail[:DETAIL_LENGTH]}"
        if reply.code == "not_found":
            return m.refuse("not_found", problem, "path")
        return m.refuse("refused", problem, "path")

    def _no_host(self, name: str) -> str:
        """Say that no host has this name, and which names there are."""
        hosts = hosts_named(self._view)
        return f"no host {name}; hosts: {hosts}"

    async def _steer(
        self, host: str, mail: Callable[[str, int], DrainOrResume]
    ) -> m.Done | m.Refusal:
        """Look how the host stands and send mail for that; again if it moved meanwhile.

        `mail` is made of the incarnation and the version that were seen, see `DrainOrResume`.
        """
        for _ in range(DECIDE_AGAIN):
            inspection = await self._ask(host, Inspect())
            if isinstance(inspection, m.Refusal):
                return inspection
            reply = await self._ask(host, mail(*_version_in(inspection)))
            if isinstance(reply, m.Refusal):
                return reply
            if reply.ok:
                return m.Done(detail=reply.detail[:DETAIL_LENGTH])
            if reply.code != "conflict":
                # Hosts have codes of their own; they are passed on.
                return m.Refusal(
                    code=reply.code[:64] or "refused",
                    error=reply.detail[:DETAIL_LENGTH],
                    status=m.STATUS["refused"],
                )
        return m.refuse(
            "conflict", f"host {host} is drained and resumed by others; try again"
        )

    async def _ask(
        self,
        host: str,
        mail: DrainOrResume | Inspect | Fetch,
        mailbox: str = "",
        timeout_s: float = HOST_ANSWER_S,
    ) -> Reply | m.Refusal:
        """Send mail to a host, or to a mailbox of its; return what it answers."""
        try:
            raw = await self._bus.request(
                mailbox or subjects.host_mailbox(host), encode(mail), timeout=timeout_s
            )
        except Unreachable:
            if not self._view.fleet.has_joined(host):
                return m.refuse("not_found", self._no_host(host), "host")
            return m.refuse(
                "unreachable", f"host {host} does not answer; is its sidecar running?"
            )
        try:
            return _replies.decode(raw)
        except Malformed as error:
            # The host's mistake, not the requester's.
            return m.refuse(
                "bad_gateway", f"host {host} answered what is no answer: {error}"
            )

    # -- shared endpoints and alerts ---------------------------------------------------

    async def add_endpoint(
        self, command: m.AddEndpoint, who: str
    ) -> m.Done | m.Refusal:
        """Add a shared endpoint; done already where the same one was added before."""
        address = command.url.partition("://")[2]
        if "@" in address.partition("/")[0] or "?" in address:
            return m.refuse(
                "malformed",
                "url: expected an address without a password or a query, because every "
                "reader of the log sees it; name that server in a host's sidecar.toml",
                "url",
            )
        subject = subjects.fleet(command.endpoint)
        said = (c.EndpointAdded, who, command.id)
        old, at, expect, carried_out = await self._endpoint_at(subject, said)
        url = command.url.rstrip("/")
        if carried_out and old is None:
            return m.Done(detail="was added before, and is removed since")
        if old is not None:
            if (old.kind, old.url, old.slots) == (command.kind, url, command.slots):
                return m.Done(seq=at, detail="was added before")
            return m.refuse(
                "conflict",
                f"endpoint: {command.endpoint} exists with {old.url}; remove it first",
                "endpoint",
            )
        event = self._stamp().on(
            c.EndpointAdded,
            endpoint=command.endpoint,
            kind=command.kind,
            url=url,
            slots=command.slots,
            requested_by=who,
            command_id=command.id or "",
        )
        return m.Done(seq=await self._log.append(subject, event, expect=expect))

    async def _endpoint_at(
        self, subject: str, said: Said
    ) -> tuple[c.EndpointAdded | None, int, int, bool]:
        """Return the endpoint in force there and its sequence, where the subject stands,
        and whether this very command was carried out before.

        A host of the same name has its loss recorded on the same subject.
        """
        history = await self._log.read(subject)
        added, at, last = None, 0, 0
        for recorded in history:
            last = recorded.seq
            if isinstance(recorded.event, c.EndpointAdded):
                added, at = recorded.event, last
            elif isinstance(recorded.event, c.EndpointRemoved):
                added = None
        return added, at, last, any(was_said(each.event, said) for each in history)

    async def remove_endpoint(
        self, command: m.RemoveEndpoint, who: str
    ) -> m.Done | m.Refusal:
        """Remove a shared endpoint."""
        subject = subjects.fleet(command.endpoint)
        said = (c.EndpointRemoved, who, command.id)
        added, _, expect, carried_out = await self._endpoint_at(subject, said)
        if carried_out:
            return m.Done(detail="was removed before")
        if added is None:
            return m.refuse(
                "not_found",
                f"endpoint: no shared endpoint {command.endpoint} was added",
                "endpoint",
            )
        event = self._stamp().on(
            c.EndpointRemoved,
            endpoint=command.endpoint,
            requested_by=who,
            command_id=command.id or "",
        )
        return m.Done(seq=await self._log.append(subject, event, expect=expect))

    async def acknowledge(
        self, command: m.AcknowledgeAlert, who: str
    ) -> m.Done | m.Refusal:
        """Note that somebody has seen a tier's alert."""
        if not self._view.tiers[command.tier].alerted:
            return m.refuse(
                "not_found", f"there is no alert about {command.tier}", "tier"
            )
        event = self._stamp().on(
            c.AlertAcknowledged, tier=command.tier, requested_by=who
        )
        return m.Done(seq=await self._log.append(subjects.tier(command.tier), event))

    async def clear_limit(self, command: m.ClearLimit, who: str) -> m.Done | m.Refusal:
        """Lift the limit of the account behind a tier."""
        if self._view.tiers[command.tier].limited_until == float("-inf"):
            return m.refuse("not_found", f"there is no limit on {command.tier}", "tier")
        event = self._stamp().on(
            c.TierLimitCleared,
            tier=command.tier,
            reason=command.reason,
            requested_by=who,
        )
        return m.Done(seq=await self._log.append(subjects.tier(command.tier), event))

    # -- the policy --------------------------------------------------------------------

    async def validate_policy(self, command: m.SetPolicy, who: str) -> m.Done:
        """Answer what a change of the policy would change, and change nothing."""
        current, version, _ = await self._policy()
        changed = policies.differences(
            current, policies.with_changes(current, command.policy)
        )
        return m.Done(detail=f"valid; differs from version {version} in: {changed}")

    async def set_policy(self, command: m.SetPolicy, who: str) -> m.Done | m.Refusal:
        """Change the policy; whatever the command does not name stays as it is."""
        for _ in range(DECIDE_AGAIN):
            try:
                return await self._set_policy_once(command, who)
            except Conflict:
                # Another change came first: it stays, and this one is laid over it.
                continue
        return m.refuse("conflict", "the policy changes too fast; try again")

    async def _set_policy_once(
        self, command: m.SetPolicy, who: str
    ) -> m.Done | m.Refusal:
        current, version, seq = await self._policy()
        if command.based_on is not None and command.based_on != version:
            return m.refuse(
                "conflict",
                f"based_on: the policy is at version {version}, "
                f"not {command.based_on}; read it again",
                "based_on",
            )
        new = policies.with_changes(current, command.policy)
        changed = policies.differences(current, new)
        if not changed:
            return m.Done(detail=f"nothing differs from version {version}")
        event = self._stamp().on(
            c.PolicyChanged,
            version=version + 1,
            policy=policies.document(new),
            changed=changed,
            requested_by=who,
        )
        stored = await self._log.append(subjects.POLICY, event, expect=seq)
        return m.Done(seq=stored, detail=f"version {version + 1}: {', '.join(changed)}")

    async def _policy(self) -> tuple[policies.Policy, int, int]:
        """Return the policy in force, its version, and the sequence of its event."""
        last = await self._log.last(subjects.POLICY)
        if last is None or not isinstance(last.event, c.PolicyChanged):
            return policies.Policy(), 0, last.seq if last is not None else 0
        return policies.parse(last.event.policy), last.event.version, last.seq


def _version_in(inspection: Reply) -> tuple[str, int]:
    """Return a host's incarnation and drain version; "" and 0 of an older host, which says
    none. `turns` is that version's name in the reply."""
    incarnation = inspection.info.get("incarnation")
    version = inspection.info.get("turns")
    if not isinstance(incarnation, str) or not isinstance(version, int):
        return "", 0
    return (incarnation, version) if 0 <= version < 2**31 else ("", 0)
