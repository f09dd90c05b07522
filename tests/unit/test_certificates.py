"""Certificates that somebody trusts for the other clients are trusted by the engine, too."""

from __future__ import annotations

from pathlib import Path

import certifi
import pytest

from cdn_worker.domain.errors import BadInput
from cdn_worker.http.certificates import VARIABLES, find_ca_file


@pytest.mark.parametrize("variable", VARIABLES)
def test_each_clients_own_variable_counts(variable: str, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("")
    assert find_ca_file({variable: str(file)}) == str(file)


def test_without_any_the_public_authorities_are_trusted() -> None:
    assert find_ca_file({}) == find_ca_file(dict.fromkeys(VARIABLES, "")) == certifi.where()


@pytest.mark.parametrize("named", ["/nowhere/ca.pem", "/"])
def test_what_is_no_file_is_told_with_the_variable(named: str) -> None:
    with pytest.raises(BadInput, match=f"AWS_CA_BUNDLE is '{named}', and there is no such file"):
        find_ca_file({"AWS_CA_BUNDLE": named})
