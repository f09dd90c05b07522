"""Objects that no manifest may name are copied by the lister; what could not be copied forbids the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from cdn_worker.domain.http import Answer, Request
from cdn_worker.domain.verdict import KeyVerdict, Verdict
from cdn_worker.object_copy.commands import Command, Outcome
from cdn_worker.protocol.url_list_jobs import Moved, Row
from cdn_worker.url_lists.folders import AT_ONCE, Walk, copy_folders
from tests.unit.test_copying import BODY, MD5, got, requests, stored, way

REFUSED = Answer(400, [b"HTTP/1.1 400 X\r\n"], [b"no such name"])
GONE = Answer(404, [b"HTTP/1.1 404 X\r\n"])


def row(key: str, size: int = len(BODY)) -> Row:
    return Row(key, key, size, MD5, "2026-11-21T03:00:00.000Z", 0)


def one_after_the_other(walks: Iterable[Walk]) -> Walk:
    for walk in walks:
        yield from walk


class Scene:
    """Plays both sides with these answers to the requests, in turn; pauses pass."""

    def __init__(self, keys: Sequence[str], answers: Sequence[Answer]) -> None:
        self.moved: list[Moved] = []
        self.bad: list[tuple[Row, KeyVerdict]] = []
        self.batches: list[int] = []
        self.commands: list[Command] = []
        steps = copy_folders(iter(row(key) for key in keys), way(), one_after_the_other, self.settle)
        left = iter(answers)
        outcome: Outcome = None
        while True:
            try:
                command = steps.send(outcome)
            except StopIteration as stop:
                self.complete: bool = stop.value
                assert next(left, None) is None
                return
            self.commands.append(command)
            outcome = next(left) if isinstance(command, Request) else None

    def settle(self, moved: Sequence[Moved], bad: Sequence[tuple[Row, KeyVerdict]]) -> None:
        self.moved += moved
        self.bad += bad
        self.batches.append(len(moved) + len(bad))


def test_what_does_not_end_in_a_slash_is_left_to_the_manifest() -> None:
    scene = Scene(["p/a", "p/b/x"], [])
    assert (scene.complete, scene.commands, scene.batches) == (True, [], [])


def test_folders_are_read_from_s3_and_written_under_their_names() -> None:
    scene = Scene(["p/a", "p/b/", "p/b/c/"], [got(), stored()] * 2)
    assert scene.complete
    assert requests(scene.commands) == [
        ("GET", "http://s3/b/p/b/"),
        ("PUT", "http://gcs/s/p/b/"),
        ("GET", "http://s3/b/p/b/c/"),
        ("PUT", "http://gcs/s/p/b/c/"),
    ]
    assert [one.row.key for one in scene.moved] == ["p/b/", "p/b/c/"]


@pytest.mark.parametrize(
    ("answers", "verdict", "complete"),
    [([got(), REFUSED], Verdict.FAILED, False), ([GONE, GONE], Verdict.VANISHED, True)],
)
def test_one_that_could_not_be_copied_is_told_and_forbids_the_manifest(
    answers: list[Answer], verdict: Verdict, complete: bool
) -> None:
    """Else the next attempt would move all that the manifest names, and call the prefix done without it."""
    scene = Scene(["p/a/", "p/b/"], [*answers, got(), stored()])
    assert scene.complete is complete
    ((bad, seen),) = scene.bad
    assert (bad.key, seen.verdict) == ("p/a/", verdict)
    assert [one.row.key for one in scene.moved] == ["p/b/"]


def test_many_are_copied_a_few_at_once() -> None:
    many = AT_ONCE + 3
    scene = Scene([f"p/{index:03}/" for index in range(many)], [got(), stored()] * many)
    assert (scene.complete, scene.batches) == (True, [AT_ONCE, 3])
