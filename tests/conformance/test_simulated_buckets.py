"""The simulation's S3 beside the stage's: the same requests, the same pages and heads."""

from __future__ import annotations

import random

import pytest

from cdn_worker.domain.http import Answer, Request
from cdn_worker.http.engine import Engine
from cdn_worker.ports import Access
from cdn_worker.storage.s3 import S3Source
from tests.copies import access, s3_source
from tests.simulation.buckets import S3, Buckets
from tests.simulation.chance import Chance
from tests.stages import SOURCE, fill
from tools.emulators.stage import Stage

KEYS = ["a", "a b", "a%20b", "a+b", "a/", "a/1", "a/2", "a//3", "b&c", "b<d>", "b\"e'", "Z", "é", "日本", "\U0001f600", "~"]


def asked(request: Request) -> Answer:
    """Of the stage, over HTTP."""
    engine, found = Engine(), list[Answer]()
    engine.exchange(request, found.append)
    while not found:
        engine.turn(0.1)
    engine.close()
    return found[0]


@pytest.fixture
def both(stage: Stage) -> tuple[S3Source, S3Source, Buckets]:
    objects = {key: key.encode() * 3 for key in KEYS}
    fill(stage, objects)
    simulated = Buckets(Chance(random.Random(0), set), objects, page_keys=1000)
    real, other = s3_source(), S3Source(S3, SOURCE, "us-east-1")
    real.use(access())
    other.use(Access())
    return real, other, simulated


@pytest.mark.parametrize("keys_max", [1, 3, 1000])
@pytest.mark.parametrize(
    ("prefix", "after"), [("", ""), ("a", ""), ("a/", "a/1"), ("", "b&c"), ("é", ""), ("nothing", ""), ("", "~~")]
)
def test_pages_are_alike(both: tuple[S3Source, S3Source, Buckets], prefix: str, after: str, keys_max: int) -> None:
    real, other, simulated = both
    tokens = ["", ""]
    while True:
        pages = [
            real.page_of(asked(real.page(prefix=prefix, after=after, token=tokens[0], keys_max=keys_max))),
            other.page_of(simulated.answer(other.page(prefix=prefix, after=after, token=tokens[1], keys_max=keys_max))),
        ]
        entries = [[one._replace(modified="") for one in page.entries] for page in pages]
        assert entries[0] == entries[1]
        tokens = [page.token or "" for page in pages]
        assert bool(tokens[0]) == bool(tokens[1])
        if not tokens[0]:
            return


@pytest.mark.parametrize("key", ["a b", "日本", "missing"])
@pytest.mark.parametrize("span", [None, (0, 0), (1, 2)])
def test_objects_are_alike(both: tuple[S3Source, S3Source, Buckets], key: str, span: tuple[int, int] | None) -> None:
    real, other, simulated = both
    head = asked(real.head(key))
    etag = head.headers.get("etag", "").strip('"')
    told = []
    for answer in (asked(real.get(key, etag, 100, span)), simulated.answer(other.get(key, etag, 100, span))):
        wanted = ("etag", "content-length", "content-range") if answer.status < 300 else ()
        told.append(
            (answer.status, {name: answer.headers.get(name) for name in wanted}, answer.body if answer.status < 300 else b"")
        )
    assert told[0] == told[1]
    assert simulated.answer(other.head(key)).status == head.status
    changed = [asked(real.get(key, "0" * 32, 100)).status, simulated.answer(other.get(key, "0" * 32, 100)).status]
    assert changed[0] == changed[1]
