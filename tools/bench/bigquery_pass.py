"""What a pass costs with the job table in BigQuery: jobs, bytes billed, calls; beside the older tool's way of doing it.

Both ways run over the official client against the stage, which bills as the service does (the columns named, at least 10 MB
for each table of a query). The older tool's way: read the whole table, one UPDATE for each prefix that changed, one row
streamed into the history for each.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.cloud import bigquery

from sts_manager.clock import SystemClock
from sts_manager.daemon.reconciler import Reconciler
from sts_manager.domain.model import JobStatus, Policy, Route
from sts_manager.domain.names import checked_prefixes
from sts_manager.stores.bigquery.client import connect
from sts_manager.stores.bigquery.setup import open_store, preparation
from sts_manager.stores.bigquery.statements import Names
from sts_manager.stores.lease import StoreLease
from tools.bench.million import InstantService
from tools.emulators.stage import PROJECT, Stage

PREFIXES = 10_000
LIVE = 50
LEASE = "the lease, each loop turn"
MB = 1 << 20
USD_PER_TIB = 6.25
PASSES_A_DAY = 288  # one in five minutes, the older tool's default
TURNS_A_DAY = 1440  # one a minute


@dataclass(frozen=True)
class Cost:
    """Of one pass: BigQuery jobs, bytes billed, HTTP calls."""

    jobs: int
    billed: int
    calls: int

    def shown(self, name: str, a_day: int = PASSES_A_DAY) -> str:
        day = self.billed * a_day / 2**40 * USD_PER_TIB
        return f"{name:<34}{self.jobs:>6}{self.billed / MB:>11,.0f}{self.calls:>8}{day:>12.2f}"


def measured(stage: Stage, work: Callable[[], Any]) -> Cost:
    assert stage.bigquery is not None
    jobs, calls = len(stage.bigquery.jobs.billed()), sum(stage.ledger.report().get("bigquery", {}).values())
    work()
    after = stage.bigquery.jobs.billed()[jobs:]
    total = sum(stage.ledger.report()["bigquery"].values())
    return Cost(jobs=len(after), billed=sum(int(one["billed"]) for one in after), calls=total - calls)


def ours(stage: Stage) -> dict[str, Cost]:
    names = Names(project=PROJECT, dataset="ours", location="US", job="sts_job", history="sts_job_history")
    warehouse = connect(names, os.environ["BIGQUERY_EMULATOR_HOST"])
    for step in preparation(warehouse):
        step.does()
    store = open_store(warehouse)
    store.load(checked_prefixes([f"data/part={index:05}/" for index in range(PREFIXES)]), datetime.now(UTC), lambda _: None)
    lease = StoreLease(store, SystemClock(), lock_path=None, lease_s=60)
    assert lease.acquire() is None
    policy = Policy(migration=store.control().migration, route=Route.STS_S3, running_max=LIVE)
    service = InstantService()
    reconciler = Reconciler(store, {Route.STS_S3: service}, policy, SystemClock(), fence=lambda: lease.fence)
    for _ in range(8):
        reconciler.run_pass(dispatch=True)
    reconciler.settle_outcomes()
    assert store.counts()[JobStatus.RUNNING] == LIVE
    found = {
        "a pass, all live rows changed": measured(stage, lambda: reconciler.run_pass(dispatch=False)),
        "the same with dispatch": measured(stage, lambda: reconciler.run_pass(dispatch=True)),
        LEASE: measured(stage, lease.renew),
    }
    store.close()
    return found


def older(stage: Stage) -> Cost:
    names = Names(project=PROJECT, dataset="older", location="US", job="sts_job", history="sts_job_history")
    warehouse = connect(names, os.environ["BIGQUERY_EMULATOR_HOST"])
    client = warehouse.client
    client.create_dataset("older")
    job, history = names.full(names.job), names.full(names.history)
    texts = [bigquery.SchemaField(name, "STRING") for name in ("prefix", "status", "job_name")]
    client.create_table(bigquery.Table(job, schema=[*texts, bigquery.SchemaField("last_updated", "TIMESTAMP")]))
    event = [bigquery.SchemaField("operation_results", "STRING"), bigquery.SchemaField("timestamp", "TIMESTAMP")]
    client.create_table(bigquery.Table(history, schema=[*texts, *event]))
    rows = [
        {"prefix": f"data/part={index:05}/", "status": "running" if index < LIVE else "waiting", "job_name": f"op/{index}"}
        for index in range(PREFIXES)
    ]
    client.load_table_from_json(rows, job).result()

    def one_pass() -> None:
        whole = list(client.query(f"SELECT * FROM `{job}`").result())
        at = datetime.now(UTC)
        for row in whole:
            if row["status"] != "running":
                continue
            given = [
                bigquery.ScalarQueryParameter("at", "TIMESTAMP", at),
                bigquery.ScalarQueryParameter("prefix", "STRING", row["prefix"]),
            ]
            text = f"UPDATE `{job}` SET status = 'running', last_updated = @at WHERE prefix = @prefix"
            client.query(text, job_config=bigquery.QueryJobConfig(query_parameters=given)).result()
            done = {"prefix": row["prefix"], "status": "running", "job_name": row["job_name"], "timestamp": at.isoformat()}
            client.insert_rows_json(history, [done])

    cost = measured(stage, one_pass)
    warehouse.close()
    return cost


def main() -> int:
    stage = Stage(("bigquery",))
    os.environ.update(stage.environment)
    try:
        ours_, theirs = ours(stage), older(stage)
    finally:
        stage.stop()
    print(f"\n{PREFIXES:,} prefixes in BigQuery, {LIVE} operations live")
    print(f"{'':<34}{'jobs':>6}{'MB billed':>11}{'calls':>8}{'USD a day':>12}")
    for name, cost in ours_.items():
        print(cost.shown(name, TURNS_A_DAY if name == LEASE else PASSES_A_DAY))
    print(theirs.shown("the older tool's way"))
    mine = ours_["a pass, all live rows changed"]
    print(
        f"a pass costs {mine.jobs / theirs.jobs:.2f} of the older way's jobs and {mine.billed / theirs.billed:.2f} of its bytes"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
