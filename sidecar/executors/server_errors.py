"""What a model server's error means for the run, however it is worded and wrapped.

Servers agree on little: the message stands in `error`, in `error.message`, at the top
(vLLM) or in `detail` (FastAPI); a prompt that does not fit is a 400 of type
`exceed_context_size_error` (llama.cpp), a 400 with a sentence (vLLM, Ollama), a 413, or a
500 (older llama.cpp); a model that is not there is a 404, or a 400 with a sentence
(llama.cpp's router, LiteLLM); a picture that a model cannot see is a 500 (llama.cpp).
"""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct, structs

from events.errors import shown
from sidecar.executors.ndjson import excerpt

if TYPE_CHECKING:
    from collections.abc import Mapping


class ModelFault(Struct, frozen=True, kw_only=True):
    """Why a try failed, and what follows.

    `again`: a second try may help. `whose`: the work's own answer (`work`), the server's
    trouble (`server`), or no trouble at all but this server cannot do this work, now or
    ever (`place`: a busy one, a context that is too small). `unusable`: the next task
    would meet the same trouble there. `loading`: the server is bringing its model into
    memory. `retry_after_s`: when to ask again, in the server's own words.
    """

    code: str
    message: str
    again: bool = True
    whose: Literal["work", "server", "place"] = "server"
    unusable: bool = False
    loading: bool = False
    retry_after_s: float | None = None


class ServerError(Struct, frozen=True):
    """An error as its server told it: a sentence, a word for its kind, a status."""

    message: str
    kind: str = ""
    status: int | None = None


_TOO_LONG = re.compile(
    r"exceed_context_size|context_length_exceeded|context (length|size|window)"
    r"|exceeds? the (available |model'?s? )?(maximum )?context|too (long|many tokens)"
    r"|(input|prompt)[^.]{0,60}\bexceeds?\b[^.]{0,40}\b(tokens|length|limit)",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model_not_found|invalid model name|\bmodel\b[^.]{0,200}"
    r"(not found|does not exist|not loaded|no such)|no such model",
    re.IGNORECASE,
)
_NO_EYES = re.compile(
    r"\b(image|picture|vision|audio|multimodal)\w*\b[^.]{0,80}"
    r"(not support|unsupported|not available)|does not support (image|vision|multimodal)",
    re.IGNORECASE,
)
_LOADING = re.compile(r"\b(loading|starting up|warming up)\b", re.IGNORECASE)
_NO_CREDIT = re.compile(r"insufficient_quota|insufficient credit", re.IGNORECASE)


def error_in(value: Any) -> ServerError | None:
    """Return the error that a JSON value tells, None where it tells none."""
    if not isinstance(value, dict):
        return None
    inner = value.get("error")
    if isinstance(inner, str) and inner:
        return ServerError(inner, status=_status(value.get("code")))
    if isinstance(inner, dict) and inner:
        return _told(inner)
    if inner:
        return ServerError(str(inner))
    text = value.get("message") or value.get("detail")
    if value.get("object") == "error" or (
        isinstance(text, str | list) and "choices" not in value
    ):
        return _told(value)
    return None


def _told(value: dict[str, Any]) -> ServerError | None:
    """Read an object that holds the message itself."""
    message = value.get("message") or value.get("detail") or value.get("msg")
    if isinstance(message, list):  # FastAPI's list of what is wrong
        each = [m.get("msg") if isinstance(m, dict) else m for m in message]
        message = "; ".join(str(m) for m in each if m)
    if isinstance(message, dict):
        return _told(message) or ServerError(str(message))
    if not message and not value.get("type") and not value.get("code"):
        return None
    kinds = [value.get("type"), value.get("code")]
    kind = " ".join(word for word in kinds if isinstance(word, str))
    status = _status(value.get("code")) or _status(value.get("status"))
    return ServerError(str(message or kind), kind, status)


def _status(value: Any) -> int | None:
    if isinstance(value, str) and value.isdecimal():
        value = int(value[:4])
    if isinstance(value, int) and 400 <= value < 600:
        return value
    return None


def error_of_body(body: bytes) -> ServerError:
    """Read the body of a refusal: its error, or how it begins."""
    try:
        told = error_in(msgspec.json.decode(body))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        told = None
    return told or ServerError(excerpt(body))


def fault_of(status: int, error: ServerError, model: str = "") -> ModelFault:
    """What a status other than 200 means, with what the server said to it."""
    text = error.message or f"status {status}"
    sentence = f"{text} (status {status})"
    words = f"{error.kind} {error.message}"
    if status == 413 or (status in (400, 422, 500) and _TOO_LONG.search(words)):
        # A longer context may be had elsewhere; here it cannot work.
        return ModelFault(
            code="prompt_too_long", message=text, again=False, whose="place"
        )
    if status == 404 or (status in (400, 422) and _NO_MODEL.search(words)):
        message = error.message or f"no model {shown(model)}"
        return ModelFault(code="model_missing", message=message, again=False)
    if status in (400, 422, 500, 501) and _NO_EYES.search(words):
        return ModelFault(code="bad_request", message=text, again=False, whose="place")
    if status == 402 or (status == 429 and _NO_CREDIT.search(words)):
        return ModelFault(code="credit", message=sentence, again=False, unusable=True)
    if status in (401, 403):
        return ModelFault(
            code="not_authorised", message=sentence, again=False, unusable=True
        )
    if status in (408, 425, 429, 499):
        return ModelFault(code="busy", message=sentence, whose="place")
    if 400 <= status < 500:
        return ModelFault(code="bad_request", message=text, again=False, whose="work")
    if status == 503:
        loading = _LOADING.search(words) is not None
        return ModelFault(code="busy", message=text, whose="place", loading=loading)
    if status >= 500:
        return ModelFault(code="server_error", message=sentence)
    return ModelFault(
        code="bad_endpoint", message=f"unexpected {sentence}", again=False
    )


def fault_inside(error: ServerError) -> ModelFault:
    """What an error under status 200 means: it names its own status, or none."""
    fault = fault_of(error.status or 500, error)
    if error.status is None and fault.code == "server_error":
        fault = structs.replace(fault, message=error.message)
    return fault


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that `Retry-After` asks for (RFC 9110, section 10.2.3)."""
    for name, unit in (("Retry-After-Ms", 0.001), ("Retry-After", 1.0)):
        value = headers.get(name, "").strip()
        if not value:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, TypeError):
                continue
        if seconds == seconds:  # not NaN
            return max(0.0, seconds)
    return None
