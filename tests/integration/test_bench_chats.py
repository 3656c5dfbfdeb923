"""`bench --openai`: both ways are asked, and nothing fails on either."""

from __future__ import annotations

from bench.chats import STREAMS, measure_chats
from bench.shown import shown


def test_as_many_chats_go_each_way() -> None:
    report = measure_chats(3)
    assert report["failed"] == {"direct": 0, "agentcom": 0}
    assert all(report["first_ms"].values())
    assert report["later_ms"]
    assert report["streams"] == STREAMS
    assert len(list(shown("openai", {"openai": report}))) == 2
