"""Rows that would write the same names: each prefix is kept under its destination, and no name may have two sources. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from sts_manager.domain.location import Place
from sts_manager.domain.names import Prefix


class Target(NamedTuple):
    """Where the objects of a row go: all names of a bucket that begin with `under`. Sorts as those names do."""

    bucket: str
    under: str
    prefix: Prefix


def target(prefix: Prefix, destination: Place) -> Target:
    """The names that a row writes: the destination's path, then the key, which begins with the prefix."""
    return Target(destination.bucket, destination.path + prefix, prefix)


def find_collision(targets: Iterable[Target]) -> tuple[Target, Target] | None:
    """The first two of sorted targets of which one has all names of the other, the wider one first.

    Neighbours are enough: what stands between a text and a longer one that begins with it begins with it, too.
    """
    for wide, narrow in pairwise(targets):
        if wide.bucket == narrow.bucket and narrow.under.startswith(wide.under):
            return wide, narrow
    return None
