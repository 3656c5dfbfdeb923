"""The examples of docs/later.md, run as they stand there against a real instance."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.command import (
    NOTHING_ELSE,
    PATIENCE_S,
    ROOT,
    System,
    agentcom_up,
    command,
    environment,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = re.findall(
    r"<!-- run -->\n```sh\n(.*?)```",
    (ROOT / "docs" / "later.md").read_text(),
    flags=re.S,
)
SAID = [
    ["is waiting since", "It is not to start before"],
    ["tested", "tidied up"],
    [],
    ["nightly added; next", "0 3 * * mon-fri", "left out", "is paused", "removed"],
]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with agentcom_up(tmp_path_factory.mktemp("later"), NOTHING_ELSE) as (system, _):
        yield system


@pytest.mark.parametrize("n", range(4))
def test_an_example_of_the_page_does_what_it_says(system: System, n: int) -> None:
    if "schedule" in EXAMPLES[n]:
        pytest.importorskip("cronsim", reason="an environment older than its checkout")
    env = environment(system.folder, system.data)
    env["PATH"] = f"{Path(command()[0]).parent}:{env['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", EXAMPLES[n]],
        env=env,
        cwd=system.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    at = 0
    for said in SAID[n]:
        at = done.stdout.find(said, at)
        assert at >= 0, (said, done.stdout)


def test_each_example_is_run() -> None:
    assert len(EXAMPLES) == len(SAID)
