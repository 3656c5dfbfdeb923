"""What runs on Ollama and on OpenAI-compatible servers have in common.

One try is one streamed request: connect, wait for the first token (longer where the model
has to be loaded), then never wait for a token longer than the idle limit. Only the
stream's own end, with an answer in it, is success. A try that failed is repeated after a
pause, as often as the limits say, and a server that is loading its model is waited for;
then, or at once where it cannot help, one of three things follows:

- the work's own answer (a bad request, a refusal, no answer, the time is up): `Finished`,
  failed;
- this server's fault (connection, a stream that died, 5xx, the model is gone, a key that
  it does not take): `Returned`, for another endpoint;
- this server's limit (it is busy, its context is too small): `Returned` too, but nothing is
  wrong with it.

What differs between servers is a `Dialect`; vectors are asked for in one of their own.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import aiohttp
from msgspec import structs

from events import catalogue as c
from events import header
from events.chunks import Calls, call_line
from sidecar.executors.embed import EmbedDialect, EmbedReader
from sidecar.executors.fitting import FEEDBACK, faulty, unfit_answer, with_spent
from sidecar.executors.ndjson import Broken
from sidecar.executors.pieces import (
    CallPart,
    Piece,
    ReplyEnd,
    Thought,
    Token,
    TokenCounts,
)
from sidecar.executors.port import (
    Finished,
    RawResult,
    Returned,
    Stopped,
    Turn,
    time_limit,
)
from sidecar.executors.server_errors import ModelFault, retry_after
from sidecar.executors.watch import Watchdog
from sidecar.http import base_url, http_client, why_not, without_secrets
from sidecar.output import HeadTail

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from events.mail import Assign
    from sidecar.executors.dialect import Dialect, ReplyReader
    from sidecar.executors.port import Emit, Outcome, Run, Stop


_ERROR_BODY = 64 * 1024
_MODELS_BODY = 8 * 2**20
_LONGEST_PAUSE_S = 60.0
"""A server that wants to be left alone for longer is left to another task's time."""
_END_S = 3.0
"""An answer that is whole waits so long for its counts and for the stream's end."""


