"""The pages that are made from the code are the code's."""

from __future__ import annotations

import re

import pytest

from docs.pages import FAMILIES, FOLDER, PAGES
from events import catalogue as c

ROOT = FOLDER.parent


@pytest.mark.parametrize("name", PAGES)
def test_a_committed_page_is_current(name):
    committed = (FOLDER / name).read_text(encoding="utf-8")
    assert committed == PAGES[name](), "run `make docs` and commit docs/"


def test_whatever_the_docs_name_is_there():
    pages = [ROOT / "nats.conf", *ROOT.glob("*.md"), *FOLDER.glob("*.md")]
    lost = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        files = re.findall(r"(?<![\w/.])(?:\w+/)+\w+\.(?:py|js|jsx|conf|toml)\b", text)
        links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text)
        ours = [file for file in files if (ROOT / file.split("/")[0]).is_dir()]
        places = [*(ROOT / file for file in ours), *(page.parent / ln for ln in links)]
        lost += [(page.name, str(p)) for p in places if not p.exists()]
    assert lost == []


def test_every_event_stands_in_exactly_one_family():
    for tag, kind in c.types().items():
        assert sum(issubclass(kind, base) for _, base, _, _ in FAMILIES) == 1, tag
        assert f"### `{tag}`" in PAGES["events.md"]()
