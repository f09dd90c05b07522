"""Objects whose names end in `/`: no manifest may name them, so the lister copies them itself.

"Folder names without a file or object name are not supported" (Storage Transfer Service, "Transfer specific files or objects
using a manifest"). Consoles make such objects as markers of folders; mostly they are empty.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice

from cdn_worker.domain.verdict import GOOD, KeyVerdict, Verdict
from cdn_worker.object_copy import copied
from cdn_worker.object_copy.commands import Command, Outcome, Task, Way
from cdn_worker.protocol.url_list_jobs import Moved, Row

AT_ONCE = 16
"""Bodies in memory: an object is read whole up to `copying.steps.BUFFER_MAX`."""

Walk = Generator[Command, Outcome, None]


def is_folder(key: str) -> bool:
    return key.endswith("/")


def copy_folders(
    rows: Iterator[Row],
    way: Way,
    play: Callable[[Iterable[Walk]], Walk],
    settle: Callable[[Sequence[Moved], Sequence[tuple[Row, KeyVerdict]]], None],
) -> Generator[Command, Outcome, bool]:
    """Copy what no manifest may name; whether all of it is at the sink now, or gone from the source.

    rows     what is missing at the sink; others than folders are passed over
    play     plays some walks at once, to their ends
    settle   records what is there now, and what could not be copied and why
    """
    folders = (row for row in rows if is_folder(row.key))
    complete = True
    while some := list(islice(folders, AT_ONCE)):
        verdicts: list[tuple[Row, KeyVerdict]] = []
        yield from play(_copy(row, way, verdicts) for row in some)
        settle(
            [Moved(row, verdict.verified) for row, verdict in verdicts if verdict.verdict in GOOD],
            [(row, verdict) for row, verdict in verdicts if verdict.verdict not in GOOD],
        )
        complete = complete and all(one.verdict in (*GOOD, Verdict.VANISHED) for _, one in verdicts)
    return complete


def _copy(row: Row, way: Way, verdicts: list[tuple[Row, KeyVerdict]]) -> Walk:
    task = Task(row.key, row.size, row.etag, row.modified, row.generation)
    verdicts.append((row, (yield from copied(task, way))))
