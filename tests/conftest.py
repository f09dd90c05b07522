"""Fixtures that several folders of tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stages import environment
from tools.emulators.stage import Stage


@pytest.fixture(scope="session")
def _one_stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.stop()


@pytest.fixture
def stage(_one_stage: Stage) -> Iterator[Stage]:
    """The whole stage, empty, with the environment that points the official clients at it."""
    _one_stage.reset()
    with environment(_one_stage.environment):
        yield _one_stage
    _one_stage.reset()
