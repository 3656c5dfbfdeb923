"""A command that names no place runs where it was typed, if that is the whole fleet."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from cli.client.connection import NotRunning
from cli.client.here import is_loopback, stand_here


class Asked:
    """A client that knows some hosts, or nobody who could tell."""

    def __init__(self, *hosts: tuple[str, str], url="nats://127.0.0.1:4222") -> None:
        self.hosts = hosts
        self.may_read = True
        self.link = SimpleNamespace(address=SimpleNamespace(url=url))

    async def query(self, name, body, kind, *, timeout) -> Any:
        assert (name, body) == ("hosts", {})
        if not self.hosts:
            raise NotRunning("nobody")
        return SimpleNamespace(
            hosts=[
                SimpleNamespace(host=host, state=state) for host, state in self.hosts
            ]
        )


def command(**more: Any) -> dict[str, Any]:
    return {"description": "d", "shell": {"command": "ls"}, **more}


async def test_on_the_only_machine_it_runs_here():
    fields = command()
    assert await stand_here(Asked(("me", "up"), ("gone", "left")), fields, "me")
    assert fields["shell"]["cwd"] == os.getcwd()


async def test_a_lost_host_does_not_change_where_a_command_runs():
    fields = command()
    assert await stand_here(Asked(("me", "up"), ("other", "lost")), fields, "me")
    assert fields["shell"]["cwd"] == os.getcwd()
    assert fields["assign_to"] == "me", "the other one may come back at any moment"


@pytest.mark.parametrize(
    ("client", "fields"),
    [
        (Asked(("me", "up"), ("other", "up")), command()),
        (Asked(("other", "up")), command()),
        (Asked(), command()),
        (Asked(("me", "up"), url="nats://10.0.0.7:4222"), command()),
        (Asked(("me", "up")), command(repo="shop")),
        (Asked(("me", "up")), command(assign_to="me")),
        (Asked(("me", "up")), {"description": "no command"}),
    ],
)
async def test_elsewhere_it_runs_where_it_would_have(client, fields):
    before = {name: dict(v) if name == "shell" else v for name, v in fields.items()}
    assert await stand_here(client, fields, "me") == ""
    assert fields == before


async def test_a_folder_that_was_named_stays():
    fields = command()
    fields["shell"]["cwd"] = "/srv"
    assert await stand_here(Asked(("me", "up")), fields, "me") == ""
    assert fields["shell"]["cwd"] == "/srv"


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("nats://127.0.0.1:4222", True),
        ("nats://[::1]:4222", True),
        ("tls://localhost:4222", True),
        ("nats://127.1.2.3:1", True),
        ("nats://192.168.0.2:4222", False),
        ("nats://broker:4222", False),
    ],
)
def test_an_address_of_this_machine_alone(url, local):
    assert is_loopback(url) is local
