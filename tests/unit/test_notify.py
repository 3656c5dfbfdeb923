"""Notifications: what is told to whom, signed how, and what is never said or sent."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import sys
import types
from pathlib import Path

import pytest

from events import catalogue as c
from events.codec import encode
from tests.support.fakes import MemoryLog
from tests.support.histories import History
from web.notify.config import (
    NotifyConfigError,
    NotifyTarget,
    Rule,
    parse,
)
from web.notify.notices import (
    Notice,
    TaskSaid,
    hushed,
    names_of,
    notice_of,
    trial_notice,
)
from web.notify.role import Deliveries, deliver_all
from web.notify.senders import (
    ByApprise,
    DeliveryFailed,
    Webhook,
    is_forbidden,
    signature,
)
from web.notify.served import all_served, read_served

DOCS = Path(__file__).parents[2] / "docs"
HOOK = """
[[target]]
name = "ops"
url = "https://hooks.example/t0ken"
secret_env = "HOOK_SECRET"
"""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[rule", "not TOML"),
        (
            HOOK + '[[rule]]\non = ["task.died"]\nto = ["ops"]',
            "(did you mean task.dead?), got 'task.died'",
        ),
        (
            HOOK + '[[rule]]\non = ["task.dead"]\nto = ["opps"]',
            "rule[0].to[0]: expected one of ops (did you mean ops?)",
        ),
        (HOOK + HOOK, "target[1].name: expected a name of its own"),
        (
            HOOK + '[[rule]]\non = ["task.dead"]\nto = ["ops"]\nlabel = ["A B"]',
            "rule[0].label[0]: expected a label",
        ),
        ('[[target]]\nname = "a"\nurl = "https://x"', "secret_env or secret_file"),
        ('[[target]]\nname = "a"\nsecret_env = "S"', "expected url or url_env"),
        (
            '[[target]]\nname = "a"\nurl = "ftp://x"\nsecret_env = "S"',
            "begins with https://",
        ),
        ('[[target]]\nname = "a"\nsecret = "hush"', "target[0].secret"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_place(text, says):
    with pytest.raises(NotifyConfigError) as refused:
        parse(text)
    assert says in str(refused.value)


def test_a_signature_is_that_of_standard_webhooks():
    secret, body = b"0123456789abcdef", b'{"a":1}'
    made = signature(secret, "D1", 1_700_000_000, body)
    expected = hmac.new(secret, b"D1.1700000000." + body, hashlib.sha256).digest()
    assert made == "v1," + base64.b64encode(expected).decode()


@pytest.mark.parametrize(
    ("address", "forbidden"),
    [
        ("169.254.169.254", True),
        ("::ffff:169.254.169.254", True),
        ("fe80::1%eth0", True),
        ("fd00:ec2::254", True),
        ("0.0.0.0", True),
        ("224.0.0.1", True),
        ("127.0.0.1", False),
        ("10.0.0.7", False),
        ("93.184.216.34", False),
        ("hooks.example", False),
    ],
)
def test_nothing_is_sent_to_where_machines_ask_about_themselves(address, forbidden):
    assert is_forbidden(address) is forbidden


async def test_a_forbidden_address_is_refused_before_anything_is_sent():
    hook = Webhook("http://169.254.169.254/latest", b"x" * 16, 1.0, lambda: 0.0)
    with pytest.raises(DeliveryFailed, match="nothing is sent to"):
        await hook.send(trial_notice("ops", "", "1"))
    await hook.close()


def test_what_looks_like_a_key_is_not_told():
    text = hushed("failed: sk-ant-REDACTED at https://me:pw@host/x")
    assert "0123456789" not in text
    assert "pw@" not in text


def test_a_spent_budget_is_told_as_that():
    failed = c.TaskFailed(
        id="E", at="", by="h", task_id="t", host="h", route="r", generation=1, attempt=1,
        incarnation="i",
        result=c.Result(status="failed", error=c.RunError("budget", "spent")),
    )  # fmt: skip
    assert names_of(failed) == ["budget.reached", "task.failed"]


def test_a_days_spent_budget_is_told_in_words():
    event = c.TierBudgetSpent(
        id="E", at="", by="s", tier="complex", day="2026-01-31", spent_usd=5.25,
        budget_usd=5.0,
    )  # fmt: skip
    assert names_of(event) == ["budget.reached"]
    rule = Rule(on=["budget.reached"], to=["ops"])
    notice = notice_of(c.Recorded(7, "x", event), None, [rule], "ops")
    assert notice is not None
    assert (notice.type, notice.tier) == ("budget.reached", "complex")
    assert notice.text.startswith("Today's $5.00 for tasks that leave their tier for")


# -- deliveries ---------------------------------------------------------------------------


class Receiver:
    """Takes what is sent, as long as it is willing to."""

    def __init__(self) -> None:
        self.got = []
        self.fails = 0
        self.hangs = False
        self.news = asyncio.Event()

    async def send(self, notice) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails:
            self.fails -= 1
            raise DeliveryFailed("it answered with status 503")
        self.got.append(notice)
        self.news.set()

    async def close(self) -> None:
        pass

    async def until(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.got) < count:
                self.news.clear()
                await self.news.wait()


class Told:
    """A log in which tasks fail, and the role that tells of it."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.log = MemoryLog()
        self.history = History(5)
        self.failed: list[str] = []

    async def store(self) -> None:
        """Bring what the history has more than the log into it."""
        there = await self.log.last_sequence()
        for recorded in self.history.recorded[there:]:
            await self.log.append(recorded.subject, recorded.event)

    async def fail(self, count: int, **spec) -> None:
        """Let so many tasks run and fail."""
        for n in range(count):
            task = self.history.submit(f"task {n}", tier="trivial", **spec)
            route = self.history.route(task, "h1", tier="trivial", target="sidecar")
            self.history.start(route)
            self.failed.append(self.history.fail(route).event.id)
        await self.store()

    def target(self, receiver: Receiver, name: str = "ops", **rule) -> Deliveries:
        target = NotifyTarget(
            name=name, url="https://x", secret_env="S", longest_pause_s=0.01
        )
        rules = [Rule(**{"on": ["task.failed"], "to": [name], **rule})]
        return Deliveries(
            target, rules, self.log, receiver, self.folder, lambda: 1_700_000_000.0
        )


