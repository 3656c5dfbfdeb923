"""A role says that its broker is away, why, and that it is back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from cli.local.process import Away


class Loop:
    """A loop whose time somebody turns on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay, callback):
        timer = SimpleNamespace(due=self.now + delay, callback=callback, off=False)
        timer.cancel = lambda: setattr(timer, "off", True)
        self.timers.append(timer)
        return timer

    def go(self, seconds: float) -> None:
        self.now += seconds
        for timer in [t for t in self.timers if not t.off and t.due <= self.now]:
            timer.off = True
            timer.callback()


@pytest.fixture
def there():
    handlers = []
    link = SimpleNamespace(
        reason="",
        address=SimpleNamespace(url="nats://b"),
        on_connection=lambda handler: handlers.append(handler) or handlers.clear,
    )
    loop = Loop()
    away = Away(link, loop)
    with capture_logs() as logs:
        yield SimpleNamespace(
            link=link, loop=loop, away=away, logs=logs, connection=handlers[0]
        )


def test_a_blink_is_not_worth_a_word(there):
    there.connection(False)
    there.loop.go(0.5)
    there.connection(True)
    there.loop.go(5)
    assert there.logs == []


def test_who_is_away_for_long_is_named_with_the_reason(there):
    there.link.reason = "an older one"
    there.connection(False)
    there.link.reason = "nats: Authorization Violation"
    there.loop.go(1)
    there.loop.go(60)
    there.loop.go(4)
    there.connection(True)
    said = [(each["event"], each.get("reason")) for each in there.logs]
    assert said == [
        ("the broker is away", "nats: Authorization Violation"),
        ("the broker is away", "nats: Authorization Violation"),
        ("the broker is back", None),
    ]
    assert there.logs[-1]["away_s"] == 65.0


def test_at_the_end_nothing_more_is_said(there):
    there.connection(False)
    there.away.stop()
    there.loop.go(5)
    assert there.logs == []
