"""Studies: each value is trained, separated and scored under one budget; the table, the figure, and what is refused."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from baselines import study as module
from baselines.block_unet import BlockUnetSettings
from baselines.cost import count_multiply_adds
from baselines.models import Loaded
from baselines.plans import make_plan
from baselines.study import Budget, Request, describe, describe_lines, study
from baselines.study_tables import Point, draw, folder_name, print_tables
from baselines.train import Hardware
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


@pytest.fixture
def _score_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that differ by the weights alone, and no figure: both take a second."""
    monkeypatch.setattr(module, "_score", lambda task, loaded, *_: {"vocals": float(int(loaded.sha256[:4], 16))})
    monkeypatch.setattr("baselines.study_tables.draw", lambda *_: None)


def request(root: Path, out: Path, values: list[Any], **options: Any) -> Request:
    return Request(
        **{"parameter": "T", "values": values, "root": root, "out": out, "budget": Budget(2), "changes": SETTINGS}
        | options
    )


def run(
    root: Path, out: Path, values: list[Any], said: list[str] | None = None, force: bool = False, **options: Any
) -> list[Point]:
    lines = [] if said is None else said
    what = request(root, out, values, **options)
    return study(what, hardware=Hardware("cpu"), parallel=Parallel(1), force=force, say=lines.append)


