"""Every statement that the BigQuery store sends, in GoogleSQL, and the columns of its tables.

Values are query parameters; only validated names of tables stand in the text. `tests/unit/test_googlesql.py` has each
statement analysed by Google's own analyzer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from sts_manager.domain.errors import BadInput
from sts_manager.stores.rows import ADOPTED, COUNTERS, OLDER_ERROR, OLDER_ERROR_MESSAGE

Columns = Mapping[str, str]
"""Column -> GoogleSQL type, in order."""

_PROJECT = re.compile(r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")
_DATASET = re.compile(r"[A-Za-z0-9_]{1,1024}")
_TABLE = re.compile(r"[A-Za-z0-9_-]{1,200}")

_ADDED: Columns = {
    "operation_name": "STRING",
    "route": "STRING",
    "source": "STRING",
    "destination": "STRING",
    "egress": "STRING",
    "project": "STRING",
    "lead": "STRING",
    "attempt": "INT64",
    "attempt_base": "INT64",
    "forgiven": "INT64",
    "not_before": "TIMESTAMP",
    "paused_by": "STRING",
    "error_code": "STRING",
    "error_message": "STRING",
    **dict.fromkeys(COUNTERS, "INT64"),
    "missing_count": "INT64",
    "missing_since": "TIMESTAMP",
    "started_at": "TIMESTAMP",
    "progress_at": "TIMESTAMP",
    "ended_at": "TIMESTAMP",
    "generation": "INT64",
    "write_id": "STRING",
}
JOB_COLUMNS: Columns = {"prefix": "STRING", "status": "STRING", "job_name": "STRING", "last_updated": "TIMESTAMP", **_ADDED}
HISTORY_COLUMNS: Columns = {
    "prefix": "STRING",
    "status": "STRING",
    "job_name": "STRING",
    "operation_results": "STRING",
    "timestamp": "TIMESTAMP",
    **_ADDED,
}
CONTROL_COLUMNS: Columns = {"key": "STRING", "value": "STRING"}
FAILURE_COLUMNS: Columns = {
    "prefix": "STRING",
    "key": "STRING",
    "size": "INT64",
    **dict.fromkeys(("etag", "verdict", "error", "details", "job_name"), "STRING"),
    "seen_at": "TIMESTAMP",
}
FAILURE: Columns = {name: kind for name, kind in FAILURE_COLUMNS.items() if name != "seen_at"}
"""A failed object, as an element of @failures."""
OBJECT_COLUMNS: Columns = {
    "prefix": "STRING",
    "key": "STRING",
    "size": "INT64",
    "etag": "STRING",
    "generation": "INT64",
    **dict.fromkeys(("crc32c", "verified", "verdict", "job_name"), "STRING"),
    "seen_at": "TIMESTAMP",
}
"""Appended to: of an object that was seen more than once the line with the latest `seen_at` counts."""
STAGED_COLUMNS: Columns = {"prefix": "STRING", "route": "STRING", "source": "STRING", "destination": "STRING", "egress": "STRING"}
REQUIRED = ("prefix", "status", "timestamp", "key", "value")

ROW: Columns = {
    name: kind
    for name, kind in {"operation_results": "STRING", **JOB_COLUMNS}.items()
    if name not in ("last_updated", "write_id")
}
"""A changed row, as an element of @rows."""
STATE: Columns = CONTROL_COLUMNS
"""A row of the control table, as an element of @state; a NULL value removes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Where the tables are. Raises BadInput for names that BigQuery would not take."""

    project: str
    dataset: str
    location: str
    job: str
    history: str

    def __post_init__(self) -> None:
        if not _PROJECT.fullmatch(self.project):
            raise BadInput(f"{self.project!r} is not a project's id: 6 to 30 lower-case letters, digits and '-'")
        if not _DATASET.fullmatch(self.dataset):
            raise BadInput(f"{self.dataset!r} is not a dataset's name: letters, digits and '_' only (BigQuery takes no '-')")
        for table in (self.job, self.history):
            if not _TABLE.fullmatch(table):
                raise BadInput(f"{table!r} is not a table's name: letters, digits, '_' and '-' only")

    @property
    def control(self) -> str:
        return f"{self.job}_control"

    @property
    def object(self) -> str:
        return f"{self.job}_object"

    @property
    def failure(self) -> str:
        return f"{self.job}_failure"

    def full(self, table: str) -> str:
        """As the API and the console write it."""
        return f"{self.project}.{self.dataset}.{table}"

    @property
    def shown(self) -> str:
        return f"bigquery://{self.project}/{self.dataset}"


@dataclass(frozen=True, slots=True)
class Statements:
    """The texts for one set of tables."""

    counts: str
    live: str
    startable: str
    job: str
    jobs_named: str
    with_status: str
    prefixes: str
    own_destinations: str
    own_places: str
    history: str
    forget_failures: str
    add_failures: str
    failures: str
    objects: str
    error_groups: str
    left_behind: str
    totals: str
    control: str
    duplicates: str
    merge_rows: str
    append_history: str
    merge_state: str
    written: str
    bind: str
    swap_lease: str
    versioned: str
    older_rows: str
    adopt_rows: str
    retry_older: str
    adopt_history: str

    def texts(self) -> dict[str, str]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


BEGIN, COMMIT = "BEGIN TRANSACTION", "COMMIT TRANSACTION"


def statements(names: Names) -> Statements:
    job, history, control, failure = (
        f"`{names.full(table)}`" for table in (names.job, names.history, names.control, names.failure)
    )
    # A daemon that lost its lease writes nothing: the epoch that stands in the lease is its fence.
    fenced = (
        f"(@fence IS NULL OR EXISTS (SELECT 1 FROM {control} AS c "
        "WHERE c.key = 'lease' AND CAST(JSON_VALUE(c.value, '$.epoch') AS INT64) = @fence))"
    )
    columns = _listed(JOB_COLUMNS)
    return Statements(
        counts=f"SELECT status, COUNT(*) AS number FROM {job} GROUP BY status",
        live=f"SELECT {columns} FROM {job} WHERE status IN ('running', 'paused') ORDER BY prefix",
        startable=(
            f"SELECT {columns} FROM {job} WHERE status = 'waiting' "
            "AND (not_before IS NULL OR not_before <= @now OR not_before > @too_far) "
            "QUALIFY ROW_NUMBER() OVER (PARTITION BY COALESCE(route, @route) = 'cdn' ORDER BY COALESCE(attempt, 0), prefix) "
            "<= IF(COALESCE(route, @route) = 'cdn', @in_pool, @in_service) ORDER BY COALESCE(attempt, 0), prefix"
        ),
        job=f"SELECT {columns} FROM {job} WHERE prefix = @prefix",
        jobs_named=f"SELECT {columns} FROM {job} WHERE job_name IN UNNEST(@names)",
        prefixes=f"SELECT prefix FROM {job} ORDER BY prefix",
        own_destinations=f"SELECT prefix, destination FROM {job} WHERE COALESCE(destination, '') != '' ORDER BY prefix",
        own_places=(
            f"SELECT DISTINCT COALESCE(source, '') AS source, COALESCE(destination, '') AS destination FROM {job} "
            "WHERE COALESCE(source, '') != '' OR COALESCE(destination, '') != ''"
        ),
        with_status=f"SELECT {columns} FROM {job} WHERE status = @status ORDER BY prefix",
        history=f"SELECT {_listed(HISTORY_COLUMNS)} FROM {history} WHERE prefix = @prefix ORDER BY timestamp, generation",
        forget_failures=f"DELETE FROM {failure} WHERE prefix = @prefix",
        add_failures=(
            f"INSERT INTO {failure} ({_listed(FAILURE_COLUMNS)}) SELECT {_listed(FAILURE, 'f')}, @at FROM UNNEST(@failures) AS f"
        ),
        failures=(
            f"SELECT {_listed(FAILURE_COLUMNS)} FROM {failure} WHERE @prefix IS NULL OR prefix = @prefix "
            "ORDER BY prefix, key LIMIT @number"
        ),
        objects=(
            f"SELECT {_listed(OBJECT_COLUMNS)} FROM `{names.full(names.object)}` WHERE prefix = @prefix "
            "QUALIFY ROW_NUMBER() OVER (PARTITION BY key ORDER BY seen_at DESC) = 1 ORDER BY key LIMIT @number"
        ),
        error_groups=(
            "SELECT status, error_code, COUNT(*) AS number, MIN(prefix) AS example, "
            f"ANY_VALUE(error_message HAVING MIN prefix) AS message FROM {job} "
            "WHERE (status != 'done' AND error_code != '') OR error_code = @empty GROUP BY status, error_code "
            "ORDER BY number DESC, error_code, status LIMIT @number"
        ),
        left_behind=(
            f"SELECT f.prefix, COUNT(*) AS number, COALESCE(SUM(f.size), 0) AS bytes, "
            f"MAX(IF(f.error = @counted, 1, 0)) AS counted FROM {failure} AS f "
            f"JOIN {job} AS j ON j.prefix = f.prefix WHERE j.status = 'done' GROUP BY f.prefix "
            "ORDER BY number DESC, f.prefix LIMIT @number"
        ),
        totals=f"SELECT {', '.join(f'COALESCE(SUM({name}), 0) AS {name}' for name in COUNTERS)} FROM {job}",
        control=f"SELECT key, value FROM {control}",
        duplicates=(
            f"SELECT prefix, COUNT(*) AS number FROM {job} GROUP BY prefix HAVING COUNT(*) > 1 ORDER BY prefix LIMIT @number"
        ),
        merge_rows=(
            f"MERGE {job} AS j USING (SELECT {_listed(ROW, 'r')} FROM UNNEST(@rows) AS r WHERE {fenced}) AS r "
            "ON j.prefix = r.prefix AND COALESCE(j.generation, 0) = r.generation - 1 WHEN MATCHED THEN UPDATE SET "
            + ", ".join(f"{name} = r.{name}" for name in ROW if name not in ("prefix", "operation_results"))
            + ", last_updated = @at, write_id = @write_id"
        ),
        append_history=(
            f"INSERT INTO {history} ({_listed(HISTORY_COLUMNS)}) SELECT "
            + ", ".join({"timestamp": "@at", "write_id": "@write_id"}.get(name, f"r.{name}") for name in HISTORY_COLUMNS)
            + f" FROM UNNEST(@rows) AS r JOIN {job} AS j ON j.prefix = r.prefix AND j.write_id = @write_id"
        ),
        merge_state=(
            f"MERGE {control} AS c USING (SELECT s.key, s.value FROM UNNEST(@state) AS s WHERE {fenced}) AS s "
            "ON c.key = s.key WHEN MATCHED AND s.value IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET value = s.value "
            "WHEN NOT MATCHED AND s.value IS NOT NULL THEN INSERT (key, value) VALUES (s.key, s.value)"
        ),
        written=f"SELECT prefix FROM {job} WHERE write_id = @write_id",
        bind=(
            f"MERGE {control} AS c USING (SELECT s.key, s.value FROM UNNEST(@state) AS s "
            f"WHERE NOT EXISTS (SELECT 1 FROM {control} AS b WHERE b.key = 'source') "
            f"OR NOT EXISTS (SELECT 1 FROM {job} AS j WHERE j.attempt > 0)) AS s ON c.key = s.key "
            "WHEN MATCHED THEN UPDATE SET value = s.value WHEN NOT MATCHED THEN INSERT (key, value) VALUES (s.key, s.value)"
        ),
        swap_lease=(
            f"MERGE {control} AS c USING (SELECT 'lease' AS key) AS s ON c.key = s.key "
            "WHEN MATCHED AND c.value = @old THEN UPDATE SET value = @new "
            "WHEN NOT MATCHED AND @old IS NULL THEN INSERT (key, value) VALUES (s.key, @new)"
        ),
        versioned=f"SELECT COUNT(generation) AS number FROM {job}",
        older_rows=(
            "SELECT status, COUNTIF(STARTS_WITH(job_name, 'transferOperations/')) AS with_operation, COUNT(*) AS number "
            f"FROM {job} GROUP BY status ORDER BY status"
        ),
        # Written for columns that another try may have filled already: every expression gives the same again.
        adopt_rows=(
            f"UPDATE {job} SET "
            "operation_name = IF(STARTS_WITH(job_name, 'transferOperations/'), job_name, operation_name), "
            f"job_name = IF(STARTS_WITH(job_name, 'transferOperations/'), '{ADOPTED}', job_name), "
            "attempt = IF(STARTS_WITH(job_name, 'transferOperations/'), 1, COALESCE(attempt, 0)), "
            # A live row that names no operation was never really started: it waits.
            "status = IF(status IN ('running', 'paused') AND COALESCE(job_name, '') = '', 'waiting', status), "
            # The older tool resumed whatever it found paused, and kept no mark of who paused it.
            "paused_by = IF(status = 'paused' AND COALESCE(job_name, '') != '', 'pause-all-jobs', COALESCE(paused_by, '')), "
            f"error_code = IF(status = 'error', '{OLDER_ERROR}', COALESCE(error_code, '')), "
            f"error_message = IF(status = 'error', '{OLDER_ERROR_MESSAGE}', COALESCE(error_message, '')), "
            "generation = 0 WHERE generation IS NULL"
        ),
        # As the `retry` command does it: a fresh count of attempts, and a new operation.
        retry_older=(
            f"UPDATE {job} SET status = 'waiting', operation_name = NULL, attempt_base = COALESCE(attempt, 0), "
            f"error_code = '', error_message = '' WHERE status = 'error' AND error_code = '{OLDER_ERROR}' AND generation = 0"
        ),
        adopt_history=(
            f"UPDATE {history} SET operation_name = job_name, job_name = '{ADOPTED}' "
            "WHERE STARTS_WITH(job_name, 'transferOperations/')"
        ),
    )


def add_staged(names: Names, staged: str) -> str:
    """Add the staged prefixes that are not there yet; safe to repeat."""
    return (
        f"MERGE `{names.full(names.job)}` AS j USING `{names.full(staged)}` AS s ON j.prefix = s.prefix "
        "WHEN NOT MATCHED THEN INSERT (prefix, status, last_updated, attempt, generation, route, source, destination, egress) "
        "VALUES (s.prefix, 'waiting', @at, 0, 0, s.route, s.source, s.destination, s.egress)"
    )


def clashes(names: Names, staged: str) -> str:
    """The staged prefixes that a stored one encloses, or that enclose a stored one.

    No stored prefix lies under another, and neither does a staged one. So in the order of both together a stored prefix
    that encloses a staged one is its next stored neighbour to the left, and everything under a staged one follows at once.
    """
    return (
        f"WITH both AS (SELECT prefix, TRUE AS staged FROM `{names.full(staged)}` "
        f"UNION ALL SELECT j.prefix, FALSE AS staged FROM `{names.full(names.job)}` AS j), "
        "near AS (SELECT prefix, staged, "
        "LAST_VALUE(IF(staged, NULL, prefix) IGNORE NULLS) OVER (ORDER BY prefix, staged "
        "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before, "
        "FIRST_VALUE(IF(staged, NULL, prefix) IGNORE NULLS) OVER (ORDER BY prefix, staged "
        "ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS after FROM both) "
        "SELECT prefix, IF(before != prefix AND STARTS_WITH(prefix, before), before, after) AS stored FROM near "
        "WHERE staged AND ((before != prefix AND STARTS_WITH(prefix, before)) OR STARTS_WITH(after, prefix)) "
        "ORDER BY prefix LIMIT @number"
    )


def _listed(columns: Columns, of: str = "") -> str:
    return ", ".join(f"{of}.{name}" if of else name for name in columns)
