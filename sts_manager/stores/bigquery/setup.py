"""Opening a BigQuery dataset as a store, making what is missing, and taking over the older tool's tables in place.

What is to be done is first found out as steps, each with its sentence, and only then carried out: `--dry-run` prints
the sentences. Every step is safe to repeat.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from google.cloud import bigquery

from sts_manager.domain.errors import BadInput, StoreNotPrepared, StoreTooNew
from sts_manager.domain.model import JobStatus
from sts_manager.stores.bigquery.client import ONCE, Gone, Parameter, Warehouse
from sts_manager.stores.bigquery.statements import (
    BEGIN,
    COMMIT,
    CONTROL_COLUMNS,
    FAILURE_COLUMNS,
    HISTORY_COLUMNS,
    JOB_COLUMNS,
    OBJECT_COLUMNS,
    REQUIRED,
    STATE,
    Columns,
    statements,
)
from sts_manager.stores.bigquery.store import BigQueryStore
from sts_manager.stores.rows import SCHEMA_VERSION

DUPLICATES_NAMED = 5
_SAME = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL"}


@dataclass(frozen=True, slots=True)
class Step:
    """Something `prepare-tables` does: the sentence for the operator, and the deed."""

    says: str
    does: Callable[[], object]


@dataclass(frozen=True, slots=True)
class _Layout:
    """A table as it should be."""

    name: str
    columns: Columns
    clustered: Sequence[str] = ()
    by_day: str = ""


@dataclass(slots=True)
class _Found:
    """What stands in the dataset. `version`: None without a job table, 0 for the older tool's tables."""

    dataset: bool = False
    tables: dict[str, bigquery.Table] = field(default_factory=dict)
    version: int | None = None


def open_store(warehouse: Warehouse) -> BigQueryStore:
    """A store over a prepared dataset.

    Raises StoreNotPrepared for what `prepare-tables` would mend, StoreTooNew, BadInput for another location, a column of
    another type or duplicate prefixes, StoreUnavailable when BigQuery does not answer or refuses.
    """
    names = warehouse.names
    found = _look(warehouse)
    if not found.dataset:
        raise StoreNotPrepared(f"there is no dataset {names.shown}; run `sts-manager prepare-tables` with the same --store first")
    if found.version == 0:
        raise StoreNotPrepared(
            f"{names.shown} holds the older tool's tables: stop that tool, then run `sts-manager prepare-tables`, which takes "
            "them over without losing a row (--dry-run tells what it would do)"
        )
    steps = _table_steps(warehouse, found)
    if found.version is None or steps:
        lacks = steps[0].says if steps else f"create the table {names.job}"
        raise StoreNotPrepared(f"{names.shown} is not prepared; `sts-manager prepare-tables` would {lacks}")
    _no_duplicates(warehouse)
    return BigQueryStore(warehouse)


def preparation(warehouse: Warehouse, *, keep_errors: bool = False) -> list[Step]:
    """The steps that make the dataset fit, none when it is. Raises as `open_store` does, but for StoreNotPrepared.

    keep_errors: what ended in error under the older tool stays so; else it waits to be tried again, as that tool did.
    """
    names = warehouse.names
    found = _look(warehouse)
    steps: list[Step] = []
    if not found.dataset:
        steps.append(Step(f"create the dataset {names.project}.{names.dataset} in {names.location}", partial(_create, warehouse)))
    steps += _table_steps(warehouse, found)
    if names.job in found.tables:
        _no_duplicates(warehouse)
    if found.version == 0:
        steps.append(Step(_adoption(warehouse, keep_errors=keep_errors), partial(_adopt, warehouse, keep_errors=keep_errors)))
    elif found.version is not None and found.version < SCHEMA_VERSION:
        says = f"write schema version {SCHEMA_VERSION}: older versions of this program then refuse the dataset"
        steps.append(Step(says, partial(_write_version, warehouse)))
    elif found.version is None:
        steps.append(Step("write the schema version and the migration's id", partial(_adopt, warehouse, older=False)))
    return steps


