"""Work for a page to look at: `agentcom demo --stay` keeps a little of it coming.

All of it is labelled `demo=simulated`. What models do is simulated wherever they are.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final

from cli.client.connection import Session, new_id
from cli.commands.submit import hand_in
from cli.render.terminal import Problem
from events.errors import AgentComError
from sidecar.simulated.claude import SaidCall, Scenario, SimulatedClaude

if TYPE_CHECKING:
    from collections.abc import Iterator

EVERY_S: Final = 4.0
TOKENS_PER_S: Final = 30.0
_TEAMS: Final = ("search", "billing", "platform")

_TESTS: Final = (
    "for n in $(seq 1 60); do printf '\\033[32mok\\033[0m   case %s\\n' $n; "
    'test $((n % 9)) = 0 && echo "slow: case $n took 210 ms" >&2; sleep 0.15; done'
)
_BAR: Final = (
    "for n in $(seq 0 2 100); do printf '\\r%3d %% of 1.2 GB' $n >&2; sleep 0.1; "
    "done; echo >&2; echo fetched"
)
_ANSWER: Final = """The parser lost the **last** token of a file without a line end.

1. `lex()` stopped at the end without giving out what it had gathered
2. now it does, and a test shows it

```python
def lex(text: str) -> Iterator[Token]:
    yield from _scan(text)
    yield Token("end")  # also where no line end stands
```
"""
_CALLS: Final = (
    SaidCall(name="Read", input={"file_path": "parser/lexer.py"}, result="def lex…"),
    SaidCall(
        name="Edit",
        input={
            "file_path": "parser/lexer.py",
            "old_string": "    yield from _scan(text)\n",
            "new_string": '    yield from _scan(text)\n    yield Token("end")\n',
        },
        result="The file was updated.",
    ),
    SaidCall(
        name="Bash",
        input={"command": "pytest -q tests/test_lexer.py"},
        result="9 passed",
    ),
    SaidCall(
        name="TodoWrite",
        input={
            "todos": [
                {"content": "Find where the token is lost", "status": "completed"},
                {"content": "Give it out, and test that", "status": "completed"},
                {"content": "Look for the same elsewhere", "status": "in_progress"},
            ]
        },
    ),
)


def work() -> Iterator[dict[str, Any]]:
    """Yield tasks of all kinds, one after the other, without end."""
    prompts = cycle(
        (
            "Explain in two sentences what the lexer does, for somebody new here",
            "Suggest three clearer names for the module that holds the retry rules",
            "Write a docstring for the function that merges sorted intervals",
        )
    )
    for n in cycle(range(12)):
        task: dict[str, Any]
        match n:
            case 0:
                task = {"description": "Run the tests", "shell": {"command": _TESTS}}
            case 3:
                task = {"description": "Fetch the corpus", "shell": {"command": _BAR}}
            case 5:
                task = {
                    "description": "Check that no file has trailing spaces",
                    "shell": {"command": "echo 'README.md:3: a space' >&2; exit 1"},
                    "retries": 0,
                }
            case 7:
                task = {
                    "description": "Build the index on the machine with a GPU",
                    "needs": ["gpu"],
                    "ttl_s": 90,
                }
            case 4 | 10:
                task = {
                    "description": "Mend the parser: the last token of a file is lost",
                    "tier": "complex",
                }
            case 1 | 2 | 6 | 8 | 9:
                task = {"description": next(prompts), "tier": "standard"}
            case _:
                task = {
                    "description": "Count the lines of each module",
                    "shell": {
                        "command": "sleep 1; echo '  412 parser'; echo '  198 lexer'"
                    },
                }
        yield {**task, "labels": {"demo": "simulated", "team": _TEAMS[n % 3]}}


async def keep_coming(
    client: Session, claude: SimulatedClaude | None, stop: asyncio.Event
) -> None:
    """Submit a task every few seconds until `stop`; none for a Claude that costs."""
    if claude is not None:
        claude.always(
            Scenario(
                delay_s=1 / TOKENS_PER_S,
                thinking="Where does a token get lost? At the end, I think.",
                answer=_ANSWER,
                calls=_CALLS,
            )
        )
    for task in work():
        if task.get("tier") != "complex" or claude is not None:
            # Where the broker is away for a moment, the next one comes.
            with suppress(AgentComError, Problem):
                await hand_in(client, {**task, "idempotency_key": new_id()})
        try:
            async with asyncio.timeout(EVERY_S):
                await stop.wait()
            return
        except TimeoutError:
            continue
