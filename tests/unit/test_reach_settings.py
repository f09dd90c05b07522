"""Where the clouds are reached, by what is given."""

from __future__ import annotations

import pytest

from cdn_worker.flags import ReachFlags, reach_of


@pytest.mark.parametrize(
    ("region", "endpoint"),
    [
        ("eu-west-1", "https://s3.eu-west-1.amazonaws.com"),
        ("us-gov-west-1", "https://s3.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", "https://s3.cn-north-1.amazonaws.com.cn"),
        ("cn-northwest-1", "https://s3.cn-northwest-1.amazonaws.com.cn"),
    ],
)
def test_s3_is_where_its_region_is(region: str, endpoint: str) -> None:
    assert reach_of(ReachFlags(s3_region=region), {}).s3_endpoint == endpoint
    assert reach_of(ReachFlags(), {"AWS_REGION": region}).s3_endpoint == endpoint
    own = {"AWS_REGION": region, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    assert reach_of(ReachFlags(), own).s3_endpoint == "http://127.0.0.1:1"
