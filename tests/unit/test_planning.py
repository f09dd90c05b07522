"""The planner over a played bucket and a played sink: no key is lost or doubled however ranges are cut; memory stays flat."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections import Counter, deque
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from cdn_worker.copy_command.flags import place as place_of_flag
from cdn_worker.domain.errors import BadInput
from cdn_worker.domain.http import Answer, Request
from cdn_worker.domain.integrity import Verified
from cdn_worker.domain.keys import KeyMapping
from cdn_worker.domain.listing_page import RESTORED, RESTORING, Filter, Listed
from cdn_worker.domain.verdict import KeyVerdict, Verdict
from cdn_worker.listing.diff import Ground, Planned, Planner, Walk
from cdn_worker.object_copy.commands import Outcome, Renew, Task, Wait
from cdn_worker.storage.gcs import GcsSink
from cdn_worker.storage.s3 import S3Source
from sts_manager.domain.location import place
from tools.bench.copying.synthetic import BODY_ETAG, Keys, Synthetic
from tools.emulators.rawhttp import RawRequest, RawResponse


class Turns:
    """Plays walks in turns, one request each, and answers from a synthetic bucket; `trouble` may answer first."""

    def __init__(self, world: Synthetic, trouble: Callable[[Request], Answer | None] = lambda _request: None) -> None:
        self._world, self._trouble = world, trouble
        self._walks: deque[tuple[Walk, Callable[[None], None], Outcome]] = deque()
        self.requests: list[str] = []
        self.waited = 0.0
        self.renewals = 0

    def play(self, steps: Walk, done: Callable[[None], None]) -> None:
        self._walks.append((steps, done, None))

    def run(self) -> None:
        while self._walks:
            steps, done, outcome = self._walks.popleft()
            try:
                command = steps.send(outcome)
            except StopIteration:
                done(None)
                continue
            answer: Outcome = None
            if isinstance(command, Request):
                self.requests.append(command.url)
                answer = self._trouble(command) or self._answer(command)
            elif isinstance(command, Wait):
                self.waited += command.seconds
            else:
                assert isinstance(command, Renew)
                self.renewals += 1
            self._walks.append((steps, done, answer))

    def _answer(self, request: Request) -> Answer:
        target = request.url.removeprefix("http://x")
        body = b"".join(self._world.handle(RawRequest("GET", target, {})).pieces)
        return Answer(200, pieces=[body])


def ground(**more: Any) -> Ground:
    source = S3Source("http://x", "bucket", "us-east-1")
    mapping = KeyMapping(source_root="logs/", sink_root="logs/")
    return Ground(
        source=source, bucket=source, sink=GcsSink("http://x", "sink"), mapping=mapping, prefix="logs/", backoff_s=0.1, **more
    )


def plan(turns: Turns, lanes: int = 8, **more: Any) -> tuple[Planner, list[Planned]]:
    found: list[Planned] = []
    planner = Planner(turns, ground(**more), deliver=found.extend, full=lambda: False, lanes=lanes)
    planner.begin()
    turns.run()
    return planner, found


@pytest.mark.parametrize("lanes", [1, 2, 8])
@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 4000, 23_456])
def test_every_key_is_planned_once(count: int, lanes: int) -> None:
    planner, found = plan(Turns(Synthetic(count, 30)), lanes)
    assert planner.idle
    assert planner.error is None
    assert Counter(one.key for one in found) == Counter(Keys(count))
    skipped = {one.key for one in found if isinstance(one, KeyVerdict)}
    assert skipped == {key for index, key in enumerate(Keys(count)) if index % 100 < 30}
    assert planner.listed == count
    if count > 20_000:
        assert (planner.ranges > 1) == (lanes > 1), "a large range is cut when there are lanes"


class Names(Synthetic):
    """Any names."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(0, 0)
        self.keys = sorted(set(names))  # type: ignore[assignment]


