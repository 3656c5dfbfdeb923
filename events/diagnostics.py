"""What a process says about itself for whoever looks after it; no event, no answer.

structlog is imported with the first word: a command that has nothing to say, which is
nearly each, does without it and what it brings along (0.06 s).
"""

from __future__ import annotations

from typing import Any


class Diagnostics:
    """structlog's logger of a name: `info`, `warning`, `exception` and the others."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, level: str) -> Any:
        import structlog

        if not structlog.is_configured():
            import sys

            *before, _ = structlog.get_config()["processors"]
            # A traceback without the frames' variables: they may hold what is secret.
            plain = structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                exception_formatter=structlog.dev.plain_traceback,
            )
            # A command's stdout is for its answer.
            structlog.configure(
                processors=[*before, plain],
                logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
            )
        return getattr(structlog.get_logger(self._name), level)
