"""A simulated `claude` program: Claude Code's flags, event stream, exits and signals.

It is a program, not a class: `write_program(folder)` puts an executable `claude` into
`folder`, and `SimulatedClaude` orders what its runs shall do and reads what they saw.
`agentcom -m sidecar.simulated.claude` is the same program without a wrapper.

What a run does is a `Scenario`. They come, first found first taken, from

- the environment variable `AGENTCOM_SIMULATED_CLAUDE`: a scenario as JSON, or the path
  of a control file;
- the control file that the wrapper names: `{"queue": [...], "always": {...}}`. Each run
  takes the first of the queue, under a file lock, and `always` when it is empty;
- otherwise `ok`.

The shapes are those that Claude Code 2.1.330 printed when it was driven over loopback;
`tests/integration/test_real_claude_code.py` holds the two against each other. It is
recognisable: `--version` and `system/init` say simulated, and so does the answer.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any, Literal, NoReturn

import msgspec

from actors.rules.prices import price
from sidecar.simulated.answers import answer_to, count_tokens, pieces

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CLAUDE_CODE = "2.1.330"  # whose behaviour this is
VERSION = f"{CLAUDE_CODE} (Claude Code, simulated)"
CONTROL_VARIABLE = "AGENTCOM_SIMULATED_CLAUDE"
DEFAULT_MODEL = "claude-sonnet-4-5"
"""What the alias `sonnet` stands for here."""


def _resolved(model: str) -> str:
    return DEFAULT_MODEL if model == "sonnet" else model


_LOOK_FOR_SIGNALS_S = 0.1  # while a tool runs
_LOOK_FOR_HOLD_S = 0.05
_REQUEST = "req_simulated"
_LOSES_A_STREAM = ("middrop", "fallback")

Kind = Literal[
    "ok",
    "r429",  # rate limited; with a `rate_limit_event` when `resets_*` is given
    "o529",  # overloaded
    "e500",
    "a401",  # the key is refused
    "n404",  # model not found
    "p400",  # prompt too long
    "nokey",  # not logged in
    "credit",  # credit balance too low
    "refused",  # nobody listens at the API's address
    "middrop",  # the connection is lost after `after` tokens
    "fallback",  # the same, but asking again without streaming brings the answer
    "maxturns",  # uses tools until --max-turns
    "budget",  # spends more than --max-budget-usd
    "refusal",  # the model declines, twice
    "denied",  # wants a tool, which is denied
    "tool",  # runs `command` with its Bash tool, in a process group of its own
    "background",  # runs it in the background: a result before its end, one after
    "hang_at_start",  # prints nothing at all
    "hang",  # init, then nothing
    "stall",  # `after` tokens, then nothing
    "hang_before_result",  # the whole answer, then nothing
    "hang_after_result",  # the result, then does not exit
    "no_result",  # exits with `exit_code` after `after` tokens, without a result
    "huge_line",  # one line of `size` bytes among the others
    "garbage_line",  # a line that is no JSON
    "unknown_type",  # an event of a type that nobody knows
]


class SaidCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool call that is only said: what was asked, what came of it."""

    name: str
    input: dict[str, Any] = {}
    result: str = ""
    is_error: bool = False


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one run does."""

    kind: Kind = "ok"
    answer: str | None = None  # instead of the usual one
    thinking: str = ""  # thought before the answer
    delay_s: float = 0.0  # before every token
    after: int = 2  # tokens before what goes wrong
    retry_delay_s: float | None = None  # its own retries; None: as long as it says
    resets_in_s: float | None = None  # r429: when the limit ends, from now
    resets_at: int | None = None  # r429: the same in Unix seconds
    command: str = "echo simulated"
    calls: tuple[SaidCall, ...] = ()  # ok: tools used before the answer
    hold: str = ""  # ok: a file that is waited for between the answer and the result
    holds_stdout: bool = False  # the tool's children inherit the event stream's pipe
    size: int = 1_000_000
    exit_code: int = 0
    notice: str = ""  # printed to stderr, as the program warns of a model's end
    notice_in_stream: bool = False  # instead, as an event
    ignores: tuple[Literal["int", "term"], ...] = ()  # signals without effect
    input_tokens: int | None = None  # None: counted from the prompt
    cache_creation_tokens: int = 1000
    cache_read_tokens: int = 20000


class SeenRun(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of the program was given, for tests to look at."""

    pid: int
    argv: list[str]
    prompt: str
    cwd: str
    environment: list[str]  # names alone, so that no value is ever written down
    scenario: Kind


class _Orders(msgspec.Struct, kw_only=True):
    """The control file."""

    queue: list[Scenario] = []
    always: Scenario = Scenario()
    logged_in: bool = True


# -- ordering scenarios ---------------------------------------------------------


class SimulatedClaude:
    """The program in `folder`, and the hand that steers it from another process."""

    def __init__(self, folder: Path) -> None:
        self.program = write_program(folder)
        self.control = _control_of(folder)

    def order(self, *scenarios: Scenario | Kind) -> None:
        """Queue scenarios for the next runs, one each."""
        with _locked(self.control) as orders:
            orders.queue += [_as_scenario(each) for each in scenarios]

    def always(self, scenario: Scenario | Kind) -> None:
        """What every run does once the queue is empty."""
        with _locked(self.control) as orders:
            orders.always = _as_scenario(scenario)

    def log_in(self, logged_in: bool) -> None:
        """What `auth status` says from now on; what runs do is ordered apart."""
        with _locked(self.control) as orders:
            orders.logged_in = logged_in

    @property
    def runs(self) -> list[SeenRun]:
        """The runs so far that have read their prompt."""
        with suppress(FileNotFoundError):
            lines = _runs_of(self.control).read_bytes().splitlines()
            return [msgspec.json.decode(line, type=SeenRun) for line in lines]
        return []


