"""Every statement that ships, analysed by Google's own GoogleSQL analyzer over the tables as they are made."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from zetasql.api import Analyzer, CatalogBuilder, TableBuilder
from zetasql.api.type_factory import TypeFactory
from zetasql.core.exceptions import ServerError
from zetasql.types import AnalyzerOptions, LanguageOptions, TypeKind, ZetaSQLBuiltinFunctionOptions

from sts_manager.stores.bigquery.statements import (
    BEGIN,
    COMMIT,
    CONTROL_COLUMNS,
    FAILURE,
    FAILURE_COLUMNS,
    HISTORY_COLUMNS,
    JOB_COLUMNS,
    OBJECT_COLUMNS,
    ROW,
    STAGED_COLUMNS,
    STATE,
    Columns,
    Names,
    add_staged,
    clashes,
    statements,
)
from sts_manager.stores.queries import for_tables, texts

NAMES = Names(project="some-project", dataset="data_migration", location="US", job="sts_job", history="sts_job_history")
STAGED = "sts_job_load_0123"
SAY = statements(NAMES)
QUERIES = {
    f"query {name}": for_tables(text, *(f"`{NAMES.full(one)}`" for one in (NAMES.job, NAMES.history, NAMES.failure)))
    for name, text in texts().items()
}
TEXTS = SAY.texts() | {
    "add_staged": add_staged(NAMES, STAGED),
    "clashes": clashes(NAMES, STAGED),
    "begin": BEGIN,
    "commit": COMMIT,
}
KINDS = {"STRING": TypeKind.TYPE_STRING, "INT64": TypeKind.TYPE_INT64, "TIMESTAMP": TypeKind.TYPE_TIMESTAMP}
SCALARS = (
    dict.fromkeys(("now", "at", "too_far"), "TIMESTAMP")
    | dict.fromkeys(("number", "fence", "in_pool", "in_service"), "INT64")
    | dict.fromkeys(("prefix", "status", "write_id", "old", "new", "route", "counted", "empty"), "STRING")
)


def parameters() -> dict[str, Any]:
    def simple(kind: str) -> Any:
        return TypeFactory.create_simple_type(KINDS[kind])

    def rows(columns: Columns) -> Any:
        fields = [(name, simple(kind)) for name, kind in columns.items()]
        return TypeFactory.create_array_type(TypeFactory.create_struct_type(fields))

    found = {name: simple(kind) for name, kind in SCALARS.items()}
    return found | {
        "names": TypeFactory.create_array_type(simple("STRING")),
        "rows": rows(ROW),
        "state": rows(STATE),
        "failures": rows(FAILURE),
    }


def analyzer_of(tables: Mapping[str, Columns]) -> Analyzer:
    language = LanguageOptions.maximum_features()
    builder = CatalogBuilder("bigquery")
    for name, columns in tables.items():
        table = TableBuilder(name)
        for column, kind in columns.items():
            table.add_column(column, KINDS[kind])
        builder.add_table(table.build())
    catalog = builder.with_builtin_functions(ZetaSQLBuiltinFunctionOptions(language_options=language)).build()
    given = [AnalyzerOptions.QueryParameter(name=name, type=kind) for name, kind in parameters().items()]
    return Analyzer(AnalyzerOptions(language_options=language, query_parameters=given), catalog)


@pytest.fixture(scope="session")
def analyzed() -> Callable[[str], str]:
    analyzer = analyzer_of(
        {
            NAMES.full(NAMES.job): JOB_COLUMNS,
            NAMES.full(NAMES.history): HISTORY_COLUMNS,
            NAMES.full(NAMES.failure): FAILURE_COLUMNS,
            NAMES.full(NAMES.object): OBJECT_COLUMNS,
            NAMES.full(NAMES.control): CONTROL_COLUMNS,
            NAMES.full(STAGED): STAGED_COLUMNS,
        }
    )
    return lambda text: type(analyzer.analyze_statement(text)).__name__


KIND_OF = {
    "SELECT": "ResolvedQueryStmt",
    "WITH": "ResolvedQueryStmt",
    "MERGE": "ResolvedMergeStmt",
    "UPDATE": "ResolvedUpdateStmt",
    "INSERT": "ResolvedInsertStmt",
    "DELETE": "ResolvedDeleteStmt",
    "BEGIN": "ResolvedBeginStmt",
    "COMMIT": "ResolvedCommitStmt",
}


@pytest.mark.parametrize("name", [*TEXTS, *QUERIES])
def test_every_statement_that_ships_is_googlesql(analyzed: Callable[[str], str], name: str) -> None:
    text = (TEXTS | QUERIES)[name]
    text = re.sub(r"^--.*\n", "", text)
    assert analyzed(text) == KIND_OF[text.split(maxsplit=1)[0]]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SAY.counts.replace("COUNT(*)", "COUNT(nope)"), "Unrecognized name: nope"),
        (SAY.totals.replace("SUM(objects_found)", "SUM(status)"), "No matching signature"),
        (SAY.job.replace("@prefix", "@at"), "No matching signature"),
        (SAY.live.replace("ORDER BY", "ORDER"), "Syntax error"),
    ],
)
def test_the_analyzer_refuses_what_is_wrong(analyzed: Callable[[str], str], text: str, told: str) -> None:
    with pytest.raises(ServerError, match=told):
        analyzed(text)


def test_no_statement_carries_a_value_in_its_text() -> None:
    known = re.compile(
        r"'(waiting|running|paused|done|error|lease|source|cdn|\$\.epoch|transferOperations/|transferJobs/adopted|)'"
    )
    for name, text in TEXTS.items():
        if name not in ("adopt_rows", "retry_older"):  # they fill in constants of ours
            assert "'" not in known.sub("", text), name
