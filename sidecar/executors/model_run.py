"""What runs on Ollama and on OpenAI-compatible servers have in common.

One try is one streamed request: connect, wait for the first token (longer where the model
has to be loaded), then never wait for a token longer than the idle limit. Only the
stream's own end is success. A try that failed is repeated at once, as often as the limits
say; then, or at once where it cannot help, one of two things follows:

- the work's own answer (a bad request, a refusal, the time is up): `Finished`, failed;
- this server's fault (connection, a stream that died, 5xx, the model is gone, a key that
  it does not take): `Returned`, for another endpoint.

What differs between servers is a `Dialect`: bytes in, `Piece`s out.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Protocol

import aiohttp
from msgspec import Struct

from events import catalogue as c
from events import header
from sidecar.executors.ndjson import Broken
from sidecar.executors.port import Finished, RawResult, Returned, Stopped
from sidecar.executors.watch import Watchdog
from sidecar.http import http_client
from sidecar.output import HeadTail

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from events.commands import Assign
    from sidecar.executors.port import Emit, Outcome, Run, Stop


_ERROR_BODY = 64 * 1024
_MODELS_BODY = 8 * 2**20


class Token(Struct, frozen=True):
    """A piece of the answer."""

    text: str


class Thought(Struct, frozen=True):
    """A piece of what the model thinks before it answers."""

    text: str


class TokenCounts(Struct, frozen=True, kw_only=True):
    """Tokens as the server counted them; None where it did not say.

    `tokens_in` excludes what came from its cache. `free` is False where the server hands
    the work to somebody who wants to be paid.
    """

    tokens_in: int | None = None
    tokens_out: int | None = None
    cache_read: int = 0
    model: str | None = None
    free: bool = True


class ReplyEnd(Struct, frozen=True, kw_only=True):
    """The stream's own end."""

    counts: TokenCounts
    reason: str = "stop"


class ModelFault(Struct, frozen=True, kw_only=True):
    """Why a try failed, and what follows.

    `again`: a second try may help. `whose`: the work's own answer, or the server's
    trouble. `unusable`: the next task would meet the same trouble there.
    """

    code: str
    message: str
    again: bool = True
    whose: Literal["work", "server"] = "server"
    unusable: bool = False


Piece = Token | Thought | ReplyEnd | ModelFault | Broken


class ReplyReader(Protocol):
    """Turns an answer's bytes into pieces. Pure."""

    def feed(self, data: bytes) -> list[Piece]: ...

    def close(self) -> list[Piece]: ...


class ModelRequest(Struct, frozen=True):
    """A request: where to, and what."""

    path: str
    body: bytes


class Dialect(Protocol):
    """What is particular to one kind of server. Pure but for `learn`."""

    name: str

    def request(self, run: Run) -> ModelRequest: ...

    def reader(self) -> ReplyReader: ...

    def refused(self, status: int, body: bytes, model: str) -> ModelFault: ...

    def learn(self, url: str, status: int, body: bytes) -> bool:
        """Learn from a refusal; whether another way of asking should be tried now."""
        ...

    def loaded_path(self) -> str | None:
        """Where the server says which models it holds in memory."""
        ...

    def is_loaded(self, body: bytes, model: str) -> bool: ...

    def remark(self, run: Run, done: ReplyEnd) -> str | None:
        """What people should know about an answer that counts as one."""
        ...


class ModelTry:
    """One request: what has come of it so far, and how it ended.

    Ends with `done` or with `fault`, never both. `tokens` counts pieces of answer and
    thought, as the server cut them; `answered` says that the server's answer has begun.
    """

    def __init__(self, limit: int) -> None:
        self.text = HeadTail(limit)
        self.tokens = 0
        self.fault: ModelFault | None = None
        self.done: ReplyEnd | None = None
        self.simulated = False
        self.answered = False


