"""The tables of a store, and what becomes a row of them: tasks, spending, documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import astuple

from events.lifecycle import FINAL
from projections.record import Spent, TaskRecord, labels_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from projections.world import World

SCHEMA: Final = 7
"""The shape of the tables; part of what makes a file's version."""

TABLES: Final = """
create table meta (key text primary key, value text not null) without rowid;
create table task (
  seq integer primary key, id text not null unique, state text not null,
  tier text not null, priority text not null,
  host text not null, model text not null, repo text not null,
  fallback integer not null, attempts integer not null, tokens integer not null,
  usd_nano integer not null, updated integer not null, finished_at text not null,
  description text not null, submitter text not null, labels text not null,
  needs text not null, at text not null, error_code text not null, error text not null,
  phase_seq integer not null, own_seq integer not null, held integer not null,
  root text not null,
  body blob not null
);
create index task_state on task (state, seq);
create index task_root on task (root, seq) where root <> '';
create table spend (
  hour text not null, model text not null, tier text not null, repo text not null,
  host text not null, endpoint text not null, target_type text not null,
  fallback text not null, simulated integer not null,
  submitter text not null, labels text not null, root text not null,
  runs integer not null, completed integer not null, late integer not null,
  tokens_in integer not null, tokens_out integer not null,
  cache_read integer not null, cache_write integer not null,
  usd_nano integer not null, equivalent_nano integer not null,
  saved_nano integer not null, unpriced integer not null,
  unknown_in integer not null, unknown_out integer not null, guessed integer not null,
  primary key (
    hour, model, tier, repo, host, endpoint, target_type, fallback, simulated,
    submitter, labels, root
  )
) without rowid;
create table document (
  projection text not null, key text not null, body blob not null,
  primary key (projection, key)
) without rowid;
"""

_CHANGING: Final = (
    "state tier host model fallback attempts tokens usd_nano updated finished_at at "
    "error_code error phase_seq own_seq held root body"
)
"""The columns of a task that its steps change."""

PUT_TASK: Final = (
    f"insert into task values ({','.join('?' * 26)}) on conflict (seq) do update set "
    + ", ".join(f"{n} = excluded.{n}" for n in _CHANGING.split())
)

SPEND_SUMS: Final = ("runs", "completed", "late", *Spent.__struct_fields__[:-1])
"""What is summed of spending: all of `Spent` but its basis, beside counts of runs."""

PUT_SPEND: Final = (
    f"insert into spend values ({','.join('?' * (12 + len(SPEND_SUMS)))}) "
    "on conflict do update set "
    + ", ".join(f"{n} = {n} + excluded.{n}" for n in SPEND_SUMS)
)

PUT_DOCUMENT: Final = "insert or replace into document values (?, ?, ?)"

decoded: Final = msgspec.msgpack.Decoder(TaskRecord).decode
"""Turns a row's body into the record that it holds."""

encoder: Final = msgspec.msgpack.Encoder()


def task_row(record: TaskRecord) -> tuple[Any, ...]:
    spent = record.spent
    return (
        record.seq,
        record.id,
        record.phase,
        record.tier,
        record.priority,
        _host_of(record),
        _model_of(record),
        record.repo,
        record.fallback_used,
        record.attempts_begun,
        spent.tokens_in + spent.tokens_out,
        spent.usd_nano,
        record.updated_seq,
        record.finished_at,
        record.description,
        record.submitter,
        labels_text(record.labels),
        needs_text(*record.needs),
        record.finished_at or record.submitted_at,
        record.error_code,
        record.error_message,
        record.phase_seq,
        _expected(record),
        record.held and record.phase == "waiting",
        record.tree,
        encoder.encode(record),
    )


def _host_of(record: TaskRecord) -> str:
    """Return the host that it is or was on; of one that waits, the one it waits for."""
    waits = record.phase == "waiting"
    return record.assign_to if waits else record.host or record.assign_to


def _model_of(record: TaskRecord) -> str:
    """Return the model that it ran on; of one that waits, the one it waits for."""
    waits = record.phase == "waiting"
    return record.wanted_model if waits else record.model or record.wanted_model


def _expected(record: TaskRecord) -> int:
    """Return where its own subject must stand for a decision to be sure of its outcome.

    0 where reports of a run may come between: there the whole task is to be read.
    """
    untouched = record.phase == "waiting" and not record.route
    return record.own_seq if untouched or record.phase in FINAL else 0


def needs_text(*needs: str) -> str:
    """Encode needs as their column has them, each between blanks."""
    return f" {' '.join(needs)} " if needs else ""


def spend_rows(world: World) -> Iterator[tuple[Any, ...]]:
    for cell, booked in world.costs.cells.items():
        sums = astuple(booked.spent)[:-1]
        yield (*cell, booked.runs, booked.completed, booked.late, *sums)


def copied(record: TaskRecord) -> TaskRecord:
    """Return a copy that the fold does not change any more."""
    return decoded(encoder.encode(record))
