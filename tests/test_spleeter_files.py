"""Spleeter's files: what is written, every refusal, the readers and the linter.

Most tracks are silence that takes no space on disk; Spleeter itself reads our files in parity/test_spleeter.py.
"""

import csv
import errno
import json
import os
import shutil
import time
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import soundfile

from musdbkit import audio, musdb18
from musdbkit.errors import AudioError, DatasetError, ParameterError
from musdbkit.spleeter_config import read_config
from musdbkit.spleeter_files import CsvResult, check_csv, make_csv, read_csv
from musdbkit.tracks import Parallel

RATE = 44100
LEAST = 4096 + 511 * 1024
"""Samples in 512 frames of Spleeter's STFT, 11.958 s."""

AWKWARD = (
    "M.E.R.C. Music - Knockout",
    "Jokers, Jacks & Kings - Sea Of Leaves",
    'The "Quoted", Ones - 1, 2',
    " leading - and trailing ",
    "Björk 音楽 - 100% #1; It's",
    "M.wav",
)

SIGNALS = {2: ("mixture", "vocals", "accompaniment"), 4: ("mixture", "vocals", "drums", "bass", "other")}

CONFIG = read_config(Path(__file__).parent.parent / "templates" / "spleeter_4stems.json")

SHIPPED_KEYS = [
    "train_csv", "validation_csv", "model_dir", "mix_name", "instrument_list", "sample_rate", "frame_length",
    "frame_step", "T", "F", "n_channels", "n_chunks_per_song", "chunk_duration", "separation_exponent",
    "mask_extension", "MWF", "learning_rate", "batch_size", "training_cache", "validation_cache", "train_max_steps",
    "throttle_secs", "random_seed", "save_checkpoints_steps", "save_summary_steps", "model",
]  # fmt: skip
"""Keys of Spleeter's shipped configurations and of its wiki's page on models."""


def write_wav(path: Path, nb_samples: int = LEAST, rate: int = RATE, channels: int = 2) -> None:
    """Write 16-bit silence: a header, and a hole in the file."""
    data_size = nb_samples * channels * 2
    header = b"RIFF" + (36 + data_size).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    numbers = ((1, 2), (channels, 2), (rate, 4), (rate * channels * 2, 4), (channels * 2, 2), (16, 2))
    header += b"".join(value.to_bytes(size, "little") for value, size in numbers)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + b"data" + data_size.to_bytes(4, "little"))
    os.truncate(path, 44 + data_size)


def write_track(folder: Path, signals: Iterable[str] = (*musdb18.STREAMS, "accompaniment"), **form: int) -> Path:
    for signal in signals:
        write_wav(folder / f"{signal}.wav", **form)
    return folder