class ModelExecutor:
    """Runs prompts on one kind of model server. `close` it at the end."""

    def __init__(
        self, dialect: Dialect, api_key: Callable[[str], str | None] | None = None
    ) -> None:
        """`api_key` maps an endpoint's name to the key it wants; None for none."""
        self._dialect = dialect
        self._api_key = api_key or (lambda _: None)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Let go of the sockets."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def run(self, run: Run, emit: Emit, stop: Stop) -> Outcome:
        """Run it, with the host's own retries."""
        began = time.monotonic()
        limits = run.assign.limits
        watch = Watchdog(stop, limits.run_timeout_s)
        try:
            for number in range(1, limits.model_retries + 2):
                try_ = await self._try(run, emit, watch)
                result = _result(try_, run.assign, began)
                if watch.stopped:
                    return Stopped(result=result)
                fault = try_.fault
                if fault is None:
                    return Finished(result)
                if not fault.again or number > limits.model_retries:
                    return self._failed(fault, result, number, run.assign, emit)
                emit.retrying(
                    f"{self._dialect.name} retry {number}/{limits.model_retries}...",
                    retry=number,
                    of=limits.model_retries,
                    reason=fault.message,
                )
            raise AssertionError("unreachable")
        finally:
            watch.close()

    def _failed(
        self,
        fault: ModelFault,
        result: RawResult,
        tries: int,
        assign: Assign,
        emit: Emit,
    ) -> Outcome:
        attempts = "1 attempt" if tries == 1 else f"{tries} attempts"
        text = f"{self._dialect.name} failed after {attempts}: {fault.message}"
        emit.error(text, fault.code)
        if fault.whose == "work":
            return Finished(result)
        return Returned(
            reason="endpoint_failed",
            detail=fault.message,
            exclude=assign.endpoint or None,
            unusable=fault.unusable,
            result=result,
        )

    async def _try(self, run: Run, emit: Emit, watch: Watchdog) -> ModelTry:
        try_ = ModelTry(run.assign.limits.output_limit_bytes)
        limits = run.assign.limits
        interruption = None
        try:
            interruption = await watch.guard(self._request(run, emit, watch, try_))
        except (aiohttp.InvalidURL, ValueError) as wrong:
            message = f"cannot be asked: {wrong}"
            try_.fault = ModelFault(code="bad_endpoint", message=message, again=False)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as wrong:
            try_.fault = ModelFault(
                code="unreachable", message=f"no connection: {wrong}"
            )
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as wrong:
            message = f"connection lost: {str(wrong) or type(wrong).__name__}"
            try_.fault = ModelFault(code="stream_died", message=message)
        finally:
            watch.allow(None)
        match interruption:
            case "silent" if try_.tokens:
                message = f"no token for {limits.idle_timeout_s:g}s"
                try_.fault = ModelFault(code="idle_timeout", message=message)
            case "silent":
                try_.fault = ModelFault(
                    code="first_token_timeout", message="no first token in time"
                )
            case "overtime":
                message = f"not finished after {limits.run_timeout_s:g}s"
                try_.fault = ModelFault(
                    code="timeout", message=message, again=False, whose="work"
                )
            case "stopped":
                message = "stopped"
                try_.fault = ModelFault(code="stopped", message=message, again=False)
            case _:
                pass
        return try_

    async def _request(
        self, run: Run, emit: Emit, watch: Watchdog, try_: ModelTry
    ) -> None:
        session = self._connected()
        base = run.assign.endpoint_url.rstrip("/")
        limits = run.assign.limits
        key = self._api_key(run.assign.endpoint)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        connect = aiohttp.ClientTimeout(
            total=None, sock_connect=limits.connect_timeout_s
        )
        warm = await self._is_warm(session, run, base, headers)
        watch.allow(limits.first_token_warm_s if warm else limits.first_token_cold_s)
        while True:
            request = self._dialect.request(run)
            async with session.post(
                base + request.path,
                data=request.body,
                headers={"Content-Type": "application/json", **headers},
                timeout=connect,
                allow_redirects=False,
            ) as answer:
                try_.answered = True
                try_.simulated = header.SIMULATED in answer.headers
                if answer.status == 200:
                    try:
                        await self._listen(answer, run, emit, watch, try_)
                    finally:
                        answer.close()
                    return
                body = await answer.content.read(_ERROR_BODY)
                answer.close()
            if not self._dialect.learn(base, answer.status, body):
                try_.fault = self._dialect.refused(
                    answer.status, body, run.assign.model
                )
                return

    async def _is_warm(
        self,
        session: aiohttp.ClientSession,
        run: Run,
        base: str,
        headers: Mapping[str, str],
    ) -> bool:
        """Whether the model is in memory; what cannot be learned counts as cold."""
        path = self._dialect.loaded_path()
        if path is None:
            return False
        limit = aiohttp.ClientTimeout(total=run.assign.limits.connect_timeout_s)
        with suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with session.get(
                base + path, headers=headers, timeout=limit, allow_redirects=False
            ) as answer:
                if answer.status == 200:
                    body = await answer.content.read(_MODELS_BODY)
                    return self._dialect.is_loaded(body, run.assign.model)
        return False

    async def _listen(
        self,
        answer: aiohttp.ClientResponse,
        run: Run,
        emit: Emit,
        watch: Watchdog,
        try_: ModelTry,
    ) -> None:
        reader = self._dialect.reader()
        idle = run.assign.limits.idle_timeout_s
        async for data in answer.content.iter_any():
            for piece in reader.feed(data):
                self._take(piece, run, emit, try_)
                if try_.done is not None or try_.fault is not None:
                    return
                if try_.tokens == 1:
                    watch.allow(idle)
                else:
                    watch.heard()
        for piece in reader.close():
            if try_.done is None and try_.fault is None:
                self._take(piece, run, emit, try_)
        if try_.done is None and try_.fault is None:
            try_.fault = ModelFault(
                code="stream_died",
                message=f"the stream ended after {try_.tokens} tokens without saying so",
            )

    def _take(self, piece: Piece, run: Run, emit: Emit, try_: ModelTry) -> None:
        match piece:
            case Token():
                try_.tokens += 1
                try_.text.feed(piece.text.encode("utf-8", "replace"))
                emit.text("token", piece.text, tokens_so_far=try_.tokens)
            case Thought():
                try_.tokens += 1
                emit.text("thinking", piece.text, tokens_so_far=try_.tokens)
            case ReplyEnd():
                try_.done = piece
                remark = self._dialect.remark(run, piece)
                if remark is not None:
                    emit.status(remark)
            case ModelFault():
                try_.fault = piece
            case Broken():
                message = f"the stream holds what cannot be read: {piece}"
                try_.fault = ModelFault(code="malformed_stream", message=message)

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = http_client(keep_alive=False)
        return self._session


