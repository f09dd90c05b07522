"""What a probe shows: each row as it comes, then what contradicts, in one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from sts_manager.cli.views import plain
from sts_manager.doctor.probe.observation import Observation, Outcome, Report, hide

COLOURS = {
    Outcome.AGREES: "green",
    Outcome.CONTRADICTS: "bold red",
    Outcome.NOTED: "yellow",
    Outcome.UNSETTLED: "bold yellow",
    Outcome.LEFT_OUT: "dim",
}


def progress_line(event: Observation | str) -> RenderableType:
    """A row when it is made; or a line about what is removed."""
    if isinstance(event, str):
        return plain(event, style="dim")
    return Text.assemble((f"{event.outcome.value:<14}", COLOURS[event.outcome]), event.subject)


def table(report: Report) -> RenderableType:
    """Every row that was looked at: what was assumed, what was observed, what it means."""
    shown = Table(title=f"probe {report.probe}", show_lines=True, expand=True)
    for name, ratio in (("subject", 2), ("assumed", 3), ("observed", 4), ("what it means for you", 3)):
        shown.add_column(name, ratio=ratio, overflow="fold")
    for row in report.observations:
        if row.outcome is not Outcome.LEFT_OUT:
            subject = Text.assemble(row.subject, "\n", (row.outcome.value, COLOURS[row.outcome]))
            shown.add_row(subject, plain(row.assumed), plain(hide(row.observed)), plain(row.meaning))
    return shown


def left_out(report: Report) -> Iterator[str]:
    """The rows that were not looked at, and why."""
    for row in report.observations:
        if row.outcome is Outcome.LEFT_OUT:
            yield f"{row.subject}: {row.observed}"


def summary(report: Report) -> str:
    counts = Counter(row.outcome for row in report.observations)
    return ", ".join(f"{counts[outcome]:,} {outcome.value}" for outcome in Outcome)
