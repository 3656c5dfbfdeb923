"""Operations on the log: verify, rebuild, export, archive, restore.

None of them writes an event, but restoring, which fills an empty log.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from msgspec import Struct

from agentcom import __version__
from cli.client.completing import ids
from cli.client.connection import NotRunning, Session, connected, credentials_for, run
from cli.client.target import on_target
from cli.commands.options import Word, json_option, store_option
from cli.local.backup import private_broker
from cli.local.instance import Credentials, Instance
from cli.render.events import event_line
from cli.render.terminal import (
    EXIT_OK,
    EXIT_REFUSED,
    Problem,
    console,
    line_of,
    local_time,
    many,
    print_json,
    size,
    utc_now,
)
from events import archive as archives
from events import catalogue as c
from events import subjects
from events.codec import Reader, encode
from events.errors import Malformed
from events.nats import backup
from events.nats.api import stream_state
from events.nats.link import Link
from projections.answers import LoggedEvent, RebuildAnswer, StatusAnswer, TaskAnswer
from projections.runner import Runner
from projections.store import Store
from projections.store_file import remove
from projections.verify import LogGap, Report
from projections.verify import verify as verify_log
from projections.world import VERSIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from events.archive import ArchiveHeader
    from events.nats.backup import Progress

LOOK_AGAIN_S: Final = 0.1
ACKNOWLEDGED: Final = "acknowledged.json"
"""In the data folder: the log's gaps that somebody has acknowledged."""
GAPS_SHOWN: Final = 10
_gaps: Final[Reader[list[LogGap]]] = Reader(list[LogGap])
EXPORT: Final = "agentcom-task.v1"

_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


def _local_store(chosen: Path | None) -> Path:
    return chosen or Instance().read_models


# -- verify ----------------------------------------------------------------------------


@click.command()
@on_target
@store_option
@click.option(
    "--acknowledge",
    is_flag=True,
    help="Take what is missing or no event now as known: it is no fault any more.",
)
@json_option
def verify(*, store: Path | None, acknowledge: bool, as_json: bool) -> int:
    """Read the log through and hold this machine's read models against it.

    Counts missing sequences, messages that are no events, unknown types, steps that were
    refused, and reports that came too late. Exits with 1 where something is missing or
    the read models differ from a fresh fold. What --acknowledge has noted, in the data
    folder, is counted and no fault.
    """
    return run(_verify(_local_store(store), acknowledge=acknowledge, as_json=as_json))


async def _verify(store: Path, *, acknowledge: bool, as_json: bool) -> int:
    file = Instance().data / ACKNOWLEDGED
    known = _acknowledged(file)
    async with connected() as client:
        state = await stream_state(client.link, subjects.EVENTS)
        stored = (state.last_seq, state.messages)
        report = await verify_log(client.log, store, stored=stored, acknowledged=known)
        if acknowledge and report.gaps:
            known |= set(report.gaps)
            _keep(file, known)
            report = await verify_log(
                client.log, store, stored=stored, acknowledged=known
            )
    if as_json:
        print_json(report)
    else:
        for line in _findings(report):
            click.echo(line_of(line))
    return EXIT_OK if report.ok else EXIT_REFUSED


def _acknowledged(file: Path) -> set[LogGap]:
    """Read which gaps somebody has acknowledged on this machine."""
    try:
        return set(_gaps.decode(file.read_bytes()))
    except FileNotFoundError:
        return set()
    except Malformed as error:
        raise Problem(f"{file}: {error}") from error


def _keep(file: Path, gaps: set[LogGap]) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    Instance.write(file, encode(sorted(gaps, key=lambda gap: gap.first)).decode())


def _findings(report: Report) -> Iterator[str]:
    yield f"{report.events} events up to sequence {report.seq}"
    yield f"missing sequences: {report.missing}"
    yield f"messages that are no events: {report.undecodable}"
    for gap in report.gaps[:GAPS_SHOWN]:
        yield f"  no events: sequences {gap.first} to {gap.last}"
    if report.gaps:
        yield "  (`agentcom verify --acknowledge` takes them as known)"
    if report.acknowledged:
        yield f"acknowledged sequences without an event: {report.acknowledged}"
    unknown = ", ".join(f"{n} {tag}" for tag, n in report.unknown.items())
    yield f"types unknown to this version: {unknown or 0}"
    yield f"events whose body disagrees with their subject: {report.foreign}"
    yield f"steps that the task's state refused: {report.illegal}"
    yield f"reports on routes no longer in force: {report.late}"
    yield f"repeats: {report.repeats}"
    for what, count in sorted(report.void.items()):
        yield f"  void: {count} {what}"
    yield f"read models: {report.read_models}"
    for difference in report.differences:
        yield f"  {difference}"
    yield "all is well" if report.ok else "something is wrong"


# -- rebuild ---------------------------------------------------------------------------


