"""`sidecar.toml`: what is understood, and how a mistake is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from events.ids import is_token
from sidecar import config as under_test
from sidecar.config import ConfigError, SidecarConfig, load, parse


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value).startswith("sidecar.toml cannot be used:\n  ")
    return caught.value.problems


def test_an_empty_file_makes_a_host() -> None:
    config = parse("")
    assert config == SidecarConfig()
    assert config.host == under_test.machine_name()
    assert config.shell_slots >= 1
    assert not config.noop


def test_the_example_of_the_documentation_is_valid(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "sidecar.md").read_text()
    [example] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    example = example.replace("~/src/web", str(tmp_path))
    example = example.replace("/srv/repos/api", str(tmp_path))
    config = parse(example)
    for name in SidecarConfig.__struct_fields__:
        assert name in example, f"{name} is not in the example"
    assert config.host == "build-1"
    assert [each.name for each in config.endpoints()] == ["gpu", "vllm"]
    assert config.endpoint_name("gpu") == "build-1-gpu"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slotz = 3", "slotz: no such setting, did you mean 'slots'?"),
        ("[claude]\nmax_turn = 3", "claude.max_turn: no such setting, did you mean"),
        ("[shell.limits]\nmemory = 1", "shell.limits.memory: no such setting"),
        (
            "[[endpoint]]\nname='g'\nkind='ollama'\nurl='http://x'\nslot=1",
            "endpoint[0].slot: no such",
        ),
        ("name = 'a b'", "name: expected 1 to 64 letters, digits, '_' or '-'"),
        ("drain_timeout_s = 'x'", "drain_timeout_s: expected a number, got 'x'"),
        ("noop = 1", "noop: expected true or false, got 1"),
        ("[slots]\nshell = -1", "slots.shell: expected at least 0, got -1"),
        (
            "[claude]\npermission_mode = 'acceptedits'",
            "got 'acceptedits'; did you mean acceptEdits?",
        ),
        (
            "[[endpoint]]\nname='g'\nkind='olama'\nurl='http://x'",
            "endpoint[0].kind: expected one of ollama, openai, got 'olama'",
        ),
        (
            "[[endpoint]]\nname='g'\nkind='ollama'\nurl='x:1'",
            "endpoint[0].url: expected an address that starts with http",
        ),
        ("[[endpoint]]\nname='g'\nkind='ollama'", "endpoint[0].url: expected a value"),
        ("[repos]\nweb = '/no/such/folder'", "repos.web: expected a folder, got"),
        ("[repos]\nweb = 'src'", "repos.web: expected an absolute path"),
        ("default_repo = 'web'", "default_repo: expected the name of one of [repos]"),
        ("[claude]\nprogram = '/no/such'", "claude.program: expected a program, got"),
        ("name = ", "it is not TOML"),
    ],
)
def test_each_mistake_is_told(text: str, said: str) -> None:
    [problem] = problems(text)
    assert said in problem


def test_all_mistakes_are_told_at_once() -> None:
    assert len(problems("name = 'a b'\nslotz = 3\nnoop = 1\n[repos]\nx = '/no'")) == 4


def test_two_endpoints_may_not_share_a_name() -> None:
    one = "[[endpoint]]\nname = 'g'\nkind = 'ollama'\nurl = 'http://x'\n"
    [problem] = problems(one + one)
    assert problem.startswith("endpoint[1].name: expected a name of its own, got 'g'")


def test_endpoints_of_a_host_with_a_long_name_are_told_apart() -> None:
    hosts = [SidecarConfig(name=f"{'h' * 62}{n}") for n in "12"]
    names = {host.endpoint_name(each) for host in hosts for each in ("gpu", "claude")}
    assert len(names) == 4
    assert all(is_token(name) for name in names)
    short = SidecarConfig(name="h" * 60)
    assert short.endpoint_name("gpu") == f"{'h' * 60}-gpu"


def test_a_file_that_is_not_there_is_a_mistake_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "sidecar.toml")


@pytest.mark.parametrize(
    ("said", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("gpu.lan:9000", "http://gpu.lan:9000"),
        ("https://gpu.lan", "https://gpu.lan:443"),
        ("http://0.0.0.0:8000/", "http://127.0.0.1:8000"),
        ("http://gpu.lan", "http://gpu.lan:80"),
        ("https://h:8443/gpu1", "https://h:8443/gpu1"),
        ('"127.0.0.1:4540"', "http://127.0.0.1:4540"),
        (" '0.0.0.0' ", "http://127.0.0.1:11434"),
        ("::1", "http://[::1]:11434"),
        ("[::1]:4540", "http://[::1]:4540"),
        ("[::]:4540", "http://127.0.0.1:4540"),
        (":4540", "http://127.0.0.1:4540"),
        ("gpu.lan:99999", "http://gpu.lan:11434"),
        ("gpu.lan:what", "http://gpu.lan:11434"),
    ],
)
def test_ollama_is_looked_for_where_it_says_it_is(
    said: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", said)
    [found] = parse("").endpoints()
    assert (found.name, found.kind, found.url) == ("ollama", "ollama", url)
    assert parse("discover = false").endpoints() == []


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('wake_command = "ssh box agent ${TASK_DESCRIPTION}"', "ssh would read"),
        ('wake_command = "agent ${TASKID}"', "did you mean ${TASK_ID}?"),
        ('wake_command = ""', "agent.wake_command: it is empty"),
        ('results_folder = "results"', "agent.results_folder: expected an absolute"),
        ("confirm_s = 0", "agent.confirm_s"),
        ('wake_comand = "x"', "did you mean 'wake_command'?"),
    ],
)
def test_a_wake_command_is_looked_at_before_it_is_needed(lines: str, said: str) -> None:
    with pytest.raises(ConfigError) as found:
        parse(f"[agent]\n{lines}\n")
    assert said in str(found.value)


def test_agents_are_woken_where_somebody_said_how() -> None:
    assert not parse("").agent.enabled
    assert parse('[agent]\nwake_command = "agent ${TASK_FILE}"\n').agent.enabled
    assert parse('[agent]\nresults_folder = "~/results"\n').agent.enabled


def test_cloning_is_switched_on_with_a_list_of_urls():
    config = parse('[repos]\nclone = true\nclone_from = ["https://github.com/acme/"]')
    assert config.clones == ["https://github.com/acme/"]
    assert config.repo_paths == {}
    off = parse('[repos]\nclone = false\nclone_from = ["https://github.com/acme/"]')
    assert off.clones == []
    assert parse("").clones == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[endpoint]\nname = "a"', "endpoint: expected [[endpoint]], got [endpoint]"),
        ("[[slots]]\nshell = 2", "slots: expected [slots], got [[slots]]"),
        ("[[claude]]", "claude: expected [claude], got [[claude]]"),
    ],
)
def test_a_table_s_brackets_are_named(text: str, problem: str):
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("clone = true", "repos.clone: expected repos.clone_from beside it"),
        ('clone = true\nclone_from = ["ext::x"]', "repos.clone_from[0]: expected"),
        ('clone = true\nclone_from = ["file:///srv"]', "repos.clone_from[0]: expected"),
        ("web = true", "repos.web: expected a folder, got true"),
        ("clone_from = true", "repos.clone_from: expected a list of URLs, got true"),
    ],
)
def test_what_is_wrong_with_cloning_is_named(text: str, problem: str):
    with pytest.raises(ConfigError) as error:
        parse(f"[repos]\n{text}")
    assert problem in str(error.value)
