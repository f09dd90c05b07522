"""Defects of earlier tools of this kind, and those that the simulation found here, planted again one by one: each must be caught.

Each is a change of one place in a copy of the tree. The tests that look for it must fail there; whether the simulation finds it
too is told beside: `python -m tools.planted_defects [--seeds 40]`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parents[1]
KNOWN = "tests/unit/test_known_defects.py"
SCENES = "tests/simulation/test_scenes.py"
GROWTH = "tests/unit/test_pool_growth.py"
DELIVERIES = "tests/unit/test_deliveries.py"
QUEUES = "tests/conformance/test_work_queues.py"
APPETITE = "tests/unit/test_appetite.py"
FOLLOW = "tests/integration/test_follow_days.py"
LISTS = "tests/unit/test_list_ledger.py"
PROOFS = "tests/unit/test_list_proofs.py"
FOUND = "tests/unit/test_found_by_simulation.py"


@dataclass(frozen=True)
class Defect:
    """`before` in `file` becomes `after`; `tests` are those that look for it."""

    says: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...] = (KNOWN,)


DEFECTS = (
    Defect(
        "1 a lost answer, or a restart, makes a second job",
        "sts_manager/domain/transitions.py",
        "            return _with_open_start(again, refused, policy, now)",
        "            return _try_again_or_end(replace(settled, after=job), policy, now)",
    ),
    Defect(
        "2 a write that is repeated doubles a history row",
        "sts_manager/stores/sql/store.py",
        "if stored.get(change.before.prefix) == change.before.generation]",
        "if change.before.prefix in stored]",
        ("tests/conformance/test_job_stores.py",),
    ),
    Defect(
        "3 QUEUED or SUSPENDING ends the daemon",
        "sts_manager/domain/transitions.py",
        "case OperationState.QUEUED | OperationState.IN_PROGRESS | OperationState.SUSPENDING:",
        "case OperationState.IN_PROGRESS:",
    ),
    Defect(
        "4 an ABORTED operation is started again",
        "sts_manager/domain/transitions.py",
        '            return _ended_in_error(settled, "CANCELLED", message, now)',
        "            return _try_again_or_end(settled, policy, now)",
    ),
    Defect(
        "5 what a person paused is resumed",
        "sts_manager/domain/decide.py",
        "            or job.paused_by is PausedBy.NOBODY\n",
        "",
    ),
    Defect(
        "6 a call may be sent without a name",
        "sts_manager/domain/names.py",
        'if stem != "transferOperations" or not rest:',
        "if False:",
    ),
    Defect(
        "7 clean-up deletes jobs that recur or never ran",
        "sts_manager/admin.py",
        '    if not job.one_time:\n        return "it recurs"\n',
        "",
    ),
    Defect(
        "8 retries without a bound",
        "sts_manager/domain/transitions.py",
        "    if job.tries >= policy.attempts_max:",
        "    if job.tries >= 10**9:",
    ),
    Defect(
        "8 polling asks about every operation there was",
        "sts_manager/daemon/reconciler.py",
        "        live = self._store.live()\n",
        "        live = (*self._store.live(), *self._store.with_status(JobStatus.DONE))\n",
    ),
    Defect(
        "A a wait that a fast clock wrote lasts for years",
        "sts_manager/domain/pacing.py",
        " or not_before > now + WAIT_MAX",
        "",
        (FOUND,),
    ),
    Defect(
        "B a frozen daemon makes its calls when another one leads",
        "sts_manager/daemon/reconciler.py",
        "if self._stopping() or not self._leading():",
        "if self._stopping():",
        (FOUND,),
    ),
    Defect(
        "C and runs a job that it had just made",
        "sts_manager/routes/sts/route.py",
        'if kind != "read" and not self.leading():',
        "if False:",
        (FOUND,),
    ),
    Defect(
        "D reports that another daemon's ledger waits for are acknowledged",
        "sts_manager/routes/pool/controller.py",
        "for place, lease in enumerate(good) if place not in unknown]",
        "for lease in good]",
        (FOUND,),
    ),
    Defect(
        "E jobs wait for reports that another ledger took",
        "sts_manager/routes/pool/ledger.py",
        'if last in ("", self.id):',
        "if True:",
        (FOUND,),
    ),
    Defect(
        "F an answer two minutes old makes a pause of ours a person's",
        "sts_manager/domain/transitions.py",
        "spent = was.status is JobStatus.PAUSED and moves and not others_paused(settled)",
        "spent = was.status is JobStatus.PAUSED and not others_paused(settled)",
        (FOUND,),
    ),
    Defect(
        "G an attempt gets two shared jobs",
        "sts_manager/domain/transitions.py",
        "used = int(made and policy.prefixes_per_job > 1)",
        "used = 0",
        (FOUND,),
    ),
    Defect(
        "H a second start that is refused is taken for proof that the first one did nothing",
        "sts_manager/domain/transitions.py",
        "if refused.again and not refused.made:",
        "if False:",
        (FOUND,),
    ),
    Defect(
        "I a large object is called done whatever bytes the sink stored",
        "cdn_worker/object_copy/resumable.py",
        "if stored.size == task.size and stored.crc32c == crc.to_bytes(4):",
        "if stored.size == task.size:",
        ("tests/unit/test_copying.py",),
    ),
    Defect(
        "J what follows is told to stop although a row was not marked",
        "sts_manager/admin.py",
        "    _mark(store, at, lambda job: _no_longer_following(job, failed, at) if job.route is Route.STS_FOLLOW else None)\n",
        "    list(_change_all(store, followed, at, lambda j: _no_longer_following(j, failed, at)))\n",
        ("tests/unit/test_reconciler.py",),
    ),
    # Of the hostile review, by the numbers of its findings.
    Defect(
        "C2 a page without keys is taken for the end of a listing",
        "cdn_worker/listing/diff.py",
        "        if page.entries or page.token is None:\n            return page\n",
        "        if page.entries or page.token is None:\n            return page\n        return Page([], None)\n",
        ("tests/unit/test_planning.py",),
    ),
    Defect(
        "C3 the order of a listing is not looked at",
        "cdn_worker/domain/ordering.py",
        "    if not names:\n        return\n",
        "    if names:\n        return\n",
        ("tests/unit/test_planning.py",),
    ),
    Defect(
        "C3 a page is believed that has fewer keys than it says",
        "cdn_worker/domain/listing_page.py",
        "    if told is not None and int(told[1]) != len(entries)",
        "    if False and int(told[1]) != len(entries)",
        ("tests/unit/test_pages.py",),
    ),
    Defect(
        "C4 what a successful transfer passed over is not looked for",
        "sts_manager/routes/url_list/setup.py",
        "            self._begin_late()\n            self._begin_comparing(job)\n            waiting",
        "            waiting",
        ("tests/unit/test_begun_comparisons.py",),
    ),
    Defect(
        "C4 a prefix is called done although its comparison could not be begun",
        "sts_manager/daemon/reconciler.py",
        "if not self._arriving(change.after)}",
        "if not self._arriving(change.after) and False}",
        ("tests/unit/test_reconciler.py",),
    ),
    Defect(
        "C5 rows that write the same names are loaded",
        "sts_manager/admin.py",
        "    refuse_shared_names(store, place(bound) if bound else None, prefixes, chosen)\n",
        "",
        ("tests/unit/test_destinations.py",),
    ),
    Defect(
        "C8 what was restored is archived for ever",
        "cdn_worker/domain/archive.py",
        "return None if listed.restore == RESTORED else _told(",
        "return _told(",
        ("tests/unit/test_archive.py",),
    ),
    Defect(
        "C10 what landed without an MD5 is called a copy by its size",
        "cdn_worker/url_lists/runner.py",
        "        if verified is Verified.SIZE and self._sizes.read_back:",
        "        if False:",
        ("tests/end_to_end/test_url_lists.py",),
    ),
    Defect(
        "M11 an older version in a cache is asked for again and again",
        "cdn_worker/object_copy/base.py",
        "            self.way, self.remark = replace(self.way, source=origin), FROM_STORE\n",
        "            pass\n",
        ("tests/unit/test_copying.py",),
    ),
    Defect(
        "M1 who was stopped before the end says that all is done",
        "sts_manager/cli/__init__.py",
        "    if ending is Ending.STOPPED and until_done:",
        "    if False:",
        ("tests/end_to_end/test_commands.py",),
    ),
    Defect(
        "M2 the pool is filled at dispatches alone",
        "sts_manager/domain/model.py",
        "        return self.fill if limit is Limit.POOL else self.dispatch",
        "        return self.dispatch",
        ("tests/unit/test_two_limits.py",),
    ),
    Defect(
        "M2 that a job of the pool has ended is no news",
        "sts_manager/routes/pool/controller.py",
        "folded.troubled or folded.ended",
        "folded.troubled",
        (GROWTH,),
    ),
    Defect(
        "M8 what came from outside drives the terminal",
        "sts_manager/cli/views.py",
        "    text = visible(_cell(value))",
        "    text = _cell(value)",
        ("tests/unit/test_hostile_screens.py",),
    ),
    Defect(
        "M9 connections that say nothing are kept",
        "cdn_worker/worker/health.py",
        "        self._hang_up(crowd)\n",
        "",
        ("tests/unit/test_health.py",),
    ),
    Defect(
        "M10 a prefix that matches nothing is done without a word",
        "sts_manager/domain/transitions.py",
        "            if policy.tells_empty and snapshot.counters.nothing",
        "            if False and snapshot.counters.nothing",
    ),
    Defect(
        "L2 Google's token goes to whoever's name ends alike",
        "cdn_worker/flags.py",
        '.endswith(".googleapis.com")',
        '.endswith("googleapis.com")',
        ("tests/unit/test_reach_settings.py",),
    ),
    Defect(
        "L3 the daemon's own worker takes tasks of any bucket",
        "sts_manager/routes/pool/allow_list.py",
        "            self._crew = Crew(self._grown(live))",
        "            self._crew = Crew(self._words)",
        ("tests/unit/test_allow_list.py",),
    ),
    Defect(
        "L4 a file of queues can be read by everybody",
        "cdn_worker/protocol/sqlite_file.py",
        "0o600",
        "0o644",
        ("tests/unit/test_private_files.py",),
    ),
    Defect(
        "L5 all rows are read before the first is changed",
        "sts_manager/admin.py",
        "    while some := list(islice(reading, ROWS_AT_ONCE)):\n        stale",
        "    while some := list(reading):\n        stale",
        ("tests/unit/test_streamed_chores.py",),
    ),
    Defect(
        "L7 a queue is anybody's",
        "cdn_worker/queues/sqlite.py",
        "            connection.execute(\"INSERT OR IGNORE INTO about VALUES ('migration', ?)\", (migration,))\n",
        "            connection.execute(\"INSERT OR REPLACE INTO about VALUES ('migration', ?)\", (migration,))\n",
        (QUEUES,),
    ),
    Defect(
        "L8 certificates that other programs trust are not",
        "cdn_worker/http/certificates.py",
        'VARIABLES = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")',
        'VARIABLES = ("SSL_CERT_FILE",)',
        ("tests/unit/test_certificates.py",),
    ),
    Defect(
        "a shard that could not be listed is forgotten when its parent is not known yet",
        "sts_manager/routes/pool/folding.py",
        "        _keep_early(connection, report, NO_RUN)\n",
        "        pass\n",
        ("tests/unit/test_pool_ledger.py",),
    ),
    Defect(
        "one older version in a cache condemns the distribution",
        "cdn_worker/object_copy/cdn_probe.py",
        'stale=why in ("changed", "compressed"))',
        "stale=False)",
        (SCENES,),
    ),
    Defect(
        "what failed in an attempt is told when the prefix has gone on",
        "sts_manager/routes/pool/controller.py",
        "            if job not in current:",
        "            if False:",
        (FOUND,),
    ),
    Defect(
        "a pause that a person has just made is taken for the command's",
        "sts_manager/admin.py",
        "theirs = job.operation_name in rests and job.paused_by is PausedBy.NOBODY",
        "theirs = False",
    ),
    Defect(
        "C1 an object weighs its size",
        "cdn_worker/copier/process_pool.py",
        "    return need_of(size, BUFFER_MAX) + KEY_WEIGHT",
        "    return size + KEY_WEIGHT",
        (APPETITE,),
    ),
    Defect(
        "C1 what has not begun is kept for as long as it takes",
        "cdn_worker/worker/worker.py",
        "            self._give_back_unbegun(now)\n",
        "",
        (SCENES,),
    ),
    Defect(
        "C1 whoever comes first claims without end",
        "cdn_worker/worker/claim_limits.py",
        "        copies = max(0, min(keys, weighty))",
        "        copies = 100_000",
        (APPETITE,),
    ),
    Defect(
        "C6 all failures are read to keep some",
        "sts_manager/routes/pool/ledger.py",
        "        with self._file.rows(statement, (job, limit)) as found:\n            for row in found:",
        "        for _ in (0,):\n            for row in self._read(statement, (job, 10**9))[:limit]:",
        (GROWTH,),
    ),
    Defect(
        "C7 what is given back was delivered in vain (memory)",
        "tests/fakes/memory_queue.py",
        "held[0].in_vain -= not counted",
        "held[0].in_vain -= 0",
        (QUEUES, SCENES),
    ),
    Defect(
        "C7 what is given back was delivered in vain (file)",
        "cdn_worker/queues/sqlite.py",
        "leases, 0 if counted else 1)",
        "leases, 0)",
        (DELIVERIES,),
    ),
    Defect(
        "C7 a lease that ended while its holder lives counts as a death",
        "tests/fakes/memory_queue.py",
        "                    ended.in_vain -= 1",
        "                    pass",
        (QUEUES,),
    ),
    Defect(
        "C7 no lease is extended while the board is away",
        "cdn_worker/worker/queue_client.py",
        "        try:\n            self._extend()",
        "        try:\n            self._queues.board.read()\n            self._extend()",
        (DELIVERIES, SCENES),
    ),
    Defect(
        "C7 without credentials tasks are claimed",
        "cdn_worker/worker/worker.py",
        "        if not cause.probes or now < self._probe_at:",
        "        if now < self._probe_at:",
        (SCENES,),
    ),
    Defect(
        "C9 dead letters of another daemon's jobs are acknowledged",
        "sts_manager/routes/pool/controller.py",
        "                self._tell_strange(one, task.spec.job)\n                continue",
        "                over.append(one)\n                continue",
        (FOUND,),
    ),
    Defect(
        "C9 who leads no more takes reports",
        "sts_manager/routes/pool/controller.py",
        "        if not self._leading():\n            return False\n        reports =",
        "        reports =",
        (FOUND,),
    ),
    Defect(
        "C9 a report comes to whoever knows a job of that name",
        "sts_manager/routes/pool/ledger.py",
        'if report.ledger not in ("", self.id) or (row is None and not report.ledger):',
        "if row is None:",
        (FOUND, GROWTH),
    ),
    Defect(
        "L10 attempts follow each other by the clock",
        "sts_manager/routes/pool/ledger.py",
        "ORDER BY attempt DESC, rowid DESC",
        "ORDER BY began_at DESC, rowid DESC",
        (GROWTH,),
    ),
    Defect(
        "M5 the rest of the object ledger is not told",
        "sts_manager/routes/pool/controller.py",
        "while self._leading() and (self._put_objects(self._told) or self.sweep()):",
        "while False:",
        (GROWTH,),
    ),
    Defect(
        "reports are taken by their number alone, however long",
        "sts_manager/routes/pool/controller.py",
        "reports.lease(REPORTS_AT_ONCE, bytes_max=REPORT_BYTES_AT_ONCE)",
        "reports.lease(REPORTS_AT_ONCE)",
        (GROWTH,),
    ),
    Defect(
        "M6 what is over is deleted in one go",
        "sts_manager/routes/pool/tidying.py",
        "WHERE {where} LIMIT {ROWS_AT_ONCE})",
        "WHERE {where})",
        (GROWTH,),
    ),
    Defect(
        "M7 earlier attempts stay for ever",
        "sts_manager/routes/pool/tidying.py",
        "WHERE superseded = 1 AND {over}",
        "WHERE superseded = 2 AND {over}",
        (GROWTH,),
    ),
    Defect(
        "M7 a pass without news writes history",
        "sts_manager/domain/decide.py",
        "    if after == row.before:\n",
        "    if after == row.before and row.state is None:\n",
        ("tests/unit/test_no_news.py",),
    ),
    Defect(
        "M12 all that were there at three deaths are to blame",
        "cdn_worker/copier/suspects.py",
        "self._alone[ticket] >= ALONE_MAX or self._deaths[ticket] >= DEATHS_MAX",
        "self._deaths[ticket] >= 3",
        ("tests/unit/test_ward.py",),
    ),
    Defect(
        "M13 what is done for a foreign spec counts for ours",
        "sts_manager/routes/pool/ledger.py",
        'elif report.spec and row["fingerprint"] and report.spec != row["fingerprint"]:',
        "elif False:",
        (FOUND,),
    ),
    Defect(
        "a host that is away burns objects and deliveries",
        "cdn_worker/worker/worker.py",
        "        return self._cause is not None and error in self._cause.errors",
        "        return False",
        (SCENES,),
    ),
    Defect(
        "what shows that a host is back is wanted for a moment only",
        "cdn_worker/worker/worker.py",
        "        return Wanted(lists=1, copies=1, huge=1)",
        "        self._probe_at = now + PROBE_S\n        return Wanted(lists=1, copies=1, huge=1)",
        ("tests/integration/test_fairness.py",),
    ),
    Defect(
        "only small objects show that a host is back",
        "cdn_worker/worker/worker.py",
        "        return Wanted(lists=1, copies=1, huge=1)",
        "        return Wanted(lists=1, copies=1)",
        (SCENES,),
    ),
    Defect(
        "a host that nobody needs any more is away for ever",
        "cdn_worker/domain/outage.py",
        " and now - last.last_missed_at < FORGET_S:",
        ":",
        (SCENES, APPETITE),
    ),
    Defect(
        "one worker that is cut off ends a job that is at work elsewhere",
        "sts_manager/routes/pool/folding.py",
        "not (waits or row",
        "not (row",
        (GROWTH,),
    ),
    Defect(
        "failures and the runs that they are of are read one after the other",
        "sts_manager/routes/pool/ledger.py",
        '    f"(j.swept >= {STRAYS_GONE} OR EXISTS',
        '    f"(EXISTS',
        (GROWTH,),
    ),
    Defect(
        "an attempt is tried again by the keys that are left of it",
        "sts_manager/routes/pool/ledger.py",
        '        if keys != row["failed"] or size > REPLAY_BYTES_MAX:',
        "        if size > REPLAY_BYTES_MAX:",
        (GROWTH,),
    ),
    Defect(
        "M3 what was refused is tried again while others are on their way",
        "cdn_worker/worker/job_context.py",
        "if access is not self._access or not self._keyring.awaited:",
        "if True:",
        (SCENES,),
    ),
    Defect(
        "nobody is told of a host that is away",
        "cdn_worker/worker/worker.py",
        "                self._tell(spec, cause.code, cause.why)",
        "                pass",
        (SCENES,),
    ),
    Defect(
        "K what is followed is done when the day's operation ends",
        "sts_manager/domain/transitions.py",
        "    if snapshot.following is not None:\n",
        "    if False:\n",
        (FOLLOW,),
    ),
    Defect(
        "L prefixes that wait to be followed come to be in a job each, on one queue",
        "sts_manager/domain/transitions.py",
        "    if job.route is Route.STS_FOLLOW:\n        # One",
        "    if False:\n        # One",
        (FOLLOW,),
    ),
    Defect(
        "M a second transfer job may listen to the queue",
        "sts_manager/admin.py",
        "    _refuse_a_second(store, project, queue)\n    rows",
        "    rows",
        (FOLLOW,),
    ),
    Defect(
        "N what failed in a day is said to be at the destination when nobody has looked yet",
        "sts_manager/routes/sts/repairs.py",
        "            return self._known.get(days.outstanding[-1].name)\n",
        "            return self._known.get(days.outstanding[-1].name, Known())\n",
        (FOLLOW,),
    ),
    Defect(
        "O a daemon without the event queue begins to follow",
        "sts_manager/routes/event_driven/route.py",
        "        if not self._event_queue:\n            raise Unready(",
        "        self._event_queue = self._event_queue or 'arn:aws:sqs:eu-west-1:123456789012:changes'\n"
        "        if not self._event_queue:\n            raise Unready(",
        (FOLLOW,),
    ),
    Defect(
        "P the counters of what is followed go back when the service forgets a day",
        "sts_manager/domain/transitions.py",
        "    return replace(seen, **{name: max(getattr(before, name), getattr(seen, name)) for name in names})",
        "    return replace(seen, **{name: getattr(seen, name) for name in names})",
        (FOLLOW,),
    ),
    Defect(
        "Q what failed in a day that is not over is called done at the stop",
        "sts_manager/admin.py",
        "    elif number := max(failed.get(job.job_name, 0), job.counters.objects_failed):",
        "    elif number := 0:",
        (FOLLOW,),
    ),
    Defect(
        "R what failed in a day is never brought again",
        "sts_manager/routes/sts/repairs.py",
        "        if not days.outstanding:\n            self._settle(",
        "        if days.failing:\n            self._settle(",
        (FOLLOW,),
    ),
    Defect(
        "S what a URL list brought is taken for the object whatever its MD5",
        "cdn_worker/url_lists/proofs.py",
        "        return Verified.MD5 if md5 == stored.md5 else None",
        "        return Verified.MD5",
        (PROOFS,),
    ),
    Defect(
        "T what a URL list did not bring is forgotten",
        "cdn_worker/protocol/url_list_ledger.py",
        'connection.execute("SELECT number, errors FROM part WHERE job = ?", (job,)).fetchall()',
        'connection.execute("SELECT number, errors FROM part WHERE job = ? AND 0", (job,)).fetchall()',
        (LISTS,),
    ),
)


def caught(tree: Path, words: list[str]) -> bool:
    """Whether pytest, or the simulation, found a failure in a tree (1); their other codes say that too little was looked at."""
    return subprocess.run([sys.executable, *words], cwd=tree, capture_output=True, text=True, check=False).returncode == 1


def plant(defect: Defect, seeds: int, *, tests: bool = True) -> tuple[bool, bool]:
    """(whether its tests caught it, whether the simulation did). Raises ValueError where the place is not there any more."""
    with tempfile.TemporaryDirectory(prefix="sts-manager-planted-") as name:
        tree = Path(name) / "tree"
        shutil.copytree(HERE, tree, ignore=shutil.ignore_patterns(".*", "__pycache__", "mutants", "dist"))
        file = tree / defect.file
        text = file.read_text()
        if text.count(defect.before) != 1:
            raise ValueError(f"{defect.says}: {defect.file} has {text.count(defect.before)} times {defect.before!r}")
        file.write_text(text.replace(defect.before, defect.after))
        by_tests = tests and caught(tree, ["-m", "pytest", "-q", "-x", "-k", "not bigquery", *defect.tests])
        simulation = ["-m", "tests.simulation", "--seeds", str(seeds), "--hours", "2", "--processes", "1", "--first-failure"]
        return by_tests, bool(seeds) and caught(tree, simulation)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="of the simulation, for each defect; 0: tests alone")
    parser.add_argument("--only", default="", help="defects whose text has this in it")
    parser.add_argument("--no-tests", action="store_true", help="the simulation alone")
    given = parser.parse_args()
    seeds, asked = given.seeds, not given.no_tests
    chosen = [defect for defect in DEFECTS if given.only in defect.says]
    if not chosen:
        parser.error(f"--only {given.only!r}: no defect has that in its text; they begin with C1 … M13, L2 … or a letter")
    if seeds < 0 or not (seeds or asked):
        parser.error(f"--seeds {seeds}: nothing would be looked at; give 1 or more, or leave --no-tests out")
    missed = 0
    tests = sorted({one for defect in chosen for one in defect.tests})
    if asked and caught(HERE, ["-m", "pytest", "-q", "-x", "-k", "not bigquery", *tests]):
        print("the tests fail without any defect: nothing can be told", file=sys.stderr)
        return 2
    for defect in chosen:
        by_tests, by_simulation = plant(defect, seeds, tests=asked)
        missed += asked and not by_tests
        simulated = f"simulation: {'caught' if by_simulation else 'not in so many seeds'}" if seeds else ""
        told = ("caught" if by_tests else "MISSED") if asked else ""
        print(f"{told:7} {defect.says:90} {simulated}", flush=True)
    if asked:
        print(f"{len(chosen) - missed} of {len(chosen)} caught by tests")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
