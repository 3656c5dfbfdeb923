"""How long the store of attachments keeps what it was sent, on a real server."""

from __future__ import annotations

import asyncio
import base64
import itertools
import random
import time
from contextlib import asynccontextmanager

import pytest

from actors.gateway.attachments import AttachmentCommands
from events import catalogue as c
from events import commands as m
from events import subjects
from events.attachments import KEPT_S, RENEWED_S, StoreRefused, digest_of
from events.codec import encode
from events.nats.api import stream_state
from events.nats.attachments import JetStreamAttachments
from events.nats.provision import files_config
from tests.support.broker import SMALL
from tests.support.links import linked

FILE = b"a file"
WHOLE = m.Attach(data=base64.b64encode(FILE).decode())
ASKED = m.Attach(digest=digest_of(FILE))


@asynccontextmanager
async def gateway(broker):
    """Yield the store, and the commands as they are so many seconds from now."""
    async with linked(broker, "scheduler") as link:
        store, ids = JetStreamAttachments(link), itertools.count()

        def later(seconds):
            return AttachmentCommands(
                store, lambda: f"u{next(ids)}", lambda: time.time() + seconds
            )

        yield store, later


async def test_a_file_in_the_second_half_of_its_time_is_stored_anew(broker):
    async with gateway(broker) as (store, later):
        await later(0).attach(WHOLE, "me")
        soon, late = later(RENEWED_S - 600), later(RENEWED_S + 600)

        assert (await soon.attach(ASKED, "me")).size_bytes == len(FILE)
        assert (await soon.attach(WHOLE, "me")).existing
        assert await store.collected("u1") == []

        assert (await late.attach(ASKED, "me")).size_bytes is None
        assert not (await late.attach(WHOLE, "me")).existing
        assert await store.collected("u2") == [FILE]
        async with linked(broker, "admin") as admin:
            purge = f"$JS.API.STREAM.PURGE.{subjects.FILES_STREAM}"
            old = {"filter": subjects.file_chunks("u0")}
            await admin.call(purge, encode(old), timeout=60)
        assert await store.read(digest_of(FILE)) == FILE


async def test_a_task_may_name_a_file_as_long_as_it_is_there(broker):
    async with gateway(broker) as (_, later):
        await later(0).attach(WHOLE, "me")
        named = c.Attachment(name="a", digest=digest_of(FILE), size_bytes=len(FILE))
        spec = c.TaskSpec(description="x", attachments=[named])
        # Raises unless it is there.
        await later(RENEWED_S + 600).check(spec)


async def test_files_and_unfinished_uploads_end_by_age(broker):
    assert files_config(SMALL)["max_age"] == KEPT_S * 10**9
    async with gateway(broker) as (store, later), linked(broker, "admin") as admin:
        await later(0).attach(WHOLE, "me")
        await store.add("unfinished", b"half")
        short = {**files_config(SMALL), "max_age": 10**9, "duplicate_window": 10**9}
        update = f"$JS.API.STREAM.UPDATE.{subjects.FILES_STREAM}"
        await admin.call(update, encode(short), timeout=60)
        async with asyncio.timeout(60):
            while (await stream_state(admin, subjects.FILES_STREAM)).messages:
                await asyncio.sleep(0.1)
        assert await store.size(digest_of(FILE)) is None


async def test_a_full_store_says_so_and_still_answers(broker):
    async with gateway(broker) as (store, later), linked(broker, "admin") as admin:
        await later(0).attach(WHOLE, "me")
        small = {**files_config(SMALL), "max_bytes": 100_000}
        update = f"$JS.API.STREAM.UPDATE.{subjects.FILES_STREAM}"
        await admin.call(update, encode(small), timeout=60)
        # What cannot be made smaller by compression.
        much = m.Attach(
            data=base64.b64encode(random.Random(1).randbytes(200_000)).decode()
        )
        with pytest.raises(StoreRefused, match="maximum bytes") as no:
            await later(0).attach(much, "me")
        assert m.refusal_of(no.value).code == "unavailable"
        assert (await later(0).attach(WHOLE, "me")).existing
        assert await store.read(digest_of(FILE)) == FILE
