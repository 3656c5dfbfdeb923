"""How fast the read models are made from a log, beside a bare reader of the same log.

    agentcom -m bench.projections read|rebuild|restart URL SEED STORE     (one measurement)

The log is made here: whole lives of tasks, five events each, as many bytes as real ones.
Each measurement is a process of its own, so that its memory is its own: `read` follows
the log and decodes every event, which is the least that a reader must do; `rebuild`
makes all read models from the first event; `restart` opens them again.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.rules.classification import classify
from bench.parts import peak_rss
from cli.client.connection import loop_factory
from cli.local.backup import private_broker
from cli.local.instance import Credentials, Instance
from cli.local.process import spare_the_collector
from cli.local.served import environment, program
from cli.local.streams import provision_with
from events import catalogue as c
from events import subjects
from events.codec import encode, rfc3339
from events.ids import IdSource, ulid
from events.nats.link import Link
from events.nats.log import JetStreamLog
from events.nats.provision import Retention

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from events.nats.link import LinkMessage

TASKS_AT_ONCE = 400
"""Tasks whose lives are interleaved."""
WINDOW = 4_000
START = 1_767_225_600.0
KINDS = 8
"""Different lives, to be told with other ids again and again."""

Line = tuple[str, bytes]


def measure(events: int, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Make a log of so many events and measure; `say` hears what is being done."""
    with tempfile.TemporaryDirectory(prefix="agentcom-bench-") as folder:
        instance = Instance(Path(folder))
        instance.prepare("127.0.0.1:-1", ("bench",))
        with private_broker(instance.data) as admin:
            asyncio.run(provision_with(admin, Retention(output_max_bytes=2**28)))
            say(f"a log of {events} events")
            began = time.perf_counter()
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(write(admin, history(events)))
            wrote = time.perf_counter() - began
            store = instance.data / "read.db"
            figures: dict[str, Any] = {
                "events": events,
                "written_per_s": round(events / wrote),
            }
            for what in ("read", "rebuild", "read_again", "restart"):
                say(f"read models: {what.replace('_', ' ')}")
                kind = what.partition("_")[0]
                figures[what] = _child(kind, admin, store)
            figures["store_bytes"] = store.stat().st_size
            figures["checkpoints_bytes"] = sum(
                path.stat().st_size for path in store.parent.glob("read.db.past/*.db")
            )
    bare = (figures["read"]["events_per_s"] + figures["read_again"]["events_per_s"]) / 2
    figures["ratio_to_bare"] = round(figures["rebuild"]["events_per_s"] / bare, 3)
    return figures


def _child(what: str, admin: Credentials, store: Path) -> dict[str, Any]:
    done = subprocess.run(
        program(
            "-m", "bench.projections", what, admin.url, str(admin.seed_path), str(store)
        ),
        env=environment(),
        stdout=subprocess.PIPE,
        check=True,
    )
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


# -- the log ---------------------------------------------------------------------------


def head(by: str) -> dict[str, Any]:
    """The fields that every event has; ids and times are filled in later."""
    return {"id": "@ID@", "at": "@AT@", "by": by}


def life(kind: int) -> list[tuple[str, bytes]]:
    """Encode one kind of life, with marks where ids and times go."""
    tier: c.Tier = ("trivial", "standard", "standard", "complex")[kind % 4]
    target: c.TargetType = {  # type: ignore[assignment]
        "trivial": "sidecar", "standard": "ollama", "complex": "claude"
    }[tier]  # fmt: skip
    host = f"h{kind % 5}"
    endpoint = "" if tier == "trivial" else f"{host}-{target}"
    model = {"trivial": "", "standard": "llama3.2:latest", "complex": "claude"}[tier]
    factors = c.Factors(
        load=0.5, capacity=1.0, vram=0.9, warm=1.0, affinity=1.0, slots=1.0
    )
    candidates = [
        c.Candidate(
            host=f"h{n}", endpoint=endpoint, model=model, cpu=0.25, ram_bytes=2**34,
            slots_free=1, slots_total=2, in_flight=1, factors=factors, score=0.45,
        )
        for n in range(2)
    ]  # fmt: skip
    classified = c.Classification(
        tier, None, "inferred", c.Inferred(tier, 0.67, ["words=12"]), f"inferred:{tier}"
    )
    run: dict[str, Any] = {"task_id": "@TASK@", "host": host, "route": "@ROUTE@", "generation": 1,
           "attempt": 1, "incarnation": "i1"}  # fmt: skip
    result = c.Result(
        status="success", output="done " * 12, output_bytes=60, model_used=model or "none",
        tokens_in=420, tokens_out=80, estimated_cost_usd=0.0125 if kind % 4 == 3 else 0.0,
        equivalent_claude_cost_usd=0.01, execution_ms=12.5 * (kind + 1),
    )  # fmt: skip
    routed = c.TaskRouted(
        **(head("scheduler") | {"id": "@ROUTE@"}), task_id="@TASK@", generation=1,
        attempt=1, effective_tier=tier, target_type=target, selected_host=host,
        selected_endpoint=endpoint, selected_model=model,
        classification_reason=f"inferred:{tier}", candidate_count=2,
        candidates=candidates, estimated_cost_tier="local", policy_version=1, log_seq=1,
    )  # fmt: skip
    spec = c.TaskSpec(
        description="look at the thing and say what is wrong", repo="shop"
    )
    ended = c.TaskFailed if kind == KINDS - 1 else c.TaskCompleted
    return [
        ("task", encode(c.TaskSubmitted(**head("gateway"), task_id="@TASK@", spec=spec,
                                        classification=classified))),
        ("task", encode(routed)),
        (host, encode(c.TaskAccepted(**head(host), **run))),
        (host, encode(c.TaskStarted(**head(host), **run, executor=target))),
        (host, encode(ended(**head(host), **run, result=result))),
    ]  # fmt: skip