def _look(warehouse: Warehouse) -> _Found:
    names, client, found = warehouse.names, warehouse.client, _Found()
    try:
        dataset = warehouse.again(
            "look at the dataset", lambda: client.get_dataset(f"{names.project}.{names.dataset}", retry=ONCE, timeout=30)
        )
    except Gone:
        return found
    if dataset.location.lower() != names.location.lower():
        raise BadInput(
            f"the dataset {names.project}.{names.dataset} is in {dataset.location}, but --dataset-location says "
            f"{names.location}; give --dataset-location {dataset.location}"
        )
    found.dataset = True
    for name in (names.job, names.history, names.control, names.failure, names.object):
        try:
            get = partial(client.get_table, names.full(name), retry=ONCE, timeout=30)
            found.tables[name] = warehouse.again("look at a table", get)
        except Gone:
            continue
    found.version = _version(warehouse, found)
    if found.version is not None and found.version > SCHEMA_VERSION:
        raise StoreTooNew(
            f"{names.shown} has schema version {found.version}; this program knows up to {SCHEMA_VERSION}: "
            "upgrade it, or use the store it belongs to"
        )
    for layout in _layouts(warehouse):
        if layout.name in found.tables:
            _check_types(warehouse, found.tables[layout.name], layout)
    return found


def _version(warehouse: Warehouse, found: _Found) -> int | None:
    names = warehouse.names
    stored: Mapping[str, str] = {}
    if names.control in found.tables:
        stored = {row["key"]: row["value"] for row in warehouse.read(statements(names).control)}
    if "schema_version" in stored:
        return int(stored["schema_version"])
    if names.job not in found.tables:
        return None
    if not any(column.name == "generation" for column in found.tables[names.job].schema):
        return 0
    (row,) = warehouse.read(statements(names).versioned)
    if row["number"]:
        # A new migration id would give every transfer job a new name: what runs would be started a second time.
        raise BadInput(
            f"{names.full(names.job)} has rows of this program, but {names.full(names.control)} with the migration's id is gone; "
            f"bring it back: bq cp {names.project}:{names.dataset}.{names.control}@-3600000 "
            f"{names.project}:{names.dataset}.{names.control} (as it was an hour ago; up to seven days back)"
        )
    # Such a table was being made, or taken over, when something cut it short.
    return 0 if int(found.tables[names.job].num_rows or 0) else None


def _layouts(warehouse: Warehouse) -> tuple[_Layout, ...]:
    names = warehouse.names
    return (
        _Layout(names.job, JOB_COLUMNS, ("status", "prefix")),
        _Layout(names.history, HISTORY_COLUMNS, ("prefix",), "timestamp"),
        _Layout(names.control, CONTROL_COLUMNS),
        _Layout(names.failure, FAILURE_COLUMNS, ("prefix",)),
        _Layout(names.object, OBJECT_COLUMNS, ("prefix", "key"), "seen_at"),
    )


def _check_types(warehouse: Warehouse, table: bigquery.Table, layout: _Layout) -> None:
    for column in table.schema:
        wanted = layout.columns.get(column.name)
        kind = _SAME.get(column.field_type, column.field_type)
        if wanted is not None and (kind != wanted or column.mode == "REPEATED"):
            raise BadInput(
                f"{warehouse.names.full(layout.name)}: the column {column.name} is {column.mode} {column.field_type}, and must "
                f"be {wanted}; rename it, or name another table with --job-table or --job-history-table"
            )
    missing = [name for name in ("prefix", "status") if name in layout.columns]
    names = {column.name for column in table.schema}
    if missing and not names.issuperset(missing):
        raise BadInput(
            f"{warehouse.names.full(layout.name)} has no column {min(set(missing) - names)}: it is no table of this program or "
            "of the older tool; name another with --job-table or --job-history-table"
        )


def _table_steps(warehouse: Warehouse, found: _Found) -> list[Step]:
    steps = []
    for layout in _layouts(warehouse):
        table = found.tables.get(layout.name)
        if table is None:
            steps.append(Step(f"create the table {layout.name}", partial(_create_table, warehouse, layout)))
            continue
        present = {column.name for column in table.schema}
        lacking = [name for name in layout.columns if name not in present]
        if lacking:
            says = f"add {len(lacking)} columns to {layout.name}: {', '.join(lacking)}"
            steps.append(Step(says, partial(_add_columns, warehouse, layout)))
        if layout.clustered and not table.clustering_fields:
            says = f"cluster {layout.name} by {', '.join(layout.clustered)}"
            steps.append(Step(says, partial(_cluster, warehouse, layout)))
    return steps


def _create(warehouse: Warehouse) -> None:
    names = warehouse.names
    dataset = bigquery.Dataset(f"{names.project}.{names.dataset}")
    dataset.location = names.location
    create = partial(warehouse.client.create_dataset, dataset, exists_ok=True, retry=ONCE, timeout=30)
    warehouse.again("create the dataset", create)


