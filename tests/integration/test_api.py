"""The interface for programs: who may ask, what is passed on, and what is written down."""

from __future__ import annotations

import asyncio
import hmac
import io
import json
import re
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

import aiohttp
import msgspec
import pytest
from yarl import URL

from actors.gateway.gateway import Gateway
from actors.gateway.service import requester
from events import subjects
from events.codec import encode
from events.commands import ONCE, BulkProgress, Done, Submitted, refuse
from projections.queries import Queries
from tests.support.fakes import MemoryBroker, MemoryBus, MemoryLog
from tests.support.histories import History, tell
from web.access import Access, BadTokens, Buckets, Tokens
from web.api import ASKING, COMMANDS, IDEMPOTENCY_KEY, QUERIES
from web.main import WebConfig, serve
from web.openapi import document, operations
from web.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class FakeGateway:
    """Answers every command with `answer`, and keeps the commands."""

    def __init__(self, bus: MemoryBus) -> None:
        self.bus = bus
        self.commands: list[tuple[str, dict]] = []
        self.answer: msgspec.Struct = Done(seq=7)

    async def open(self) -> None:
        await self.bus.listen(subjects.command(">"), self._on)

    def _on(self, message) -> None:
        name = message.subject.removeprefix("agentcom.cmd.")
        self.commands.append((name, msgspec.json.decode(message.data)))
        message.respond(encode(self.answer))


class Site:
    """A running web role over in-memory fakes, and sessions to it."""

    def __init__(self, port: int, tokens: Tokens, gateway: FakeGateway, log: MemoryLog):
        self.base = f"http://127.0.0.1:{port}"
        self.tokens = tokens
        self.gateway = gateway
        self.log = log

    async def ask(self, method, path, body=None, *, token="", headers=None, raw=None):
        sent = dict(headers or {})
        if token:
            sent["Authorization"] = f"Bearer {token}"
        if body is not None:
            raw, sent["Content-Type"] = json.dumps(body), "application/json"
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method,
                self.base + path,
                data=raw and io.BytesIO(raw.encode()),
                headers=sent,
                allow_redirects=False,
            ) as response,
        ):
            text = await response.text()
            return response.status, json.loads(text) if text[:1] == "{" else text