@pytest.fixture
async def told(tmp_path):
    made = Told(tmp_path)
    made.history.elect(1)
    made.history.join("h1")
    await made.store()
    return made


class Running:
    """The role, until the block ends; `kill` ends it without a word."""

    def __init__(self, *deliveries: Deliveries) -> None:
        self.stop = asyncio.Event()
        self.deliveries = deliveries

    async def __aenter__(self):
        self.task = asyncio.create_task(
            deliver_all(list(self.deliveries), self.stop, again_s=0.01)
        )
        async with asyncio.timeout(60):
            while not all(d.served.position.seq for d in self.deliveries):
                await asyncio.sleep(0.01)
        return self

    async def __aexit__(self, *_):
        self.stop.set()
        await self.task


async def test_what_a_rule_means_is_told_in_order_and_nothing_else(told):
    receiver = Receiver()
    async with Running(told.target(receiver, label=["team=search"])):
        await told.fail(2, labels={"team": "ads"})
        await told.fail(3, labels={"team": "search"})
        await receiver.until(3)
        ended = told.history.submit("one that is well", labels={"team": "search"})
        route = told.history.route(ended)
        told.history.start(route)
        told.history.complete(route)
        await told.fail(1, labels={"team": "search"})
        await receiver.until(4)
    assert [n.type for n in receiver.got] == ["task.failed"] * 4
    assert [n.task.labels["team"] for n in receiver.got] == ["search"] * 4
    assert [n.seq for n in receiver.got] == sorted(n.seq for n in receiver.got)
    first = receiver.got[0]
    assert (first.host, first.tier, first.task.state) == ("h1", "trivial", "failed")
    assert "has failed on h1" in first.text


async def test_a_receiver_that_fails_gets_everything_in_order_and_goes_on(told):
    receiver = Receiver()
    receiver.fails = 7
    deliveries = told.target(receiver)
    async with Running(deliveries):
        await told.fail(4)
        await receiver.until(4)
    assert len({n.id for n in receiver.got}) == 4
    assert [n.seq for n in receiver.got] == sorted(n.seq for n in receiver.got)
    kept = read_served(told.folder, "ops")
    assert kept is not None
    assert (kept.delivered, kept.waiting, kept.failing_since) == (4, 0, "")
    assert all_served(told.folder) == [kept]
    assert all_served(told.folder / "none") == []
    assert kept.last_error == "it answered with status 503"


async def test_it_goes_on_where_it_was_and_says_again_what_it_may_not_have_said(told):
    receiver = Receiver()
    async with Running(told.target(receiver)):
        await told.fail(2)
        await receiver.until(2)
    path = told.folder / "ops.json"
    async with Running(told.target(receiver)):
        before = path.read_bytes()
        await told.fail(1)
        await receiver.until(3)
    await told.fail(2)
    path.write_bytes(before)  # as a kill leaves it that came before the writing
    async with Running(told.target(receiver)):
        await receiver.until(6)
    seqs = [n.seq for n in receiver.got]
    assert seqs[2] == seqs[3]
    assert receiver.got[2].id == receiver.got[3].id
    assert sorted(set(seqs)) == [s for n, s in enumerate(seqs) if n != 3]
    assert len(set(seqs)) == 5


async def test_a_target_that_began_with_an_empty_log_is_told_from_its_beginning(
    tmp_path,
):
    told, receiver = Told(tmp_path), Receiver()
    stop = asyncio.Event()
    began = asyncio.create_task(deliver_all([told.target(receiver)], stop))
    async with asyncio.timeout(60):
        while read_served(told.folder, "ops") is None:
            await asyncio.sleep(0.01)
    stop.set()
    await began
    told.history.elect(1)
    told.history.join("h1")
    await told.fail(2)
    async with Running(told.target(receiver)):
        await receiver.until(2)
    assert [n.seq for n in receiver.got] == sorted(n.seq for n in receiver.got)


