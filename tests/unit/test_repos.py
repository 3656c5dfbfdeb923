"""Names of repositories: one form for a URL's many, and what may be cloned."""

from __future__ import annotations

import pytest

from actors.rules.repos import may_clone, plain_repo, unknown_repo, url_problem

ALLOWED = ["https://git.example.org/team", "ssh://git@git.example.org/team/"]


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example.org/team/tool",
        "https://git.example.org/team/tool.git",
        "https://git.example.org/team/sub/tool/",
        "ssh://git@git.example.org/team/tool",
    ],
)
def test_what_lies_under_a_beginning_may_be_cloned(url):
    assert url_problem(url) == ""
    assert may_clone(url, ALLOWED)


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example.org/team-evil/tool",
        "https://git.example.org/teamtool",
        "https://git.example.org/other/tool",
        "https://git.example.org/team/../other/tool",
        "https://git.example.org/team/./x",
        "https://git.example.org/team/%2e%2e/other",
        "https://git.example.org/team/tool?x=1",
        "https://git.example.org/team/tool#x",
        "https://git.example.org/team/-x",
        "https://git.example.org/team/a b",
        "https://git.example.org/team/tool\n",
        "https://git.example.org/team/\u202etool",
        "https://git.example.org@evil.example/team/tool",
        "https://user:pass@git.example.org/team/tool",
        "https://git.example.org:99999/team/tool",
        "https://git.example.org:x/team/tool",
        "http://git.example.org/team/tool",
        "HTTPS://git.example.org/team/tool",
        "ssh://-oProxyCommand=x/team/tool",
        "ssh://git@-oProxyCommand=x/team/tool",
        "ext::sh -c id% >&2",
        "ext::https://git.example.org/team/tool",
        "file:///git.example.org/team/tool",
        "git://git.example.org/team/tool",
        "git@git.example.org:team/tool",
        "--upload-pack=id",
        "-u id https://git.example.org/team/tool",
        "/srv/team/tool",
        "team/tool",
        "shop",
        "https://",
        "https:///team/tool",
        "https://[::1/team/tool",
        "",
    ],
)
def test_nothing_else_may(url):
    assert not may_clone(url, [*ALLOWED, "ssh://", "ssh://git@"])


def test_without_a_list_nothing_may_be_cloned():
    assert not may_clone("https://git.example.org/team/tool", [])


def test_a_name_that_is_near_is_named():
    expected, got = unknown_repo("shpo", ["blog", "shop"])
    assert "blog, shop" in expected
    assert got == "'shpo'; did you mean 'shop'?"
    assert unknown_repo("x", [])[0].count("none") == 1
    assert "[repos] in a sidecar.toml" in unknown_repo("x", [])[0]
    assert "[repos]" not in expected


def test_a_url_has_one_form():
    assert plain_repo("git@Git.example.org:a/b.git") == "git.example.org/a/b"
    assert plain_repo("https://u@GIT.example.org/a/b/") == "git.example.org/a/b"
    assert plain_repo("shop") == "shop"
