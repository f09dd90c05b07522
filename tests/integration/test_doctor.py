"""The doctor on the stage: a healthy one passes, and each planted fault is found and said with what to do."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from google.pubsub_v1 import types

from cdn_worker.queues.factory import prepare_queues
from sts_manager import app
from sts_manager.doctor.finding import Finding, Level
from sts_manager.doctor.regions import DOUBTFUL, PRIVATE_NETWORK, SUPPORTED
from sts_manager.doctor.run import examine
from sts_manager.settings import load_settings
from tests.end_to_end.test_pool import cdn_flags
from tests.stages import SINK, SOURCE, archive, environment, fill, restore, s3_client
from tools.emulators.stage import PROJECT, Stage

OBJECTS = {"p/1": b"one" * 500, "p/2": b"two" * 500}
Found = Mapping[str, Finding]
Examined = Callable[..., Found]


def cdn_settings(stage: Stage) -> dict[str, Any]:
    """The settings of a daemon that reads through the stage's CDN."""
    words = iter(cdn_flags(stage))
    given: dict[str, Any] = {name[2:].replace("-", "_"): value for name, value in zip(words, words, strict=True)}
    return given | {"source_bucket": f"s3://{SOURCE}", "destination_bucket": f"gs://{SINK}"}


@pytest.fixture
def examined(stage: Stage, tmp_path: Path) -> Examined:
    """Runs the doctor as the command does, with these settings; findings by check, the worst of each."""
    fill(stage, OBJECTS)
    with s3_client(stage) as source:
        source.put_object(Bucket=SOURCE, Key="p/1", Body=OBJECTS["p/1"], Metadata={"owner": "me"}, ContentType="text/x")

    def run(
        prefixes: tuple[str, ...] = (), env: Mapping[str, str | None] | None = None, clock_s: float = 0, **flags: Any
    ) -> Found:
        changed = env or {}
        given = cdn_settings(stage) | {"route": "sts-url-list"}
        given |= {"store": f"sqlite:///{tmp_path}/store.db", "publish_heartbeat": True} | flags
        with environment(stage.environment | {key: value for key, value in changed.items() if value is not None}):
            for key in (key for key, value in changed.items() if value is None):
                del os.environ[key]
            settings = load_settings({key: value for key, value in given.items() if value is not None}, {}, None)
            if settings.bigquery is None:
                app.store_of(settings, create=True).close()
            patient = app.patient_of(settings, frozenset({settings.route}))
            now = patient.now_s
            patient = replace(patient, now_s=lambda: now() + clock_s)
            found: dict[str, Finding] = {}
            order = [Level.SKIP, Level.PASS, Level.WARN, Level.FAIL]
            for one in examine(patient, app.means_of(settings), prefixes):
                if one.check not in found or order.index(one.level) > order.index(found[one.check].level):
                    found[one.check] = one
            return found

    return run


def test_a_healthy_stage_passes(stage: Stage, examined: Examined) -> None:
    before = (stage.ledger.report(), dict(stage.objects._buckets[SINK].objects))
    found = examined(("p/",))
    assert {one.level for one in found.values()} <= {Level.PASS, Level.SKIP, Level.WARN}
    assert {name for name, one in found.items() if one.level is Level.WARN} == {"job table"}, "it has no prefix yet"
    assert len([one for one in found.values() if one.level is Level.PASS]) >= 18
    writes = {"PutObject", "DeleteObject", "CreateTransferJob", "RunTransferJob", "objects.insert", "xml.put", "Publish"}
    calls = stage.ledger.report()
    changed = {
        name for service in calls for name in calls[service] if calls[service][name] != before[0].get(service, {}).get(name, 0)
    }
    assert not changed & writes, "nothing is changed"
    assert dict(stage.objects._buckets[SINK].objects) == before[1]


def denied(permission: str) -> dict[str, Any]:
    return {"iam.denied": [permission]}


def lacking(role: str) -> dict[str, Any]:
    member = f"serviceAccount:{PROJECT}@storage-transfer-service.iam.gserviceaccount.com"
    roles = {"roles/storage.legacyBucketReader", "roles/storage.objectAdmin"} - {role}
    return {"gcs.policies": {SINK: [{"role": one, "members": [member]} for one in sorted(roles)]}}


