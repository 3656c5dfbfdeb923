"""The lines that the documents show, run as they stand there against a real instance."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.command import NOTHING_ELSE, ROOT, System, agentcom_up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOCUMENTS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]


def curl_lines() -> list[str]:
    """Every `curl` of the documents, whole where it goes on over several lines."""
    return [
        line.replace("\\\n", " ").strip()
        for document in DOCUMENTS
        for line in re.findall(
            r"^ *(curl (?:.*\\\n)*.*)$", document.read_text(), flags=re.M
        )
    ]


@pytest.fixture(scope="module")
def instance(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[System, str, str]]:
    folder: Path = tmp_path_factory.mktemp("documented")
    with agentcom_up(folder, NOTHING_ELSE) as (system, up):
        address = urlsplit(re.findall(r"http://\S+", up.said["stdout"])[-1])
        [token] = parse_qs(address.fragment)["token"]
        yield system, f"{address.scheme}://{address.netloc}", token


def test_there_are_such_lines() -> None:
    assert len(curl_lines()) >= 4


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
@pytest.mark.parametrize("line", curl_lines())
def test_a_documented_request_is_answered(
    instance: tuple[System, str, str], line: str
) -> None:
    _, url, token = instance
    assert "http://127.0.0.1:4000" in line
    done = subprocess.run(
        ["bash", "-c", line.replace("http://127.0.0.1:4000", url) + " --fail -sS"],
        env={**os.environ, "TOKEN": token},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (line, done.stdout, done.stderr)
    assert isinstance(json.loads(done.stdout), dict)


def test_a_drain_s_reason_is_shown_where_the_host_is_listed(
    instance: tuple[System, str, str],
) -> None:
    system, _, _ = instance
    assert system.run("drain", "h1", "--reason", "a new disk").returncode == 0
    while "is draining" not in (said := system.run("hosts").stdout):
        pass
    assert "h1 is draining: a new disk" in said
    assert system.run("resume", "h1").returncode == 0


def test_a_refusal_has_the_form_that_is_written_down(
    instance: tuple[System, str, str],
) -> None:
    _, url, token = instance
    text = (ROOT / "docs" / "queries.md").read_text()
    [written] = re.findall(r'^ {4}(\{"ok": false.*\})$', text, flags=re.M)
    request = urllib.request.Request(
        f"{url}/api/v1/tasks/01ARZ3", headers={"Authorization": f"Bearer {token}"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    with refused.value as answer:
        assert json.loads(answer.read()) == json.loads(written)
        assert answer.status == json.loads(written)["status"]
