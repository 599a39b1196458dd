"""The log of a run: what is cut when a run goes on, numbers by path, and what is said on the terminal."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from baselines import run_log
from baselines.models import LOG
from baselines.run_log import Log, format_duration


class Clock:
    """A clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(run_log.time, "perf_counter", clock)
    return clock


def row(step: int, **values: Any) -> dict[str, Any]:
    return {
        "step": step,
        "loss": 0.75,
        "losses": {"vocals": 0.5, "drums": 0.25},
        "steps_per_second": 2.0,
        "data_wait": 0.015,
        "memory_bytes": 1_500_000_000,
    } | values


def steps(run: Path) -> list[int]:
    """Return the steps of the lines of a log, each of which is whole."""
    text = (run / LOG).read_text()
    assert not text or text.endswith("\n")
    return [json.loads(line)["step"] for line in text.splitlines()]


def test_rows_are_lines(tmp_path: Path) -> None:
    run = tmp_path / "a" / "run"
    with ExitStack() as stack:
        log = Log(run, stack, False, 0)
        log.write(row(1))
        assert steps(run) == [1]  # at once, so that it is there whatever happens
        log.write(row(10, losses={"Gesang \u2028": 1e-9}))
    lines = (run / LOG).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [row(1), row(10, losses={"Gesang \u2028": 1e-9})]
    assert [path.name for path in run.iterdir()] == [LOG]


def test_what_is_no_number_is_not_written(tmp_path: Path) -> None:
    with ExitStack() as stack:
        log = Log(tmp_path, stack, False, 0)
        log.write(row(1))
        with pytest.raises(ValueError, match="not JSON compliant"):
            log.write(row(2, loss=float("nan")))
    assert steps(tmp_path) == [1]


@pytest.mark.parametrize(
    ("step", "kept"),
    [(0, []), (9, [1]), (10, [1, 10, 10]), (19, [1, 10, 10]), (20, [1, 10, 10, 20]), (99, [1, 10, 10, 20])],
)
def test_steps_that_are_taken_again_are_cut(tmp_path: Path, step: int, kept: list[int]) -> None:
    with ExitStack() as stack:
        log = Log(tmp_path, stack, False, 0)
        for number in (1, 10):
            log.write(row(number))
        log.write({"step": 10, "valid": {"vocals": 1.0}, "better": []})
        log.write(row(20))
    with ExitStack() as stack:
        log = Log(tmp_path, stack, False, step)
        assert steps(tmp_path) == kept
        log.write(row(100))
    assert steps(tmp_path) == [*kept, 100]


@pytest.mark.parametrize(
    "rest",
    [
        b'{"step": 3, "loss": 0.',  # what a killed run did not finish
        b'{"step": 3}'[:-1],
        b'{"loss": 3}\n',
        b"[3]\n",
        b"3\n",
        b'{"step": "3"}\n',
        b"\0\0\0\0",  # what a machine that lost power may leave
        b"\xff\xfe\xff\n",
    ],
)
def test_lines_that_are_not_whole_are_cut(tmp_path: Path, rest: bytes) -> None:
    (tmp_path / LOG).write_bytes(b'{"step": 1}\n{"step": 2}\n' + rest)
    with ExitStack() as stack:
        Log(tmp_path, stack, False, 9).write(row(3))
    assert steps(tmp_path) == [1, 2, 3]


def test_numbers_by_path() -> None:
    found = dict(run_log._flatten(row(7, better=["all"], valid={"a": {"b": 1}}, resident=True)))
    assert found == {
        "loss": 0.75,
        "losses/vocals": 0.5,
        "losses/drums": 0.25,
        "steps_per_second": 2.0,
        "data_wait": 0.015,
        "memory_bytes": 1_500_000_000.0,
        "valid/a/b": 1.0,
        "resident": 1.0,
    }


def test_tensorboard_gets_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            calls.append(("open", folder, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            calls.append((name, value, step))

        def close(self) -> None:
            calls.append(("close",))

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with ExitStack() as stack:
        log = Log(tmp_path, stack, True, 5)
        log.write({"step": 6, "losses": {"vocals": 0.5}})
    folder = str(tmp_path / "tensorboard")
    assert calls == [("open", folder, 5), ("losses/vocals", 0.5, 6), ("close",)]


def test_lines_for_people(tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with ExitStack() as stack:
        log = Log(tmp_path, stack, False, 0)
        assert log.losses == {}
        log.say(row(10), 1010)
        first = "step 10/1010  loss 0.75  vocals 0.5  drums 0.25  2 steps/s  data wait 1.5 %  1.5 GB  ETA 8 min\n"
        assert capsys.readouterr() == ("", first)  # the first at once, all to stderr
        assert log.losses == {"vocals": 0.5, "drums": 0.25}
        clock.now += 5
        log.say(row(20), None)
        log.say(row(30), None)
        assert capsys.readouterr().err == ""
        clock.now += 0.1
        log.say(row(40), None)
        later = "step 40  loss 0.75  vocals 0.5  drums 0.25  2 steps/s  data wait 1.5 %  1.5 GB\n"
        assert capsys.readouterr().err == later
        log.say(row(50, losses={"vocals": 0.1}), None)
        assert log.losses == {"vocals": 0.1}
        log.say_last()
        assert capsys.readouterr().err.startswith("step 50  loss")
        log.say_last()
        assert capsys.readouterr().err == ""  # not twice
    log.say(row(60, steps_per_second=0.0), 100)  # no speed, no time that is left
    log.say_last()
    assert "ETA" not in capsys.readouterr().err


def test_validation_is_said_after_the_losses_before_it(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as stack:
        log = Log(tmp_path, stack, False, 0)
        log.say(row(10), None)
        log.say(row(20), None)
        capsys.readouterr()
        log.write(row(20))
        assert capsys.readouterr().err == ""
        log.write({"step": 20, "valid": {"vocals": 0.12345, "drums": 2.0}, "better": ["vocals"]})
        first, second = capsys.readouterr().err.splitlines()
        assert first.startswith("step 20  loss")
        assert second == "step 20  validation: vocals 0.1235  drums 2  (best so far: vocals)"
        log.write({"step": 30, "valid": {"vocals": 1.0}, "better": []})
        assert capsys.readouterr().err == "step 30  validation: vocals 1\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (360_000, "100.0 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
