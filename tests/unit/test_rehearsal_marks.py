"""docs/rehearsal.md: each modelled behaviour says how sure we are of it, and what it says of that is so.

A row is `| behaviour | documented, observed or assumed | source, or what settles it |`:

documented   an https address, or `docstring: google.cloud.….Message.field` of an installed client
observed     an issue or pull request of a public repository, or samples of tests/wire that are themselves marked as observed
assumed      `probe: ROW`, a row that `doctor --probe` prints, or `either way: tests/….py::test_…`, which runs the product with
             both answers
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sts_manager.doctor.probe import bigquery, cloudfront, creates, monitoring, s3, transfer_log, transfers, uploads, url_lists
from tests.wire.samples import load
from tools.emulators.ledger import DEFAULTS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "rehearsal.md"
LEDGER = ROOT / "tools" / "emulators" / "ledger.py"
HEADER = ("behaviour", "how sure", "source, or what settles it")
KINDS = "|".join(sorted({name.partition(".")[0] for name in DEFAULTS}))
SETTING = re.compile(rf"`((?:{KINDS})\.[a-z_0-9]+)`")
DOUBT = re.compile(r'assumed|nobody could verify|\bor "')
"""In the comment of a setting: that it is there because nobody knows."""
PROBED = {
    *bigquery.ALL,
    *cloudfront.ALL,
    *url_lists.ALL,
    *transfers.FIRST,
    *(transfers.MANIFEST, transfers.FOLDER, transfer_log.LOG),
    *(creates.NO_DESTINATION, creates.NO_SOURCE, creates.NO_ROLE),
    *(monitoring.POINTS, monitoring.REGION, monitoring.POLICIES),
    *(s3.METADATA, s3.PAYER, *(f"{s3.CLASS} {name}" for name in (*s3.ARCHIVED, "INTELLIGENT_TIERING"))),
    *(uploads.PUT, uploads.AGAIN, uploads.SESSION, uploads.METADATA, uploads.PATCH, uploads.MOVE, uploads.DELETE),
    *(uploads.LISTING, uploads.LISTING_KEY),
}
"""What the probe looks at. `follow: a day's operation` is none of it: that row only says that it takes a day."""


@dataclass(frozen=True, slots=True)
class Row:
    """One modelled behaviour. line: of the page, from 1."""

    line: int
    behaviour: str
    mark: str
    source: str

    @property
    def settings(self) -> set[str]:
        return set(SETTING.findall(f"{self.behaviour} {self.source}"))

    def after(self, word: str) -> list[str]:
        """What stands in backticks behind a word: `probe: X` gives X."""
        return re.findall(rf"`{word}: ([^`]+)`", self.source)


def rows(text: str) -> Iterator[Row | str]:
    """The rows of all tables of behaviours; a text for a line that is no row of three cells."""
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        cells = tuple(cell.strip() for cell in line.strip().strip("|").split("|"))
        if not line.startswith("|"):
            inside = False
        elif cells == HEADER:
            inside = True
        elif inside and not set(line) <= set("|- "):
            yield Row(number, *cells) if len(cells) == len(HEADER) else f"line {number}: {len(cells)} cells, and 3 are right"


def faults(text: str) -> list[str]:
    """What is wrong with the tables of a page."""
    found: list[str] = []
    for row in rows(text):
        if isinstance(row, str):
            found.append(row)
            continue
        told = {"documented": documented, "observed": observed, "assumed": assumed}.get(row.mark)
        problems = [f"{row.mark!r} is no mark: documented, observed, assumed"] if told is None else list(told(row))
        problems += [f"no setting is called {name}" for name in sorted(row.settings - set(DEFAULTS))]
        found += [f"line {row.line}, {row.behaviour[:60]!r}: {problem}" for problem in problems]
    return found


def documented(row: Row) -> Iterator[str]:
    named = row.after("docstring")
    if not named and not re.search(r"https://[\w.-]+\.[a-z]+/\S", row.source):
        yield "documented, and no address"
    yield from (f"there is no docstring of {path}" for path in named if not has_docstring(path))


def observed(row: Row) -> Iterator[str]:
    samples = re.findall(r"`tests/wire/([^`]+)`", row.source)
    if not samples and not re.search(r"https://github\.com/[\w.-]+/[\w.-]+/(?:issues|pull)/\d+", row.source):
        yield "observed, and it does not say where: an issue's address or a sample of tests/wire"
    for name in samples:
        if not (ROOT / "tests/wire" / name).is_file():
            yield f"there is no tests/wire/{name}"
        elif load(ROOT / "tests/wire" / name).mark != "observed":
            yield f"tests/wire/{name} was never observed whole: it is {load(ROOT / 'tests/wire' / name).mark}"


def assumed(row: Row) -> Iterator[str]:
    probes, tests = row.after("probe"), row.after("either way")
    if not probes and not tests:
        yield "assumed, and nothing settles it: no `probe: …`, no `either way: …`"
    yield from (f"the probe prints no row {name!r}" for name in probes if name not in PROBED)
    for name in tests:
        path, _, function = name.partition("::")
        if not path.startswith("tests/") or function not in functions(path):
            yield f"there is no test {name}"
    for setting in sorted(row.settings) if tests and not probes else ():
        if not any(f'"{setting}"' in source(name.partition("::")[0]) for name in tests):
            yield f"no test that is named sets {setting}"


@cache
def source(path: str) -> str:
    file = ROOT / path
    return file.read_text() if file.is_file() else ""


@cache
def functions(path: str) -> frozenset[str]:
    found = ast.walk(ast.parse(source(path)))
    return frozenset(one.name for one in found if isinstance(one, ast.FunctionDef) and one.name.startswith("test_"))


def has_docstring(path: str) -> bool:
    """path: of a message, an enumeration, or of a field or value of one, as google.pubsub_v1.DeadLetterPolicy."""
    parts = path.split(".")
    cut = next((index for index, part in enumerate(parts) if part[:1].isupper()), len(parts))
    try:
        found: Any = importlib.import_module(".".join(parts[:cut]))
    except ImportError:
        return False
    for at, part in enumerate(parts[cut:], cut):
        inner = getattr(found, part, None)
        if not inspect.isclass(inner):
            text = inspect.getdoc(found) or ""
            return at == len(parts) - 1 and at > cut and re.search(rf"^ +{part} \(", text, flags=re.MULTILINE) is not None
        found = inner
    return cut < len(parts) and bool(found.__doc__)


def doubtful(text: str) -> set[str]:
    """Settings of the ledger that are there because nobody knows, as their comments say."""
    lines = re.findall(r'^    "([^"]+)": .*?  # (.*)$', text, flags=re.MULTILINE)
    return {name for name, comment in lines if DOUBT.search(comment)}


def test_each_behaviour_has_a_mark_and_what_the_mark_promises() -> None:
    assert faults(PAGE.read_text()) == []


def test_each_service_has_its_table() -> None:
    services = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    bare = [text.partition("\n")[0] for text in services if not any(rows(text))]
    assert [title for title in bare if "ours" in title or "moto" in title] == []
    assert sum(1 for _ in rows(PAGE.read_text())) > 100


def test_what_a_setting_leaves_open_stands_in_a_row_that_says_assumed_or_observed() -> None:
    told = {name for row in rows(PAGE.read_text()) if isinstance(row, Row) and row.mark != "documented" for name in row.settings}
    assert sorted(doubtful(LEDGER.read_text()) - told) == []


def test_each_setting_that_is_told_exists() -> None:
    assert sorted(set(SETTING.findall(PAGE.read_text())) - set(DEFAULTS)) == []


TABLE = "| behaviour | how sure | source, or what settles it |\n|---|---|---|\n"
WITH_SETTING = "tests/integration/test_reconciler_on_stage.py::test_failed_objects_are_never_called_done"
WITHOUT = "tests/unit/test_pages.py::test_a_restore_is_read_wherever_it_stands"
GOOD = [
    "| it does | documented | https://cloud.google.com/storage/docs/consistency |",
    "| it does | documented | `docstring: google.cloud.storage_transfer_v1.TransferJob.name` |",
    "| it does | documented | `docstring: google.cloud.storage_transfer_v1.TransferOperation.Status` |",
    "| it does | documented | `docstring: google.pubsub_v1.DeadLetterPolicy` |",
    "| it does | observed | https://github.com/iconara/bigshift/issues/8 |",
    "| it does | observed | `tests/wire/gcs/put-200-http2.http` |",
    "| it does | assumed | `probe: S3 requester pays` |",
    "| it does | assumed | `probe: S3 class GLACIER`, `probe: CDN: If-Match` |",
    f"| it does (`sts.failed_objects_end`) | assumed | `either way: {WITH_SETTING}` |",
]
BAD = [
    ("| it does | | https://cloud.google.com/storage |", "'' is no mark"),
    ("| it does | likely | https://cloud.google.com/storage |", "'likely' is no mark"),
    ("| it does | documented |", "2 cells"),
    ("| it does | documented | the reference |", "no address"),
    ("| it does | documented | https:// |", "no address"),
    ("| it does | documented | `docstring: google.cloud.storage_transfer_v1.TransferJob.nom` |", "no docstring of"),
    ("| it does | documented | `docstring: google.cloud.storage_transfer_v1.NoSuchMessage` |", "no docstring of"),
    ("| it does | documented | `docstring: google.cloud.storage_transfer_v9.TransferJob` |", "no docstring of"),
    ("| it does | observed | somebody saw it |", "does not say where"),
    ("| it does | observed | https://cloud.google.com/storage |", "does not say where"),
    ("| it does | observed | `tests/wire/gcs/no-such-sample.http` |", "there is no tests/wire/gcs/no-such-sample.http"),
    ("| it does | observed | `tests/wire/sts/create-invalid.grpc` |", "it is composed"),
    ("| it does | assumed | by general knowledge |", "nothing settles it"),
    ("| it does | assumed | https://cloud.google.com/storage |", "nothing settles it"),
    ("| it does | assumed | `probe: the weather` |", "prints no row 'the weather'"),
    ("| it does | assumed | `probe: follow: a day's operation` |", "prints no row"),
    ("| it does | assumed | `either way: tests/unit/test_no_such_file.py::test_x` |", "there is no test"),
    ("| it does | assumed | `either way: tests/unit/test_pages.py::test_no_such_test` |", "there is no test"),
    ("| it does | assumed | `either way: tests/unit/test_pages.py` |", "there is no test"),
    (
        f"| it does (`sts.manifest_missing`) | assumed | `either way: {WITHOUT}` |",
        "no test that is named sets sts.manifest_missing",
    ),
    ("| it does (`sts.no_such_setting`) | assumed | `probe: S3 requester pays` |", "no setting is called sts.no_such_setting"),
]


@pytest.mark.parametrize("row", GOOD)
def test_a_row_that_keeps_its_promise_is_right(row: str) -> None:
    assert faults(TABLE + row) == []


@pytest.mark.parametrize(("row", "told"), BAD)
def test_a_row_that_does_not_is_named(row: str, told: str) -> None:
    (fault,) = faults(f"# A page\n\n{TABLE}{GOOD[0]}\n{row}\n")
    assert told in fault
    assert fault.startswith("line 6")


def test_tables_of_something_else_are_passed_over() -> None:
    assert list(rows("| request | does |\n|---|---|\n| GET | it |\n")) == []


def test_doubts_of_settings_are_found_by_their_comments() -> None:
    ledger = (
        '    "sts.a": 1,  # or "2": nobody could verify it\n    "sts.b": True,  # whether it does (assumed)\n'
        '    "sts.c": 0,  # how long it takes\n    "sts.d": "x",  # this; or "y"\n    "sts.e": 3,\n'
    )
    assert doubtful(ledger) == {"sts.a", "sts.b", "sts.d"}
