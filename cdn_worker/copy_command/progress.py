"""What a copy shows while it runs, and at its end. Sizes in bytes, KiB, MiB…; times as hours, minutes, seconds."""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cdn_worker.domain.verdict import GOOD, Summary, Tally, Verdict
from cdn_worker.logs import visible

LINE_EVERY_S = 10.0
WINDOW_S = 30.0
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def sized(count: float) -> str:
    """A number of bytes, for a person."""
    unit = 0
    while count >= 1024 and unit < len(UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:,.0f} {UNITS[unit]}" if unit == 0 else f"{count:,.1f} {UNITS[unit]}"


def spent(seconds: float) -> str:
    """A duration, for a person."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {whole % 60:02} s" if minutes else f"{whole} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run is. `listing`: whether the listing goes on, so that the totals still grow."""

    listed: int
    bytes_listed: int
    listing: bool
    tally: Tally
    in_flight: int
    restarts: int


class Screen:
    """On a terminal a table that is drawn again; elsewhere a line now and then."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._console = Console(file=self._stream, highlight=False)
        self._live: Live | None = None
        self._began = time.monotonic()
        self._seen: deque[tuple[float, int, int]] = deque()
        self._next_line = self._began + LINE_EVERY_S

    def __enter__(self) -> Self:
        if not self._quiet and self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        """To be called often; it draws when there is something to draw."""
        if self._quiet:
            return
        now = time.monotonic()
        summary = progress.tally.summary()
        objects, moved = summary.listed, sum(summary.bytes_by_verdict.values())
        self._seen.append((now, objects, moved))
        while self._seen[0][0] < now - WINDOW_S:
            self._seen.popleft()
        if self._live is not None:
            self._live.update(self._table(progress, summary, objects, moved))
        elif now >= self._next_line:
            self._next_line = now + LINE_EVERY_S
            rate, speed = self._rates()
            more = "+" if progress.listing else ""
            bad = summary.listed - sum(summary.verdicts[one] for one in GOOD)
            self.say(
                f"{objects:,} of {progress.listed:,}{more} objects, {sized(moved)} of {sized(progress.bytes_listed)}{more}; "
                f"{rate:,.0f} objects/s, {sized(speed)}/s; left: {self._left(progress, objects, moved)}; {bad:,} with errors"
            )

    def say(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self._console.print(visible(text, keep="\n"), markup=False, soft_wrap=True)

    def _rates(self) -> tuple[float, float]:
        (then, objects, moved), (now, objects_now, moved_now) = self._seen[0], self._seen[-1]
        passed = max(now - then, 1e-9)
        return (objects_now - objects) / passed, (moved_now - moved) / passed

    def _left(self, progress: Progress, objects: int, moved: int) -> str:
        if progress.listing:
            return "the listing goes on"
        rate, speed = self._rates()
        if rate <= 0:
            return "unknown"
        by_objects = (progress.listed - objects) / rate
        by_bytes = (progress.bytes_listed - moved) / speed if speed > 0 else 0.0
        return spent(max(by_objects, by_bytes))

    def _table(self, progress: Progress, summary: Summary, objects: int, moved: int) -> Table:
        rate, speed = self._rates()
        more = "+" if progress.listing else ""
        table = Table.grid(padding=(0, 2))
        table.add_row("objects", f"{objects:,} of {progress.listed:,}{more}", f"{rate:,.0f}/s")
        table.add_row("bytes", f"{sized(moved)} of {sized(progress.bytes_listed)}{more}", f"{sized(speed)}/s")
        table.add_row("time", spent(time.monotonic() - self._began), f"left: {self._left(progress, objects, moved)}")
        verdicts = ", ".join(f"{count:,} {verdict}" for verdict, count in summary.verdicts.items() if count)
        table.add_row("verdicts", verdicts or "none yet", f"{progress.in_flight:,} handed out")
        for error, count in sorted(summary.errors.items(), key=lambda one: -one[1])[:5]:
            table.add_row("error", error, f"{count:,}")
        if progress.restarts:
            table.add_row("restarts", f"{progress.restarts} processes died and were replaced", "")
        return table


def closing(summary: Summary, tally: Tally) -> str:
    """The last lines of a run: every verdict with its count and bytes, every error with an example."""
    lines = []
    for verdict in Verdict:
        count = summary.verdicts[verdict]
        if count or verdict in GOOD:
            lines.append(f"  {verdict.value:<11}{count:>14,}  {sized(summary.bytes_by_verdict[verdict]):>12}")
    for error, count in sorted(summary.errors.items(), key=lambda one: -one[1]):
        example = tally.samples[error]
        lines.append(f"  error {error}: {count:,}, as {example.key!r}: {example.details}")
    return "\n".join(lines)
