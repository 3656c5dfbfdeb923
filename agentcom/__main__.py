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

import gc
import io
import os
import signal
import sys

TYPE_CHECKING = False  # as type checkers know it: until `main` Ctrl-C is a traceback

if TYPE_CHECKING:
    from pathlib import Path


def rooms() -> Path:
    """Return the folder that holds `events`, `actors`, `cli` and the others."""
    from pathlib import Path

    here = Path(__file__).resolve().parent
    installed = here / "_rooms"
    return installed if installed.is_dir() else here.parent


def standard_streams() -> None:
    """Make stdin, stdout and stderr usable, whatever they were started as.

    A closed one becomes the null device: else the next file that is opened would take
    its number, and be written to as output or closed under the event loop. A character
    that the terminal's encoding does not have is replaced, and is no error.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            stream = open(number, "r" if number == 0 else "w", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper) and output.errors == "strict":
            output.reconfigure(errors="replace")


def main() -> int:
    """Run the command that `sys.argv` names; return its exit code."""
    # Python tells Ctrl-C by a traceback; while nothing but imports runs, and once all is
    # done, it ends the process as it ends other programs. Who ignores it goes on doing so.
    interrupts = signal.getsignal(signal.SIGINT)
    quietly = interrupts is signal.default_int_handler
    if quietly:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    standard_streams()
    sys.path.insert(0, str(rooms()))
    if sys.argv[1:2] == ["-m"] and len(sys.argv) > 2:
        import runpy

        module = sys.argv[2]
        del sys.argv[1:3]
        signal.signal(signal.SIGINT, interrupts)
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return 0
    # What is imported stays: looking through it for garbage, while it is made and once
    # more at the end, is a quarter of what a short command costs. `cli.main` lets the
    # collector work again for whatever the command itself does.
    gc.disable()
    from cli.main import main as command

    if quietly:
        signal.signal(signal.SIGINT, interrupts)
    code = command()
    if quietly:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.freeze()
    return code


if __name__ == "__main__":
    sys.exit(main())