@dataclass(frozen=True)
class Planted:
    """A fault: the check that must find it, what is said, and what to do; how the stage and the call are to be for it.

    level: how sure the doctor may be of it.
    """

    check: str
    says: str
    fix: str
    stage: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str | None] = field(default_factory=dict)
    level: Level = Level.FAIL


AGENT = "agent's roles on gs://sink-bucket"
OBJECT_ADMIN, BUCKET_READER = "roles/storage.objectAdmin", "roles/storage.legacyBucketReader"
AUTOCLASS = {"gcs.buckets": {SINK: {"autoclass": {"enabled": True}}}}
NOWHERE = {"route": "cdn", "queue": f"pubsub://{PROJECT}/nowhere?board=gs://{SINK}/b.json"}
STS_OFF = {"apis.disabled": ["storagetransfer.googleapis.com"]}
FAULTS = [
    Planted("Storage Transfer API", "is off", "gcloud services enable storagetransfer", STS_OFF),
    Planted(AGENT, "storage.objects.create", f"--role={OBJECT_ADMIN}", lacking(OBJECT_ADMIN), level=Level.WARN),
    Planted(AGENT, "storage.buckets.get", f"--role={BUCKET_READER}", lacking(BUCKET_READER), level=Level.WARN),
    Planted(
        "permissions for transfers",
        "storagetransfer.projects.getServiceAccount is",
        "roles/storagetransfer.user",
        denied("storagetransfer.projects.getServiceAccount"),
    ),
    Planted(
        "permissions for transfers",
        "storagetransfer.jobs.run is",
        "roles/storagetransfer.user",
        denied("storagetransfer.jobs.run"),
    ),
    Planted("Monitoring write", "is missing", "roles/monitoring.metricWriter", denied("monitoring.timeSeries.create")),
    Planted(
        "bucket gs://no-such-sink", "does not exist", "storage buckets create", call={"destination_bucket": "gs://no-such-sink"}
    ),
    Planted("workers' rights on the sink", "storage.objects.update", "storage.objectUser", denied("storage.objects.update")),
    *(
        Planted(
            "storage class and Autoclass",
            "--storage-class NEARLINE is ignored",
            "--no-enable-autoclass",
            AUTOCLASS,
            {"storage_class": "NEARLINE", "route": route},
            level=Level.WARN,
        )
        for route in ("sts-s3", "cdn")
    ),
    Planted("how the service opens S3", "temporary", "--s3-role-arn", env={"AWS_SESSION_TOKEN": "t"}),
    Planted("how the service opens S3", "no keys in the environment", "--s3-role-arn", env={"AWS_ACCESS_KEY_ID": None}),
    Planted("AWS region", "there is no such region", "AWS_REGION=eu-west-1", env={"AWS_DEFAULT_REGION": "eu-wset-1"}),
    Planted(
        "AWS region", "is in us-east-1, and AWS_REGION says", "AWS_REGION=us-east-1", env={"AWS_DEFAULT_REGION": "eu-west-1"}
    ),
    Planted("list the source", "does not take these credentials", "AWS_SECRET", env={"AWS_SECRET_ACCESS_KEY": "wrong"}),
    Planted("list the source", "no bucket s3://no-such-source", "--source-bucket", call={"source_bucket": "s3://no-such-source"}),
    Planted("clock", "ahead of", "timedatectl", call={"clock_s": 400}),
    Planted("clock", "behind", "timedatectl", call={"clock_s": -3600}),
    Planted("read through the CDN", "403", "trusted key group", call={"cdn_key_pair_id": "K0000000000000"}),
    Planted(
        "read through the CDN", "403", "give --cdn-key-pair-id", call={"cdn_key_pair_id": None, "cdn_private_key_file": None}
    ),
    Planted("job table", "bigquery", "prepare-tables", denied("bigquery.tables.getData"), {"store": "bigquery"}),
    Planted("the pool's queue", "nowhere", "cdn-worker prepare-queue", call=NOWHERE),
]


@pytest.mark.parametrize("planted", FAULTS, ids=[f"{one.check}: {one.says} {one.call.get('route', '')}" for one in FAULTS])
def test_a_planted_fault_is_found(stage: Stage, examined: Examined, planted: Planted) -> None:
    stage.ledger.change(dict(planted.stage))
    found = examined(env=planted.env, **planted.call)[planted.check]
    assert found.level is planted.level, found
    assert planted.says in found.says
    assert planted.fix in found.fix


