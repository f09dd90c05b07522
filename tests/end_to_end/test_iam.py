"""The permissions that the commands really use are those that docs/iam.md lists, command by command."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from google.cloud import bigquery

from sts_manager.cli import app
from sts_manager.domain.model import Hold, JobStatus, PausedBy, changed
from sts_manager.domain.names import Prefix
from sts_manager.ports import Batch
from tests.end_to_end.commands import BUCKETS, QUICK, Shell
from tests.stages import SINK, fill, wait_for
from tests.warehouses import bigquery_store, warehouse
from tools.emulators.stage import Stage

DOCUMENT = Path(__file__).parents[2] / "docs" / "iam.md"


def documented() -> dict[str, set[str]]:
    sections = re.split(r"^### `([a-z-]+)`$", DOCUMENT.read_text(), flags=re.MULTILINE)[1:]
    return {
        name: set(re.findall(r"^- `([a-zA-Z.]+)`$", text, flags=re.MULTILINE))
        for name, text in zip(sections[::2], sections[1::2], strict=True)
    }


@pytest.fixture
def shell(stage: Stage, tmp_path: Path) -> Shell:
    return Shell(tmp_path, stage.environment | {"STS_MANAGER_STORE": "bigquery"})


def load(shell: Shell, *prefixes: str) -> None:
    (shell.folder / "prefixes.json").write_text(json.dumps(prefixes))
    ran = shell.run("prepare-tables", "--job-prefix-source-file", "prefixes.json")
    assert ran.code == 0, ran.err


def prepare_tables(stage: Stage, shell: Shell) -> None:
    """The dataset made anew, and the older tool's tables taken over."""
    stage.ledger.permissions.clear()
    load(shell, "a/")
    made_anew = dict(stage.ledger.permissions)
    client, names = warehouse().client, warehouse().names
    client.delete_dataset(names.dataset, delete_contents=True)
    client.create_dataset(names.dataset)
    schema = [bigquery.SchemaField(name, "STRING") for name in ("prefix", "status", "job_name")]
    client.create_table(bigquery.Table(names.full(names.job), schema=schema))
    stage.ledger.permissions.clear()
    load(shell, "a/")
    stage.ledger.permissions.update(made_anew)


def running(stage: Stage, shell: Shell) -> None:
    """A create whose answer is lost, a hold that pauses, and a resume: everything that the daemon ever calls."""
    fill(stage, {f"p/{index}": b"x" for index in range(30)})
    load(shell, "p/")
    store = bigquery_store()
    stage.ledger.permissions.clear()
    stage.ledger.change({"sts.objects_per_second": 5})
    stage.ledger.add_rule({"service": "sts", "method": "CreateTransferJob", "applied": True})
    with shell.started("run", *BUCKETS, *QUICK, "--until-done", "--publish-heartbeat") as daemon:
        wait_for(lambda: store.totals().objects_copied > 0, 30)
        store.set_hold(Hold(by="test", at=datetime.now(UTC)))
        wait_for(lambda: store.counts()[JobStatus.PAUSED] == 1, 30)
        job = store.job(Prefix("p/"))
        assert job is not None
        by_command = changed(job, replace(job, paused_by=PausedBy.COMMAND), datetime.now(UTC))
        store.record(Batch(changes=(by_command,), at=datetime.now(UTC)))
        stage.ledger.change({"sts.objects_per_second": 0})
        store.set_hold(None)
        assert daemon.wait(timeout=40) == 0
    store.close()


def steering(*words: str) -> Callable[[Stage, Shell], None]:
    def act(stage: Stage, shell: Shell) -> None:
        fill(stage, {f"p/{index}": b"x" for index in range(40)})
        stage.ledger.change({"sts.objects_per_second": 1})
        load(shell, "p/")
        assert shell.run("run", *BUCKETS, "--once").code == 0
        if words[0] == "resume-all-jobs":
            wait_for(lambda: "1 paused" in shell.run("pause-all-jobs", "--hold").out, 30)
        stage.ledger.permissions.clear()
        wait_for(lambda: not shell.run(*words).out.startswith("0 "), 30)

    return act


def after_a_run(*words: str) -> Callable[[Stage, Shell], None]:
    def act(stage: Stage, shell: Shell) -> None:
        fill(stage, {"p/x": b"x", "q/new\nline": b"x"})
        load(shell, "p/", "q/")
        assert shell.run("run", *BUCKETS, *QUICK, "--until-done", "--max-attempts", "1").code == 1
        stage.ledger.permissions.clear()
        assert shell.run(*words).code == 0

    return act


def cancelling(stage: Stage, shell: Shell) -> None:
    fill(stage, {f"p/{index}": b"x" for index in range(9)})
    stage.ledger.change({"sts.objects_per_second": 1})
    load(shell, "p/")
    assert shell.run("run", *BUCKETS, *QUICK, "--once").code == 0
    stage.ledger.permissions.clear()
    assert shell.run("cancel", "p/").code == 0


def alerting(stage: Stage, shell: Shell) -> None:
    stage.ledger.permissions.clear()
    assert shell.run("create-alerts").code == 0
    assert shell.run("create-alerts", "--sleep-timeout", "290", "--notification-channel", "projects/x").code == 2
    assert shell.run("create-alerts", "--sleep-timeout", "290").code == 0


def examined(stage: Stage, shell: Shell) -> None:
    fill(stage, {"p/x": b"x"})
    load(shell, "p/")
    stage.ledger.permissions.clear()
    stage.ledger.change({"gcs.policies": {SINK: []}})  # so that it looks for the agent's roles further up
    assert shell.run("doctor", *BUCKETS, "--publish-heartbeat").code == 0


def healthy(_stage: Stage, shell: Shell) -> None:
    (shell.folder / "beat").touch()
    assert shell.run("health", "--health-file", "beat").code == 0


SCENES: dict[str, Callable[[Stage, Shell], None]] = {
    "run": running,
    "prepare-tables": prepare_tables,
    "status": after_a_run("status"),
    "history": after_a_run("history", "p/"),
    "query": after_a_run("query", "failed"),
    "failures": after_a_run("failures"),
    "route": after_a_run("route", "p/", "cdn"),
    "rerun": after_a_run("rerun", "p/"),
    "cancel": cancelling,
    "follow": after_a_run("follow", "p/"),
    "retry": after_a_run("retry", "--errors"),
    "pause-all-jobs": steering("pause-all-jobs"),
    "resume-all-jobs": steering("resume-all-jobs"),
    "remove-successful-one-time-jobs": after_a_run("remove-successful-one-time-jobs"),
    "create-alerts": alerting,
    "doctor": examined,
    "health": healthy,
}


def test_every_command_is_documented() -> None:
    commands = {command.name for command in app.registered_commands if command.name} | {
        command.callback.__name__ for command in app.registered_commands if command.callback and not command.name
    }
    assert commands == set(documented()) == set(SCENES)


@pytest.mark.slow
@pytest.mark.parametrize("command", SCENES)
def test_used_is_documented(stage: Stage, shell: Shell, command: str) -> None:
    SCENES[command](stage, shell)
    assert set(stage.ledger.permissions) == documented()[command]
