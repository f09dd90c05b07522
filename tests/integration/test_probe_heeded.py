"""What a probe observed is kept in the job table, and heeded where the program has a choice."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sts_manager import app
from sts_manager.cli import probe as probe_wiring
from sts_manager.cli.probe_options import ProbeOptions
from sts_manager.doctor.finding import Finding, Level
from sts_manager.doctor.run import examine
from sts_manager.domain.heartbeat import Vitals
from sts_manager.domain.service_answers import ServiceAnswers
from sts_manager.settings import load_settings
from tests.end_to_end.test_url_lists import Lists
from tests.probes import OBJECTS, Probing
from tests.stages import SINK, SOURCE, fill
from tools.emulators.stage import PROJECT, Stage

AGENT = f"serviceAccount:{PROJECT}@storage-transfer-service.iam.gserviceaccount.com"
NOT_ON_THE_BUCKET = {"gcs.policies": {SINK: [{"role": "roles/storage.legacyBucketReader", "members": [AGENT]}]}}


def answers(**given: str) -> ServiceAnswers:
    return ServiceAnswers(probe="p", at=datetime.now(UTC), project=PROJECT, destination=f"gs://{SINK}", answers=given)


def store(settings: Any, known: ServiceAnswers | None) -> None:
    with closing(app.store_of(settings, create=True)) as opened:
        opened.set_answers(known)


# A grant that the bucket's policy does not show


def agents_roles(folder: Path) -> Finding:
    given = {"source_bucket": f"s3://{SOURCE}", "destination_bucket": f"gs://{SINK}", "store": f"sqlite:///{folder}/store.db"}
    settings = load_settings(given, {}, None)
    patient = app.patient_of(settings, frozenset({"sts-s3"}), app.answers_of(settings))
    found = {one.check: one for one in examine(patient, app.means_of(settings))}
    return found[f"agent's roles on gs://{SINK}"]


def test_the_doctor_does_not_doubt_a_right_that_a_transfer_has_shown(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    stage.ledger.change(NOT_ON_THE_BUCKET)
    probing = Probing(stage, tmp_path, {"publish_heartbeat": False})
    probing.prepare_store()
    before = agents_roles(tmp_path)
    assert (before.level, "storage.objects.create" in before.says) == (Level.WARN, True)
    probe_wiring.probe(probing.settings(), ProbeOptions(yes=True, report=tmp_path / "r.json"), Console())
    told = json.loads((tmp_path / "r.json").read_text())["observations"]
    assert [one["outcome"] for one in told if one["subject"] == "transfer: agent's rights"] == ["noted"]
    after = agents_roles(tmp_path)
    assert (after.level, "a probe's transfer shows that it is granted" in after.says) == (Level.PASS, True)


@pytest.mark.parametrize(
    ("known", "doubted"),
    [
        (None, {"create", "delete", "get"}),
        (answers(transfer="failed", transfer_to=SINK, transfer_replaced="yes"), {"create", "delete", "get"}),
        (answers(transfer="succeeded", transfer_to="else", transfer_replaced="yes"), {"create", "delete", "get"}),
        (answers(transfer="succeeded", transfer_to=SINK), {"delete"}),
        (answers(transfer="succeeded", transfer_to=SINK, transfer_replaced="no"), {"delete"}),
    ],
)
def test_it_doubts_what_no_transfer_has_shown(
    stage: Stage, tmp_path: Path, known: ServiceAnswers | None, doubted: set[str]
) -> None:
    fill(stage, OBJECTS)
    stage.ledger.change(NOT_ON_THE_BUCKET)
    store(Probing(stage, tmp_path).settings(), known)
    found = agents_roles(tmp_path)
    assert found.level is Level.WARN
    assert set(re.findall(r"storage\.objects\.(\w+)", found.says)) == doubted


@pytest.mark.parametrize(("overwrite", "replaced"), [("", "yes"), ("NEVER", "no")])
def test_a_probe_replaces_an_object_where_transfers_may(stage: Stage, tmp_path: Path, overwrite: str, replaced: str) -> None:
    fill(stage, OBJECTS)
    report = Probing(stage, tmp_path, {"publish_heartbeat": False, "overwrite_when": overwrite}).run()
    assert report.answers["transfer_replaced"] == replaced
    assert not report.failed


# A region that Cloud Monitoring refuses


@pytest.mark.parametrize(
    ("known", "location"),
    [
        (None, "europe-west1"),
        (answers(monitoring_location="taken", monitoring_location_of="europe-west1"), "europe-west1"),
        (answers(monitoring_location="refused", monitoring_location_of="us-east1"), "europe-west1"),
        (answers(monitoring_location="refused", monitoring_location_of="europe-west1"), "global"),
    ],
)
def test_the_daemon_publishes_where_points_are_taken(
    stage: Stage, tmp_path: Path, known: ServiceAnswers | None, location: str
) -> None:
    given = {"store": "bigquery", "dataset_location": "europe-west1", "publish_heartbeat": True}
    settings = load_settings(given, {}, None)
    store(settings, known)
    with closing(app.store_of(settings)) as opened:
        app.pulse_of(settings, opened).beat(Vitals())
    assert stage.monitoring is not None
    places = {dict(one.shown.resource.labels)["location"] for one in stage.monitoring.series.series.values()}
    assert places == {location}


# Names of a URL list that cannot be undone


@pytest.mark.slow
@pytest.mark.parametrize("known", [False, True])
def test_a_route_that_cannot_work_is_refused_before_anything_is_transferred(stage: Stage, tmp_path: Path, known: bool) -> None:
    fill(stage, {"a/1": b"one", "a/b c": b"two"})
    stage.ledger.change({"sts.url_list_names": "query"})
    lists = Lists(stage, tmp_path)
    if known:
        probing = Probing(stage, tmp_path, {"store": f"sqlite:///{tmp_path}/sts_manager.db", "publish_heartbeat": False})
        probe_wiring.probe(probing.settings(), ProbeOptions(yes=True, report=tmp_path / "r.json"), Console())
    assert stage.sts is not None
    before = len(stage.sts.jobs)
    ran = lists.run("--max-attempts", "1")
    assert ran.code in (1, 3), ran.err
    code, message = lists.row("error_code, error_message")
    if known:
        assert code == "ROUTE_UNFIT"
        assert "found that the service calls objects of a URL list" in message
        assert len(stage.sts.jobs) == before, "no transfer job was made for it"
    else:
        assert code == "URL_LIST_NAMES"
        assert len(stage.sts.jobs) == before + 1, "the canary's"


# What is kept


def test_what_was_not_looked_at_again_is_kept(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    probing = Probing(stage, tmp_path)
    probing.prepare_store()
    store(probing.settings(), answers(url_list_names="unknown", session_generation_header="yes"))
    given = {"cdn_url": None, "cdn_key_pair_id": None, "cdn_private_key_file": None, "publish_heartbeat": False}
    plain = replace(probing, flags=given)
    probe_wiring.probe(plain.settings(), ProbeOptions(yes=True, report=tmp_path / "r.json"), Console())
    kept = app.answers_of(plain.settings())
    assert kept is not None
    assert kept.names_unusable, "of an earlier probe, which had a CDN"
    assert kept.answers["session_generation_header"] == "no", "of this one"
    assert kept.transfer_succeeded(PROJECT, SINK)


def test_a_store_of_an_older_program_has_no_answers_and_opens(tmp_path: Path, stage: Stage) -> None:
    settings = Probing(stage, tmp_path).settings()
    app.store_of(settings, create=True).close()
    with closing(sqlite3.connect(tmp_path / "store.db")) as database:
        assert not database.execute("SELECT * FROM sts_job_control WHERE key = 'answers'").fetchall()
    assert app.answers_of(settings) is None
