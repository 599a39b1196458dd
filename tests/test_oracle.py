"""Oracles: values against the definitions, their properties, and the folders they are written to."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
import soundfile
from numpy.typing import NDArray

from musdbkit import audio, musdb18, oracle, synth
from musdbkit.errors import DatasetError, ParameterError
from musdbkit.oracle import METHODS, RECORD, TARGETS, Estimated, estimate, summarise
from musdbkit.tracks import SEPARATION, Outcome, Parallel, Track, find_tracks, read_stems

REPOSITORY = Path(__file__).parent.parent
EPS = 2.0**-52
KEYS = ["train/M.E.R.C. & Co - It's 1, 2 (Live)", "test/Plain - Song"]

Signals = dict[str, NDArray[Any]]


def run(root: Path, out: Path, method: str = "irm1", jobs: int = 1, **options: Any) -> Outcome[Estimated]:
    return oracle.oracle(root, out, method, parallel=Parallel(jobs), **options)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def statuses(outcome: Outcome[Estimated]) -> list[str]:
    return [track.status for track in outcome.done.values()]


def music(rng: np.random.Generator, nb_samples: int, nb_channels: int = 2) -> tuple[NDArray[np.float64], Signals]:
    """Return a mixture and its stems: noises of their own colour, level and place, that come and go."""
    stems = {}
    for i, stem in enumerate(musdb18.STEMS):
        coloured = scipy.signal.lfilter([1], [1, -0.9 * (-1) ** i], rng.standard_normal((nb_samples, 1)), axis=0)
        envelope = 0.1 + np.sin(np.linspace(0, 3 + i, nb_samples)[:, None]) ** 2
        own = rng.standard_normal((nb_samples, nb_channels))
        stems[stem] = 0.05 * envelope * (coloured * rng.uniform(0.2, 1, nb_channels) + 0.1 * own)
    return np.sum(list(stems.values()), axis=0), stems


# The definitions once more, one frame and one bin at a time.


def spectrum(signal: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Return [shape=(nb_channels, nb_frames, 1025)]."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    nb_hops = int(np.ceil(len(signal) / 1024))
    padded = np.concatenate([np.zeros((1024, signal.shape[1])), signal, np.zeros((3072, signal.shape[1]))])
    frames = [padded[1024 * i : 1024 * i + 2048].T * window for i in range(nb_hops + 1)]
    return np.stack([np.fft.rfft(frame) / 1024 for frame in frames], axis=1)


def signal_of(spectra: NDArray[np.complex128], nb_samples: int) -> NDArray[np.float64]:
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    total = np.zeros((spectra.shape[0], 1024 * (spectra.shape[1] + 1)))
    weight = np.zeros(total.shape[1])
    for i in range(spectra.shape[1]):
        part = slice(1024 * i, 1024 * i + 2048)
        total[:, part] += window * np.fft.irfft(1024 * spectra[:, i])
        weight[part] += window**2
    return (total[:, 1024:-1024] / weight[1024:-1024]).T[:nb_samples]


def defined_mask(method: str, x: complex, y: list[complex]) -> list[float]:
    a = int(method[-1])
    if method.startswith("ibm"):
        return [1.0 if abs(y_j) ** a / (EPS + abs(x) ** a) >= 0.5 else 0.0 for y_j in y]
    return [abs(y_j) ** a / (EPS + sum(abs(y_k) ** a for y_k in y)) for y_j in y]


def defined_wiener(x: NDArray[np.complex128], y: list[NDArray[np.complex128]]) -> list[NDArray[np.complex128]]:
    """Return the filtered mixture in one bin of all frames [shape of each=(nb_channels, nb_frames)]."""
    nb_channels, nb_frames = x.shape
    powers, covariances = [], []
    for y_j in y:
        r = np.zeros((nb_channels, nb_channels), complex)
        for t in range(nb_frames):
            outer = np.outer(y_j[:, t], y_j[:, t].conj())
            r += outer / (EPS + np.trace(outer).real / nb_channels) / nb_frames
        r = r * nb_channels / np.trace(r).real + EPS * np.eye(nb_channels)
        inverse = np.linalg.inv(r)
        powers.append([(y_j[:, t].conj() @ inverse @ y_j[:, t]).real / nb_channels for t in range(nb_frames)])
        covariances.append(r)
    estimates = [np.zeros_like(x) for _ in y]
    for t in range(nb_frames):
        inverse = np.linalg.inv(sum(p[t] * r for p, r in zip(powers, covariances, strict=True)))
        for each, p, r in zip(estimates, powers, covariances, strict=True):
            each[:, t] = p[t] * r @ inverse @ x[:, t]
    return estimates


def defined(method: str, mixture: NDArray[np.float64], stems: Signals) -> Signals:
    if method == "mix":
        return {stem: mixture / len(stems) for stem in stems}
    x = spectrum(mixture)
    y = [spectrum(samples) for samples in stems.values()]
    spectra = [np.zeros_like(x) for _ in y]
    for f in range(1025):
        if method == "mwf":
            for each, filtered in zip(spectra, defined_wiener(x[..., f], [y_j[..., f] for y_j in y]), strict=True):
                each[..., f] = filtered
            continue
        for i in np.ndindex(x.shape[:2]):
            for each, mask in zip(spectra, defined_mask(method, x[*i, f], [y_j[*i, f] for y_j in y]), strict=True):
                each[*i, f] = mask * x[*i, f]
    return {stem: signal_of(each, len(mixture)) for stem, each in zip(stems, spectra, strict=True)}


@pytest.mark.parametrize("method", METHODS)
def test_values_are_those_of_the_definitions(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(oracle, "_BLOCK_SIZE", 2048)  # three blocks
    mixture, stems = music(rng, 5000)
    mixture += 0.01 * rng.standard_normal(mixture.shape)  # no mixture is quite the sum of its stems
    estimates = estimate(method, mixture, stems)
    expected = defined(method, mixture, stems)
    for stem in stems:
        np.testing.assert_allclose(estimates[stem], expected[stem], rtol=0, atol=3e-7, err_msg=stem)


def test_the_transform_is_scipys(rng: np.random.Generator) -> None:
    mixture, stems = music(rng, 140_001)  # three blocks
    x = scipy.signal.stft(mixture.T, nperseg=2048)[2]
    y = {stem: np.abs(scipy.signal.stft(samples.T, nperseg=2048)[2]) for stem, samples in stems.items()}
    estimates = estimate("irm1", mixture, stems)
    for stem, amplitude in y.items():
        wave = scipy.signal.istft(x * amplitude / (EPS + sum(y.values())), nperseg=2048)[1]
        np.testing.assert_allclose(estimates[stem], wave.T[:140_001], rtol=0, atol=3e-7)


@pytest.mark.parametrize("method", ["ibm1", "irm2", "mwf"])
def test_blocks_make_no_difference(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    mixture, stems = music(rng, 70_000)
    estimates = estimate(method, mixture, stems)
    monkeypatch.setattr(oracle, "_BLOCK_SIZE", 1 << 20)
    for target, samples in estimate(method, mixture, stems).items():
        np.testing.assert_allclose(estimates[target], samples, rtol=0, atol=3e-7)


@pytest.mark.parametrize("exponent", [1, 2])
def test_ratio_masks_sum_to_one(rng: np.random.Generator, exponent: int) -> None:
    y = [rng.standard_normal((3, 5, 2)) + 1j * rng.standard_normal((3, 5, 2)) for _ in range(4)]
    masks = list(oracle._mask(f"irm{exponent}", np.ones((3, 5, 2), complex), y))
    assert all((mask.real >= 0).all() and not mask.imag.any() for mask in masks)
    np.testing.assert_allclose(sum(masks), 1, rtol=1e-13)
    assert np.ptp(masks[0].real) > 0.1


@pytest.mark.parametrize("method", ["mix", "irm1", "irm2", "mwf"])
def test_estimates_sum_to_the_mixture(rng: np.random.Generator, method: str) -> None:
    mixture, stems = music(rng, 30_000)
    estimates = estimate(method, mixture, stems)
    np.testing.assert_allclose(sum(estimates[stem] for stem in stems), mixture, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_accompaniment_is_the_sum_of_all_but_vocals_and_inputs_stay(rng: np.random.Generator, method: str) -> None:
    mixture, stems = music(rng, 9000)
    before = mixture.copy(), {stem: samples.copy() for stem, samples in stems.items()}
    estimates = estimate(method, mixture, stems)
    assert tuple(estimates) == TARGETS
    assert {(samples.shape, samples.dtype) for samples in estimates.values()} == {((9000, 2), np.dtype("float32"))}
    others = sum(estimates[stem].astype(float) for stem in ("drums", "bass", "other"))
    np.testing.assert_allclose(estimates["accompaniment"], others, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(mixture, before[0])
    for stem, samples in stems.items():
        np.testing.assert_array_equal(samples, before[1][stem])


def test_accompaniment_of_the_mixture_is_all_shares_but_one(rng: np.random.Generator) -> None:
    mixture, stems = music(rng, 100)
    np.testing.assert_allclose(estimate("mix", mixture, stems)["accompaniment"], 0.75 * mixture, rtol=1e-6)
    del stems["drums"]
    np.testing.assert_allclose(estimate("mix", mixture, stems)["accompaniment"], 2 / 3 * mixture, rtol=1e-6)


def test_any_stems_will_do(rng: np.random.Generator) -> None:
    mixture, stems = music(rng, 3000)
    assert list(estimate("irm1", mixture, {"voice": stems["vocals"], "rest": stems["bass"]})) == ["voice", "rest"]
    assert list(estimate("irm1", mixture, {"vocals": stems["vocals"]})) == ["vocals"]
    rest = mixture - stems["vocals"] - stems["bass"]
    estimates = estimate("irm1", mixture, {"vocals": stems["vocals"], "bass": stems["bass"], "accompaniment": rest})
    assert list(estimates) == ["vocals", "bass", "accompaniment"]
    np.testing.assert_allclose(sum(estimates.values()), mixture, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_integers_as_written_count_as_16_bit(rng: np.random.Generator, method: str) -> None:
    mixture, stems = music(rng, 4000)
    written = {stem: audio.quantise(samples, "PCM_16") for stem, samples in stems.items()}
    floats = {stem: audio.to_float(samples, "PCM_16") for stem, samples in written.items()}
    total = audio.quantise(mixture, "PCM_16")
    expected = estimate(method, audio.to_float(total, "PCM_16"), floats)
    for target, samples in estimate(method, total, written).items():
        np.testing.assert_array_equal(samples, expected[target])


@pytest.mark.parametrize("method", METHODS)
def test_silence_is_silent_and_a_silent_stem_takes_nothing(rng: np.random.Generator, method: str) -> None:
    mixture, stems = music(rng, 9000)
    nothing = np.zeros_like(mixture)
    for samples in estimate(method, nothing, dict.fromkeys(stems, nothing)).values():
        np.testing.assert_array_equal(samples, 0)
    assert all(np.isfinite(s).all() for s in estimate(method, mixture, dict.fromkeys(stems, nothing)).values())
    estimates = estimate(method, mixture, stems | {"vocals": nothing})
    assert all(np.isfinite(samples).all() for samples in estimates.values())
    if method != "mix":
        np.testing.assert_array_equal(estimates["vocals"], 0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("nb_samples", [0, 1, 1023, 1024, 2047, 2048, 2049])
def test_short_signals(rng: np.random.Generator, method: str, nb_samples: int) -> None:
    mixture, stems = music(rng, nb_samples)
    estimates = estimate(method, mixture, stems)
    assert {samples.shape for samples in estimates.values()} == {(nb_samples, 2)}
    assert all(np.isfinite(samples).all() for samples in estimates.values())
    if method in {"irm1", "irm2"}:
        np.testing.assert_allclose(sum(estimates[stem] for stem in stems), mixture, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS[:-1])
def test_each_channel_of_a_mask_stands_alone(rng: np.random.Generator, method: str) -> None:
    mixture, stems = music(rng, 5000, 1)
    mono = estimate(method, mixture, stems)
    assert mono["bass"].shape == (5000, 1)
    other, others = music(rng, 5000, 1)
    pairs = {stem: np.hstack([samples, others[stem]]) for stem, samples in stems.items()}
    both = estimate(method, np.hstack([mixture, other]), pairs)
    np.testing.assert_allclose(both["bass"][:, :1], mono["bass"], rtol=0, atol=1e-7)


def test_wiener_filter_of_one_channel_is_the_mask_on_powers(rng: np.random.Generator) -> None:
    mixture, stems = music(rng, 20_000, 1)
    expected = estimate("irm2", mixture, stems)
    for target, samples in estimate("mwf", mixture, stems).items():
        np.testing.assert_allclose(samples, expected[target], rtol=0, atol=1e-6)


@pytest.mark.parametrize("gains", [(1, 1), (1, -1), (1, 0), (0.3, 0.7), (1, 1e-9), (1e-30, 1e-30), (1, 1, 1)])
def test_wiener_filter_where_all_stems_share_one_direction(rng: np.random.Generator, gains: tuple[float, ...]) -> None:
    mixture, stems = music(rng, 20_000, 1)  # no matrix in it has an inverse but for eps
    expected = estimate("irm2", mixture, stems)
    estimates = estimate("mwf", mixture * gains, {stem: samples * gains for stem, samples in stems.items()})
    for target, samples in estimates.items():
        wanted = expected[target] * np.array(gains)
        np.testing.assert_allclose(samples, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_wiener_filter_separates_by_place_where_masks_cannot(rng: np.random.Generator) -> None:
    one, two = rng.standard_normal((2, 20_000, 1)) * 0.1
    stems = {"drums": one * [1, 0.2], "bass": two * [0.2, 1]}
    mixture = stems["drums"] + stems["bass"]
    np.testing.assert_allclose(estimate("mwf", mixture, stems)["bass"], stems["bass"], rtol=0, atol=1e-6)
    assert np.abs(estimate("irm2", mixture, stems)["bass"] - stems["bass"]).max() > 0.01


@pytest.mark.parametrize("scale", [1e-40, 1e-150, 1e-200, 1e30])
@pytest.mark.parametrize("method", METHODS)
def test_no_scale_is_too_small_or_large(rng: np.random.Generator, method: str, scale: float) -> None:
    mixture, stems = music(rng, 5000)
    estimates = estimate(method, mixture * scale, {stem: samples * scale for stem, samples in stems.items()})
    assert all(np.isfinite(samples).all() for samples in estimates.values())


def test_unusable_arguments_are_refused(rng: np.random.Generator) -> None:
    mixture, stems = music(rng, 100)
    with pytest.raises(ParameterError, match="method is irm3, expected one of mix, ibm1, ibm2, irm1, irm2, mwf"):
        estimate("irm3", mixture, stems)
    with pytest.raises(ParameterError, match="there are no stems"):
        estimate("irm1", mixture, {})
    with pytest.raises(ParameterError, match=r"bass: shape \(99, 2\), expected .*: \(100, 2\)"):
        estimate("irm1", mixture, stems | {"bass": stems["bass"][1:]})
    with pytest.raises(ParameterError, match=r"mixture: shape \(100,\), expected \(nb_samples, nb_channels\)"):
        estimate("irm1", mixture[:, 0], {stem: samples[:, 0] for stem, samples in stems.items()})
    with pytest.raises(ParameterError, match=r"mixture: shape \(100, 0\)"):
        estimate("irm1", mixture[:, :0], {stem: samples[:, :0] for stem, samples in stems.items()})
    with pytest.raises(ParameterError, match="drums: int32 samples, expected floats, or int16"):
        estimate("irm1", mixture, stems | {"drums": np.zeros((100, 2), np.int32)})
    for value in (np.nan, np.inf, -np.inf, 1e300):
        broken = stems["vocals"].copy()
        broken[50, 1] = value
        with pytest.raises(ParameterError, match="vocals: holds values that are no finite numbers"):
            estimate("mix", mixture, stems | {"vocals": broken})


def sdr(reference: NDArray[np.float64], samples: NDArray[np.float32]) -> float:
    """Return the median over frames of a second, in dB, of energy to that of the error; silent frames are left out."""
    values = []
    for start in range(0, len(reference) - 44_099, 44_100):
        part = slice(start, start + 44_100)
        energy = np.sum(reference[part] ** 2)
        if energy > 1e-6:
            values.append(10 * np.log10(energy / np.sum((reference[part] - samples[part]) ** 2)))
    assert len(values) >= 3
    return float(np.median(values))


@pytest.fixture
def root(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A dataset of two short tracks as wav files."""
    for key in KEYS:
        folder = tmp_path / "wavs" / key
        folder.mkdir(parents=True)
        mixture, stems = music(rng, 12_345)
        for stem, samples in {"mixture": mixture, **stems}.items():
            audio.write(folder / f"{stem}.wav", samples, 44_100)
    return tmp_path / "wavs"


