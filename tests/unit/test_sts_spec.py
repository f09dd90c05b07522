from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.cloud import storage_transfer_v1 as sts

from sts_manager.domain.location import place
from sts_manager.domain.model import OperationState, Route, StartJob
from sts_manager.domain.names import JobName, Prefix, job_name
from sts_manager.routes.sts.route import is_one_time, snapshot
from sts_manager.routes.sts.spec import S3Access, TransferSettings, differences, transfer_job, transfer_spec
from tools.emulators.sts.copier import Status
from tools.emulators.sts.defaults import fill_defaults
from tools.emulators.sts.rules import check_job

OFFICIAL: Any = sts.TransferOperation.Status  # proto-plus types its enums as classes of ints
KEYS = S3Access(key_id="AKIA", secret_key="hunter2")
ORDER = StartJob(prefix=Prefix("a b/"), attempt=1, job_name=job_name("m1", Prefix("a b/"), 1), route=Route.STS_S3)
S3 = TransferSettings(project="p", source=place("s3://src-bucket/in"), sink=place("gs://dst-bucket/out/"), s3_access=KEYS)
GCS = TransferSettings(project="p", source=place("src-bucket"), sink=place("dst-bucket"))


def test_an_s3_job_as_the_service_takes_it() -> None:
    settings = replace(
        S3,
        s3_cloudfront_domain="https://d1.cloudfront.net",
        overwrite_when="NEVER",
        storage_class="NEARLINE",
        modified_since=datetime(2026, 1, 1, tzinfo=UTC),
        log_failures=True,
    )
    job = transfer_job(ORDER, settings)
    check_job(job)
    spec = job.transfer_spec
    source = spec.aws_s3_data_source
    assert (source.bucket_name, source.path) == ("src-bucket", "in/")
    assert (source.aws_access_key.access_key_id, source.cloudfront_domain) == ("AKIA", "https://d1.cloudfront.net")
    assert (spec.gcs_data_sink.bucket_name, spec.gcs_data_sink.path) == ("dst-bucket", "out/")
    assert list(spec.object_conditions.include_prefixes) == ["a b/"]
    assert spec.object_conditions.last_modified_since == datetime(2026, 1, 1, tzinfo=UTC)
    assert spec.transfer_options.overwrite_when == sts.TransferOptions.OverwriteWhen.NEVER
    classes = sts.MetadataOptions.StorageClass
    assert spec.transfer_options.metadata_options.storage_class == classes.STORAGE_CLASS_NEARLINE
    assert list(job.logging_config.log_action_states) == [sts.LoggingConfig.LoggableActionState.FAILED]
    assert "schedule" not in job


@pytest.mark.parametrize(
    ("access", "field"),
    [
        (S3Access(role_arn="arn:aws:iam::123456789012:role/x"), "role_arn"),
        (S3Access(credentials_secret="projects/1/secrets/x"), "credentials_secret"),
    ],
)
def test_the_other_ways_to_open_s3(access: S3Access, field: str) -> None:
    job = transfer_job(ORDER, replace(S3, s3_access=access, s3_managed_private_network=True))
    check_job(job)
    assert getattr(job.transfer_spec.aws_s3_data_source, field)
    assert job.transfer_spec.aws_s3_data_source.managed_private_network


def test_a_gcs_job_as_the_older_tool_made_it() -> None:
    job = transfer_job(ORDER, replace(GCS, overwrite=True))
    check_job(job)
    assert job.transfer_spec.gcs_data_source.bucket_name == "src-bucket"
    assert job.transfer_spec.transfer_options.overwrite_objects_already_existing_in_sink


def test_exactly_one_way_opens_s3_and_none_shows_its_secret() -> None:
    assert "hunter2" not in repr(KEYS)
    assert "hunter2" not in repr(S3)
    with pytest.raises(ValueError, match="exactly one"):
        S3Access()
    with pytest.raises(ValueError, match="exactly one"):
        S3Access(role_arn="a", key_id="b")
    with pytest.raises(ValueError, match="needs credentials"):
        replace(S3, s3_access=None)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (replace(S3, source=place("s3://other-bucket/in")), ["source"]),
        (replace(S3, source=place("s3://src-bucket/elsewhere")), ["source"]),
        (replace(S3, sink=place("gs://dst-bucket/elsewhere")), ["sink"]),
        (replace(S3, overwrite=True), ["transfer_options"]),
        (replace(S3, modified_before=datetime(2026, 1, 1, tzinfo=UTC)), ["object_conditions"]),
        (replace(S3, s3_access=S3Access(role_arn="arn:aws:iam::123456789012:role/x")), []),
        (replace(S3, overwrite_when="NEVER"), ["transfer_options"]),
        (replace(S3, overwrite_when="DIFFERENT"), []),
        (replace(S3, storage_class="NEARLINE"), ["transfer_options"]),
        (replace(S3, log_failures=True), []),
        (S3, []),
    ],
)
def test_what_makes_an_existing_job_another_one(other: TransferSettings, named: list[str]) -> None:
    found = transfer_job(ORDER, other).transfer_spec
    assert list(differences(transfer_job(ORDER, S3).transfer_spec, found)) == named