def _result(try_: ModelTry, assign: Assign, began: float) -> RawResult:
    """The try's result. Counts of tries before it are not in it: they cost nothing."""
    counts = try_.done.counts if try_.done is not None else None
    if counts is None:
        # Nothing was counted for a try that died; where no answer had begun, nothing was
        # spent.
        counts = (
            TokenCounts(tokens_in=None, tokens_out=try_.tokens or None)
            if try_.answered
            else TokenCounts(tokens_in=0, tokens_out=0)
        )
    fault = try_.fault
    return RawResult(
        status="success" if fault is None else "failed",
        output=try_.text.text(),
        error=None if fault is None else c.RunError(fault.code, fault.message),
        model_used=counts.model or assign.model or "unknown",
        tokens_in=counts.tokens_in,
        tokens_out=counts.tokens_out,
        cache_read_tokens=counts.cache_read,
        cost_known=counts.free,
        execution_ms=(time.monotonic() - began) * 1000,
        output_bytes=try_.text.size,
        output_sha256=try_.text.sha256,
        truncated=try_.text.truncated,
        simulated=try_.simulated,
    )


def fault_of_status(status: int, message: str, model: str) -> ModelFault:
    """What a status other than 200 means; `message` is the server's own text."""
    text = message or f"status {status}"
    shown = f"{text} (status {status})"
    match status:
        case 404:
            code = "model_missing"
            return ModelFault(
                code=code, message=message or f"no model {model!r}", again=False
            )
        case 401 | 402 | 403:
            code = "credit" if status == 402 else "not_authorised"
            return ModelFault(code=code, message=shown, again=False, unusable=True)
        case 408 | 425 | 429 | 499:
            return ModelFault(code="busy", message=shown)
        case _ if 400 <= status < 500:
            long = status == 413 or "context length" in text or "too long" in text
            code = "prompt_too_long" if long else "bad_request"
            return ModelFault(code=code, message=text, again=False, whose="work")
        case 503:
            return ModelFault(code="busy", message=text)
        case _ if status >= 500:
            return ModelFault(code="server_error", message=shown)
        case _:
            code = "bad_endpoint"
            return ModelFault(code=code, message=f"unexpected {shown}", again=False)