def history(events: int) -> Iterator[Line]:
    """Yield subjects and bytes of a long history."""
    kinds = [life(kind) for kind in range(KINDS)]
    written, number, now = 0, 0, START
    while written < events:
        tasks = [
            (ulid(now, number + i), ulid(now, 2**40 + number + i), kinds[i % KINDS])
            for i in range(TASKS_AT_ONCE)
        ]
        number += TASKS_AT_ONCE
        for step in range(5):
            for task, route, steps in tasks:
                if written == events:
                    return
                written += 1
                now += 0.01
                where, encoded = steps[step]
                subject = (
                    subjects.task(task)
                    if where == "task"
                    else subjects.run(where, task)
                )
                yield (
                    subject,
                    (
                        encoded.replace(b"@TASK@", task.encode())
                        .replace(b"@ROUTE@", route.encode())
                        .replace(b"@ID@", ulid(now, written).encode())
                        .replace(b"@AT@", rfc3339(now).encode())
                    ),
                )


def waiting(tasks: int) -> Iterator[Line]:
    """Yield submissions that nobody here can run."""
    ids = IdSource(time.time, lambda: secrets.randbits(80))
    spec = c.TaskSpec(
        description="Summarise what changed in the repository this week.",
        tier="standard",
        repo="shop",
    )
    classification = classify(spec)
    for _ in range(tasks):
        task_id = ids()
        event = c.TaskSubmitted(
            id=ids(), at=rfc3339(time.time()), by="bench", task_id=task_id,
            spec=spec, classification=classification,
        )  # fmt: skip
        yield subjects.task(task_id), encode(event)


async def write(admin: Credentials, lines: Iterable[Line]) -> None:
    """Write events into a log that nobody else writes to, as fast as it takes them."""
    link = await Link.connect(admin.address())
    try:
        waiting: list[asyncio.Future[LinkMessage]] = []
        for subject, raw in lines:
            waiting.append(link.call(subject, raw, timeout=30))
            if len(waiting) >= WINDOW:
                await asyncio.gather(*waiting)
                waiting.clear()
        await asyncio.gather(*waiting)
    finally:
        await link.close()


# -- one measurement -------------------------------------------------------------------


async def _measured(what: str, credentials: Credentials, store: Path) -> dict[str, Any]:
    from projections.main import checkpoints_beside
    from projections.runner import Runner
    from projections.store import Store

    spare_the_collector()
    link = await Link.connect(credentials.address())
    log = JetStreamLog(link)
    last = await log.last_sequence()
    began, used = time.perf_counter(), time.process_time()
    if what == "read":
        follower = await log.follow(lambda recorded: None)
        await follower.caught_up.wait()
        took, used = time.perf_counter() - began, time.process_time() - used
        await follower.stop()
    else:
        read_models = Store(store)
        runner = Runner(log, read_models, checkpoints=checkpoints_beside(store))
        await runner.start()
        await runner.until_caught_up()
        runner.save()
        took, used = time.perf_counter() - began, time.process_time() - used
        assert runner.position == last
        await runner.stop()
        read_models.close()
    await log.close()
    await link.close()
    return {
        "took_s": round(took, 3),
        "events_per_s": round(last / took),
        "cpu_us_per_event": round(used / last * 1e6, 2),
        "max_rss": peak_rss(),
    }


def main(what: str, url: str, seed: str, store: str) -> None:
    credentials = Credentials(url, Path(seed), "admin")
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        figures = runner.run(_measured(what, credentials, Path(store)))
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
