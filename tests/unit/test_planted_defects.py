"""The places of planted defects are in the code as it is now: one that is not there any more would prove nothing."""

from __future__ import annotations

import pytest

from tools.planted_defects import DEFECTS, HERE, Defect


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.says)
def test_a_defect_can_be_planted(defect: Defect) -> None:
    text = (HERE / defect.file).read_text()
    assert text.count(defect.before) == 1
    compile(text.replace(defect.before, defect.after), defect.file, "exec")
    for test in defect.tests:
        assert (HERE / test).exists(), test


def test_each_has_a_text_of_its_own() -> None:
    assert len({defect.says for defect in DEFECTS}) == len(DEFECTS)
