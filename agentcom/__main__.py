"""The command `agentcom`, and the way every process of AgentCom starts.

The packages it is made of (`events`, `actors`, `cli`, ...) have short names that other
distributions use too. They are therefore installed inside this package, in `_rooms`, and
that folder is put first on `sys.path` of our own processes alone: whatever else is
installed, or named by PYTHONPATH, is neither overwritten nor taken for ours. In a
checkout they lie beside this package, and the checkout's root is put first instead.

A child process starts as `python -P -m agentcom`, with a command's arguments, or with
`-m MODULE` and that module's arguments for a program that is no command, such as
`agentcom -m sidecar.simulated.ollama --port 0`.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def rooms() -> Path:
    """Return the folder that holds `events`, `actors`, `cli` and the others."""
    here = Path(__file__).resolve().parent
    installed = here / "_rooms"
    return installed if installed.is_dir() else here.parent


def main() -> int:
    """Run the command that `sys.argv` names; return its exit code."""
    sys.path.insert(0, str(rooms()))
    if sys.argv[1:2] == ["-m"] and len(sys.argv) > 2:
        module = sys.argv[2]
        del sys.argv[1:3]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return 0
    from cli.main import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
