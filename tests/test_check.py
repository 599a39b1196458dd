import dataclasses
import importlib.util
import io
import itertools
import json
import math
import re
import shutil
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from scipy.signal import butter, sosfilt

from musdbkit import __version__, audio, musdb18
from musdbkit import check as check_module
from musdbkit.check import CheckResult, Finding, check, print_result
from musdbkit.tracks import Parallel

RATE = 44100
NB_SAMPLES = 44100
HERE = Parallel(jobs=1)

Stems = dict[str, NDArray[Any]]


def make_stems(seed: int = 0, level: float = 0.05, cut: float | None = None) -> Stems:
    """Stereo noise with a gentle fall to high frequencies, or with nothing left above `cut` Hz; 16-bit integers."""
    rng = np.random.default_rng(seed)
    stems = {}
    for stem in musdb18.STEMS:
        noise = rng.standard_normal((NB_SAMPLES, 2))
        noise[1:] += 0.3 * noise[:-1]
        if cut:
            noise = sosfilt(butter(16, cut, fs=RATE, output="sos"), noise, axis=0)
        stems[stem] = audio.quantise((level * noise).astype(np.float32), "PCM_16")
    return {"mixture": audio.sum_samples(list(stems.values())), **stems}


def write_track(folder: Path, stems: Stems) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, samples in stems.items():
        audio.write(folder / f"{stem}.wav", samples, RATE)
    return folder


