from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from sts_manager import logs


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("sts_manager")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level = before[0], before[1]
    ours.setLevel(before[2])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def said(stream: io.StringIO, level: int = logging.INFO, **fields: object) -> str:
    logs.configure(stream)
    logging.getLogger("sts_manager.x").log(level, "event", extra={"fields": fields})
    return stream.getvalue()


def test_one_json_object_a_line_with_cloud_loggings_fields() -> None:
    line = json.loads(said(io.StringIO(), logging.WARNING, prefix="日本/", number=3))
    assert (line["severity"], line["message"], line["prefix"], line["number"]) == ("WARNING", "event", "日本/", 3)
    assert line["timestamp"].endswith("+00:00")


def test_a_field_cannot_hide_the_event() -> None:
    logs.configure(stream := io.StringIO())
    logging.getLogger("sts_manager.x").info("event", extra={"fields": {"message": "other", "severity": "x"}})
    line = json.loads(stream.getvalue())
    assert (line["message"], line["severity"]) == ("event", "INFO")


def test_readable_lines_on_a_terminal() -> None:
    text = said(Terminal(), prefix="a b/", number=3)
    assert 'event prefix="a b/" number=3' in text


def test_the_level_of_the_environment_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGLEVEL", "error")
    assert said(io.StringIO()) == ""
    monkeypatch.setenv("LOGLEVEL", "LOUD")
    complaint = logs.configure(io.StringIO())
    assert complaint is not None
    assert "LOGLEVEL='LOUD'" in complaint


@pytest.mark.parametrize(
    "text",
    [
        "aws_secret_access_key=hunter2",
        '"secretAccessKey": "hunter2"',
        "https://x/y?X-Amz-Signature=hunter2&z=1",
        "https://x/y?Policy=abc&Signature=hunter2&Key-Pair-Id=K",
        "Authorization: hunter2",
    ],
)
@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_what_looks_like_a_secret_is_masked(text: str, stream: type[io.StringIO]) -> None:
    assert "hunter2" not in said(stream(), message_of_another=text)


HOSTILE = "\x1b]0;pwned\x07\x1b[2J\x9b31m\u202e\x7f\r\nkey"


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_a_key_commands_no_terminal(stream: type[io.StringIO]) -> None:
    line = said(stream(), key=HOSTILE)
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert line.count("pwned") == 1


def test_json_gives_the_key_back_as_it_is() -> None:
    assert json.loads(said(io.StringIO(), key=HOSTILE))["key"] == HOSTILE
    assert json.loads(logs.json_text([{"key": HOSTILE}], indent=2)) == [{"key": HOSTILE}]
    assert logs.json_text({"a": 1}, indent=2) == '{\n  "a": 1\n}'


def test_what_is_seen_is_not_touched() -> None:
    assert logs.visible("Zürich/日本/😀 a\\b.txt") == "Zürich/日本/😀 a\\b.txt"
    assert logs.visible("a\nb\tc\x1b", keep="\n\t") == "a\nb\tc\\x1b"