@pytest.fixture(scope="module", params=["real", "synthetic"])
def piece(request: pytest.FixtureRequest, excerpt: Path, tmp_path_factory: pytest.TempPathFactory) -> Track:
    if request.param == "real":
        return Track("Real", "test", "stems", excerpt)
    root = tmp_path_factory.mktemp("synthetic")
    assert not synth.synth(root, train=1, valid=0, test=0, seconds=6, layout="wav", parallel=Parallel(1)).failed
    return find_tracks(root)[0]


def test_the_published_order_holds(piece: Track) -> None:
    stems = read_stems(piece, musdb18.STREAMS)
    mixture = stems.pop("mixture")
    vocals = stems["vocals"] / 32768
    scores = {method: sdr(vocals, estimate(method, mixture, stems)["vocals"]) for method in METHODS}
    assert scores["mix"] + 3 < scores["ibm1"] < scores["irm1"] < scores["irm2"]
    assert scores["ibm2"] < scores["mwf"]


def test_estimates_on_disk(stems_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = run(stems_root, out)
    assert not outcome.failed
    files = {f"{key}/{name}" for key in KEYS for name in (*(f"{target}.wav" for target in TARGETS), RECORD)}
    assert set(tree(out)) == files | {SEPARATION}
    assert json.loads((out / SEPARATION).read_text()) == {
        "program": "musdbkit oracle",
        "model": {"name": "irm1"},
        "options": {},
    }
    track = find_tracks(stems_root, ["train"])[0]
    stems = read_stems(track, musdb18.STREAMS)
    expected = estimate("irm1", stems.pop("mixture"), stems)
    for target in TARGETS:
        path = out / KEYS[0] / f"{target}.wav"
        assert audio.info(path) == audio.AudioInfo(44_100, 2, 268_288, "FLOAT")
        np.testing.assert_array_equal(audio.read(path), expected[target])
    done = outcome.done[KEYS[0]]
    assert (done.status, done.folder, done.seconds) == ("estimated", out / KEYS[0], pytest.approx(268_288 / 44_100))
    assert done.nb_bytes == sum((out / KEYS[0] / f"{target}.wav").stat().st_size for target in TARGETS)
    totals = summarise(outcome, out)
    assert (totals.nb_tracks, totals.nb_bytes) == ({"estimated": 2}, 2 * done.nb_bytes)
    assert totals.seconds == pytest.approx(2 * 268_288 / 44_100)


def test_any_layout_gives_the_same_estimates(stems_root: Path, tmp_path: Path) -> None:
    track = find_tracks(stems_root, ["train"])[0]
    folder = tmp_path / "wavs" / KEYS[0]
    folder.mkdir(parents=True)
    for stem, samples in read_stems(track, musdb18.STREAMS).items():
        audio.write(folder / f"{stem}.wav", samples, 44_100)
    assert not run(tmp_path / "wavs", tmp_path / "from wavs", "mix").failed
    assert not run(stems_root, tmp_path / "from stems", "mix").failed
    for target in TARGETS:
        one, two = (tmp_path / name / KEYS[0] / f"{target}.wav" for name in ("from wavs", "from stems"))
        assert one.read_bytes() == two.read_bytes()
    record = json.loads((tmp_path / "from wavs" / KEYS[0] / RECORD).read_text())
    assert list(record["source"]) == sorted(f"{stem}.wav" for stem in musdb18.STREAMS)
    audio.write(folder / "bass.wav", samples, 44_100)
    assert "the track's files have changed" in run(tmp_path / "wavs", tmp_path / "from wavs", "mix").failed[KEYS[0]]


def test_second_run_does_nothing(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "out", "mix")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    outcome = run(root, tmp_path / "out", "mix")
    assert statuses(outcome) == ["already there"] * 2
    assert [track.nb_bytes for track in outcome.done.values()] == [0, 0]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


@pytest.mark.parametrize("damage", ["deleted", "shortened", "without its folder"])
def test_what_is_not_whole_is_done_again(root: Path, tmp_path: Path, damage: str) -> None:
    run(root, tmp_path / "out", "mix")
    before = tree(tmp_path / "out")
    bass = tmp_path / "out" / KEYS[0] / "bass.wav"
    if damage == "deleted":
        bass.unlink()
    elif damage == "shortened":
        bass.write_bytes(bass.read_bytes()[:-10])
    else:
        shutil.rmtree(bass.parent)
    assert statuses(run(root, tmp_path / "out", "mix")) == ["estimated", "already there"]
    assert tree(tmp_path / "out") == before


def test_another_method_is_refused_without_force(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "out", "mix")
    notes = tmp_path / "out" / KEYS[0] / "notes.txt"
    notes.write_text("mine")
    before = tree(tmp_path / "out")
    with pytest.raises(DatasetError, match=r"separation\.json: the estimates are of mix, not of irm1: --force"):
        run(root, tmp_path / "out", "irm1")
    assert tree(tmp_path / "out") == before
    (tmp_path / "out" / SEPARATION).unlink()  # the tracks know it, too
    outcome = run(root, tmp_path / "out", "irm1")
    assert list(outcome.failed) == KEYS
    assert "made otherwise: method was mix, now irm1: --force replaces it, or choose" in outcome.failed[KEYS[0]]
    assert tree(tmp_path / "out").keys() == before.keys() - {SEPARATION}
    (tmp_path / "out" / SEPARATION).write_text('{"program": "yours"}')
    with pytest.raises(DatasetError, match=r"separation\.json: the estimates are of another program, not of irm1"):
        run(root, tmp_path / "out", "irm1")
    assert statuses(run(root, tmp_path / "out", "irm1", force=True)) == ["estimated"] * 2
    assert notes.read_text() == "mine"
    notes.unlink()
    run(root, tmp_path / "fresh", "irm1")
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


@pytest.mark.parametrize("record", [None, "", "[]", '{"version": 1}'])
def test_what_oracle_did_not_make_is_left_alone(root: Path, tmp_path: Path, record: str | None) -> None:
    folder = tmp_path / "out" / KEYS[0]
    folder.mkdir(parents=True)
    (folder / "vocals.wav").write_text("mine")
    if record is not None:
        (folder / RECORD).write_text(record)
    outcome = run(root, tmp_path / "out", "mix")
    assert f"{folder}: is there, but not made by oracle" in outcome.failed[KEYS[0]]
    assert list(outcome.done) == [KEYS[1]]
    assert (folder / "vocals.wav").read_text() == "mine"
    assert not run(root, tmp_path / "out", "mix", force=True).failed
    assert audio.info(folder / "vocals.wav").nb_samples == 12_345


def test_what_is_in_the_way_is_named(root: Path, tmp_path: Path) -> None:
    for key in KEYS:
        (tmp_path / "out" / key).parent.mkdir(parents=True)
    (tmp_path / "out" / KEYS[0]).write_text("mine")
    (tmp_path / "out" / KEYS[1] / "bass.wav").mkdir(parents=True)
    outcome = run(root, tmp_path / "out", "mix", force=True)
    assert "is a file, expected a folder: move it away" in outcome.failed[KEYS[0]]
    assert "bass.wav: is a folder, expected a file: move it away" in outcome.failed[KEYS[1]]


def test_what_a_killed_run_left_is_no_hindrance(root: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / KEYS[0]).mkdir(parents=True)
    (tmp_path / "out" / "test" / ".musdbkit-0123456789abcdef.partial" / "new").mkdir(parents=True)
    assert statuses(run(root, tmp_path / "out", "mix")) == ["estimated"] * 2
    assert [path.name for path in (tmp_path / "out" / "test").iterdir()] == ["Plain - Song"]


def test_a_change_that_is_interrupted_is_done_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(root, tmp_path / "expected", "irm1")
    run(root, tmp_path / "out", "mix")
    replace = Path.replace

    def interrupt(path: Path, target: Path) -> Path:
        if path.name == "other.wav":
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path / "out", "irm1", force=True)
    monkeypatch.undo()
    assert statuses(run(root, tmp_path / "out", "irm1", subsets=["train"])) == ["estimated"]
    assert list(run(root, tmp_path / "out", "irm1").failed) == [KEYS[1]]  # which was not begun
    run(root, tmp_path / "out", "irm1", force=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")


KILLER = """
import os, pathlib, sys
from musdbkit.oracle import oracle
from musdbkit.tracks import Parallel

left = int(sys.argv[1])

def counted(function):
    def call(path, *arguments, **options):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return function(path, *arguments, **options)
    return call

for name in ("mkdir", "rename", "replace", "write_text", "rmdir"):
    setattr(pathlib.Path, name, counted(getattr(pathlib.Path, name)))
oracle(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), "irm1", force=True, parallel=Parallel(1))
"""


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [True, False])
def test_killed_between_any_two_steps_and_run_again(root: Path, tmp_path: Path, fresh: bool) -> None:
    shutil.rmtree(root / "test")
    (tmp_path / "start").mkdir()
    if not fresh:
        run(root, tmp_path / "start", "mix")
        (tmp_path / "start" / KEYS[0] / "notes.txt").write_text("mine")
    shutil.copytree(tmp_path / "start", tmp_path / "undisturbed")
    run(root, tmp_path / "undisturbed", "irm1", force=True)
    out = tmp_path / "out"
    nb_hidden = 0
    for nb_steps in range(100):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "start", out)
        command = [sys.executable, "-c", KILLER, str(nb_steps), str(root), str(out)]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        result = subprocess.run(command, env=environment, capture_output=True, check=False)
        nb_hidden += not fresh and not (out / KEYS[0]).exists()
        failed: dict[str, str] = {}
        try:
            failed = run(root, out, "irm1").failed  # without force
        except DatasetError as error:  # killed before it said that the estimates are to be others
            failed = {KEYS[0]: str(error)}
        if failed:  # only what was not begun may be refused
            assert re.search("made otherwise: method was mix|the estimates are of mix, not of irm1", failed[KEYS[0]])
            assert tree(out).keys() - {f".{SEPARATION}.partial"} == tree(tmp_path / "start").keys()
            assert not run(root, out, "irm1", force=True).failed
        assert tree(out) == tree(tmp_path / "undisturbed")
        assert not list(out.rglob("*.partial"))
        if result.returncode == 0:
            break
    assert result.returncode == 0, result.stderr
    assert nb_hidden >= (0 if fresh else 5)


