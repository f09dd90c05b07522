"""BigQuery as the job table uses it: a script's answer, two scripts at once, the count of a MERGE. In a scratch table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from google.cloud import bigquery

from sts_manager.doctor.probe.context import Context
from sts_manager.doctor.probe.observation import Observation, hide, judge, leave_out, note
from sts_manager.stores.bigquery.client import CALL_S, ONCE, QUERY_S, VENDOR, Fault, Parameter, Warehouse, fault_of, message_of
from sts_manager.stores.bigquery.statements import BEGIN, COMMIT

SCRIPT, MERGED, CONFLICT = "BigQuery: a script's answer", "BigQuery: rows of a MERGE", "BigQuery: two scripts at once"
ALL = (SCRIPT, MERGED, CONFLICT)
COLUMNS = {"key": "STRING", "value": "STRING"}
LASTS = timedelta(hours=1)
"""After which BigQuery itself removes the table, should nobody else."""
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class ScriptEnd:
    """How one of two scripts ended: nothing, or the fault as the store classes it, and the words."""

    fault: str = ""
    message: str = ""


def probe_bigquery(context: Context) -> Iterator[Observation]:
    warehouse, table = context.clients.warehouse, context.record.table
    if warehouse is None or not table:
        yield from (leave_out(subject, "the job table is not in BigQuery (--store bigquery)") for subject in ALL)
        return
    made = bigquery.Table(table, schema=[bigquery.SchemaField(name, kind) for name, kind in COLUMNS.items()])
    made.expires = context.now() + LASTS
    warehouse.client.create_table(made, exists_ok=True, retry=ONCE, timeout=CALL_S)
    written = warehouse.write(_merge(table), _parameters("one", "1"))
    yield judge_merge(written.affected)
    script = ";\n".join([BEGIN, _merge(table), COMMIT, f"SELECT key, value FROM `{table}` WHERE key = @key"])
    yield judge_script(warehouse.write(script, _parameters("one", "2")).rows)
    yield judge_conflict(_collide(warehouse, table))
    warehouse.client.delete_table(table, not_found_ok=True, retry=ONCE, timeout=CALL_S)


def _merge(table: str) -> str:
    """As the lease and the control record are written."""
    return (
        f"MERGE `{table}` AS t USING (SELECT @key AS key, @value AS value) AS s ON t.key = s.key "
        "WHEN MATCHED THEN UPDATE SET value = s.value WHEN NOT MATCHED THEN INSERT (key, value) VALUES (s.key, s.value)"
    )


def _parameters(key: str, value: str) -> dict[str, Parameter]:
    return {"key": Parameter("STRING", key), "value": Parameter("STRING", value)}


def _collide(warehouse: Warehouse, table: str) -> list[ScriptEnd]:
    """Two scripts that change the same row, begun at once, a few times: until one meets the other."""
    ends: list[ScriptEnd] = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for number in range(ROUNDS):
            pair = [pool.submit(_send, warehouse, table, f"{number}-{side}") for side in range(2)]
            ends += [end.result() for end in pair]
            if any(end.fault for end in ends):
                break
    return ends


def _send(warehouse: Warehouse, table: str, value: str) -> ScriptEnd:
    """Once: the store would repeat what was refused in passing, and here the refusal is what is asked for."""
    parameters = [bigquery.ScalarQueryParameter(name, "STRING", text) for name, text in (("key", "one"), ("value", value))]
    script = ";\n".join([BEGIN, _merge(table), f"SELECT COUNT(*) FROM `{table}`", COMMIT])
    try:
        config = bigquery.QueryJobConfig(query_parameters=parameters, use_query_cache=False)
        job = warehouse.client.query(script, job_config=config, retry=ONCE, job_retry=ONCE, timeout=CALL_S)
        job.result(retry=ONCE, timeout=QUERY_S, job_retry=ONCE)
    except VENDOR as error:
        return ScriptEnd(fault_of(error).value, hide(message_of(error), 300))
    return ScriptEnd()


def judge_merge(affected: int) -> Observation:
    return judge(
        MERGED,
        assumed="num_dml_affected_rows of a MERGE that adds one row is 1",
        observed=f"it is {affected:,}",
        contradicts=affected != 1,
        meaning="no daemon can take the lease of a BigQuery store: keep the job table in SQLite or PostgreSQL",
    )


def judge_script(rows: Sequence[Mapping[str, Any]]) -> Observation:
    """The store asks again where a script's answer has no rows: that costs a query a pass, and nothing else."""
    if not rows:
        return note(
            SCRIPT,
            "the parent job's answer has no rows",
            "each pass that writes asks for them by another query (10 MB at least)",
            assumed="a script answers with the rows of its last SELECT",
        )
    shown = [dict(row) for row in rows]
    return judge(
        SCRIPT,
        assumed="a script answers with the rows of its last SELECT",
        observed=f"{len(rows):,} row: {shown}",
        contradicts=shown != [{"key": "one", "value": "2"}],
        meaning="changes may be taken for stale although they were written: keep the job table in SQLite or PostgreSQL",
    )


def judge_conflict(ends: Sequence[ScriptEnd]) -> Observation:
    refused = [end for end in ends if end.fault]
    assumed = "of two scripts that change one row at once, a refused one is told in words that the store repeats"
    if not refused:
        return note(CONFLICT, f"{len(ends):,} scripts, two at a time: none was refused", assumed=assumed)
    unknown = [end for end in refused if end.fault != Fault.AGAIN.value]
    shown = (unknown or refused)[0]
    return judge(
        CONFLICT,
        assumed=assumed,
        observed=f"{shown.message} (taken for: {shown.fault})",
        contradicts=bool(unknown),
        meaning="a pass that meets another writer fails instead of being repeated at once; the daemon is degraded for a turn",
        details={"ends": [[end.fault, end.message] for end in ends]},
    )