def write_program(folder: Path) -> Path:
    """Write an executable `claude` into `folder`; its control file lies beside it.

    It runs on this interpreter and this source, whatever environment it is given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).resolve().parents[2]
    program = folder / "claude"
    program.write_text(
        f"#!{sys.executable} -P\n"
        "import os, sys\n"
        f"sys.path.insert(0, {str(source)!r})\n"
        "from sidecar.simulated.claude import main\n"
        f"sys.exit(main(control={str(_control_of(folder))!r}))\n"
    )
    program.chmod(0o755)
    return program


def _control_of(folder: Path) -> Path:
    return folder.absolute() / "claude-scenarios.json"


def _runs_of(control: Path) -> Path:
    return control.with_suffix(".runs.jsonl")


def _as_scenario(scenario: Scenario | Kind) -> Scenario:
    return scenario if isinstance(scenario, Scenario) else Scenario(kind=scenario)


@contextmanager
def _locked(control: Path) -> Iterator[_Orders]:
    """The orders, written back at the end; no other process sees them between."""
    file = os.open(control, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = os.pread(file, os.fstat(file).st_size, 0)
        orders = msgspec.json.decode(text, type=_Orders) if text else _Orders()
        yield orders
        written = msgspec.json.encode(orders)
        os.ftruncate(file, 0)
        os.pwrite(file, written, 0)
    finally:
        os.close(file)


def _next_scenario(control: Path | None) -> Scenario:
    if control is None:
        return Scenario()
    with _locked(control) as orders:
        return orders.queue.pop(0) if orders.queue else orders.always


# -- the program ----------------------------------------------------------------


class _Usage(msgspec.Struct, kw_only=True):
    """Tokens of one or more API calls."""

    input: int = 0
    cache_creation: int = 0
    cache_read: int = 0
    output: int = 0

    def plus(self, other: _Usage, times: int = 1) -> _Usage:
        return _Usage(
            **{
                name: getattr(self, name) + times * getattr(other, name)
                for name in self.__struct_fields__
            }
        )

    def api(self) -> dict[str, int]:
        return {
            "input_tokens": self.input,
            "cache_creation_input_tokens": self.cache_creation,
            "cache_read_input_tokens": self.cache_read,
            "output_tokens": self.output,
        }

    def whole(self) -> dict[str, Any]:
        return {
            **self.api(),
            "output_tokens_details": {"thinking_tokens": 0},
            "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
            "service_tier": "standard",
            "cache_creation": {
                "ephemeral_1h_input_tokens": 0,
                "ephemeral_5m_input_tokens": 0,
            },
            "inference_geo": "",
            "iterations": [],
            "speed": "standard",
            "fallback_credit": None,
        }


class _Failure(msgspec.Struct, frozen=True):
    """How Claude Code speaks of a call that the API refused."""

    status: int | None
    error: str  # Claude Code's word
    retry_error: str | None  # its word in `api_retry`; None: never tried again
    api_type: str | None
    text: str
    reason: str = "api_error"
    api_error: str | None = None


_SERVER_SIDE = (
    "This is a server-side issue, usually temporary — try again in a moment. "
    "If it persists, check your inference gateway (simulated)."
)
_FAILURES: dict[str, _Failure] = {
    "r429": _Failure(
        429,
        "rate_limit",
        "rate_limit",
        "rate_limit_error",
        "API Error: Request rejected (429) · Number of requests exceeded (simulated)",
    ),
    "o529": _Failure(
        529,
        "server_error",
        "overloaded",
        "overloaded_error",
        f"API Error: 529 Overloaded. {_SERVER_SIDE}",
    ),
    "e500": _Failure(
        500,
        "server_error",
        "server_error",
        "api_error",
        f"API Error: 500 Internal server error. {_SERVER_SIDE}",
    ),
    "a401": _Failure(
        401,
        "authentication_failed",
        "authentication_failed",
        "authentication_error",
        "Invalid API key · Fix external API key",
    ),
    "n404": _Failure(
        404,
        "model_not_found",
        None,
        "not_found_error",
        "There's an issue with the selected model ({model}). It may not exist or you "
        "may not have access to it. Run --model to pick a different model.",
    ),
    "p400": _Failure(
        400,
        "invalid_request",
        None,
        "invalid_request_error",
        "Prompt is too long · the request is ~210000 tokens (limit 200000)",
        "prompt_too_long",
    ),
    "credit": _Failure(
        400,
        "billing_error",
        None,
        "invalid_request_error",
        "Credit balance is too low",
    ),
    "nokey": _Failure(
        None, "authentication_failed", None, None, "Not logged in · Please run /login"
    ),
    "refused": _Failure(
        None,
        "server_error",
        "unknown",
        None,
        "API Error: Connection refused — a firewall or proxy may be blocking it "
        "(ECONNREFUSED)",
        api_error="connection_failed",
    ),
    "middrop": _Failure(
        None,
        "server_error",
        "unknown",
        None,
        "API Error: Connection to the API was lost (ECONNRESET). "
        "This is usually temporary — try again.",
        api_error="connection_failed",
    ),
}
_NO_SPAWNS = {
    "spawned": 0,
    "requested": {"background": 0, "foreground": 0, "unset": 0},
    "started_in_background": 0,
    "max_depth": 0,
    "spawned_by_subagents": 0,
    "completed": 0,
    "failed": 0,
    "killed": {"parent": 0, "user": 0, "system": 0},
    "refused": {"depth_limit": 0, "concurrency_limit": 0, "budget": 0},
    "by_type": {},
}
_TOOLS = ["Task", "Bash", "Edit", "Read", "WebFetch", "WebSearch", "Write"]
_DENIED = (
    "Claude requested permissions to use Bash, but you haven't granted it yet "
    "(simulated)."
)
_PERMISSION_MODES = (
    "acceptEdits",
    "auto",
    "bypassPermissions",
    "default",
    "dontAsk",
    "manual",
    "plan",
)
_RUNS_TOOLS = ("acceptEdits", "auto", "bypassPermissions")


class _Interrupted(Exception):
    """SIGINT arrived."""


class _Declined(Exception):
    """The command line is refused: the words go to stderr, the exit code is 1."""


class _Signals:
    """SIGINT interrupts at the next pause, SIGTERM ends at once.

    Python runs a handler between two of its own steps, so a signal that arrives just
    before a blocking call would wait for that call's end. A byte in a pipe ends it.
    """

    def __init__(self) -> None:
        self.tool: subprocess.Popen[bytes] | None = None
        self.ignored: tuple[str, ...] = ()
        self._interrupted = False
        self._pausing = False

    def install(self) -> None:
        self._arrived, arrives = os.pipe()
        os.set_blocking(arrives, False)
        signal.set_wakeup_fd(arrives, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, self._on_int)
        signal.signal(signal.SIGTERM, self._on_term)

    def pause(self, seconds: float | None) -> None:
        """Wait so long, None for ever; raises `_Interrupted` on SIGINT."""
        self._pausing = True
        try:
            if self._interrupted:
                raise _Interrupted
            end = None if seconds is None else time.monotonic() + seconds
            while end is None or (left := end - time.monotonic()) > 0:
                wait_s = None if end is None else left
                if select.select([self._arrived], [], [], wait_s)[0]:
                    os.read(self._arrived, 64)
        finally:
            self._pausing = False

    def wait_for(self, tool: subprocess.Popen[bytes]) -> int:
        """The tool's exit code, once it ended."""
        self.tool = tool
        self._pausing = True
        try:
            if self._interrupted:
                raise _Interrupted
            while True:
                with suppress(subprocess.TimeoutExpired):
                    return tool.wait(_LOOK_FOR_SIGNALS_S)
        finally:
            self._pausing = False
            self.tool = None

    def end_tool(self, tool: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError):
            os.killpg(tool.pid, signal.SIGKILL)

    def _on_int(self, *_: object) -> None:
        if "int" not in self.ignored:
            self._interrupted = True
            if self._pausing:
                raise _Interrupted

    def _on_term(self, *_: object) -> None:
        if "term" not in self.ignored:
            if self.tool is not None:
                self.end_tool(self.tool)
            os._exit(143)


