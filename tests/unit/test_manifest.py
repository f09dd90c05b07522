"""The manifest of what is to be transferred once more."""

from __future__ import annotations

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from cdn_worker.url_lists.manifest import MANIFEST_BYTES_MAX, write_manifest

NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1, max_size=40)
"""Of an object that Cloud Storage takes: no other gets as far as a manifest."""


@given(names=st.lists(NAME, max_size=20))
def test_every_name_comes_back_as_it_was(names: list[str]) -> None:
    text = write_manifest(names)
    assert text is not None
    assert [row[0] for row in csv.reader(io.StringIO(text.decode(), newline=""))] == names


def test_more_than_a_million_names_are_no_reason_to_move_all_of_a_prefix() -> None:
    text = write_manifest(f"logs/2024/{index:07}.parquet" for index in range(1_000_001))
    assert text is not None
    assert text.count(b"\n") == 1_000_001


def test_what_would_not_fit_into_memory_is_no_manifest() -> None:
    assert write_manifest(["a", "b"], bytes_max=4) == b"a\nb\n"
    assert write_manifest(["a", "b", "c"], bytes_max=4) is None
    assert MANIFEST_BYTES_MAX >= 1_000_000 * 100
