"""What Cloud Monitoring shows when a run is over: its final numbers, whichever way it ended."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from sts_manager.domain.heartbeat import STEM
from tests.end_to_end.commands import BUCKETS, QUICK, Shell
from tests.stages import fill, wait_for
from tools.emulators.stage import Stage


@pytest.fixture
def shell(stage: Stage, tmp_path: Path) -> Shell:
    shell = Shell(tmp_path, stage.environment)
    fill(stage, {f"{prefix}{index}": b"x" for prefix in ("p/", "q/") for index in range(8)})
    (tmp_path / "prefixes.json").write_text('["p/", "q/"]')
    assert shell.run("prepare-tables", "--job-prefix-source-file", "prefixes.json").code == 0
    return shell


def shown(stage: Stage) -> dict[str, int]:
    """The last point of each gauge without labels."""
    assert stage.monitoring is not None
    return {
        one.shown.metric.type.removeprefix(STEM): one.points[-1].value.int64_value
        for one in stage.monitoring.series.series.values()
        if not one.shown.metric.labels
    }


@pytest.mark.slow
def test_a_run_until_done_is_shown_as_done(stage: Stage, shell: Shell) -> None:
    ran = shell.run("run", *BUCKETS, *QUICK, "--until-done", "--publish-heartbeat")
    assert (ran.code, "heartbeat_failed" in ran.err) == (0, False), ran.err
    last = shown(stage)
    assert (last["status/done"], last["status/running"], last["status/waiting"], last["metrics/unfinished"]) == (2, 0, 0, 0)


@pytest.mark.slow
def test_a_daemon_that_is_stopped_is_shown_as_its_table_is(stage: Stage, shell: Shell) -> None:
    with shell.started("run", *BUCKETS, *QUICK, "--max-concurrent-jobs", "1", "--publish-heartbeat") as daemon:
        wait_for(lambda: shown(stage).get("status/done", 0) + json.loads(shell.run("status", "--json").out)["counts"]["done"] > 0)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=40) == 0
    counts = json.loads(shell.run("status", "--json").out)["counts"]
    last = shown(stage)
    assert {name: last[f"status/{name}"] for name in counts} == counts
    assert last["metrics/unfinished"] == counts["waiting"] + counts["running"] + counts["paused"]