@pytest.mark.parametrize("seed", range(6))
def test_every_key_is_planned_once_whatever_the_names(seed: int) -> None:
    dice = random.Random(seed)
    letters = ["0", "1", "a", "/", "~", "é", "日", " ", "Z", "\U0001f600"][: dice.randint(2, 10)]
    names = ["logs/" + "".join(dice.choices(letters, k=dice.randint(0, 9))) for _ in range(9000)]
    turns = Turns(Names(names))
    planner, found = plan(turns)
    assert planner.error is None
    assert Counter(one.key for one in found) == Counter(set(names))


def test_cutting_costs_few_requests() -> None:
    turns = Turns(Synthetic(300_000, 0))
    planner, _ = plan(turns)
    probes = sum("max-keys=1&" in url for url in turns.requests)
    assert planner.ranges >= 8
    assert probes <= 0.5 * planner.pages


def peak(count: int) -> int:
    turns = Turns(Synthetic(count, 50))
    planner = Planner(turns, ground(), deliver=lambda _planned: None, full=lambda: False)
    tracemalloc.start()
    try:
        planner.begin()
        turns.requests = deque(maxlen=1)  # type: ignore[assignment]
        turns.run()
        assert planner.listed == count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_ten_times_the_keys_take_no_more_memory() -> None:
    assert peak(50_000) < 1.5 * peak(5_000) + (4 << 20)


def listed(key: str = "logs/a", size: int = 1000, etag: str = BODY_ETAG, storage_class: str = "STANDARD") -> Listed:
    return Listed(key, size, etag, "2026-11-21T03:00:00.000Z", storage_class)


@pytest.mark.parametrize(
    ("one", "error"),
    [
        (listed(size=(5 << 40) + 1), "too_large"),
        (listed(storage_class="GLACIER"), "archived"),
        (listed(storage_class="DEEP_ARCHIVE"), "archived"),
        (listed("logs/a\rb"), "name"),
        (listed("logs/" + "é" * 600), "name"),
    ],
)
def test_what_cannot_be_copied_is_said_before_a_byte_moves(one: Listed, error: str) -> None:
    from cdn_worker.listing.diff import judged

    found = judged(one, None, ground())
    assert isinstance(found, KeyVerdict)
    assert (found.verdict, found.error) == (Verdict.UNMAPPABLE, error)
    assert isinstance(judged(listed(size=5 << 40), None, ground()), Task), "5 TiB are taken"


def test_an_archived_object_is_read_when_it_was_restored_and_none_is_asked_for_that_is_there() -> None:
    from cdn_worker.domain.integrity import Stored
    from cdn_worker.domain.overwrite import Replace
    from cdn_worker.listing.diff import judged

    cold = listed(storage_class="DEEP_ARCHIVE")
    assert isinstance(judged(cold._replace(restore=RESTORED), None, ground()), Task)
    restoring = judged(cold._replace(restore=RESTORING), None, ground())
    assert isinstance(restoring, KeyVerdict)
    assert (restoring.error, "is being restored" in restoring.details) == ("archived", True)
    tiered = listed(storage_class="INTELLIGENT_TIERING")
    assert isinstance(judged(tiered, None, ground()), Task), "no listing tells the tier"
    assert isinstance(judged(tiered._replace(restore=RESTORING), None, ground()), KeyVerdict)
    there = Stored(generation=7, size=1000, crc32c=b"\0" * 4, md5=bytes.fromhex(BODY_ETAG))
    equal, wanted = judged(cold, there, ground()), judged(cold, there, ground(replace=Replace.ALWAYS))
    assert isinstance(equal, KeyVerdict)
    assert equal.verdict is Verdict.SKIPPED, "it was copied before it was archived"
    assert isinstance(wanted, KeyVerdict)
    assert wanted.error == "archived", "to write it again it must be read"


