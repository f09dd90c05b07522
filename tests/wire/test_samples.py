"""What the real services answer, as public documents and traces show it, is what our parsers understand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.wire import control, parsers
from tests.wire.samples import MARKS, Expectation, Sample, load, mismatches, samples

PARSERS: Mapping[str, parsers.Parser] = {**parsers.PARSERS, **control.PARSERS}
FED = [
    pytest.param(sample, one, id=f"{sample.name}-{one.parser}") for sample in samples().values() for one in sample.expectations
]
LEAST = 60


@pytest.mark.parametrize(("sample", "expected"), FED)
def test_what_a_parser_makes_of_a_real_answer(sample: Sample, expected: Expectation) -> None:
    assert expected.parser in PARSERS, f"{sample.name}: there is no parser {expected.parser!r}"
    said = PARSERS[expected.parser](sample, expected.given)
    assert not mismatches(expected.value, said), f"{sample.must}; from {sample.sources[0]}"


def test_the_samples_are_many_sourced_and_fed() -> None:
    found = samples()
    assert len(found) >= LEAST
    for sample in found.values():
        assert sample.sources, f"{sample.name}: where was it found?"
        assert all(len(one) > 10 for one in sample.sources), f"{sample.name}: a source is an address or names a stored file"
        assert sample.mark in MARKS, f"{sample.name}: its mark is one of {MARKS}"
        assert sample.must, f"{sample.name}: what must be made of it?"
        assert sample.expectations, f"{sample.name}: it is fed to no parser"
    composed = [sample.name for sample in found.values() if sample.mark == "composed"]
    assert len(composed) < len(found) / 2, "most samples come from the services themselves or from their references"


def test_each_parser_is_fed() -> None:
    fed = {one.parser for sample in samples().values() for one in sample.expectations}
    assert fed == PARSERS.keys()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("source: somewhere\nHTTP/1.1 200 OK\n", "no line '---'"),
        ("source somewhere\n---\nHTTP/1.1 200 OK\n", "is no `field: text`"),
        ("colour: red\n---\nHTTP/1.1 200 OK\n", "there is no field colour"),
        ("expect etag: {\n---\nHTTP/1.1 200 OK\n", "what etag must say is no JSON"),
    ],
)
def test_a_sample_in_another_form_is_told(text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.wire.samples.FOLDER", tmp_path)
    path = tmp_path / "odd.http"
    path.write_text(text)
    with pytest.raises(ValueError, match=told) as raised:
        load(path)
    assert "odd.http" in str(raised.value)


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {}),
        ({"a": 1}, None),
        ([1, 2], [1]),
        ([{"a": 1}], [{"a": 2}]),
        (1, True),
        (None, 0),
        ({"says": ["x"]}, "y"),
        ({"says": [], "never": ["y"]}, "y"),
        ("text", "texts"),
    ],
)
def test_what_differs_is_noticed(expected: Any, said: Any) -> None:
    assert mismatches(expected, said)


def test_more_than_was_expected_is_no_difference() -> None:
    assert not mismatches({"a": [1, {"says": ["b"], "never": ["c"]}]}, {"a": [1, "abd"], "e": 2})
