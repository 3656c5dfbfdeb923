"""Faults of checkpoints, planted as those beside `test_planted_faults`."""

from __future__ import annotations

import pytest

from actors.scheduler import checkpoint
from actors.scheduler.decide import Scheduler
from actors.scheduler.state import SchedulerState

Patch = pytest.MonkeyPatch


def on_its_way_counts(patch: Patch) -> None:
    """What a leader has decided and not stored is taken along as done."""
    patch.setattr(Scheduler, "settle_for_checkpoint", lambda self, on_its_way: None)


def leaders_forgotten(patch: Patch) -> None:
    """A checkpoint leaves out which leader's epoch was in force where."""
    left_out = checkpoint.LEFT_OUT[SchedulerState] | {"epochs"}
    patch.setitem(checkpoint.LEFT_OUT, SchedulerState, left_out)


PLANTED = [on_its_way_counts, leaders_forgotten]
