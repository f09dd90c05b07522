"""Statements: GoogleSQL read by sqlglot, its tables resolved, run by DuckDB; and what a statement costs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import sqlglot
from sqlglot import exp

from tools.emulators.bigquery.catalog import Catalog, Table
from tools.emulators.bigquery.partition_filter import check_partition_filter, partition_column
from tools.emulators.bigquery.rules import Refused, invalid, no_dataset
from tools.emulators.bigquery.values import DUCK, FIXED_BYTES, Parameter, field_of, scalar

MB = 1 << 20
TABLE_MINIMUM = 10 * MB
CHANGING = (exp.Update, exp.Delete, exp.Merge)
KINDS: dict[type[exp.Expression], str] = {
    exp.Select: "SELECT",
    exp.Union: "SELECT",
    exp.Insert: "INSERT",
    exp.Update: "UPDATE",
    exp.Delete: "DELETE",
    exp.Merge: "MERGE",
    exp.Transaction: "BEGIN_TRANSACTION",
    exp.Commit: "COMMIT_TRANSACTION",
    exp.Rollback: "ROLLBACK_TRANSACTION",
}


@dataclass
class Result:
    """What one statement gave: rows of a query, or how many rows it changed."""

    kind: str
    fields: list[dict[str, Any]] = field(default_factory=list)
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    affected: int | None = None
    billed: int = 0


@dataclass
class Statement:
    """A statement with its tables resolved: what it reads, what it changes (rows), and what it appends to."""

    tree: exp.Expression
    kind: str
    reads: dict[tuple[str, str], set[str] | None]
    changes: set[tuple[str, str]]
    appends: set[tuple[str, str]]

    @property
    def targets(self) -> set[tuple[str, str]]:
        return self.changes | self.appends


class Engine:
    """DuckDB in memory: a dataset is a schema. It is the caller who holds the lock."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.knows_project: Callable[[str], bool] = lambda _project: False
        self._duck = duckdb.connect(":memory:")
        self._duck.execute("SET TimeZone = 'UTC'; SET threads = 2; SET autoinstall_known_extensions = false")
        self._sizes: dict[tuple[str, str, str], tuple[int, int]] = {}

    # Tables

    def create_schema(self, dataset: str) -> None:
        self._duck.execute(f'CREATE SCHEMA "{dataset}"')

    def drop_schema(self, dataset: str) -> None:
        self._duck.execute(f'DROP SCHEMA "{dataset}" CASCADE')

    def create_table(self, dataset: str, name: str, fields: Sequence[Mapping[str, Any]]) -> None:
        # A table without columns is legal at the service; DuckDB wants one.
        columns = [_column(one) for one in fields] or ['"__none" BOOLEAN']
        self._duck.execute(f'CREATE TABLE "{dataset}"."{name}" ({", ".join(columns)})')

    def add_columns(self, dataset: str, name: str, fields: Iterable[Mapping[str, Any]]) -> None:
        for one in fields:
            self._duck.execute(f'ALTER TABLE "{dataset}"."{name}" ADD COLUMN {_column(one)}')

    def drop_table(self, dataset: str, name: str) -> None:
        self._duck.execute(f'DROP TABLE "{dataset}"."{name}"')

    def rows(self, dataset: str, name: str) -> int:
        found = self._duck.execute(f'SELECT count(*) FROM "{dataset}"."{name}"').fetchone()
        assert found is not None
        return int(found[0])

    def append(
        self, dataset: str, name: str, fields: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], *, truncate: bool
    ) -> None:
        """Rows of a load job or of insertAll, all or none; they are checked already."""
        quoted = f'"{dataset}"."{name}"'
        kinds = {one["name"]: DUCK[one["type"]] for one in fields}
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(row, default=str)}\n" for row in rows)
            file.flush()
            columns = ", ".join(f"\"{column}\": '{kind}'" for column, kind in kinds.items())
            names = ", ".join(f'"{column}"' for column in kinds)
            source = f"read_json('{file.name}', format='newline_delimited', columns={{{columns}}}, maximum_object_size=16777216)"
            self._duck.execute("BEGIN")
            try:
                if truncate:
                    self._duck.execute(f"DELETE FROM {quoted}")
                if rows:
                    self._duck.execute(f"INSERT INTO {quoted} ({names}) SELECT {names} FROM {source}")
                self._duck.execute("COMMIT")
            except duckdb.Error as error:
                self._duck.execute("ROLLBACK")
                raise invalid(str(error)) from error

    # Statements

    def parsed(self, text: str, dataset: str | None, *, filtered: bool = True) -> list[Statement]:
        """The statements of a script. Raises Refused for what cannot be read, and for tables that are not there.

        filtered: tables that require a filter by their partition column must have one.
        """
        try:
            trees = [tree for tree in sqlglot.parse(text, read="bigquery") if isinstance(tree, exp.Expression)]
        except sqlglot.errors.SqlglotError as error:
            raise Refused("invalidQuery", f"Syntax error: {error}") from error
        return [self._resolved(tree, dataset, filtered=filtered) for tree in trees]

    def _resolved(self, tree: exp.Expression, dataset: str | None, *, filtered: bool) -> Statement:
        kind = next((name for type_, name in KINDS.items() if isinstance(tree, type_)), "")
        if not kind:
            raise Refused("notImplemented", f"the stage models no {type(tree).__name__} statement: use the API for tables")
        common = {cte.alias for cte in tree.find_all(exp.CTE)}
        target = tree.args.get("this") if isinstance(tree, (exp.Insert, *CHANGING)) else None
        if isinstance(target, exp.Schema):
            target = target.this
        where: set[tuple[str, str]] = set()
        named = {one.name.lower() for one in tree.find_all(exp.Column, exp.Identifier)}
        # A count(*) reads no column; any other star reads all of them.
        whole = any(not isinstance(star.parent, exp.Count) for star in tree.find_all(exp.Star))
        reads: dict[tuple[str, str], set[str] | None] = {}
        for table in list(tree.find_all(exp.Table)):
            if not table.db and table.name in common:
                continue
            key = self._found(table, dataset)
            column = partition_column(self._catalog.table(*key).resource)
            if filtered and column is not None and not (table is target and isinstance(tree, exp.Insert)):
                check_partition_filter(table, column)
            if table is target:
                where.add(key)
                if not isinstance(tree, exp.Insert):
                    reads[key] = None
            elif key not in reads:
                reads[key] = None if whole else named
            table.set("catalog", None)
            table.set("db", exp.to_identifier(key[0], quoted=True))
            table.set("this", exp.to_identifier(key[1], quoted=True))
        changing = isinstance(tree, CHANGING)
        return Statement(tree, kind, reads, where if changing else set(), set() if changing else where)

    def _found(self, table: exp.Table, dataset: str | None) -> tuple[str, str]:
        project, home = table.catalog or self._catalog.project, table.db or dataset or ""
        if not home:
            raise invalid(f'Table "{table.name}" must be qualified with a dataset (e.g. dataset.table).')
        if project != self._catalog.project and self.knows_project(project):
            raise Refused(
                "notImplemented", f"the emulator suite models no query of project {self._catalog.project} over {project}"
            )
        if project != self._catalog.project:
            raise Refused("accessDenied", f"Access Denied: Project {project}: User does not have permission to query its tables.")
        if home not in self._catalog.datasets:
            raise no_dataset(project, home)
        self._catalog.table(home, table.name)
        return home, table.name

    def run(self, statement: Statement, given: Sequence[Parameter]) -> Result:
        """One statement. Raises Refused with DuckDB's words when it cannot be run."""
        known = {one.name: one for one in given}
        tree = statement.tree.copy()
        used = {}
        for node in list(tree.find_all(exp.Parameter, exp.Placeholder)):
            name = node.name
            if name not in known:
                raise Refused("invalidQuery", f"Query parameter '{name}' not found")
            one, placeholder = known[name], exp.Placeholder(this=name)
            nested = isinstance(one.value, (list, dict))
            # As JSON: DuckDB cannot tell the type of a list or record in which a field is always NULL.
            used[name] = json.dumps(one.value, default=str) if nested else one.value
            inner = exp.cast(placeholder, "JSON", dialect="duckdb") if nested else placeholder
            node.replace(exp.cast(inner, one.duck, dialect="duckdb"))
        for node in list(tree.find_all(exp.CurrentTimestamp)):
            node.replace(exp.cast(exp.CurrentTimestamp(), "TIMESTAMP", dialect="duckdb"))
        for kind in tree.find_all(exp.DataType):
            if kind.this == exp.DataType.Type.TIMESTAMPTZ:
                kind.set("this", exp.DataType.Type.TIMESTAMP)
        result = Result(statement.kind, billed=self._billed(statement))
        try:
            done = self._duck.execute(tree.sql("duckdb", identify=True), used or None)
            if statement.kind == "SELECT":
                result.fields = [field_of(name, kind) for name, kind, *_ in done.description or ()]
                result.rows = done.fetchall()
            elif statement.targets:
                found = done.fetchone()
                result.affected = int(found[0]) if found is not None else 0
        except duckdb.Error as error:
            raise Refused("invalidQuery", str(error).replace("\n", " ")) from error
        for key in statement.targets:
            self._catalog.table(*key).version += 1
        return result

    def begin(self) -> None:
        self._duck.execute("BEGIN")

    def commit(self) -> None:
        self._duck.execute("COMMIT")

    def rollback(self) -> None:
        self._duck.execute("ROLLBACK")

    # Costs

    def _billed(self, statement: Statement) -> int:
        """Bytes of the columns named in the statement, for each table it reads, at least 10 MB a table; no pruning."""
        total = 0
        for (dataset, name), columns in statement.reads.items():
            table = self._catalog.table(dataset, name)
            fields = [one for one in table.fields if columns is None or one["name"].lower() in columns]
            read = sum(self._size(dataset, name, table, one) for one in fields)
            total += max(TABLE_MINIMUM, -(-read // MB) * MB)
        return max(total, TABLE_MINIMUM) if statement.kind in ("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE") else 0

    def _size(self, dataset: str, name: str, table: Table, one: Mapping[str, Any]) -> int:
        key = (dataset, name, one["name"])
        kept = self._sizes.get(key)
        if kept is None or kept[0] != table.version:
            width = f'2 + strlen("{one["name"]}")' if one["type"] == "STRING" else str(FIXED_BYTES[one["type"]])
            found = self._duck.execute(f'SELECT sum({width}) FROM "{dataset}"."{name}" WHERE "{one["name"]}" IS NOT NULL')
            row = found.fetchone()
            kept = (table.version, int(row[0] or 0) if row is not None else 0)
            self._sizes[key] = kept
        return kept[1]


def checked_rows(
    table: str, fields: Sequence[Mapping[str, Any]], rows: Iterable[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    """Rows as a schema takes them, and (index, complaint) for those it does not."""
    known = {one["name"]: one for one in fields}
    required = [one["name"] for one in fields if one["mode"] == "REQUIRED"]
    good, bad = [], []
    for index, row in enumerate(rows):
        unknown = next((name for name in row if name not in known), None)
        missing = next((name for name in required if row.get(name) is None), None)
        if unknown is not None:
            bad.append((index, f"no such field: {unknown}."))
        elif missing is not None:
            bad.append((index, f"Missing required field: {missing}."))
        else:
            try:
                good.append({name: scalar(known[name]["type"], value) for name, value in row.items()})
            except Refused as refused:
                bad.append((index, f"{table}: {refused.message}"))
    return good, bad


def _column(one: Mapping[str, Any]) -> str:
    return f'"{one["name"]}" {DUCK[one["type"]]}{" NOT NULL" if one["mode"] == "REQUIRED" else ""}'
