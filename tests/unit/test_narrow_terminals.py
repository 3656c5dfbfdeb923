"""On a narrow terminal what is merely good to know goes, and what it is about stays."""

from __future__ import annotations

import os

import pytest

from cli.render import costs, fleet, tasks, terminal

LEAVING = {
    "tasks": ((*tasks._COLUMNS, "task"), tasks._LEAVE),
    "hosts": (fleet._HOST_COLUMNS, fleet._HOSTS_LEAVE),
    "endpoints": (fleet._ENDPOINT_COLUMNS, fleet._ENDPOINTS_LEAVE),
    "costs": (("", *costs._NUMBERS), costs._LEAVE),
}
KEPT_AT_40 = {
    "tasks": ["id", "state", "age", "task"],
    "hosts": ["host", "state", "running", "cpu"],
    "endpoints": ["endpoint", "state", "models"],
    "costs": ["", "runs", "cost", "saved"],
}


@pytest.mark.parametrize("name", LEAVING)
def test_forty_columns_keep_what_a_row_is_about(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    columns, leave = LEAVING[name]
    monkeypatch.setattr(terminal, "on_terminal", lambda: True)
    for width, kept in ((40, KEPT_AT_40[name]), (200, list(columns))):
        size = os.terminal_size((width, 24))
        monkeypatch.setattr(
            terminal.shutil, "get_terminal_size", lambda size=size: size
        )
        assert terminal.columns_for(columns, leave) == kept