def test_dry_run_writes_nothing(root: Path, tmp_path: Path) -> None:
    planned = run(root, tmp_path / "out", dry_run=True)
    assert statuses(planned) == ["to estimate"] * 2
    assert not (tmp_path / "out").exists()
    done = run(root, tmp_path / "out")
    for key in KEYS:
        assert planned.done[key].seconds == done.done[key].seconds
        assert planned.done[key].nb_bytes == pytest.approx(done.done[key].nb_bytes, rel=1e-3)  # headers
    assert statuses(run(root, tmp_path / "out", dry_run=True)) == ["already there"] * 2


def test_nothing_depends_on_the_number_of_jobs(root: Path, tmp_path: Path) -> None:
    assert not run(root, tmp_path / "one", "mwf", jobs=1).failed
    assert not run(root, tmp_path / "two", "mwf", jobs=2).failed
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_a_broken_track_does_not_stop_the_others(stems_root: Path, tmp_path: Path, excerpt: Path) -> None:
    (stems_root / "test" / "Cut - Off.stem.mp4").write_bytes(excerpt.read_bytes()[:400_000])
    outcome = run(stems_root, tmp_path / "out", "mix")
    assert list(outcome.done) == KEYS
    assert "the container says 268288" in outcome.failed["test/Cut - Off"]
    assert sorted(path.name for path in (tmp_path / "out" / "test").iterdir()) == ["Plain - Song"]


