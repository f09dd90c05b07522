"""Buckets of the stage whose settings change what they take, and the policies that say who may do what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from google.api_core import exceptions

from sts_manager.doctor.projects import Unanswered, ask_permissions, read_roles
from tests.stages import SINK, environment, fill, gcs_client
from tools.emulators.gcs.json_resources import project_number
from tools.emulators.stage import PROJECT, Stage


@pytest.fixture
def bucket(stage: Stage) -> Iterator[Any]:
    fill(stage, {})
    with gcs_client(stage) as client:
        yield client.bucket(SINK)


def test_autoclass_ignores_the_class_of_a_request(stage: Stage, bucket: Any) -> None:
    for enabled, stored in ((False, "NEARLINE"), (True, "STANDARD")):
        stage.ledger.change({"gcs.buckets": {SINK: {"autoclass": {"enabled": enabled}}}})
        blob = bucket.blob(f"by-client-{enabled}")
        blob.storage_class = "NEARLINE"
        blob.upload_from_string(b"x")
        url = f"{stage.environment['STORAGE_EMULATOR_HOST']}/{SINK}/by-put-{enabled}"
        assert requests.put(url, b"x", headers={"x-goog-storage-class": "NEARLINE"}, timeout=10).status_code == 200
        assert {one.storage_class for one in bucket.list_blobs() if one.name.endswith(str(enabled))} == {stored}


def test_names_in_a_bucket_with_folders(stage: Stage, bucket: Any) -> None:
    long = ("f" * 511 + "/" + "b" * 512, "f" * 512 + "/b", "f/" + "b" * 513)
    stage.ledger.change({"gcs.buckets": {SINK: {"hierarchicalNamespace": {"enabled": True}}}})
    bucket.blob(long[0]).upload_from_string(b"x")
    bucket.blob("a//b/../c").upload_from_string(b"x")
    for name in long[1:]:
        with pytest.raises(exceptions.BadRequest, match="not valid"):
            bucket.blob(name).upload_from_string(b"x")
    stage.ledger.change({"gcs.buckets": {}})
    for name in long[1:]:
        bucket.blob(name).upload_from_string(b"x")


@pytest.mark.parametrize("permission", ["storage.buckets.get", "storage.buckets.getIamPolicy"])
def test_what_may_not_be_looked_at(stage: Stage, bucket: Any, permission: str) -> None:
    stage.ledger.change({"iam.denied": [permission]})
    with pytest.raises(exceptions.Forbidden, match=permission):
        bucket.reload() if permission.endswith("get") else bucket.get_iam_policy()


def test_a_projects_policy_is_shown_by_id_and_number_to_who_may_see_it(stage: Stage) -> None:
    held = {"role": "roles/storage.admin", "members": ["serviceAccount:a"]}
    timed = {"role": "roles/owner", "members": ["serviceAccount:a"], "condition": {"expression": "false"}}
    stage.ledger.change({"iam.project_policy": [held, timed, held | {"members": ["user:b"], "role": "roles/viewer"}]})
    with environment(stage.environment):
        for name in (PROJECT, project_number(PROJECT)):
            assert read_roles(name, "serviceAccount:a") == {"roles/storage.admin"}
        with pytest.raises(Unanswered):
            read_roles("123456789012", "serviceAccount:a")
        with pytest.raises(Unanswered, match="403"):
            read_roles("another", "serviceAccount:a")
        stage.ledger.change({"iam.denied": ["resourcemanager.projects.getIamPolicy", "x.y.z"]})
        assert ask_permissions(PROJECT, ["x.y.z", "x.y.w"]) == {"x.y.w"}
        with pytest.raises(Unanswered, match="403"):
            read_roles(PROJECT, "serviceAccount:a")
    assert stage.ledger.permissions["resourcemanager.projects.getIamPolicy"] == 3
