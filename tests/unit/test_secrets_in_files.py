"""A file of tasks is looked through for secrets as a command line is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from cli.commands import task_file

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("name", "warns"), [("API_KEY", True), ("COLUMNS", False)])
def test_a_variable_in_a_file_that_looks_like_a_secret_is_warned_of(
    name: str,
    warns: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nothing(work: Any) -> int:
        work.close()
        return 0

    monkeypatch.setattr(task_file, "run", nothing)
    file = tmp_path / "tasks.jsonl"
    shell = {"command": "true", "env": {name: "x"}}
    plain = {"description": "x"}
    lines = [plain, {"description": "x", "shell": shell}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    task_file.submit_file(file, None, wait=False, as_json=False)
    assert (f"{name} looks like a secret" in capsys.readouterr().err) is warns
