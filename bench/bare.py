"""The bare pipeline: our shape without our meaning, for comparison.

The same processes, hops, event count and event sizes as the real ring: a client asks, a
core process stores and answers, reads its own log back, stores the next event, mails a
worker, and the worker stores two more. What is left out is everything that makes it
AgentCom: validation, decoding, deciding, journal, state. So the ratio between the two is
what that meaning costs.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

from events import header, subjects
from events.codec import rfc3339
from events.nats.follow import HEARTBEAT, PULL_BATCH, PULL_EXPIRES
from events.nats.link import Address, Link

if TYPE_CHECKING:
    from events.bus import Message
    from events.nats.link import LinkMessage

HOST = "bare"


def payload(stage: str, size: int, at: str = "") -> bytes:
    """An event of a given size that a subscriber can tell by its first bytes."""
    head = b'{"type":"task.%s.v1","at":"%s","pad":"' % (stage.encode(), at.encode())
    return head + b"x" * max(0, size - len(head) - 2) + b'"}'


async def core(address: Address, sizes: list[int]) -> None:
    """Gateway and scheduler: store, answer, read back, store, mail."""

    link = await Link.connect(address)
    submitted, routed = payload("submitted", sizes[0]), payload("routed", sizes[1])
    done = asyncio.Event()

    def on_command(message: Message) -> None:
        task = message.data.decode()

        def stored(answer: object) -> None:
            message.respond(b'{"ok":true}')

        subject = subjects.task(task)
        link.post(
            subject,
            submitted,
            reply=link.expect(subject, stored),
            headers={header.EXPECTED_LAST: "0"},
        )

    def on_log(subject: str, data: bytes, seq: int) -> None:
        task = subject.rpartition(".")[2]
        if data.startswith(b'{"type":"task.submitted'):
            link.post(
                subject,
                routed,
                reply=link.expect(subject, lambda _: None),
                headers={header.EXPECTED_LAST: str(seq)},
            )
        elif data.startswith(b'{"type":"task.routed'):
            answer = link.request(
                subjects.host_mailbox(HOST), task.encode(), timeout=30.0
            )
            answer.add_done_callback(lambda f: f.exception())

    await _follow(link, on_log)
    await link.listen(subjects.command(">"), on_command, queue="bare")
    print("ready", flush=True)
    await done.wait()


async def _follow(link: Link, handle: object) -> None:
    """A pull consumer with two batches asked for ahead, and nothing else."""
    import json

    stream = subjects.EVENTS
    answer = await link.call(
        f"$JS.API.CONSUMER.CREATE.{stream}",
        json.dumps(
            {
                "stream_name": stream,
                "config": {
                    "ack_policy": "none",
                    "mem_storage": True,
                    "num_replicas": 1,
                    "deliver_policy": "new",
                    "inactive_threshold": int(60e9),
                },
            }
        ).encode(),
        timeout=5.0,
    )
    name = json.loads(answer.data)["name"]
    inbox = link.new_inbox()
    asked = 0

    def pull() -> None:
        nonlocal asked
        while asked <= PULL_BATCH:
            asked += PULL_BATCH
            request = {
                "batch": PULL_BATCH,
                "expires": int(PULL_EXPIRES * 1e9),
                "idle_heartbeat": int(HEARTBEAT * 1e9),
            }
            link.post(
                f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}",
                json.dumps(request).encode(),
                reply=inbox,
            )

    def on(message: LinkMessage) -> None:
        nonlocal asked
        if not message.reply.startswith("$JS.ACK"):
            if message.status != "100":
                asked = 0
                pull()
            return
        asked -= 1
        handle(message.subject, message.data, int(message.reply.split(".")[5]))  # type: ignore[operator]
        if asked <= PULL_BATCH:
            pull()

    await link.subscribe(inbox, on)
    pull()


async def worker(address: Address, sizes: list[int]) -> None:
    """The host: answer the mail, store three events."""
    link = await Link.connect(address)
    accepted, completed = payload("accepted", sizes[2]), payload("completed", sizes[4])

    def on_mail(message: Message) -> None:
        message.respond(b'{"ok":true}')
        subject = subjects.run(HOST, message.data.decode())
        started = payload("started", sizes[3], rfc3339(time.time()))
        # A run that begins at once says so with its start, as in the ring.
        for event in (
            (accepted, started, completed) if sizes[2] else (started, completed)
        ):
            link.post(subject, event, reply=link.expect(subject, lambda _: None))

    await link.listen(subjects.host_mailbox(HOST), on_mail)
    print("ready", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Run one of the two processes: `agentcom -m bench.bare core|worker URL SEED SIZES`."""
    from pathlib import Path

    import uvloop

    role, url, seed, sizes = sys.argv[1:5]
    inbox = "_INBOX_scheduler" if role == "core" else f"_INBOX_{HOST}"
    address = Address(url=url, seed=Path(seed), inbox=inbox, name=f"bare-{role}")
    run = core if role == "core" else worker
    uvloop.run(run(address, [int(size) for size in sizes.split(",")]))


if __name__ == "__main__":
    main()