class _Claude:
    """One run: prints the event stream of its scenario and knows its exit code."""

    def __init__(
        self,
        flags: argparse.Namespace,
        scenario: Scenario,
        prompt: str,
        signals: _Signals,
    ) -> None:
        self._flags = flags
        self._scenario = scenario
        self._prompt = prompt
        self._signals = signals
        self._model: str = _resolved(flags.model)
        self._session: str = flags.resume or flags.session_id or str(uuid.uuid4())
        self._retries = int(os.environ.get("CLAUDE_CODE_MAX_RETRIES", "10"))
        self._began = time.monotonic()
        self._spent = _Usage()  # billed to this run
        self._counted = _Usage()  # as `result.usage` shows it
        self._turns = 0
        self._begun: list[str] = []  # ids of API messages
        self._denials: list[dict[str, Any]] = []
        self._first_token_ms: int | None = None
        self._text = ""
        self._settled = _Usage()  # `_counted` without the message under way
        self._block: dict[str, Any] | None = None  # the block being streamed
        self._tool_id: str | None = None  # the tool that runs
        self._tool_results = 0
        self._results = (
            0  # printed so far; `_told` and `_begun_told` are as of the last
        )
        self._told = _Usage()
        self._begun_told = 0

    def run(self) -> int:
        """Print everything; the exit code."""
        kind = self._scenario.kind
        try:
            if kind == "hang_at_start":
                self._signals.pause(None)
            self._init()
            self._warn()
            if kind in _FAILURES:
                return self._failed_call(_FAILURES[kind])
            return self._conversation()
        except _Interrupted:
            return self._interrupted()

    # -- what happens ----------------------------------------------------------

    def _conversation(self) -> int:
        kind = self._scenario.kind
        match kind:
            case "hang":
                self._request()
                self._signals.pause(None)
            case "maxturns":
                return self._use_tools_until_the_limit()
            case "budget":
                self._request()
                self._message([self._tool_block()], stop_reason="tool_use")
                return self._over_budget("tool_use")
            case "fallback":
                return self._asked_again_without_streaming()
            case "refusal":
                return self._refused_by_the_model()
            case "background":
                return self._work_in_the_background()
            case "denied" | "tool":
                self._request()
                self._use_tool(allowed=kind == "tool" and self._may_use_tools())
            case "huge_line":
                self._print({"type": "system", "subtype": "note", "text": self._huge()})
            case "garbage_line":
                self._print_line(b'{"type":"system","sub <- this line is garbage')
            case "unknown_type":
                self._print(self._signed({"type": "unheard_of", "value": 1}))
            case _:
                pass
        self._request()
        if kind == "no_result":
            self._message([self._text_block()], stop_after=self._scenario.after)
            return self._scenario.exit_code
        for call in self._scenario.calls:
            self._say_call(call)
        self._message([*self._thinking_block(), self._text_block()])
        if self._is_over_budget():
            return self._over_budget("end_turn")
        while self._scenario.hold and not Path(self._scenario.hold).exists():
            self._signals.pause(_LOOK_FOR_HOLD_S)
        if kind == "hang_before_result":
            self._signals.pause(None)
        self._result(self._success())
        if kind == "hang_after_result":
            with suppress(_Interrupted):
                self._signals.pause(None)
        return 0

    def _failed_call(self, failure: _Failure) -> int:
        """A call that the API refuses, its retries, and the result that says so."""
        self._request()
        for attempt in range(self._retries + 1):
            if self._scenario.kind == "middrop":
                self._message([self._text_block()], stop_after=self._scenario.after)
            if attempt == self._retries or failure.retry_error is None:
                break
            delay_ms = min(500 * 2**attempt, 32_000)
            self._system(
                "api_retry",
                attempt=attempt + 1,
                max_retries=self._retries,
                retry_delay_ms=delay_ms,
                error_status=failure.status,
                error=failure.retry_error,
            )
            pause_s = self._scenario.retry_delay_s
            self._signals.pause(delay_ms / 1000 if pause_s is None else pause_s)
        text = failure.text.replace("{model}", self._model)
        about: dict[str, Any] = {}
        request: dict[str, Any] = {}
        if failure.status:
            about["api_error_type"] = failure.api_type
            request = {"request_id": _REQUEST, "api_error_status": failure.status}
        if failure.api_error:
            about["api_error"] = failure.api_error
        limit = self._rate_limit_event()
        if limit is not None:
            text = f"You've hit your 5-hour limit · resets {_clock(limit['resetsAt'])}"
            about["api_error"] = "usage_limit_reached"
            request["api_error_params"] = {"rate_limit_info": limit}
        self._synthetic(text, failure.error, {**request, **about})
        self._turns = 1
        self._result(
            {
                "subtype": "success",
                "is_error": True,
                "api_error_status": failure.status,
                **about,
                "result": text,
                "stop_reason": "stop_sequence",
                "terminal_reason": failure.reason,
            }
        )
        return 1

    def _asked_again_without_streaming(self) -> int:
        """The stream was lost; the whole answer follows as one message, no deltas."""
        self._request()
        block = self._text_block()
        self._message([block], stop_after=self._scenario.after)
        self._text = block["text"]
        self._call_usage_again(len(pieces(block["text"])))
        message = {
            **self._message_head([block]),
            "stop_reason": "end_turn",
            "usage": self._settled.whole(),
            "context_management": None,
        }
        self._print(self._model_message(message))
        self._turns = 1
        self._result(self._success())
        return 0

    def _call_usage_again(self, output: int) -> None:
        again = _Usage(output=output).plus(self._call_usage())
        self._begun.append(f"msg_{len(self._begun) + 1}")
        self._spent = self._spent.plus(again)
        self._counted = self._counted.plus(again)
        self._settled = self._counted

    def _use_tools_until_the_limit(self) -> int:
        limit = self._flags.max_turns or 2
        for _ in range(limit):
            self._request()
            self._use_tool(allowed=True)
        self._turns = limit + 1
        self._result(
            {
                "subtype": "error_max_turns",
                "is_error": True,
                "errors": [f"Reached maximum number of turns ({limit})"],
                "stop_reason": "tool_use",
                "terminal_reason": "max_turns",
            }
        )
        return 1

    def _work_in_the_background(self) -> int:
        """Start the command, answer, and answer again once it has ended."""
        self._request()
        block = self._tool_block()
        block["input"]["run_in_background"] = True
        self._message([block], stop_reason="tool_use")
        about = {"task_id": f"b{uuid.uuid4().hex[:8]}", "run_id": uuid.uuid4().hex[:9]}
        of = {"tool_use_id": block["id"]}
        work = {"task_type": "local_bash", "description": "Simulated work"}
        file = _session_file(self._flags.sessions, self._session).with_suffix(
            f".{about['task_id']}.output"
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as out:
            tool = subprocess.Popen(
                ["/bin/sh", "-c", block["input"]["command"]],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._system("background_tasks_changed", tasks=[{**about, **work}])
        self._system("task_started", **about, **of, **work, is_backgrounded=True)
        self._running_in_the_background(block, about["task_id"], file)
        self._request()
        self._message([self._text_block()])
        self._result(self._success())
        try:
            code = self._signals.wait_for(tool)
        except _Interrupted:
            self._signals.end_tool(tool)
            tool.wait()
            raise
        status = "failed" if code else "completed"
        ended = {"status": status, "end_time": int(time.time() * 1000)}
        self._system("task_updated", **about, patch=ended)
        summary = f'Background command "Simulated work" {status} (exit code {code})'
        note = {"status": status, "output_file": str(file), "summary": summary}
        self._system("task_notification", **about, **of, **note)
        self._system("background_tasks_changed", tasks=[])
        self._init()
        self._request()
        self._text = ""
        self._message([self._text_block()])
        origin = {"producer": "session-task", "runId": about["run_id"]}
        origin["kind"] = "task-notification"
        self._result({**self._success(), "origin": origin})
        return 0

    def _running_in_the_background(
        self, block: dict[str, Any], task: str, file: Path
    ) -> None:
        """The answer to the tool's call, which comes at once."""
        content = {
            "tool_use_id": block["id"],
            "type": "tool_result",
            "content": f"Command running in background with ID: {task}. Output is being "
            f"written to: {file}.",
            "is_error": False,
        }
        result = {**_printed("", ""), "backgroundTaskId": task}
        self._tool_answer(content, result, _accepted(block))

    def _system(self, subtype: str, **fields: Any) -> None:
        self._print(self._signed({"type": "system", "subtype": subtype, **fields}))

    def _is_over_budget(self) -> bool:
        budget = self._flags.max_budget_usd
        return budget is not None and _price(self._model, self._spent)[0] > budget

    def _over_budget(self, stop_reason: str) -> int:
        budget = self._flags.max_budget_usd or 0.0001
        self._counted = self._settled = _Usage()  # comes before the turn is counted
        self._result(
            {
                "subtype": "error_max_budget_usd",
                "is_error": True,
                "errors": [f"Reached maximum budget (${budget:g})"],
                "stop_reason": stop_reason,
                "terminal_reason": "budget_exhausted",
            }
        )
        return 1

    def _refused_by_the_model(self) -> int:
        """The model declines; Claude Code asks once more, then gives up."""
        self._request()
        self._message([], stop_reason="refusal")
        noted = "The model's safeguards stopped the response above (simulated)"
        self._system("informational", content=noted, level="notice")
        text = {"type": "text", "text": "Your response above was stopped (simulated)."}
        self._print(
            self._spoken(
                "user",
                {"role": "user", "content": [text]},
                isSynthetic=True,
                refused_message_id=self._begun[-1],
            )
        )
        self._request()
        words = "API Error: The model can't help with this (simulated)."
        self._message([], stop_reason="refusal", declined=words)
        self._result(
            {
                "subtype": "success",
                "is_error": True,
                "api_error_status": None,
                "result": words,
                "stop_reason": "refusal",
                "terminal_reason": "api_error",
                "safety_stops": 2,
            }
        )
        return 1

    def _decline(self, words: str) -> None:
        self._system(
            "model_refusal_no_fallback",
            original_model=self._model,
            request_id=_REQUEST,
            api_refusal_category=None,
            api_refusal_explanation=None,
            refused_user_message_uuid=str(uuid.uuid4()),
            content="",
        )
        about = {"request_id": _REQUEST, "refused_message_id": self._begun[-1]}
        self._synthetic(words, "invalid_request", about)

    def _interrupted(self) -> int:
        """SIGINT: the text so far, and the cost of it. The exit code is 0."""
        block, tool = self._block, self._tool_id
        if block is not None and (block.get("text") or block.get("thinking")):
            message = {**self._message_head([block]), "context_management": None}
            self._print(self._model_message(message, aborted=True))
        if tool is not None:
            self._reject(tool)
        what = " for tool use" if tool is not None else ""
        text = {"type": "text", "text": f"[Request interrupted by user{what}]"}
        self._print(self._spoken("user", {"role": "user", "content": [text]}))
        if block is not None:
            self._end_abandoned_message()
        self._counted = self._settled
        self._turns = 2 + self._tool_results
        stop_reason = "tool_use" if self._tool_results else None
        self._result(
            {
                "subtype": "error_during_execution",
                "is_error": True,
                "errors": [
                    "[ede_diagnostic] result_type=user last_content_type=n/a "
                    f"stop_reason={stop_reason or 'null'}"
                ],
                "stop_reason": stop_reason,
                "terminal_reason": f"aborted_{'tools' if tool else 'streaming'}",
            }
        )
        return 0

    def _reject(self, tool_id: str) -> None:
        """The result of a tool that was interrupted."""
        content = {
            "type": "tool_result",
            "content": "The user doesn't want to proceed with this tool use (simulated).",
            "is_error": True,
            "tool_use_id": tool_id,
        }
        meta = {"id": tool_id, "non_execution_kind": "user-rejected"}
        self._tool_answer(content, "User rejected tool use", meta)

    def _end_abandoned_message(self) -> None:
        self._stream({"type": "content_block_stop", "index": 0})
        delta = {
            "container": None,
            "stop_details": None,
            "stop_reason": None,
            "stop_sequence": None,
        }
        usage: dict[str, Any] = {
            **self._call_usage().api(),
            "output_tokens": 1,
            "output_tokens_details": {"thinking_tokens": 0},
            "iterations": [],
            "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
            "fallback_credit": None,
        }
        event = {"type": "message_delta", "delta": delta, "usage": usage}
        self._stream({**event, "context_management": None})
        self._stop_message(from_block=1)

    # -- what the model says ----------------------------------------------------

    def _text_block(self) -> dict[str, Any]:
        answer = self._scenario.answer
        text = answer_to(self._prompt) if answer is None else answer
        return {"type": "text", "text": text}

    def _thinking_block(self) -> list[dict[str, Any]]:
        thought = self._scenario.thinking
        if not thought:
            return []
        return [{"type": "thinking", "thinking": thought, "signature": "simulated"}]

    def _tool_block(self) -> dict[str, Any]:
        return {
            "type": "tool_use",
            "id": f"toolu_{len(self._begun) + 1}",
            "name": "Bash",
            "input": {
                "command": self._scenario.command,
                "description": "Simulated work",
            },
        }

    def _message(
        self,
        blocks: list[dict[str, Any]],
        *,
        stop_after: int | None = None,
        stop_reason: str = "end_turn",
        denied: str | None = None,
        declined: str | None = None,
    ) -> None:
        """One API message, block by block; `stop_after` tokens the stream is lost."""
        self._begun.append(f"msg_{len(self._begun) + 1}")
        self._turns += 1
        self._spent = self._spent.plus(self._call_usage())
        before = self._spent.output
        self._stream(
            {"type": "message_start", "message": self._message_head([])},
            ttft_ms=self._elapsed_ms(),
            thinking_display="updates",
        )
        for index, block in enumerate(blocks):
            self._stream_block(index, block, stop_after)
        if declined is not None:
            self._decline(declined)
        written = self._spent.output - before
        read = self._call_usage()
        if stop_after is None:
            self._counted = self._counted.plus(read)
            self._counted.output += written
            self._settled = self._counted
            self._stream(
                {
                    "type": "message_delta",
                    "delta": {"stop_reason": stop_reason, "stop_sequence": None},
                    "usage": {"output_tokens": written},
                }
            )
            if denied is not None:
                about = {"tool_name": "Bash", "tool_use_id": denied}
                self._system("permission_denied", **about, message=_DENIED)
            self._stop_message()
        elif self._scenario.kind in _LOSES_A_STREAM:
            self._counted = self._counted.plus(read)
            self._counted.output += 1  # the first figure of a message that was lost
            self._stop_message(from_block=0)

    def _stream_block(
        self, index: int, block: dict[str, Any], stop_after: int | None
    ) -> None:
        opened, deltas = _deltas(block)
        thinks = {"thinking_display": "updates"} if block["type"] == "thinking" else {}
        start = {"type": "content_block_start", "index": index, "content_block": opened}
        self._stream(start, **thinks)
        self._block = dict(opened)
        for number, delta in enumerate(deltas[:stop_after], 1):
            stalls = self._scenario.kind == "stall" and number > self._scenario.after
            self._signals.pause(None if stalls else self._scenario.delay_s)
            if self._first_token_ms is None:
                self._first_token_ms = self._elapsed_ms()
            shown = thinks if delta["type"] == "thinking_delta" else {}
            if shown:
                self._thinking_tokens(number)
            event = {"type": "content_block_delta", "index": index, "delta": delta}
            self._stream(event, **shown)
            self._spent.output += 1
            for part in ("text", "thinking"):
                if part in delta:
                    self._block[part] = self._block[part] + delta[part]
            self._text += delta.get("text", "")
        self._block = None
        if stop_after is None:
            took = {"thinking_duration_ms": 0, **thinks} if thinks else {}
            message = {**self._message_head([block]), "context_management": None}
            self._print(self._model_message(message, **took))
        if stop_after is None or self._scenario.kind in _LOSES_A_STREAM:
            self._stream({"type": "content_block_stop", "index": index})

    def _thinking_tokens(self, so_far: int) -> None:
        if self._flags.include_partial_messages:
            counts = {"estimated_tokens": so_far, "estimated_tokens_delta": 1}
            self._system("thinking_tokens", **counts)

    def _use_tool(self, *, allowed: bool) -> None:
        """A Bash call and its result, run for real when it is allowed."""
        block = self._tool_block()
        self._text = ""
        self._message(
            [block], stop_reason="tool_use", denied=None if allowed else block["id"]
        )
        if allowed:
            self._tool_id = block["id"]
            self._tool_result(block, self._run_tool(block["input"]["command"]))
            return
        self._denials.append(
            {
                "tool_name": "Bash",
                "tool_use_id": block["id"],
                "tool_input": block["input"],
            }
        )
        decision = {"decision": "reject", "source": "config"}
        content = {
            "type": "tool_result",
            "content": _DENIED,
            "is_error": True,
            "tool_use_id": block["id"],
        }
        meta = {
            "id": block["id"],
            "non_execution_kind": "user-rejected",
            "permission_decision": decision,
        }
        self._tool_answer(content, f"Error: {_DENIED}", meta)

    def _say_call(self, call: SaidCall) -> None:
        """A call and its result, of a tool that is not run."""
        block = {**self._tool_block(), "name": call.name, "input": call.input}
        self._text = ""
        self._message([*self._thinking_block(), block], stop_reason="tool_use")
        content = {
            "type": "tool_result",
            "tool_use_id": block["id"],
            "content": call.result,
            "is_error": call.is_error,
        }
        self._tool_answer(content, call.result, {"id": block["id"]})

    def _run_tool(self, command: str) -> tuple[int, str, str]:
        """Run it as Claude Code does: in its own process group, writing to files.

        So it lives on when Claude is killed, and what it leaves in the background
        keeps nobody waiting.
        """
        with TemporaryFile() as out, TemporaryFile() as err:
            tool = subprocess.Popen(
                ["/bin/sh", "-c", command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                pass_fds=(1,) if self._scenario.holds_stdout else (),
            )
            try:
                code = self._signals.wait_for(tool)
            except _Interrupted:
                self._signals.end_tool(tool)
                tool.wait()
                raise
            return code, _written(out), _written(err)

    def _tool_result(self, block: dict[str, Any], ended: tuple[int, str, str]) -> None:
        code, out, err = ended
        content: dict[str, Any] = {
            "tool_use_id": block["id"],
            "type": "tool_result",
            "content": out,
            "is_error": False,
        }
        if code:
            text = f"Exit code {code}\n{out}{err}".rstrip()
            content = {**content, "content": text, "is_error": True}
            self._tool_answer(content, f"Error: {text}", _accepted(block))
            return
        self._tool_answer(content, _printed(out, err), _accepted(block))

    def _tool_answer(
        self, content: dict[str, Any], result: object, meta: dict[str, Any]
    ) -> None:
        self._tool_id = None
        self._tool_results += 1
        message = {"role": "user", "content": [content]}
        self._print(
            self._spoken(
                "user", message, tool_use_result=result, tool_result_meta=[meta]
            )
        )

    def _may_use_tools(self) -> bool:
        allowed = " ".join(self._flags.allowed_tools or [])
        return self._flags.permission_mode in _RUNS_TOOLS or "Bash" in allowed

    def _huge(self) -> str:
        return "x" * self._scenario.size

    # -- the events --------------------------------------------------------------

    def _warn(self) -> None:
        notice = self._scenario.notice
        if notice and self._scenario.notice_in_stream:
            self._system("informational", content=notice, level="warning")
        elif notice:
            sys.stderr.write(notice + "\n")
            sys.stderr.flush()

    def _init(self) -> None:
        cwd = str(Path.cwd())
        self._print(
            {
                "type": "system",
                "subtype": "init",
                "cwd": cwd,
                "session_id": self._session,
                "tools": _TOOLS,
                "mcp_servers": [],
                "model": self._model,
                "permissionMode": self._flags.permission_mode,
                "slash_commands": [],
                "terminal_slash_commands": [],
                "apiKeySource": "none",
                "claude_code_version": f"{CLAUDE_CODE}-simulated",
                "output_style": "default",
                "agents": [],
                "skills": [],
                "plugins": [],
                "capabilities": [],
                "analytics_disabled": True,
                "product_feedback_disabled": True,
                "served_by_anthropic": False,
                "uuid": str(uuid.uuid4()),
                "memory_paths": {},
                "original_cwd": cwd,
                "additional_directories": [],
                "messaging_socket_path": "",
                "fast_mode_state": "off",
                "fast_mode_disabled_reason": "sdk_opt_in_required",
                "per_turn_effort_active": False,
                "ultrathink_available": False,
                "ultrathink_typed_raises": False,
                "view_mode": "default",
            }
        )

    def _request(self) -> None:
        """A call to the API begins; printed only where partial messages are."""
        if self._flags.include_partial_messages:
            self._system("status", status="requesting")

    def _rate_limit_event(self) -> dict[str, Any] | None:
        """Say when the limit ends, where that is known; the limit's particulars."""
        scenario = self._scenario
        resets_at = scenario.resets_at
        if scenario.resets_in_s is not None:
            resets_at = int(time.time() + scenario.resets_in_s)
        if resets_at is None or scenario.kind != "r429":
            return None
        info = {
            "status": "rejected",
            "resetsAt": resets_at,
            "rateLimitType": "five_hour",
            "isUsingOverage": False,
        }
        window = {"utilization": 1, "resetsAt": resets_at, "status": "rejected"}
        shown = {**info, "unifiedWindows": {"five_hour": window}}
        event = {"type": "rate_limit_event", "rate_limit_info": shown}
        self._print(self._signed(event))
        return info

    def _synthetic(self, text: str, error: str, about: dict[str, Any]) -> None:
        """The assistant's message that Claude Code writes itself, about an error."""
        usage = {
            **_Usage().whole(),
            "output_tokens_details": None,
            "service_tier": None,
            "inference_geo": None,
            "iterations": None,
            "speed": None,
        }
        message = {
            "diagnostics": None,
            "id": str(uuid.uuid4()),
            "container": None,
            "model": "<synthetic>",
            "role": "assistant",
            "stop_details": None,
            "stop_reason": "stop_sequence",
            "stop_sequence": "",
            "type": "message",
            "usage": usage,
            "content": [{"type": "text", "text": text}],
            "context_management": None,
        }
        self._print(
            self._spoken(
                "assistant", message, error=error, is_api_error_message=True, **about
            )
        )

    def _success(self) -> dict[str, Any]:
        return {
            "subtype": "success",
            "is_error": False,
            "api_error_status": None,
            "result": self._text,
            "stop_reason": "end_turn",
            "terminal_reason": "completed",
            "ttft_ms": self._first_token_ms,
            "ttft_stream_ms": self._first_token_ms,
            "time_to_request_ms": 0,
            "first_content_frame_ms": self._first_token_ms,
        }

    def _result(self, fields: dict[str, Any]) -> None:
        here = self._model_usage(self._spent)
        whole = _with_earlier(here, self._earlier())
        since = self._model_usage(self._spent.plus(self._told, -1))
        result = {
            "type": "result",
            "duration_ms": self._elapsed_ms(),
            "duration_api_ms": self._elapsed_ms() if self._settled != _Usage() else 0,
            "num_turns": self._turns,
            "session_id": self._session,
            "total_cost_usd": sum(used["costUSD"] for used in whole.values()),
            "usage": self._counted.whole(),
            "modelUsage": whole,
            "permission_denials": self._denials,
            "fast_mode_state": "off",
            "fast_mode_disabled_reason": "sdk_opt_in_required",
            "subagent_stats": _NO_SPAWNS,
            "safety_stops": 0,
            "uuid": str(uuid.uuid4()),
            "begun_message_ids": self._begun[self._begun_told :],
            "queued_turn_count": 0,
            "result_index": self._results,
            "model_usage_since_last_result": since,
            **fields,
        }
        self._results += 1
        self._turns, self._begun_told = 0, len(self._begun)
        self._told, self._counted, self._settled = self._spent, _Usage(), _Usage()
        self._remember(whole)
        match self._flags.output_format:
            case "stream-json":
                self._print(result)
            case "json":
                self._print_line(json.dumps(result).encode())
            case _:
                text = result.get("result") or " ".join(result.get("errors", []))
                self._print_line(str(text).encode())

    def _model_usage(self, usage: _Usage) -> dict[str, Any]:
        if not self._begun:
            return {}
        cost, basis = _price(self._model, usage)
        return {
            self._model: {
                "inputTokens": usage.input,
                "outputTokens": usage.output,
                "cacheReadInputTokens": usage.cache_read,
                "cacheCreationInputTokens": usage.cache_creation,
                "webSearchRequests": 0,
                "costUSD": cost,
                "contextWindow": 200000,
                "maxOutputTokens": 32000,
                "thinkingTokens": 0,
                "cacheCreationEphemeral5mInputTokens": 0,
                "cacheCreationEphemeral1hInputTokens": 0,
                "canonicalModel": self._model,
                "provider": "firstParty",
                "costBasis": basis,
            }
        }

    def _call_usage(self) -> _Usage:
        """What one call reads; the output is counted as it is streamed."""
        given = self._scenario.input_tokens
        return _Usage(
            input=count_tokens(self._prompt) if given is None else given,
            cache_creation=self._scenario.cache_creation_tokens,
            cache_read=self._scenario.cache_read_tokens,
        )

    def _message_head(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._begun[-1],
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {**self._call_usage().api(), "output_tokens": 1},
        }

    def _stop_message(self, *, from_block: int | None = None) -> None:
        abandoned = {
            "abandoned_blocks": {
                "api_message_id": self._begun[-1],
                "from_block_index": from_block,
            }
        }
        more = {} if from_block is None else abandoned
        self._stream({"type": "message_stop"}, **more)

    def _stream(self, event: dict[str, Any], **more: Any) -> None:
        if self._flags.include_partial_messages:
            wrapped = self._signed({"type": "stream_event", "event": event})
            self._print(
                {
                    **wrapped,
                    "parent_tool_use_id": None,
                    **more,
                    "api_message_id": self._begun[-1],
                }
            )

    def _model_message(self, message: dict[str, Any], **more: Any) -> dict[str, Any]:
        return self._spoken("assistant", message, request_id=_REQUEST, **more)

    def _spoken(self, who: str, message: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {
            **self._signed({"type": who, "message": message}),
            "parent_tool_use_id": None,
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **more,
        }

    def _signed(self, event: dict[str, Any]) -> dict[str, Any]:
        return {**event, "session_id": self._session, "uuid": str(uuid.uuid4())}

    def _print(self, event: dict[str, Any]) -> None:
        if self._flags.output_format == "stream-json":
            self._print_line(json.dumps(event, ensure_ascii=False).encode())

    def _print_line(self, line: bytes) -> None:
        rest = memoryview(line + b"\n")
        while rest:
            rest = rest[os.write(1, rest) :]

    def _elapsed_ms(self) -> int:
        return int((time.monotonic() - self._began) * 1000)

    # -- the session --------------------------------------------------------------

    def _earlier(self) -> dict[str, Any]:
        """The session's usage before this run, when it is resumed."""
        if not self._flags.resume:
            return {}
        earlier: dict[str, Any] = json.loads(
            _session_file(self._flags.sessions, self._session).read_bytes()
        )
        return earlier

    def _remember(self, usage: dict[str, Any]) -> None:
        if not self._flags.no_session_persistence:
            file = _session_file(self._flags.sessions, self._session)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(usage))


def _accepted(block: dict[str, Any]) -> dict[str, Any]:
    """What is said of a tool's call that was allowed."""
    decision = {"decision": "accept", "source": "config", "reason_type": "mode"}
    return {"id": block["id"], "permission_decision": decision}


def _printed(out: str, err: str) -> dict[str, Any]:
    """What is said of a command that has ended, or goes on in the background."""
    return {
        "stdout": out,
        "stderr": err,
        "interrupted": False,
        "isImage": False,
        "noOutputExpected": False,
    }


def _deltas(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block as it opens, empty, and the deltas that fill it."""
    match block["type"]:
        case "text":
            parts = pieces(block["text"])
            deltas = [{"type": "text_delta", "text": part} for part in parts]
            return {"type": "text", "text": ""}, deltas
        case "thinking":
            parts = pieces(block["thinking"])
            deltas = [{"type": "thinking_delta", "thinking": part} for part in parts]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
            return {"type": "thinking", "thinking": "", "signature": ""}, deltas
        case _:
            text = json.dumps(block["input"])
            cut = text.index(":") + 1
            deltas = [
                {"type": "input_json_delta", "partial_json": part}
                for part in (text[:cut], text[cut:])
            ]
            return {**block, "input": {}}, deltas


def _price(model: str, usage: _Usage) -> tuple[float, str]:
    """Dollars, and whether the model is on the price list; Claude Code guesses else."""
    for priced, basis in ((model, "list"), (DEFAULT_MODEL, "unknown")):
        dollars = price(
            priced,
            tokens_in=usage.input,
            tokens_out=usage.output,
            cache_read=usage.cache_read,
            cache_write=usage.cache_creation,
        )
        if dollars is not None:
            return float(dollars), basis
    raise AssertionError(f"{DEFAULT_MODEL} has no price")


def _with_earlier(here: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """Model usage added up, number by number."""
    whole = {model: dict(used) for model, used in earlier.items()}
    for model, used in here.items():
        before = whole.setdefault(model, {})
        for name, value in used.items():
            adds = name.endswith("Tokens") and name != "maxOutputTokens"
            if adds or name == "costUSD":
                value += before.get(name, 0)
            before[name] = value
    return whole


def _sessions_of(control: str | None) -> Path:
    """Where sessions are kept: beside the control file, else with Claude Code's own."""
    if control is not None:
        return Path(control).parent / "sessions"
    own = os.environ.get("CLAUDE_CONFIG_DIR")
    config = Path(own) if own else Path.home() / ".claude"
    return config / "simulated-sessions"


def _session_file(sessions: Path, session: str) -> Path:
    return sessions / f"{session}.json"


def _clock(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%H:%M (UTC)")


def _written(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace").rstrip("\n")


# -- the command line -------------------------------------------------------------


class _Flags(argparse.ArgumentParser):
    """Refuses in Claude Code's words, with its exit code."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            flag = message.removeprefix("unrecognized arguments: ").split()[0]
            raise _Declined(f"error: unknown option '{flag}'")
        raise _Declined(f"error: {message}")


def _flags() -> _Flags:
    flags = _Flags(prog="claude", allow_abbrev=False)
    flags.add_argument("-v", "--version", action="store_true")
    flags.add_argument("-p", "--print", action="store_true")
    flags.add_argument(
        "--output-format", choices=("text", "json", "stream-json"), default="text"
    )
    flags.add_argument("--verbose", action="store_true")
    flags.add_argument("--include-partial-messages", action="store_true")
    flags.add_argument("--model", default=DEFAULT_MODEL)
    flags.add_argument("--max-turns", type=int)
    flags.add_argument("--max-budget-usd", type=float)
    flags.add_argument(
        "--permission-mode", choices=_PERMISSION_MODES, default="default"
    )
    flags.add_argument("--dangerously-skip-permissions", action="store_true")
    for name in ("allowed", "disallowed"):
        flags.add_argument(f"--{name}Tools", f"--{name}-tools", nargs="+")
    flags.add_argument("--add-dir", nargs="+")
    flags.add_argument("--append-system-prompt")
    flags.add_argument("--session-id")
    flags.add_argument("-r", "--resume")
    flags.add_argument("--no-session-persistence", action="store_true")
    flags.add_argument("--settings")
    flags.add_argument("--setting-sources")
    flags.add_argument("--strict-mcp-config", action="store_true")
    flags.add_argument("prompt", nargs="?")
    return flags


def _check(flags: argparse.Namespace) -> None:
    """What Claude Code refuses before it does anything."""
    flags.allowed_tools = flags.allowedTools
    if flags.print and flags.output_format == "stream-json" and not flags.verbose:
        raise _Declined(
            "Error: When using --print, --output-format=stream-json requires --verbose"
        )
    skips = flags.dangerously_skip_permissions or (
        flags.permission_mode == "bypassPermissions"
    )
    if skips and os.geteuid() == 0:
        raise _Declined(
            "--dangerously-skip-permissions cannot be used with root/sudo privileges "
            "for security reasons"
        )
    if flags.session_id is not None:
        try:
            uuid.UUID(flags.session_id)
        except ValueError as wrong:
            text = "Error: Invalid session ID. Must be a valid UUID."
            raise _Declined(text) from wrong
        if _session_file(flags.sessions, flags.session_id).exists():
            raise _Declined(f"Error: Session ID {flags.session_id} is already in use.")


def _read_prompt(flags: argparse.Namespace) -> str:
    """The prompt: the argument, or all of stdin; a silent stdin costs 3 s."""
    if flags.prompt:
        return str(flags.prompt)
    ready, _, _ = select.select([0], [], [], 3.0)
    prompt = sys.stdin.buffer.read().decode(errors="replace") if ready else ""
    if not prompt.strip():
        raise _Declined(
            "Error: Input must be provided either through stdin or as a prompt "
            "argument when using --print"
        )
    return prompt


def _ordered(control: str | None) -> tuple[Scenario, Path | None]:
    """The scenario of this run, and the control file it came from."""
    text = os.environ.get(CONTROL_VARIABLE) or control or ""
    if text.startswith("{"):
        return msgspec.json.decode(text, type=Scenario), None
    file = Path(text) if text else None
    return _next_scenario(file), file


def _auth_status(control: str | None) -> int:
    """Print what `claude auth status` prints; its exit code."""
    logged_in = True
    if control is not None:
        with _locked(Path(control)) as orders:
            logged_in = orders.logged_in
    status = {
        "loggedIn": logged_in,
        "authMethod": "api_key" if logged_in else "none",
        "apiProvider": "firstParty",
    }
    print(json.dumps(status, indent=2))  # noqa: T201
    return 0 if logged_in else 1


def _record(control: Path, argv: list[str], prompt: str, scenario: Scenario) -> None:
    run = SeenRun(
        pid=os.getpid(),
        argv=argv,
        prompt=prompt,
        cwd=str(Path.cwd()),
        environment=sorted(os.environ),
        scenario=scenario.kind,
    )
    with _runs_of(control).open("ab") as runs:
        runs.write(msgspec.json.encode(run) + b"\n")


def _lost_session(session: str) -> dict[str, Any]:
    """The result of resuming a session that is not there."""
    return {
        "type": "result",
        "subtype": "error_during_execution",
        "duration_ms": 0,
        "duration_api_ms": 0,
        "is_error": True,
        "num_turns": 0,
        "stop_reason": None,
        "session_id": session,
        "total_cost_usd": 0,
        "usage": _Usage().whole(),
        "modelUsage": {},
        "permission_denials": [],
        "uuid": str(uuid.uuid4()),
        "errors": [f"No conversation found with session ID: {session}"],
        "result_index": 0,
    }


def main(argv: Sequence[str] | None = None, *, control: str | None = None) -> int:
    """The program; its exit code."""
    signals = _Signals()
    signals.install()
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:2] == ["auth", "status"]:
        return _auth_status(control)
    try:
        flags = _flags().parse_args(words)
        if flags.version:
            print(VERSION)  # noqa: T201
            return 0
        flags.sessions = _sessions_of(control)
        _check(flags)
        prompt = _read_prompt(flags)
    except _Declined as refusal:
        print(refusal, file=sys.stderr)  # noqa: T201
        return 1
    scenario, file = _ordered(control)
    signals.ignored = scenario.ignores
    if file is not None:
        _record(file, words, prompt, scenario)
    if flags.resume and not _session_file(flags.sessions, flags.resume).exists():
        if flags.output_format == "stream-json":
            print(json.dumps(_lost_session(flags.resume)), flush=True)  # noqa: T201
        text = f"No conversation found with session ID: {flags.resume}"
        print(text, file=sys.stderr)  # noqa: T201
        return 1
    return _Claude(flags, scenario, prompt, signals).run()


if __name__ == "__main__":
    sys.exit(main())
