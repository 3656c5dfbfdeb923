"""One filter: which tasks it means, what it refuses; costs by label and submitter."""

from __future__ import annotations

import time

import pytest

from actors.gateway.validate import check
from events import catalogue as c
from events.codec import instant
from events.errors import Malformed
from events.filters import TaskFilter, label_of, timed
from projections import questions as q
from projections import search
from projections.runner import Runner
from projections.store import Store
from tests.support.fakes import MemoryLog
from tests.support.histories import History, tell


def a_day() -> History:
    """A day's tasks, each called by what it is there for."""
    history = History()
    history.join("h1")
    for name, labels in (
        ("search done", {"team": "search", "env": "prod"}),
        ("ads done", {"team": "ads"}),
        ("plain failed", {}),
        ("search failed", {"team": "search"}),
    ):
        route = history.route(history.submit(name, labels=labels))
        history.start(route)
        if "done" in name:
            history.complete(route, usd=1.0)
        else:
            error = c.RunError("timeout", "nothing came for 60 s")
            history.fail(route, usd=0.5, error=error)
        history.now += 3_600
    history.submit("waits for h9", assign_to="h9", labels={"team": "search.x"})
    history.submit("waits for a GPU", needs=["gpu"], model="llama4")
    history.submit("waits for a tag", model="qwen3:latest")
    return history


async def looked(history: History, *questions):
    log, store = MemoryLog(), Store()
    runner = Runner(log, store)
    await runner.start()
    assert await runner.wait_for(await tell(log, history.recorded), 60)
    runner.save()
    found = [await store.look(question) for question in questions]
    await runner.stop()
    return found


DONE, ADS, PLAIN, SEARCH = "search done", "ads done", "plain failed", "search failed"
H9, GPU, TAGGED = "waits for h9", "waits for a GPU", "waits for a tag"


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, [DONE, ADS, PLAIN, SEARCH, H9, GPU, TAGGED]),
        ({"label": ["team=search"]}, [DONE, SEARCH]),
        ({"label": ["team=search", "env"]}, [DONE]),
        ({"label": ["team"]}, [DONE, ADS, SEARCH, H9]),
        ({"label": ["tea"]}, []),
        ({"label": ["search=prod"]}, []),
        ({"state": ["failed"], "label": ["team=search"]}, [SEARCH]),
        ({"error_code": "timeout"}, [PLAIN, SEARCH]),
        ({"error": "timeout"}, [PLAIN, SEARCH]),
        ({"error": "CAME FOR"}, [PLAIN, SEARCH]),
        ({"error_code": "came"}, []),
        ({"host": "h9"}, [H9]),
        ({"host": "h1", "state": ["completed"]}, [DONE, ADS]),
        ({"model": "llama4"}, [GPU]),
        ({"model": "qwen3"}, [TAGGED]),
        ({"model": "qwen3:latest"}, [TAGGED]),
        ({"model": "qwen"}, []),
        ({"need": "gpu"}, [GPU]),
        ({"need": "gp"}, []),
        ({"submitter": "alice", "text": "ads"}, [ADS]),
        ({"submitter": "bob"}, []),
        ({"text": "nothing came"}, [PLAIN, SEARCH]),
    ],
)
async def test_each_field_narrows_the_choice(filters, names):
    page = search.TaskPage(sort="submitted", **filters)
    ((total, records, _),) = await looked(a_day(), search.tasks(page))
    assert [record.description for record in records] == names
    assert total == len(names)


async def test_a_time_is_of_the_end_and_of_the_submission_while_it_is_not_over():
    history = a_day()
    ended = {
        each.event.task_id: each.event.at
        for each in history.recorded
        if isinstance(each.event, c.TaskFailed)
    }
    first, last = ended.values()
    pages = [
        search.TaskPage(sort="submitted", since=first),
        search.TaskPage(sort="submitted", since=first, until=last),
        search.TaskPage(sort="submitted", until=first[:10]),
    ]
    answers = await looked(history, *map(search.tasks, pages))
    found = [[record.description for record in page.tasks] for page in answers]
    assert found == [[PLAIN, SEARCH, H9, GPU, TAGGED], [PLAIN], []]


async def test_costs_are_summed_by_label_and_by_submitter():
    by_team, by_person, of_search = await looked(
        a_day(),
        search.costs("label:team"),
        search.costs("submitter"),
        search.costs("model", label=["team=search"]),
    )
    assert {line.key: (line.runs, line.cost_usd) for line in by_team} == {
        "search": (2, 1.5),
        "ads": (1, 1.0),
        "": (1, 0.5),
    }
    assert [(line.key, line.cost_usd) for line in by_person] == [("alice", 3.0)]
    assert [line.cost_usd for line in of_search] == [1.5]


async def test_a_line_of_costs_is_taken_apart_again():
    history = a_day()
    (lines, from_noon) = await looked(
        history,
        search.costs("label:team", stack="label:env"),
        search.costs("model", since="2026-01-02T00:00:00+23:00"),
    )
    assert {(line.key, line.part): line.cost_usd for line in lines} == {
        ("search", "prod"): 1.0,
        ("search", ""): 0.5,
        ("ads", ""): 1.0,
        ("", ""): 0.5,
    }
    first = history.recorded[0].event.at
    assert first < "2026-01-01T01"
    assert sum(line.runs for line in from_noon) == 3
    with pytest.raises(Malformed) as refused:
        search.costs("model", stack="nothing")
    assert refused.value.path == "stack"


