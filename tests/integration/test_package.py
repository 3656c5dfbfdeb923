"""The packages we give away: what they put where, beside whom, and that they run.

AgentCom's own packages have names that others have too (`web` is web.py's, `events`
comes with opensearch-py). Neither may overwrite the other, in whatever order they are
installed, nor may a folder of such a name on PYTHONPATH be taken for ours.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import agentcom
from tests.support.packaged import Environment, built, dependencies_in

ROOT = Path(__file__).parents[2]
NEIGHBOURS = ("web.py", "opensearch-py")
"""From the registry. With what they need they bring `web` and `events`."""


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory) -> Path:
    """A folder with what is installed here, without AgentCom."""
    return dependencies_in(tmp_path_factory.mktemp("dependencies"))


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory) -> list[Path]:
    """The neighbours as wheels, with what they need."""
    folder = tmp_path_factory.mktemp("neighbours")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "-w", folder, *NEIGHBOURS],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        pytest.skip(f"NOT TESTED: no package registry to be reached: {done.stderr}")
    return sorted(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> dict[str, Path]:
    """Our wheel and our sdist."""
    folder = tmp_path_factory.mktemp("dist")
    return {kind: built(kind, folder) for kind in ("wheel", "sdist")}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """Somebody's folder on PYTHONPATH, with packages of our names."""
    folder = tmp_path_factory.mktemp("hostile")
    for name in ("cli", "events", "web"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(
            f"raise SystemExit('not this {name}')"
        )
    return folder


def test_importing_agentcom_imports_nothing_inside_it():
    code = "import sys; before = set(sys.modules); import agentcom; print(*set(sys.modules) - before)"
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert set(loaded.split()) <= {"agentcom", "__future__"}


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_ours_and_theirs_work_beside_each_other(
    kind, packages, neighbours, dependencies, hostile, tmp_path
):
    fresh = Environment(tmp_path / "fresh", dependencies)
    fresh.install(packages[kind])
    (record,) = fresh.site.glob("agentcom-*.dist-info/RECORD")
    names = {line.split("/")[0] for line in record.read_text().splitlines()}
    assert names == {"agentcom", record.parent.name, ".."}  # .. is bin/agentcom
    assert (fresh.site / "agentcom/_rooms/web/static/index.html").exists()

    fresh.install(*neighbours)
    fresh.neighbours_work()
    version = fresh.run("agentcom", "--version", python_path=hostile)
    assert version == f"agentcom {agentcom.__version__}\n"

    fresh.pip("uninstall", "--yes", "agentcom")
    assert not (fresh.site / "agentcom").exists()
    fresh.neighbours_work()

    fresh.install(packages[kind])
    fresh.neighbours_work()
    assert fresh.run("python", "-m", "agentcom", "--version", python_path=hostile)
    shown = fresh.run("agentcom", "--help", python_path=hostile)
    assert "submit" in shown
    assert "bench" in shown
    if kind == "wheel":
        tour = fresh.run("agentcom", "demo", "--simulated", python_path=hostile)
        assert "All of it went as it should" in tour

    fresh.pip("uninstall", "--yes", "agentcom")
    fresh.neighbours_work()


def test_the_readme_s_links_lead_somewhere_from_an_index(packages, tmp_path):
    subprocess.run(["tar", "xzf", packages["sdist"], "-C", tmp_path], check=True)
    (information,) = tmp_path.glob("*/PKG-INFO")
    links = [part.split(")")[0] for part in information.read_text().split("](")[1:]]
    assert [link for link in links if not link.startswith("https://")] == []
