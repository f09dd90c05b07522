"""Two rows of a migration may not write the same names at the destination: the later one would replace what the other brought.

Prefixes never overlap, so only rows with a destination of their own can do that. Where there are none, nothing is read.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from sts_manager.domain.collisions import Target, find_collision, target
from sts_manager.domain.errors import BadInput
from sts_manager.domain.location import Place, place
from sts_manager.domain.model import Chosen
from sts_manager.domain.names import Prefix
from sts_manager.ports import JobStore


def refuse_shared_names(
    store: JobStore,
    destination: Place | None,
    prefixes: Sequence[Prefix] = (),
    chosen: Mapping[Prefix, Chosen] = MappingProxyType({}),
) -> None:
    """Raises BadInput that names the first two rows that would write the same names.

    destination   of rows that have none of their own; None where it is not known: then those are not looked at
    prefixes, chosen   rows that are about to be loaded, sorted, and what they have of their own; a stored row stays as it is
    """
    own = dict(store.own_destinations())
    wanted = {prefix: one.destination for prefix, one in chosen.items() if one.destination and prefix not in own}
    if not own and not wanted:
        return
    if wanted:
        stored = {prefix for prefix in store.prefixes() if prefix in wanted}
        own |= {prefix: text for prefix, text in wanted.items() if prefix not in stored}
    targets: list[Iterator[Target]] = [iter(sorted(target(prefix, place(text)) for prefix, text in own.items()))]
    if destination is not None:
        targets.append(_rest(store.prefixes(), prefixes, own, destination))
    found = find_collision(heapq.merge(*targets))
    if found is None:
        return
    one, other = (f"{each.prefix!r} (to {_shown(each, own, destination)})" for each in found)
    wide = found[0]
    raise BadInput(
        f"{one} and {other} would write the same names, under gs://{wide.bucket}/{wide.under}: what one brings, the other would "
        "replace. Give one of them another destination in the prefix file; a row that is loaded keeps its own, so load into "
        "another --store if the wrong one is in the table"
    )


def _rest(stored: Iterator[Prefix], loaded: Sequence[Prefix], own: Mapping[Prefix, str], destination: Place) -> Iterator[Target]:
    """Rows without a destination of their own, each once, in the order of their names."""
    last = None
    for prefix in heapq.merge(stored, loaded):
        if prefix != last and prefix not in own:
            yield target(prefix, destination)
        last = prefix


def _shown(one: Target, own: Mapping[Prefix, str], destination: Place | None) -> str:
    return own.get(one.prefix) or f"{destination}, as all rows without a destination of their own"
