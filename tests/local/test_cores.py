"""How many cores a long computation takes while others need some of them."""

from __future__ import annotations

import psutil
import pytest

from drone_ft.local import cores


@pytest.mark.parametrize(
    ("allowed", "percent", "own", "most", "threads"),
    [
        pytest.param(2, [100, 100], 200, 2, 2, id="alone"),
        pytest.param(2, [100, 100], 160, 2, 2, id="a page that is looked at"),
        pytest.param(2, [100, 100], 100, 2, 1, id="somebody else has a core"),
        pytest.param(2, [100, 100], 5, 2, 1, id="somebody else has both: one at least"),
        pytest.param(2, [50, 0], 100, 2, 2, id="its own share measured a little later: never less than nothing"),
        pytest.param(8, [100] * 3 + [0] * 5, 100, 4, 4, id="others have cores, and enough are left"),
        pytest.param(8, [100] * 7 + [0], 100, 4, 2, id="others have six of eight"),
        pytest.param(8, [100] * 4 + [0] * 4, 400, 4, 4, id="two threads a core: one of them is enough"),
        pytest.param([2, 3], [100, 100, 0, 0], 0, 2, 2, id="only the cores it may use count"),
        pytest.param([4, 5], [100, 100], 200, 2, 2, id="a container that numbers its cores otherwise"),
        pytest.param([0, 2, 4, 6], [100, 0, 100, 0], 200, 4, 4, id="sibling cores are switched off"),
    ],
)
def test_others_are_left_the_cores_they_use(allowed, percent, own, most, threads, monkeypatch) -> None:
    numbers = list(range(allowed)) if isinstance(allowed, int) else allowed
    monkeypatch.setattr(cores, "_allowed", lambda: numbers)
    monkeypatch.setattr(psutil, "cpu_percent", lambda percpu: percent)
    monkeypatch.setattr(psutil.Process, "cpu_percent", lambda self: own)
    monkeypatch.setattr(cores, "LOOK", 0)
    assert cores.Share(most).threads() == threads


def test_a_look_too_short_after_the_last_one_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_allowed", lambda: [0, 1])
    monkeypatch.setattr(psutil, "cpu_percent", lambda percpu: [100, 100])
    monkeypatch.setattr(psutil.Process, "cpu_percent", lambda self: 0)
    monkeypatch.setattr(cores, "LOOK", 60)
    share = cores.Share(2)
    assert share.threads() == 2
    monkeypatch.setattr(cores, "LOOK", 0)
    assert share.threads() == 1