@asynccontextmanager
async def serving(tmp_path: Path, history: History | None = None, **more):
    log, bus = MemoryLog(), MemoryBus(MemoryBroker())
    if history is not None:
        await tell(log, history.recorded)
    gateway = FakeGateway(bus)
    await gateway.open()
    stop = asyncio.Event()
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    path = tmp_path / "tokens.json"
    config = WebConfig(store=None, port=0, tokens=path, **more)
    task = asyncio.create_task(serve(log, bus, config, stop, ready=ready.set_result))
    try:
        await asyncio.wait((ready, task), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield Site(await ready, Tokens.load(path), gateway, log)
    finally:
        stop.set()
        await task


async def test_nobody_reads_or_commands_without_a_token(tmp_path):
    async with serving(tmp_path) as site:
        for method, path in (
            ("GET", "/api/v1/tasks"),
            ("POST", "/api/v1/tasks"),
            ("GET", "/ws"),
            ("GET", "/api/v1/nothing"),
        ):
            assert (await site.ask(method, path))[0] == 401
        assert (await site.ask("GET", "/api/v1/tasks", token="wrong" * 8))[0] == 401
        for path in ("/healthz", "/metrics"):
            assert (await site.ask("GET", path))[0] == 200
        assert site.gateway.commands == []


async def test_there_is_no_secret_that_a_browser_would_send_along(tmp_path):
    async with serving(tmp_path) as site, aiohttp.ClientSession() as session:
        token = site.tokens.operator
        for path in ("/", f"/?token={token}", "/static/app.js", "/ws"):
            headers = {"Authorization": f"Bearer {token}"}
            async with session.get(site.base + path, headers=headers) as response:
                assert "Set-Cookie" not in response.headers
                assert token not in await response.text()
        for cookie in (token, hmac.digest(token.encode(), b"x", "sha256").hex()):
            sent = {"Cookie": f"agentcom={cookie}"}
            assert (await site.ask("GET", "/api/v1/me", headers=sent))[0] == 401
        for path in (f"/api/v1/me?token={token}", f"/api/v1/me?access_token={token}"):
            assert (await site.ask("GET", path))[0] == 401
        assert (await site.ask("GET", "/api/v1/me", token=token))[1] == {
            "role": "operator",
            "name": "web:operator",
        }


@pytest.mark.parametrize(
    "offered",
    [
        ["agentcom", "token.{}"],
        ["token.{}", "agentcom"],
        ["agentcom", "token.wrong"],
        ["agentcom"],
        ["agentcom", "token."],
        ["agentcom", "{}"],
    ],
)
async def test_a_page_says_its_token_among_the_websocket_s_protocols(tmp_path, offered):
    async with serving(tmp_path) as site, aiohttp.ClientSession() as session:
        protocols = [each.format(site.tokens.viewer) for each in offered]
        if "token.{}" not in offered:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(f"{site.base}/ws", protocols=protocols)
            assert refused.value.status == 401
            return
        async with session.ws_connect(f"{site.base}/ws", protocols=protocols) as socket:
            assert socket.protocol == "agentcom"
            await socket.send_json({"op": "subscribe", "id": "s", "topic": "status"})
            assert (await socket.receive_json(timeout=60))["type"] == "snapshot"


async def test_a_page_of_another_origin_opens_no_websocket_even_with_a_token(tmp_path):
    async with serving(tmp_path) as site, aiohttp.ClientSession() as session:
        protocols = ["agentcom", f"token.{site.tokens.operator}"]
        for origin in (
            "http://127.0.0.1:1",
            "http://localhost",
            "null",
            "https://e.vil",
        ):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(
                    f"{site.base}/ws", protocols=protocols, headers={"Origin": origin}
                )
            assert refused.value.status == 403


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/api/v1/me", "/ws"])
async def test_another_name_is_refused_with_the_setting_that_allows_it(tmp_path, path):
    names = {"names": frozenset({"fleet.example"})}
    async with serving(tmp_path, **names) as site:
        token = site.tokens.operator
        sent = {"Host": "<evil>.example", "Accept": "text/html"}
        status, answer = await site.ask("GET", path, token=token, headers=sent)
        assert status == 403
        assert "--web-name" in str(answer)
        assert "<evil>" not in answer
        ours = {"Host": "fleet.example:4000"}
        assert (await site.ask("GET", path, token=token, headers=ours))[0] != 403


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1", "https://fleet.example", 403),
        ("fleet.example", "https://fleet.example", 200),
        ("fleet.example:443", "https://fleet.example", 200),
        ("fleet.example", "https://fleet.example:8443", 403),
        ("fleet.example:8443", "https://fleet.example:8443", 200),
        ("fleet.example", "null", 403),
        ("fleet.example", "file://fleet.example", 403),
        ("[::1]:4000", "http://[::1]:4000", 200),
        ("[::1]:4000", "http://[::1]:5000", 403),
    ],
)
async def test_a_proxy_that_hides_the_name_is_told_which_setting_passes_it_on(
    tmp_path, host, origin, status
):
    async with serving(tmp_path, names=frozenset({"fleet.example"})) as site:
        token = site.tokens.operator
        for header in ("Origin", "AgentCom-Page"):
            sent = {"Host": host, header: origin}
            given, answer = await site.ask(
                "GET", "/api/v1/me", token=token, headers=sent
            )
            assert given == status
            if status == 403:
                assert "proxy_set_header Host $http_host" in answer["error"]
                assert origin in answer["error"]