def test_what_is_there_is_compared_by_the_strongest_that_is_known() -> None:
    from cdn_worker.domain.integrity import Stored, alike
    from cdn_worker.domain.overwrite import Replace
    from cdn_worker.listing.diff import judged

    def same(one: Listed, stored: Stored) -> Verified | None:
        return alike(stored, size=one.size, etag=one.etag)

    md5 = bytes.fromhex(BODY_ETAG)
    stored = {"generation": 7, "size": 1000, "crc32c": b"\0" * 4}
    assert same(listed(), Stored(**stored, md5=md5)) is Verified.MD5  # type: ignore[arg-type]
    assert same(listed(), Stored(**stored, md5=b"\1" * 16)) is None  # type: ignore[arg-type]
    assert same(listed(), Stored(**stored, source_etag=BODY_ETAG)) is Verified.SIZE  # type: ignore[arg-type]
    assert same(listed(etag="ab-3"), Stored(**stored, md5=md5, source_etag="ab-3")) is Verified.SIZE  # type: ignore[arg-type]
    assert same(listed(size=999), Stored(**stored, md5=md5)) is None  # type: ignore[arg-type]
    assert same(listed(), Stored(**stored)) is None, "sizes alone prove nothing"  # type: ignore[arg-type]
    other = Stored(**stored, md5=b"\1" * 16)  # type: ignore[arg-type]
    left = judged(listed(), other, ground())
    assert isinstance(left, KeyVerdict)
    assert left.error == "exists"
    replaced = judged(listed(), other, ground(replace=Replace.DIFFERENT))
    assert isinstance(replaced, Task)
    assert replaced.generation == 7, "and only that generation"


def test_keys_that_substitutions_send_to_one_path_are_both_refused() -> None:
    turns = Turns(Names(["logs/old/a", "logs/new/a", "logs/b"]))
    found: list[Planned] = []
    base = ground()
    base.mapping = KeyMapping(source_root="logs/", sink_root="logs/", substitutions=(("/new/", "/old/"),))
    planner = Planner(turns, base, deliver=found.extend, full=lambda: False)
    planner.begin()
    turns.run()
    assert {one.key: getattr(one, "error", "") for one in found} == {
        "logs/old/a": "same_path",
        "logs/new/a": "same_path",
        "logs/b": "",
    }


def test_a_filter_takes_keys_out_of_the_listing() -> None:
    planner, found = plan(Turns(Synthetic(2500, 0)), filter=Filter(storage_classes=("GLACIER",)))
    assert (found, planner.listed, planner.pages) == ([], 0, 3)


def test_a_listing_that_is_throttled_goes_on() -> None:
    times = iter([429, 503, 500, 403])

    def trouble(request: Request) -> Answer | None:
        status = next(times, None) if "list-type" in request.url else None
        return None if status is None else Answer(status, pieces=[b"<Error><Code>SlowDown</Code></Error>"])

    turns = Turns(Synthetic(1500, 0), trouble)
    planner, found = plan(turns)
    assert planner.error is None
    assert len(found) == 1500
    assert turns.renewals == 1
    assert turns.waited > 0


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_listing_that_is_refused_for_good_is_an_error_with_the_services_words(status: int) -> None:
    body = b"<Error><Code>NoSuchThing</Code><Message>Tough luck</Message></Error>"
    planner, found = plan(Turns(Synthetic(1500, 0), lambda _request: Answer(status, pieces=[body])))
    assert str(planner.error) == f"s3://bucket answered {status} NoSuchThing: Tough luck"
    assert found == []
    assert planner.idle


def test_a_page_that_is_none_is_an_error() -> None:
    planner, _ = plan(Turns(Synthetic(1500, 0), lambda _request: Answer(200, pieces=[b"<html>portal</html>"])))
    assert "this is no listing" in str(planner.error)


def test_it_lists_no_more_while_there_is_enough_to_do() -> None:
    turns = Turns(Synthetic(20_000, 0))
    found: list[Planned] = []
    planner = Planner(turns, ground(), deliver=found.extend, full=lambda: len(found) >= 3000 and turns.waited < 5, lanes=1)
    planner.begin()
    turns.run()
    assert turns.waited >= 5
    assert len(found) == 20_000


