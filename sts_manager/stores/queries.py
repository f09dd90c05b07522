"""The queries of docs/queries: GoogleSQL with the older tool's table names, for any dataset, and for SQLite.

They are written in what BigQuery and SQLite have in common; the few functions that differ are put in place here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sts_manager.domain.errors import BadInput

JOB, HISTORY = "`data_migration.sts_job`", "`data_migration.sts_job_history`"
FAILURE = "`data_migration.sts_job_failure`"
_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDERS = (_PACKAGE / "queries", _PACKAGE.parent / "docs" / "queries")
"""Inside an installed package, or in the source tree."""

_DAYS_AGO = re.compile(r"TIMESTAMP_SUB\(CURRENT_TIMESTAMP\(\), INTERVAL (\d+) DAY\)")
_SQLITE = (
    (_DAYS_AGO, r"datetime('now', '-\1 days')"),
    (re.compile(r"\bCURRENT_TIMESTAMP\(\)"), "datetime('now')"),
    (re.compile(r"\bFORMAT_TIMESTAMP\("), "strftime("),
    (re.compile(r"\bUNIX_SECONDS\("), "1 * strftime('%s', "),
    (re.compile(r"\bJSON_VALUE\("), "json_extract("),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query gave."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Asked(Protocol):
    """A store that can be asked one of the queries."""

    def ask(self, query: str, parameters: Mapping[str, str]) -> Answer:
        """Run a query of docs/queries. Raises BadInput where the store speaks another dialect."""
        ...


def texts() -> dict[str, str]:
    """The queries by name."""
    folder = next((one for one in _FOLDERS if one.is_dir()), _FOLDERS[0])
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.sql"))}


def text_of(name: str) -> str:
    """One query. Raises BadInput that lists the others."""
    known = texts()
    if name not in known:
        raise BadInput(f"there is no query {name!r}; there are {', '.join(known)}")
    return known[name]


def says(text: str) -> str:
    """The query's first comment: what it tells."""
    return text.partition("\n")[0].removeprefix("--").strip()


def wants(text: str) -> set[str]:
    """The names of a query's parameters."""
    return set(re.findall(r"@([a-z_]+)", text))


def for_tables(text: str, job: str, history: str, failure: str) -> str:
    """The query over these tables, given as they stand in SQL."""
    return text.replace(HISTORY, history).replace(FAILURE, failure).replace(JOB, job)


def for_sqlite(text: str) -> str:
    """The query in SQLite's words."""
    for pattern, replacement in _SQLITE:
        text = pattern.sub(replacement, text)
    return text
