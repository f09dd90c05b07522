"""Listings whose pages are now and then empty, and go on all the same: no key is lost (S3, ListObjectsV2; see samples)."""

from __future__ import annotations

import base64
from collections import Counter
from dataclasses import replace
from urllib.parse import parse_qsl, urlencode

import pytest

from cdn_worker.domain.http import Answer, Request
from cdn_worker.domain.keys import KeyMapping
from cdn_worker.listing.diff import Planned, Planner
from tests.unit.test_planning import Turns, ground, plan
from tests.wire.parsers import LAST_PAGE
from tools.bench.copying.synthetic import Keys, Synthetic
from tools.emulators.rawhttp import RawRequest, RawResponse

EMPTY = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"<NextContinuationToken>%s</NextContinuationToken><KeyCount>0</KeyCount><IsTruncated>true</IsTruncated></ListBucketResult>"
)
BEFORE = "empty-"


class Hollow(Synthetic):
    """Before each page of the source's listing stands an empty one, whose token leads to it."""

    def handle(self, request: RawRequest) -> RawResponse:
        path, _, query = request.target.partition("?")
        values = dict(parse_qsl(query, keep_blank_values=True))
        if "list-type" not in values:
            return super().handle(request)
        token = values.get("continuation-token", "")
        if token.startswith(BEFORE):
            asked = base64.urlsafe_b64decode(token.removeprefix(BEFORE)).decode()
            return super().handle(RawRequest("GET", f"{path}?{asked}", {}))
        asked = base64.urlsafe_b64encode(urlencode(values).encode()).decode()
        body = EMPTY % (BEFORE + asked).encode()
        return RawResponse(200, {"Content-Type": "application/xml"}, [body], len(body))


@pytest.mark.parametrize(("count", "lanes"), [(1, 1), (1001, 1), (23_456, 8)])
def test_every_key_behind_an_empty_page_is_planned_once(count: int, lanes: int) -> None:
    planner, found = plan(Turns(Hollow(count, 0)), lanes)
    assert planner.error is None
    assert Counter(one.key for one in found) == Counter(Keys(count))
    assert (planner.ranges > 1) == (lanes > 1), "a range is cut where keys are, also behind an empty page"


def test_a_key_behind_an_empty_page_is_found() -> None:
    def answers(request: Request) -> Answer:
        if "list-type" not in request.url:
            return Answer(404)
        return Answer(200, pieces=[LAST_PAGE if "continuation-token" in request.url else EMPTY % b"next"])

    turns = Turns(Synthetic(0, 0), answers)
    found: list[Planned] = []
    planner = Planner(turns, replace(ground(), mapping=KeyMapping()), deliver=found.extend, full=lambda: False)
    planner.begin_keys(["zz-last"])
    turns.run()
    assert planner.error is None
    assert [one.key for one in found] == ["zz-last"]


@pytest.mark.parametrize("each", [False, True])
def test_a_listing_that_comes_to_no_end_is_told(each: bool) -> None:
    def stuck(request: Request) -> Answer | None:
        return Answer(200, pieces=[EMPTY % b"again"]) if "list-type" in request.url else None

    turns = Turns(Synthetic(0, 0), stuck)
    planner = Planner(turns, ground(), deliver=lambda _planned: None, full=lambda: False)
    if each:
        planner.begin_keys(["logs/a"])
    else:
        planner.begin()
    turns.run()
    assert planner.error is not None
    assert (planner.error.code, "same token" in str(planner.error)) == ("listing", True)
