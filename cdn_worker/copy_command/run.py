"""One run of `copy`: lists, compares, hands out, takes in verdicts, and ends with a summary."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from cdn_worker.copier.checkpoints import Journal
from cdn_worker.copier.process_pool import Processes, begin_of
from cdn_worker.copy_command.progress import Progress, Screen
from cdn_worker.copy_command.verdict_file import VerdictFile, open_verdicts
from cdn_worker.credentials.provider import Keyring
from cdn_worker.domain.errors import BadInput, CdnWorkerError
from cdn_worker.domain.http import Answer, Fault, Host, Request
from cdn_worker.domain.listing_page import Filter
from cdn_worker.domain.overwrite import Replace
from cdn_worker.domain.verdict import GOOD, KeyVerdict, Summary, Tally
from cdn_worker.http.driver import Player
from cdn_worker.http.engine import Engine
from cdn_worker.listing.diff import Ground, Planned, Planner
from cdn_worker.object_copy.commands import Resume, Task
from cdn_worker.ports import Access
from cdn_worker.storage.setup import Setup, s3_of, sink_of

QUEUED_MAX = 10_000
QUEUED_HUGE_MAX = 100_000
"""Of huge objects more may wait: the listing goes on past them, and finds what need not wait."""
ALIKE = 20
HOPELESS = frozenset(
    {"forbidden", "sink_forbidden", "sink_missing", "unreachable", "redirected", "compressed", "refused", "sink_refused"}
)
"""What meets every object alike when it meets the first ones: then nothing is gained by trying the others."""
DRAIN_S = 18.0
CONTACT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is asked for. processes: how many loops; lanes: ranges that are listed at once."""

    setup: Setup
    prefix: str
    verdicts: Path
    filter: Filter = field(default_factory=Filter)
    overwrite: bool = False
    processes: int = 1
    lanes: int = 8
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How it ended. `stopped`: why it did not get to its end, else empty; verdicts: the file as it is called now."""

    summary: Summary
    tally: Tally
    seconds: float
    stopped: str = ""
    verdicts: Path | None = None
    listed: int = 0
    bytes_listed: int = 0
    to_copy: int = 0
    bytes_to_copy: int = 0

    @property
    def good(self) -> bool:
        """Whether every listed object is at the sink."""
        return not self.stopped and self.summary.good


class CopyRun:
    """Made for one run."""

    def __init__(self, job: Job, keyring: Keyring, screen: Screen) -> None:
        self._job, self._keyring, self._screen = job, keyring, screen
        self._tally = Tally()
        self._stopped = ""
        self._hopeless = False
        self._away = ""
        self._unjournaled = False
        self._to_copy = self._bytes_to_copy = 0
        self._access = keyring.access()
        self._engine = Engine(job.setup.limits)
        self._source, self._sink = s3_of(job.setup), sink_of(job.setup)
        self._use_here(self._access)
        self._journal = Journal(job.verdicts.with_name(f"{job.verdicts.name}.resume"), _of(job.setup))
        self._file: VerdictFile | None = None
        self._processes: Processes | None = None
        self._lane = 0
        player = Player(self._engine, renew=lambda: self._renew(self._access.version))
        ground = Ground(
            source=self._source,
            bucket=self._source,
            sink=self._sink,
            mapping=job.setup.mapping,
            prefix=job.prefix,
            filter=job.filter,
            replace=Replace.DIFFERENT if job.overwrite else Replace.NEVER,
            resume=self._journal.resume,
            backoff_s=job.setup.backoff_s,
        )
        self._player = player
        self._planner = Planner(player, ground, deliver=self._deliver, full=self._full, lanes=job.lanes)

    def run(self) -> Result:
        """Raises BadInput for what cannot be listed or written, VerdictsLost and LoopsDie for what ends it on the way."""
        began = time.monotonic()
        if not self._job.dry_run:
            self._file = open_verdicts(self._job.verdicts)
        complete = False
        try:
            with self._signals(), self._screen:
                self._make_contact()
                self._planner.begin()
                self._go()
            if self._planner.error is not None:
                raise CdnWorkerError(str(self._planner.error))
            # A run that found nothing leaves the verdicts of an earlier one alone.
            complete = not self._stopped and self._planner.listed > 0
        finally:
            if self._processes is not None:
                self._processes.close()
            self._engine.close()
            self._journal.close(complete=complete and self._tally.summary().good)
            path = None if self._file is None else self._file.close(complete=complete)
        return Result(
            summary=self._tally.summary(),
            tally=self._tally,
            seconds=time.monotonic() - began,
            stopped=self._stopped,
            verdicts=path,
            listed=self._planner.listed,
            bytes_listed=self._planner.bytes_listed,
            to_copy=self._to_copy,
            bytes_to_copy=self._bytes_to_copy,
        )

    def _make_contact(self) -> None:
        """Ask each server something, whatever it answers. Raises BadInput for one that is not there at all.

        Later on a server that cannot be reached is waited for; one that never could be is most likely a typing mistake.
        """
        setup = self._job.setup
        asked = {
            f"S3 at {setup.s3_endpoint}": self._source.page(prefix=self._job.prefix, keys_max=1),
            f"Cloud Storage at {setup.sink_endpoint}": self._sink.stat("x"),
        }
        if setup.cdn_url:
            asked[f"--cdn-url {setup.cdn_url}"] = Request(Host.SOURCE, "HEAD", setup.cdn_url, deadline_s=CONTACT_S)
        for what, request in asked.items():
            answer = self._answer_to(request)
            if answer.fault is Fault.CONNECT:
                answer = self._answer_to(request)
            if answer.fault is Fault.CONNECT:
                raise BadInput(f"{what} cannot be reached: {answer.said}")

    def _answer_to(self, request: Request) -> Answer:
        answers: list[Answer] = []
        self._engine.exchange(request, answers.append)
        while not answers:
            self._engine.turn(0.1)
        return answers[0]

    def _go(self) -> None:
        while not self._stopped:
            self._engine.turn(0.1)
            self._stay_signed()
            processes = self._processes
            if processes is not None:
                processes.tend()
            self._screen.show(self._progress())
            if self._planner.idle and (processes is None or processes.idle):
                return
        self._planner.stop()
        self._screen.say(f"stopping: {self._stopped}")
        if self._processes is not None:
            self._processes.stop(0.5 if self._hopeless else DRAIN_S)

    def _progress(self) -> Progress:
        return Progress(
            listed=self._planner.listed,
            bytes_listed=self._planner.bytes_listed,
            listing=not self._planner.idle,
            tally=self._tally,
            in_flight=0 if self._processes is None else self._processes.outstanding,
            restarts=0 if self._processes is None else self._processes.restarts,
        )

    # Work

    def _full(self) -> bool:
        processes = self._processes
        return processes is not None and (processes.waiting >= QUEUED_MAX or processes.waiting_huge >= QUEUED_HUGE_MAX)

    def _deliver(self, planned: list[Planned]) -> None:
        verdicts = [one for one in planned if isinstance(one, KeyVerdict)]
        if verdicts:
            self._take_in(verdicts)
        for one in planned:
            if isinstance(one, Task):
                self._to_copy += 1
                self._bytes_to_copy += one.size
                if not self._job.dry_run:
                    self._started().add(self._lane, one)

    def _started(self) -> Processes:
        """The processes: they are started when there is something to copy."""
        if self._processes is None:
            self._processes = Processes(self._engine, begin_of(self._job.setup), self._job.processes, said=self._screen.say)
            self._lane = self._processes.open(
                self._job.setup,
                self._access,
                verdicts=lambda verdicts: self._take_in([one for _, one in verdicts]),
                noted=self._note,
                renew=self._renew,
            )
        return self._processes

    def _take_in(self, verdicts: list[KeyVerdict]) -> None:
        for verdict in verdicts:
            self._tally.add(verdict)
            self._journal.ended(verdict.key)
        if self._file is not None:
            self._file.add(verdicts)
        self._look_for_hope()

    def _look_for_hope(self) -> None:
        summary = self._tally.summary()
        if self._stopped or any(summary.verdicts[one] for one in GOOD):
            return
        for error, count in summary.errors.items():
            if error in HOPELESS and count >= ALIKE:
                example = self._tally.samples[error]
                self._hopeless = True
                self._stopped = f"the first {count} objects all ended with {error}: {example.details}"

    def _note(self, task: Task, resume: Resume) -> None:
        try:
            self._journal.note(task, resume)
        except OSError as error:
            # It only saves time after a kill.
            if not self._unjournaled:
                self._unjournaled = True
                self._screen.say(
                    f"how far large objects are cannot be written down ({error.strerror}): after a kill they begin anew"
                )

    # Access

    def _stay_signed(self) -> None:
        if self._keyring.due(self._access):
            self._hand_round(self._made_anew(self._keyring.access))

    def _renew(self, refused: int) -> None:
        # What is newest already is handed out again, so that nobody waits for more; tries are counted by who tries.
        access = self._made_anew(lambda: self._keyring.renewed(refused))
        if access is not self._access or not self._keyring.awaited:
            self._hand_round(access)

    def _made_anew(self, make: Callable[[], Access | None]) -> Access:
        """A fresh access, or the one that there is: who holds the keys may be away for a while, and is asked again."""
        try:
            return make() or self._access
        except BadInput as error:
            if str(error) != self._away:
                self._away = str(error)
                self._screen.say(f"access could not be renewed, and the old one is used on: {error}")
            return self._access

    def _hand_round(self, access: Access) -> None:
        self._access = access
        self._use_here(access)
        if self._processes is not None:
            self._processes.use(self._lane, access)
        self._engine.after(0, self._player.go_on)

    def _use_here(self, access: Access) -> None:
        self._source.use(access)
        self._sink.use(access)

    # Signals

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(number: int, _frame: FrameType | None) -> None:
            if self._stopped:
                raise SystemExit(128 + number)  # a second signal ends it at once
            self._stopped = f"{signal.Signals(number).name}; run the same command again to go on"

        before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)


def _of(setup: Setup) -> str:
    """What is copied from where to where, in a word."""
    mapping = setup.mapping
    sink = f"{setup.sink_endpoint} gs://{setup.sink_bucket}/{mapping.sink_root}"
    return f"s3://{setup.source_bucket}/{mapping.source_root} {sink}"
