"""BigQuery on the stage refuses what the service refuses, in its words; over the official client."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import bigquery

from tests.warehouses import NAMES, warehouse
from tools.emulators.stage import Stage

TABLE = f"{NAMES.project}.d.t"
FIELDS = [
    bigquery.SchemaField("prefix", "STRING", mode="REQUIRED"),
    bigquery.SchemaField("number", "INT64"),
    bigquery.SchemaField("at", "TIMESTAMP"),
]


@pytest.fixture
def client(stage: Stage) -> Iterator[bigquery.Client]:
    made = warehouse()
    made.client.create_dataset("d")
    made.client.create_table(bigquery.Table(TABLE, schema=FIELDS))
    yield made.client
    made.close()


def load(client: bigquery.Client, *rows: dict[str, Any], **config: Any) -> Any:
    return client.load_table_from_json(list(rows), TABLE, job_config=bigquery.LoadJobConfig(**config)).result()


def ask(client: bigquery.Client, text: str, *given: Any, **more: Any) -> list[dict[str, Any]]:
    config = bigquery.QueryJobConfig(query_parameters=list(given))
    return [dict(row) for row in client.query(text, job_config=config, job_retry=None, **more).result(job_retry=None)]


def test_values_of_every_type_come_back_as_they_went_in(client: bigquery.Client) -> None:
    at = datetime(2026, 11, 20, 3, 0, 0, 123456, tzinfo=UTC)
    given = [
        bigquery.ScalarQueryParameter("s", "STRING", "ü'\n\\"),
        bigquery.ScalarQueryParameter("i", "INT64", -(2**62)),
        bigquery.ScalarQueryParameter("f", "FLOAT64", 0.1),
        bigquery.ScalarQueryParameter("b", "BOOL", True),
        bigquery.ScalarQueryParameter("t", "TIMESTAMP", at),
        bigquery.ScalarQueryParameter("n", "STRING", None),
        bigquery.ArrayQueryParameter("a", "STRING", ["x", "y"]),
    ]
    (row,) = ask(client, "SELECT @s AS s, @i AS i, @f AS f, @b AS b, @t AS t, @n AS n, @a AS a, STRUCT(@i AS x) AS r", *given)
    assert row == {
        "s": "ü'\n\\",
        "i": -(2**62),
        "f": 0.1,
        "b": True,
        "t": at,
        "n": None,
        "a": ["x", "y"],
        "r": {"x": -(2**62)},
    }
    (row,) = [dict(one) for one in client.query_and_wait("SELECT TIMESTAMP '2026-11-20 03:00:00.123456+00' AS t")]
    assert row["t"] == at


def test_a_job_id_is_taken_once_and_its_job_can_be_fetched(client: bigquery.Client) -> None:
    load(client, {"prefix": "a"})
    ask(client, "UPDATE d.t SET number = 1 WHERE TRUE", job_id="once")
    with pytest.raises(exceptions.Conflict, match="Already Exists: Job"):
        ask(client, "UPDATE d.t SET number = 2 WHERE TRUE", job_id="once")
    job: Any = client.get_job("once", location="US")
    assert (job.state, job.num_dml_affected_rows) == ("DONE", 1)
    assert ask(client, "SELECT number FROM d.t") == [{"number": 1}]
    with pytest.raises(exceptions.NotFound):
        client.get_job("once", location="EU")


def test_large_results_come_in_pages(stage: Stage, client: bigquery.Client) -> None:
    stage.ledger.change({"bigquery.rows_per_page": 10})
    load(client, *({"prefix": f"{index:03}"} for index in range(35)))
    assert len(ask(client, "SELECT prefix FROM d.t ORDER BY prefix")) == 35
    assert stage.ledger.report()["bigquery"]["jobs.getQueryResults"] == 1 + 4, "one to see that it is done, and four pages"


def test_a_slow_job_is_waited_for(stage: Stage, client: bigquery.Client) -> None:
    stage.ledger.change({"bigquery.job_seconds": 0.3})
    assert ask(client, "SELECT 1 AS one") == [{"one": 1}]
    assert stage.ledger.report()["bigquery"]["jobs.getQueryResults"] > 1


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("SELEC 1", exceptions.BadRequest, "yntax"),
        ("SELECT nope FROM d.t", exceptions.BadRequest, "nope"),
        ("SELECT * FROM d.nope", exceptions.NotFound, "Not found: Table stage-project:d.nope"),
        ("SELECT * FROM nope.t", exceptions.NotFound, "Not found: Dataset stage-project:nope"),
        ("SELECT * FROM t", exceptions.BadRequest, "must be qualified with a dataset"),
        ("SELECT * FROM other.d.t", exceptions.Forbidden, "Access Denied"),
        ("SELECT @nope", exceptions.BadRequest, "Query parameter 'nope' not found"),
        ("INSERT INTO d.t (number) VALUES (1)", exceptions.BadRequest, "NOT NULL"),
        ("DROP TABLE d.t", exceptions.MethodNotImplemented, "models no Drop"),
    ],
)
def test_statements_that_cannot_run(client: bigquery.Client, text: str, kind: type[Exception], told: str) -> None:
    with pytest.raises(kind, match=told):
        ask(client, text)
    assert client.get_table(TABLE).num_rows == 0


def test_a_job_of_another_location_does_not_see_the_dataset(client: bigquery.Client) -> None:
    with pytest.raises(exceptions.NotFound, match="was not found in location EU"):
        ask(client, "SELECT * FROM d.t", location="EU")


def test_a_transaction_is_all_or_nothing(client: bigquery.Client) -> None:
    load(client, {"prefix": "a"})
    with pytest.raises(exceptions.BadRequest):
        ask(client, "BEGIN TRANSACTION; UPDATE d.t SET number = 1 WHERE TRUE; SELECT nope FROM d.t; COMMIT TRANSACTION")
    assert ask(client, "SELECT number FROM d.t") == [{"number": None}]
    text = "BEGIN TRANSACTION; UPDATE d.t SET number = 2 WHERE TRUE; COMMIT TRANSACTION; SELECT number FROM d.t"
    assert ask(client, text) == [{"number": 2}]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("UPDATE d.t SET number = 1 WHERE TRUE", "Could not serialize access"),
        (
            "BEGIN TRANSACTION; UPDATE d.t SET number = 1 WHERE TRUE; COMMIT TRANSACTION",
            "Transaction is aborted due to concurrent",
        ),
    ],
)
def test_two_that_change_a_table_at_once_conflict(stage: Stage, client: bigquery.Client, text: str, told: str) -> None:
    load(client, {"prefix": "a"})
    stage.ledger.change({"bigquery.dml_seconds": 0.3})
    failures = []

    def change() -> None:
        try:
            ask(client, text)
        except exceptions.BadRequest as error:
            failures.append(str(error))

    threads = [threading.Thread(target=change) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (failure,) = failures
    assert told in failure


def test_inserts_do_not_conflict_and_the_23rd_change_in_the_queue_fails(stage: Stage, client: bigquery.Client) -> None:
    stage.ledger.change({"bigquery.dml_seconds": 0.1})
    ask(client, "INSERT INTO d.t (prefix) VALUES ('a')")
    assert stage.bigquery is not None
    stage.bigquery.catalog.table("d", "t").outstanding = 22
    ask(client, "INSERT INTO d.t (prefix) VALUES ('b')")
    with pytest.raises(exceptions.BadRequest, match="Too many DML statements outstanding"):
        ask(client, "DELETE FROM d.t WHERE TRUE")
    stage.bigquery.catalog.table("d", "t").outstanding = 0


def test_streamed_rows_cannot_be_changed_until_they_left_the_buffer(stage: Stage, client: bigquery.Client) -> None:
    assert client.insert_rows_json(TABLE, [{"prefix": "a"}]) == []
    assert len(ask(client, "SELECT * FROM d.t")) == 1
    for text in ("UPDATE d.t SET number = 1 WHERE TRUE", "DELETE FROM d.t WHERE TRUE"):
        with pytest.raises(exceptions.BadRequest, match="streaming buffer"):
            ask(client, text)
    assert stage.bigquery is not None
    stage.bigquery.catalog.table("d", "t").streamed_until = 0
    ask(client, "UPDATE d.t SET number = 1 WHERE TRUE")


def test_streaming_checks_its_rows_and_drops_repeated_ids(client: bigquery.Client) -> None:
    (fault,) = client.insert_rows_json(TABLE, [{"prefix": "a", "nope": 1}])
    assert fault["errors"][0]["message"] == "no such field: nope."
    (fault,) = client.insert_rows_json(TABLE, [{"number": 1}])
    assert fault["errors"][0]["message"] == "Missing required field: prefix."
    for _ in range(2):
        assert client.insert_rows_json(TABLE, [{"prefix": "a"}], row_ids=["same"]) == []
    assert len(ask(client, "SELECT * FROM d.t")) == 1


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prefix": "a", "nope": 1}, "no such field: nope"),
        ({"number": 1}, "Missing required field: prefix"),
        ({"prefix": "a", "number": "many"}, "Could not convert value to integer"),
        ({"prefix": "a", "at": "yesterday"}, "Could not convert value to timestamp"),
    ],
)
def test_a_load_takes_all_rows_or_none(client: bigquery.Client, row: dict[str, Any], told: str) -> None:
    config = bigquery.LoadJobConfig(schema=FIELDS, source_format="NEWLINE_DELIMITED_JSON")
    body = io.BytesIO(b"\n".join(json.dumps(one).encode() for one in ({"prefix": "good"}, row)))
    with pytest.raises(exceptions.BadRequest, match=told):
        client.load_table_from_file(body, TABLE, job_config=config).result()
    assert ask(client, "SELECT * FROM d.t") == []


def test_the_daily_quota_of_loads_is_kept(stage: Stage, client: bigquery.Client) -> None:
    stage.ledger.change({"bigquery.table_operations_per_day": 2})
    load(client, {"prefix": "a"})
    load(client, {"prefix": "b"}, write_disposition="WRITE_TRUNCATE")
    assert ask(client, "SELECT prefix FROM d.t") == [{"prefix": "b"}]
    with pytest.raises(exceptions.Forbidden, match="Quota exceeded"):
        load(client, {"prefix": "c"})


def test_a_schema_only_grows(client: bigquery.Client) -> None:
    table = client.get_table(TABLE)
    for fields, told in (
        ([FIELDS[0], FIELDS[1]], "Field at is missing in new schema"),
        ([*FIELDS[:2], bigquery.SchemaField("at", "STRING")], "has changed type from TIMESTAMP to STRING"),
        ([*FIELDS, bigquery.SchemaField("new", "STRING", mode="REQUIRED")], "Cannot add required fields"),
        ([*FIELDS, bigquery.SchemaField("new", "STRING"), bigquery.SchemaField("NEW", "STRING")], "Duplicate field name"),
    ):
        table.schema = fields
        with pytest.raises(exceptions.BadRequest, match=told):
            client.update_table(table, ["schema"])
    load(client, {"prefix": "a"})
    fresh = client.get_table(TABLE)
    fresh.schema = [*FIELDS, bigquery.SchemaField("new", "STRING")]
    client.update_table(fresh, ["schema"])
    assert ask(client, "SELECT new FROM d.t") == [{"new": None}]
    with pytest.raises(exceptions.PreconditionFailed):
        client.update_table(fresh, ["schema"])  # somebody changed it since this copy was read


@pytest.mark.parametrize(
    ("name", "told"),
    [("with-dash", "Invalid dataset ID"), ("d", "Already Exists: Dataset"), ("x" * 1025, "Invalid dataset ID")],
)
def test_names_of_datasets(client: bigquery.Client, name: str, told: str) -> None:
    with pytest.raises(exceptions.ClientError, match=told):
        client.create_dataset(name)


def test_layout_is_checked(client: bigquery.Client) -> None:
    table = bigquery.Table(f"{NAMES.project}.d.laid", schema=FIELDS)
    table.clustering_fields = ["nope"]
    with pytest.raises(exceptions.BadRequest, match="Invalid field: nope"):
        client.create_table(table)
    table.clustering_fields = ["prefix"]
    table.time_partitioning = bigquery.TimePartitioning(field="prefix")
    with pytest.raises(exceptions.BadRequest, match="must be a TIMESTAMP or DATE"):
        client.create_table(table)


def test_bytes_are_billed_by_the_columns_read_with_a_minimum_for_each_table(client: bigquery.Client) -> None:
    load(client, *({"prefix": "x" * 1000, "number": index} for index in range(20_000)))

    def billed(text: str) -> int:
        job = client.query(text)
        job.result()
        return job.total_bytes_billed or 0

    ten = 10 << 20
    assert billed("SELECT SUM(number) FROM d.t") == ten
    assert billed("SELECT prefix FROM d.t LIMIT 1") == 20 << 20, "a limit reads as much as none"
    assert billed("SELECT COUNT(*) FROM d.t") == ten
    client.create_table(bigquery.Table(f"{NAMES.project}.d.u", schema=FIELDS))
    assert billed("SELECT t.number FROM d.t AS t JOIN d.u AS u ON u.number = t.number") == 2 * ten
    assert billed("UPDATE d.t SET number = 1 WHERE number = 1") == 20 << 20, "a change is billed for the whole row"


@pytest.mark.parametrize(
    ("permission", "told"),
    [
        ("bigquery.jobs.create", "User does not have bigquery.jobs.create permission in project stage-project"),
        ("bigquery.tables.getData", "User does not have permission to query table stage-project:d.t"),
        ("bigquery.tables.updateData", "Permission bigquery.tables.updateData denied on table stage-project:d.t"),
        ("bigquery.tables.get", "Permission bigquery.tables.get denied on table stage-project:d.t"),
        ("bigquery.datasets.get", "Permission bigquery.datasets.get denied on dataset stage-project:d"),
    ],
)
def test_denials_say_what_the_service_says(stage: Stage, client: bigquery.Client, permission: str, told: str) -> None:
    stage.ledger.change({"iam.denied": [permission]})

    def everything() -> None:
        client.get_dataset("d")
        client.get_table(TABLE)
        ask(client, "UPDATE d.t SET number = 1 WHERE TRUE")

    with pytest.raises(exceptions.Forbidden, match=told):
        everything()


# Tables that require a filter by their partition column


@pytest.fixture
def days(client: bigquery.Client) -> bigquery.Client:
    fields = [bigquery.SchemaField("at", "TIMESTAMP"), bigquery.SchemaField("what", "STRING")]
    table = bigquery.Table(f"{NAMES.project}.d.days", schema=fields)
    table.time_partitioning = bigquery.TimePartitioning(field="at")
    table.require_partition_filter = True
    assert client.create_table(table).require_partition_filter
    rows = [{"at": "2026-11-20T03:00:00Z", "what": "a"}, {"at": "2026-11-21T03:00:00Z", "what": "b"}]
    client.load_table_from_json(rows, table).result()
    return client


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM d.days WHERE at > TIMESTAMP '2026-11-20'",
        "SELECT what FROM d.days AS x WHERE x.at > TIMESTAMP '2026-11-20' AND x.what = 'b'",
        "SELECT what FROM d.days WHERE at = TIMESTAMP '2026-11-20' OR at = TIMESTAMP '2026-11-21'",
        "SELECT x.what FROM d.days AS x JOIN d.t ON d.t.prefix = x.what AND x.at IS NOT NULL",
        "SELECT what FROM (SELECT what FROM d.days WHERE at < CURRENT_TIMESTAMP())",
        "WITH some AS (SELECT what FROM d.days WHERE at IS NOT NULL) SELECT * FROM some",
        "UPDATE d.days SET what = 'c' WHERE at > TIMESTAMP '2026-11-20' AND what = 'b'",
        "DELETE FROM d.days WHERE at < TIMESTAMP '2000-01-01'",
        "INSERT INTO d.days (at, what) VALUES (CURRENT_TIMESTAMP(), 'd')",
        """MERGE d.days AS x USING (SELECT 'z' AS what) AS y ON x.at > TIMESTAMP '2026-11-20' AND x.what = y.what
        WHEN MATCHED THEN UPDATE SET what = 'e'""",
    ],
)
def test_a_filter_by_the_partition_column_lets_a_query_pass(days: bigquery.Client, text: str) -> None:
    ask(days, text)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("SELECT * FROM d.days", "d.days"),
        (f"SELECT count(*) AS n FROM `{NAMES.project}.d.days` WHERE what = 'a'", f"{NAMES.project}.d.days"),
        ("SELECT * FROM d.days WHERE at = TIMESTAMP '2026-11-20' OR what = 'b'", "d.days"),
        ("SELECT x.what FROM d.days AS x JOIN d.t AS y ON y.at = x.at", "d.days"),
        ("SELECT what FROM d.days WHERE at = (SELECT max(at) FROM d.t)", "d.days"),
        ("SELECT y.prefix FROM d.t AS y WHERE y.at IS NOT NULL AND y.prefix IN (SELECT what FROM d.days)", "d.days"),
        ("UPDATE d.days SET what = 'c' WHERE what = 'b'", "d.days"),
        ("DELETE FROM d.days WHERE TRUE", "d.days"),
        (
            "MERGE d.days AS x USING (SELECT 'z' AS what) AS y ON x.what = y.what WHEN MATCHED THEN UPDATE SET what = 'e'",
            "d.days",
        ),
        ("INSERT INTO d.t (prefix) SELECT what FROM d.days", "d.days"),
    ],
)
def test_a_query_without_a_filter_by_the_partition_column_is_refused(days: bigquery.Client, text: str, written: str) -> None:
    told = (
        f"Cannot query over table '{written}' without a filter over column\\(s\\) 'at' that can be used for partition elimination"
    )
    with pytest.raises(exceptions.BadRequest, match=told):
        ask(days, text)
    assert len(list(days.list_rows(f"{NAMES.project}.d.days"))) == 2, (
        "reading a table's rows is no query, and nothing was changed"
    )


def test_a_filter_is_required_from_when_the_table_says_so(days: bigquery.Client) -> None:
    table = days.get_table(f"{NAMES.project}.d.days")
    table.require_partition_filter = False
    days.update_table(table, ["require_partition_filter"])
    assert len(ask(days, "SELECT * FROM d.days")) == 2