def _create_table(warehouse: Warehouse, layout: _Layout) -> None:
    table = bigquery.Table(
        warehouse.names.full(layout.name),
        schema=[
            bigquery.SchemaField(name, kind, mode="REQUIRED" if name in REQUIRED else "NULLABLE")
            for name, kind in layout.columns.items()
        ],
    )
    if layout.clustered:
        table.clustering_fields = list(layout.clustered)
    if layout.by_day:
        table.time_partitioning = bigquery.TimePartitioning(field=layout.by_day)
    create = partial(warehouse.client.create_table, table, exists_ok=True, retry=ONCE, timeout=30)
    warehouse.again("create a table", create)


def _add_columns(warehouse: Warehouse, layout: _Layout) -> None:
    client = warehouse.client

    def add() -> None:
        # Read anew each time: the etag makes an update fail that would undo another one.
        table = client.get_table(warehouse.names.full(layout.name), retry=ONCE, timeout=30)
        present = {column.name for column in table.schema}
        new = [bigquery.SchemaField(name, kind) for name, kind in layout.columns.items() if name not in present]
        table.schema = [*table.schema, *new]
        client.update_table(table, ["schema"], retry=ONCE, timeout=30)

    warehouse.again("add columns", add)


def _cluster(warehouse: Warehouse, layout: _Layout) -> None:
    client = warehouse.client

    def cluster() -> None:
        table = client.get_table(warehouse.names.full(layout.name), retry=ONCE, timeout=30)
        table.clustering_fields = list(layout.clustered)
        client.update_table(table, ["clustering_fields"], retry=ONCE, timeout=30)

    warehouse.again("cluster a table", cluster)


def _adoption(warehouse: Warehouse, *, keep_errors: bool) -> str:
    rows = list(warehouse.read(statements(warehouse.names).older_rows))
    for row in rows:
        if row["status"] not in list(JobStatus):
            table = warehouse.names.full(warehouse.names.job)
            raise BadInput(
                f"{table} has {row['number']:,} rows with the status {row['status']!r}; give them one of "
                f"{', '.join(JobStatus)} (waiting starts them) and repeat"
            )
    counts = ", ".join(f"{row['number']:,} {row['status']}" for row in rows) or "no rows"
    live = sum(row["with_operation"] for row in rows if row["status"] in ("running", "paused"))
    wrong = sum(row["number"] for row in rows if row["status"] == JobStatus.ERROR)
    if keep_errors:
        told = f"the {wrong:,} in error stay so, until `retry --errors`"
    else:
        told = f"the {wrong:,} in error wait to be tried again, as that tool did (--keep-older-errors leaves them)"
    return (
        f"take over the older tool's rows ({counts}): operation names move from job_name to operation_name; {live:,} live "
        f"operations are watched to their end, and nothing that runs or is done is started again; {told}"
    )


def _adopt(warehouse: Warehouse, *, older: bool = True, keep_errors: bool = False) -> None:
    say = statements(warehouse.names)
    state = [
        {"key": "schema_version", "value": str(SCHEMA_VERSION)},
        {"key": "migration", "value": secrets.token_hex(4)},
    ]
    # One transaction with the version: whatever happens, rows are taken over once and wholly.
    adopting = [say.adopt_rows, *([] if keep_errors else [say.retry_older]), say.adopt_history] if older else []
    steps = [BEGIN, *adopting, say.merge_state, COMMIT, say.control]
    given = {"state": Parameter(STATE, state), "fence": Parameter("INT64", None)}
    warehouse.write(";\n".join(steps), given)


def _write_version(warehouse: Warehouse) -> None:
    state = [{"key": "schema_version", "value": str(SCHEMA_VERSION)}]
    given = {"state": Parameter(STATE, state), "fence": Parameter("INT64", None)}
    warehouse.write(statements(warehouse.names).merge_state, given)


def _no_duplicates(warehouse: Warehouse) -> None:
    given = {"number": Parameter("INT64", DUPLICATES_NAMED)}
    rows = list(warehouse.read(statements(warehouse.names).duplicates, given))
    if rows:
        named = ", ".join(f"{row['prefix']!r} ({row['number']} rows)" for row in rows)
        table = warehouse.names.full(warehouse.names.job)
        raise BadInput(
            f"{table} has prefixes in more than one row: {named}. Each would be moved twice; keep one row of each "
            f"(SELECT * FROM `{table}` WHERE prefix = …) and repeat"
        )