class ModelTry:
    """One request: what has come of it so far, and how it ended.

    Ends with `done`, with `fault`, or, where an answer came to its end and is none, with
    both. `tokens` counts pieces of answer and thought, as the server cut them; `spoke`
    says that the answer holds more than white space, `thought` that the model thought
    before it, `answered` that the server's answer has begun.
    """

    def __init__(self, dialect: Dialect, limit: int) -> None:
        self.dialect = dialect
        self.text = HeadTail(limit)
        self.tokens = 0
        self.spoke = False
        self.thought = False
        self.calls = Calls()
        self.fault: ModelFault | None = None
        self.done: ReplyEnd | None = None
        self.simulated = False
        self.answered = False
        self.reader: ReplyReader | None = None

    @property
    def over(self) -> bool:
        """Whether nothing that comes counts any more."""
        return self.done is not None or self.fault is not None


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
        watch = Watchdog(stop, time_limit(run.assign))
        number, loading = 1, _Loading(limits.first_token_cold_s)
        spent: RawResult | None = None  # of the round before, whose answer did not fit
        try:
            while True:
                try_ = await self._try(run, emit, watch)
                result = _result(try_, run.assign, began)
                if watch.stopped:
                    return Stopped(result=result)
                fault = try_.fault
                if fault is None:
                    unfit = await unfit_answer(run, watch, result)
                    if watch.stopped:
                        return Stopped(result=with_spent(spent, result))
                    if unfit is None:
                        return Finished(with_spent(spent, result))
                    if spent is not None:
                        result = faulty(with_spent(spent, result), unfit)
                        return self._failed(unfit, result, 2, run.assign, emit)
                    emit.retrying(
                        f"{self._dialect.name} is asked again: {unfit.message}",
                        retry=1,
                        of=1,
                        reason=unfit.message,
                    )
                    spent = result
                    turn = Turn(result.output, FEEDBACK.format(unfit.message))
                    run = structs.replace(run, turns=(*run.turns, turn))
                    continue
                if fault.loading and (wait_s := loading.pause(fault)):
                    if loading.waits == 1:
                        emit.status(f"{self._dialect.name} is loading: {fault.message}")
                    await watch.guard(asyncio.sleep(wait_s))
                    continue
                pauses = limits.model_backoff_s or [0.0]
                pause_s = pauses[min(number, len(pauses)) - 1]
                if fault.retry_after_s is not None:
                    pause_s = max(pause_s, fault.retry_after_s)
                if (
                    not fault.again
                    or number > limits.model_retries
                    or pause_s > _LONGEST_PAUSE_S
                ):
                    return self._failed(
                        fault, with_spent(spent, result), number, run.assign, emit
                    )
                emit.retrying(
                    f"{self._dialect.name} retry {number}/{limits.model_retries}...",
                    retry=number,
                    of=limits.model_retries,
                    backoff_s=pause_s,
                    reason=fault.message,
                )
                await watch.guard(asyncio.sleep(pause_s))
                number += 1
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
        # What is no trouble of the server's does not count against it.
        reason = "endpoint_failed" if fault.whose == "server" else "endpoint_unfit"
        if fault.whose == "place" and fault.code == "busy":
            reason = "endpoint_busy"
        return Returned(
            reason=reason,
            detail=fault.message,
            exclude=assign.endpoint or None,
            unusable=fault.unusable,
            result=result,
        )

    async def _try(self, run: Run, emit: Emit, watch: Watchdog) -> ModelTry:
        limits = run.assign.limits
        embeds = run.assign.spec.embed is not None
        dialect = EmbedDialect() if embeds else self._dialect
        try_ = ModelTry(dialect, limits.output_limit_bytes)
        interruption = None
        try:
            interruption = await watch.guard(self._request(run, emit, watch, try_))
        except (aiohttp.InvalidURL, ValueError) as wrong:
            message = f"cannot be asked: {wrong}"
            try_.fault = ModelFault(code="bad_endpoint", message=message, again=False)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as wrong:
            try_.fault = ModelFault(
                code="unreachable", message=f"no connection: {why_not(wrong)}"
            )
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as wrong:
            message = f"connection lost: {str(wrong) or type(wrong).__name__}"
            try_.fault = ModelFault(code="stream_died", message=message)
        finally:
            watch.allow(None)
        match interruption:
            case "silent" if try_.reader is not None and try_.reader.finished:
                # It has said that it is whole and then not hung up.
                self._close(run, emit, try_)
            case "silent" if try_.tokens:
                message = f"no token for {limits.idle_timeout_s:g}s"
                try_.fault = ModelFault(code="idle_timeout", message=message)
            case "silent":
                try_.fault = ModelFault(
                    code="first_token_timeout", message="no first token in time"
                )
            case "overtime":
                message = f"not finished after {time_limit(run.assign):g}s"
                try_.fault = ModelFault(
                    code="timeout", message=message, again=False, whose="work"
                )
            case "stopped":
                message = "stopped"
                try_.fault = ModelFault(code="stopped", message=message, again=False)
            case _:
                pass
        if try_.fault is not None:
            self._hide_secrets(try_, run)
        return try_

    def _hide_secrets(self, try_: ModelTry, run: Run) -> None:
        """Keep the address's password and the key out of a message that repeats them."""
        assert try_.fault is not None
        key = None
        with suppress(ValueError):
            key = self._api_key(run.assign.endpoint)
        message = without_secrets(try_.fault.message, run.assign.endpoint_url, key)
        try_.fault = structs.replace(try_.fault, message=message)

    async def _request(
        self, run: Run, emit: Emit, watch: Watchdog, try_: ModelTry
    ) -> None:
        session = self._connected()
        base = base_url(self._dialect.kind, run.assign.endpoint_url)
        limits = run.assign.limits
        key = self._api_key(run.assign.endpoint)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        connect = aiohttp.ClientTimeout(
            total=None, sock_connect=limits.connect_timeout_s
        )
        watch.allow(limits.first_token_cold_s)

        async def expect_warm() -> None:
            """Wait less long for a first token where the model is in memory already."""
            if await self._is_warm(session, run, base, headers) and not try_.tokens:
                watch.allow(limits.first_token_warm_s)

        # Beside the request, not before it: a first token is not to wait for that.
        looking = asyncio.ensure_future(expect_warm())
        try:
            while True:
                request = try_.dialect.request(run, base)
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
                if not try_.dialect.learn(base, answer.status, body):
                    fault = try_.dialect.refused(answer.status, body, run.assign.model)
                    wait_s = retry_after(answer.headers)
                    try_.fault = structs.replace(fault, retry_after_s=wait_s)
                    return
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def _is_warm(
        self,
        session: aiohttp.ClientSession,
        run: Run,
        base: str,
        headers: Mapping[str, str],
    ) -> bool:
        """Whether the model is in memory; what cannot be learned counts as cold."""
        path = self._dialect.loaded_path
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
        reader = try_.reader = try_.dialect.reader(run)
        idle = run.assign.limits.idle_timeout_s
        try:
            async for data in answer.content.iter_any():
                for piece in reader.feed(data):
                    self._take(piece, run, emit, try_)
                    if try_.over:
                        return
                    if try_.tokens == 1:
                        watch.allow(idle)
                    else:
                        watch.heard()
                if reader.finished:
                    watch.allow(min(idle, _END_S))
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            if not reader.finished:
                raise
        self._close(run, emit, try_)

    def _close(self, run: Run, emit: Emit, try_: ModelTry) -> None:
        """Take what the end of the stream shows."""
        assert try_.reader is not None
        for piece in try_.reader.close():
            if not try_.over:
                self._take(piece, run, emit, try_)
        if not try_.over:
            try_.fault = ModelFault(
                code="stream_died",
                message=f"the stream ended after {try_.tokens} tokens without saying so",
            )

    def _take(self, piece: Piece, run: Run, emit: Emit, try_: ModelTry) -> None:
        match piece:
            case Token():
                try_.tokens += 1
                try_.spoke = try_.spoke or not piece.text.isspace()
                try_.text.feed(piece.text.encode("utf-8", "replace"))
                emit.text("token", piece.text, tokens_so_far=try_.tokens)
            case Thought():
                try_.tokens += 1
                try_.thought = True
                emit.text("thinking", piece.text, tokens_so_far=try_.tokens)
            case CallPart():
                try_.tokens += 1
                self._take_call(piece, run, emit, try_)
            case ReplyEnd():
                try_.done = piece
                is_chat = bool(run.assign.spec.messages)
                if not (try_.spoke or try_.calls) and not _may_be_empty(piece, is_chat):
                    try_.fault = _no_answer(piece, thought=try_.thought)
                remark = try_.dialect.remark(run, piece)
                if remark is None and piece.reason == "length":
                    remark = (
                        f"{self._dialect.name} stopped at the length limit: "
                        "the answer may be incomplete"
                    )
                if remark is not None:
                    emit.status(remark)
                is_limited = is_chat or run.assign.spec.max_tokens is not None
                if try_.fault is None and piece.reason == "length" and not is_limited:
                    try_.fault = ModelFault(
                        code="length_limit",
                        message=(
                            f"the answer was cut at {try_.tokens} tokens: ask for more "
                            "with max_tokens, or raise limits.max_output_tokens"
                        ),
                        again=False,
                        whose="work",
                    )
            case ModelFault():
                try_.fault = piece
            case Broken():
                message = f"the stream holds what cannot be read: {piece}"
                try_.fault = ModelFault(code="malformed_stream", message=message)

    def _take_call(self, piece: CallPart, run: Run, emit: Emit, try_: ModelTry) -> None:
        """Take a piece of a call; one whose server gives it no id gets ours."""
        id_ = piece.id
        if piece.index not in try_.calls:
            id_ = id_ or f"call_{run.assign.route}_{piece.index}"
        try_.calls.add(piece.index, id_, piece.name, piece.arguments)
        if try_.calls.size > run.assign.limits.output_limit_bytes:
            try_.fault = ModelFault(
                code="tool_calls",
                message="the model's calls of tools are longer than a host keeps",
                again=False,
                whose="work",
            )
            return
        line = call_line(piece.index, id_, piece.name, piece.arguments)
        emit.text("call", line, tokens_so_far=try_.tokens)

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = http_client(keep_alive=False)
        return self._session