def write_stem_file(path: Path, streams: Sequence[tuple[NDArray[Any], int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        outputs = []
        for samples, rate in streams:
            layout = "mono" if samples.shape[1] == 1 else "stereo"
            stream = container.add_stream("aac", rate=rate, options={"aac_coder": "fast"}, layout=layout)
            stream.bit_rate = 256_000
            outputs.append((stream, samples, rate, layout))
        for stream, samples, rate, layout in outputs:
            planes = np.ascontiguousarray(samples.T, dtype=np.float32) / np.float32(32768)
            frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


def excerpt() -> Path:
    spec = importlib.util.find_spec("stempeg")
    assert spec is not None
    assert spec.origin is not None
    (path,) = Path(spec.origin).parent.glob("data/*.stem.mp4")
    return path


def found(result: CheckResult, *levels: str) -> set[tuple[str, str, str]]:
    """Code, track and stem of the findings of some levels; the count of tracks is never 100 and 50 here."""
    assert any(f.code in ("count", "layout") for f in result.findings)
    return {(f.code, f.track, f.stem) for f in result.findings if f.level in levels and f.code != "count"}


def one(result: CheckResult, code: str) -> Finding:
    (finding,) = (f for f in result.findings if f.code == code)
    return finding


def check_one(tmp_path: Path, stems: Stems, name: str = "a") -> CheckResult:
    write_track(tmp_path / "test" / name, stems)
    return check(tmp_path, parallel=HERE)


def printed(result: CheckResult, *, terminal: bool = False) -> str:
    file = io.StringIO()
    print_result(result, Console(file=file, width=80, force_terminal=terminal, no_color=True))
    return re.sub(r"\x1b\[[\d;]*m", "", file.getvalue()) if terminal else file.getvalue()


# Sound data


def test_sound_wav_dataset_has_no_findings_but_its_variant(tmp_path: Path) -> None:
    write_track(tmp_path / "train" / musdb18.VALIDATION_TRACKS[0], make_stems(1))
    result = check_one(tmp_path, make_stems(2))
    assert found(result, "error", "warning", "note") == {("bandwidth", "", "")}
    assert result.dataset is not None
    assert result.dataset.layout == "hq"
    assert result.dataset.variant == check_module.VARIANT_FULL
    assert result.dataset.splits == {"train": 0, "valid": 1, "test": 1}
    assert result.dataset.seconds == 2.0
    assert [t.key for t in result.tracks] == [f"train/{musdb18.VALIDATION_TRACKS[0]}", "test/a"]
    assert result.tracks[0].residual_db == (None, None)  # integers sum exactly
    assert (result.tracks[0].seconds, result.tracks[0].sample_rate) == (1.0, RATE)
    assert dataclasses.replace(result, strict=True).ok


def test_excerpt_is_sound(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    shutil.copy(excerpt(), tmp_path / "test")
    result = check(tmp_path, strict=True, parallel=HERE)
    assert result.ok
    (track,) = result.tracks
    assert track.stems["mixture"].nb_samples == track.stems["vocals"].nb_samples == 268288
    assert track.residual_db == pytest.approx((-15.21, -15.52), abs=0.02)
    assert track.stems["mixture"].longest_run == 1
    assert track.stems["mixture"].nb_clipped == 0
    assert track.bandwidth == "cut"
    assert result.dataset is not None
    assert result.dataset.variant == check_module.VARIANT_AAC


def test_excerpt_as_16_bit_wav_is_still_cut(tmp_path: Path) -> None:
    folder = tmp_path / "test" / "a"
    folder.mkdir(parents=True)
    blocks = zip(*audio.decode_stems(excerpt()), strict=True)
    for stem, parts in zip(musdb18.STREAMS, blocks, strict=True):
        audio.write(folder / f"{stem}.wav", np.concatenate(parts), RATE)
    result = check(tmp_path, strict=True, parallel=HERE)
    assert result.ok  # the residual is judged as AAC's, too
    (track,) = result.tracks
    assert track.bandwidth == "cut"
    assert track.bands_db[1] == pytest.approx(check_module.ROUNDING_DB, abs=1)
    assert result.dataset is not None
    assert result.dataset.variant == check_module.VARIANT_AAC


# Measures


def test_levels_by_hand(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 441 * np.arange(NB_SAMPLES) / RATE)[:, None].astype(np.float32)
    other = tone * np.array([1, 0.5], np.float32)
    stems = make_stems() | {"other": audio.quantise(other, "PCM_16")}
    measured = check_one(tmp_path, stems).tracks[0].stems["other"]
    assert measured.rms_db == pytest.approx((-9.03, -15.05), abs=0.01)
    assert measured.peak_db == pytest.approx((-6.02, -12.04), abs=0.01)
    assert measured.difference_db == pytest.approx(10 * math.log10(0.25 / 2.5), abs=0.01)
    assert measured.sum_db == pytest.approx(10 * math.log10(2.25 / 2.5), abs=0.01)
    assert (measured.nb_samples, measured.nb_clipped, measured.longest_run) == (NB_SAMPLES, 0, 0)


def test_white_noise_has_its_own_level_in_both_bands(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal((NB_SAMPLES, 2)).astype(np.float32) / 10
    track = check_one(tmp_path, {"mixture": noise}).tracks[0]
    assert track.bands_db == pytest.approx((-20, -20), abs=0.7)  # median frames are a little softer than the mean


@pytest.mark.parametrize(
    ("start", "length", "nb_clipped"),
    [
        pytest.param(100, 8, 8, id="a run"),
        pytest.param(100, 7, 0, id="too short"),
        pytest.param(audio.BLOCK_SIZE - 3, 8, 8, id="across blocks"),
        pytest.param(audio.BLOCK_SIZE, 8, 8, id="at a block's start"),
        pytest.param(NB_SAMPLES - 8, 8, 8, id="at the end"),
        pytest.param(0, NB_SAMPLES, NB_SAMPLES, id="all"),
    ],
)
@pytest.mark.parametrize("value", [32767, -32767, -32768])
def test_clipped_runs(tmp_path: Path, start: int, length: int, nb_clipped: int, value: int) -> None:
    stems = make_stems()
    stems["bass"][start : start + length, 1] = value
    write_track(tmp_path / "test" / "a", {"bass": stems["bass"]})
    result = check(tmp_path, parallel=HERE)
    measured = result.tracks[0].stems["bass"]
    assert (measured.nb_clipped, measured.longest_run) == (nb_clipped, length)
    assert (("clipping", "test/a", "bass") in found(result, "warning")) == (nb_clipped > 0)


def test_runs_of_both_signs_do_not_join(tmp_path: Path) -> None:
    stems = make_stems()
    stems["bass"][100:107, 0] = 32767
    stems["bass"][107:114, 0] = -32768
    stems["bass"][audio.BLOCK_SIZE - 7 : audio.BLOCK_SIZE, 0] = 32767
    stems["bass"][audio.BLOCK_SIZE : audio.BLOCK_SIZE + 7, 0] = -32768
    measured = check_one(tmp_path, {"bass": stems["bass"]}).tracks[0].stems["bass"]
    assert (measured.nb_clipped, measured.longest_run) == (0, 7)


@pytest.mark.parametrize("seed", range(3))
def test_runs_are_those_that_a_loop_finds(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.choice([-32768, 0, 32767], 10_000, p=[0.4, 0.2, 0.4])
    bass = np.repeat(values, rng.integers(1, 20, len(values)))[: 2 * NB_SAMPLES].reshape(-1, 2, order="F")
    runs = [len(list(run)) for x in bass.T for value, run in itertools.groupby(x.tolist()) if value]
    measured = check_one(tmp_path, {"bass": bass}).tracks[0].stems["bass"]
    assert (measured.nb_clipped, measured.longest_run) == (sum(n for n in runs if n >= 8), max(runs))


def test_many_runs_take_no_loop() -> None:
    meter = check_module._RunMeter()
    samples = np.tile(np.array([1, 1, 0, -1], np.float32), 2_000_000)
    start = time.process_time()
    meter.add(samples)
    assert time.process_time() - start < 2  # 1.5 million runs: a loop takes longer than that for each million
    assert meter.longest == 2


@pytest.mark.parametrize(("subtype", "level"), [("PCM_16", 1), ("FLOAT", 1), ("FLOAT", 1.5)])
def test_full_scale_is_not_said_to_be_clipped(tmp_path: Path, subtype: str, level: float) -> None:
    samples = np.full((NB_SAMPLES, 2), 0.1, np.float32)
    samples[500:600] = level
    write_track(tmp_path / "test" / "a", {})
    audio.write(tmp_path / "test" / "a" / "bass.wav", samples, RATE, subtype)
    message = one(check(tmp_path, parallel=HERE), "clipping").message
    assert message.startswith("200 samples at or beyond full scale, up to 100 in a row (peak +")
    assert "clipped" not in message


def test_what_is_measured_does_not_depend_on_jobs(tmp_path: Path) -> None:
    for i, name in enumerate("abc"):
        write_track(tmp_path / "train" / name, make_stems(i))
    results = [check(tmp_path, parallel=Parallel(jobs=jobs)) for jobs in (1, 2)]
    assert results[0].tracks == results[1].tracks
    assert results[0].findings == results[1].findings


# Bandwidth


def test_unknown_bandwidth_where_nothing_is_loud_enough(tmp_path: Path) -> None:
    write_track(tmp_path / "test" / "soft", make_stems(level=1e-5))
    write_track(tmp_path / "test" / "dull", make_stems(cut=5000))
    result = check(tmp_path, parallel=HERE)
    assert [track.bandwidth for track in result.tracks] == ["unknown", "unknown"]
    assert result.dataset is not None
    assert result.dataset.variant == check_module.VARIANT_UNKNOWN
    assert not any(finding.code == "bandwidth" for finding in result.findings)


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 32_000, 40_000, 100_000_000])
def test_bandwidth_is_not_measured_where_the_sample_rate_is_too_low(tmp_path: Path, rate: int) -> None:
    folder = tmp_path / "test" / "a"
    folder.mkdir(parents=True)
    stems = make_stems()
    stems["mixture"] = np.rint(1.25 * stems["mixture"]).astype(np.int32)  # as a lossy mixture may be
    for stem, samples in stems.items():
        audio.write(folder / f"{stem}.wav", samples, rate)
    result = check(tmp_path, parallel=HERE)
    (track,) = result.tracks
    assert (track.bandwidth, track.bands_db) == ("unknown", (None, None))
    assert result.dataset is not None
    assert result.dataset.variant == check_module.VARIANT_UNKNOWN
    assert {code for code, _, _ in found(result, "error", "warning", "note")} == {"rate"}
    json.dumps(dataclasses.asdict(result), allow_nan=False)


@pytest.mark.parametrize("rate", [44_100, 48_000, 96_000])
def test_bandwidth_is_measured_where_the_sample_rate_is_high_enough(tmp_path: Path, rate: int) -> None:
    (tmp_path / "test" / "a").mkdir(parents=True)
    audio.write(tmp_path / "test" / "a" / "mixture.wav", make_stems()["mixture"], rate)
    assert check(tmp_path, parallel=HERE).tracks[0].bandwidth == "full"


@pytest.mark.parametrize(
    ("nb_cut", "nb_full", "variant"),
    [
        (75, 25, check_module.VARIANT_AAC),
        (74, 26, check_module.VARIANT_UNKNOWN),
        (26, 74, check_module.VARIANT_UNKNOWN),
        (25, 75, check_module.VARIANT_FULL),
    ],
)
def test_three_quarters_of_the_tracks_decide(tmp_path: Path, nb_cut: int, nb_full: int, variant: str) -> None:
    (track,) = check_one(tmp_path, {"mixture": make_stems()["mixture"]}).tracks
    cut, full, unknown = (dataclasses.replace(track, bandwidth=bandwidth) for bandwidth in ("cut", "full", "unknown"))
    assert check_module._variant_of([cut] * nb_cut + [full] * nb_full + [unknown] * 50, "hq") == variant


def test_a_click_does_not_hide_the_cut(tmp_path: Path) -> None:
    stems = make_stems(cut=16500)
    stems["mixture"][20_000] = 32767
    assert check_one(tmp_path, {"mixture": stems["mixture"]}).tracks[0].bandwidth == "cut"


def test_tracks_unlike_most_are_noted(tmp_path: Path) -> None:
    for i, name in enumerate("abc"):
        write_track(tmp_path / "train" / name, make_stems(i))
    result = check_one(tmp_path, make_stems(cut=16500), name="odd")
    assert found(result, "error", "warning", "note") == {("bandwidth", "", ""), ("bandwidth", "test/odd", "mixture")}
    assert "1 of 4 tracks end below 17.5 kHz" in result.findings[1].message


def test_two_variants_in_one_dataset_are_a_warning(tmp_path: Path) -> None:
    write_track(tmp_path / "train" / "a", make_stems())
    result = check_one(tmp_path, make_stems(cut=16500), name="b")
    assert found(result, "error", "warning") == {("bandwidth", "", "")}
    assert result.dataset is not None
    assert result.dataset.variant == check_module.VARIANT_UNKNOWN


# Stems


def test_silent_stem(tmp_path: Path) -> None:
    stems = make_stems()
    stems["mixture"] -= stems["vocals"]
    stems["vocals"][:] = np.random.default_rng(0).integers(-1, 2, stems["vocals"].shape)  # dither
    result = check_one(tmp_path, stems)
    assert found(result, "error", "warning") == {("silent", "test/a", "vocals")}
    assert result.ok
    assert not dataclasses.replace(result, strict=True).ok


@pytest.mark.parametrize(("steps", "silent"), [(3, True), (4, False)])
def test_three_steps_of_16_bits_are_silence(tmp_path: Path, steps: int, silent: bool) -> None:
    stems = make_stems()
    stems["mixture"] -= stems["vocals"]
    stems["vocals"][:] = np.array([steps, -steps])
    stems["vocals"][::2] *= -1
    stems["vocals"][:, 1] = np.roll(stems["vocals"][:, 1], 5000) // steps * steps
    stems["vocals"][::3, 1] = 0
    result = check_one(tmp_path, stems)
    assert (("silent", "test/a", "vocals") in found(result, "warning")) == silent


def test_silent_mixture_is_an_error_and_not_the_sum(tmp_path: Path) -> None:
    stems = make_stems()
    stems["mixture"][:] = 0
    result = check_one(tmp_path, stems)
    assert found(result, "error") == {("silent", "test/a", "mixture")}
    assert result.tracks[0].residual_db == (0, 0)
    assert "left channel 0.0 dB" in one(result, "mixture").message


def test_a_short_sound_is_not_silence(tmp_path: Path) -> None:
    stems = make_stems()
    stems["mixture"] -= stems["vocals"]
    stems["vocals"][:] = 0
    stems["vocals"][5:25] = [[100, -200]] * 20
    stems["mixture"] += stems["vocals"]
    assert found(check_one(tmp_path, stems), "error", "warning") == set()


def test_one_silent_channel_is_noted(tmp_path: Path) -> None:
    stems = make_stems()
    stems["mixture"][:, 1] -= stems["vocals"][:, 1]
    stems["vocals"][:, 1] = 0
    result = check_one(tmp_path, stems)
    assert found(result, "error", "warning") == set()
    assert ("one-sided", "test/a", "vocals") in found(result, "note")
    assert "the right channel is silent" in one(result, "one-sided").message


@pytest.mark.parametrize(("sign", "level", "code"), [(1, "note", "dual-mono"), (-1, "warning", "anti-phase")])
@pytest.mark.parametrize("layout", ["hq", "stems"])
def test_dual_mono_and_anti_phase(tmp_path: Path, layout: str, sign: int, level: str, code: str) -> None:
    stems = make_stems()
    stems["mixture"][:, 1] -= stems["other"][:, 1]
    stems["other"][:, 1] = sign * stems["other"][:, 0]
    stems["mixture"][:, 1] += stems["other"][:, 1]
    if layout == "hq":
        write_track(tmp_path / "test" / "a", stems)
    else:
        write_stem_file(tmp_path / "test" / "a.stem.mp4", [(samples, RATE) for samples in stems.values()])
    result = check(tmp_path, parallel=HERE)
    assert (code, "test/a", "other") in found(result, level)
    assert {f.code for f in result.findings} & {"dual-mono", "anti-phase"} == {code}


# Mixture


def test_left_channel_that_is_not_the_sum(tmp_path: Path) -> None:
    stems = make_stems()
    stems["mixture"][:, 0] = np.rint(1.25 * stems["mixture"][:, 0])
    result = check_one(tmp_path, stems, name="PR - Oh No")
    left, right = result.tracks[0].residual_db or (None, None)
    assert left == pytest.approx(20 * math.log10(0.25 / 1.25), abs=0.01)
    assert right is None
    assert found(result, "error", "warning") == {("mixture", "test/PR - Oh No", "")}
    message = one(result, "mixture").message
    assert "left channel -14.0 dB (expected below -60 dB" in message
    assert "right channel nothing:" in message
    assert "left channel" in one(result, "errata").message


@pytest.mark.parametrize(
    ("gains", "sides"),
    [
        pytest.param((1.25, 1.25), [], id="as loud as coding noise may be"),
        pytest.param((1.25, 1.0), ["left"], id="coding noise would be alike in both channels"),
        pytest.param((1.0, 1.25), ["right"], id="in the right one as well"),
        pytest.param((1.08, 1.0), [], id="softer than -20 dB"),
        pytest.param((1.5, 1.5), ["left", "right"], id="more than coding noise"),
    ],
)
def test_residual_of_lossy_tracks(tmp_path: Path, gains: tuple[float, float], sides: list[str]) -> None:
    stems = make_stems(cut=16500)
    stems["mixture"] = np.rint(stems["mixture"] * np.array(gains)).astype(np.int32)
    result = check_one(tmp_path, stems)
    assert result.tracks[0].bandwidth == "cut"
    messages = [finding.message for finding in result.findings if finding.code == "mixture"]
    assert len(messages) == bool(sides)
    assert re.findall(r"(left|right) channel [-\w. ]+ \(expected", "".join(messages)) == sides


@pytest.mark.parametrize(("gap", "code"), [(5.9, []), (6.1, ["mixture"])])
def test_a_channel_6_db_worse_than_the_other_is_not_coding_noise(tmp_path: Path, gap: float, code: list[str]) -> None:
    stems = make_stems(cut=16500)
    residuals = 10 ** (np.array([-15, -15 - gap]) / 20)
    stems["mixture"] = np.rint(stems["mixture"] / (1 - residuals)).astype(np.int32)
    result = check_one(tmp_path, stems)
    assert result.tracks[0].residual_db == pytest.approx((-15, -15 - gap), abs=0.05)
    assert [finding.code for finding in result.findings if finding.level == "warning"] == code


@pytest.mark.parametrize(("steps", "code"), [(3, []), (4, ["mixture"])])
def test_a_residual_of_three_steps_of_16_bits_is_rounding(tmp_path: Path, steps: int, code: list[str]) -> None:
    stems = make_stems(level=1e-3)
    stems["mixture"][::2] += steps
    stems["mixture"][1::2] -= steps
    result = check_one(tmp_path, stems)
    assert result.tracks[0].bandwidth == "full"
    assert [finding.code for finding in result.findings if finding.level == "warning"] == code


def write_accompaniment(tmp_path: Path, subtype: str, gain: float = 1.0, level: float = 0.05) -> Path:
    """A track whose accompaniment is `gain` times the sum of its stems; beyond full scale it becomes FLOAT."""
    stems = make_stems(level=level)
    folder = write_track(tmp_path / "test" / "a", {})
    for stem in musdb18.STREAMS:
        samples = audio.to_float(stems[stem], "PCM_16") * np.float32(0.9003)  # uses all bits of each subtype
        audio.write(folder / f"{stem}.wav", samples, RATE, subtype)
    parts = [folder / f"{stem}.wav" for stem in musdb18.TARGETS["accompaniment"]]
    audio.write_sum([folder / f"{stem}.wav" for stem in musdb18.STEMS], folder / "mixture.wav")
    written = audio.write_sum(parts, folder / "accompaniment.wav")
    if gain != 1:
        audio.write(folder / "accompaniment.wav", audio.read(folder / "accompaniment.wav") * gain, RATE, written)
    return folder


@pytest.mark.parametrize("subtype", audio.SUBTYPES)
@pytest.mark.parametrize("level", [0.05, 0.3])
def test_accompaniment_that_is_the_sum_is_no_finding(tmp_path: Path, subtype: str, level: float) -> None:
    folder = write_accompaniment(tmp_path, subtype, level=level)
    result = check(tmp_path, parallel=HERE)
    (track,) = result.tracks
    assert result.dataset is not None
    assert result.dataset.layout == "wav"
    assert list(track.stems) == [*musdb18.STREAMS, "accompaniment"]
    residuals = [-200 if residual is None else residual for residual in track.accompaniment_residual_db or ()]
    assert max(residuals) < (-199 if subtype == "PCM_16" else -130)
    assert found(result, "error", "warning") == set()
    assert (audio.info(folder / "accompaniment.wav").subtype == "FLOAT") == (level == 0.3 or subtype == "FLOAT")


@pytest.mark.parametrize("subtype", audio.SUBTYPES)
@pytest.mark.parametrize(("residual_db", "codes"), [(-61, set()), (-59, {("accompaniment", "test/a", "")})])
def test_accompaniment_that_is_not_the_sum(
    tmp_path: Path, subtype: str, residual_db: float, codes: set[tuple[str, str, str]]
) -> None:
    write_accompaniment(tmp_path, subtype, 1 / (1 - 10 ** (residual_db / 20)), level=0.1)
    result = check(tmp_path, parallel=HERE)
    assert result.tracks[0].accompaniment_residual_db == pytest.approx((residual_db,) * 2, abs=0.2)
    assert found(result, "error", "warning") == codes
    if codes:
        message = one(result, "accompaniment").message
        assert message.startswith("accompaniment minus sum of drums, bass, other: left channel -59.")
        assert "make-csv --make-accompaniment" in message


def test_silent_accompaniment_is_not_the_sum(tmp_path: Path) -> None:
    stems = make_stems()
    result = check_one(tmp_path, stems | {"accompaniment": np.zeros_like(stems["drums"])})
    assert found(result, "error", "warning") == {("accompaniment", "test/a", "")}
    assert result.tracks[0].accompaniment_residual_db == (0, 0)


@pytest.mark.parametrize(
    ("fault", "code"),
    [("garbage", "unreadable"), ("nan", "unreadable"), ("mono", "channels"), ("rate", "rate"), ("short", "length")],
)
def test_faults_of_an_accompaniment_leave_the_mixture_measured(tmp_path: Path, fault: str, code: str) -> None:
    stems = make_stems()
    total = sum(stems[stem].astype(np.int32) for stem in musdb18.TARGETS["accompaniment"])
    path = write_track(tmp_path / "test" / "a", stems | {"accompaniment": total}) / "accompaniment.wav"
    if fault == "garbage":
        path.write_bytes(b"no audio")
    elif fault == "nan":
        audio.write(path, np.full((NB_SAMPLES, 2), np.nan, np.float32), RATE, "FLOAT")
    elif fault == "mono":
        audio.write(path, total[:, :1], RATE)
    elif fault == "rate":
        audio.write(path, total, 48000)
    else:
        audio.write(path, total[:20_000], RATE)
    result = check(tmp_path, parallel=HERE)
    assert found(result, "error", "warning") == {(code, "test/a", "accompaniment")}
    (track,) = result.tracks
    assert track.residual_db == (None, None)
    assert track.accompaniment_residual_db is None


@pytest.mark.parametrize("position", [0, audio.BLOCK_SIZE])
@pytest.mark.parametrize("sound", [set(), {"vocals"}, {"vocals", "mixture"}, {"accompaniment"}])
def test_files_that_end_together_in_an_error_are_no_sum(tmp_path: Path, position: int, sound: set[str]) -> None:
    folder = write_track(tmp_path / "test" / "a", {})
    names = (*musdb18.STREAMS, "accompaniment")
    for name in names:
        samples = np.full((NB_SAMPLES, 2), 0.1, np.float32)
        if name not in sound:
            samples[position] = np.nan
        audio.write(folder / f"{name}.wav", samples, RATE, "FLOAT")
    result = check(tmp_path, parallel=HERE)
    assert found(result, "error") == {("unreadable", "test/a", name) for name in names if name not in sound}
    (track,) = result.tracks
    assert set(track.stems) == sound
    assert (track.residual_db, track.accompaniment_residual_db) == (None, None)


def test_residual_where_the_bandwidth_is_unknown_is_judged_by_the_other_tracks(tmp_path: Path) -> None:
    stems = make_stems(cut=5000)
    stems["mixture"] = np.rint(1.25 * stems["mixture"]).astype(np.int32)
    assert found(check_one(tmp_path, stems), "error", "warning") == set()
    write_track(tmp_path / "train" / "full", make_stems(1))
    result = check(tmp_path, parallel=HERE)
    assert found(result, "error", "warning") == {("mixture", "test/a", "")}


def test_stem_files_of_full_bandwidth_are_judged_as_lossy(tmp_path: Path) -> None:
    time_axis = np.arange(NB_SAMPLES)[:, None] / RATE
    stems = make_stems(level=0.001)
    for i, stem in enumerate(musdb18.STEMS):
        tone = np.rint(5000 * np.sin(2 * np.pi * 150 * (i + 1) * time_axis)).astype(np.int16)
        stems[stem] += tone
        stems["mixture"] += tone
    write_stem_file(tmp_path / "test" / "a.stem.mp4", [(samples, RATE) for samples in stems.values()])
    result = check(tmp_path, parallel=HERE)
    (track,) = result.tracks
    assert track.bandwidth == "full"
    assert track.residual_db is not None
    assert track.residual_db[0] is not None
    assert check_module.RESIDUAL_EXACT_DB < track.residual_db[0] < check_module.RESIDUAL_ONE_CHANNEL_DB
    assert found(result, "error", "warning", "note") == {("bandwidth", "", "")}
    assert result.dataset is not None
    assert result.dataset.variant == check_module.VARIANT_UNKNOWN  # as published, stem files are cut


def test_rounding_is_no_residual_even_in_a_soft_mixture(tmp_path: Path) -> None:
    stems = make_stems(level=3e-4)
    rng = np.random.default_rng(9)
    stems["mixture"] += rng.integers(-1, 2, stems["mixture"].shape, dtype=np.int32)
    write_track(tmp_path / "train" / "loud", make_stems(1))
    result = check_one(tmp_path, stems)
    assert result.tracks[1].residual_db is not None
    assert max(level or -200 for level in result.tracks[1].residual_db) > check_module.RESIDUAL_EXACT_DB
    assert found(result, "error", "warning") == set()


# Files that cannot be used


def test_faults_of_wav_folders(tmp_path: Path) -> None:
    stems = make_stems()
    train = tmp_path / "train"
    for name in ("mono", "rate", "length", "missing", "truncated", "empty", "garbage", "nan", "no samples"):
        write_track(train / name, stems)
    (train / "nothing").mkdir()
    audio.write(train / "mono" / "other.wav", stems["other"][:, :1], RATE)
    audio.write(train / "rate" / "other.wav", stems["other"], 48000)
    audio.write(train / "length" / "bass.wav", stems["bass"][: NB_SAMPLES // 2], RATE)
    (train / "missing" / "vocals.wav").unlink()
    vocals = (train / "truncated" / "vocals.wav").read_bytes()
    (train / "truncated" / "vocals.wav").write_bytes(vocals[: len(vocals) // 3])
    (train / "empty" / "vocals.wav").write_bytes(b"")
    (train / "garbage" / "vocals.wav").write_bytes(np.random.default_rng(0).bytes(5000))
    with_nan = np.zeros((NB_SAMPLES, 2), np.float32)
    with_nan[40_000, 1] = np.nan
    audio.write(train / "nan" / "drums.wav", with_nan, RATE, "FLOAT")
    audio.write(train / "no samples" / "drums.wav", stems["drums"][:0], RATE)
    result = check(tmp_path, parallel=HERE)
    assert found(result, "error") == {
        ("channels", "train/mono", "other"),
        ("rate", "train/rate", "other"),
        ("length", "train/length", "bass"),
        ("missing", "train/missing", "vocals"),
        ("length", "train/truncated", "vocals"),
        ("unreadable", "train/empty", "vocals"),
        ("unreadable", "train/garbage", "vocals"),
        ("unreadable", "train/nan", "drums"),
        ("length", "train/no samples", "drums"),
        *(("missing", "train/nothing", stem) for stem in musdb18.STREAMS),
    }
    assert found(result, "warning") == set()
    assert not result.ok
    assert all(track.residual_db is None for track in result.tracks)
    rate = next(track for track in result.tracks if track.key == "train/rate")
    assert list(rate.stems) == list(musdb18.STREAMS)  # what can be measured, is
    assert "48000 Hz, expected 44100 Hz" in one(result, "rate").message
    length = next(f for f in result.findings if f.track == "train/length")
    assert length.message.startswith("22050 samples (0.50 s), expected 44100 (1.00 s) as in mixture")
    json.dumps(dataclasses.asdict(result), allow_nan=False)


def test_faults_of_stem_files(tmp_path: Path) -> None:
    train = tmp_path / "train"
    sound = [(samples[:22050], RATE) for samples in make_stems().values()]
    mono, bass = (sound[3][0][:, :1], RATE), (sound[2][0][:8000], RATE)
    write_stem_file(train / "mono.stem.mp4", [*sound[:3], mono, sound[4]])
    write_stem_file(train / "rate.stem.mp4", [*sound[:3], (sound[3][0], 48000), sound[4]])
    write_stem_file(train / "all 48k.stem.mp4", [(samples, 48000) for samples, _ in sound])
    write_stem_file(train / "length.stem.mp4", [*sound[:2], bass, *sound[3:]])
    write_stem_file(train / "missing.stem.mp4", sound[:4])
    whole = excerpt().read_bytes()
    (train / "truncated.stem.mp4").write_bytes(whole[: len(whole) // 3])
    (train / "empty.stem.mp4").write_bytes(b"")
    (train / "garbage.stem.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (train / "gone.stem.mp4").symlink_to(tmp_path / "nowhere")
    result = check(tmp_path, parallel=HERE)
    errors = {(f.code, f.track.removeprefix("train/")) for f in result.findings if f.level == "error"}
    assert errors == {
        ("channels", "mono"),
        ("rate", "rate"),
        ("rate", "all 48k"),
        ("length", "length"),
        ("missing", "missing"),
        ("length", "truncated"),
        ("unreadable", "empty"),
        ("unreadable", "garbage"),
        ("missing", "gone"),
    }
    stems = {f.track.removeprefix("train/"): f.stem for f in result.findings if f.level == "error" and f.stem}
    assert {name: stems.get(name) for name in ("mono", "rate", "length")} == {
        "mono": "other",
        "rate": "other",
        "length": "bass",
    }
    json.dumps(dataclasses.asdict(result), allow_nan=False)


def test_a_fault_of_ours_in_one_track_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> audio.AudioInfo:
        raise RuntimeError("boom")

    write_track(tmp_path / "test" / "a", make_stems())
    monkeypatch.setattr(audio, "info", fail)
    result = check(tmp_path, parallel=HERE)
    assert found(result, "error") == {("unreadable", "test/a", "")}
    assert "RuntimeError: boom" in one(result, "unreadable").message


# The dataset as a whole


def test_root_that_is_no_dataset_is_a_finding_and_the_machine_is_still_checked(tmp_path: Path) -> None:
    result = check(tmp_path / "nowhere" / "at all")
    assert found(result, "error") == {("layout", "", "")}
    assert "no such folder" in result.findings[0].message
    assert result.dataset is None
    assert result.machine.free_bytes > 0
    assert not result.ok
    assert printed(result).endswith("machine checked: 1 error, 0 warnings, 0 notes\n")


def test_two_layouts_in_one_root(tmp_path: Path) -> None:
    write_track(tmp_path / "test" / "a", make_stems())
    (tmp_path / "test" / "b.stem.mp4").write_bytes(b"")
    assert found(check(tmp_path), "error") == {("layout", "", "")}


@pytest.mark.parametrize(
    ("name", "level"), [("PR - Oh No", "warning"), (musdb18.VALIDATION_TRACKS[0], "note"), ("a", "note")]
)
def test_count_matters_only_in_the_real_dataset(tmp_path: Path, name: str, level: str) -> None:
    subset = "test" if name == "PR - Oh No" else "train"
    write_track(tmp_path / subset / name, make_stems())
    finding = one(check(tmp_path, parallel=HERE), "count")
    assert finding.level == level
    assert "published are 100 and 50" in finding.message


def test_published_count_is_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(musdb18, "NB_TRACKS", {"train": 1, "test": 1})
    write_track(tmp_path / "train" / "b", make_stems())
    result = check_one(tmp_path, make_stems())
    assert not any(finding.code == "count" for finding in result.findings)


def test_a_track_in_both_subsets_is_an_error(tmp_path: Path) -> None:
    stems = {"mixture": make_stems()["mixture"]}
    write_track(tmp_path / "train" / "Al James - Schoolboy Fascination", stems)
    write_track(tmp_path / "test" / "Al James - Schoolboy Facination", stems)
    result = check(tmp_path, parallel=HERE)
    assert ("overlap", "Al James - Schoolboy Facination", "") in found(result, "error")


def test_a_track_in_the_wrong_subset_is_a_warning(tmp_path: Path) -> None:
    result = check_one(tmp_path, make_stems(), name=musdb18.VALIDATION_TRACKS[3])
    assert found(result, "error", "warning") == {("overlap", musdb18.VALIDATION_TRACKS[3], "")}
    assert "in test, published in train" in one(result, "overlap").message


def test_tracks_without_accompaniment_beside_those_with_it(tmp_path: Path) -> None:
    stems = make_stems()
    total = sum(stems[stem].astype(np.int32) for stem in musdb18.TARGETS["accompaniment"])
    write_track(tmp_path / "train" / "a", stems | {"accompaniment": total})
    result = check_one(tmp_path, make_stems(), name="b")
    assert found(result, "error", "warning") == {("missing", "", "accompaniment")}
    assert result.dataset is not None
    assert result.dataset.layout == "wav"


def test_errata_are_notes(tmp_path: Path) -> None:
    result = check_one(tmp_path, make_stems(), name="BKS - Bulldozer")
    finding = one(result, "errata")
    assert (finding.level, finding.track) == ("note", "test/BKS - Bulldozer")
    assert finding.message == "known fault: cowbell is in other (at 1:12)"


# The machine


def write_program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH, on a machine that is no Apple."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("platform.system", lambda: "Linux")
    return tmp_path / "bin"


def test_machine_without_programs(programs: Path) -> None:
    result = check(None, strict=True)
    assert result.ok
    assert (result.dataset, result.tracks, result.findings) == (None, (), ())
    machine = result.machine
    assert (machine.ffmpeg, machine.gpus) == (None, ())
    assert machine.cores >= 1
    assert machine.versions["musdbkit"] == __version__
    assert machine.versions["numpy"] == np.__version__
    json.dumps(dataclasses.asdict(result), allow_nan=False)
    for terminal in (False, True):
        assert "not found (musdbkit does not need it" in " ".join(printed(result, terminal=terminal).split())
    closing = (
        "machine checked: 0 errors, 0 warnings, 0 notes; no dataset was given: name one, or set MUSDB_PATH to it\n"
    )
    assert printed(result).endswith(closing)


def test_machine_with_programs(programs: Path) -> None:
    write_program(programs, "ffmpeg", "exit 1")
    write_program(programs, "nvidia-smi", "echo 'NVIDIA A, 81559 MiB'; echo 'NVIDIA B, 4 MiB'")
    machine = check(None).machine
    assert machine.ffmpeg == str(programs / "ffmpeg")
    assert machine.gpus == ("NVIDIA A, 81559 MiB", "NVIDIA B, 4 MiB")


@pytest.mark.parametrize("script", ["exec /bin/sleep 20", "echo cannot talk to the driver; exit 9"])
def test_machine_with_a_broken_program(programs: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(check_module, "_PROGRAM_SECONDS", 0.2)
    write_program(programs, "nvidia-smi", script)
    start = time.monotonic()
    assert check(None).machine.gpus == ()
    assert time.monotonic() - start < 15


def test_apple_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert check(None).machine.gpus == ("Apple GPU (MPS)",)


# Printing


def test_names_cannot_forge_output(tmp_path: Path) -> None:
    stems = make_stems()
    stems["vocals"][:] = 0
    name = "[bold]A [red]\x1b[31m\n0 errors"
    result = check_one(tmp_path, {"vocals": stems["vocals"]}, name=name)
    assert "\x1b" not in printed(result)
    for text in (printed(result), printed(result, terminal=True)):
        assert r"[bold]A [red]\x1b[31m\n0 errors" in " ".join(text.split())
    assert all("\n" not in finding.message for finding in result.findings)
    assert result.tracks[0].key == f"test/{name}"  # data keeps the name


@pytest.fixture
def eight_tracks(tmp_path: Path) -> CheckResult:
    """Eight tracks that lack four stems each."""
    for i in range(8):
        write_track(tmp_path / "train" / f"track {i}", {"mixture": make_stems(i)["mixture"]})
    return check(tmp_path, parallel=HERE)


def test_text_on_a_terminal_fits_80_columns_and_ends_with_the_count(eight_tracks: CheckResult) -> None:
    text = printed(eight_tracks, terminal=True)
    assert max(map(len, text.splitlines())) <= 80
    assert "... and 27 more (--json lists all)" in text
    assert text.endswith("8 tracks checked: 32 errors, 0 warnings, 2 notes\n")
    assert text.index("Machine") < text.index("Dataset") < text.index("Errors") < text.index("Notes")


def test_text_off_a_terminal_has_one_line_for_each_finding(eight_tracks: CheckResult) -> None:
    lines = printed(eight_tracks).splitlines()
    assert lines == [line.rstrip() for line in lines]
    assert lines[-1] == "8 tracks checked: 32 errors, 0 warnings, 2 notes"
    assert len([line for line in lines if line.startswith("  error missing  train/track ")]) == 32
    for finding in eight_tracks.findings:
        start = f"  {finding.level} {finding.code}"
        assert any(line.startswith(start) and line.endswith(finding.message) for line in lines)


def test_findings_are_sorted_by_level(tmp_path: Path) -> None:
    stems = make_stems()
    stems["vocals"][:] = 0
    result = check_one(tmp_path, {stem: stems[stem] for stem in ("mixture", "vocals")}, name="PR - Oh No")
    order = [check_module.LEVELS.index(finding.level) for finding in result.findings]
    assert order == sorted(order)
    assert set(order) == {0, 1, 2}
