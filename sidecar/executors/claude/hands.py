"""The standard tier's hands: Claude Code, working with a local model's answers.

A model server that speaks Anthropic's Messages API is all that the program needs: it is
told the server's address, a key, and the local model's name wherever it would ask for one
of its own. It keeps its settings and sessions in a folder of its own, so that no login and
no setting of a person's account has a part in it, and it asks nobody else anything. Nor has
a repository's own setting a part in it: one could name another server, which would be given
the work and the endpoint's key.

The dollars that it prints are of models it does not know: they are not booked. What it
complains of is the server's, not an account's: the run is given back, for another place.

An Ollama serves its models with a context of 4,096 tokens unless it is asked for more, and
in the Messages API nobody can ask. So it is asked to make a variant of the model, which
shares the model's files and is loaded with the context that the work needs.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import aiohttp
import msgspec
from msgspec.structs import replace

from actors.rules.contexts import context_needed
from actors.rules.prompt import estimate
from events.models import same_model
from sidecar.abilities import fixed_context, variant
from sidecar.executors.claude.executor import ClaudeExecutor
from sidecar.executors.port import Finished, RawResult, Returned, Stopped
from sidecar.folders import WorkspaceError, make
from sidecar.http import base_url, http_client, why_not, without_secrets
from sidecar.looks import Missed, ask_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from events.mail import Assign
    from sidecar.delegation import RunsDoor
    from sidecar.executors.claude.command import ClaudeOptions
    from sidecar.executors.port import Emit, Outcome, Run, Stop
    from sidecar.processes.family import Processes

_MODEL_VARIABLES: Final = (
    "ANTHROPIC_MODEL",
    "ANTHROPIC_SMALL_FAST_MODEL",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    "ANTHROPIC_DEFAULT_SONNET_MODEL",
    "ANTHROPIC_DEFAULT_OPUS_MODEL",
    "ANTHROPIC_DEFAULT_FABLE_MODEL",
    "CLAUDE_CODE_SUBAGENT_MODEL",
)
_ASK_S: Final = 10.0

_REASONS: Final = {
    # The server is at fault.
    **dict.fromkeys(
        (
            *("authentication_failed", "oauth_org_not_allowed", "account_on_hold"),
            *("verification_required", "cloud_credential_error", "credit"),
            *("model_not_found", "server_error", "unknown"),
        ),
        "endpoint_failed",
    ),
    # It, or the program here, cannot do this work, and nothing is wrong with it.
    **dict.fromkeys(("bad_request", "prompt_too_long"), "endpoint_unfit"),
    **dict.fromkeys(("claude_not_found", "claude_cannot_start"), "endpoint_unfit"),
    **dict.fromkeys(("overloaded", "rate_limit"), "endpoint_busy"),
}
"""Why a run is given back, by what Claude Code says."""


class HandsExecutor:
    """Does work with Claude Code and a local model."""

    def __init__(
        self,
        processes: Processes,
        options: ClaudeOptions,
        api_key: Callable[[str], str | None],
        folder: Path,
        door: RunsDoor | None = None,
    ) -> None:
        """`folder` is the program's own, for settings and sessions."""
        self._door = door
        self._processes = processes
        self._options = replace(options, repo_settings=False)
        self._api_key = api_key
        self._folder = folder
        self._client: aiohttp.ClientSession | None = None

    async def run(self, run: Run, emit: Emit, stop: Stop) -> Outcome:
        """Work until it is done, or give it back where the server is at fault."""
        assign = run.assign
        failed = RawResult(status="failed", model_used=assign.model or "unknown")
        try:
            key = self._api_key(assign.endpoint)
            context, simulated, model = await self._made_ready(assign, key, emit)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as wrong:
            detail = without_secrets(why_not(wrong), assign.endpoint_url)
            emit.error(f"{assign.endpoint} cannot be worked with: {detail}", "server")
            return self._back("endpoint_failed", detail, assign, failed)
        except WorkspaceError as wrong:
            emit.error(f"Working folder: {wrong}", wrong.code)
            return Returned(reason=wrong.code, detail=str(wrong), result=failed)
        variables = environment(
            base_url(assign.endpoint_kind or "openai", assign.endpoint_url),
            key,
            model,
            context,
            self._folder,
        )
        program = ClaudeExecutor(self._processes, self._options, variables, self._door)
        # In every turn the server is silent while it reads what was said so far.
        limits = replace(
            assign.limits,
            idle_timeout_s=max(
                assign.limits.idle_timeout_s, assign.limits.first_token_cold_s
            ),
        )
        # No dollars are spent, so that no sum of them is a limit.
        assigned = replace(assign, model=model, max_budget_usd=None, limits=limits)
        outcome = await program.run(replace(run, assign=assigned), emit, stop)
        return self._as_local(outcome, assign, simulated=simulated)

    async def _made_ready(
        self, assign: Assign, key: str | None, emit: Emit
    ) -> tuple[int, bool, str]:
        """Look at the server; return how much context there is, whether it is a simulated
        one, and the name under which the model is to be asked for."""
        if self._client is None:
            self._client = http_client()
        await asyncio.to_thread(make, self._folder, self._processes.user)
        kind = assign.endpoint_kind or "openai"
        async with asyncio.timeout(_ASK_S):
            look = await ask_server(self._client, kind, assign.endpoint_url, key)
        if isinstance(look, Missed):
            raise ValueError(look.reason)
        if not any(same_model(kind, assign.model, name) for name in look.models):
            raise ValueError(f"it does not have {assign.model} any more")
        needed = context_needed(estimate(assign.spec), work=True)
        context = look.context_tokens.get(assign.model, needed)
        model = assign.model
        if kind == "ollama":
            context = min(context, needed)
            model = await self._with_context(assign, needed)
        named = "" if model == assign.model else f" as {model}"
        emit.status(
            f"Claude Code works with {assign.model}{named} on {assign.endpoint}, "
            f"context {context:,} tokens"
        )
        return context, look.simulated, model

    async def _with_context(self, assign: Assign, tokens: int) -> str:
        """Have an Ollama load the model with so much context; return what to ask for."""
        base, model = base_url("ollama", assign.endpoint_url), assign.model
        shown = await self._post(f"{base}/api/show", {"model": model})
        if fixed_context(shown.get("parameters")) >= tokens:
            return model
        name = variant(model, tokens)
        await self._post(
            f"{base}/api/create",
            {
                "model": name,
                "from": model,
                "parameters": {"num_ctx": tokens},
                "stream": False,
            },
        )
        return name

    async def _post(self, url: str, body: object) -> dict[str, object]:
        assert self._client is not None
        async with (
            asyncio.timeout(_ASK_S),
            self._client.post(url, json=body, allow_redirects=False) as answer,
        ):
            raw = await answer.read()
            if answer.status != 200:
                text = raw[:200].decode("utf-8", "replace")
                path = url.rpartition("/")[2]
                raise ValueError(f"/api/{path} answered {answer.status}: {text}")
        try:
            return msgspec.json.decode(raw, type=dict[str, object])
        except msgspec.MsgspecError as wrong:
            raise ValueError(f"no answer that can be read: {wrong}") from wrong

    def _as_local(
        self, outcome: Outcome, assign: Assign, *, simulated: bool
    ) -> Outcome:
        """Read the program's end as that of a local model's run."""
        raw = outcome.result
        if raw is not None:
            # It knows neither the model's name as it is listed, nor any price of it.
            raw = replace(
                raw,
                model_used=assign.model,
                reported_cost_usd=None,
                cost_known=True,
                simulated=raw.simulated or simulated,
            )
        match outcome:
            case Stopped():
                return replace(outcome, result=raw)
            case Returned():
                if outcome.reason != "limited":
                    return replace(outcome, result=raw)
                return self._back("endpoint_busy", outcome.detail, assign, raw)
            case Finished():
                assert raw is not None
                return self._ended(raw, assign)

    def _ended(self, raw: RawResult, assign: Assign) -> Outcome:
        if raw.error is None or raw.error.code not in _REASONS:
            return Finished(raw)
        return self._back(_REASONS[raw.error.code], raw.error.message, assign, raw)

    @staticmethod
    def _back(
        reason: str, detail: str, assign: Assign, raw: RawResult | None
    ) -> Returned[RawResult]:
        return Returned(
            reason=reason, detail=detail, exclude=assign.endpoint or None, result=raw
        )

    async def close(self) -> None:
        """Let go of the connections."""
        if self._client is not None:
            await self._client.close()


def environment(
    base: str, key: str | None, model: str, context: int, folder: Path
) -> dict[str, str]:
    """The variables that have Claude Code ask a local server, and nobody else.

    It asks for no longer an answer than a quarter of the context: servers refuse what
    would not fit.
    """
    return {
        "ANTHROPIC_BASE_URL": base,
        "ANTHROPIC_AUTH_TOKEN": key or "local",
        "ANTHROPIC_API_KEY": "",
        **dict.fromkeys(_MODEL_VARIABLES, model),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        # A line that differs with every call would empty the server's cache of prompts.
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(context),
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(max(1_024, context // 4)),
        "CLAUDE_CONFIG_DIR": str(folder),
    }
