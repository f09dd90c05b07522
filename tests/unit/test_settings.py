from __future__ import annotations

import json
from pathlib import Path

import pytest

from sts_manager.domain.errors import BadInput
from sts_manager.settings import Settings, disagreements, load_settings, shown


def test_the_older_tools_defaults_are_kept() -> None:
    settings = load_settings({}, {}, None)
    assert (settings.dataset, settings.dataset_location) == ("data_migration", "US")
    assert (settings.job_table, settings.job_history_table) == ("sts_job", "sts_job_history")
    assert (settings.source_bucket, settings.destination_bucket) == ("migration-source", "migration-destination")
    assert (settings.job_interval, settings.metrics_interval, settings.sleep_timeout) == (1200, 300, 60)
    assert settings.max_concurrent_jobs == 20
    assert not settings.no_retry_on_job_error
    assert not settings.allow_new_jobs_when_stalled
    assert not settings.overwrite_dest_objects
    assert str(settings.source) == "gs://migration-source"


def test_a_flag_wins_over_the_environment_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"max-concurrent-jobs": 1, "max_attempts": 1, "retry-delay": 1}))
    environment = {"STS_MANAGER_MAX_CONCURRENT_JOBS": "2", "STS_MANAGER_MAX_ATTEMPTS": "2", "OTHER": "x"}
    settings = load_settings({"max_concurrent_jobs": 3, "max_attempts": None}, environment, file)
    assert (settings.max_concurrent_jobs, settings.max_attempts, settings.retry_delay) == (3, 2, 1)


def test_the_file_wins_where_the_older_tools_order_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"max-concurrent-jobs": 1}))
    environment = {"STS_MANAGER_MAX_CONCURRENT_JOBS": "2", "STS_MANAGER_MAX_ATTEMPTS": "2"}
    flags = {"max_concurrent_jobs": 3, "max_attempts": 4}
    settings = load_settings(flags, environment, file, file_first=True)
    assert (settings.max_concurrent_jobs, settings.max_attempts) == (1, 4)


