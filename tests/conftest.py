"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.stages import environment
from tools.emulators.stage import Stage

# How fast a machine is says nothing of what is tested.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("patient", PATIENT)
settings.register_profile("few", PATIENT, max_examples=25)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "patient"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what needs programs of others, unless it is named: `make test-clients` gets them first."""
    wanted = any("clients" in Path(argument.partition("::")[0]).parts for argument in config.args)
    return True if collection_path == Path(__file__).parent / "clients" and not wanted else None


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
