"""Metrics of schedulers and sidecars, for Prometheus."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import urllib.request
from types import SimpleNamespace

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.scheduler.metrics import SchedulerMetrics
from agentcom import __version__
from events.catalogue import TaskRejected
from events.errors import Conflict
from events.metered import MeteredLog
from sidecar.metrics import SidecarMetrics
from tests.support.fakes import MemoryLog
from tests.support.histories import History, result, tell
from tests.support.livelog import ROOT
from web.exposition import Exposition, exposed


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    """Every sample by its name and its labels' values."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


async def test_a_scheduler_counts_decisions_fallbacks_and_refusals():
    log = MemoryLog()
    history = History()
    route = history.route(history.submit(), decided_us=40.0)
    hop = history.route(
        history.submit(),
        tier="complex",
        target="claude",
        fallback_used=True,
        fallback_from_tier="standard",
    )
    history.requeue(hop, "host_lost")
    meter = SchedulerMetrics(log)
    follower = await meter.log.follow(lambda recorded: None)
    await follower.caught_up.wait()
    await tell(meter.log, history.recorded)
    rejected = History()
    rejected.report(TaskRejected, route, reason="busy")
    await tell(log, rejected.recorded)
    while follower.position < len(history.recorded) + 1:
        await asyncio.sleep(0)
    await asyncio.sleep(0)

    said = samples(Exposition("role", meter).text())

    assert said["agentcom_scheduler_decisions_total", "ollama", "standard"] == 1
    assert said["agentcom_scheduler_fallbacks_total", "standard", "complex"] == 1
    assert said["agentcom_decision_seconds_bucket", "4e-05"] == 2
    assert said["agentcom_scheduler_requeues_total", "host_lost"] == 1
    assert said["agentcom_rejected_assignments_total", "busy"] == 1
    assert said[("agentcom_append_seconds_count",)] == len(history.recorded)
    await follower.stop()


async def test_what_was_there_before_is_not_counted_as_seen():
    log = MemoryLog()
    history = History()
    history.report(TaskRejected, history.route(history.submit()), reason="busy")
    await tell(log, history.recorded)
    meter = SchedulerMetrics(log)
    follower = await meter.log.follow(lambda recorded: None)
    await follower.caught_up.wait()

    said = samples(Exposition("role", meter).text())

    assert ("agentcom_rejected_assignments_total", "busy") not in said
    await follower.stop()


async def test_a_failed_append_is_counted_by_its_error():
    history = History()
    history.submit()
    (submitted,) = history.recorded
    metered = MeteredLog(MemoryLog())
    await metered.append(submitted.subject, submitted.event, expect=0)
    another = msgspec.structs.replace(submitted.event, id="another")
    with pytest.raises(Conflict):
        await metered.append(submitted.subject, another, expect=0)
    await asyncio.sleep(0)
    assert metered.failures._counts == {("conflict",): 1}
    assert await metered.last_sequence() == 1
    assert (await metered.get(1)).event == submitted.event
    assert await metered.last(submitted.subject) is not None
    assert len(await metered.read(submitted.subject)) == 1


async def test_a_sidecar_counts_runs_tokens_dollars_and_what_it_dropped():
    history = History()
    route = history.route(history.submit())
    done = history.complete(route, usd=0.25)
    meter = SidecarMetrics(MemoryLog())
    await tell(meter.log, [done])
    await asyncio.sleep(0)
    meter.attach(
        SimpleNamespace(
            state=SimpleNamespace(runs={"r": 1}, draining=False),
            outbox=SimpleNamespace(pending=3),
            output=SimpleNamespace(dropped=2, resent=1),
        )
    )

    said = samples(Exposition("role", meter).text())

    assert said["agentcom_sidecar_runs_total", "llama3.2", "completed"] == 1
    assert said["agentcom_sidecar_tokens_total", "in"] == result().tokens_in
    assert said[("agentcom_sidecar_cost_dollars_total",)] == 0.25
    assert said[("agentcom_sidecar_outbox_depth",)] == 3
    assert said["agentcom_sidecar_dropped_chunks_total", "dropped"] == 2
    assert said[("agentcom_sidecar_resent_chunks_total",)] == 1


async def test_every_name_begins_with_agentcom():
    for meter in (SchedulerMetrics(MemoryLog()), SidecarMetrics(MemoryLog())):
        names = {name for name, *_ in samples(Exposition("role", meter).text())}
        assert names
        usual = ("agentcom_", "process_", "python_")
        assert all(name.startswith(usual) for name in names)


async def test_nothing_listens_unless_asked():
    async with exposed(
        "sidecar", SidecarMetrics(MemoryLog()), None, lambda port: 1 / 0
    ):
        pass


@pytest.mark.parametrize("role", ["scheduler", "sidecar"])
async def test_a_role_serves_its_metrics(broker, role):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "agentcom",
        role,
        "--metrics-port",
        "0",
        *(["--name", "h1"] if role == "sidecar" else []),
        stderr=asyncio.subprocess.PIPE,
        env={
            **os.environ,
            "AGENTCOM_DATA": str(broker.instance.data),
            "PYTHONPATH": str(ROOT),
        },
    )
    try:
        async for line in process.stderr:
            entry = json.loads(line)
            if entry["event"] == "metrics":
                break
        else:
            pytest.fail("it ended")
        with await asyncio.to_thread(urllib.request.urlopen, entry["url"]) as answer:
            said = samples(answer.read())
    finally:
        process.terminate()
        await process.communicate()
    assert ("agentcom_append_seconds_count",) in said
    assert ("agentcom_build_info", role, __version__) in said
    assert said["process_resident_memory_bytes",] > 0
    if role == "scheduler":
        assert ("agentcom_scheduler_queue_depth", "standard") in said
