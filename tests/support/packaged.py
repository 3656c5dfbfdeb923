"""AgentCom's packages, built, and fresh environments to install them into."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

from cli.local.broker import find_server

ROOT = Path(__file__).parents[2]


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

    def run(self, *arguments: str, python_path: Path | None = None, **more: str) -> str:
        """Run one of its programs as a stranger would; return what it prints."""
        env = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "AGENTCOM_NATS_SERVER": str(find_server()),
            **more,
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


def dependencies_in(folder: Path) -> Path:
    """Fill a folder with what is installed here, without AgentCom."""
    here = Path(str(metadata.distribution("click").locate_file("")))
    hatchling = Path(str(metadata.distribution("hatchling").locate_file("")))
    for entry in {*here.iterdir(), *hatchling.iterdir()}:
        if "agentcom" not in entry.name and entry.suffix != ".pth":
            target = folder / entry.name
            if not target.exists():
                target.symlink_to(entry)
    return folder


def built(kind: str, folder: Path) -> Path:
    """Build our `wheel` or `sdist` into a folder."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", folder],
        cwd=ROOT,
        check=True,
    )
    return next(folder.glob("*.whl" if kind == "wheel" else "*.tar.gz"))