async def test_below_a_path_everything_is_there_and_nothing_is_beside_it(tmp_path):
    async with serving(tmp_path, base="/fleet") as site:
        token = site.tokens.operator
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await site.ask("GET", path))[0] == 200
            assert (await site.ask("GET", f"/fleet{path}"))[0] == 200
        assert (await site.ask("GET", "/fleet/api/v1/me"))[0] == 401
        assert (await site.ask("GET", "/fleet/api/v1/me", token=token))[0] == 200
        document_ = (await site.ask("GET", "/fleet/api/v1/openapi.json", token=token))[
            1
        ]
        assert document_ == document("/fleet")
        assert document_["servers"] == [{"url": "/fleet"}]
        for path in ("/api/v1/me", "/ws", "/static/app.js", "/fleet/fleet/"):
            assert (await site.ask("GET", path, token=token))[0] == 404
        body = {"description": "x"}
        site.gateway.answer = Submitted(task_id="T", seq=1, effective_tier="standard")
        path = "/fleet/api/v1/tasks"
        assert (await site.ask("POST", path, body, token=token))[0] == 200
        async with aiohttp.ClientSession() as session:
            for path in ("/", "/fleet"):
                async with session.get(site.base + path) as page:
                    assert page.url.path == "/fleet/"
            protocols = ["agentcom", f"token.{token}"]
            async with session.ws_connect(
                f"{site.base}/fleet/ws", protocols=protocols
            ) as socket:
                assert socket.protocol == "agentcom"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../api/v1/tasks",
        "/static/%2e%2e/api/v1/tasks",
        "/static/..%2fapi/v1/tasks",
        "//api/v1/tasks",
        "/healthz/../api/v1/tasks",
        "/api%2fv1%2ftasks",
        "/api/v1/tasks/%2e%2e/../../healthz/",
    ],
)
async def test_no_way_of_writing_a_path_goes_round_the_token(tmp_path, path):
    async with serving(tmp_path) as site, aiohttp.ClientSession() as session:
        url = URL(site.base + path, encoded=True)
        async with session.get(url) as response:
            assert response.status in (401, 404)
            assert "tasks" not in (await response.text()).replace(path, "")


async def test_a_viewer_looks_and_commands_nothing(tmp_path):
    async with serving(tmp_path) as site:
        token = site.tokens.viewer
        assert (await site.ask("GET", "/api/v1/tasks", token=token))[0] == 200
        status, answer = await site.ask(
            "POST", "/api/v1/tasks", {"description": "x"}, token=token
        )
        assert (status, answer["code"]) == (403, "forbidden")
        assert site.gateway.commands == []
        body = {"description": "x"}
        await site.ask("POST", "/api/v1/tasks/classify", body, token=token)
        assert [name for name, _ in site.gateway.commands] == ["task.classify"]


async def test_commands_reach_the_gateway_with_what_the_path_says(tmp_path):
    async with serving(tmp_path) as site:
        token = site.tokens.operator
        site.gateway.answer = Submitted(task_id="T", seq=1, effective_tier="standard")
        body = {"description": "say hi", "idempotency_key": "k"}
        status, answer = await site.ask("POST", "/api/v1/tasks", body, token=token)
        assert (status, answer["task_id"]) == (200, "T")
        site.gateway.answer = Done(seq=2)
        for method, path, more in (
            ("POST", "/api/v1/tasks/T/cancel", {"reason": "no"}),
            ("POST", "/api/v1/tasks/T/retry", {}),
            ("POST", "/api/v1/tasks/T/reassign", {"host": "h2"}),
            ("POST", "/api/v1/hosts/h1/drain", {}),
            ("DELETE", "/api/v1/endpoints/e1", None),
            ("POST", "/api/v1/alerts/standard/acknowledge", {}),
            ("PUT", "/api/v1/policy", {"policy": {"fallback_wait_s": 2}}),
        ):
            assert (await site.ask(method, path, more, token=token))[0] == 200
        given = [said.pop("id") for name, said in site.gateway.commands if name in ONCE]
        assert len(set(given)) == 4
        assert site.gateway.commands == [
            ("task.submit", body),
            ("task.cancel", {"task_id": "T", "reason": "no"}),
            ("task.retry", {"task_id": "T"}),
            ("task.reassign", {"task_id": "T", "host": "h2"}),
            ("host.drain", {"host": "h1"}),
            ("endpoint.remove", {"endpoint": "e1"}),
            ("alert.acknowledge", {"tier": "standard"}),
            ("policy.set", {"policy": {"fallback_wait_s": 2}}),
        ]


