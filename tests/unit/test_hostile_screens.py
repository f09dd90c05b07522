"""Whatever an object is called, a screen only shows it, and a spreadsheet does not take it for a formula."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime

import pytest
from rich.console import Console, RenderableType

from sts_manager.cli import views
from sts_manager.doctor.finding import failed
from sts_manager.domain.model import FailedObject, PrefixJob
from sts_manager.domain.names import Prefix
from sts_manager.ports import HistoryRow

KEY = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m\u202e[red]=HYPERLINK(1)\nx"


def drawn(what: RenderableType) -> str:
    out = io.StringIO()
    Console(file=out, width=400, force_terminal=False).print(what)
    return out.getvalue()


def failures(key: str) -> tuple[FailedObject, ...]:
    one = FailedObject(
        prefix=Prefix("p/"), key=key, size=1, etag="e", verdict="failed", error="mismatch", details=f"not {key}", job_name="j"
    )
    return (one,)


@pytest.mark.parametrize(
    "screen",
    [
        lambda: views.answer_table(views.failures_answer(failures(KEY)), "title"),
        lambda: views.finding_line(failed("prefix p/", f"for example {KEY}", f"rename {KEY}")),
        lambda: views.history_table(
            "p/",
            [
                HistoryRow(
                    job=PrefixJob(prefix=Prefix("p/"), error_code="X", error_message=KEY),
                    timestamp=datetime.now(UTC),
                    operation_results="",
                )
            ],
        ),
    ],
)
def test_no_screen_obeys_a_key(screen: object) -> None:
    told = drawn(screen())  # type: ignore[operator]
    assert "HYPERLINK" in told, "it is shown"
    assert all(line.isprintable() for line in told.splitlines()), told


def test_comma_separated_values_hold_no_command_and_no_formula() -> None:
    for key in ("=HYPERLINK(1)", "+1", "-1", "@x", KEY):
        (text,) = [*csv.DictReader(views.answer_csv(views.failures_answer(failures(key))))]
        shown = text["key"]
        assert shown.isprintable()
        assert not shown.startswith(("=", "+", "-", "@"))
    (plain,) = [*csv.DictReader(views.answer_csv(views.failures_answer(failures("a/b=c,d"))))]
    assert plain["key"] == "a/b=c,d"
    assert plain["size"] == "1"