@pytest.mark.parametrize(
    "more",
    [{}, {"overwrite": True}, {"overwrite_when": "NEVER"}, {"storage_class": "ARCHIVE"}, {"s3_managed_private_network": True}],
)
def test_defaults_that_are_spelled_out_make_no_other_job(more: dict[str, Any]) -> None:
    ours = transfer_job(ORDER, replace(S3, **more)).transfer_spec
    theirs = sts.TransferSpec(ours)
    fill_defaults(theirs)
    assert theirs != ours
    assert list(differences(ours, theirs)) == []
    others = transfer_spec(ORDER, replace(S3, **{**more, "storage_class": "COLDLINE"}))
    assert list(differences(others, theirs)) == ["transfer_options"]


def test_paths_are_alike_with_and_without_a_slash_at_their_end() -> None:
    ours = transfer_job(ORDER, S3).transfer_spec
    theirs = sts.TransferSpec(ours)
    theirs.aws_s3_data_source.path, theirs.gcs_data_sink.path = "in", "out"
    assert list(differences(ours, theirs)) == []
    theirs.gcs_data_sink.path = "out/deep"
    assert list(differences(ours, theirs)) == ["sink"]


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("transfer_options.delete_objects_unique_in_sink", True, "transfer_options"),
        ("transfer_options.delete_objects_from_source_after_transfer", True, "transfer_options"),
        ("object_conditions.exclude_prefixes", ["a b/x"], "object_conditions"),
        ("object_conditions.max_time_elapsed_since_last_modification", timedelta(days=1), "object_conditions"),
        ("object_conditions.min_time_elapsed_since_last_modification", timedelta(days=1), "object_conditions"),
    ],
)
def test_what_we_never_ask_for_makes_another_job(path: str, value: object, named: str) -> None:
    ours = transfer_job(ORDER, S3).transfer_spec
    theirs = sts.TransferSpec(ours)
    part, name = path.split(".")
    setattr(getattr(theirs, part), name, value)
    assert list(differences(ours, theirs)) == [named]


@pytest.mark.parametrize("domain", ["", "https://d1.cloudfront.net"])
def test_a_private_network_that_is_not_wanted_is_not_spoken_of(domain: str) -> None:
    """The field is a oneof: said to be false it is there, beside the CloudFront domain that excludes it."""
    job = transfer_job(ORDER, replace(S3, s3_cloudfront_domain=domain))
    check_job(job)
    assert "managed_private_network" not in job.transfer_spec.aws_s3_data_source


def test_the_longest_prefix_fits_the_description() -> None:
    prefix = Prefix("é" * 512)
    job = transfer_job(replace(ORDER, prefix=prefix), S3)
    check_job(job)


def test_every_state_of_the_service_is_known_and_a_new_one_is_no_error() -> None:
    for member in OFFICIAL:
        operation = sts.TransferOperation(name="transferOperations/1", status=member)
        expected = "UNKNOWN" if member.name == "STATUS_UNSPECIFIED" else member.name
        assert snapshot(operation).state.value == expected
    new = sts.TransferOperation.pb(sts.TransferOperation(name="transferOperations/1"))
    new.status = 42
    seen = snapshot(sts.TransferOperation.deserialize(new.SerializeToString()))
    assert (seen.state, seen.raw_state) == (OperationState.UNKNOWN, "42")


def test_the_stage_numbers_the_states_as_the_service_does() -> None:
    official = {member.name: int(member) for member in OFFICIAL if member.name != "STATUS_UNSPECIFIED"}
    assert {status.name: int(status) for status in Status} == official


def test_no_key_gets_into_the_history() -> None:
    operation = sts.TransferOperation(name="transferOperations/1", transfer_spec=transfer_job(ORDER, S3).transfer_spec)
    assert "hunter2" not in snapshot(operation).results
    assert "src-bucket" in snapshot(operation).results


@pytest.mark.parametrize(
    ("job", "one_time"),
    [
        ({}, True),
        ({"schedule": {"schedule_start_date": {"year": 2026, "month": 1, "day": 1}}}, False),
        (
            {
                "schedule": {
                    "schedule_start_date": {"year": 2026, "month": 1, "day": 1},
                    "schedule_end_date": {"year": 2026, "month": 1, "day": 1},
                }
            },
            True,
        ),
        ({"event_stream": {"name": "projects/p/subscriptions/s"}}, False),
    ],
)
def test_which_jobs_run_once(job: dict[str, object], one_time: bool) -> None:
    assert is_one_time(sts.TransferJob(**job)) is one_time


