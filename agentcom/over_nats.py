"""Commands and questions as NATS requests, output from the stream's subject.

The connection is made with the first question, comes back by itself, and is the only
thing here that knows NATS.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentcom.answers import Chunk, EndedAnswer, OutputAnswer, TaskAnswer
from agentcom.errors import Denied, Unreachable
from agentcom.transport import AGAIN, Patience, error_of, read

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from agentcom.finding import Broker

_ANSWER_S: Final = 5.0
_AGAIN_S: Final = 2.0
"""A command without an answer is given again after this, beside the first: whoever got it may
be cut off, and of several who could get it another may answer."""
_CONNECT_S: Final = 5.0
_ERROR_CODE: Final = "Nats-Service-Error-Code"
_DENIED: Final = re.compile(
    r'permissions violation for (\w+) to "([^"]+)"', re.IGNORECASE
)
_LOOK_S: Final = 10.0
"""How long one question about a task's end waits at most."""
_REST_S: Final = 2.0
"""How long the end of a task waits for the rest of its output to be stored."""
_TEXT: Final = frozenset({"stdout", "token"})
_ASK_S: Final = 0.25
"""How often a role that may not listen asks for output."""


class OverNats:
    """AgentCom's subjects on a broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._client: Client | None = None
        # What the connection's last error said.
        self._said = ""
        self._connecting = asyncio.Lock()
        # Subjects that the broker has refused, to those who wait for an answer.
        self._refusing: dict[str, asyncio.Future[str]] = {}
        # One for each question under way, done when the connection is lost.
        self._asked: set[asyncio.Future[None]] = set()

    async def _connected(self) -> Client:
        async with self._connecting:
            if self._client is None:
                self._client = await self._connect()
            return self._client

    async def _connect(self) -> Client:
        import nats.errors

        from agentcom.steady import SteadyClient

        where = ", ".join(self._broker.servers)
        client = SteadyClient()
        self._said = ""
        try:
            # nats-py itself tries for ever, also where a key is refused.
            async with asyncio.timeout(_CONNECT_S):
                await client.connect(
                    self._broker.servers,
                    nkeys_seed_str=self._broker.seed,
                    inbox_prefix=self._broker.inbox,
                    name=f"agentcom-library-{self._broker.role}",
                    max_reconnect_attempts=-1,
                    allow_reconnect=True,
                    reconnect_time_wait=0.1,  # type: ignore[arg-type]
                    connect_timeout=2,
                    # A broker that is silent is left after 6 to 9 s.
                    ping_interval=3,
                    max_outstanding_pings=2,
                    error_cb=self._on_error,
                    disconnected_cb=self._on_lost,
                )
        except (OSError, TimeoutError, nats.errors.Error) as error:
            reason = self._said or str(error) or "no answer"
            # It asserts that there was a connection to be made: not to a wrong address.
            with suppress(
                *(OSError, TimeoutError, RuntimeError, AssertionError),
                nats.errors.Error,
            ):
                async with asyncio.timeout(1):
                    await client.close()
            if "authorization" in reason.lower():
                raise Denied(
                    f"{where} does not take this key of the role {self._broker.role}",
                    code="denied",
                    status=403,
                ) from error
            raise Unreachable(f"no broker at {where} ({reason})") from error
        return client

    async def _on_error(self, error: Exception) -> None:
        """Match the broker's refusals, which come as text, to those who wait."""
        self._said = str(error)
        if match := _DENIED.search(str(error)):
            waiting = self._refusing.get(match[2])
            if waiting is not None and not waiting.done():
                waiting.set_result(match[2])

    async def _on_lost(self) -> None:
        """Let go of answers that were waited for: a broker that is gone brings none."""
        for lost in self._asked:
            if not lost.done():
                lost.set_result(None)

    async def command(self, name: str, body: dict[str, Any]) -> bytes:
        """Give a command."""
        return await self._ask(f"agentcom.cmd.{name}", body, _ANSWER_S, _AGAIN_S)

    async def query(self, name: str, body: dict[str, Any]) -> bytes:
        """Ask a question; one that waits is answered sooner than it asks for."""
        if "wait" in body:
            # Nobody says that whoever was to answer is gone: it is asked anew after this.
            body = {**body, "wait": min(float(body["wait"]), _LOOK_S)}
        timeout = _ANSWER_S + float(body.get("wait", 0)) + 5.0 * ("wait_seq" in body)
        return await self._ask(f"agentcom.query.{name}", body, timeout)

    async def _ask(
        self,
        subject: str,
        body: dict[str, Any],
        timeout: float,
        again: float | None = None,
    ) -> bytes:
        import nats.errors

        client = await self._connected()
        raw = msgspec.json.encode(body)
        patience: Patience | None = None
        while True:
            try:
                answer = await self._request(client, subject, raw, timeout, again)
            except nats.errors.Error as error:
                patience = patience or Patience()
                if await patience.again():
                    continue
                raise Unreachable(
                    f"nobody answers on {subject}: is `agentcom up` running, or its "
                    "scheduler and web?"
                ) from error
            code = (answer.headers or {}).get(_ERROR_CODE)
            if code is None:
                return answer.data
            error_said = error_of(answer.data, int(code))
            patience = patience or Patience()
            if error_said.code not in AGAIN or not await patience.again():
                raise error_said

    async def _request(
        self,
        client: Client,
        subject: str,
        raw: bytes,
        timeout: float,
        again: float | None,
    ) -> Msg:
        """Ask, and twice more after `again` seconds each; the first answer counts."""
        import nats.errors

        loop = asyncio.get_running_loop()
        lost: asyncio.Future[None] = loop.create_future()
        self._asked.add(lost)
        refusing = self._refusing.get(subject)
        if refusing is None or refusing.done():
            refusing = self._refusing[subject] = loop.create_future()
        asking: list[asyncio.Future[Msg]] = []
        try:
            for wait_s in (again, again, None):
                asked = client.request(subject, raw, timeout=timeout)
                asking.append(asyncio.ensure_future(asked))
                waited: list[asyncio.Future[Any]] = [*asking, refusing, lost]
                done, _ = await asyncio.wait(
                    waited, timeout=wait_s, return_when="FIRST_COMPLETED"
                )
                if done:
                    break
            for each in asking:
                if each.done():
                    return each.result()
            if lost.done():
                raise nats.errors.ConnectionClosedError
        finally:
            self._asked.discard(lost)
            for each in asking:
                each.cancel()
        raise Denied(
            f"the role {self._broker.role} may not use {subject}: name another key",
            code="denied",
            status=403,
        )

    def output(self, task_id: str) -> AsyncGenerator[Chunk]:
        """Yield a task's output: what is stored, and what comes meanwhile."""
        return _Output(self, task_id).pieces()

    async def listen(
        self, task_id: str, heard: Callable[[Chunk], None]
    ) -> Callable[[], Awaitable[None]] | None:
        """Hand on output as it comes; None for a role that may not listen."""
        if self._broker.role == "submitter":
            return None

        async def on(message: Msg) -> None:
            heard(msgspec.json.decode(message.data, type=Chunk))

        client = await self._connected()
        subscription = await client.subscribe(f"agentcom.out.*.{task_id}", cb=on)
        return subscription.unsubscribe

    async def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            await self._client.close()