@click.command()
@click.argument("name", required=False, type=Word(sorted(VERSIONS)))
@on_target
@store_option
@json_option
def rebuild(name: str | None, *, store: Path | None, as_json: bool) -> int:
    """Make the read models anew from the log, beside the running ones, and swap.

    Questions are answered all the while. They are kept in one file with one position, so
    naming one means all. Where no read models run, this machine's file is made anew.
    """
    file = _local_store(store)
    return run(_rebuild(name or "", file if file.exists() else None, as_json=as_json))


async def _rebuild(name: str, store: Path | None, *, as_json: bool) -> int:
    async with connected() as client:
        try:
            begun = await client.query(
                "rebuild", {"name": name, "wait_seq": 0}, RebuildAnswer
            )
        except NotRunning:
            if store is None:
                raise
            seq = await _rebuild_here(client, store)
        else:
            seq = await _until_rebuilt(client, begun)
    if as_json:
        return print_json({"seq": seq, "names": sorted(VERSIONS)})
    click.echo(f"made anew up to sequence {seq}: {', '.join(sorted(VERSIONS))}")
    return EXIT_OK


async def _until_rebuilt(client: Session, begun: RebuildAnswer) -> int:
    with _progress() as progress:
        while True:
            # Several may answer; the one that was told to is the one that changes.
            status = await client.query("status", {"wait_seq": 0}, StatusAnswer)
            if status.rebuild_failed:
                raise Problem(f"not made anew: {status.rebuild_failed}")
            if status.rebuilt > begun.rebuilt:
                progress("rebuild", status.last_seq, status.last_seq)
                return status.seq
            if status.rebuilding is not None:
                progress("rebuild", status.rebuilding, status.last_seq)
            await asyncio.sleep(LOOK_AGAIN_S)


async def _rebuild_here(client: Session, path: Path) -> int:
    """Make the file anew beside itself; nobody uses it meanwhile."""
    store = Store(path)
    try:
        beside = path.with_name(f"{path.name}.new")
        remove(beside)
        fresh = Runner(client.log, Store(beside))
        try:
            await fresh.start()
            await fresh.until_caught_up()
        finally:
            await fresh.stop()
            fresh.store.close()
        store.take_over(beside)
        return store.position
    finally:
        store.close()


# -- export ----------------------------------------------------------------------------


class Exported(Struct, kw_only=True):
    """A task with everything that is known of it, to be looked at anywhere."""

    format: str
    agentcom: str
    made_at: str
    task: TaskAnswer
    events: list[LoggedEvent]
    output: list[c.Chunk]
    words: list[str]


@click.command()
@click.argument("task_id", metavar="ID", required=False, shell_complete=ids())
@on_target
@click.option("--to", "target", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--view",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Show such a file; nothing else is needed for that.",
)
@click.option(
    "--log",
    "whole_log",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the whole log and its output instead, as JSON lines compressed by gzip.",
)
def export(
    task_id: str | None,
    *,
    target: Path | None,
    view: Path | None,
    whole_log: Path | None,
) -> int:
    """Write the task ID with all its events, its trace and its output to one JSON file.

    Without --to it is ID.json; `--to -` prints it.
    """
    if view is not None:
        return show_export(view)
    if whole_log is not None:
        if whole_log.exists():
            raise Problem(f"{whole_log} exists: name another file")
        header = run(_written(credentials_for("operator"), whole_log))
        return _report(whole_log, header, size(whole_log.stat().st_size))
    if task_id is None:
        raise click.UsageError("expected a task's ID, --view FILE, or --log FILE")
    return run(_export(task_id, target))


async def _export(task_id: str, target: Path | None) -> int:
    async with connected() as client:
        exported = await exported_of(client, task_id)
    raw = msgspec.json.format(encode(exported), indent=1) + b"\n"
    if target is not None and str(target) == "-":
        sys.stdout.write(raw.decode())
        return EXIT_OK
    path = target or Path(f"{exported.task.task.task_id}.json")
    path.write_bytes(raw)
    click.echo(f"{path}: {len(exported.events)} events, {size(len(raw))}")
    return EXIT_OK


async def exported_of(client: Session, task_id: str) -> Exported:
    """Gather what is known of a task."""
    from analysis.explain import words

    full = await client.full_id(task_id)
    answer = await client.query("task", {"task_id": full}, TaskAnswer)
    decided, reported, output = await asyncio.gather(
        client.log.read(subjects.task(full)),
        client.log.read(subjects.runs_of(full)),
        client.output.read(full),
    )
    history = sorted([*decided, *reported], key=lambda recorded: recorded.seq)
    sentences = [
        sentence
        for recorded in history
        if isinstance(recorded.event, c.TaskRouted)
        for sentence in words(recorded.event, history[0].event)
    ]
    return Exported(
        format=EXPORT,
        agentcom=__version__,
        made_at=utc_now().isoformat(),
        task=answer,
        events=[
            LoggedEvent(
                seq=recorded.seq,
                subject=recorded.subject,
                event=recorded.event.body
                if isinstance(recorded.event, c.Unknown)
                else recorded.event,
            )
            for recorded in history
        ],
        output=output,
        words=sentences,
    )


