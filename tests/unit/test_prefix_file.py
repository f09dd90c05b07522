from __future__ import annotations

import json
from pathlib import Path

import pytest

from sts_manager.cli.prefix_file import PrefixFile, read_prefixes
from sts_manager.domain.errors import BadInput
from sts_manager.domain.model import Chosen, Route
from sts_manager.domain.names import Prefix, overlaps, prefix_fault


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "prefixes.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    ['["b/", "a/"]', '[\n  "b/",\n  "a/"\n]\n', "b/\na/\n", "b/\r\na/\r\n\r\n", '\ufeff["b/", "a/"]', "a/\nb/"],
)
def test_a_json_array_or_one_prefix_a_line(tmp_path: Path, text: str) -> None:
    assert read_prefixes(written(tmp_path, text)) == PrefixFile([Prefix("a/"), Prefix("b/")], {})


def test_a_prefix_may_look_like_json(tmp_path: Path) -> None:
    assert read_prefixes(written(tmp_path, "{a}/\n[b]/\n".replace("[b]/\n", "x[b]/\n"))).prefixes == ["x[b]/", "{a}/"]


def test_an_object_gives_a_prefix_a_route_and_places_of_its_own(tmp_path: Path) -> None:
    entries = [
        "b/",
        {"prefix": "a/", "route": "cdn", "source": "s3://other/in", "destination": "gs://other/out"},
        {"prefix": "c/", "route": "auto"},
        {"prefix": "d/", "destination": "gs://other"},
    ]
    read = read_prefixes(written(tmp_path, json.dumps(entries)))
    assert read.prefixes == ["a/", "b/", "c/", "d/"]
    assert read.chosen[Prefix("a/")] == Chosen(route=Route.CDN, source="s3://other/in", destination="gs://other/out")
    assert read.chosen[Prefix("c/")] == Chosen()
    assert read.chosen[Prefix("d/")] == Chosen(destination="gs://other")
    assert Prefix("b/") not in read.chosen


BAD = [
    ("", "is empty"),
    ("  \n\n", "is empty"),
    ("[]", "holds no prefixes"),
    ('["a/", ', "not one"),
    ('["a/",\n 7]', "line 2: 7 is neither a string nor an object"),
    ('["a/",\n null]', "line 2: null is neither a string nor an object"),
    ('["a/",\n {"route": "cdn"}]', 'line 2: {"route": "cdn"} has no prefix'),
    ('["a/",\n {"prefix": "b/", "rout": "cdn"}]', "line 2: unknown key 'rout'; did you mean 'route'"),
    ('["a/",\n {"prefix": "b/", "bucket": "x"}]', "line 2: unknown key 'bucket'; there are prefix, route"),
    ('["a/",\n {"prefix": 3}]', "line 2: prefix is 3, and must be a string"),
    ('["a/",\n {"prefix": "b/", "route": "sts"}]', "line 2: the route of 'b/' is 'sts'; there are auto, sts-s3"),
    ('["a/",\n {"prefix": "b/", "source": "http://x"}]', "line 2: 'http://x' is neither s3:// nor gs://"),
    ('["a/",\n {"prefix": "b/", "destination": "s3://x-y"}]', "line 2: the destination of 'b/' is s3://x-y"),
    ('["a/",\n {"prefix": "b/", "route": "cdn", "source": "gs://x-y"}]', "line 2: the route of 'b/' is cdn, which does not read"),
    (
        '["a/",\n {"prefix": "b/", "source": "gs://x-y/a", "destination": "gs://x-y"}]',
        "line 2: the source gs://x-y/a/ and the destination gs://x-y of 'b/' are one place",
    ),
    ('["a/",\n {"prefix": "a/b/"}]', "line 2: 'a/b/' lies under 'a/' of line 1"),
    ('{"prefixes": ["a/"]}', "is JSON, but the file is not a JSON array"),
    ('["a/",\n"b/",\n\n"a/"]', "line 4: 'a/' is a duplicate of line 1"),
    ("a/\nb/\na/b/\n", "line 3: 'a/b/' lies under 'a/' of line 1"),
    ('["a/\\n"]', "line 1: 'a/\\n' contains a line break"),
    ("a\rb/\n", "line 1: 'a\\rb/' contains a line break"),
    ("a/\n/b/\n", "line 2: '/b/' starts with '/'; object names do not: write 'b/'"),
    ("a/\n\nb/\n", "line 2: '' is empty"),
    ('["a/", ""]', "line 1: '' is empty"),
    ("x" * 1025, "is 1,025 bytes long"),
    ("é" * 513, "is 1,026 bytes long"),
    (b"a/\nb\xff/\n", "is not UTF-8 text: byte 4 (line 2) is 0xff"),
    ('["\\ud800/"]', "lone surrogate"),
]


@pytest.mark.parametrize(("text", "told"), BAD)
def test_each_fault_is_named_with_its_line(tmp_path: Path, text: str | bytes, told: str) -> None:
    with pytest.raises(BadInput) as refused:
        read_prefixes(written(tmp_path, text))
    assert told in str(refused.value)
    assert "prefixes.json" in str(refused.value)


def test_all_faults_are_told_at_once_and_not_without_end(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        read_prefixes(written(tmp_path, json.dumps([f"/{index}" for index in range(1000)])))
    lines = str(refused.value).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "  … and more"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere\.json cannot be read: No such file"):
        read_prefixes(tmp_path / "nowhere.json")


def test_a_line_number_is_right_after_strings_with_escapes(tmp_path: Path) -> None:
    text = '[\n"a\\n\\"]",\n\n  "b/"\n, "/c"]'
    with pytest.raises(BadInput) as refused:
        read_prefixes(written(tmp_path, text))
    assert "line 2: " in str(refused.value)
    assert "line 5: '/c'" in str(refused.value)


def test_nested_overlaps_name_the_innermost() -> None:
    found = list(overlaps([("a", 0), ("a/b", 1), ("a/b/c", 2), ("ab", 3), ("b", 4)]))
    assert [(overlap.outer, overlap.inner) for overlap in found] == [(0, 1), (1, 2), (0, 3)]


@pytest.mark.parametrize("text", ["a", "a/b/", "日本/", "a//", "..", "x" * 1024, " ", "\t", "{", "%2F"])
def test_legal_prefixes(text: str) -> None:
    assert prefix_fault(text) is None