class Paged(Synthetic):
    """Pages as somebody's server gives them out, whatever was asked for: by the token, which is their number."""

    def __init__(self, pages: list[list[str]], *, end: str | None = None) -> None:
        super().__init__(0, 0)
        self.pages, self.end = pages, end

    def handle(self, request: RawRequest) -> RawResponse:
        query = {name: values[0] for name, values in parse_qs(urlsplit(request.target).query).items()}
        if "list-type" not in query:
            return super().handle(request)
        number = int(query.get("continuation-token", "0"))
        more = number + 1 < len(self.pages) or self.end is not None
        token = f"<NextContinuationToken>{self.end or number + 1}</NextContinuationToken>" if more else ""
        entries = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2026-11-20T03:00:00.000Z</LastModified><ETag>&quot;{BODY_ETAG}&quot;</ETag>"
            "<Size>9</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for key in self.pages[min(number, len(self.pages) - 1)]
        )
        body = f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}</ListBucketResult>"
        return RawResponse(200, {}, [body.encode()])


def test_a_page_without_keys_is_not_the_end_while_it_has_a_token() -> None:
    """S3 documents such pages for directory buckets, and other servers send them."""
    planner, found = plan(Turns(Paged([["logs/1", "logs/2"], [], [], ["logs/3"], []])))
    assert planner.error is None
    assert sorted(one.key for one in found) == ["logs/1", "logs/2", "logs/3"]


@pytest.mark.parametrize(
    ("pages", "keys"),
    [
        ([["logs/1", "logs/3", "logs/2"]], ("'logs/2'", "'logs/3'")),
        ([["logs/1", "logs/1"]], ("'logs/1'", "'logs/1'")),
        ([["logs/2"], ["logs/1"]], ("'logs/1'", "'logs/2'")),
        ([["logs/2"], [], ["logs/2"]], ("'logs/2'", "'logs/2'")),
        ([["a/1", "logs/2"]], ("'a/1'", "'logs/'")),
        ([["logs/2", "z"]], ("'z'", "'logs/'")),
    ],
)
def test_a_listing_that_is_in_no_order_is_refused_with_server_bucket_and_keys(
    pages: list[list[str]], keys: tuple[str, str]
) -> None:
    planner, found = plan(Turns(Paged(pages)))
    told = str(planner.error)
    assert "http://x, bucket s3://bucket" in told
    assert all(key in told for key in keys), told
    assert len(found) <= 1, "nothing of the page is believed"


@pytest.mark.parametrize("pages", [[["logs/1"], *[[]] * 1000, ["logs/2"]]])
def test_a_listing_that_never_ends_is_given_up(pages: list[list[str]]) -> None:
    planner, _ = plan(Turns(Paged(pages)))
    assert "1,000 pages without a key" in str(planner.error)
    planner, _ = plan(Turns(Paged([["logs/1"], []], end="1")))
    assert "the same token" in str(planner.error)


def test_a_sink_that_lists_in_no_order_is_refused() -> None:
    world = Synthetic(50, 100)
    turns = Turns(world)
    unsorted = [{"name": name, "generation": "1", "size": "9", "crc32c": "AAAAAA=="} for name in ("logs/b", "logs/a")]

    def answer(request: Request) -> Answer | None:
        return Answer(200, pieces=[json.dumps({"items": unsorted}).encode()]) if "/o?" in request.url else None

    turns._trouble = answer
    planner, found = plan(turns)
    assert "http://x, bucket gs://sink" in str(planner.error)
    assert found == []


def test_directory_buckets_are_refused_by_their_name() -> None:
    with pytest.raises(BadInput, match="s3://mine--use1-az4--x-s3 is a directory bucket"):
        S3Source("http://x", "mine--use1-az4--x-s3", "us-east-1")


def test_and_before_anybody_asks_for_credentials() -> None:
    express = "s3://mine--use1-az4--x-s3/a"
    with pytest.raises(ValueError, match="directory bucket"):
        place(express)
    with pytest.raises(BadInput, match="directory bucket"):
        place_of_flag("--source", express, "s3")
    elsewhere = "gs://mine--x-s3"
    assert place(elsewhere).bucket == place_of_flag("--destination", elsewhere, "gs")[0], "it is a rule of S3's buckets alone"
