"""A log goes into a file and comes out of it as it was."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest

from cli import archive as archives
from cli.archive import ArchiveError, check, entries
from cli.local.broker import StoreInUse
from cli.local.instance import Instance
from cli.local.streams import provision_with
from events import subjects
from events.catalogue import Chunk
from events.codec import encode
from events.nats.link import Link
from events.nats.log import JetStreamLog
from events.nats.output import JetStreamOutput
from projections.world import fold
from tests.support.broker import SMALL
from tests.support.histories import plausible
from tests.support.livelog import command, writing

HOSTS = ("h1", "h2", "h3")


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
            await link.call(subject, encode(chunk(n)), timeout=5)


async def archived(broker, file):
    link = await Link.connect(broker.credentials("operator").address())
    try:
        return await archives.archive(link, file, agentcom="test", made_at="now")
    finally:
        await link.close()


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
        return await archives.restore(link, file, check(file)[0], **more)
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
    with archives.private_broker(new) as admin:
        after = await contents(admin)
    assert after == before
    assert fold(after[0]).stats == fold(before[0]).stats
    assert not list(new.glob("restore.*"))


async def test_a_running_broker_is_not_restored_into(broker, data, tmp_path):
    await lived(broker, tasks=1)
    await archived(broker, tmp_path / "log.gz")

    with pytest.raises(StoreInUse), archives.private_broker(data):
        pass


async def test_a_log_of_its_own_is_not_restored_into(broker, data, tmp_path):
    await lived(broker, tasks=2)
    file = tmp_path / "log.gz"
    await archived(broker, file)
    async with writing(broker) as write:
        await write.tell(plausible(5, tasks=1, odd=0))
    broker.stop()

    with (
        archives.private_broker(data) as admin,
        pytest.raises(ArchiveError, match="not empty"),
    ):
        await fill(admin, file)


async def test_another_log_of_the_same_length_is_not_restored_into(
    broker, data, tmp_path
):
    await lived(broker, tasks=2)
    file = tmp_path / "log.gz"
    header, _ = await archived(broker, file)
    new = Instance(tmp_path / "new")
    new.prepare()
    with archives.private_broker(new.data) as admin:
        await provision_with(admin, SMALL)
        link = await Link.connect(admin.address())
        for _ in range(header.streams[subjects.EVENTS].last):
            await link.call(subjects.POLICY, b"{}", timeout=5)
        await link.close()

        with pytest.raises(ArchiveError, match="not of this archive"):
            await fill(admin, file)


async def test_an_interrupted_restore_goes_on(broker, data, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "TOLD_EVERY", 10)
    monkeypatch.setattr(archives, "WINDOW", 4)
    await lived(broker)
    file = tmp_path / "log.gz"
    await archived(broker, file)
    before = await contents(broker.credentials("operator"))
    new = Instance(tmp_path / "new")
    new.prepare()

    def pull_the_plug(stream, done, of):
        raise asyncio.CancelledError

    with archives.private_broker(new.data) as admin:
        await provision_with(admin, SMALL)
        with pytest.raises(asyncio.CancelledError):
            await fill(admin, file, progress=pull_the_plug)
    with archives.private_broker(new.data) as admin:
        stored = await fill(admin, file)
        assert 0 < stored[subjects.EVENTS] < len(before[0])
        assert await contents(admin) == before
        assert await fill(admin, file) == dict.fromkeys(archives.STREAMS, 0)


async def test_output_that_was_forgotten_leaves_its_numbers(broker, data, tmp_path):
    await lived(broker, tasks=1, chunks=9)
    admin = await Link.connect(broker.credentials("admin").address())
    purge = f"$JS.API.STREAM.PURGE.{subjects.OUTPUT}"
    await admin.call(purge, encode({"seq": 4}), timeout=5)
    await admin.close()
    file = tmp_path / "log.gz"
    header, _ = await archived(broker, file)
    assert header.streams[subjects.OUTPUT] == archives.Span(4, 9)
    new = Instance(tmp_path / "new")
    new.prepare()

    with archives.private_broker(new.data) as owner:
        await provision_with(owner, SMALL)
        await fill(owner, file)
        link = await Link.connect(owner.address())
        state = await archives.state_of(link, subjects.OUTPUT)
        await link.close()

    assert (state.first_seq, state.last_seq) == (4, 9)


async def test_an_archive_that_fails_leaves_nothing(broker, data, tmp_path):
    await lived(broker, tasks=1)
    file = tmp_path / "log.gz"

    def full(stream, done, of):
        raise OSError(28, "No space left on device")

    link = await Link.connect(broker.credentials("operator").address())
    with pytest.raises(OSError, match="No space"):
        await archives.archive(link, file, agentcom="", made_at="", progress=full)
    await link.close()

    assert list(tmp_path.glob("*.gz*")) + list(tmp_path.glob(".*part")) == []


async def test_a_file_that_was_changed_or_cut_off_is_refused(broker, data, tmp_path):
    await lived(broker, tasks=2)
    file = tmp_path / "log.gz"
    await archived(broker, file)
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
    assert [entry.q for entry in entries(file)][:3] == [1, 2, 3]


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