@pytest.mark.parametrize(
    ("service", "method", "error", "check", "says", "fix"),
    [
        ("s3", "GetObject", "AccessDenied", "read the source", "AccessDenied", "s3:GetObject on arn:aws:s3:::source-bucket"),
        ("s3", "ListObjectsV2", "AccessDenied", "list the source", "AccessDenied", "s3:ListBucket"),
        ("cdn", "GET", "REDIRECT", "read through the CDN", "redirects (302)", "viewer protocol policy"),
        ("cdn", "GET", "NOT_FOUND", "read through the CDN", "404, and S3 has it", "origin path empty"),
        ("cdn", "GET", "CHANGED_ETAG", "read through the CDN", "has ETag 0000", "the distribution's origin must be this bucket"),
        ("cdn", "GET", "COMPRESSED", "read through the CDN", "has ETag", "no compression"),
    ],
)
def test_a_source_that_refuses_or_misbehaves_is_found(
    stage: Stage, examined: Examined, service: str, method: str, error: str, check: str, says: str, fix: str
) -> None:
    stage.ledger.add_rule({"service": service, "method": method, "error": error, "times": 0, "message": "Access Denied"})
    found = examined()[check]
    assert (found.level, says in found.says, fix in found.fix) == (Level.FAIL, True, True), found


@pytest.mark.parametrize(
    ("error", "after", "check", "says"),
    [
        ("WHOLE", 1, "ranges through the CDN", "answered 200"),
        ("COMPRESSED", 2, "compression by the CDN", "bytes and ETag differ"),
    ],
)
def test_a_cdn_that_spoils_what_it_passes_on_is_found(
    stage: Stage, examined: Examined, error: str, after: int, check: str, says: str
) -> None:
    stage.ledger.add_rule({"service": "cdn", "method": "GET", "error": error, "times": 0, "after": after})
    found = examined()[check]
    assert (found.level, says in found.says) == (Level.FAIL, True), found


def test_a_cdn_that_drops_metadata_or_is_closed_to_robots_is_found(stage: Stage, examined: Examined) -> None:
    assert stage.cdn is not None
    stage.cdn.files["/robots.txt"] = b"User-agent: *\nDisallow: /\n"
    stage.cdn.dropped.add("x-amz-meta-owner")
    try:
        found = examined()
    finally:
        stage.cdn.files.clear()
        stage.cdn.dropped.clear()
    assert (found["headers kept by the CDN"].level, found["fit for URL lists"].level) == (Level.FAIL, Level.FAIL)
    assert "x-amz-meta-owner of 'p/1' would be lost" in found["headers kept by the CDN"].says
    assert "robots.txt" in found["fit for URL lists"].says


def test_each_project_that_shares_the_work_is_looked_at(stage: Stage, examined: Examined) -> None:
    both = {"project": f"{PROJECT},second-project"}
    found = examined(**both)
    assert found["Storage Transfer API"].level is Level.PASS
    assert found["Storage Transfer API (second-project)"].level is Level.FAIL, "the stage does not know it"
    stage.ledger.change({"projects.others": ["second-project"]})
    found = examined(**both)
    assert found["Storage Transfer API (second-project)"].level is Level.PASS
    lacking_there = found["agent's roles on gs://sink-bucket (second-project)"]
    assert (lacking_there.level, "second-project@storage-transfer-service" in lacking_there.fix) == (Level.WARN, True)


def test_what_costs_unawares_is_a_warning(stage: Stage, examined: Examined) -> None:
    kept = {"softDeletePolicy": {"retentionDurationSeconds": "604800"}, "retentionPolicy": {"retentionPeriod": "60"}}
    key = "projects/p/locations/eu/keyRings/r/cryptoKeys/k"
    stage.ledger.change({"gcs.buckets": {SINK: kept | {"location": "EUROPE-WEST1", "encryption": {"defaultKmsKeyName": key}}}})
    found = examined()
    for check, says in (
        ("soft delete", "for 7 more days; what is renamed is not"),
        ("retention", "cannot be overwritten"),
        ("KMS key of the sink", key),
        ("distance", "us-east-1, the sink in EUROPE-WEST1"),
    ):
        assert (found[check].level, says in found[check].says) == (Level.WARN, True), found[check]


