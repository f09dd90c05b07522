"""Several prefixes in one transfer job, over several projects, with the service's own quotas: as users run it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.commands import BUCKETS, QUICK, Shell
from tests.proofs import sized
from tests.stages import SINK, SOURCE, at_sink, fill, s3_client
from tools.emulators.stage import PROJECT, Stage


def loaded(stage: Stage, folder: Path, prefixes: list[Any]) -> Shell:
    shell = Shell(folder, stage.environment)
    (folder / "prefixes.json").write_text(json.dumps(prefixes))
    ran = shell.run("prepare-tables", "--job-prefix-source-file", "prefixes.json")
    assert ran.code == 0, ran.err
    return shell


def rows(folder: Path, columns: str) -> list[Any]:
    with closing(sqlite3.connect(folder / "sts_manager.db")) as store:
        return store.execute(f"SELECT {columns} FROM sts_job ORDER BY prefix").fetchall()


@pytest.mark.slow
def test_ten_thousand_prefixes_need_a_hundredth_of_a_days_creates(stage: Stage, tmp_path: Path) -> None:
    number, jobs = sized((2_000, 10), (10_000, 50))
    prefixes = [f"p{index:05}/" for index in range(number)]
    objects = {f"{prefix}x": prefix.encode() for prefix in prefixes[::50]}
    fill(stage, objects)
    shell = loaded(stage, tmp_path, prefixes)
    words = ["--prefixes-per-job", "200", "--max-concurrent-jobs", "50", "--until-done"]
    with shell.started("run", *BUCKETS, *QUICK, *words) as daemon:
        out, err = daemon.communicate(timeout=300)
    assert daemon.returncode == 0, out + err
    calls = stage.ledger.calls
    assert calls["sts", "CreateTransferJob"] == jobs
    assert "RESOURCE_EXHAUSTED" not in err, "no window of the service was ever exceeded"
    assert at_sink(stage) == objects
    assert rows(tmp_path, "count(*), sum(objects_copied), count(lead), count(DISTINCT job_name)") == [
        (number, number // 50, number - jobs, jobs)
    ]
    told = shell.run("status").out
    assert f"quota of {PROJECT}: {jobs} of 5,000 create calls in the last 24 hours" in told


def test_a_culprit_is_found_and_the_others_are_done(stage: Stage, tmp_path: Path) -> None:
    prefixes = [f"p{index:02}/" for index in range(40)]
    objects = {f"{prefix}x": b"x" for prefix in prefixes}
    fill(stage, objects)
    with s3_client(stage) as source:
        source.put_object(Bucket=SOURCE, Key="p17/bad\nname", Body=b"x")
    shell = loaded(stage, tmp_path, prefixes)
    ended = shell.run(
        "run", *BUCKETS, *QUICK, "--until-done", "--prefixes-per-job", "40", "--max-concurrent-jobs", "50", "--max-attempts", "2"
    )
    assert ended.code == 1, ended.err
    assert [row for row in rows(tmp_path, "prefix, status, attempt") if row[1] != "done"] == [("p17/", "error", 2)]
    assert at_sink(stage) == objects
    table = shell.run("history", "p18/").out
    assert "with p00/" in table
    assert json.loads(shell.run("history", "p18/", "--json").out)[0]["shared_with"] == "p00/"


def test_projects_share_the_work_and_every_command_knows_both(stage: Stage, tmp_path: Path) -> None:
    stage.ledger.change({"projects.others": ["second-project"], "sts.creates_per_day": 3})
    prefixes = [f"p{index}/" for index in range(6)]
    fill(stage, {f"{prefix}x": b"x" for prefix in prefixes})
    shell = loaded(stage, tmp_path, prefixes)
    both = ["--project", PROJECT, "--project", "second-project"]
    ended = shell.run("run", *BUCKETS, *QUICK, *both, "--until-done", "--max-concurrent-jobs", "6")
    assert ended.code == 0, ended.err
    assert stage.sts is not None
    used = sorted(job.project_id for job in stage.sts.jobs.values())
    assert used == ["second-project"] * 3 + [PROJECT] * 3, "three creates a day are all that each allows"
    assert {row[0] for row in rows(tmp_path, "project")} == {PROJECT, "second-project"}
    assert "6 removed" in shell.run("remove-successful-one-time-jobs", *both).out


def test_an_egress_of_a_prefixs_own_goes_into_its_job(stage: Stage, tmp_path: Path) -> None:
    fill(stage, {f"{name}/x": b"x" for name in "abc"})
    own = ["a/", {"prefix": "b/", "egress": "managed-private-network"}, {"prefix": "c/", "egress": "https://d111.cloudfront.net"}]
    shell = loaded(stage, tmp_path, own)
    ended = shell.run("run", *BUCKETS, *QUICK, "--until-done", "--prefixes-per-job", "10")
    assert ended.code == 0, ended.err
    assert stage.sts is not None
    sources = {
        str(next(iter(job.transfer_spec.object_conditions.include_prefixes))): job.transfer_spec.aws_s3_data_source
        for job in stage.sts.jobs.values()
    }
    assert {prefix: (one.cloudfront_domain, one.managed_private_network) for prefix, one in sources.items()} == {
        "a/": ("", False),
        "b/": ("", True),
        "c/": ("https://d111.cloudfront.net", False),
    }


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--prefixes-per-job", "1001"], "--prefixes-per-job: 1001 will not do"),
        (["--prefixes-per-job", "0"], "--prefixes-per-job"),
        (["--project", "one-project", "--project", "one-project"], "names one-project twice"),
        (["--project", "UPPER"], "'UPPER' is not a project's id"),
    ],
)
def test_wrong_words_are_named(tmp_path: Path, stage: Stage, words: list[str], told: str) -> None:
    ran = Shell(tmp_path, stage.environment).run("run", *BUCKETS, *words)
    assert (ran.code, told in ran.err) == (2, True), ran.err


def test_an_egress_that_is_none_is_named_with_its_line(tmp_path: Path, stage: Stage) -> None:
    shell = Shell(tmp_path, stage.environment)
    (tmp_path / "p.json").write_text('["a/",\n {"prefix": "b/", "egress": "http://x"}]')
    ran = shell.run("prepare-tables", "--job-prefix-source-file", "p.json")
    assert (ran.code, "line 2: the egress of 'b/' is 'http://x'" in ran.err) == (2, True), ran.err


def test_two_rows_that_would_write_the_same_names_stop_a_run_before_it_begins(stage: Stage, tmp_path: Path) -> None:
    fill(stage, {"b/x": b"one", "a/b/x": b"another"})
    shell = loaded(stage, tmp_path, [{"prefix": "b/", "destination": f"gs://{SINK}/a"}, "a/b/"])
    ended = shell.run("run", *BUCKETS, *QUICK, "--until-done")
    assert ended.code == 2, ended.err
    assert "would write the same names" in ended.err
    assert f"gs://{SINK}/a/b/" in ended.err
    assert at_sink(stage) == {}
    assert stage.ledger.calls["sts", "CreateTransferJob"] == 0