def test_what_file_and_flags_say_differently_is_named_and_equal_values_are_not(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    said = {
        "max-concurrent-jobs": "3",
        "max_attempts": 7,
        "dataset": "d",
        "publish-heartbeat": True,
        "store": "postgresql://u:pw@h/a",
    }
    file.write_text(json.dumps(said))
    flags = {
        "max_concurrent_jobs": 3,
        "max_attempts": 5,
        "publish_heartbeat": False,
        "store": "postgresql://u:secret@h/b",
        "dataset": None,
    }
    assert disagreements(flags, file) == [
        "--max-attempts 5 (the file: 7)",
        "--publish-heartbeat False (the file: True)",
        "--store postgresql://u:***@h/b (the file: postgresql://u:***@h/a)",
    ]
    assert disagreements({}, file) == []


S3 = {"source_bucket": "s3://a-bucket/x"}
BAD = [
    (
        {},
        {"STS_MANAGER_MAX_CONCURENT_JOBS": "2"},
        "STS_MANAGER_MAX_CONCURENT_JOBS; did you mean STS_MANAGER_MAX_CONCURRENT_JOBS?",
    ),
    ({"max_concurrent_jobs": 0}, {}, "--max-concurrent-jobs: 0 will not do"),
    ({}, {"STS_MANAGER_MAX_ATTEMPTS": "many"}, "STS_MANAGER_MAX_ATTEMPTS (environment): 'many' will not do"),
    ({"job_interval": 30.0}, {}, "--job-interval is 30 s, less than --sleep-timeout (default) of 60 s"),
    ({"sleep_timeout": 400.0}, {}, "--metrics-interval (default) is 300 s, less than --sleep-timeout of 400 s"),
    ({"source_bucket": "gs://one-bucket/a", "destination_bucket": "one-bucket/a/b"}, {}, "are one place"),
    ({"source_bucket": "one-bucket", "destination_bucket": "gs://one-bucket"}, {}, "are one place"),
    ({"destination_bucket": "s3://one-bucket"}, {}, "--destination-bucket: s3://one-bucket is not in Cloud Storage"),
    ({"source_bucket": "ftp://x/y"}, {}, "--source-bucket: 'ftp://x/y' is neither s3:// nor gs://"),
    ({"source_bucket": "s3://UPPER"}, {}, "is not a bucket's name"),
    ({"job_table": "x; DROP TABLE y"}, {}, "--job-table: 'x; DROP TABLE y' is not a table's name"),
    ({"job_table": "sts_job_history"}, {}, "name the same table"),
    ({"store": "bigquery://p"}, {}, "--store: 'bigquery://p' is written bigquery, or bigquery://PROJECT/DATASET"),
    ({"store": "bigquery", "dataset": "my-data"}, {}, "--dataset: 'my-data' is not a dataset's name"),
    ({"store": "bigquery://project/a", "dataset": "b"}, {}, "--dataset is b, but --store names the dataset a"),
    ({"store": "bigquery://project/a;b"}, {}, "--store: 'a;b' is not a dataset's name"),
    ({"storage_class": "COLD"}, {}, "--storage-class: 'COLD' will not do"),
    (
        {"source_bucket": "s3://a-bucket"},
        {"STS_MANAGER_STORAGE_CLASS": "PRESERVE"},
        "STS_MANAGER_STORAGE_CLASS (environment) is PRESERVE, which the service takes for a gs:// source only, and --source",
    ),
    ({"modified_since": "2026-01-01T00:00:00"}, {}, "--modified-since: '2026-01-01T00:00:00' will not do"),
    ({"modified_since": "2026-01-02T00:00:00Z", "modified_before": "2026-01-01T00:00:00Z"}, {}, "is not before"),
    ({"overwrite_dest_objects": True, "overwrite_when": "NEVER"}, {}, "exclude each other"),
    (
        {"s3_role_arn": "arn:aws:iam::123456789012:role/x"},
        {},
        "is for an S3 source, but --source-bucket (default) is gs://migration-source",
    ),
    (S3 | {"s3_role_arn": "role/x"}, {}, "is not like arn:aws:iam::"),
    (S3 | {"s3_role_arn": "arn:aws:iam::123456789012:role/x", "s3_credentials_secret": "projects/1/secrets/x"}, {}, "exclude"),
    (S3 | {"s3_credentials_secret": "projects/name/secrets/x"}, {}, "projects/PROJECT_NUMBER/secrets/NAME"),
    (S3 | {"include_storage_classes": "STANDARD,GLACIRE"}, {}, "'GLACIRE' is no storage class of S3; did you mean GLACIER?"),
    (S3 | {"include_storage_classes": "glacier"}, {}, "did you mean GLACIER?"),
    ({"include_storage_classes": "GLACIER"}, {}, "--include-storage-classes is for an S3 source"),
    (S3 | {"s3_cloudfront_domain": "d1.cloudfront.net"}, {}, "must begin with https://"),
    (S3 | {"s3_cloudfront_domain": "https://d1", "s3_managed_private_network": True}, {}, "exclude each other"),
]


@pytest.mark.parametrize(("flags", "environment", "told"), BAD)
def test_a_bad_setting_is_named_with_where_it_came_from(flags: dict[str, object], environment: dict[str, str], told: str) -> None:
    with pytest.raises(BadInput) as refused:
        load_settings(flags, environment, None)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"max-concurent-jobs": 3}', "unknown setting 'max-concurent-jobs' in {path}; did you mean 'max-concurrent-jobs'?"),
        ('{"max-attempts": "x"}', "'max-attempts' in {path}: 'x' will not do"),
        ("[]", "must hold a JSON object"),
        ("{", "is not JSON"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(BadInput) as refused:
        load_settings({}, {}, path)
    assert told.format(path=path) in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"--config-path .*none\.json cannot be read"):
        load_settings({}, {}, tmp_path / "none.json")


def test_storage_classes_are_a_set_however_they_are_written() -> None:
    settings = load_settings(S3 | {"include_storage_classes": " GLACIER, STANDARD,,GLACIER"}, {}, None)
    assert settings.storage_classes == ("GLACIER", "STANDARD")


def test_what_is_shown_has_no_password() -> None:
    settings = Settings(store="postgresql://user:hunter2@host/db")
    assert shown(settings) == {"store": "postgresql://user:***@host/db"}
