"""One copying loop in a process of its own: `python -m cdn_worker.copier.process FD`, started by `process_pool`.

It gets tasks over a socket and gives verdicts back. When the other end is gone, it stops at once: whoever starts again finds what
was done at the sink.
"""

from __future__ import annotations

import resource
import select
import signal
import socket
import sys
import time
from dataclasses import replace

from cdn_worker.copier.channel import Channel
from cdn_worker.copier.messages import Begin, Close, Open, Report, Stop, Tasks, Use, Withdraw
from cdn_worker.copier.scheduler import Copier, Lane
from cdn_worker.domain.budget import Budget
from cdn_worker.domain.verdict import KeyVerdict
from cdn_worker.http.engine import Engine
from cdn_worker.object_copy.commands import Resume, Task
from cdn_worker.storage.setup import way_of

REPORT_EVERY_S = 0.05
REPORT_KEYS = 64
PACES_EVERY_S = 2.0
SETUP_WITHIN_S = 30.0
DESCRIPTORS_BESIDE = 64
"""What a process has open besides its connections, and libcurl's reserve of idle ones."""


class LoopProcess:
    """The life of one."""

    def __init__(self, channel: Channel, begin: Begin) -> None:
        self._channel = channel
        requests = min(begin.limits.requests, connections_for(2 * begin.limits.requests) // 2)
        self._engine = Engine(replace(begin.limits, requests=requests), Budget(begin.buffer_bytes))
        self._report = Report()
        self._lanes: dict[int, Lane] = {}
        self._versions: dict[int, int] = {}
        self._stop_at: float | None = None
        self._paces_at = 0.0
        least, most = (min(one, requests) for one in begin.slots)
        self._copier = Copier(self._engine, ended=self._ended, slots_least=least, slots_most=most)
        self._report.streams = self._copier.streams
        self._engine.watch(channel.fileno(), self._receive)

    def run(self) -> None:
        """Until the other end is gone, or what was asked to be stopped has ended."""
        due = 0.0
        self._send_report()  # it lives
        while not self._channel.closed:
            self._engine.turn(REPORT_EVERY_S)
            now = time.monotonic()
            if now >= due or len(self._report.verdicts) >= REPORT_KEYS:
                due = now + REPORT_EVERY_S
                self._tell()
            if self._stop_at is not None and (self._copier.idle or now >= self._stop_at) and not self._channel.unsent:
                self._tell()
                return

    def _tell(self) -> None:
        report = self._report
        if time.monotonic() >= self._paces_at:
            self._paces_at = time.monotonic() + PACES_EVERY_S
            report.contacts = self._engine.contacts.known
            report.concurrency = {host.value: int(queue.pace.limit) for host, queue in self._engine.queues.items()}
        if report.verdicts or report.notes or report.renew or report.withdrawn or report.concurrency:
            self._send_report()
        else:
            self._channel.flush()

    def _send_report(self) -> None:
        report, self._report = self._report, Report()
        self._channel.send(report)

    def _receive(self) -> None:
        for message in self._channel.received():
            match message:
                case Tasks():
                    lane = self._lanes[message.lane]
                    for task in message.tasks:
                        lane.add(task)
                    self._copier.let_in()
                case Open():
                    self._open(message)
                case Use():
                    self._versions[message.lane] = message.access.version
                    self._lanes[message.lane].use(message.access)
                case Close():
                    del self._lanes[message.lane], self._versions[message.lane]
                case Withdraw():
                    self._report.withdrawn += self._copier.withdraw(frozenset(message.tickets))
                case Stop():
                    self._copier.drop()
                    self._stop_at = time.monotonic() + message.seconds

    def _open(self, message: Open) -> None:
        number = message.lane
        lane = self._copier.open(way_of(message.setup), noted=self._noted, renew=lambda: self._renew(number))
        lane.use(message.access)
        self._lanes[number], self._versions[number] = lane, message.access.version

    def _ended(self, task: Task, verdict: KeyVerdict) -> None:
        self._report.verdicts.append((task.ticket, verdict))

    def _noted(self, task: Task, resume: Resume) -> None:
        self._report.notes.append((task, resume))

    def _renew(self, lane: int) -> None:
        version = self._versions.get(lane)
        if version is not None:
            self._report.renew.add((lane, version))


def connections_for(wanted: int) -> int:
    """How many connections this process may have: the limit of descriptors is raised as far as it goes and is needed."""
    need = wanted + DESCRIPTORS_BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < need:
        soft = need if hard == resource.RLIM_INFINITY else min(need, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(2, min(wanted, soft - DESCRIPTORS_BESIDE))


def main(fd: int) -> None:
    # The parent decides when this one ends, also after a Ctrl-C, which goes to all processes of a terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=fd))
    messages: list[object] = []
    while not messages and not channel.closed:
        if not select.select([channel], [], [], SETUP_WITHIN_S)[0]:
            return
        messages = channel.received()
    if not messages:
        return
    begin = messages[0]
    assert isinstance(begin, Begin)
    assert len(messages) == 1, "the rest comes after the first report of life"
    LoopProcess(channel, begin).run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
