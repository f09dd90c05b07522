"""What is asked of the data plane for a prefix."""

from __future__ import annotations

import pytest

from sts_manager.domain.errors import Permanent
from sts_manager.domain.model import Route, StartJob
from sts_manager.domain.names import Prefix, job_name
from sts_manager.routes.pool.copy_spec import pool_settings
from sts_manager.settings import load_settings

ORDER = StartJob(
    prefix=Prefix("p/"), attempt=1, job_name=job_name("m", Prefix("p/"), 1), route=Route.CDN, source="s3://own-bucket"
)


def test_classes_cannot_be_preserved_of_objects_from_s3() -> None:
    asked = {"source_bucket": "gs://a-bucket", "storage_class": "NEARLINE"}
    assert pool_settings(load_settings(asked, {}, None), ORDER, "cdn").storage_class == "NEARLINE"
    said = "PRESERVE is for objects from Cloud Storage, and 'p/' comes from s3://own-bucket"
    with pytest.raises(Permanent, match=said) as told:
        pool_settings(load_settings(asked | {"storage_class": "PRESERVE"}, {}, None), ORDER, "cdn")
    assert told.value.code == "ROUTE_UNFIT"
