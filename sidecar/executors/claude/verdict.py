"""What the end of a run of Claude Code means: success, whose failure, worth another try."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from sidecar.output import cut

if TYPE_CHECKING:
    from sidecar.executors.claude.reading import ClaudeTry
    from sidecar.executors.claude.stream_json import RunEnd
    from sidecar.processes.ending import Exit

_SHOWN_OF_STDERR = 500


class Verdict(Struct, frozen=True, kw_only=True):
    """What a try's end means.

    `unusable`: the next task would end the same way. `lost_session`: what was to be
    resumed is not there.
    """

    code: str = ""
    message: str = ""
    again: bool = False
    limited: bool = False
    unusable: bool = False
    lost_session: bool = False
    limited_until: float | None = None  # epoch seconds, where the text says

    @property
    def ok(self) -> bool:
        """Whether it was a success."""
        return not self.code


_ACCOUNT = (
    "authentication_failed",
    "oauth_org_not_allowed",
    "account_on_hold",
    "verification_required",
    "cloud_credential_error",
)
_BY_NAME: dict[str, Verdict] = {
    **{name: Verdict(code=name, unusable=True) for name in _ACCOUNT},
    "billing_error": Verdict(code="credit", unusable=True),
    "rate_limit": Verdict(code="rate_limit", again=True, limited=True),
    "overloaded": Verdict(code="overloaded", again=True),
    "server_error": Verdict(code="server_error", again=True),
    "unknown": Verdict(code="unknown", again=True),
    "invalid_request": Verdict(code="bad_request"),
    "model_not_found": Verdict(code="model_not_found"),
    "max_output_tokens": Verdict(code="max_output_tokens"),
}
_BY_STATUS: dict[int, str] = {
    400: "invalid_request",
    401: "authentication_failed",
    402: "billing_error",
    403: "authentication_failed",
    404: "model_not_found",
    413: "invalid_request",
    429: "rate_limit",
    529: "overloaded",
}


# What older programs give as the answer, without calling it an error.
_LIMIT_TEXT = re.compile(
    r"(?:Claude (?:AI )?usage limit reached|You've hit your [^.|\n]{0,40}?limit"
    r"|(?:\d+-hour|[Dd]aily|[Ww]eekly|Opus|Sonnet|[Ss]ession|[Uu]sage) limit reached)"
    r"(?:\|(?P<until>\d{9,11})| ?[·∙.] ?[^\n]{0,80})?",
    re.ASCII,
)


def verdict_on(
    end: RunEnd | None, error: str | None, denials: list[str]
) -> Verdict | None:
    """What a result means; None where there is none. `error` is Claude Code's own name."""
    if end is None:
        return None
    text = end.text or "; ".join(end.errors)
    if not text and not end.is_good:
        text = "Claude Code reported an error without saying which"
        text += "" if end.subtype in ("", "success") else f" ({end.subtype})"
    if limit := _LIMIT_TEXT.fullmatch(text.strip()):
        until = float(limit["until"]) if limit["until"] else None
        return replace(_BY_NAME["rate_limit"], message=text, limited_until=until)
    if end.is_good:
        refused = sorted({*end.denials, *denials})
        if end.denials:
            message = f"permission denied: {', '.join(refused)}"
            return Verdict(code="permission_denied", message=message)
        return Verdict()
    if end.subtype == "error_max_turns":
        return Verdict(code="max_turns", message=text)
    if end.subtype == "error_max_budget_usd":
        return Verdict(code="budget", message=text)
    if end.subtype == "error_during_execution":
        if any("No conversation found" in each for each in end.errors):
            return Verdict(code="session_lost", message=text, lost_session=True)
        return Verdict(code="unknown", message=text, again=True)
    if end.stop_reason == "refusal":
        return Verdict(code="refused", message=text)
    if end.terminal_reason == "prompt_too_long":
        return Verdict(code="prompt_too_long", message=text)
    return replace(_by_error(error, end.status), message=text)


def _by_error(error: str | None, status: int | None) -> Verdict:
    if error in _BY_NAME and (error != "unknown" or status is None):
        return _BY_NAME[error]
    if status is not None:
        if status >= 500 or status in (408, 409):
            return _BY_NAME[_BY_STATUS.get(status, "server_error")]
        return _BY_NAME[_BY_STATUS.get(status, "invalid_request")]
    # A name that is not known here says nothing of a second try doing better.
    return Verdict(code=error) if error else _BY_NAME["unknown"]


def known_of(try_: ClaudeTry, end: Exit) -> str:
    """How the program exited, and what it wrote to stderr, where it says no more."""
    detail = cut(try_.stderr.text().strip(), _SHOWN_OF_STDERR)
    return f"({end}): {detail}" if detail else f"({end})"


def without_result(try_: ClaudeTry, end: Exit) -> Verdict:
    """No `result` came: a failure, whatever the exit code says."""
    message = f"Claude Code ended without a result {known_of(try_, end)}"
    # It never began and says why: another try would say the same.
    explained = try_.start is None and end.code not in (None, 0)
    explained = explained and bool(try_.stderr.text().strip())
    return Verdict(code="no_result", message=message, again=not explained)