async def test_one_that_never_answers_holds_up_nobody_else(told):
    deaf, other = Receiver(), Receiver()
    deaf.hangs = True
    async with Running(told.target(deaf, "deaf"), told.target(other, "other")):
        await told.fail(5)
        await other.until(5)
    assert deaf.got == []
    assert (await _waiting(told, "deaf"), await _waiting(told, "other")) == (5, 0)
    cured = Receiver()
    async with Running(told.target(cured, "deaf")):
        await cured.until(5)
    assert [n.seq for n in cured.got] == [n.seq for n in other.got]


async def _waiting(told, target: str) -> int:
    kept = read_served(told.folder, target)
    assert kept is not None
    return kept.waiting


async def test_what_did_not_count_is_not_told(told):
    receiver = Receiver()
    async with Running(told.target(receiver)):
        task = told.history.submit("moved away")
        route = told.history.route(task)
        told.history.start(route)
        told.history.requeue(route, "host lost")
        other = told.history.route(task, "h2", attempt=2)
        told.history.start(other)
        told.history.fail(route)
        await told.store()
        await told.fail(1)
        await receiver.until(1)
    assert receiver.got[0].task.description == "task 0"


async def test_a_target_that_is_given_up_lets_the_next_one_have_its_turn(told):
    receiver = Receiver()
    receiver.fails = 3
    deliveries = told.target(receiver)
    deliveries._target = NotifyTarget(
        name="ops",
        url="https://x",
        secret_env="S",
        longest_pause_s=0.01,
        give_up_s=1e-9,
    )
    async with Running(deliveries):
        await told.fail(5)
        await receiver.until(2)
    assert len(receiver.got) == 2
    assert deliveries.served.given_up == 3


async def test_no_secret_is_in_what_is_sent_or_written_down(told):
    receiver = Receiver()
    async with Running(told.target(receiver)):
        await told.fail(1)
        await receiver.until(1)
    written = (told.folder / "ops.json").read_text() + encode(receiver.got[0]).decode()
    for secret in ("https://x", "secret"):
        assert secret not in written


# -- what the documents say ----------------------------------------------------------------


def block(document: str, language: str) -> str:
    """The first block of a language in a document."""
    text = (DOCS / document).read_text()
    return text.partition(f"```{language}\n")[2].partition("```")[0]


def test_the_documented_rules_are_read():
    config = parse(block("notifications.md", "toml"))
    assert [target.name for target in config.target] == ["ops", "phone"]
    assert config.rules_for("phone")[1].label == ["team=search"]


def test_the_documented_receiver_believes_what_is_signed_and_nothing_else():
    said: dict = {}
    exec(block("notifications.md", "python"), said)
    secret, body = "a-secret-of-32-characters-0123456", b'{"type": "test"}'
    headers = {
        "webhook-id": "D1",
        "webhook-timestamp": "1700000000",
        "webhook-signature": signature(secret.encode(), "D1", 1_700_000_000, body),
    }
    assert said["is_genuine"](headers, body, secret)
    assert not said["is_genuine"](headers, body + b" ", secret)
    assert not said["is_genuine"]({**headers, "webhook-id": "D2"}, body, secret)


def test_the_documented_notice_has_the_fields_of_one():
    shown = json.loads(block("notifications.md", "json"))
    assert set(shown) == set(Notice.__struct_fields__)
    assert set(shown["task"]) == set(TaskSaid.__struct_fields__)


def test_the_documented_host_offers_delegation():
    from sidecar import config
    from sidecar.executors.claude.command import ClaudeOptions, runs_commands

    claude = config.parse(block("delegation.md", "toml")).claude
    assert claude.delegate
    assert runs_commands(ClaudeOptions(allowed_tools=tuple(claude.allowed_tools)))


# -- Apprise --------------------------------------------------------------------------------


async def test_without_the_extra_an_apprise_target_says_which_one_it_needs(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DeliveryFailed, match=r"pip install 'agentcom\[notify\]'"):
        ByApprise("ntfy://topic", 1.0)


async def test_apprise_is_given_the_sentence_and_its_no_is_a_failure(monkeypatch):
    sent = []

    class Fake:
        def add(self, url: str) -> bool:
            return url.startswith("ntfy://")

        async def async_notify(self, **said: str) -> bool:
            sent.append(said)
            return len(sent) == 1

    module = types.SimpleNamespace(Apprise=Fake)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: module)
    monkeypatch.setitem(sys.modules, "apprise", module)
    with pytest.raises(DeliveryFailed, match="know such an address"):
        ByApprise("nonsense://x", 1.0)
    sender = ByApprise("ntfy://topic", 1.0)
    notice = trial_notice("phone", "", "1")
    await sender.send(notice)
    assert sent == [{"title": "AgentCom: test", "body": notice.text}]
    with pytest.raises(DeliveryFailed, match="could not send it"):
        await sender.send(notice)