class _Output:
    """One task's output: `reached` is the last piece of each route, `size` its text's."""

    def __init__(self, nats: OverNats, task_id: str) -> None:
        self._nats = nats
        self._task_id = task_id
        self._reached: dict[str, int] = {}
        self._size: dict[str, int] = {}
        # What has come; None where it has to be looked at what is stored.
        self._news: asyncio.Queue[Chunk | None] = asyncio.Queue()

    async def pieces(self) -> AsyncGenerator[Chunk]:
        """Yield all of it, each piece once, until the task is over."""
        leave = await self._nats.listen(self._task_id, self._news.put_nowait)
        ending = asyncio.create_task(self._end(_ASK_S if leave is None else _LOOK_S))
        rest: Patience | None = None
        try:
            while True:
                is_over = ending.done()
                answer = await self._task()
                for attempt in answer.routes:
                    while pieces := await self._stored(attempt.route):
                        for chunk in pieces:
                            yield chunk
                if is_over:
                    ending.result()
                    rest = rest or Patience(_REST_S)
                    if self._has_all(answer) or not await rest.again():
                        return
                    continue
                while (heard := await self._news.get()) is not None:
                    if heard.n > self._reached.get(heard.route, 0) + 1:
                        break  # something was missed: look at what is stored
                    if self._is_new(heard):
                        yield heard
        finally:
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)
            if leave is not None:
                await leave()

    async def _end(self, wait: float) -> None:
        """Return when the task is over; have the store looked at now and then."""
        question = {"task_ids": [self._task_id], "wait": wait}
        try:
            while not read(
                await self._nats.query("ended", question), EndedAnswer
            ).ended:
                self._news.put_nowait(None)
        finally:
            self._news.put_nowait(None)

    async def _task(self) -> TaskAnswer:
        raw = await self._nats.query("task", {"task_id": self._task_id})
        return read(raw, TaskAnswer)

    async def _stored(self, route: str) -> list[Chunk]:
        """Return what is stored of a route behind what was reached, as one answer holds."""
        question = {"task_id": self._task_id, "route": route}
        behind = {"after_n": self._reached.get(route, 0)}
        raw = await self._nats.query("output", {**question, **behind})
        return [
            chunk for chunk in read(raw, OutputAnswer).chunks if self._is_new(chunk)
        ]

    def _is_new(self, chunk: Chunk) -> bool:
        if chunk.n <= self._reached.get(chunk.route, 0):
            return False
        self._reached[chunk.route] = chunk.n
        if chunk.event_type in _TEXT:
            size = self._size.get(chunk.route, 0) + len(chunk.text.encode())
            self._size[chunk.route] = size
        return True

    def _has_all(self, answer: TaskAnswer) -> bool:
        """Whether the output is as long as the task's result says."""
        result, routes = answer.task.result, answer.routes
        if result is None or not routes:
            return True
        return self._size.get(routes[-1].route, 0) >= result.output_bytes
