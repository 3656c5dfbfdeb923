"""Two instances behind one real proxy, nginx or Caddy, at its root and below a path."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import aiohttp
import httpx
import pytest
from multidict import CIMultiDict

from tests.support.command import NOTHING_ELSE, PATIENCE_S, agentcom_up
from tests.support.ports import free_port
from web.access import Access

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"
NAME = "fleet.example"


@contextmanager
def nginx(tmp_path: Path, port: int, ports: dict[str, int]) -> Iterator[None]:
    """Serve our documented configuration on a port; `ports` are by path."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if program is None:
        pytest.skip("no nginx here: `make nginx` installs it where apt-get is")
    text = (DEPLOY / "nginx.conf").read_text()
    head, _, rest = text.partition("    location / {")
    lines = rest[: rest.index("    }")]
    locations = "".join(
        f"    location {path}/ {{{lines}    }}\n".replace(":4000", f":{inner}")
        for path, inner in ports.items()
    )
    head = head.replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
    kept = [line for line in head.splitlines() if "ssl_certificate" not in line]
    folder = tmp_path / "nginx"
    folder.mkdir()
    scratch = "".join(
        f"    {kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    conf = folder / "nginx.conf"
    conf.write_text(
        f"daemon off;\nmaster_process off;\npid {folder}/pid;\n"
        "error_log stderr;\nevents {}\nhttp {\n    access_log off;\n"
        + scratch
        + "\n".join(kept)
        + f"\n{locations}}}\n}}\n"
    )
    with serving([program, "-p", str(folder), "-c", str(conf)], port):
        yield


@contextmanager
def caddy(tmp_path: Path, port: int, ports: dict[str, int]) -> Iterator[None]:
    """Serve our documented configuration on a port; `ports` are by path."""
    beside = Path(sys.executable).parent
    program = shutil.which("caddy", path=f"{beside}:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("NOT TESTED: no caddy here; `make caddy` builds it where Go is")
    text = (DEPLOY / "Caddyfile").read_text()
    site, _, rest = text.partition("\nfleet.example {")
    assert all(line.startswith("#") for line in site.splitlines()), site
    lines = rest[: rest.rindex("}")]
    handled = "".join(
        f"handle {f'{path}/*' if path else ''} {{{lines}}}\n".replace(
            ":4000", f":{inner}"
        )
        for path, inner in ports.items()
    )
    folder = tmp_path / "caddy"
    folder.mkdir()
    conf = folder / "Caddyfile"
    conf.write_text(
        "{\nadmin off\npersist_config off\n}\n"
        f"http://{NAME}:{port} {{\nbind 127.0.0.1\n{handled}}}\n"
    )
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    run = [program, "run", "--config", str(conf), "--adapter", "caddyfile"]
    with serving(run, port, env):
        yield


@contextmanager
def serving(
    command: list[str], port: int, env: dict[str, str] | None = None
) -> Iterator[None]:
    """Run a proxy, which answers by the time the block begins."""
    process = subprocess.Popen(command, env=env)
    try:
        ends = time.monotonic() + PATIENCE_S
        while process.poll() is None and time.monotonic() < ends:
            try:
                httpx.get(f"http://127.0.0.1:{port}/", headers={"Host": NAME})
                break
            except httpx.TransportError:
                time.sleep(0.05)
        assert process.poll() is None, f"{command[0]} ended"
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@pytest.mark.parametrize("proxy", [nginx, caddy])
async def test_page_login_socket_and_work_pass_through(
    proxy: Callable[[Path, int, dict[str, int]], AbstractContextManager[None]],
    tmp_path: Path,
) -> None:
    outer = free_port()
    with ExitStack() as stack:
        ports, tokens = {}, {}
        for path in ("", "/fleet"):
            folder = tmp_path / f"home{path.replace('/', '-')}"
            options = ("--web-name", NAME, f"--base-path={path}")
            trusted = ("--trust-proxy", "127.0.0.1")
            system, up = stack.enter_context(
                agentcom_up(folder, NOTHING_ELSE, *options, *trusted)
            )
            address = httpx.URL(_address(up.said["stdout"]))
            assert address.port is not None
            ports[path] = address.port
            tokens[path] = json.loads((system.data / "web-tokens.json").read_text())[
                "operator"
            ]
        stack.enter_context(proxy(tmp_path, outer, ports))
        base = f"http://127.0.0.1:{outer}"
        host = {"Host": f"{NAME}:{outer}"}
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for path, token in tokens.items():
                async with session.get(f"{base}{path}/", headers=host) as answer:
                    page = await answer.text()
                    assert answer.status == 200
                for file in set(_files(page)):
                    url = f"{base}{path}/{file}"
                    async with session.get(url, headers=host) as answer:
                        assert answer.status == 200, url
                mine = {**host, "Authorization": f"Bearer {token}"}
                me = f"{base}{path}/api/v1/me"
                async with session.get(me, headers=mine) as answer:
                    assert (await answer.json())["role"] == "operator"
                (other,) = set(tokens.values()) - {token}
                wrong = {**host, "Authorization": f"Bearer {other}"}
                async with session.get(me, headers=wrong) as answer:
                    assert answer.status == 401
                async with session.ws_connect(
                    f"{base}{path}/ws",
                    protocols=["agentcom", f"token.{token}"],
                    headers={**host, "Origin": f"http://{NAME}:{outer}"},
                ) as socket:
                    asked = {"op": "subscribe", "id": "o", "topic": "overview"}
                    await socket.send_json({**asked, "params": {}})
                    told = await socket.receive_json(timeout=PATIENCE_S)
                    assert told["type"] == "snapshot", told
                    task = {"description": "say", "shell": {"command": "echo here"}}
                    async with session.post(
                        f"{base}{path}/api/v1/tasks", json=task, headers=mine
                    ) as answer:
                        accepted = await answer.json()
                        assert answer.status in (200, 201, 202), accepted
                one = f"{base}{path}/api/v1/tasks/{accepted['task_id']}"
                ends = time.monotonic() + PATIENCE_S
                while time.monotonic() < ends:
                    async with session.get(one, headers=mine) as answer:
                        found = (await answer.json()).get("task", {})
                    if found.get("state") == "completed":
                        break
                    await asyncio.sleep(0.05)
                assert found["result"]["output"] == "here\n"
            # The right token under a foreign page's origin gives nothing.
            foreign = {**mine, "Origin": "http://evil.example"}
            async with session.get(me, headers=foreign) as answer:
                assert answer.status == 403


def _address(said: str) -> str:
    (line,) = [each for each in said.splitlines() if "dashboard" in each]
    return line.split()[-1]


def _files(page: str) -> Iterator[str]:
    for part in page.split('"'):
        if part.startswith("static/"):
            yield part


@pytest.mark.parametrize(
    ("peer", "said", "asks"),
    [
        ("10.0.0.9", [], "10.0.0.9"),
        ("10.0.0.9", ["192.0.2.1"], "10.0.0.9"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("127.0.0.1", ["6.6.6.6, 192.0.2.1"], "192.0.2.1"),
        ("127.0.0.1", ["6.6.6.6", "192.0.2.1, 10.0.0.7"], "192.0.2.1"),
        ("127.0.0.1", ["192.0.2.1, nonsense"], "127.0.0.1"),
        ("127.0.0.1", ["2001:DB8::1"], "2001:db8::1"),
    ],
)
def test_only_a_trusted_proxy_says_for_whom_it_asks(peer, said, asks):
    headers = CIMultiDict(("X-Forwarded-For", each) for each in said)
    request = SimpleNamespace(remote=peer, headers=headers)
    trusted = frozenset({"127.0.0.1", "10.0.0.7"})
    access = Access(None, clock=lambda: 0.0, proxies=trusted)

    assert access.address(request) == asks
