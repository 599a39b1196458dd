"""The small MUSDB: its music, its files, and every fault measured where it was planted."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from musdbkit import audio, musdb18, synth, tracks
from musdbkit.errors import AudioError, DatasetError, ParameterError

RATE = musdb18.SAMPLE_RATE
ONE_JOB = tracks.Parallel(jobs=1)
STEM_SAMPLES = 5 * RATE + 4  # not a whole number of milliseconds, the muxer's own time scale


def _read_stem_file(path: Path) -> dict[str, tuple[NDArray[np.float32], int]]:
    """Return samples [shape=(nb_samples, nb_channels)] and rate of each audio stream, by PyAV alone."""
    signals = {}
    with av.open(str(path)) as container:
        streams = list(container.streams.audio)
    for i, name in zip(range(len(streams)), musdb18.STREAMS, strict=False):
        with av.open(str(path)) as container:
            blocks = [frame.to_ndarray() for frame in container.decode(audio=i)]
            signals[name] = (np.concatenate(blocks, axis=1).T, container.streams.audio[i].rate)
    return signals


def _read_folder(path: Path) -> dict[str, tuple[NDArray[np.float32], int]]:
    """Return samples [shape=(nb_samples, nb_channels)] and rate of each wav file."""
    return {
        file.name.removesuffix(".wav"): soundfile.read(file, dtype="float32", always_2d=True)
        for file in sorted(path.iterdir())
    }


def _share_above(samples: NDArray[np.float32], frequency: float) -> float:
    """Return the part of the energy above a frequency, in dB."""
    power = np.abs(np.fft.rfft(samples.mean(axis=1) * np.hanning(len(samples)))) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / RATE)
    return float(10 * np.log10(power[frequencies > frequency].sum() / power.sum()))


def _centroid(samples: NDArray[np.float32]) -> float:
    """Return the centre of the amplitude spectrum in Hz."""
    amplitude = np.abs(np.fft.rfft(samples.mean(axis=1)))
    return float(np.sum(np.fft.rfftfreq(len(samples), 1 / RATE) * amplitude) / amplitude.sum())


def _level(samples: NDArray[np.float32]) -> float:
    """Return the RMS level in dBFS."""
    return float(10 * np.log10(np.mean(samples.astype(np.float64) ** 2) + 1e-20))


def _longest_run(flags: NDArray[np.bool_]) -> int:
    """Return the length of the longest run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return int(max(edges[1::2] - edges[::2], default=0))


@pytest.fixture(scope="module")
def wav_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("wav")
    result = synth.synth(root, train=2, valid=1, test=1, seconds=5, layout="wav", parallel=ONE_JOB)
    assert not result.failed
    return root


@pytest.fixture(scope="module")
def stems_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stems")
    result = synth.synth(root, train=1, valid=1, test=1, seconds=STEM_SAMPLES / RATE, parallel=ONE_JOB)
    assert not result.failed
    return root


# The music


@pytest.fixture(scope="module", params=[(0, 0, 0), (0, 0, 1), (7, 2, 0)])
def stems(request: pytest.FixtureRequest) -> dict[str, NDArray[np.float32]]:
    return synth.render_track(12 * RATE, RATE, request.param)


def test_stems_have_the_shape_and_level_of_a_record(stems: dict[str, NDArray[np.float32]]) -> None:
    assert tuple(stems) == musdb18.STEMS
    for samples in stems.values():
        assert samples.shape == (12 * RATE, 2)
        assert samples.dtype == np.float32
        assert -26 < _level(samples) < -17
        assert np.corrcoef(samples.T)[0, 1] < 0.99  # neither mono
        assert np.corrcoef(samples.T)[0, 1] > 0  # nor out of phase
    for targets in (musdb18.STEMS, musdb18.TARGETS["accompaniment"], ("drums",), ("vocals",)):
        assert np.abs(sum(stems[stem] for stem in targets)).max() < 0.9


