"""The pages that are made from the code are the code's."""

from __future__ import annotations

import pytest

from docs.pages import FAMILIES, FOLDER, PAGES
from events import catalogue as c


@pytest.mark.parametrize("name", PAGES)
def test_a_committed_page_is_current(name):
    committed = (FOLDER / name).read_text(encoding="utf-8")
    assert committed == PAGES[name](), "run `make docs` and commit docs/"


def test_every_event_stands_in_exactly_one_family():
    for tag, kind in c.types().items():
        assert sum(issubclass(kind, base) for _, base, _, _ in FAMILIES) == 1, tag
        assert f"### `{tag}`" in PAGES["events.md"]()
