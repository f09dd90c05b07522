"""The dataset of the older tool, with rows in every status and operations that really run, is taken over and finished."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from google.cloud import bigquery

from sts_manager.clock import SystemClock
from sts_manager.domain.location import place
from sts_manager.domain.model import Route, StartJob
from sts_manager.domain.names import JobName, OperationName, Prefix
from sts_manager.routes.sts.route import StsClient, StsRoute, connect
from sts_manager.routes.sts.spec import S3Access, TransferSettings
from tests.end_to_end.commands import BUCKETS, QUICK, Shell
from tests.stages import SINK, SOURCE, at_sink, fill, wait_for
from tests.warehouses import warehouse
from tools.emulators.stage import KEYS, PROJECT, Stage

PREFIXES = ("waiting/", "running/", "paused/", "done/", "error/", "ghost/")
OBJECTS = {f"{prefix}{index}": prefix.encode() for prefix in PREFIXES for index in range(6)}


def older_operation(client: StsClient, prefix: str) -> OperationName:
    """What the older tool did for a prefix: a transfer job of a name of its own, run once."""
    settings = TransferSettings(
        project=PROJECT,
        source=place(f"s3://{SOURCE}"),
        sink=place(f"gs://{SINK}"),
        s3_access=S3Access(key_id=KEYS.key_id, secret_key=KEYS.secret),
    )
    name = JobName(f"transferJobs/older-{prefix.strip('/')}")
    order = StartJob(prefix=Prefix(prefix), attempt=1, job_name=name, route=Route.STS_S3)
    operation = StsRoute({PROJECT: client}, settings).start(order).operation_name
    assert operation is not None
    return operation


def older_tables(operations: dict[str, OperationName]) -> None:
    made = warehouse()
    client, names = made.client, made.names
    client.create_dataset(names.dataset)
    texts = [bigquery.SchemaField(name, "STRING") for name in ("prefix", "status", "job_name")]
    time, results = bigquery.SchemaField("last_updated", "TIMESTAMP"), bigquery.SchemaField("operation_results", "STRING")
    client.create_table(bigquery.Table(names.full(names.job), schema=[*texts, time]))
    event_time = bigquery.SchemaField("timestamp", "TIMESTAMP")
    client.create_table(bigquery.Table(names.full(names.history), schema=[*texts, results, event_time]))
    at = datetime.now(UTC).isoformat()
    rows = []
    for prefix in PREFIXES:
        status = "running" if prefix == "ghost/" else prefix.strip("/")
        rows.append({"prefix": prefix, "status": status, "job_name": operations.get(prefix), "last_updated": at})
    client.load_table_from_json(rows, names.full(names.job)).result()
    made.close()


def begun(stage: Stage) -> dict[str, OperationName]:
    """What the older tool left in the service: one operation done, one at work, one paused, one failed."""
    fill(stage, OBJECTS)
    service = stage.sts
    assert service is not None
    client = connect(PROJECT, stage.environment["STORAGE_TRANSFER_EMULATOR_HOST"], SystemClock())
    operations = {"done/": older_operation(client, "done/")}
    wait_for(lambda: sum(name.startswith("done/") for name in at_sink(stage)) == 6)
    stage.ledger.change({"sts.objects_per_second": 2})
    operations |= {prefix: older_operation(client, prefix) for prefix in ("running/", "paused/", "error/")}
    wait_for(lambda: any(name.startswith("paused/") for name in at_sink(stage)))
    client.pause(operations["paused/"])
    service.cancel(operations["error/"])
    older_tables(operations)
    return operations


@pytest.mark.slow
@pytest.mark.parametrize("keeping", ["", "--keep-older-errors", "--no-retry-on-job-error"])
def test_it_is_finished_and_nothing_is_transferred_twice(stage: Stage, tmp_path: Path, keeping: str) -> None:
    begun(stage)
    service = stage.sts
    assert service is not None
    keep = [keeping] if keeping else []

    shell = Shell(tmp_path, stage.environment | {"STS_MANAGER_STORE": "bigquery"})
    refused = shell.run("run", *BUCKETS, *QUICK, "--until-done")
    assert (refused.code, "holds the older tool's tables" in refused.err) == (3, True)
    planned = shell.run("prepare-tables", "--dry-run", *keep)
    assert "would add 29 columns to sts_job" in planned.out
    assert "2 live operations are watched to their end" in planned.out
    assert ("the 1 in error stay so" if keep else "the 1 in error wait to be tried again") in planned.out
    assert shell.run("status").code == 3, "a dry run changes nothing"
    assert shell.run("prepare-tables", *keep).code == 0
    again = shell.run("prepare-tables", "--dry-run")
    assert "would" not in again.out.replace("nothing was written", "")

    stage.ledger.change({"sts.objects_per_second": 0})
    ran = shell.run("run", *BUCKETS, *QUICK, "--until-done")
    if keep:
        assert ran.code == 1, ran.err  # what ended in error under the older tool waits for a person
        found = json.loads(shell.run("status", "--json").out)
        assert (found["counts"]["done"], found["counts"]["error"]) == (5, 1)
        assert found["errors"][0]["code"] == "OLDER_TOOL"
        assert "1 set to retry" in shell.run("retry", "--errors").out
        ran = shell.run("run", *BUCKETS, *QUICK, "--until-done")
    assert ran.code == 0, ran.err

    assert at_sink(stage) == OBJECTS
    older = [name for name in service.jobs if name.startswith("transferJobs/older-")]
    ours = [job for name, job in service.jobs.items() if name not in older]
    assert len(older) == 4
    prefixes = sorted(job.transfer_spec.object_conditions.include_prefixes[0] for job in ours)
    assert prefixes == ["error/", "ghost/", "waiting/"], "only what had not run, or was to run again"
    assert all(len(names) == 1 for names in service.by_job.values()), "each job ran once"
    events = json.loads(shell.run("history", "running/", "--json").out)
    assert events[-1]["status"] == "done"
    assert events[-1]["job_name"] == "transferJobs/older-running"
    made = warehouse()
    query = "SELECT * FROM data_migration.sts_job_history WHERE status = 'error'"
    assert list(made.client.query(query).result()) == []  # the older tool's own query works unchanged
    made.close()


@pytest.mark.slow
def test_its_scripts_take_over_and_finish_with_its_defaults(stage: Stage, tmp_path: Path) -> None:
    """No --store is given anywhere, and the file says more than the flags do, as scripts of the older tool would have it."""
    begun(stage)
    stage.ledger.change({"sts.objects_per_second": 0})
    options = {"source-bucket": f"s3://{SOURCE}", "destination-bucket": f"gs://{SINK}", "max-concurrent-jobs": 3}
    options |= {"job-interval": 0.1, "metrics-interval": 0.1, "sleep-timeout": 0.1, "retry-delay": 0.1}
    (tmp_path / "config.json").write_text(json.dumps(options))
    shells = {
        name: Shell(tmp_path, stage.environment, module=f"tools.{name}")
        for name in ("prepare_tables", "sts_job_manager", "pause_all_jobs", "remove_successful_one_time_jobs")
    }
    assert shells["prepare_tables"].run("--config-path", "config.json").code == 0
    ran = shells["sts_job_manager"].run("--config-path", "config.json", "--max-concurrent-jobs", "99", "--until-done")
    assert ran.code == 0, ran.err
    assert at_sink(stage) == OBJECTS
    told = "config.json and the flags differ, and the file wins, as in the older tool: --max-concurrent-jobs 99 (the file: 3)"
    assert ran.err.count(told) == 1, ran.err
    assert '"max_concurrent_jobs": "3"' in ran.err
    assert "0 paused" in shells["pause_all_jobs"].run("--config-path", "config.json").out
    assert shells["remove_successful_one_time_jobs"].run("--config-path", "config.json", "--dry-run").code == 0
    ours = Shell(tmp_path, stage.environment | {"STS_MANAGER_STORE": "bigquery"})
    ran = ours.run("run", "--config-path", "config.json", "--max-concurrent-jobs", "99", "--until-done")
    assert ran.code == 0, ran.err
    told = "the flags win (in the older tool the file won; tools/sts_job_manager.py keeps to that): --max-concurrent-jobs 99"
    assert ran.err.count(told) == 1, ran.err
    assert '"max_concurrent_jobs": "99"' in ran.err