async def test_a_refusal_keeps_its_status_and_its_words(tmp_path):
    async with serving(tmp_path) as site:
        site.gateway.answer = refuse("conflict", "no")
        answer = await site.ask(
            "POST", "/api/v1/tasks/T/cancel", {}, token=site.tokens.operator
        )
        assert answer[0] == 409
        assert answer[1]["error"] == "no"


@pytest.mark.parametrize(
    ("path", "raw", "headers", "status"),
    [
        ("/api/v1/tasks", "{", {"Content-Type": "application/json"}, 400),
        ("/api/v1/tasks", "[]", {"Content-Type": "application/json"}, 400),
        ("/api/v1/tasks", "x" * 1_100_000, {"Content-Type": "application/json"}, 413),
        ("/api/v1/tasks", "description=x", {"Content-Type": "text/plain"}, 415),
        (
            "/api/v1/tasks/T/cancel",
            '{"task_id": "U"}',
            {"Content-Type": "application/json"},
            400,
        ),
        ("/api/v1/tasks/T/cancel", "", {"Origin": "http://evil.example"}, 403),
        ("/api/v1/tasks/T/cancel", "", {"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
async def test_what_is_no_command_is_passed_to_nobody(
    tmp_path, path, raw, headers, status
):
    async with serving(tmp_path) as site:
        response = await site.ask(
            "POST", path, raw=raw, headers=headers, token=site.tokens.operator
        )
        assert response[0] == status
        assert site.gateway.commands == []


async def test_the_log_is_read_in_pieces(tmp_path):
    history = History()
    history.join("h1")
    for _ in range(5):
        history.route(history.submit("x"))
    async with serving(tmp_path, history) as site:
        token, path = site.tokens.viewer, "/api/v1/events?limit=3&subject="
        _, first = await site.ask("GET", f"{path}agentcom.evt.task.*", token=token)
        _, more = await site.ask(
            "GET", f"{path}agentcom.evt.task.*&from={first['next']}", token=token
        )
        seqs = [each["seq"] for each in (*first["events"], *more["events"])]
        assert seqs == [2, 3, 4, 5, 6, 7]
        at = first["events"][-1]["event"]["at"]
        _, since = await site.ask("GET", f"/api/v1/events?from={at}", token=token)
        assert since["events"][0]["seq"] == 5
        assert (await site.ask("GET", f"{path}agentcom.out.>", token=token))[0] == 400


async def test_a_task_s_trace_is_its_routing_alone(tmp_path):
    history = History()
    task = history.submit("x")
    history.route(task)
    async with serving(tmp_path, history) as site:
        token = site.tokens.viewer
        await site.ask("GET", "/api/v1/status?wait_seq=2", token=token)
        _, answer = await site.ask("GET", f"/api/v1/tasks/{task}/trace", token=token)
        assert answer["route"]["candidates"]
        assert set(answer) == {
            *("seq", "task_id", "state", "classification", "route", "routes"),
            "attempts",
        }


async def test_every_response_forbids_what_the_page_does_not_need(tmp_path):
    async with serving(tmp_path) as site, aiohttp.ClientSession() as session:
        for path in ("/", "/healthz", "/api/v1/tasks", "/nowhere"):
            async with session.get(site.base + path) as response:
                policy = response.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_a_token_that_is_no_text_is_a_wrong_one():
    access = Access(Tokens("o" * 16, "v" * 16), clock=lambda: 0)
    # As a header is read whose bytes are no UTF-8.
    request = SimpleNamespace(headers={"Authorization": "Bearer \udcff"})
    assert access.visitor(request) is None


async def test_wrong_tokens_are_not_tried_for_ever(tmp_path):
    async with serving(tmp_path) as site:
        tried = [
            (await site.ask("GET", "/api/v1/me", token=f"{n:032}"))[0]
            for n in range(25)
        ]
        assert tried[:20] == [401] * 20
        assert tried[-1] == 429


def test_tokens_are_made_once_and_are_their_owner_s_alone(tmp_path):
    path = tmp_path / "deep" / "tokens.json"
    tokens = Tokens.load(path)
    assert Tokens.load(path) == tokens
    assert path.stat().st_mode & 0o777 == 0o600
    assert tokens.operator != tokens.viewer
    path.write_text("{}")
    with pytest.raises(BadTokens, match="remove it"):
        Tokens.load(path)


def test_the_gateway_believes_a_name_from_inside_core_alone():
    named = {"AgentCom-Requester": "web:operator"}
    assert requester(named) == "web:operator"
    assert requester({}) == "core"
    crossing = {"Nats-Request-Info": '{"acc": "CLIENTS", "user": "UABC"}'}
    assert requester(named | crossing) == "UABC"
    for odd in ("", "x" * 101, "two\nlines", "n\u00e4me"):
        assert requester({"AgentCom-Requester": odd}) == "core"


async def test_wrong_tokens_of_others_lock_nobody_out(tmp_path):
    async with serving(tmp_path) as site:
        for n in range(25):
            await site.ask("GET", "/api/v1/me", token=f"{n:032}")
        right = await site.ask("GET", "/api/v1/me", token=site.tokens.viewer)
        assert right[0] == 200


def test_a_bucket_fills_with_time():
    now = 0.0
    buckets = Buckets(rate=2, burst=3, clock=lambda: now)
    assert [buckets.take("a") for _ in range(4)] == [True, True, True, False]
    assert buckets.take("b")
    now = 0.5
    assert [buckets.take("a") for _ in range(2)] == [True, False]


async def test_the_document_is_served_as_the_code_has_it(tmp_path):
    async with serving(tmp_path) as site:
        status, served = await site.ask("GET", "/api/v1/openapi.json")
        assert (status, served) == (200, document())


class Runner:
    """As much of a runner as a server needs to be made."""

    position = 0
    checkpoints = None

    def watch(self, watcher) -> None:
        """Show nothing."""


def references(part) -> Iterator[str]:
    """Every schema that a part of the document refers to."""
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        part = list(part.values())
    for below in part if isinstance(part, list) else []:
        yield from references(below)


def test_the_document_describes_what_it_refers_to_and_the_questions_alone():
    described = {
        f"#/components/schemas/{k}" for k in document()["components"]["schemas"]
    }
    questions = {
        f"#/components/schemas/{op.fields.__name__}" for op in operations() if op.fields
    }
    referred = set(references(document()))
    assert described == referred | questions


def test_the_document_has_the_fields_that_queries_and_commands_read():
    paths, schemas = document()["paths"], document()["components"]["schemas"]
    queries = Queries(Runner(), MemoryLog(), clock=lambda: 0.0, now=lambda: 0.0)
    for route in QUERIES:
        reads, _ = queries._queries[route.query]
        parameters = {
            each["name"]
            for each in paths[route.path]["get"]["parameters"]
            if each["in"] != "header"
        }
        assert parameters == set(reads._kind.__struct_fields__), route.path
    gateway = Gateway("g", MemoryLog(), MemoryBus(MemoryBroker()), None, None, None)
    assert {r.name: r.body for r in COMMANDS} == gateway.commands
    for route in COMMANDS:
        operation = paths[route.path][route.method.lower()]
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        schema = schemas[body["$ref"].rpartition("/")[2]]
        assert {
            each["name"]
            for each in operation.get("parameters", ())
            if each["in"] != "header"
        } <= set(schema["properties"])


def test_the_document_says_what_commands_take_beside_their_body():
    paths = document()["paths"]
    for route in COMMANDS:
        operation = paths[route.path][route.method.lower()]
        named = [each["name"] for each in operation["parameters"]]
        assert IDEMPOTENCY_KEY in named, route.path
        said = "Operators only." in operation["summary"]
        assert said is (route.name not in ASKING), route.path


def test_the_document_says_which_answers_stream():
    paths = document()["paths"]
    streams = {
        path
        for path, operations in paths.items()
        for operation in operations.values()
        if "text/event-stream" in operation["responses"]["200"].get("content", {})
    }
    task = "/api/v1/tasks/{task_id}"
    assert streams == {f"{task}/output", f"{task}/events"}
    for path in streams:
        parameters = paths[path]["get"]["parameters"]
        assert "Last-Event-ID" in [each["name"] for each in parameters], path


async def test_the_document_names_every_path_and_no_other(tmp_path):
    log, bus = MemoryLog(), MemoryBus(MemoryBroker())

    server = Server(Runner(), None, bus, log, access=Access(None, clock=lambda: 0))
    served = {
        (route.method.lower(), re.sub(r"{(\w+)}", r"{\1}", route.resource.canonical))
        for route in server.app().router.routes()
        if route.method != "HEAD"
    }
    icons = ("/favicon.svg", "/favicon-alert.svg")
    pages = {("get", p) for p in ("/", "/ws", *icons, "/static/{name}")}
    # OpenAI's own interface, which OpenAI describes.
    pages |= {(method, path) for method, path in served if path.startswith("/v1/")}
    described = {
        (method, path)
        for path, operations in document()["paths"].items()
        for method in operations
    }
    assert served - pages == described


async def test_a_command_for_many_tasks_is_said_again_until_it_is_carried_out(tmp_path):
    async with serving(tmp_path) as site:
        about = {"bulk_id": "b", "action": "cancel", "dry_run": False, "matched": 5}
        answers = [
            BulkProgress(**about, finished=done == 5, done=done) for done in (2, 4, 5)
        ]

        class Answering:
            def __get__(self, gateway, _):
                return answers[min(len(gateway.commands), len(answers)) - 1]

            def __set__(self, gateway, answer):
                raise AssertionError("only answers")

        site.gateway.__class__ = type("Many", (FakeGateway,), {"answer": Answering()})
        body = {"action": "cancel", "filter": {"label": ["team=search"]}}
        status, answer = await site.ask(
            "POST", "/api/v1/tasks/bulk", body, token=site.tokens.operator
        )
        assert (status, answer["finished"], answer["done"]) == (200, True, 5)
        commands = site.gateway.commands
        assert [name for name, _ in commands] == ["task.bulk"] * 3
        assert len({said["id"] for _, said in commands}) == 1
        assert commands[0][1]["filter"] == body["filter"]
        viewer = await site.ask(
            "POST", "/api/v1/tasks/bulk", body, token=site.tokens.viewer
        )
        assert viewer[0] == 403
        assert len(commands) == 3
        # Who shows how far it is asks for an answer that says so.
        commands.clear()
        path = "/api/v1/tasks/bulk?wait=0"
        status, answer = await site.ask("POST", path, body, token=site.tokens.operator)
        assert (status, answer["finished"], answer["done"]) == (200, False, 2)
        assert len(commands) == 1
        path = "/api/v1/tasks/bulk?wait=soon"
        wrong = await site.ask("POST", path, body, token=site.tokens.operator)
        assert (wrong[0], wrong[1]["path"]) == (400, "wait")


async def test_what_wants_a_person_and_costs_by_label_are_asked_over_http(tmp_path):
    history = History()
    history.join("h1")
    history.submit("stuck", needs=["gpu"], labels={"team": "search"})
    async with serving(tmp_path, history) as site:
        token = site.tokens.viewer

        async def get(path):
            status, answer = await site.ask("GET", f"/api/v1/{path}", token=token)
            assert status == 200, answer
            return answer

        seq = len(history.recorded)
        (row,) = (await get(f"attention?wait_seq={seq}"))["rows"]
        assert (row["kind"], row["filter"]) == (
            "stuck",
            {"state": ["waiting"], "need": "gpu"},
        )
        assert (await get("tasks?label=team=search&label=team&need=gpu"))["total"] == 1
        assert (await get("tasks?label=team=ads"))["total"] == 0
        assert (await get("costs?by=label:team&stack=model"))["lines"] == []
        assert (
            'agentcom_attention{kind="stuck",severity="error"} 1.0'
            in (await site.ask("GET", "/metrics"))[1]
        )