@pytest.fixture
def make_root(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a dataset of the given names."""

    def make(train: Iterable[str], test: Iterable[str] = (), **options: object) -> Path:
        for subset, names in (("train", train), ("test", test)):
            for name in names:
                write_track(tmp_path / "data" / subset / name, **options)  # type: ignore[arg-type]
        return tmp_path / "data"

    return make


@pytest.fixture
def root(make_root: Callable[..., Path]) -> Path:
    """Four train tracks, one of them official for validation, and one test track."""
    return make_root(("A", "B", "C", "Meaxic - Take A Step"), ("T",))


def names_in(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row["mix_path"].split("/")[1] for row in csv.DictReader(file)]


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What is written


@pytest.mark.parametrize("stems", [2, 4])
def test_awkward_names_round_trip_through_pandas(make_root: Callable[..., Path], tmp_path: Path, stems: int) -> None:
    root = make_root(AWKWARD, ("T",))
    for signal in SIGNALS[stems]:
        write_wav(root / "train" / AWKWARD[0] / f"{signal}.wav", nb_samples=200 * RATE)
        write_wav(root / "train" / AWKWARD[1] / f"{signal}.wav", nb_samples=LEAST + 300_032 - 299_880)
    out = tmp_path / "out"
    result = make_csv(root, stems=stems, out=out, validation="M.wav")
    assert [path.name for path in result.written] == [
        *(f"musdb_{stems}stems_{split}.csv" for split in ("train", "validation", "test")),
        f"musdb_{stems}stems.json",
    ]
    assert result.rows == {"train": 5, "validation": 1, "test": 1}
    assert result.nb_bytes == sum(path.stat().st_size for path in result.written)

    frame = pandas.read_csv(out / f"musdb_{stems}stems_train.csv")
    columns = ["mix_path", *(f"{signal}_path" for signal in SIGNALS[stems][1:]), "duration"]
    assert list(frame.columns) == columns
    assert frame["duration"].dtype == np.float64
    expected = sorted(set(AWKWARD) - {"M.wav"})
    for column, signal in zip(columns, SIGNALS[stems], strict=False):
        assert list(frame[column]) == [f"train/{name}/{signal}.wav" for name in expected]
    durations = dict(zip(expected, frame["duration"], strict=True))
    assert durations[AWKWARD[0]] == 200.0
    assert durations[AWKWARD[1]] == round((LEAST + 152) / RATE, 6)
    assert b"\r" not in (out / f"musdb_{stems}stems_train.csv").read_bytes()
    assert ",200.000000\n" in (out / f"musdb_{stems}stems_train.csv").read_text(encoding="utf-8")

    config = read_config(out / f"musdb_{stems}stems.json")
    rows = read_csv(config.train_csv, config)
    assert [row.name for row in rows] == expected
    assert tuple(rows[0].files) == SIGNALS[stems]
    assert all((root / path).is_file() for row in rows for path in row.files.values())
    assert [row.seconds for row in rows] == list(frame["duration"])
    for path in result.written[:3]:
        assert check_csv(path, root).findings == ()


@pytest.mark.parametrize("stems", [2, 4])
def test_config_in_the_current_folder_is_the_template(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stems: int
) -> None:
    monkeypatch.chdir(tmp_path)
    make_csv(root, stems=stems)
    template = Path(__file__).parent.parent / "templates" / f"spleeter_{stems}stems.json"
    assert (tmp_path / f"musdb_{stems}stems.json").read_bytes() == template.read_bytes()
    settings = json.loads(template.read_text())
    assert list(settings) == SHIPPED_KEYS
    assert settings["train_csv"] == f"musdb_{stems}stems_train.csv"
    assert settings["instrument_list"] == list(SIGNALS[stems][1:])
    activations = {} if stems == 2 else {"conv_activation": "ELU", "deconv_activation": "ELU"}
    assert settings["model"] == {"type": "unet.unet", "params": activations}


def test_templates_have_the_published_values() -> None:
    """Values of deezer/spleeter, configs/musdb_config.json."""
    published = {
        "mix_name": "mix",
        "sample_rate": 44100,
        "frame_length": 4096,
        "frame_step": 1024,
        "T": 512,
        "F": 1024,
        "n_channels": 2,
        "n_chunks_per_song": 40,
        "separation_exponent": 2,
        "mask_extension": "zeros",
        "learning_rate": 1e-4,
        "batch_size": 4,
        "train_max_steps": 200000,
        "throttle_secs": 1800,
        "random_seed": 3,
        "save_checkpoints_steps": 1000,
        "save_summary_steps": 5,
    }
    for stems in (2, 4):
        template = Path(__file__).parent.parent / "templates" / f"spleeter_{stems}stems.json"
        settings = json.loads(template.read_text())
        assert {key: settings[key] for key in published} == published
        for key in ("training_cache", "validation_cache"):  # Spleeter makes its folder part, and stops where it is ""
            assert settings[key].startswith("spleeter_cache/")


def test_config_holds_the_out_folder_as_given(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_csv(root, stems=4, out=Path("runs/é 1"))
    config = read_config(Path("runs/é 1/musdb_4stems.json"))
    assert config.train_csv.as_posix() == "runs/é 1/musdb_4stems_train.csv"
    assert config.validation_csv.is_file()
    assert config.model_dir.as_posix() == "runs/é 1/spleeter_model/4stems"
    assert config.training_cache is not None
    assert config.training_cache.as_posix() == "runs/é 1/spleeter_cache/4stems/training"
    assert Path("runs/é 1/musdb_4stems.json").read_bytes().isascii()  # Spleeter opens it in the system's encoding


def test_flac_tracks(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("A", "B"):
        folder = write_track(root / "train" / name, ["mixture"])
        for stem in musdb18.STEMS:
            soundfile.write(folder / f"{stem}.flac", np.zeros((LEAST, 2), np.int16), RATE)
    make_csv(root, stems=4, out=tmp_path, validation="A")
    line = (tmp_path / "musdb_4stems_train.csv").read_text().splitlines()[1]
    assert (
        line
        == "train/B/mixture.wav,train/B/vocals.flac,train/B/drums.flac,train/B/bass.flac,train/B/other.flac,"
        + (f"{LEAST / RATE:.6f}")
    )


# Validation


def test_official_validation(make_root: Callable[..., Path], tmp_path: Path) -> None:
    others = [f"Track {i:02}" for i in range(86)]
    root = make_root((*others, *musdb18.VALIDATION_TRACKS), ("Meaxic - Another",), signals=SIGNALS[4])
    result = make_csv(root, stems=4, out=tmp_path)
    assert result.rows == {"train": 86, "validation": 14, "test": 1}
    assert names_in(tmp_path / "musdb_4stems_validation.csv") == sorted(musdb18.VALIDATION_TRACKS)
    assert names_in(tmp_path / "musdb_4stems_train.csv") == others
    assert set(result.validation) == set(musdb18.VALIDATION_TRACKS)
    assert result.notes == ()


def test_some_official_tracks_are_used_and_said(root: Path, tmp_path: Path) -> None:
    result = make_csv(root, stems=4, out=tmp_path)
    assert result.validation == ("Meaxic - Take A Step",)
    assert result.notes == ("validation: only 1 of the 14 official tracks found",)


def test_without_official_tracks_a_tenth_is_picked(make_root: Callable[..., Path], tmp_path: Path) -> None:
    root = make_root([f"Song {i:02}" for i in range(20)], signals=SIGNALS[4])
    results = [make_csv(root, stems=4, out=tmp_path / str(i)) for i in range(2)]
    assert results[0].validation == results[1].validation == ("Song 12", "Song 13")  # random.Random(0)
    assert results[0].rows == {"train": 18, "validation": 2, "test": 0}
    assert "none of the 14 official tracks is here, so 2 of 20 train tracks, picked with seed 0" in results[0].notes[0]
    assert results[0].notes[1] == "no test tracks, so no musdb_4stems_test.csv"
    assert listing(tmp_path / "0") == ["musdb_4stems.json", "musdb_4stems_train.csv", "musdb_4stems_validation.csv"]
    train, validation = (set(names_in(tmp_path / "0" / f"musdb_4stems_{s}.csv")) for s in ("train", "validation"))
    assert not train & validation
    assert len(train | validation) == 20


def test_a_number_of_validation_tracks(root: Path, tmp_path: Path) -> None:
    result = make_csv(root, stems=2, out=tmp_path, validation="3")
    assert len(result.validation) == 3
    assert result.rows["train"] == 1


@pytest.mark.parametrize(
    ("validation", "expected"),
    [
        ("B", ("B",)),
        ("C, A", ("A", "C")),
        ('A, "X, Y - Z"', ("A", "X, Y - Z")),
        ("X, Y - Z", ("X, Y - Z",)),
        ('"10"', ("10",)),
        ("M", ("M.E.R.C. Music - Knockout",)),
        ("Jokers Jacks & Kings - Sea Of Leaves,B", ("B", "Jokers, Jacks & Kings - Sea Of Leaves")),
        ("B\nC\n", ("B", "C")),
    ],
)
def test_names_of_validation_tracks(
    make_root: Callable[..., Path], tmp_path: Path, validation: str, expected: tuple[str, ...]
) -> None:
    names = ("A", "B", "C", "10", "X, Y - Z", "M.E.R.C. Music - Knockout", "Jokers, Jacks & Kings - Sea Of Leaves")
    result = make_csv(make_root(names), stems=4, out=tmp_path, validation=validation)
    assert result.validation == expected
    assert set(names_in(tmp_path / "musdb_4stems_train.csv")) == set(names) - set(expected)


def test_alias_folders_count_as_the_official_track(make_root: Callable[..., Path], tmp_path: Path) -> None:
    root = make_root(("M", "Other"))
    assert make_csv(root, stems=4, out=tmp_path, validation="M.E.R.C. Music - Knockout").validation == ("M",)


@pytest.mark.parametrize(
    ("validation", "error", "message"),
    [
        ("Meaxic - Take a Stop", DatasetError, r"not among 4 train tracks: did you mean Meaxic - Take A Step\?$"),
        ("T", DatasetError, "'T': it is in test, expected tracks of train$"),
        ("A, T", DatasetError, "'T': it is in test, expected tracks of train$"),
        ("A, Zzzz", DatasetError, "'Zzzz': not among 4 train tracks: expected names of folders in train$"),
        ("Zzzz", DatasetError, "'Zzzz': not among 4 train tracks: expected names of folders in train$"),
        ("A,B,C,Meaxic - Take A Step", DatasetError, "no track for the train CSV: 4 train tracks found, 4 held out"),
        (
            "0",
            ParameterError,
            "validation is 0, expected a whole number of 1 or more, and 3 at most: 4 train tracks can",
        ),
        ("-2", ParameterError, "validation is -2, expected a whole number of 1 or more"),
        ("1.5", ParameterError, "validation is 1.5, expected a whole number of 1 or more"),
        ("4", ParameterError, "validation is 4, expected a whole number of 1 or more, and 3 at most"),
        ("", ParameterError, "validation is empty"),
        (" , ", ParameterError, "validation is empty"),
    ],
)
def test_validation_refusals(root: Path, tmp_path: Path, validation: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_csv(root, stems=4, out=tmp_path / "out", validation=validation)
    assert not (tmp_path / "out").exists()


def test_a_name_with_a_comma_that_is_taken_for_two(make_root: Callable[..., Path], tmp_path: Path) -> None:
    root = make_root(("A", "Jokers, Jacks & Kings - Sea Of Leaves"))
    with pytest.raises(DatasetError, match=r'double quotes: "Jokers, Jacks & Kings - Sea Of Leaves"$'):
        make_csv(root, stems=4, out=tmp_path, validation="A, Jokers, Jacks & Kings - Sea Of Leaves")
    shutil.rmtree(root / "train/A")
    with pytest.raises(DatasetError, match=r"1 train track: did you mean Jokers, Jacks & Kings - Sea Of Leaves\?$"):
        make_csv(root, stems=4, out=tmp_path, validation="Jokers, Jacks & King - Sea Of Leaves")


def test_names_are_the_same_in_both_forms_of_unicode(make_root: Callable[..., Path], tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Björk - Jóga") for form in ("NFC", "NFD"))
    root = make_root(("A", decomposed))
    assert make_csv(root, stems=4, out=tmp_path, validation=composed).validation == (decomposed,)
    assert (root / read_csv(tmp_path / "musdb_4stems_validation.csv", CONFIG)[0].files["bass"]).is_file()
    write_track(root / "test" / composed)
    with pytest.raises(DatasetError, match="are one track, which would be in two places"):
        make_csv(root, stems=4, out=tmp_path)


def test_a_root_without_train_tracks(make_root: Callable[..., Path], tmp_path: Path) -> None:
    root = make_root((), ("T",))
    with pytest.raises(
        DatasetError, match=r"1 test track, but no .*/train, which Spleeter trains .*: put train tracks"
    ):
        make_csv(root, stems=4, out=tmp_path)


# Which tracks


def test_limit_takes_the_first_by_name_of_each(make_root: Callable[..., Path], tmp_path: Path) -> None:
    root = make_root((*"EDCBA", "Meaxic - Take A Step", "ANiMAL - Rockshow", "Actions - One Minute Smile"), "ZYX")
    result = make_csv(root, stems=4, out=tmp_path, limit=2)
    assert result.rows == {"train": 2, "validation": 2, "test": 2}
    assert names_in(tmp_path / "musdb_4stems_train.csv") == ["A", "B"]
    assert names_in(tmp_path / "musdb_4stems_validation.csv") == ["ANiMAL - Rockshow", "Actions - One Minute Smile"]
    assert names_in(tmp_path / "musdb_4stems_test.csv") == ["X", "Y"]
    assert result.validation == ("ANiMAL - Rockshow", "Actions - One Minute Smile")
    assert "validation: 1 more track held out, in no CSV with --limit 2" in result.notes


def test_errata_are_left_out_by_name(make_root: Callable[..., Path], tmp_path: Path) -> None:
    root = make_root(("A", "B", "Leaf - Wicked"), ("Al James - Schoolboy Fascination", "PR - Oh No", "T"))
    shutil.rmtree(root / "test/PR - Oh No")
    write_track(root / "test/PR - Oh No", nb_samples=5)  # what is left out need not be sound
    (root / "test/PR - Oh No/bass.wav").write_bytes(b"")
    result = make_csv(root, stems=4, out=tmp_path, validation="A", exclude_errata=True)
    assert set(result.left_out) == {
        "train/Leaf - Wicked",
        "test/Al James - Schoolboy Fascination",
        "test/PR - Oh No",
    }
    assert result.left_out["test/PR - Oh No"] == "erratum: left channel of the mixture is not the sum of the stems"
    assert result.rows == {"train": 1, "validation": 1, "test": 1}
    (root / "test/PR - Oh No/bass.wav").unlink()
    assert set(make_csv(root, stems=4, out=tmp_path, validation="A").failed) == {"test/PR - Oh No"}


def test_short_tracks_are_left_out_by_name(root: Path, tmp_path: Path) -> None:
    write_track(root / "train/Short", nb_samples=LEAST - 1)
    write_track(root / "test/Short Too", nb_samples=1)
    write_track(root / "train/Music Delta - Rock", nb_samples=round(12.91 * RATE))
    result = make_csv(root, stems=2, out=tmp_path)
    fewer = "Spleeter drops tracks of fewer than 527360 (11.958 s, T = 512)"
    assert result.left_out == {
        "train/Short": f"527359 samples (11.958 s): {fewer}",
        "test/Short Too": f"1 sample (0.000 s): {fewer}",
    }
    assert names_in(tmp_path / "musdb_2stems_train.csv") == ["A", "B", "C", "Music Delta - Rock"]


@pytest.mark.parametrize(("train", "split"), [(("A",), "train"), (("A", "Meaxic - Take A Step"), "validation")])
def test_no_csv_is_ever_empty(
    make_root: Callable[..., Path], tmp_path: Path, train: tuple[str, ...], split: str
) -> None:
    root = make_root(train, ("T",))
    if "Meaxic - Take A Step" in train:
        write_track(root / "train/Meaxic - Take A Step", nb_samples=100)
    with pytest.raises(DatasetError, match=rf"no track for the {split} CSV: {len(train)} train tracks? found, [01] "):
        make_csv(root, stems=4, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("second", ["train/M", "test/M", "test/M.E.R.C. Music - Knockout"])
def test_a_track_in_two_places_is_refused(make_root: Callable[..., Path], tmp_path: Path, second: str) -> None:
    root = make_root(("A", "M.E.R.C. Music - Knockout"), ("T",))
    write_track(root / second)
    with pytest.raises(DatasetError, match="are one track, which would be in two places"):
        make_csv(root, stems=4, out=tmp_path)


def test_stem_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/A.stem.mp4").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"stem files, expected wav files: convert them first: musdbkit convert"):
        make_csv(tmp_path, stems=4, out=tmp_path)


@pytest.mark.parametrize(("option", "value"), [("stems", 3), ("limit", 0)])
def test_options_out_of_range(root: Path, option: str, value: int) -> None:
    with pytest.raises(ParameterError, match=f"{option} is {value}, expected"):
        make_csv(root, **({"stems": 2} | {option: value}))  # type: ignore[arg-type]


def test_all_broken_tracks_are_listed_and_nothing_is_written(root: Path, tmp_path: Path) -> None:
    for name in ("Fault 1", "Fault 2", "Fault 3", "Fault 4", "Fault 5", "Fault\n6"):
        write_track(root / "train" / name)
    write_wav(root / "train/Fault 1/bass.wav", nb_samples=LEAST - 1)
    write_wav(root / "train/Fault 2/other.wav", rate=48000)
    write_wav(root / "train/Fault 3/other.wav", channels=1)
    (root / "train/Fault 4/drums.wav").unlink()
    (root / "train/Fault 5/vocals.wav").write_bytes(b"not audio")
    (root / "train/Fault 5/mixture.wav").write_bytes(b"")
    result = make_csv(root, stems=4, out=tmp_path / "out", make_accompaniment=True)
    expected = {
        "train/Fault 1": f"bass.wav: {LEAST - 1} samples, expected {LEAST} as in mixture.wav: all files of a track",
        "train/Fault 2": "other.wav: 48000 Hz, expected 44100: resample it",
        "train/Fault 3": "other.wav: 1 channel, expected 2: write it anew, Spleeter would drop the track silently",
        "train/Fault 4": "no drums (looked for .wav and .flac in",
        "train/Fault 5": "vocals.wav: 9 bytes that are no readable wav or flac file",
        "train/Fault\n6": "its name has a control character or is not UTF-8",
    }
    assert result.failed.keys() == expected.keys()
    for key, text in expected.items():
        assert text in result.failed[key]
        assert "\n" not in result.failed[key]
    assert "mixture.wav: 0 bytes" in result.failed["train/Fault 5"]
    assert result.written == ()
    assert not (tmp_path / "out").exists()


# Accompaniment


def write_noise(folder: Path, rng: np.random.Generator, peak: int) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    stems = {stem: rng.integers(-peak, peak, (LEAST, 2), dtype=np.int16) for stem in musdb18.STEMS}
    for stem, samples in stems.items():
        soundfile.write(folder / f"{stem}.wav", samples, RATE)
    write_wav(folder / "mixture.wav")
    return stems


def test_accompaniment_is_refused_then_made(tmp_path: Path, rng: np.random.Generator) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    quiet = write_noise(root / "train/Quiet", rng, 10_000)
    loud = write_noise(root / "train/Loud", rng, 30_000)
    write_track(root / "train/Third")
    with pytest.raises(
        DatasetError, match=r"no accompaniment in 2 of 3 tracks \(train/Loud is the first\).*--make-accompaniment"
    ):
        make_csv(root, stems=2, out=out, validation="Third")
    planned = make_csv(root, stems=2, out=out, validation="Third", make_accompaniment=True, dry_run=True)
    assert planned.accompaniments == ("train/Loud", "train/Quiet")
    assert not out.exists()
    assert not (root / "train/Quiet/accompaniment.wav").exists()

    result = make_csv(root, stems=2, out=out, validation="Third", make_accompaniment=True, parallel=Parallel(jobs=1))
    assert result.accompaniments == ("train/Loud", "train/Quiet")
    written = [*result.written, *(root / key / "accompaniment.wav" for key in result.accompaniments)]
    assert result.nb_bytes == sum(path.stat().st_size for path in written)
    texts = sum(path.stat().st_size for path in result.written)
    assert planned.nb_bytes == texts + 2 * (44 + LEAST * 4)  # Loud takes twice as much, as it overflows
    assert 0 < result.free_bytes <= shutil.disk_usage(tmp_path).total
    assert "train/Loud: accompaniment is FLOAT, its sum overflows PCM_16" in result.notes
    assert not [note for note in result.notes if "train/Quiet" in note]
    parts = musdb18.TARGETS["accompaniment"]
    samples, _ = soundfile.read(root / "train/Quiet/accompaniment.wav", dtype="int16")
    assert soundfile.info(root / "train/Quiet/accompaniment.wav").subtype == "PCM_16"
    np.testing.assert_array_equal(samples, sum(quiet[part].astype(np.int64) for part in parts))
    wide, _ = soundfile.read(root / "train/Loud/accompaniment.wav", dtype="float32")
    assert soundfile.info(root / "train/Loud/accompaniment.wav").subtype == "FLOAT"
    expected = sum(loud[part].astype(np.int64) for part in parts)
    assert np.abs(expected).max() > 32768
    np.testing.assert_array_equal(wide * 32768, expected)
    assert listing(root / "train/Loud") == sorted(f"{s}.wav" for s in (*musdb18.STREAMS, "accompaniment"))
    assert check_csv(out / "musdb_2stems_train.csv", root).findings == ()
    again = make_csv(root, stems=2, out=out, validation="Third")
    assert (again.written, again.accompaniments) == ((), ())


def test_only_the_tracks_in_a_csv_need_an_accompaniment(make_root: Callable[..., Path], tmp_path: Path) -> None:
    root = make_root("ABCD", ("T",), signals=musdb18.STREAMS)
    options = {"stems": 2, "out": tmp_path, "validation": "A", "limit": 1}
    result = make_csv(root, **options, make_accompaniment=True)  # type: ignore[arg-type]
    assert result.accompaniments == ("train/B", "train/A", "test/T")
    assert make_csv(root, **options).kept == result.written  # type: ignore[arg-type]


def test_stems_that_cannot_be_summed_are_listed(make_root: Callable[..., Path], tmp_path: Path) -> None:
    root = make_root("AB", signals=musdb18.STREAMS)
    soundfile.write(root / "train/A/bass.wav", np.zeros((LEAST, 2)), RATE, subtype="PCM_24")
    write_wav(root / "train/B/drums.wav", nb_samples=LEAST + 1)
    result = make_csv(root, stems=2, out=tmp_path, make_accompaniment=True)
    assert (
        "PCM_16 and PCM_24 stems, expected one format of PCM_16, PCM_24, FLOAT to sum them" in result.failed["train/A"]
    )
    assert "drums.wav: 527361 samples, expected 527360 as in mixture.wav" in result.failed["train/B"]
    assert list(make_csv(root, stems=4, out=tmp_path).failed) == [
        "train/B"
    ]  # where no sum is needed, formats may differ


def test_an_accompaniment_that_fails_is_named_and_no_csv_written(
    make_root: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_root("AB", signals=musdb18.STREAMS)
    (root / "train/A/accompaniment.wav").mkdir()  # a folder is in the way
    result = make_csv(
        root, stems=2, out=tmp_path / "out", validation="B", make_accompaniment=True, parallel=Parallel(jobs=1)
    )
    path = root / "train/A/accompaniment.wav"
    assert result.failed == {"train/A": f"{path}: cannot be written: Is a directory"}
    assert result.accompaniments == ("train/B",)
    assert result.nb_bytes == (root / "train/B/accompaniment.wav").stat().st_size
    assert not (tmp_path / "out").exists()
    assert not list(root.rglob(".*"))


@pytest.mark.parametrize("failing", ["touch", "write"])
def test_an_accompaniment_that_cannot_be_written(
    make_root: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def fill_disk(self: audio.SumWriter, *_: object) -> None:
        raise AudioError(f"{self.path}: the disk is full", "unwritable")

    root = make_root("AB", signals=musdb18.STREAMS)
    if failing == "touch":
        monkeypatch.setattr(Path, "touch", refuse)
    else:
        monkeypatch.setattr(audio.SumWriter, "write", fill_disk)
    result = make_csv(
        root, stems=2, out=tmp_path / "out", validation="B", make_accompaniment=True, parallel=Parallel(jobs=1)
    )
    reason = {"touch": "cannot be written: Permission denied", "write": "the disk is full"}[failing]
    assert result.failed == {f"train/{n}": f"{root}/train/{n}/accompaniment.wav: {reason}" for n in "AB"}
    assert (result.accompaniments, result.nb_bytes) == ((), 0)
    assert not list(root.rglob("*accompaniment.wav"))


# Files that are there


def test_dry_run_writes_nothing(root: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    planned = make_csv(root, stems=4, out=tmp_path / "out", dry_run=True)
    assert sorted(tmp_path.rglob("*")) == before
    done = make_csv(root, stems=4, out=tmp_path / "out")
    assert planned.free_bytes > 0
    assert replace(planned, free_bytes=0) == replace(done, free_bytes=0)
    assert done.nb_bytes == sum(path.stat().st_size for path in done.written)


def test_nothing_is_replaced_without_force(root: Path, tmp_path: Path) -> None:
    first = make_csv(root, stems=4, out=tmp_path)
    assert make_csv(root, stems=4, out=tmp_path).kept == first.written
    content = (tmp_path / "musdb_4stems_train.csv").read_bytes()
    with pytest.raises(DatasetError, match=r"musdb_4stems_train\.csv: already there with another content: --force"):
        make_csv(root, stems=4, out=tmp_path, limit=1)
    with pytest.raises(DatasetError, match="--force"):
        make_csv(root, stems=4, out=tmp_path, limit=1, dry_run=True)
    assert (tmp_path / "musdb_4stems_train.csv").read_bytes() == content
    forced = make_csv(root, stems=4, out=tmp_path, limit=1, force=True)
    assert [path.name for path in forced.written] == ["musdb_4stems_train.csv"]
    assert len(forced.kept) == 3
    assert names_in(tmp_path / "musdb_4stems_train.csv") == ["A"]
    assert not [name for name in listing(tmp_path) if name.startswith(".")]


def test_what_earlier_runs_left_is_said(root: Path, tmp_path: Path) -> None:
    make_csv(root, stems=4, out=tmp_path)
    index = tmp_path / "spleeter_cache/4stems/training.index"
    index.parent.mkdir(parents=True)
    index.touch()
    shutil.rmtree(root / "test")
    (root / "train/New").mkdir()
    write_track(root / "train/New")
    notes = make_csv(root, stems=4, out=tmp_path, force=True).notes
    assert f"{tmp_path / 'musdb_4stems_test.csv'}: of an earlier run, remove it" in notes
    assert f"{index}: Spleeter's cache of earlier files, remove it" in notes
    assert not [note for note in make_csv(root, stems=4, out=tmp_path).notes if "cache" in note]


def test_a_folder_that_cannot_be_written(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"file.*: cannot be written: "):
        make_csv(root, stems=4, out=tmp_path / "file" / "out")
    (tmp_path / "out/.musdb_4stems.json").mkdir(parents=True)  # in the way of the last file that is written
    with pytest.raises(DatasetError, match=r"musdb_4stems\.json: cannot be written: "):
        make_csv(root, stems=4, out=tmp_path / "out")
    assert listing(tmp_path / "out") == [".musdb_4stems.json"]


def test_150_tracks_in_under_a_second(make_root: Callable[..., Path], tmp_path: Path) -> None:
    root = make_root([f"Artist {i} - Song" for i in range(100)], [f"Test {i} - Song" for i in range(50)])
    make_csv(root, stems=2, out=tmp_path / "warm", limit=1)
    start = time.process_time()
    result: CsvResult = make_csv(root, stems=4, out=tmp_path / "out")
    assert time.process_time() - start < 1.0
    assert result.rows == {"train": 90, "validation": 10, "test": 50}


# The readers


def test_csv_that_lacks_a_target(root: Path, tmp_path: Path) -> None:
    make_csv(root, stems=2, out=tmp_path)
    make_csv(root, stems=4, out=tmp_path)
    config = read_config(tmp_path / "musdb_4stems.json")
    with pytest.raises(DatasetError, match=r"2stems_train\.csv, line 1, drums_path: no such column"):
        read_csv(tmp_path / "musdb_2stems_train.csv", config)


# The linter

GOOD = "a/mixture.wav,a/vocals.wav,a/accompaniment.wav,13.000000\n"
OTHER = "b/mixture.wav,b/vocals.wav,b/accompaniment.wav,13.500000\n"
HEADER = "mix_path,vocals_path,accompaniment_path,duration\n"


@pytest.fixture
def lint_root(tmp_path: Path) -> Path:
    """Two sound tracks, and one of each kind that is not."""
    root = tmp_path / "lint"
    write_track(root / "a", nb_samples=13 * RATE)
    write_track(root / "b", nb_samples=13 * RATE + RATE // 2)
    write_track(root / "short", nb_samples=LEAST - 1)
    write_track(root / "mono", nb_samples=13 * RATE, channels=1)
    write_wav(root / "mixed/longer.wav", nb_samples=14 * RATE)
    write_wav(root / "mixed/rate.wav", nb_samples=13 * RATE, rate=48000)
    write_wav(root / "mixed/mono.wav", nb_samples=13 * RATE, channels=1)
    (root / "mixed/broken.wav").write_bytes(b"RIFF")
    write_track(root / "1", nb_samples=13 * RATE)
    for name in ("1001", "1002"):
        shutil.copy(root / "a/mixture.wav", root / name)
    return root


def row(mix: str, rest: str = "a/vocals.wav,a/accompaniment.wav,13.000000") -> str:
    return f"{mix},{rest}\n"


@pytest.mark.parametrize(
    ("content", "line", "column", "problem"),
    [
        (HEADER + GOOD + OTHER + GOOD.replace("a/mix", "b\xe9/mix"), 4, "", "not UTF-8"),
        ("", 1, "", "the file is empty"),
        ("\n\n", 1, "", "the file is empty"),
        (GOOD + OTHER, 1, "", "no header"),
        ((HEADER + GOOD).replace(",", ";"), 1, "", "no header (separated by semicolons or tabs?)"),
        ((HEADER + GOOD).replace(",", "\t"), 1, "", "no header (separated by semicolons or tabs?)"),
        (HEADER, 1, "", "no rows"),
        ((HEADER + GOOD).replace("mix_path", "mixture_path"), 1, "mix_path", "no such column"),
        ("mix_path,vocals_path,accompaniment_path\n" + GOOD.replace(",13.000000", ""), 1, "duration", "no such column"),
        ("mix_path,duration\na/mixture.wav,13.000000\n", 1, "", "no instrument: Spleeter's masks need two"),
        ("mix_path,vocals_path,duration\na/mixture.wav,a/vocals.wav,13.5\n", 1, "", "vocals_path alone: Spleeter's"),
        (HEADER + GOOD.replace("a/vocals", "a/./mixture"), 2, "vocals_path", "a/./mixture.wav: the file of mix_path"),
        (HEADER + GOOD.replace("accompaniment", "vocals"), 2, "accompaniment_path", "the file of voc"),
        ("note," + HEADER + ",b" + GOOD[1:] + "x," + GOOD, 2, "note", "an empty cell among texts"),
        (
            HEADER + OTHER + "a/mixture.wav,a/vocals.wav\n",
            3,
            "",
            "2 fields, expected 4: pandas fills the rest with NaN",
        ),
        (HEADER + OTHER + '""\n', 3, "", "1 field, expected 4"),
        ((HEADER + GOOD).replace("mix_path,", "mix_path, "), 1, "vocals_path", "spaces around the name"),
        ((HEADER + GOOD).replace("vocals_path", "accompaniment_path"), 1, "accompaniment_path", "there twice"),
        (HEADER + GOOD + "b, c" + OTHER[1:], 3, "", "5 fields, expected 4"),
        (HEADER + row("a/mix.wav") + OTHER + "b/mixture.wav,13.5\n", 4, "", "2 fields, expected 4"),
        (
            HEADER + GOOD + '"b/mixture.wav,b/vocals.wav,b/accompaniment.wav,13.5\n',
            3,
            "",
            "a double quote that is not closed",
        ),
        (HEADER + '"b/mixture.wav,b/vocals.wav,13.5\n' + GOOD, 2, "", "a double quote that is not closed"),
        (HEADER + GOOD.replace("13.000000", "13"), 1, "duration", "whole numbers only"),
        (HEADER + GOOD.replace("13.000000", "13s"), 2, "duration", "13s: no number above 0"),
        (HEADER + GOOD.replace("13.000000", '"13,0"'), 2, "duration", "13,0: no number above 0"),
        (HEADER + GOOD.replace("13.000000", "nan"), 2, "duration", "nan, which pandas reads as NaN"),
        (HEADER + GOOD.replace("13.000000", "0.000000"), 2, "duration", "0.000000: no number above 0"),
        (HEADER + GOOD.replace("13.000000", "-13.000000"), 2, "duration", "-13.000000: no number above 0"),
        (HEADER + GOOD.replace("13.000000", "13.002"), 2, "duration", "13.002 s, but mix_path has 13.000000 s"),
        (HEADER + GOOD.replace("13.000000", ""), 2, "duration", "an empty cell"),
        (HEADER + OTHER + GOOD.replace("a/vocals.wav", ""), 3, "vocals_path", "an empty cell"),
        (HEADER + OTHER + row("/data/a/mixture.wav"), 3, "mix_path", "an absolute path"),
        (HEADER + OTHER + row(r"C:\data\a\mixture.wav"), 3, "mix_path", "an absolute path"),
        (HEADER + OTHER + row(r"a\mixture.wav"), 3, "mix_path", "backslashes"),
        (HEADER + OTHER + row("b/../../lint/a/mixture.wav"), 3, "mix_path", "leads out of the data folder"),
        (HEADER + OTHER + row("a/mix.wav"), 3, "mix_path", "a/mix.wav: no such file"),
        (HEADER + OTHER + row("a" * 300), 3, "mix_path", "aaa: no such file"),
        (HEADER + "\nx/m.wav,x/v.wav,x/a.wav,13.5\n", 1, "", "none of the files (3) is in "),
        (
            HEADER + OTHER + GOOD.replace("a/vocals", "mixed/longer"),
            3,
            "vocals_path",
            "617400 samples, expected 573300 as in mix_path",
        ),
        (HEADER + OTHER + GOOD.replace("a/vocals", "mixed/rate"), 3, "vocals_path", "48000 Hz, expected 44100"),
        (HEADER + OTHER + GOOD.replace("a/vocals", "mixed/mono"), 3, "vocals_path", "1 channel, expected 2"),
        (HEADER + OTHER + GOOD.replace("a/vocals", "mixed/broken"), 3, "vocals_path", "no readable wav"),
        (HEADER + GOOD.replace("a/", "mono/"), 2, "mix_path", "1 channel, expected 2"),
        (
            HEADER + GOOD.replace("a/", "short/").replace("13.0", "11.958254"),
            2,
            "",
            "527359 samples (11.958 s): Spleeter drops",
        ),
        (HEADER + row("1001") + row("1002"), 1, "mix_path", "numbers only"),
    ],
)
def test_linter_finds(tmp_path: Path, lint_root: Path, content: str, line: int, column: str, problem: str) -> None:
    path = tmp_path / "theirs.csv"
    path.write_bytes(content.encode("latin-1"))
    findings = check_csv(path, lint_root).findings
    matching = [f for f in findings if (f.line, f.column) == (line, column) and problem in f.problem]
    assert len(matching) == 1, findings
    assert matching[0].advice
    assert [finding.line for finding in findings] == sorted(finding.line for finding in findings)


@pytest.mark.parametrize("content", [HEADER + '"a/mixture.wav,a/v\n', '"' + HEADER + GOOD, HEADER + GOOD + 'b,"c\n'])
def test_linter_finds_one_fault_where_a_quote_is_open(tmp_path: Path, lint_root: Path, content: str) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text(content)
    (finding,) = check_csv(path, lint_root).findings
    assert finding.line == content[: content.index('"')].count("\n") + 1
    with pytest.raises(pandas.errors.ParserError, match="EOF inside string"):
        pandas.read_csv(path)


def test_linter_looks_for_the_columns_of_a_template(tmp_path: Path, lint_root: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text(HEADER.replace("duration", "piano_path,duration") + GOOD.replace(",13", ",a/none.wav,13"))
    assert check_csv(path, lint_root, stems=2).findings == ()  # Spleeter opens the files of its instruments only
    assert [f.problem for f in check_csv(path, lint_root).findings] == [f"a/none.wav: no such file in {lint_root}"]
    found = [(f.line, f.column) for f in check_csv(path, lint_root, stems=4).findings]
    assert found == [(1, "drums_path"), (1, "bass_path"), (1, "other_path")]
    with pytest.raises(ParameterError, match="stems is 5, expected 2 or 4"):
        check_csv(path, lint_root, stems=5)
    path.write_text("mix_path,vocals_path,duration\na/mixture.wav,a/vocals.wav,13.000000\n")
    (finding,) = check_csv(path, lint_root).findings
    expected = "add accompaniment_path for 2 stems or drums_path, bass_path, other_path for 4 stems"
    assert finding.advice == expected


def test_pandas_reads_as_the_linter_says(tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text(HEADER + OTHER + " \t\n" + "a/mixture.wav,a/vocals.wav\n")
    frame = pandas.read_csv(path)
    assert len(frame) == 2
    assert np.isnan(frame["accompaniment_path"][1])
    assert np.isnan(frame["duration"][1])


@pytest.mark.parametrize(
    ("content", "nb_rows"),
    [
        (HEADER + GOOD + OTHER, 2),
        ((HEADER + GOOD + OTHER).replace("\n", "\r\n"), 2),
        (HEADER + GOOD.replace("13.000000", "13") + OTHER, 2),  # a whole number among others is read as float
        (HEADER + GOOD.replace("13.000000", "1.3e1") + OTHER.replace("13.500000", "13.5004"), 2),
        (HEADER + OTHER.replace("b/mixture.wav", '"b/mixture.wav"'), 1),
        ("id," + HEADER + "7," + GOOD, 1),
        ("\xef\xbb\xbf" + HEADER + GOOD, 1),
        (HEADER + " \t\n" + GOOD + "  \n", 1),
        (" \n" + HEADER + GOOD, 1),
        (HEADER + GOOD + "\n" + OTHER + GOOD, 3),  # more of one track on purpose
        ("note," + HEADER + "," + GOOD + "," + OTHER, 2),
        ("id," + HEADER + "," + GOOD + "7," + OTHER, 2),  # numbers and NaN are one type
        ("piano_path," + HEADER + "," + GOOD + "," + OTHER, 2),
        (HEADER.replace("\n", ",\n") + GOOD, 1),  # pandas fills the nameless column
        (HEADER + GOOD.replace("a/mixture", "b/../a/mixture"), 1),
    ],
)
def test_linter_is_silent_on_sound_files(tmp_path: Path, lint_root: Path, content: str, nb_rows: int) -> None:
    path = tmp_path / "theirs.csv"
    path.write_bytes(content.encode("latin-1"))
    check = check_csv(path, lint_root)
    assert check.findings == ()
    assert check.nb_rows == nb_rows == len(pandas.read_csv(path))


def test_linter_says_which_root_it_took(tmp_path: Path, lint_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (lint_root / "here.csv").write_text(HEADER + GOOD)
    assert check_csv(lint_root / "here.csv").root == lint_root
    path = tmp_path / "elsewhere" / "there.csv"
    path.parent.mkdir()
    path.write_text(HEADER + GOOD + OTHER)
    check = check_csv(path)
    assert (check.root, check.nb_rows) == (path.parent, 2)
    assert check.findings[0].problem == f"none of the files (6) is in {path.parent}"
    monkeypatch.setenv("MUSDB_PATH", str(lint_root))
    check = check_csv(path)
    assert (check.root, check.findings) == (lint_root, ())
    assert check_csv(path, path.parent).root == path.parent


def test_linter_without_a_file_or_root(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.csv: cannot be read"):
        check_csv(tmp_path / "absent" / "none.csv")
    (tmp_path / "some.csv").write_text(HEADER + GOOD)
    with pytest.raises(DatasetError, match="no such folder"):
        check_csv(tmp_path / "some.csv", tmp_path / "absent")