async def test_what_a_command_is_for_comes_page_by_page_with_where_each_stands():
    history = a_day()
    chosen = TaskFilter(label=["team"])
    early = next(r.seq for r in history.recorded if isinstance(r.event, c.TaskFailed))
    (everything, first, early_ones) = await looked(
        history,
        search.meant(chosen, until_seq=None, limit=10),
        search.meant(chosen, until_seq=None, limit=3),
        search.meant(chosen, until_seq=early, limit=10),
    )
    assert everything[0] == first[0] == 4
    assert [each.id for each in first[1]] == [each.id for each in everything[1]][:3]
    assert early_ones[0] == 2
    last_of = {
        each.subject: each.seq
        for each in history.recorded
        if each.subject.startswith("agentcom.evt.task.")
    }
    for each in everything[1]:
        assert each.own_seq == last_of[f"agentcom.evt.task.{each.id}"]


@pytest.mark.parametrize(
    ("filters", "place"),
    [
        ({"label": ["Team=x"]}, "label[0]"),
        ({"label": ["a=b", "a=b=c"]}, "label[1]"),
        ({"label": ["a="]}, "label[0]"),
        ({"since": "yesterday"}, "since"),
        ({"until": "2026-01-01T00:00:00"}, "until"),
    ],
)
def test_a_filter_that_means_nothing_is_refused_by_its_place(filters, place):
    with pytest.raises(Malformed) as refused:
        search.tasks(search.TaskPage(**filters))
    assert refused.value.path == place


@pytest.mark.parametrize("by", ["modle", "label:", "label:Team", "label", ""])
def test_an_unknown_dimension_is_refused(by):
    with pytest.raises(Malformed) as refused:
        search.costs(by)
    assert refused.value.path == "by"
    assert "label:KEY" in refused.value.expected


@pytest.mark.parametrize(
    "labels",
    [
        {"Team": "x"},
        {"team": "X"},
        {"team": ""},
        {"": "x"},
        {"team": "a b"},
        {"team": 'a"b'},
        {"team": "ü"},
        {"k" * 64: "v"},
        {f"k{n}": "v" for n in range(33)},
    ],
)
def test_labels_that_are_none_are_refused_by_their_place(labels):
    with pytest.raises(Malformed) as refused:
        check(c.TaskSpec(description="x", labels=labels), now=0.0)
    assert refused.value.path.startswith("labels")


def test_a_label_is_a_key_with_a_value_or_alone():
    assert label_of("team=search/eu-1.x_y") == ("team", "search/eu-1.x_y")
    assert label_of("team") == ("team", None)


async def test_a_short_id_is_no_other_tasks_beginning():
    history = History()
    same = "01JGFJJZ00A7C9E1G3J5M7P"
    ids = [
        f"{same}9R1",
        f"{same}9R2",
        "01JGXXXXXXXXXXXXXXXXXXXXXX",
        "ZZZZ0000000000000000000000",
    ]
    for task_id in ids:
        history.submit("x", task_id=task_id)
    (short,) = await looked(history, search.short_ids(ids))
    assert short == {
        ids[0]: ids[0],
        ids[1]: ids[1],
        ids[2]: "01JGXXXX",
        ids[3]: "ZZZZ0000",
    }


NOW = instant("2026-11-27T22:39:52.5Z")


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("", ""),
        ("2h", "2026-11-27T20:39:52.500000Z"),
        ("7d", "2026-11-20T22:39:52.500000Z"),
        ("today", "2026-11-27T00:00:00.000000Z"),
        ("Yesterday", "2026-11-26T00:00:00.000000Z"),
        ("2026-01-31", "2026-01-31T00:00:00.000000Z"),
        ("2026-01-31T09", "2026-01-31T09:00:00.000000Z"),
        ("2026-01-31T18:00:00+01:00", "2026-01-31T17:00:00.000000Z"),
    ],
)
def test_a_point_of_time_over_http_and_nats_goes_by_the_server_s_clock_in_utc(
    said, meant, monkeypatch
):
    monkeypatch.setenv("TZ", "XXX-11")  # whatever zone the server is in
    time.tzset()
    try:
        asked = timed(q.AskCosts(since=said, until=said), NOW)
        chosen = timed(q.AskMeant(filter=TaskFilter(since=said)), NOW).filter
        then = timed(q.AskThen(at=said), NOW)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert (asked.since, asked.until, chosen.since, then.at) == (meant,) * 4
    assert timed(q.AskWhatIf(policy={}, since=7, until=said), NOW).until == meant


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("yesterdayish", "2h, 7d, today, yesterday, 2026-01-31, or an RFC 3339 time"),
        ("2026-13-01", "2h, 7d, today, yesterday, 2026-01-31, or an RFC 3339 time"),
        ("2026-01-31T18:00:00", "a time with its zone"),
    ],
)
def test_an_unusable_one_names_the_field_and_the_forms(said, expected):
    with pytest.raises(Malformed) as refused:
        timed(q.AskCosts(until=said), NOW)
    assert str(refused.value) == f"until: expected {expected}, got '{said}'"