def test_a_subscription_without_dead_letters_is_found(stage: Stage, examined: Examined) -> None:
    address = f"pubsub://{PROJECT}/sts-pool?board=gs://{SINK}/board.json"
    with environment(stage.environment):
        prepare_queues(address)
    assert examined(route="cdn", queue=address)["the pool's queue"].level is Level.PASS
    assert stage.pubsub is not None
    copies = stage.pubsub.broker.subscriptions[f"projects/{PROJECT}/subscriptions/sts-pool-copies"]
    copies.config.dead_letter_policy = types.DeadLetterPolicy()
    found = examined(route="cdn", queue=address)["the pool's queue"]
    assert (found.level, "no dead-letter policy" in found.says) == (Level.FAIL, True)


def test_a_dataset_that_may_not_be_written_is_found(stage: Stage, examined: Examined) -> None:
    with environment(stage.environment):
        app.store_of(load_settings({"store": "bigquery"}, {}, None), create=True).close()
    assert examined(store="bigquery")["job table"].level is Level.WARN, "no prefix yet"
    stage.ledger.change({"iam.denied": ["bigquery.tables.updateData"]})
    found = examined(store="bigquery")["job table"]
    assert (found.level, "bigquery.tables.updateData missing" in found.says) == (Level.FAIL, True)
    assert f"ON SCHEMA `{PROJECT}`.data_migration TO" in found.fix


def test_a_role_under_a_condition_is_not_taken_for_granted(stage: Stage, examined: Examined) -> None:
    agent = lacking("")["gcs.policies"][SINK]
    for binding in agent:
        binding["condition"] = {"title": "office hours", "expression": "request.time.getHours() < 17"}
    stage.ledger.change({"gcs.policies": {SINK: agent}})
    assert examined()[AGENT].level is Level.WARN
    stage.ledger.change({"iam.project_policy": agent})
    assert examined()[AGENT].level is Level.WARN, "nor is one on the project"


MEMBERS = lacking("")["gcs.policies"][SINK][0]["members"]


def test_a_role_on_the_project_counts(stage: Stage, examined: Examined) -> None:
    admin = {"role": "roles/storage.admin", "members": MEMBERS}
    stage.ledger.change({"gcs.policies": {SINK: []}, "iam.project_policy": [admin]})
    found = examined()[AGENT]
    assert (found.level, found.says) == (Level.PASS, "roles/storage.admin (on its project)")
    stage.ledger.change({"gcs.policies": {SINK: [{"role": BUCKET_READER, "members": MEMBERS}]}})
    half = {"role": OBJECT_ADMIN, "members": [*MEMBERS, "user:someone@example.com"]}
    stage.ledger.change({"iam.project_policy": [half]})
    found = examined()[AGENT]
    assert (found.level, found.says) == (Level.PASS, f"{BUCKET_READER}, {OBJECT_ADMIN} (on its project)")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, "nor does its project; a folder or the organisation may"),
        (denied("resourcemanager.projects.getIamPolicy"), "getIamPolicy: Cloud Resource Manager answered 403"),
        ({"apis.disabled": ["cloudresourcemanager.googleapis.com"]}, "a folder or the organisation cannot be seen"),
        (denied("storage.buckets.get"), "as the bucket may not be looked at"),
        (
            {"iam.project_policy": [{"role": "projects/p/roles/mover", "members": MEMBERS}]},
            "what projects/p/roles/mover may is not known here",
        ),
    ],
)
def test_roles_that_may_be_granted_further_up_are_doubted_and_not_denied(
    stage: Stage, examined: Examined, change: dict[str, Any], says: str
) -> None:
    stage.ledger.change({"gcs.policies": {SINK: []}} | change)
    found = examined()[AGENT]
    assert (found.level, says in found.says) == (Level.WARN, True), found
    assert f"--role={OBJECT_ADMIN}" in found.fix


FOLDERS = {"gcs.buckets": {SINK: {"hierarchicalNamespace": {"enabled": True}}}}


