"""Options and choices that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Final, get_args

import click

from events import catalogue as c

TIERS: Final[tuple[str, ...]] = get_args(c.Tier)
PRIORITIES: Final[tuple[str, ...]] = get_args(c.Priority)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

store_option = click.option(
    "--store",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file of the read models  [default: projections.db in the data folder]",
)
