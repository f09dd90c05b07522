from __future__ import annotations

import json
from pathlib import Path

import pytest

from sts_manager.domain.errors import BadInput
from sts_manager.domain.naming import overlaps, prefix_fault
from sts_manager.prefix_file import read_prefixes


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "prefixes.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    ['["b/", "a/"]', '[\n  "b/",\n  "a/"\n]\n', "b/\na/\n", "b/\r\na/\r\n\r\n", '\ufeff["b/", "a/"]', "a/\nb/"],
)
def test_a_json_array_or_one_prefix_a_line(tmp_path: Path, text: str) -> None:
    assert read_prefixes(written(tmp_path, text)) == ["a/", "b/"]


def test_a_prefix_may_look_like_json(tmp_path: Path) -> None:
    assert read_prefixes(written(tmp_path, "{a}/\n[b]/\n".replace("[b]/\n", "x[b]/\n"))) == ["x[b]/", "{a}/"]


BAD = [
    ("", "is empty"),
    ("  \n\n", "is empty"),
    ("[]", "holds no prefixes"),
    ('["a/", ', "not one"),
    ('["a/",\n 7]', "line 2: 7 is not a string"),
    ('["a/",\n null]', "line 2: null is not a string"),
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