def show_export(file: Path) -> int:
    """Show an exported task; raises Problem where the file is none."""
    from cli.render.tasks import show_task

    try:
        exported = msgspec.json.decode(file.read_bytes(), type=Exported)
    except msgspec.MsgspecError as error:
        raise Problem(f"{file} is no exported task: {error}") from error
    screen = console()
    show_task(screen, exported.task, [], Instance().role_of)
    for sentence in exported.words:
        screen.print(line_of(sentence), style="dim")
    screen.print("\nevents", style="bold")
    for logged in exported.events:
        screen.print(event_line(logged.seq, logged.subject, logged.event))
    screen.print(
        f"\n{many(len(exported.output), 'piece')} of output; made "
        f"{local_time(exported.made_at)} by agentcom {exported.agentcom}",
        style="dim",
    )
    return EXIT_OK


# -- archive, restore ------------------------------------------------------------------


@contextmanager
def _progress() -> Iterator[Progress]:
    """Show how far something is, where somebody looks."""
    if not sys.stderr.isatty():
        yield lambda stream, done, of: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        bars: dict[str, Any] = {}

        def told(stream: str, done: int, of: int) -> None:
            if stream not in bars:
                bars[stream] = bar.add_task(stream, total=of)
            bar.update(bars[stream], completed=done, total=of)

        yield told


@click.command()
@_FILE
@on_target
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option(
    "--check", "only_check", is_flag=True, help="Check a file; write nothing."
)
@json_option
def archive(file: Path, *, force: bool, only_check: bool, as_json: bool) -> int:
    """Write the whole log, and all output and files that are kept, to FILE.

    FILE appears once it is whole. `agentcom restore FILE` fills an empty log from it. It
    is the broker's own snapshot, which takes the admin's key; with another role's key
    the readable form of `agentcom export --log` is written, without headers and files.
    """
    if only_check:
        header = archives.check(file)
        return _report(file, header, "whole and unchanged", as_json=as_json)
    if file.exists() and not force:
        raise Problem(f"{file} exists: name another file, or --force")
    credentials = credentials_for("admin")
    if not credentials.seed_path.exists():
        credentials = credentials_for("operator")
    if credentials.role != "admin":
        click.echo(
            "without the admin's key: the readable form is written; it has no files of "
            "tasks, and what is restored from it has the time of the restoring",
            err=True,
        )
    header = run(_written(credentials, file))
    return _report(file, header, size(file.stat().st_size), as_json=as_json)


async def _written(credentials: Credentials, file: Path) -> ArchiveHeader:
    """Write a backup if the admin asks, else the readable form."""
    write = backup.archive if credentials.role == "admin" else backup.export
    async with connected(credentials=credentials) as client:
        with _progress() as progress:
            return await write(
                client.link,
                file,
                agentcom=__version__,
                made_at=utc_now().isoformat(),
                progress=progress,
            )


def _report(
    file: Path, header: ArchiveHeader, what: str, *, as_json: bool = False
) -> int:
    if as_json:
        return print_json({"file": str(file), "archive": header})
    for stream, span in header.streams.items():
        count = span.last - span.first + 1 if span.last else 0
        click.echo(f"{stream}: {count} messages, {span.first} to {span.last}")
    if subjects.FILES_STREAM not in header.streams:
        click.echo("the files that went with tasks are not in it")
    click.echo(
        f"{file}: {what}, made {local_time(header.made_at)} by agentcom {header.agentcom}"
    )
    return EXIT_OK


@click.command()
@click.argument(
    "file", type=click.Path(path_type=Path, dir_okay=False, exists=True, readable=True)
)
@on_target
@json_option
def restore(file: Path, *, as_json: bool) -> int:
    """Fill the empty log of the data folder from FILE; everything else must be stopped.

    The file is checked first. A restore that was interrupted goes on when said again.
    Sequences are kept; the read models are made anew on the next start.
    """
    header = archives.check(file)
    instance = Instance()
    instance.prepare()
    with private_broker(instance.data) as admin:
        stored = asyncio.run(_restore(admin, file, header))
    if as_json:
        return print_json({"stored": stored, "archive": header})
    click.echo(
        f"{sum(stored.values())} messages restored into {instance.data}: start it with "
        "`agentcom up`"
    )
    return EXIT_OK


async def _restore(
    admin: Credentials, file: Path, header: ArchiveHeader
) -> dict[str, int]:
    from cli.local.streams import missing_streams, provision_with
    from events.nats.provision import Retention

    link = await Link.connect(admin.address())
    try:
        # A backup brings its streams along, the readable form fills those that are there.
        if header.format == archives.READABLE and await missing_streams(link):
            await provision_with(admin, Retention())
        with _progress() as progress:
            return await backup.restore(link, file, header, progress=progress)
    finally:
        await link.close()
