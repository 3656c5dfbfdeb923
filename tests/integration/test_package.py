"""The packages we give away: what they put where, beside whom, and that they run.

AgentCom's own packages have names that others have too (`web` is web.py's, `events`
comes with opensearch-py). Neither may overwrite the other, in whatever order they are
installed, nor may a folder of such a name on PYTHONPATH be taken for ours.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest

import agentcom
from cli.local.broker import find_server

ROOT = Path(__file__).parents[2]
NEIGHBOURS = ("web.py", "opensearch-py")
"""From the registry. With what they need they bring `web` and `events`."""


class Environment:
    """A fresh virtual environment that has AgentCom's dependencies, and not AgentCom."""

    def __init__(self, folder: Path, dependencies: Path) -> None:
        self.folder = folder
        venv.create(folder, symlinks=True)
        self.bin = folder / "bin"
        (self.site,) = folder.glob("lib/python*/site-packages")
        (self.site / "dependencies.pth").write_text(f"{dependencies}\n")

    def pip(self, *arguments: str | Path) -> None:
        """Run pip, where it finds neither Node nor an index."""
        done = subprocess.run(
            [sys.executable, "-m", "pip", "--python", self.bin / "python", *arguments],
            env={"PATH": str(self.bin), "PIP_NO_INDEX": "1", "HOME": str(self.folder)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def install(self, *packages: Path) -> None:
        options = ("--no-deps", "--no-compile", "--no-build-isolation")
        self.pip("install", *options, *packages)

    def run(self, *arguments: str, python_path: Path | None = None) -> str:
        """Run one of its programs as a stranger would; return what it prints."""
        env = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "AGENTCOM_NATS_SERVER": str(find_server()),
        }
        if python_path is not None:
            env["PYTHONPATH"] = str(python_path)
        done = subprocess.run(
            [self.bin / arguments[0], *arguments[1:]],
            env=env,
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def neighbours_work(self) -> None:
        """Import the neighbours, and see that none of it is ours."""
        code = "import web, opensearchpy, events\n"
        code += "for each in web, opensearchpy, events: print(each.__file__)"
        places = self.run("python", "-c", code).split()
        names = ("web", "opensearchpy", "events")
        assert places == [str(self.site / name / "__init__.py") for name in names]


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory) -> Path:
    """A folder with what is installed here, without AgentCom."""
    folder = tmp_path_factory.mktemp("dependencies")
    here = Path(str(metadata.distribution("click").locate_file("")))
    hatchling = Path(str(metadata.distribution("hatchling").locate_file("")))
    for entry in {*here.iterdir(), *hatchling.iterdir()}:
        if "agentcom" not in entry.name and entry.suffix != ".pth":
            target = folder / entry.name
            if not target.exists():
                target.symlink_to(entry)
    return folder


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
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True
    )
    return {
        "wheel": next(folder.glob("*.whl")),
        "sdist": next(folder.glob("*.tar.gz")),
    }


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
