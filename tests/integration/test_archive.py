"""A log goes into a file and comes out of it as it was."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path

import pytest

from cli.local.backup import private_broker
from cli.local.broker import FolderInUse
from cli.local.instance import Instance
from cli.local.streams import provision_with
from cli.render.terminal import local_time
from events import archive as archives
from events import header, subjects
from events.archive import (
    BACKED_UP,
    STREAMS,
    ArchiveError,
    StreamSpan,
    check,
    messages_of,
)
from events.attachments import digest_of
from events.catalogue import Chunk
from events.codec import encode
from events.nats import backup
from events.nats.api import direct, stream_state
from events.nats.attachments import JetStreamAttachments
from events.nats.link import Link
from events.nats.log import JetStreamLog
from events.nats.output import JetStreamOutput
from projections.world import fold
from tests.support.broker import SMALL
from tests.support.histories import plausible
from tests.support.links import linked
from tests.support.livelog import command, writing

HOSTS = ("h1", "h2", "h3")
OF_0_1_0 = Path(__file__).parents[1] / "golden/archive-0.1.0.gz"
"""Written by AgentCom 0.1.0."""
FILES = subjects.FILES_STREAM


@pytest.fixture
def data(broker, monkeypatch):
    for name in HOSTS:
        if name not in broker.instance.hosts():
            broker.add_host(name)
    monkeypatch.setenv("AGENTCOM_DATA", str(broker.instance.data))
    return broker.instance.data


def chunk(n: int) -> Chunk:
    return Chunk(
        task_id="t1",
        event_type="stdout",
        text=f"line {n} ü",
        timestamp="2026-01-01T00:00:00.000000Z",
        route="r",
        generation=1,
        attempt=1,
        segment=0,
        n=n,
    )


async def lived(broker, *, tasks=12, chunks=5):
    """Fill a broker with a history and some output."""
    async with writing(broker) as write:
        await write.tell(plausible(3, tasks=tasks, odd=0))
        link = write.links["host-h1"]
        for n in range(chunks):
            subject = subjects.output("h1", "t1")
            await link.call(subject, encode(chunk(n)), timeout=60)


async def archived(broker, file):
    """Write a backup, as the admin."""
    async with linked(broker, "admin") as link:
        return await backup.archive(link, file, agentcom="test", made_at="now")


async def exported(broker, file):
    """Write the readable form, as an operator."""
    async with linked(broker, "operator") as link:
        return await backup.export(link, file, agentcom="test", made_at="now")


async def stored_as(link, stream, pattern):
    """Return a stream's messages with all that the broker keeps of them."""
    return [
        (
            message.headers[header.SEQUENCE],
            message.headers[header.TIME_STAMP],
            message.headers.get(header.EXPECTED_LAST),
            message.data,
        )
        async for message in direct(link, stream, pattern)
    ]


async def contents(credentials):
    """Return events and output of a log, as they are."""
    link = await Link.connect(credentials.address())
    log = JetStreamLog(link, consumers=False)
    try:
        return (
            await log.read(subjects.ALL_EVENTS),
            await JetStreamOutput(link).read("t1"),
        )
    finally:
        await log.close()
        await link.close()


async def fill(admin, file, **more):
    link = await Link.connect(admin.address())
    try:
        return await backup.restore(link, file, check(file), **more)
    finally:
        await link.close()


async def test_what_is_restored_is_what_was_archived(broker, data, tmp_path):
    await lived(broker)
    file = tmp_path / "log.gz"
    before = await contents(broker.credentials("operator"))

    done = await command("archive", str(file))
    assert done.exit_code == 0, done.output

    new = tmp_path / "new"
    done = await command("--data", str(new), "restore", str(file))
    assert done.exit_code == 0, done.output
    with private_broker(new) as admin:
        after = await contents(admin)
    assert after == before
    assert fold(after[0]).stats == fold(before[0]).stats
    assert not list(new.glob("restore.*"))


async def test_a_backup_keeps_times_and_headers(broker, data, tmp_path):
    await lived(broker, chunks=3)
    async with linked(broker, "scheduler") as link:
        expected = {header.EXPECTED_LAST: "0"}
        await link.call(subjects.POLICY, b"{}", timeout=60, headers=expected)
    file, new = tmp_path / "log.tar", Instance(tmp_path / "new")
    about = await archived(broker, file)
    new.prepare()
    async with linked(broker, "admin") as link:
        before = {s: await stored_as(link, s, backup.ALL_OF[s]) for s in STREAMS}

    with private_broker(new.data) as admin:
        stored = await fill(admin, file)
        link = await Link.connect(admin.address())
        after = {s: await stored_as(link, s, backup.ALL_OF[s]) for s in STREAMS}
        await link.close()

    assert after == before
    assert any(expected for _, _, expected, _ in before[subjects.EVENTS])
    assert stored == {
        FILES: 0,
        **{s: len(before[s]) for s in STREAMS},
    }
    assert about.streams[subjects.OUTPUT] == StreamSpan(1, 3)