def test_a_value_that_is_no_number_costs_one_track(tmp_path: Path, rng: np.random.Generator) -> None:
    for name in ("A", "B"):
        folder = tmp_path / "wavs" / "test" / name
        folder.mkdir(parents=True)
        for stem in musdb18.STREAMS:
            samples = rng.uniform(-1.5, 1.5, (4000, 2))
            samples[7] = np.nan if (name, stem) == ("A", "bass") else 0
            soundfile.write(folder / f"{stem}.wav", samples, 22_050, "FLOAT")
    outcome = run(tmp_path / "wavs", tmp_path / "out", "irm2")
    assert outcome.failed == {"test/A": "bass: holds values that are no finite numbers"}
    mixture = audio.read(tmp_path / "wavs" / "test" / "B" / "mixture.wav")
    written = [audio.read(tmp_path / "out" / "test" / "B" / f"{stem}.wav") for stem in musdb18.STEMS]
    np.testing.assert_allclose(sum(written), mixture, atol=1e-5)  # beyond full scale, too
    assert audio.info(tmp_path / "out" / "test" / "B" / "bass.wav").sample_rate == 22_050


def test_no_estimate_is_written_among_the_tracks(stems_root: Path, tmp_path: Path) -> None:
    before = tree(stems_root)
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "test").symlink_to(stems_root / "test")
    for out in (stems_root, stems_root / "train", stems_root / "test" / "Plain - Song", linked):
        with pytest.raises(DatasetError, match="is in the dataset's own folders, expected another folder"):
            run(stems_root, out, "mix", force=True)
    with pytest.raises(ParameterError, match="method is best, expected one of mix"):
        run(stems_root, tmp_path / "out", "best")
    assert tree(stems_root) == before


