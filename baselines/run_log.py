"""The log of a run: a file for programs, lines on the terminal for people, TensorBoard on wish.

Reads and writes `<run>/metrics.jsonl`; writes `<run>/tensorboard/`.
"""

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, TextIO

from baselines.models import LOG

_SAY_SECONDS: Final = 5.0  # between two lines on the terminal


class Log:
    """The log of a run, in its folder and on the terminal.

    Attributes
    ----------
    losses : of each target, in the last line.
    """

    def __init__(self, run: Path, stack: ExitStack, tensorboard: bool, step: int) -> None:
        run.mkdir(parents=True, exist_ok=True)
        path = run / LOG
        _cut(path, step)
        self._file: TextIO = stack.enter_context(path.open("a", encoding="utf-8"))
        self._writer = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=step)
            stack.callback(self._writer.close)
        self._said = -math.inf
        self._unsaid = ""
        self.losses: dict[str, float] = {}

    def write(self, row: Mapping[str, Any]) -> None:
        """Write a line; to the terminal only what validation says."""
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in _flatten(row):
                self._writer.add_scalar(name, value, row["step"])
        if "valid" in row:
            self.say_last()
            losses = "  ".join(f"{target} {loss:.4g}" for target, loss in row["valid"].items())
            better = f"  (best so far: {', '.join(row['better'])})" if row["better"] else ""
            print(f"step {row['step']}  validation: {losses}{better}", file=sys.stderr, flush=True)

    def say(self, row: Mapping[str, Any], max_steps: int | None) -> None:
        """Print a line of losses, but not too often."""
        self.losses = row["losses"]
        left = f"/{max_steps}" if max_steps else ""
        losses = "  ".join(f"{target} {loss:.4g}" for target, loss in row["losses"].items())
        eta = ""
        if max_steps and row["steps_per_second"]:
            eta = f"  ETA {format_duration((max_steps - row['step']) / row['steps_per_second'])}"
        self._unsaid = (
            f"step {row['step']}{left}  loss {row['loss']:.4g}  {losses}  {row['steps_per_second']:.3g} steps/s  "
            f"data wait {100 * row['data_wait']:.1f} %  {row['memory_bytes'] / 1e9:.1f} GB{eta}"
        )
        if time.perf_counter() - self._said > _SAY_SECONDS:
            self.say_last()

    def say_last(self) -> None:
        """Print the last line of losses, if it was not."""
        if self._unsaid:
            print(self._unsaid, file=sys.stderr, flush=True)
            self._unsaid, self._said = "", time.perf_counter()


def _cut(path: Path, step: int) -> None:
    """Remove lines of a log that come after a step: they are taken again."""
    kept = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):  # a line that a killed run did not finish
                break
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(kept), encoding="utf-8")
    partial.replace(path)


def _flatten(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers in a line of the log, by path."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name != "step":
            yield f"{prefix}{name}", float(value)


def format_duration(seconds: float) -> str:
    """Return a duration for reading."""
    minutes, hours = seconds / 60, seconds / 3600
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{hours:.1f} h"
