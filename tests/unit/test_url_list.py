"""URL lists: their rows and limits, the hosts that they may name, and the names that come of them."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn_worker.domain.keys import encoded
from cdn_worker.domain.url_list import (
    HEADER,
    Naming,
    UrlList,
    UrlListFault,
    host_fault,
    landing,
    landing_fault,
    md5_column,
    naming_by,
    url_of,
)
from tools.emulators.sts.ends import EndError
from tools.emulators.sts.http_list import rows_of

BASE = "https://d1.example/b/"
MD5 = hashlib.md5(b"x", usedforsecurity=False)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def listed(*urls: str, rows_max: int = 10, bytes_max: int = 1000) -> UrlList:
    made = UrlList("d1.example", rows_max=rows_max, bytes_max=bytes_max)
    for url in urls:
        assert made.add(url, 1, "e-2")
    return made


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://d2.example/b/x", "the only host"),
        ("https://d1.example:8443/b/x", "the only host"),
        (f"{BASE}a#b", "fragment"),
        (f"{BASE}a?b", "query of its own"),
        (f"{BASE}k", "does not come after"),
        (f"{BASE}a", "does not come after"),
    ],
)
def test_what_must_not_be_in_a_list_is_refused(url: str, why: str) -> None:
    made = listed(f"{BASE}k")
    with pytest.raises(UrlListFault, match=why):
        made.add(url, 1, "e")
    assert made.rows == 1


@pytest.mark.parametrize(
    ("etag", "column"),
    [(MD5.hexdigest(), base64.b64encode(MD5.digest()).decode()), (f"{MD5.hexdigest()}-2", ""), ("abc", ""), ("", "")],
)
def test_only_an_md5_is_offered_as_one(etag: str, column: str) -> None:
    assert md5_column(etag) == column


def test_a_full_list_takes_no_more() -> None:
    made = listed(f"{BASE}a", f"{BASE}b", rows_max=2)
    assert not made.add(f"{BASE}c", 1, "e")
    row = len(f"{BASE}a\t1\n")
    small = listed(f"{BASE}a", bytes_max=len(HEADER) + 1 + 2 * row)
    assert small.add(f"{BASE}b", 1, "e")
    assert not small.add(f"{BASE}c", 1, "e")
    assert len(small.text()) == len(HEADER) + 1 + 2 * row
    with pytest.raises(UrlListFault, match="does not fit"):
        UrlList("d1.example", bytes_max=20).add(f"{BASE}a", 1, "e")


@given(keys=st.sets(KEYS, min_size=1, max_size=20), query=st.sampled_from(["", "Policy=x&Signature=y"]))
def test_a_list_in_the_ledgers_order_is_one_that_the_stage_takes(keys: set[str], query: str) -> None:
    made = UrlList("d1.example", query)
    for url in sorted(f"{BASE}{encoded(key)}{'?' if query else ''}" for key in keys):
        assert made.add(url, 7, MD5.hexdigest())
    try:
        rows = rows_of(made.text())
    except EndError as error:
        raise AssertionError(error.details) from error
    assert len(rows) == len(keys)
    assert all(row.size == 7 and row.md5 == md5_column(MD5.hexdigest()) for row in rows)


@given(keys=st.sets(KEYS, min_size=1, max_size=10), naming=st.sampled_from(list(Naming)))
def test_names_lead_back_to_their_urls_one_to_one(keys: set[str], naming: Naming) -> None:
    urls = {f"{BASE}{encoded(key)}" for key in keys}
    names = {landing(url, naming): url for url in urls}
    assert len(names) == len(urls)
    assert {url_of(name, BASE, naming) for name in names} == urls
    assert all(naming_by([name], [url]) in (naming, Naming.DECODED) for name, url in names.items())


def test_a_name_that_nobody_expected_is_told_apart() -> None:
    url = f"{BASE}a%20b"
    assert naming_by(["d1.example/b/a b"], [url]) is Naming.DECODED
    assert naming_by(["d1.example/b/a%20b"], [url]) is Naming.ENCODED
    assert naming_by(["d1.example/b/a b?Policy=secret"], [url]) is None
    assert url_of("elsewhere/x", BASE, Naming.DECODED) is None


def test_a_key_that_is_too_long_under_its_first_name_is_refused() -> None:
    room = 1024 - len(".sts-manager/job/in/d1.example/b/")
    assert landing_fault(".sts-manager/job/in/", BASE + "x" * room) is None
    told = landing_fault(".sts-manager/job/in/", BASE + "x" * (room + 1))
    assert told is not None
    assert "give the prefix another route" in told
    assert landing_fault(".sts-manager/job/in/", BASE + encoded("é" * 400)) is not None, "as it might be encoded"


@pytest.mark.parametrize(
    ("url", "addresses", "why"),
    [
        ("http://d1.example/", (), "not https"),
        ("https://user@d1.example/", (), "user name"),
        ("https://10.0.0.1/", (), "public internet"),
        ("https://169.254.169.254/", (), "public internet"),
        ("https://[::1]/", (), "public internet"),
        ("https://d1.example/", ("8.8.8.8", "192.168.1.1"), "192.168.1.1"),
        ("https://d1.example/", ("fe80::1",), "fe80::1"),
        ("https://d1.example/", ("100.64.0.1",), "100.64.0.1"),
    ],
)
def test_hosts_that_the_service_should_not_or_could_not_read(url: str, addresses: tuple[str, ...], why: str) -> None:
    fault = host_fault(url, addresses)
    assert fault is not None
    assert why in fault


def test_a_public_host_is_let_through() -> None:
    assert host_fault("https://d1.example/", ("8.8.8.8", "2001:4860:4860::8888")) is None