def test_stems_differ_in_spectrum_and_time(stems: dict[str, NDArray[np.float32]]) -> None:
    centroids = {stem: _centroid(samples) for stem, samples in stems.items()}
    assert centroids["bass"] < centroids["vocals"] / 1.3 < centroids["drums"] / 2
    assert centroids["bass"] < centroids["other"] < centroids["drums"]
    levels = {stem: np.sqrt(np.mean(x.reshape(-1, RATE // 10, 2) ** 2, axis=(1, 2))) for stem, x in stems.items()}
    assert 0.1 < np.mean(levels["vocals"] < 1e-3) < 0.6, "phrases and pauses"
    assert np.mean(levels["other"] < 1e-3) < 0.1
    fine = np.sqrt(np.mean(stems["drums"].reshape(-1, RATE // 100, 2) ** 2, axis=(1, 2)))
    assert np.percentile(fine, 95) > 5 * np.percentile(fine, 20), "drums are hits"
    together = (levels["vocals"] > 1e-2) & (levels["bass"] > 1e-2) & (levels["other"] > 1e-2)
    assert np.mean(together) > 0.2, "stems overlap"


def test_tracks_differ() -> None:
    first, second = (synth.render_track(4 * RATE, RATE, (0, 0, i)) for i in range(2))
    for stem in musdb18.STEMS:
        assert abs(np.corrcoef(first[stem][:, 0], second[stem][:, 0])[0, 1]) < 0.5
    a, b = (np.abs(np.fft.rfft(stems["vocals"].mean(axis=1))) for stems in (first, second))
    assert np.sum(a * b) / np.sqrt(np.sum(a**2) * np.sum(b**2)) < 0.9, "melody and vowels"


@pytest.mark.parametrize("nb_samples", [1, 441, RATE])
def test_short_tracks_sound(nb_samples: int) -> None:
    for i in range(4):
        stems = synth.render_track(nb_samples, RATE, (3, 0, i))
        assert all(samples.shape == (nb_samples, 2) and np.isfinite(samples).all() for samples in stems.values())
        if nb_samples == RATE:
            assert min(_level(samples) for samples in stems.values()) > -30


def test_other_sample_rates_sound() -> None:
    stems = synth.render_track(8000, 8000, (0,))
    assert min(_level(samples) for samples in stems.values()) > -30


# The files


def test_wav_layout_is_that_of_musdb18_hq(wav_root: Path) -> None:
    found = tracks.find_tracks(wav_root)
    assert [(track.split, track.name) for track in found] == [
        ("valid", musdb18.VALIDATION_TRACKS[0]),
        ("train", synth.NAMES["train"][1]),
        ("train", synth.NAMES["train"][0]),
        ("test", synth.NAMES["test"][0]),
    ]
    for track in found:
        assert track.layout == "hq"
        assert {path.name for path in track.path.iterdir()} == {f"{name}.wav" for name in musdb18.STREAMS}
        for name in musdb18.STREAMS:
            assert audio.info(track.file(name)) == audio.AudioInfo(RATE, 2, 5 * RATE, "PCM_16")


def test_names_are_awkward_distinct_and_not_real(tmp_path: Path) -> None:
    first = " ".join(synth.NAMES["train"][:4])
    assert all(mark in first for mark in ".,&'()")
    planned = synth.synth(tmp_path, train=120, valid=14, test=60, dry_run=True).made
    names = [track.name for track in planned]
    assert len(set(names)) == 194
    real = {*musdb18.VALIDATION_TRACKS, *(erratum.track for erratum in musdb18.ERRATA), *musdb18.ALIASES}
    assert real & set(names) == set(musdb18.VALIDATION_TRACKS)
    assert all(name.count(" - ") == 1 for name in names if name not in real)


def test_mixture_is_the_integer_sum_of_the_stems(wav_root: Path) -> None:
    for track in tracks.find_tracks(wav_root):
        signals = {name: soundfile.read(track.file(name), dtype="int16")[0] for name in musdb18.STREAMS}
        total = sum(signals[stem].astype(int) for stem in musdb18.STEMS)
        np.testing.assert_array_equal(signals["mixture"], total)
        assert 10000 < np.abs(total).max() < 30000


def test_same_arguments_same_bytes(tmp_path: Path) -> None:
    for layout in synth.LAYOUTS:
        one, two = tmp_path / layout / "one", tmp_path / layout / "two"
        synth.synth(one, train=1, valid=0, test=1, seconds=1, layout=layout, seed=5, parallel=ONE_JOB)
        parallel = tracks.Parallel(jobs=2 if layout == "stems" else 1)
        synth.synth(two, train=2, valid=1, test=1, seconds=1, layout=layout, seed=5, parallel=parallel)
        synth.synth(one, train=2, valid=1, test=1, seconds=1, layout=layout, seed=5, parallel=ONE_JOB)
        files = [path.relative_to(one) for path in sorted(one.rglob("*")) if path.is_file()]
        assert len(files) == (4 if layout == "stems" else 20) + 1
        assert Path(synth.RECORD) in files
        for file in files:
            assert (one / file).read_bytes() == (two / file).read_bytes(), file
    seeds = [synth.render_track(RATE, RATE, (seed, 0, 0))["bass"] for seed in (5, 6)]
    assert not np.array_equal(*seeds)


def test_wav_is_full_band_and_aac_is_not(wav_root: Path, stems_root: Path) -> None:
    name = synth.NAMES["train"][0]
    for stream in ("mixture", "drums"):
        wav = audio.read(wav_root / "train" / name / f"{stream}.wav")
        aac, _ = _read_stem_file(stems_root / "train" / f"{name}.stem.mp4")[stream]
        assert _share_above(wav, 18_000) > -40
        assert _share_above(aac, 18_000) < -75
        assert _share_above(aac, 14_000) > -40


def test_stem_files_are_built_like_musdb18s(stems_root: Path) -> None:
    found = tracks.find_tracks(stems_root)
    assert [track.layout for track in found] == ["stems"] * 3
    for track in found:
        with av.open(str(track.path)) as container:
            assert [stream.type for stream in container.streams] == ["audio"] * 5 + ["video"]
            for stream in container.streams.audio:
                assert (stream.codec_context.name, stream.rate, stream.channels) == ("aac", RATE, 2)
                assert stream.duration == STEM_SAMPLES
            picture = container.streams.video[0]
            assert picture.codec_context.name == "png"
            assert picture.disposition == av.stream.Disposition.attached_pic
            assert "creation_time" not in container.metadata
        data = track.path.read_bytes()
        assert data.index(b"moov") < data.index(b"mdat")
        assert b"Lavf" not in data
        assert b"Lavc" not in data
        assert 0.6 < len(data) / (5 * 5 * synth.BIT_RATE / 8) < 1.1


def test_stem_files_decode_in_time_and_order(stems_root: Path) -> None:
    name = synth.NAMES["train"][0]
    rendered = synth.render_track(STEM_SAMPLES, RATE, (0, 0, 0))
    rendered = {"mixture": sum(rendered.values()), **rendered}
    for stream, (samples, rate) in _read_stem_file(stems_root / "train" / f"{name}.stem.mp4").items():
        assert rate == RATE
        assert 0 <= len(samples) - STEM_SAMPLES <= 1024
        expected = rendered[stream]
        nb_fft = 2 * len(samples)
        spectra = [np.fft.rfft(x[:, 0], nb_fft) for x in (samples, expected)]
        assert np.argmax(np.fft.irfft(spectra[0] * np.conj(spectra[1]))) == 0, stream
        assert _level(samples[:STEM_SAMPLES] - expected) < _level(expected) - 15


# What is there already


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    def run(**options: bool) -> synth.SynthResult:
        return synth.synth(tmp_path, train=1, valid=0, test=1, seconds=0.5, layout="wav", parallel=ONE_JOB, **options)

    planned = run(dry_run=True)
    assert not any(tmp_path.iterdir())
    assert [track.subset for track in planned.made] == ["train", "test"]
    done = run()
    assert (done.made, done.kept, done.failed, done.audio_seconds) == (planned.made, (), {}, 1.0)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != synth.RECORD]
    assert done.nb_bytes == planned.nb_bytes == sum(path.stat().st_size for path in files)
    assert not any(path.name.startswith(".") for path in files)

    bass, drums = done.made[0].path / "bass.wav", done.made[0].path / "drums.wav"
    sound = bass.read_bytes()
    bass.write_bytes(b"mine")
    assert [track.name for track in run().kept] == [track.name for track in done.made]
    drums.unlink()
    second = run()
    assert (second.made, second.kept) == (done.made[:1], done.made[1:])
    assert second.nb_bytes == drums.stat().st_size
    assert bass.read_bytes() == b"mine"
    assert run(force=True).made == done.made
    assert bass.read_bytes() == sound


def test_stem_files_are_left_alone_too(tmp_path: Path) -> None:
    options = {"train": 1, "valid": 0, "test": 0, "seconds": 1, "parallel": ONE_JOB}
    estimate = synth.synth(tmp_path, dry_run=True, **options).nb_bytes
    made = synth.synth(tmp_path, **options)
    assert 0.5 < made.nb_bytes / estimate < 1.2
    made.made[0].path.write_bytes(b"mine")
    assert synth.synth(tmp_path, **options).kept == made.made
    assert made.made[0].path.read_bytes() == b"mine"
    assert synth.synth(tmp_path, force=True, **options).nb_bytes == made.nb_bytes


def test_a_track_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("a file where a folder should be")
    result = synth.synth(tmp_path, train=1, valid=0, test=1, seconds=0.5, parallel=ONE_JOB)
    assert list(result.failed) == [synth.NAMES["train"][0]]
    assert "cannot be written" in result.failed[synth.NAMES["train"][0]]
    assert [track.subset for track in result.made] == ["test"]


def test_a_failed_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    options = {"train": 1, "valid": 0, "test": 0, "seconds": 0.2, "layout": "wav", "parallel": ONE_JOB}
    folder = tmp_path / "train" / synth.NAMES["train"][0]
    (folder / "bass.wav" / "in the way").mkdir(parents=True)
    result = synth.synth(tmp_path, force=True, **options)
    assert "bass.wav: cannot be written" in result.failed[folder.name]
    assert not any(path.name.startswith(".") for path in folder.iterdir())


OPTIONS = {"train": 1, "valid": 0, "test": 1, "seconds": 0.2, "layout": "wav", "parallel": ONE_JOB}


def _contents(root: Path) -> dict[Path, bytes]:
    """Return the bytes of all files."""
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def _record(root: Path) -> dict[str, object]:
    """Return the record."""
    return json.loads((root / synth.RECORD).read_text(), parse_constant=lambda name: pytest.fail(name))


def test_record_says_how_tracks_were_made(tmp_path: Path) -> None:
    synth.synth(tmp_path, faults=["silent"], **OPTIONS)
    first, test = f"train/{synth.NAMES['train'][0]}", f"test/{synth.NAMES['test'][0]}"
    settings = {"version": 1, "seed": 0, "seconds": 0.2, "layout": "wav"}
    assert _record(tmp_path) == settings | {"tracks": {first: "silent", test: ""}}
    assert not synth.synth(tmp_path, faults=["silent"], **OPTIONS | {"test": 0}).made
    assert _record(tmp_path)["tracks"] == {first: "silent", test: ""}
    second = synth.synth(tmp_path, faults=["silent", "mono"], **OPTIONS | {"train": 2})
    assert [track.fault for track in second.made] == ["mono"]
    assert _record(tmp_path)["tracks"] == {
        first: "silent",
        f"train/{synth.NAMES['train'][1]}": "mono",
        test: "",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": 0.3}, "made otherwise: seconds was 0.2, now 0.3: --force replaces it, or choose another OUT$"),
        ({"seed": 1, "seconds": 3}, "made otherwise: seed was 0, now 1; seconds was 0.2, now 3.0: --force"),
        ({"layout": "stems"}, "made otherwise: layout was wav, now stems: a root has one layout: choose another OUT$"),
        ({"faults": ["missing"]}, "made otherwise: fault of train/Q.U.I.L.L. - Paper Boats was none, now missing: --f"),
    ],
)
def test_tracks_made_otherwise_are_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    synth.synth(tmp_path, **OPTIONS)
    before = _contents(tmp_path)
    for dry_run in (True, False):
        with pytest.raises(DatasetError, match=message):
            synth.synth(tmp_path, **OPTIONS | options, dry_run=dry_run)
    assert _contents(tmp_path) == before
    if "layout" in options:
        with pytest.raises(DatasetError, match=message):
            synth.synth(tmp_path, **OPTIONS | options, force=True)
        assert _contents(tmp_path) == before
    else:
        assert len(synth.synth(tmp_path, **OPTIONS | options, force=True).made) == 2
        synth.synth(tmp_path / "fresh", **OPTIONS | options)
        fresh = _contents(tmp_path / "fresh").items()
        made = {path: data for path, data in _contents(tmp_path).items() if "fresh" not in path.parts}
        assert made == {tmp_path / path.relative_to(tmp_path / "fresh"): data for path, data in fresh}


@pytest.mark.parametrize("record", [None, "", "[]", "{}", '{"version": 99}'])
def test_tracks_without_a_record_are_refused(tmp_path: Path, record: str | None) -> None:
    synth.synth(tmp_path, **OPTIONS)
    (tmp_path / synth.RECORD).unlink()
    if record is not None:
        (tmp_path / synth.RECORD).write_text(record)
    with pytest.raises(DatasetError, match=r"train/Q.U.I.L.L. - Paper Boats is there, but not made by synth .*--force"):
        synth.synth(tmp_path, **OPTIONS)
    synth.synth(tmp_path, **OPTIONS, force=True)
    assert len(synth.synth(tmp_path, **OPTIONS).kept) == 2


def test_force_keeps_other_tracks_and_the_record_knows_them_if_they_are_the_same(tmp_path: Path) -> None:
    synth.synth(tmp_path, **OPTIONS | {"train": 2})
    synth.synth(tmp_path, **OPTIONS, force=True)
    assert len(synth.synth(tmp_path, **OPTIONS | {"train": 2}).kept) == 3
    synth.synth(tmp_path, **OPTIONS | {"seed": 1}, force=True)
    with pytest.raises(DatasetError, match=r"train/Hearth, Stone & Wren - Salt Road is there, but not made by synth"):
        synth.synth(tmp_path, **OPTIONS | {"seed": 1, "train": 2})


@pytest.mark.parametrize("force", [False, True])
def test_a_run_that_was_killed_leaves_no_wrong_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    def kill(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    if force:
        synth.synth(tmp_path, **OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr(synth.tracks, "for_each", kill)
        with pytest.raises(KeyboardInterrupt):
            synth.synth(tmp_path, **OPTIONS | {"seed": 1}, force=force)
    if force:  # what is there has the old seed
        with pytest.raises(DatasetError, match="not made by synth"):
            synth.synth(tmp_path, **OPTIONS | {"seed": 1})
    else:
        assert len(synth.synth(tmp_path, **OPTIONS | {"seed": 1}).made) == 2


def test_files_that_synth_did_not_make_stay_but_not_in_another_layout(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "Mine - Song.stem.mp4").write_bytes(b"mine")
    for force in (False, True):
        assert synth.synth(tmp_path, **OPTIONS | {"layout": "stems"}, force=force).made
        with pytest.raises(DatasetError, match="a root has one layout: choose another OUT"):
            synth.synth(tmp_path, **OPTIONS, force=force)
    assert (tmp_path / "test" / "Mine - Song.stem.mp4").read_bytes() == b"mine"


# The faults


@pytest.fixture(scope="module", params=synth.LAYOUTS)
def faulty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Paths by fault, and one without under an empty name."""
    root = tmp_path_factory.mktemp("faulty")
    result = synth.synth(
        root, train=9, valid=2, test=2, seconds=2, layout=request.param, faults=tuple(synth.FAULTS), parallel=ONE_JOB
    )
    assert not result.failed
    assert [track.fault for track in result.made] == [*synth.FAULTS, ""]
    return {track.fault: track.path for track in result.made}


def _signals(path: Path) -> dict[str, tuple[NDArray[np.float32], int]]:
    """Return samples and rate of each stream of a track."""
    return _read_folder(path) if path.is_dir() else _read_stem_file(path)


def _residual(signals: dict[str, tuple[NDArray[np.float32], int]], channel: int) -> float:
    """Return how far the mixture is from the sum of the stems, in dB below the mixture."""
    mixture = signals["mixture"][0][:, channel]
    return _level(mixture - sum(signals[stem][0][:, channel] for stem in musdb18.STEMS)) - _level(mixture)


def _victim(path: Path) -> Path:
    """Return the file that faults in bytes are planted in."""
    return path / "vocals.wav" if path.is_dir() else path


def test_a_track_without_fault_has_none(faulty: dict[str, Path]) -> None:
    signals = _signals(faulty[""])
    assert tuple(sorted(signals)) == tuple(sorted(musdb18.STREAMS))
    assert {(samples.shape, rate) for samples, rate in signals.values()} == {(signals["mixture"][0].shape, RATE)}
    for samples, _ in signals.values():
        assert _level(samples) > -40
        assert _level(samples[:, 0] - samples[:, 1]) > _level(samples) - 25
        assert _level(samples[:, 0] + samples[:, 1]) > _level(samples) - 25
        assert _longest_run(np.abs(samples[:, 0]) > 0.9) < 5
    assert max(_residual(signals, channel) for channel in range(2)) < -15


@pytest.mark.parametrize("fault", ["silent", "dual-mono", "anti-phase", "mono", "clipping"])
def test_one_defect_leaves_the_mixture_a_sum(faulty: dict[str, Path], fault: str) -> None:
    signals = {name: (np.broadcast_to(x, (len(x), 2)), rate) for name, (x, rate) in _signals(faulty[fault]).items()}
    if faulty[fault].is_dir():
        np.testing.assert_array_equal(signals["mixture"][0], sum(signals[stem][0] for stem in musdb18.STEMS))
    assert max(_residual(signals, channel) for channel in range(2)) < -12


def test_silent(faulty: dict[str, Path]) -> None:
    signals = _signals(faulty["silent"])
    assert np.abs(signals["vocals"][0]).max() == 0
    assert _level(signals["mixture"][0]) > -30


def test_dual_mono(faulty: dict[str, Path]) -> None:
    samples = _signals(faulty["dual-mono"])["other"][0]
    assert _level(samples[:, 0] - samples[:, 1]) < -65  # AAC does not keep it exactly
    assert _level(samples) > -35
    if faulty["dual-mono"].is_dir():
        np.testing.assert_array_equal(samples[:, 0], samples[:, 1])


def test_anti_phase(faulty: dict[str, Path]) -> None:
    samples = _signals(faulty["anti-phase"])["other"][0]
    assert _level(samples[:, 0] + samples[:, 1]) < _level(samples) - 30
    assert _level(samples) > -35


def test_clipping(faulty: dict[str, Path]) -> None:
    samples = _signals(faulty["clipping"])["bass"][0]
    limit = 0.999 if faulty["clipping"].is_dir() else 0.9  # the AAC encoder turns full scale down to 0.95
    assert np.mean(np.abs(samples) > limit) > 0.2
    assert _longest_run(np.abs(samples[:, 0]) > limit) > 50


def test_left_channel(faulty: dict[str, Path]) -> None:
    signals = _signals(faulty["left-channel"])
    assert -10 < _residual(signals, 0) < -5
    assert _residual(signals, 1) < -15


def test_mono(faulty: dict[str, Path]) -> None:
    channels = {name: samples.shape[1] for name, (samples, _) in _signals(faulty["mono"]).items()}
    assert channels == {"mixture": 2, "drums": 2, "bass": 2, "other": 1, "vocals": 2}


def test_rate(faulty: dict[str, Path]) -> None:
    signals = _signals(faulty["rate"])
    assert {name: rate for name, (_, rate) in signals.items() if rate != RATE} == {"other": 48_000}
    assert 0 <= len(signals["other"][0]) - 2 * 48_000 <= 1024
    assert _level(signals["other"][0]) > -35


def test_length(faulty: dict[str, Path]) -> None:
    nb_samples = {name: len(samples) for name, (samples, _) in _signals(faulty["length"]).items()}
    assert 0 <= nb_samples.pop("bass") - RATE <= 1024
    assert all(0 <= found - 2 * RATE <= 1024 for found in nb_samples.values())


def test_missing(faulty: dict[str, Path]) -> None:
    assert set(_signals(faulty["missing"])) == set(musdb18.STREAMS) - {"vocals"}


def test_truncated(faulty: dict[str, Path]) -> None:
    victim = _victim(faulty["truncated"])
    if victim.suffix == ".wav":
        assert victim.stat().st_size == (44 + 2 * RATE * 4) // 3
        assert soundfile.info(victim).frames < RATE
    else:
        assert len(audio.probe_stems(victim)) == 5, "the cut file opens"
        with pytest.raises(AudioError, match="cut off"):
            list(audio.decode_stems(victim))


@pytest.mark.parametrize("fault", ["empty", "garbage"])
def test_no_audio_at_all(faulty: dict[str, Path], fault: str) -> None:
    victim = _victim(faulty[fault])
    assert (victim.stat().st_size == 0) == (fault == "empty")
    with pytest.raises(AudioError):
        audio.info(victim) if victim.suffix == ".wav" else audio.probe_stems(victim)


def test_force_takes_the_missing_file_away(tmp_path: Path) -> None:
    options = {"train": 1, "valid": 0, "test": 0, "seconds": 0.2, "layout": "wav", "parallel": ONE_JOB}
    made = synth.synth(tmp_path, **options).made
    synth.synth(tmp_path, faults=["missing"], force=True, **options)
    assert not (made[0].path / "vocals.wav").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": -1}, "train is -1, expected 0 tracks or more"),
        ({"valid": 15}, "valid is 15, but there are 14"),
        ({"seconds": 0}, "seconds is 0, expected more than 0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"seconds": float("inf")}, "seconds is inf"),
        ({"layout": "flac"}, "layout is flac, expected one of stems, wav"),
        ({"seed": -1}, "seed is -1"),
        ({"faults": ["hum"]}, "no fault is called hum, expected some of silent, dual-mono, .*garbage"),
        ({"faults": tuple(synth.FAULTS)}, "^12 faults need 12 tracks, 7 are asked for: --train 9$"),
        ({"train": 0, "valid": 0, "test": 0}, "train, valid and test are 0, expected at least one track"),
    ],
)
def test_values_out_of_range(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        synth.synth(tmp_path, **options)  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())
