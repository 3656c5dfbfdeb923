"""The broker as a child process: its store, its lock, its end."""

from __future__ import annotations


async def test_an_acknowledged_event_survives_a_killed_server(broker):
    scheduler = await broker.connect("scheduler")
    stored = await scheduler.jetstream().publish("agentcom.evt.task.t1", b"{}")
    broker.kill()
    broker.restart()

    reader = await broker.connect("projections")
    found = await reader.jetstream().get_msg("AGENTCOM_EVENTS", stored.seq)

    assert found.subject == "agentcom.evt.task.t1"
