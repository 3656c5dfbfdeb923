"""Which host may work on a repository: one that has a checkout, or may clone it.

A repository is named by the name that hosts have for it, or by a URL; a URL's forms are
one. What may be cloned is for the host's operator to say, as beginnings of URLs.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from events.errors import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

SCHEMES: Final = ("https", "http", "ssh")
_PLAIN_PATH: Final = re.compile(r"/[A-Za-z0-9._~+/-]+")
_PLAIN_HOST: Final = re.compile(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]")


def plain_repo(repo: str) -> str:
    """Return one form for all of a repository's URLs; a plain name stays as it is."""
    plain = repo.strip().rstrip("/").removesuffix(".git")
    if "://" in plain:
        _, _, plain = plain.partition("://")
        host, slash, path = plain.partition("/")
        return f"{host.rpartition('@')[2].lower()}{slash}{path}"
    host, colon, path = plain.partition(":")
    if colon and "/" not in host:
        return f"{host.rpartition('@')[2].lower()}/{path}"
    return plain


def url_problem(url: str) -> str:
    """Say what is wrong with a URL to clone from, "" where nothing is.

    It names a server and a path and nothing else: no password, no query, no step upward,
    no character that a shell, git or a server could read as something else, and no
    transport that runs a program (`ext::`) or reads this machine (`file://`).
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        return "it does not begin with https://, http:// or ssh://"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "it is no URL"
    authority, _, _ = rest.partition("/")
    user, at, host = authority.rpartition("@")
    if at and not (scheme == "ssh" and re.fullmatch(r"[A-Za-z0-9_.]+", user)):
        return "it names a user or password"
    if port is not None:
        host = host.rpartition(":")[0]
    if not _PLAIN_HOST.fullmatch(host) or host.startswith("-"):
        return "its server is no plain name or address"
    path = rest[len(authority) :]
    steps = path.split("/")[1:]
    if not _PLAIN_PATH.fullmatch(path) or any(
        step in (".", "..") or step.startswith("-") for step in steps
    ):
        return "its path holds more than letters, digits and . _ ~ + -"
    return ""


def may_clone(repo: str, allowed: Iterable[str]) -> bool:
    """Whether a URL lies under one of the beginnings, at the end of a name of its path."""
    if url_problem(repo):
        return False
    scheme, _, rest = repo.partition("://")
    whole = f"{scheme}://{rest.rstrip('/')}/"
    return any(whole.startswith(f"{each.rstrip('/')}/") for each in allowed)


def unknown_repo(repo: str, known: Collection[str]) -> tuple[str, str]:
    """Return what was expected and what came, for a repository that no host has."""
    names = sorted(known)
    some = ", ".join(names[:20]) or "none: [repos] in a sidecar.toml names them"
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    near = get_close_matches(repo, names, n=1, cutoff=0.6)
    hint = f"; did you mean {shown(near[0])}?" if near else ""
    return (
        f"a repository that a host of the fleet has ({some}{more}) or may clone",
        f"{shown(repo[:200])}{hint}",
    )