def test_a_bucket_with_folders_asks_for_more_rights(stage: Stage, examined: Examined) -> None:
    writer = [{"role": role, "members": MEMBERS} for role in ("roles/storage.legacyBucketWriter", "roles/storage.objectViewer")]
    stage.ledger.change({"gcs.policies": {SINK: writer}})
    assert examined()[AGENT].level is Level.PASS
    stage.ledger.change(FOLDERS | denied("storage.folders.create"))
    found = examined()
    assert (found["folders of the sink"].level, "512 bytes" in found["folders of the sink"].says) == (Level.WARN, True)
    assert (found[AGENT].level, "storage.folders.create" in found[AGENT].says) == (Level.WARN, True)
    assert found[AGENT].fix.endswith("--role=roles/storage.objectUser")
    assert found["workers' rights on the sink"].says == "storage.folders.create missing"


def test_names_that_a_bucket_with_folders_may_not_take_are_found(stage: Stage, examined: Examined) -> None:
    with s3_client(stage) as source:
        for key in ("p//empty", "p/../up", "p/./here", "p/" + "f" * 511 + "/x", "p/" + "b" * 513, "p/" + "b" * 512):
            source.put_object(Bucket=SOURCE, Key=key, Body=b"x")
    assert not [one for one in listed(stage, examined, "p/") if one.level is Level.FAIL]
    stage.ledger.change(FOLDERS)
    by_level = {one.level: one.says for one in listed(stage, examined, "p/")}
    assert by_level[Level.FAIL].startswith("2 name too long for a bucket with folders of 8; for example 'p/bbb")
    assert by_level[Level.WARN].startswith("3 of 8 have a part that is empty, '.' or '..'; for example 'p/../up'")


@pytest.mark.parametrize(
    ("region", "network", "says"),
    [
        ("eu-west-1", True, ""),
        ("me-central-1", False, ""),
        ("me-central-1", True, "not for its managed private network"),
        ("ap-southeast-7", False, "does not list ap-southeast-7"),
        ("mx-central-1", False, "does not list mx-central-1"),
        ("cn-north-1", False, "does not list cn-north-1"),
        ("us-gov-west-1", False, "only one has us-gov-west-1"),
    ],
)
def test_a_region_that_the_service_does_not_list_is_doubted(
    stage: Stage, examined: Examined, region: str, network: bool, says: str
) -> None:
    bucket = f"bucket-in-{region}"
    with s3_client(stage) as source:
        source.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": region})
        source.put_object(Bucket=bucket, Key="p/1", Body=b"x")
    there = {"source_bucket": f"s3://{bucket}", "env": {"AWS_DEFAULT_REGION": None}, "s3_managed_private_network": network}
    found = examined(route="sts-s3", cdn_url=None, cdn_key_pair_id=None, cdn_private_key_file=None, **there)
    doubted = found["AWS region for transfers"]
    assert (doubted.level, says in doubted.says) == (Level.WARN if says else Level.PASS, True), doubted
    assert "AWS region for transfers" not in examined(route="cdn", source_bucket=f"s3://{bucket}"), "its workers read any region"


def test_the_services_lists_are_as_long_as_on_its_page() -> None:
    assert (len(SUPPORTED), len(PRIVATE_NETWORK), len(SUPPORTED & DOUBTFUL)) == (29, 21, 0)


def test_a_listing_that_cannot_be_copied_is_found(stage: Stage, examined: Examined) -> None:
    with s3_client(stage) as source:
        source.put_object(Bucket=SOURCE, Key="p/cold", Body=b"x", StorageClass="GLACIER")
        source.put_object(Bucket=SOURCE, Key="p/line\nbreak", Body=b"x")
        source.put_object(Bucket=SOURCE, Key="p/tagged", Body=b"x", Tagging="owner=me")
    found = examined(("p/",))["prefix 'p/'"]
    assert found.level is Level.FAIL
    told = [one.says for one in listed(stage, examined, "p/")]
    assert any("1 archived of 5; for example 'p/cold'" in one for one in told)
    assert any("1 unmappable name of 5; for example 'p/line\\nbreak'" in one for one in told)
    assert any("have tags, which no route carries; for example 'p/tagged'" in one for one in told)
    assert examined(("nowhere/",))["prefix 'nowhere/'"].says.startswith("no object begins with")
    collided = listed(stage, examined, "p/", cdn_substitute="1=x;2=x")
    assert any("1 collision of 5" in one.says for one in collided)