class _Loading:
    """How long a server that loads its model is waited for: as for a first token."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._until: float | None = None
        self.waits = 0

    def pause(self, fault: ModelFault) -> float:
        """Return how long to wait before the next look; 0 when it took too long."""
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._limit_s
        usual_s = min(0.5 * 2**self.waits, 2.0)
        self.waits += 1
        return max(0.0, min(fault.retry_after_s or usual_s, self._until - now))


def _may_be_empty(end: ReplyEnd, is_chat: bool) -> bool:
    """Whether an answer may hold nothing: who sends messages judges it by himself."""
    return is_chat and end.reason not in ("load", "unload")


def _no_answer(end: ReplyEnd, *, thought: bool) -> ModelFault:
    """Say what is wrong with an answer that came to its end and holds nothing."""
    if end.reason in ("load", "unload"):
        message = f"the server gave no answer, only {end.reason}ed its model"
        return ModelFault(code="empty_answer", message=message)
    message = "the model gave an empty answer"
    if thought:
        message = "the model thought and gave no answer"
    if end.reason == "length":
        message += ": it was cut at the length limit"
    elif end.reason != "stop":
        message += f" ({end.reason})"
    again = end.reason != "length"
    return ModelFault(code="empty_answer", message=message, again=again, whose="work")


def _kept(try_: ModelTry) -> str:
    """Return what the log keeps of an answer: of vectors only how many there are."""
    if isinstance(try_.reader, EmbedReader):
        return try_.reader.said
    return try_.text.text()


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
        output=_kept(try_),
        error=None if fault is None else c.RunError(fault.code, fault.message),
        model_used=counts.model or assign.model or "unknown",
        tokens_in=counts.tokens_in,
        tokens_out=counts.tokens_out,
        cache_read_tokens=counts.cache_read,
        cost_known=counts.free,
        execution_ms=(time.monotonic() - began) * 1000,
        output_bytes=try_.text.size,
        output_sha256=try_.text.sha256,
        truncated=try_.text.truncated and assign.spec.embed is None,
        length_limited=try_.done is not None and try_.done.reason == "length",
        simulated=try_.simulated,
        tool_calls=try_.calls.whole(),
    )
