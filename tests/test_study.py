"""Studies: each value is trained, separated and scored under one budget; the table, the figure, and what is refused."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from baselines import study as module
from baselines.separate import separate
from baselines.study import Budget, Point, study
from baselines.train import Hardware, train
from musdbkit import musdb18
from musdbkit.errors import DatasetError, ParameterError
from musdbkit.synth import synth
from musdbkit.tracks import Parallel

SETTINGS: dict[str, Any] = {"filters": [1, 1, 1, 1, 2, 2], "batch_size": 1, "nb_bins": 128}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tracks of 3 s as wav."""
    folder = tmp_path_factory.mktemp("study") / "wav"
    synth(folder, train=1, valid=1, test=1, seconds=3.0, layout="wav", parallel=Parallel(1))
    return folder


@pytest.fixture(autouse=True)
def _time_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMED_SECONDS", 0.5)


def run(root: Path, out: Path, values: list[Any], said: list[str] | None = None, **options: Any) -> list[Point]:
    options = {"budget": Budget(2), "changes": SETTINGS, "hardware": Hardware("cpu")} | options
    lines = [] if said is None else said
    return study(
        options.pop("parameter", "T"), values, root=root, out=out, parallel=Parallel(1), say=lines.append, **options
    )


def test_the_width_of_a_segment(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    points = run(root, tmp_path / "study", [16, 64], said)
    assert [(p.value, p.nb_frames, p.nb_frames_computed, p.steps) for p in points] == [(16, 16, 64, 2), (64, 64, 64, 2)]
    assert [p.segment_seconds for p in points] == [16 * 1024 / 44100, 64 * 1024 / 44100]
    assert any("segments of 16 frames are filled up with zeros to 64" in line for line in said)
    for point in points:
        assert set(point.sdr) == set(musdb18.STEMS)
        assert point.compute_seconds is not None
        assert point.latency_seconds == pytest.approx((point.segment_seconds or 0) + point.compute_seconds)
        assert point.real_time_factor > 0
    with (tmp_path / "study" / "study.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["stems"], row["T"], row["nb_frames_computed"]) for row in rows] == [
        ("4", "16", "64"),
        ("4", "64", "64"),
    ]
    assert [float(row["sdr_vocals"]) for row in rows] == [point.sdr["vocals"] for point in points]
    assert (tmp_path / "study" / "study.png").read_bytes().startswith(b"\x89PNG")
    # a second run has nothing to do; a third does only what is new, with what each value has cost
    for name in ("train", "separate"):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("done already"))
    assert run(root, tmp_path / "study", [16, 64]) == points
    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, "separate", separate)
    more = run(root, tmp_path / "study", [16, 32])
    assert more[0] == points[0]
    assert more[1].value == 32


def test_two_stems_need_the_accompaniment(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no accompaniment, which 2 stems need: musdbkit make-csv .* writes it"):
        run(root, tmp_path / "study", [64], stems=(2, 4))
    assert not (tmp_path / "study").exists()


def test_chunks_are_as_long_as_the_longest_segment_needs(root: Path, tmp_path: Path) -> None:
    """Spleeter's own chunks of 20 s have no segment of 1024 frames; all values train on the same excerpts."""
    plans = {
        (4, value): module._plan("spleeter-unet", 4, "paper", SETTINGS | {"nb_frames": value}, root, tmp_path)
        for value in (512, 1024)
    }
    assert {plan.recipe.chunk_seconds for plan in plans.values()} == {20.0}
    shared = module._share_chunks(plans)
    assert {plan.recipe.chunk_seconds for plan in shared.values()} == {(4096 + 1024 * 1024) / 44100}
    assert {plan.settings.targets for plan in plans.values()} == {("vocals", "drums", "bass", "other")}


def test_any_setting_of_any_model(root: Path, tmp_path: Path) -> None:
    changes = {"nb_layers": 1, "batch_size": 1, "segment_seconds": 1.0, "epoch_steps": 5}
    points = run(root, tmp_path / "study", [4, 8], parameter="hidden_size", model="open-unmix", changes=changes)
    assert points[0].nb_parameters < points[1].nb_parameters
    assert [(point.nb_frames, point.latency_seconds) for point in points] == [(None, None)] * 2
    assert not (tmp_path / "study" / "cache").exists()
    document = json.loads((tmp_path / "study" / "4stems" / "hidden_size=8" / "point.json").read_text())
    assert document["point"]["nb_parameters"] == points[1].nb_parameters


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": Budget()}, "no budget: give the steps or the minutes"),
        ({"stems": (3,)}, r"stems \[3\], values \[64\]: expected 2 or 4"),
        ({"parameter": "width"}, "no setting width"),
        ({"parameter": "batch_norm"}, "batch_norm is 64, expected text"),
        ({"model": "umx"}, "no model umx"),
    ],
)
def test_what_cannot_be_studied(root: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        run(root, tmp_path / "study", [64], **options)
    assert not (tmp_path / "study").exists()


def test_minutes_are_a_budget_for_all_runs_of_a_value(root: Path, tmp_path: Path) -> None:
    """What a run that was stopped has taken counts."""
    first = run(root, tmp_path / "study", [16], budget=Budget(None, 0.002))
    (tmp_path / "study" / "4stems" / "T=16" / "point.json").unlink()
    again = run(root, tmp_path / "study", [16], budget=Budget(None, 0.002))
    assert (again[0].steps, again[0].minutes) == (first[0].steps, first[0].minutes)
    assert first[0].minutes >= 0.002