@pytest.mark.parametrize(
    ("route", "classes", "number", "fix"),
    [
        ("cdn", "", 2, "restore them first"),
        ("sts-s3", "", 3, "restored or not"),
        ("sts-s3", "GLACIER,DEEP_ARCHIVE", 2, "restored or not"),
        ("cdn", "STANDARD", 0, ""),
    ],
)
def test_what_is_archived_is_judged_by_the_route(
    stage: Stage, examined: Examined, route: str, classes: str, number: int, fix: str
) -> None:
    archive(stage, "cold/flexible", "GLACIER")
    archive(stage, "cold/restored", "GLACIER")
    archive(stage, "cold/deep", "DEEP_ARCHIVE")
    archive(stage, "cold/warm", "STANDARD")
    restore(stage, "cold/restored")
    found = [one for one in listed(stage, examined, "cold/", route, include_storage_classes=classes) if "archived" in one.says]
    assert [(one.level, one.says.split()[0]) for one in found] == ([(Level.FAIL, str(number))] if number else [])
    assert all(fix in one.fix for one in found)


def test_archive_tiers_are_looked_for_where_no_listing_tells_them(stage: Stage, examined: Examined) -> None:
    for index in range(3):
        archive(stage, f"tiered/{index}", "ARCHIVE_ACCESS")
    archive(stage, "tiered/3", "INTELLIGENT_TIERING")
    (one,) = [one for one in listed(stage, examined, "tiered/") if "archive tier" in one.says]
    assert one.level is Level.WARN
    assert "3 of 4 looked at in INTELLIGENT_TIERING are in an archive tier" in one.says
    assert "--restore-request '{}'" in one.fix
    for index in range(3):
        restore(stage, f"tiered/{index}")
    (one,) = [one for one in listed(stage, examined, "tiered/") if "archive tier" in one.says]
    assert (one.level, "none of 4 looked at" in one.says) == (Level.PASS, True)


def test_the_source_is_read_by_an_object_that_can_be_read(stage: Stage, examined: Examined) -> None:
    """Those that stand before it in the listing are archived, each in its way."""
    archive(stage, "!1", "GLACIER")
    for index in range(2, 5):
        archive(stage, f"!{index}", "ARCHIVE_ACCESS")
    found = examined()
    assert found["read the source"].level is Level.PASS
    assert found["read through the CDN"].level is Level.PASS
    for index in range(10, 30):
        archive(stage, f"!{index}", "ARCHIVE_ACCESS")
    warned = examined()["read the source"]
    assert (warned.level, "archive tier" in warned.says) == (Level.WARN, True)


def listed(stage: Stage, examined: Examined, prefix: str, route: str = "cdn", **flags: Any) -> list[Finding]:
    """All that is found of one prefix, not only the worst."""
    with environment(stage.environment):
        settings = load_settings(cdn_settings(stage) | flags, {}, None)
        patient = app.patient_of(settings, frozenset({route}))
        return [one for one in examine(patient, app.means_of(settings), [prefix]) if one.check == f"prefix {prefix!r}"]


def test_what_cannot_be_looked_at_is_a_warning_and_stops_no_other_check(stage: Stage, examined: Examined) -> None:
    stage.ledger.add_rule({"service": "gcs", "method": "buckets.getIamPolicy", "error": "FORBIDDEN", "times": 0})
    stage.ledger.change({"apis.disabled": ["cloudresourcemanager.googleapis.com"]})
    found = examined()
    assert found["agent's roles on gs://sink-bucket"].level is Level.WARN
    assert found["permissions for transfers"].level is Level.WARN
    assert "nobody can tell" in found["permissions for transfers"].says
    assert found["read through the CDN"].level is Level.PASS


def test_no_secret_is_in_a_finding(stage: Stage, examined: Examined) -> None:
    stage.ledger.add_rule({"service": "cdn", "method": "GET", "error": "RESET", "times": 0})
    told = " ".join(f"{one.says} {one.fix}" for one in examined().values())
    assert "Signature=" not in told.replace("Signature=…", "")
    assert stage.environment["AWS_SECRET_ACCESS_KEY"] not in told