def read_rows(out: Path) -> list[dict[str, str]]:
    with (out / "study.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_width_of_a_segment(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    out = tmp_path / "study"
    points = run(root, out, [16, 64, 16], said)
    assert [(p.value, p.nb_frames, p.nb_frames_computed, p.steps) for p in points] == [(16, 16, 64, 2), (64, 64, 64, 2)]
    assert [p.segment_seconds for p in points] == [16 * 1024 / 44100, 64 * 1024 / 44100]
    assert any("segments of 16 frames are filled up with zeros to 64" in line for line in said)
    for point in points:
        assert set(point.sdr) == set(musdb18.STEMS)
        assert point.compute_seconds is not None
        assert point.latency_seconds == pytest.approx((point.segment_seconds or 0) + point.compute_seconds)
        assert point.real_time_factor > 0
    assert any("T = 16: no validation within the budget: the last weights are used" in line for line in said)
    rows = read_rows(out)
    assert [(row["stems"], row["T"], row["nb_frames_computed"]) for row in rows] == [
        ("4", "16", "64"),
        ("4", "64", "64"),
    ]
    assert [float(row["sdr_vocals"]) for row in rows] == [point.sdr["vocals"] for point in points]
    assert (out / "study.png").read_bytes().startswith(b"\x89PNG")
    assert [each["state"] for each in describe(request(root, out, [16, 32]))] == ["done already", "to do"]
    # nor has a run that was begun by an older version, whose recipes had fewer fields
    for path in out.glob("4stems/*/*.json"):
        document = json.loads(path.read_text())
        for name in ("mixing", "precision", "valid_loss"):
            del (document["plan"] if path.name == "point.json" else document)["recipe"][name]
        path.write_text(json.dumps(document))
    # a second run has nothing to do; a third does only what is new, and the table has all
    with monkeypatch.context() as patched:
        for name in ("train", "separate"):
            patched.setattr(module, name, lambda *_, **__: pytest.fail("done already"))
        assert run(root, out, [16, 64]) == points
    monkeypatch.setattr("baselines.study_tables.draw", lambda *_: None)
    more = run(root, out, [32])
    assert [more[0], more[2]] == points
    assert [row["T"] for row in read_rows(out)] == ["16", "32", "64"]


@pytest.mark.usefixtures("_score_nothing")
def test_what_was_made_otherwise_is_not_used(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "study"
    first = run(root, out, [16])
    (out / "4stems" / "T=64").mkdir()
    (out / "4stems" / "T=64" / "point.json").write_text("{}")  # what is none is passed over
    others = SETTINGS | {"batch_size": 2, "dropout": 0.1}
    message = r"T=16: was begun otherwise: dropout was 0.5, now 0.1; batch_size was 1, now 2: .* --force .* --out"
    for function in (describe, study):
        with pytest.raises(DatasetError, match=message):
            function(request(root, out, [16], changes=others))
    said: list[str] = []
    # other values are another study's; with --force, so are these
    assert [point.value for point in run(root, out, [8], said, changes=others)] == [8]
    assert "made otherwise, and not in the table: 4stems/T=16" in said
    assert [each["state"] for each in describe(request(root, out, [16], changes=others), force=True)] == ["to do"]
    again = run(root, out, [16], force=True, changes=others)
    assert [point.value for point in again] == [8, 16]
    assert again[1].sdr != first[0].sdr
    # other data
    monkeypatch.setattr(module, "fingerprint", lambda _: "0")
    with pytest.raises(DatasetError, match="T=16: was begun otherwise: the data are others: go on"):
        run(root, out, [16], changes=others)
    # a run that study has not begun
    (out / "4stems" / "T=16" / "plan.json").unlink()
    with pytest.raises(DatasetError, match=r"T=16: was begun otherwise: plan.json is not what study writes"):
        run(root, out, [16], changes=others)


def test_a_dry_run_says_what_there_is_to_do(root: Path, tmp_path: Path) -> None:
    described = describe(request(root, tmp_path / "study", [64, 32, 64], budget=Budget(2000, 1.5)))
    assert not (tmp_path / "study").exists()
    assert [(each["stems"], each["value"], each["max_steps"]) for each in described] == [(4, 64, 2000), (4, 32, 2000)]
    lines = describe_lines(described, "T")
    number = f"{described[1]['nb_parameters']:,}"
    assert lines[1] == f"4 stems, T = 32: {number} parameters, 2,000 steps or 1.5 minutes: to do"


@pytest.mark.parametrize("values", [[(1, 2)], [16, 64, 256]])
def test_the_figure_has_whatever_points_there_are(
    tmp_path: Path, values: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One or more values, with stems that have not the same ones, and numbers that are none."""
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    points = [
        Point(number, value, 2_000_000, 3e9, 16, 64, 0.4, 0.1, 0.5 * (i + 1), 0.25, 2, 0.1, {"vocals": float("nan")})
        for number in (2, 4)
        for i, value in enumerate(values[number == 2 and len(values) > 1 :])
    ]
    draw(points, "T", tmp_path / "study.png")
    quality, cost, speed, latency = figures[0].axes
    assert {tuple(line.get_ydata()) for line in cost.lines} >= {(2.0,) * len(values), (3.0,) * len(values)}
    assert [label.get_text() for label in quality.get_xticklabels()] == [folder_name(v) for v in values]
    assert list(latency.lines[1].get_ydata()) == [0.5 * (i + 1) for i in range(len(values))]
    assert set(speed.lines[0].get_ydata()) == {4.0}
    low, high = speed.get_ylim()
    shown = [label.get_text() for label in speed.get_yticklabels() if low <= label.get_position()[1] <= high]
    assert {"2", "5", "10"} <= set(shown)
    extents = figures[0].get_tightbbox()
    assert extents.x0 >= 0
    assert extents.y0 >= 0
    assert extents.x1 <= figures[0].get_size_inches()[0]
    assert extents.y1 <= figures[0].get_size_inches()[1]


def test_two_stems_need_the_accompaniment(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no accompaniment, which 2 stems need: musdbkit make-csv .* writes it"):
        run(root, tmp_path / "study", [64], stems=(2, 4))
    assert not (tmp_path / "study").exists()


def test_chunks_are_as_long_as_the_longest_segment_needs(root: Path, tmp_path: Path) -> None:
    """Spleeter's own chunks of 20 s have no segment of 1024 frames; all values train on the same excerpts."""
    plans = {(4, str(value)): module._plan(request(root, tmp_path, [value]), 4, value) for value in (512, 1024)}
    assert {plan.recipe.chunk_seconds for plan in plans.values()} == {20.0}
    shared = module._share_chunks(plans)
    assert {plan.recipe.chunk_seconds for plan in shared.values()} == {(4096 + 1024 * 1024) / 44100}
    assert {plan.settings.targets for plan in plans.values()} == {("vocals", "drums", "bass", "other")}


@pytest.mark.usefixtures("_score_nothing")
def test_any_setting_of_any_model(root: Path, tmp_path: Path) -> None:
    changes = {"nb_layers": 1, "batch_size": 1, "segment_seconds": 1.0, "epoch_steps": 5}
    points = run(root, tmp_path / "study", [4, 8], parameter="hidden_size", model="open-unmix", changes=changes)
    assert points[0].nb_parameters < points[1].nb_parameters
    assert [(point.nb_frames, point.latency_seconds) for point in points] == [(None, None)] * 2
    assert not (tmp_path / "study" / "cache").exists()
    document = json.loads((tmp_path / "study" / "4stems" / "hidden_size=8" / "point.json").read_text())
    assert document["point"]["nb_parameters"] == points[1].nb_parameters


def test_kinds_of_blocks(root: Path, tmp_path: Path) -> None:
    """The whole of it, with scores: what each kind of block costs, and what it hears before it answers."""
    changes = {"n_fft": 512, "hop_length": 256, "nb_frames": 64, "trim": 512, "n_blocks": 3, "internal_channels": 3}
    changes |= {"batch_size": 1, "n_internal_layers": 2, "epoch_steps": 1}
    out = tmp_path / "study"
    values = ["tdf", "tdc-rnn"]
    points = run(root, out, values, parameter="block", model="block-unet", changes=changes, budget=Budget(1))
    assert [point.value for point in points] == values  # by the number of their parameters
    assert len({each.nb_parameters for each in points}) == len({each.multiply_adds_per_second for each in points}) == 2
    for point in points:
        settings = BlockUnetSettings(**{name: changes[name] for name in list(changes)[:6]}, block=point.value)
        settings = replace(settings, n_internal_layers=2)
        count = count_multiply_adds("block-unet", settings, 64)
        assert point.multiply_adds_per_second == pytest.approx(count * 44100 / (256 * 63 - 1024))
        assert (point.nb_frames, point.nb_frames_computed) == (64, 64)
        assert point.segment_seconds == pytest.approx((256 * 63 - 512) / 44100)
        assert set(point.sdr) == set(musdb18.STEMS)
    assert [row["block"] for row in read_rows(out)] == values
    console = Console(width=80, record=True, file=io.StringIO())
    print_tables(points, "block", console)
    printed = console.export_text()
    assert "…" not in printed
    for point in points:
        assert all(f"{value:.2f}" in printed for value in point.sdr.values())
    assert {"parameters", "RTF", "tdc-rnn"} <= set(printed.split())


@pytest.mark.usefixtures("_score_nothing")
def test_one_target_alone(root: Path, tmp_path: Path) -> None:
    changes = {"n_fft": 512, "hop_length": 256, "nb_frames": 64, "trim": 512, "n_blocks": 3, "internal_channels": 3}
    options: dict[str, Any] = {"parameter": "block", "model": "block-unet", "changes": changes | {"batch_size": 1}}
    points = run(root, tmp_path / "study", ["tdf"], targets=("vocals",), **options)
    assert (points[0].stems, list(points[0].sdr)) == (1, ["vocals"])
    said: list[str] = []
    more = run(root, tmp_path / "study", ["tdf"], said, **options)  # four, which is another study
    assert [point.stems for point in more] == [4]
    assert "made otherwise, and not in the table: 1stems/block=tdf" in said
    assert points[0].nb_parameters * 4 == more[0].nb_parameters


def test_all_values_are_looked_at_before_any_is_trained(root: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"parameter": "input_seconds", "model": "umx-transformer", "changes": {"hidden_size": 16}}
    for function in (describe, study):
        with pytest.raises(
            ParameterError, match="no track to train on is longer than 60 s: the longest has 3 s: choose"
        ):
            function(request(root, tmp_path / "study", [2, 60], **options))
    assert not (tmp_path / "study").exists()


@pytest.mark.usefixtures("_score_nothing")
def test_lengths_of_inputs(root: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"hidden_size": 8, "nb_heads": 2, "nb_layers": 1, "feedforward_size": 4, "batch_size": 1}
    changes |= {"shift": 10_000}
    points = run(
        root, tmp_path / "study", [0.5, 1, 2], parameter="input_seconds", model="umx-transformer", changes=changes
    )
    assert [point.nb_frames for point in points] == [21, 43, 86]
    assert [point.segment_seconds for point in points] == [n * 1024 / 44100 for n in (21, 43, 86)]
    for point, nb_frames in zip(points, (21, 43, 86), strict=True):
        settings = make_plan("umx-transformer", data=root, changes=changes | {"input_seconds": point.value}).settings
        count = count_multiply_adds("umx-transformer", settings, nb_frames)
        assert point.multiply_adds_per_second == pytest.approx(count * 44100 / (nb_frames * 1024))


def test_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two segments at least, since attention within one costs more the longer it is; and one."""
    timed: list[int] = []
    monkeypatch.setattr(module, "_time", lambda loaded, wave: timed.append(len(wave)) or 1.0)
    monkeypatch.setattr(module, "count_multiply_adds", lambda *_: 1)
    settings = make_plan("umx-transformer", data=Path("x"), changes={"input_seconds": 60}).settings
    measured = module._measure_cost(Loaded("umx-transformer", settings, torch.nn.Identity(), Path("x"), "", 0, "best"))
    assert timed[0] >= 2 * 2583 * 1024
    assert measured["real_time_factor"] == pytest.approx(44100 / timed[0])
    assert settings.separation_stft.nb_frames(timed[1]) == 2583
    assert measured["latency_seconds"] == pytest.approx(2583 * 1024 / 44100 + 1)


def test_the_lengths_that_were_asked_for() -> None:
    """7, 20, 40 and 60 s; the last takes the shift of 20 s."""
    for seconds, shift, nb_frames in ((7, 47100, 256), (20, 63488, 800), (40, 60416, 1664), (60, 63488, 2522)):
        for model in ("umx-transformer", "auto-transformer"):
            settings = make_plan(model, data=Path("x"), changes={"input_seconds": seconds}).settings
            assert settings.shift_samples == shift
            assert settings.training_stft.nb_frames(settings.input_samples) == nb_frames


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": Budget()}, "no budget: give the steps or the minutes"),
        ({"stems": (3,)}, r"stems \[3\], values \[64\]: expected 2 or 4"),
        ({"parameter": "width"}, "no setting width"),
        ({"changes": {"nb_frames": 64}}, "nb_frames is set for all values, but is what is studied: leave it out"),
        ({"changes": {"targets": ["vocals"]}}, "targets is set for all values, but is given by stems or targets"),
        ({"parameter": "batch_norm"}, "batch_norm is 64, expected text"),
        ({"model": "umx"}, "no model umx"),
    ],
)
def test_what_cannot_be_studied(root: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        run(root, tmp_path / "study", [64], **options)
    assert not (tmp_path / "study").exists()


@pytest.mark.usefixtures("_score_nothing")
def test_minutes_are_a_budget_for_all_runs_of_a_value(root: Path, tmp_path: Path) -> None:
    """What a run that was stopped has taken counts."""
    first = run(root, tmp_path / "study", [16], budget=Budget(None, 0.002))
    (tmp_path / "study" / "4stems" / "T=16" / "point.json").unlink()
    again = run(root, tmp_path / "study", [16], budget=Budget(None, 0.002))
    assert (again[0].steps, again[0].minutes) == (first[0].steps, first[0].minutes)
    assert first[0].minutes >= 0.002


def test_a_study_goes_on_with_a_larger_budget(root: Path, tmp_path: Path) -> None:
    """What was estimated with fewer steps is separated and scored anew."""
    changes = {"nb_layers": 1, "batch_size": 1, "segment_seconds": 1.0, "epoch_steps": 5}
    options: dict[str, Any] = {"parameter": "hidden_size", "model": "open-unmix", "changes": changes}
    first = run(root, tmp_path / "study", [4], budget=Budget(1), **options)
    what = request(root, tmp_path / "study", [4], budget=Budget(2), **options)
    assert [each["state"] for each in describe(what)] == ["to do from step 1"]
    again = run(root, tmp_path / "study", [4], budget=Budget(2), **options)
    assert [point.steps for point in first + again] == [1, 2]
    assert first[0].sdr != again[0].sdr
