"""The health port under people who open connections and say nothing: probers are answered, and descriptors stay few."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from cdn_worker.domain.errors import BadInput
from cdn_worker.worker import health
from cdn_worker.worker.health import CONNECTIONS_MAX, Health
from cdn_worker.worker.worker import Figures
from tests.stages import wait_for


@pytest.fixture
def served() -> Iterator[Health]:
    made = Health(Figures, 0)
    yield made
    made.close()


def asked(served: Health, path: str) -> tuple[int, str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{served.port}{path}", timeout=10) as answer:
        return answer.status, answer.read().decode()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_hundred_half_requests_keep_no_prober_out_and_take_no_descriptors(served: Health) -> None:
    before = descriptors()
    with ExitStack() as opened:
        held = []
        for _ in range(100):
            client = opened.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=10))
            with suppress(OSError):
                client.sendall(b"GET /heal")
            held.append(client)
        assert asked(served, "/healthz") == (200, "ok\n")
        # Our own ends are descriptors of this process, too: what is above them is the server's.
        wait_for(lambda: descriptors() - before - len(held) <= CONNECTIONS_MAX + 4)
        assert "cdn_worker_in_flight" in asked(served, "/metrics")[1]


def test_who_says_nothing_for_long_is_hung_up_on(served: Health, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "ANSWERED_WITHIN_S", 0.0)
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
        client.sendall(b"GET /heal")
        assert client.recv(1) == b"", "the server ended it"


def test_it_listens_to_this_machine_alone_unless_told_otherwise(served: Health) -> None:
    assert served.address == "127.0.0.1"
    everywhere = Health(Figures, 0, "0.0.0.0")
    assert everywhere.address == "0.0.0.0"
    everywhere.close()
    with pytest.raises(BadInput, match=r"--health-address 203\.0\.113\.1 --health-port 1"):
        Health(Figures, 1, "203.0.113.1")
    with pytest.raises(BadInput, match="--health-address nowhere"):
        Health(Figures, 0, "nowhere.invalid")