def test_names_are_deterministic_legal_and_apart() -> None:
    names = {job_name(m, Prefix(p), a) for m in ("m1", "m2") for p in ("a/", "b/") for a in (1, 2)}
    assert len(names) == 8
    assert job_name("m1", Prefix("a/"), 1) == job_name("m1", Prefix("a/"), 1)
    for bad in ("transferJobs/", "transferJobs/OPI1", "transferJobs/a-", "transferJobs/a b", "x/y", "transferJobs/" + "a" * 120):
        with pytest.raises(ValueError, match="not the name of a transfer job"):
            JobName(bad)


def shared(*prefixes: str, **more: Any) -> StartJob:
    first, *others = (Prefix(prefix) for prefix in prefixes)
    return replace(ORDER, prefix=first, others=tuple(others), **more)


def test_prefixes_that_share_a_job_stand_in_it_in_order() -> None:
    job = transfer_job(shared("b/", "a/", "c/"), S3)
    assert list(job.transfer_spec.object_conditions.include_prefixes) == ["a/", "b/", "c/"]
    assert "b/ and 2 more" in job.description


@pytest.mark.parametrize(
    ("prefixes", "told"),
    [
        (["a/", "b/", "a/deep/"], "'a/deep/' lies under 'a/'"),
        ([f"p{index:04}/" for index in range(1001)], "1,001 prefixes do not fit into one transfer job"),
    ],
)
def test_what_the_service_would_refuse_of_several_is_refused_here(prefixes: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        transfer_job(shared(*prefixes), S3)


def test_a_shared_job_is_that_of_some_of_its_prefixes_and_of_no_other() -> None:
    found = transfer_spec(shared("a/", "b/", "c/"), S3)
    for some in (["a/"], ["b/", "c/"], ["a/", "b/", "c/"]):
        assert not list(differences(transfer_spec(shared(*some), S3), found))
    for others in (["d/"], ["a/", "d/"], ["a/", "b/", "c/", "d/"]):
        assert list(differences(transfer_spec(shared(*others), S3), found)) == ["object_conditions"]
    assert "sink" in list(differences(transfer_spec(shared("a/", destination="gs://other"), S3), found))


@pytest.mark.parametrize(
    ("egress", "domain", "network"),
    [
        ("", "https://all.example", False),
        ("s3", "", False),
        ("managed-private-network", "", True),
        ("https://own.example", "https://own.example", False),
    ],
)
def test_an_egress_of_its_own_wins_over_the_daemons(egress: str, domain: str, network: bool) -> None:
    settings = replace(S3, s3_cloudfront_domain="https://all.example")
    source = transfer_spec(shared("a/", egress=egress), settings).aws_s3_data_source
    assert (source.cloudfront_domain, source.managed_private_network) == (domain, network)


def test_classes_are_preserved_of_objects_from_cloud_storage_only() -> None:
    kept = transfer_spec(ORDER, replace(GCS, storage_class="PRESERVE")).transfer_options.metadata_options.storage_class
    assert kept == sts.MetadataOptions.StorageClass.STORAGE_CLASS_PRESERVE
    with pytest.raises(ValueError, match="PRESERVE is for objects from Cloud Storage, and these come from s3://src-bucket"):
        transfer_spec(ORDER, replace(S3, storage_class="PRESERVE"))
    of_its_own = replace(ORDER, source="s3://own-bucket")
    with pytest.raises(ValueError, match="these come from s3://own-bucket"):
        transfer_spec(of_its_own, replace(GCS, storage_class="PRESERVE", s3_access=KEYS))


def test_a_manifest_takes_the_place_of_the_prefix() -> None:
    spec = transfer_spec(ORDER, S3, "gs://sink/.sts-manager/x/manifest.csv")
    assert spec.transfer_manifest.location == "gs://sink/.sts-manager/x/manifest.csv"
    assert list(spec.object_conditions.include_prefixes) == []
    assert sorted(differences(spec, transfer_spec(ORDER, S3))) == ["manifest", "object_conditions"]


@pytest.mark.parametrize("location", ["", "gs://sink/.sts-manager/m.csv"])
def test_an_operation_says_whether_it_was_told_what_to_take(location: str) -> None:
    spec = sts.TransferSpec(transfer_manifest=sts.TransferManifest(location=location)) if location else sts.TransferSpec()
    seen = snapshot(sts.TransferOperation(name="transferOperations/1", transfer_job_name="transferJobs/x", transfer_spec=spec))
    assert seen.by_manifest is bool(location)
