"""No text of a task becomes syntax, whatever the template and whatever the text."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.executors.wake_command import WakeCommandError, parse

HOSTILE = [
    "'; touch owned; '",
    '"; touch owned; "',
    "$(touch owned)",
    "`touch owned`",
    "a && touch owned || x\ntouch owned",
    "${TASK_ID} $TASK_JSON",
    "--help",
    "\\'; touch owned #",
    "* ? [a-z] ~ !! %s %n",
    "\ud800 \0 \x1b[2J",
]


def filled(template: str, **values: str) -> list[str]:
    """As for an operator who declares whatever program the template begins with."""
    program = shlex.split(template)[0]
    return parse(template, program).filled({"TASK_ID": "T1", **values})


@given(st.text() | st.sampled_from(HOSTILE))
def test_a_text_stays_inside_its_word(text: str) -> None:
    words = filled(
        "agent --do=${TASK_DESCRIPTION} --id=${TASK_ID} ${TASK_DESCRIPTION}",
        TASK_DESCRIPTION=text,
    )
    said = text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    assert words == ["agent", f"--do={said}", "--id=T1", "--", said]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "template",
    [
        "/bin/sh -c 'printf %s \"${TASK_DESCRIPTION}\"'",
        "/bin/sh -c 'printf %s ${TASK_DESCRIPTION}'",
        '/bin/sh -c "printf %s \\"${TASK_DESCRIPTION}\\""',
        "env -- sh -ec 'printf %s \"${TASK_DESCRIPTION}\" | cat'",
        "sh -c 'printf %s \"$1\"' sh ${TASK_DESCRIPTION}",
        "printf -- %s ${TASK_DESCRIPTION}",
    ],
)
def test_no_shell_takes_it_for_a_command(template: str, text: str, tmp_path) -> None:
    text = text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    try:
        words = filled(template, TASK_DESCRIPTION=text)
    except WakeCommandError:
        return
    said = subprocess.run(
        words,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "TASK_DESCRIPTION": text, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        check=False,
    )
    assert list(tmp_path.iterdir()) == []
    if '"' in template or template.startswith("printf"):
        assert said.stdout.decode() == text


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("", "empty"),
        ("agent 'x", "quotes"),
        ("${TASK_DESCRIPTION} x", "choose"),
        ("agent ${TASKID}", "did you mean ${TASK_ID}"),
        ("ssh box agent ${TASK_DESCRIPTION}", "ssh would read"),
        ("/usr/bin/ssh box agent --json=${TASK_JSON}", "ssh would read"),
        ("sudo su agent -c ${TASK_DESCRIPTION}", "su would read"),
        ("bash -lc ${TASK_DESCRIPTION}", "bash -lc would read"),
        ("sh -c -- ${TASK_DESCRIPTION}", "sh -c would read"),
        ("bash -c -e ${TASK_DESCRIPTION}", "bash -c would read"),
        ("env -S ${TASK_DESCRIPTION}", "env -S would read"),
        ("script -c ${TASK_DESCRIPTION} /dev/null", "script -c would read"),
        ("flock lock -c ${TASK_DESCRIPTION}", "lock -c would read"),
        ("python3 -c ${TASK_DESCRIPTION}", "python3 -c would read"),
        ("perl -ne ${TASK_JSON}", "perl -ne would read"),
        ("bash -s -- ${TASK_JSON}", "bash -s would read"),
        ("node --eval=x ${TASK_JSON}", "node --eval=x would read"),
        ("env X=1 sh -c ${TASK_JSON}", "sh -c would read"),
    ],
)
def test_a_template_that_is_not_safe_is_refused(template: str, problem: str) -> None:
    with pytest.raises(WakeCommandError, match=problem.replace("$", r"\$")):
        parse(template)


@pytest.mark.parametrize(
    "template",
    [
        "ssh box agent ${TASK_ID}",
        "agent --task ${TASK_FILE} --out ${RESULT_FILE}",
        "sh -c 'nohup agent \"$TASK_FILE\" >/dev/null 2>&1 &'",
        "python3 -c 'print(\"${HOME}\")'",
    ],
)
def test_what_is_safe_is_accepted(template: str) -> None:
    assert parse(template).words


@pytest.mark.parametrize(
    "template",
    [
        "agent ${TASK_DESCRIPTION}",
        "bash wake.sh ${TASK_DESCRIPTION}",
        "watchexec --shell ${TASK_JSON}",
        "tclsh /dev/stdin ${TASK_DESCRIPTION}",
        "osascript --x=${TASK_DESCRIPTION}",
        "unheard-of --run ${TASK_DESCRIPTION}",
    ],
)
@pytest.mark.parametrize("plain", [None, "another"])
def test_a_text_is_no_argument_to_what_is_not_declared(
    template: str, plain: str | None
) -> None:
    with pytest.raises(WakeCommandError, match="plain_program"):
        parse(template, plain)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("/bin/sh wake.sh ${TASK_DESCRIPTION}", "no plain program"),
        ("env agent ${TASK_DESCRIPTION}", "no plain program"),
        ("xargs agent ${TASK_JSON}", "no plain program"),
        ("agent --do ${TASK_DESCRIPTION}", "--do=${TASK_DESCRIPTION} in one word"),
        ("agent do ${TASK_DESCRIPTION}", "write -- there"),
        ("agent ${TASK_DESCRIPTION} --out x", "options first"),
    ],
)
def test_a_declared_program_does_not_make_everything_safe(
    template: str, problem: str
) -> None:
    with pytest.raises(WakeCommandError) as refused:
        parse(template, shlex.split(template)[0])
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("agent ${TASK_DESCRIPTION}", ["agent", "--", "--help"]),
        ("agent -- ${TASK_DESCRIPTION}", ["agent", "--", "--help"]),
        ("agent --do=${TASK_DESCRIPTION}", ["agent", "--do=--help"]),
        (
            "agent -v -- ${TASK_DESCRIPTION} ${TASK_ID}",
            ["agent", "-v", "--", "--help", "T1"],
        ),
    ],
)
def test_a_text_is_never_an_option(template: str, words: list[str]) -> None:
    assert filled(template, TASK_DESCRIPTION="--help") == words
