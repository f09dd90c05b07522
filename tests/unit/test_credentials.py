"""One provider a process: it is asked once for all prefixes, in time, and nobody waits for it."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from cdn_worker.config import Reach
from cdn_worker.credentials.provider import EARLY, Keyring
from cdn_worker.credentials.renewal import AGAIN_S, AHEAD, LOOK_S, REST_S, Provider
from cdn_worker.domain.errors import BadInput
from cdn_worker.flags import takes_token
from tests.stages import wait_for

NOW = datetime(2026, 11, 21, 3, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Service:
    """Gives tokens for an hour; it may be away."""

    def __init__(self) -> None:
        self.now, self.asked, self.away = NOW, 0, False

    def __call__(self) -> tuple[str, datetime | None]:
        self.asked += 1
        if self.away:
            raise BadInput("the metadata server does not answer")
        return f"token-{self.asked}", self.now + HOUR

    def provider(self) -> Provider[str]:
        return Provider("Google credentials", self, now=lambda: self.now, monotonic=self.monotonic)

    def monotonic(self) -> float:
        return self.now.timestamp()


def test_forty_prefixes_ask_once() -> None:
    service = Service()
    provider = service.provider()
    provider.turn()
    reach = Reach(s3_endpoint="http://s3", s3_region="r", sink_endpoint="http://gcs", google=provider)
    access = [reach.keyring("bucket", f"{index}/").access() for index in range(40)]
    assert {one.bearer for one in access} == {"token-1"}
    assert {one.until for one in access} == {NOW + HOUR - EARLY}
    assert service.asked == 1


def test_a_token_is_fetched_before_it_ends_and_before_anybody_asks_for_another() -> None:
    service = Service()
    provider = service.provider()
    ring = Reach(s3_endpoint="", s3_region="", sink_endpoint="", google=provider).keyring("b", "")
    assert provider.turn() == (HOUR - AHEAD).total_seconds()
    first = ring.access()
    service.now += HOUR - AHEAD
    assert provider.turn() > 0
    assert (service.asked, provider()[0]) == (2, "token-2")
    assert AHEAD > EARLY
    assert provider.turn() > 0
    assert service.asked == 2, "it lasts another hour"
    assert first.bearer == "token-1"


def test_what_there_is_is_used_until_it_ends_while_nobody_gives_another() -> None:
    service = Service()
    provider = service.provider()
    provider.turn()
    service.away = True
    service.now += HOUR - AHEAD
    assert [provider.turn() for _ in range(5)] == [*AGAIN_S, AGAIN_S[-1]]
    assert (provider()[0], provider.lacking) == ("token-1", "")
    service.now += AHEAD
    assert provider.lacking == "Google credentials: the metadata server does not answer"
    with pytest.raises(BadInput, match="Google credentials: the metadata server does not answer"):
        provider()
    service.away = False
    provider.turn()
    assert provider.lacking == ""


def ring_of(service: Service, provider: Provider[str]) -> Keyring:
    refused, fetching = provider.renew, lambda: provider.fetching
    reach = Reach(s3_endpoint="", s3_region="", sink_endpoint="", google=provider, refused=refused, fetching=fetching)
    ring = reach.keyring("b", "")
    ring._now = lambda: service.now
    return ring


def test_what_was_refused_is_fetched_anew_and_not_tried_again_before_that() -> None:
    """With the old ones, three tries came to nothing while others were on their way, and objects failed as forbidden."""
    service = Service()
    provider = service.provider()
    provider.turn()
    provider.turn()
    assert service.asked == 1
    ring = ring_of(service, provider)
    first = ring.access()
    service.now += timedelta(minutes=1)
    assert (ring.renewed(first.version), ring.awaited, ring.due(first)) == (None, True, False)
    service.now += timedelta(minutes=1)
    assert (ring.renewed(first.version), ring.awaited) == (None, True)
    provider.turn()
    assert (service.asked, ring.awaited, ring.due(first)) == (2, False, True)
    second = ring.access()
    assert (second.bearer, second.version, ring.due(second)) == ("token-2", 2, False)


def test_what_was_fetched_a_moment_ago_is_refused_for_another_reason_than_its_age() -> None:
    """An object that nobody may read would have a token fetched for each of its tries."""
    service = Service()
    provider = service.provider()
    provider.turn()
    ring = ring_of(service, provider)
    first = ring.access()
    service.now += timedelta(seconds=REST_S - 1)
    second = ring.renewed(first.version)
    assert second is not None
    assert (second.bearer, second.version, provider.fetching) == ("token-1", 2, False)
    provider.turn()
    assert service.asked == 1


def test_credentials_that_were_refused_are_none_while_no_others_are_to_be_had() -> None:
    """They have not ended by our clock: what is refused then is nobody's fault, and nothing is claimed."""
    service = Service()
    provider = service.provider()
    provider.turn()
    service.now += timedelta(minutes=10)
    service.away = True
    provider.renew()
    assert provider.lacking == "", "others are on their way"
    assert provider.turn() == AGAIN_S[0]
    why = "they were refused, and no others are to be had: the metadata server does not answer"
    assert provider.lacking == f"Google credentials: {why}"
    assert provider.turn() == AGAIN_S[1], "it goes on trying"
    service.away = False
    provider.turn()
    assert (provider.lacking, provider.fetching, provider()[0]) == ("", False, "token-4")


def test_an_access_is_not_made_anew_when_there_is_nothing_new_to_make_it_of() -> None:
    """Else each prefix would do it every two seconds for as long as a token service is away."""
    service = Service()
    provider = service.provider()
    provider.turn()
    ring = Reach(s3_endpoint="", s3_region="", sink_endpoint="", google=provider).keyring("b", "")
    ring._now = lambda: service.now
    first = ring.access()
    service.now += HOUR - EARLY + timedelta(seconds=1)
    assert not ring.due(first)
    provider.turn()
    assert ring.due(first)


def test_nobody_waits_for_a_token_service_that_hangs() -> None:
    hang, asked = threading.Event(), threading.Event()

    def hanging() -> tuple[str, datetime | None]:
        asked.set()
        hang.wait(60)
        return "token", None

    provider = Provider("Google credentials", hanging).start()
    assert asked.wait(20)
    with pytest.raises(BadInput, match="not fetched yet"):
        provider()
    assert provider.lacking
    hang.set()
    wait_for(lambda: not provider.lacking)
    assert provider() == ("token", None)
    assert provider.turn() == LOOK_S


def test_a_defect_of_a_library_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    fails = iter([True, False])

    def fetch() -> tuple[str, datetime | None]:
        if next(fails):
            raise ZeroDivisionError("in a library")
        return "token", None

    provider = Provider("AWS credentials", fetch)
    assert provider.turn() == AGAIN_S[0]
    assert provider.lacking == "AWS credentials: in a library"
    assert "credentials_defect" in caplog.text
    provider.turn()
    assert provider()[0] == "token"


@pytest.mark.parametrize(
    ("endpoint", "takes"),
    [
        ("https://storage.googleapis.com", True),
        ("https://storage.us-east4.rep.googleapis.com", True),
        ("https://evilgoogleapis.com", False),
        ("https://googleapis.com.evil.example", False),
        ("http://127.0.0.1:9199", False),
        ("http://evilgoogleapis.com", False),
    ],
)
def test_a_token_goes_to_google_alone(endpoint: str, takes: bool) -> None:
    assert takes_token(endpoint) is takes


def test_a_token_never_goes_in_the_clear() -> None:
    with pytest.raises(BadInput, match="over TLS alone: write https://storage"):
        takes_token("http://storage.googleapis.com")
