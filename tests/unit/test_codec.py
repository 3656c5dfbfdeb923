"""The codec: what can be said comes back the same; what cannot is named precisely."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from events import catalogue as c
from events import codec
from events import commands as m
from events.codec import Reader, decode_event, encode, instant, rfc3339
from events.errors import Malformed
from events.mail import Drain, HostMail
from tests.golden.make_events import golden_lines
from tests.support.strategies import JSON, TEXTS, structs, values

DEEP = b"[" * 100_000 + b"]" * 100_000
HEAD = b'"id":"E1","at":"2026-01-01T00:00:00.000000Z","by":"x"'

submit = Reader(m.Submit)
batch = Reader(m.SubmitBatch)
mail = Reader(HostMail)


def complaint(reader: Reader, raw: bytes) -> str:
    with pytest.raises(Malformed) as error:
        reader.decode(raw)
    return str(error.value)


# -- round trips -----------------------------------------------------------------------


@pytest.mark.parametrize("tag", sorted(c.types()))
def test_every_event_comes_back_as_it_was(tag):
    @given(structs(c.types()[tag]))
    def round_trip(event):
        raw = encode(event)
        assert decode_event(raw) == event
        assert json.loads(raw)["type"] == tag

    round_trip()


@pytest.mark.parametrize(
    "kind", [m.Submit, m.SubmitBatch, m.CancelTask, m.SetPolicy, c.Beat, c.Chunk]
)
def test_every_message_comes_back_as_it_was(kind):
    reader = Reader(kind)

    @given(values(kind))
    def round_trip(message):
        assert reader.decode(encode(message)) == message

    round_trip()


@given(values(HostMail))
def test_mail_comes_back_as_it_was(message):
    assert mail.decode(encode(message)) == message


def test_mail_may_say_more_than_an_older_host_knows():
    assert mail.decode(b'{"type":"drain","tomorrow":[1]}') == Drain()


@given(st.binary(max_size=200))
@example(b"")
@example(b"null")
@example(DEEP)
@example(b'{"type":"task.deferred.v1",' + HEAD + b',"task_id":"t","reason":' + DEEP)
@example(b'{"type":"new.v1","x":' + DEEP + b"}")
def test_bytes_are_an_event_or_malformed_and_nothing_else(raw):
    for read in (decode_event, submit.decode, mail.decode):
        with suppress(Malformed):
            read(raw)


@given(JSON)
def test_json_is_an_event_or_malformed_and_nothing_else(value):
    raw = encode(value)
    for read in (decode_event, submit.decode, batch.decode, mail.decode):
        with pytest.raises(Malformed):
            read(raw)


# -- precise errors --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (
            b'{"description":"x","file_hints":[{"path":1}]}',
            "file_hints[0].path: expected text, got 1",
        ),
        (b'{"description":"x","nope":1}', "nope: unknown field"),
        (
            b'{"description":"x","shell":{"command":"x","cmd":1}}',
            "shell.cmd: unknown field; did you mean cwd?",
        ),
        (b"{}", "description: expected a value, got none"),
        (b'{"description":1}', "description: expected text, got 1"),
        (
            b'{"description":""}',
            "description: expected at least 1 character, got 0",
        ),
        (
            b'{"description":"x","tier":"huge"}',
            "tier: expected one of complex, standard, trivial, unknown, got 'huge'",
        ),
        (
            b'{"description":"x","assign_to":"a.b"}',
            "assign_to: expected 1 to 64 letters, digits, '_' or '-', got 'a.b'",
        ),
        (
            b'{"description":"x","needs":["gpu","h1\\n"]}',
            "needs[1]: expected 1 to 64 letters, digits, '_' or '-', got 'h1\\u000a'",
        ),
        (
            b'{"description":"x","max_attempts":true}',
            "max_attempts: expected a whole number, got true",
        ),
        (
            b'{"description":"x","max_attempts":%s}' % (b"9" * 30),
            "max_attempts: expected at most 100, got 999999999999999999999999999999",
        ),
        (
            b'{"description":"x","metadata":{"n":%s}}' % (b"9" * 5_000),
            "metadata[...]: expected a number that fits, got one out of range",
        ),
        (
            b'{"description":"x","ttl_s":1e999}',
            "ttl_s: expected a number that fits, got one out of range",
        ),
        (
            b'{"description":"x","metadata":[]}',
            "metadata: expected an object, got a list",
        ),
        (b"[]", "expected an object, got a list"),
        (b"null", "expected an object, got null"),
        (
            b'{"description":"\xff"}',
            "expected JSON in UTF-8, got bytes that are not (invalid start byte)",
        ),
        (
            b'{"description":"\xed\xa0\x80"}',
            "expected JSON in UTF-8, got bytes that are not (invalid continuation byte)",
        ),
        (
            b'{"description":"x","metadata":{"a":%s}}' % DEEP,
            "expected JSON of a reasonable depth, got one nested too deeply",
        ),
    ],
)
def test_an_error_names_place_expectation_and_what_came(raw, said):
    assert complaint(submit, raw) == said


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b'{"description":"x"} and more',
        b'{"description":NaN}',
        b'{"description":"x","metadata":{"n":NaN}}',
        b'{"description":"x","metadata":{"n":-Infinity}}',
        b'{"description":"\\ud800"}',
        b'{"description":"\\udc00\\ud800"}',
        b'{"description":"x","metadata":{"\\ud800":1}}',
        b"\xef\xbb\xbf{}",
        b"\x00",
        b"'x'",
    ],
)
def test_what_is_no_json_is_said_to_be_none(raw):
    assert complaint(submit, raw).startswith("expected JSON, got something else (")


def test_an_error_inside_a_batch_names_the_task():
    raw = b'{"tasks":[{"description":"x"},{"description":"y","file_hints":[{"path":[]}]}]}'
    assert (
        complaint(batch, raw)
        == "tasks[1].file_hints[0].path: expected text, got a list"
    )


def test_a_choice_inside_a_batch_names_the_choices():
    assert complaint(batch, b'{"tasks":[{"description":"x","priority":"asap"}]}') == (
        "tasks[0].priority: expected one of high, low, normal, urgent, got 'asap'"
    )


def test_a_field_s_name_cannot_pass_for_a_place():
    assert (
        complaint(submit, b'{"description":"x","a - at `$.b`":1}')
        == "a - at `$.b`: unknown field"
    )


@pytest.mark.parametrize(
    "raw",
    [
        b'{"description":"x","tier":"%s"}' % (b"q" * 900_000),
        b'{"description":"x","%s":1}' % (b"q" * 900_000),
        b'{"type":"%s"}' % (b"q" * 900_000),
    ],
)
def test_an_error_does_not_repeat_what_is_long(raw):
    assert len(complaint(submit, raw)) < 300


def test_mail_of_no_known_kind_is_named():
    assert (
        complaint(mail, b'{"type":"sing"}')
        == "type: expected one of assign, cancel, drain, resume, rejoin, evict, endpoints, "
        "inspect, got 'sing'; did you mean assign?"
    )
    assert complaint(mail, b"{}") == "type: expected a value, got none"


# -- tags ------------------------------------------------------------------------------


def test_an_unknown_tag_is_kept_as_it_came():
    event = decode_event(b'{"type":"task.blessed.v7",' + HEAD + b',"x":[1]}')
    assert isinstance(event, c.Unknown)
    assert (c.tag(event), event.id, event.body["x"]) == ("task.blessed.v7", "E1", [1])


def test_an_unknown_tag_s_odd_head_is_read_as_empty():
    event = decode_event(b'{"type":"x.y.v1","id":1,"by":null}')
    assert isinstance(event, c.Unknown)
    assert (event.id, event.at, event.by) == ("", "", "")


def test_a_known_tag_with_a_wrong_body_is_malformed_and_not_unknown():
    with pytest.raises(Malformed, match=r"^task_id: expected a value, got none$"):
        decode_event(b'{"type":"task.deferred.v1",' + HEAD + b"}")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        (
            "limited_until",
            '"soon"',
            "limited_until: expected an RFC 3339 time such as '2026-01-31T18:00:00Z', got 'soon'",
        ),
        (
            "limited_until",
            '"2026-02-30T00:00:00Z"',
            "limited_until: expected an RFC 3339 time such as '2026-01-31T18:00:00Z', got '2026-02-30T00:00:00Z'",
        ),
        (
            "generation",
            str(2**63),
            "generation: expected at most 9,223,372,036,854,775,807, got 9223372036854775808",
        ),
        (
            "result",
            '{"status":"failed","tokens_in":-1}',
            "result.tokens_in: expected at least 0, got -1",
        ),
        (
            "result",
            '{"status":"failed","estimated_cost_usd":1e300}',
            "result.estimated_cost_usd: expected at most 1000000.0, got 1e+300",
        ),
    ],
)
def test_what_no_reader_could_reckon_with_is_no_event(field, value, said):
    fields = {
        "task_id": '"t"',
        "host": '"h"',
        "route": '"r"',
        "generation": "1",
        "attempt": "1",
        "incarnation": '"i"',
        "reason": '"limited"',
        field: value,
    }
    body = ",".join(f'"{name}":{text}' for name, text in fields.items()).encode()
    with pytest.raises(Malformed) as error:
        decode_event(b'{"type":"task.returned.v1",' + HEAD + b"," + body + b"}")
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b'{"type":"cancel","epoch":1,"task_id":"a.b"}', "task_id"),
        (b'{"type":"cancel","epoch":1,"task_id":"t","route":"*"}', "route"),
        (b'{"type":"drain","epoch":%d}' % 2**64, "epoch"),
        (b'{"type":"drain","epoch":-1}', "epoch"),
    ],
)
def test_mail_names_only_what_a_host_may_put_into_a_subject_or_on_its_disk(raw, path):
    with pytest.raises(Malformed) as error:
        mail.decode(raw)
    assert error.value.path == path


def test_fields_of_a_later_version_are_passed_over():
    event = decode_event(
        b'{"type":"task.deferred.v1",' + HEAD + b',"task_id":"t","reason":"r","new":{}}'
    )
    assert event == c.TaskDeferred(
        id="E1", at="2026-01-01T00:00:00.000000Z", by="x", task_id="t", reason="r"
    )


def test_an_old_tag_is_read_through_its_upcasters_one_after_the_other(monkeypatch):
    monkeypatch.setitem(
        codec.UPCASTERS,
        "task.parked.v1",
        lambda body: {**body, "type": "task.parked.v2", "because": body["why"]},
    )
    monkeypatch.setitem(
        codec.UPCASTERS,
        "task.parked.v2",
        lambda body: {**body, "type": "task.deferred.v1", "reason": body["because"]},
    )
    event = decode_event(
        b'{"type":"task.parked.v1",' + HEAD + b',"task_id":"t","why":"no gpu"}'
    )
    assert isinstance(event, c.TaskDeferred)
    assert event.reason == "no gpu"


@pytest.mark.parametrize(
    ("code", "reason", "cause"),
    [
        (None, None, None),
        (None, "standard is not set up", "absent"),
        (None, "standard was down for 5.0 s", "down"),
        (None, "every standard endpoint failed on it (o1, o2)", "failed"),
        (None, "nothing in standard met its needs for 5.0 s", "unmet"),
        (None, "the moon was full", None),
        ("down", "the moon was full", "down"),
        ("failed", "standard is not set up", "failed"),
    ],
)
def test_a_fallback_s_code_is_read_from_the_old_sentences_where_none_was_stored(
    code, reason, cause
):
    line = next(line for line in golden_lines() if b"task.routed.v1" in line)
    body = json.loads(line) | {"fallback_code": code, "fallback_reason": reason}
    assert codec.fallback_code(decode_event(encode(body))) == cause


def test_upcasters_that_lead_in_a_circle_end_in_an_unknown_tag(monkeypatch):
    for one, other in (("a.v1", "a.v2"), ("a.v2", "a.v1")):
        monkeypatch.setitem(
            codec.UPCASTERS, one, lambda body, tag=other: {**body, "type": tag}
        )
    assert isinstance(decode_event(b'{"type":"a.v1"}'), c.Unknown)


def test_what_an_upcaster_makes_is_checked_too(monkeypatch):
    monkeypatch.setitem(
        codec.UPCASTERS, "a.v1", lambda body: {**body, "type": "task.deferred.v1"}
    )
    with pytest.raises(Malformed, match=r"^id: expected a value, got none$"):
        decode_event(b'{"type":"a.v1"}')


def test_an_upcaster_that_cannot_cope_makes_the_event_malformed(monkeypatch):
    monkeypatch.setitem(
        codec.UPCASTERS, "a.v1", lambda body: {**body, "type": body["was"]}
    )
    with pytest.raises(Malformed, match=r"^expected a a\.v1, got something else$"):
        decode_event(b'{"type":"a.v1"}')


def test_every_tag_says_its_version_and_no_two_are_the_same():
    tags = [str(kind.__struct_config__.tag) for kind in c.AnyEvent.__args__]
    assert len(set(tags)) == len(tags)
    assert all(tag.rpartition(".v")[2].isdigit() for tag in tags)


# -- instants --------------------------------------------------------------------------


@given(st.integers(0, 253_402_300_799_000_000))
def test_an_instant_is_spelled_with_microseconds_and_read_back(microseconds):
    now = microseconds / 1_000_000
    spelled = rfc3339(now)
    assert spelled[-8] == "." and spelled.endswith("Z")  # noqa: PT018
    assert abs(instant(spelled) - now) < 1e-4


@pytest.mark.parametrize("micro", ["12345x", "1234_6", "-12345", "12345²", "     1"])
def test_a_second_that_was_read_before_excuses_nothing_behind_it(micro):
    assert instant("2026-01-31T18:00:00.250000Z") == 1769882400.25
    with pytest.raises(Malformed):
        instant(f"2026-01-31T18:00:00.{micro}Z")


def test_instants_agree_with_the_calendar():
    assert rfc3339(1_767_225_600.25) == "2026-01-01T00:00:00.250000Z"
    assert (
        instant("2026-01-01T01:30:00+01:00")
        == datetime(2026, 1, 1, 0, 30, tzinfo=UTC).timestamp()
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-01-01",
        "20260101T000000Z",
        "2026-W01-1T00:00Z",
        "2026-01-01T00Z",
    ],
)
def test_what_is_no_rfc_3339_time_is_refused(text):
    with pytest.raises(Malformed, match=r"^deadline: expected a"):
        instant(text, "deadline")


@given(TEXTS)
def test_text_is_an_instant_or_malformed(text):
    with suppress(Malformed):
        instant(text)


def test_the_cache_of_seconds_does_not_grow():
    for second in islice(range(1_000_000_000, 2_000_000_000), 500):
        rfc3339(float(second))
    assert len(codec._seconds) <= 65