def test_a_link_to_the_track_itself_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "wavs" / "test" / "A"
    folder.mkdir(parents=True)
    for stem in musdb18.STREAMS:
        audio.write(folder / f"{stem}.wav", np.zeros((100, 2), np.int16), 44_100)
    (tmp_path / "out" / "test").mkdir(parents=True)
    (tmp_path / "out" / "test" / "A").symlink_to(folder)
    before = tree(folder)
    outcome = run(tmp_path / "wavs", tmp_path / "out", "mix", force=True)
    assert "is the track itself" in outcome.failed["test/A"]
    assert tree(folder) == before


@pytest.mark.parametrize("text", ["", "null", "[1]", '{"program": "yours"}'])
def test_what_others_say_of_a_folder_is_replaced_by_force_only(root: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "out" / SEPARATION
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(DatasetError, match="of another program, not of mix: --force replaces them"):
        run(root, tmp_path / "out", "mix")
    assert path.read_text() == text
    assert not run(root, tmp_path / "out", "mix", force=True, dry_run=True).failed
    assert path.read_text() == text
    assert not run(root, tmp_path / "out", "mix", force=True).failed
    assert json.loads(path.read_text())["model"] == {"name": "mix"}
    assert not run(root, tmp_path / "out", "mix").failed
    assert {each.name for each in path.parent.iterdir()} == {"train", "test", SEPARATION}