async def test_a_backup_that_was_restored_in_part_is_restored_to_the_end(
    broker, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(archives, "CHUNK", 100)
    await lived(broker)
    file, new = tmp_path / "log.tar", Instance(tmp_path / "new")
    await archived(broker, file)
    before = await contents(broker.credentials("operator"))
    new.prepare()

    def pull_the_plug(stream, done, of):
        if stream == subjects.OUTPUT:
            raise asyncio.CancelledError

    with private_broker(new.data) as admin:
        await provision_with(admin, SMALL)
        with pytest.raises(asyncio.CancelledError):
            await fill(admin, file, progress=pull_the_plug)
    with private_broker(new.data) as admin:
        stored = await fill(admin, file)
        assert stored == {subjects.EVENTS: 0, subjects.OUTPUT: 5, FILES: 0}
        assert await contents(admin) == before
        assert await fill(admin, file) == dict.fromkeys(BACKED_UP, 0)


async def attached(broker, *pieces):
    """Store a file in pieces, as the gateway; return its digest."""
    async with linked(broker, "scheduler") as link:
        store, whole = JetStreamAttachments(link), b"".join(pieces)
        for piece in pieces:
            await store.add("u1", piece)
        await store.name("u1", digest_of(whole), len(whole), len(pieces))
    return digest_of(whole)


async def test_a_backup_carries_the_files_of_tasks(broker, data, tmp_path):
    await lived(broker, tasks=1)
    digest = await attached(broker, b"\x00first, ", b"then")
    file, new = tmp_path / "log.tar", tmp_path / "new"
    done = await command("archive", str(file))
    assert done.exit_code == 0, done.output
    assert f"{FILES}: 3 messages" in done.output

    done = await command("--data", str(new), "restore", str(file))
    assert done.exit_code == 0, done.output

    with private_broker(new) as admin:
        link = await Link.connect(admin.address())
        restored = await JetStreamAttachments(link).read(digest)
        await link.close()
        assert set((await fill(admin, file)).values()) == {0}
    assert restored == b"\x00first, then"


async def test_an_archive_without_files_says_so_and_is_restored(
    broker, data, tmp_path, monkeypatch
):
    await lived(broker, tasks=1)
    await attached(broker, b"a file")
    monkeypatch.setattr(backup, "BACKED_UP", STREAMS)
    for file, write in (("old.tar", archived), ("log.gz", exported)):
        await write(broker, tmp_path / file)
        done = await command("archive", str(tmp_path / file), "--check")
        assert "files that went with tasks are not in it" in done.output
        new = tmp_path / f"of-{file}"
        done = await command("--data", str(new), "restore", str(tmp_path / file))
        assert done.exit_code == 0, done.output
        with private_broker(new) as admin:
            assert await contents(admin) == await contents(
                broker.credentials("operator")
            )


async def test_a_log_without_a_store_of_files_is_backed_up(broker, data, tmp_path):
    await lived(broker, tasks=1)
    async with linked(broker, "admin") as link:
        await link.call(f"$JS.API.STREAM.DELETE.{FILES}", b"", timeout=60)
    about = await archived(broker, tmp_path / "log.tar")
    assert set(about.streams) == set(STREAMS)


async def test_a_backup_of_another_log_is_not_restored_over(broker, data, tmp_path):
    await lived(broker, tasks=2)
    file, new = tmp_path / "log.tar", Instance(tmp_path / "new")
    about = await archived(broker, file)
    new.prepare()
    with private_broker(new.data) as admin:
        await provision_with(admin, SMALL)
        link = await Link.connect(admin.address())
        for _ in range(about.streams[subjects.EVENTS].last):
            await link.call(subjects.POLICY, b"{}", timeout=60)
        await link.close()

        with pytest.raises(ArchiveError, match="not empty"):
            await fill(admin, file)


async def test_a_backup_of_many_pieces_is_whole(broker, data, tmp_path, monkeypatch):
    monkeypatch.setattr(backup, "CHUNK", 1_000)
    await lived(broker, tasks=60)
    file, new = tmp_path / "log.tar", Instance(tmp_path / "new")
    await archived(broker, file)
    before = await contents(broker.credentials("operator"))
    new.prepare()

    with private_broker(new.data) as admin:
        await fill(admin, file)
        assert await contents(admin) == before


async def test_the_log_goes_on_after_a_restore(broker, data, tmp_path):
    await lived(broker, tasks=1)
    file, new = tmp_path / "log.tar", Instance(tmp_path / "new")
    about = await archived(broker, file)
    new.prepare()
    with private_broker(new.data) as admin:
        await fill(admin, file)
        await provision_with(admin, SMALL)
        link = await Link.connect(admin.address())
        await link.call(subjects.POLICY, b"{}", timeout=60)
        state = await stream_state(link, subjects.EVENTS)
        await link.close()

        assert state.last_seq == about.streams[subjects.EVENTS].last + 1
        with pytest.raises(ArchiveError, match="not empty"):
            await fill(admin, file)


async def test_an_archive_of_0_1_0_is_checked_and_restored(tmp_path):
    new = tmp_path / "new"
    raw = gzip.decompress(OF_0_1_0.read_bytes())
    lines = [json.loads(line) for line in raw.splitlines()]
    texts = {line["d"] for line in lines[1:-1]}

    done = await command("archive", str(OF_0_1_0), "--check")
    assert done.exit_code == 0, done.output
    made = local_time("2026-01-01T00:00:00+00:00")
    assert f"made {made} by agentcom 0.1.0" in done.output
    done = await command("--data", str(new), "restore", str(OF_0_1_0))
    assert done.exit_code == 0, done.output

    with private_broker(new) as admin:
        link = await Link.connect(admin.address())
        after = [
            message
            for stream in STREAMS
            async for message in direct(link, stream, backup.ALL_OF[stream])
        ]
        await link.close()
    assert {message.data.decode() for message in after} == texts
    assert len(after) == len(lines) - 2 == 36


async def test_without_the_admins_key_the_readable_form_is_written(
    broker, data, tmp_path
):
    await lived(broker, tasks=1)
    operator = str(broker.credentials("operator").seed_path)
    of_archive, of_export = tmp_path / "a.gz", tmp_path / "e.gz"

    for said in (("archive", str(of_archive)), ("export", "--log", str(of_export))):
        done = await command(*said, "--creds", operator)
        assert done.exit_code == 0, done.output

    assert check(of_archive).streams == check(of_export).streams
    assert [m.data for m in messages_of(of_archive)] == [
        m.data for m in messages_of(of_export)
    ]


async def test_a_backup_that_was_changed_or_cut_off_is_refused(broker, data, tmp_path):
    await lived(broker, tasks=2)
    file = tmp_path / "log.tar"
    await archived(broker, file)
    whole = file.read_bytes()
    check(file)

    for spoilt, said in (
        (whole.replace(b'"agentcom":"test"', b'"agentcom":"best"'), "changed"),
        (whole[:1_000], "cut off"),
        (whole[: whole.index(b"SHA256SUMS")], "cut off"),
        (whole[: whole.index(b"SHA256SUMS") + 520], "cut off"),
        (b"", "damaged"),
    ):
        bad = tmp_path / "bad.tar"
        bad.write_bytes(spoilt)
        with pytest.raises(ArchiveError, match=said):
            check(bad)


async def test_a_running_broker_is_not_restored_into(broker, data, tmp_path):
    await lived(broker, tasks=1)
    await archived(broker, tmp_path / "log.gz")

    with pytest.raises(FolderInUse), private_broker(data):
        pass


async def test_a_log_of_its_own_is_not_restored_into(broker, data, tmp_path):
    await lived(broker, tasks=2)
    file = tmp_path / "log.gz"
    await archived(broker, file)
    async with writing(broker) as write:
        await write.tell(plausible(5, tasks=1, odd=0))
    broker.stop()

    with (
        private_broker(data) as admin,
        pytest.raises(ArchiveError, match="not empty"),
    ):
        await fill(admin, file)


async def test_another_log_of_the_same_length_is_not_restored_into(
    broker, data, tmp_path
):
    await lived(broker, tasks=2)
    file = tmp_path / "log.gz"
    about = await exported(broker, file)
    new = Instance(tmp_path / "new")
    new.prepare()
    with private_broker(new.data) as admin:
        await provision_with(admin, SMALL)
        link = await Link.connect(admin.address())
        for _ in range(about.streams[subjects.EVENTS].last):
            await link.call(subjects.POLICY, b"{}", timeout=60)
        await link.close()

        with pytest.raises(ArchiveError, match="not of this archive"):
            await fill(admin, file)


async def test_an_interrupted_restore_goes_on(broker, data, tmp_path, monkeypatch):
    monkeypatch.setattr(backup, "REPORTED_EVERY", 10)
    monkeypatch.setattr(backup, "WINDOW", 4)
    await lived(broker)
    file = tmp_path / "log.gz"
    await exported(broker, file)
    before = await contents(broker.credentials("operator"))
    new = Instance(tmp_path / "new")
    new.prepare()

    def pull_the_plug(stream, done, of):
        raise asyncio.CancelledError

    with private_broker(new.data) as admin:
        await provision_with(admin, SMALL)
        with pytest.raises(asyncio.CancelledError):
            await fill(admin, file, progress=pull_the_plug)
    with private_broker(new.data) as admin:
        stored = await fill(admin, file)
        assert 0 < stored[subjects.EVENTS] < len(before[0])
        assert await contents(admin) == before
        assert await fill(admin, file) == dict.fromkeys(STREAMS, 0)


async def test_output_that_was_forgotten_leaves_its_numbers(broker, data, tmp_path):
    await lived(broker, tasks=1, chunks=9)
    admin = await Link.connect(broker.credentials("admin").address())
    purge = f"$JS.API.STREAM.PURGE.{subjects.OUTPUT}"
    await admin.call(purge, encode({"seq": 4}), timeout=60)
    await admin.close()
    file = tmp_path / "log.gz"
    about = await exported(broker, file)
    assert about.streams[subjects.OUTPUT] == StreamSpan(4, 9)
    new = Instance(tmp_path / "new")
    new.prepare()

    with private_broker(new.data) as owner:
        await provision_with(owner, SMALL)
        await fill(owner, file)
        link = await Link.connect(owner.address())
        state = await stream_state(link, subjects.OUTPUT)
        await link.close()

    assert (state.first_seq, state.last_seq) == (4, 9)


@pytest.mark.parametrize("write", [backup.archive, backup.export])
async def test_an_archive_that_fails_leaves_nothing(broker, data, tmp_path, write):
    await lived(broker, tasks=1)
    file = tmp_path / "log.gz"

    def full(stream, done, of):
        raise OSError(28, "No space left on device")

    link = await Link.connect(broker.credentials("admin").address())
    with pytest.raises(OSError, match="No space"):
        await write(link, file, agentcom="", made_at="", progress=full)
    await link.close()

    assert list(tmp_path.glob("*.gz*")) + list(tmp_path.glob(".*part")) == []


async def test_a_file_that_was_changed_or_cut_off_is_refused(broker, data, tmp_path):
    await lived(broker, tasks=2)
    file = tmp_path / "log.gz"
    await exported(broker, file)
    whole = gzip.decompress(file.read_bytes())
    lines = whole.splitlines(keepends=True)
    changed = [*lines]
    changed[3] = changed[3].replace(b'"by\\"', b'"yb\\"')

    for spoilt, said in (
        (gzip.compress(b"".join(changed)), "changed"),
        (gzip.compress(b"".join(lines[:-1])), "cut off"),
        (gzip.compress(b"".join(lines[:5] + lines[6:])), "changed"),
        (file.read_bytes()[:-40], "cut off"),
        (b"nonsense", "damaged"),
        (gzip.compress(b""), "empty|cut off"),
        (gzip.compress(lines[0].replace(b".v1", b".v9") + lines[-1]), "v9"),
    ):
        bad = tmp_path / "bad.gz"
        bad.write_bytes(spoilt)
        with pytest.raises(ArchiveError, match=said):
            check(bad)
    assert [message.q for message in messages_of(file)][:3] == [1, 2, 3]


async def test_a_file_that_is_there_is_kept(broker, data, tmp_path):
    file = tmp_path / "log.gz"
    file.write_text("precious")

    done = await command("archive", str(file))

    assert done.exit_code == 1
    assert "exists" in done.output
    assert file.read_text() == "precious"


async def test_an_archive_is_checked_without_a_broker(broker, data, tmp_path):
    await lived(broker, tasks=1)
    file = tmp_path / "log.gz"
    await archived(broker, file)
    broker.stop()

    done = await command("archive", str(file), "--check", "--json")

    assert done.exit_code == 0
    told = json.loads(done.output)["archive"]["streams"][subjects.EVENTS]
    assert told["first"] == 1
