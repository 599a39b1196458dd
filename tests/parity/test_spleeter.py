"""Spleeter 2.4.2 itself reads what `make_csv` writes; set up with setup_spleeter.sh."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from musdbkit import musdb18
from musdbkit.spleeter_config import read_config
from musdbkit.spleeter_files import check_csv, make_csv
from tests.parity.peer import PYTHON, run_spleeter

pytestmark = pytest.mark.spleeter

if not PYTHON:
    pytest.skip("MUSDBKIT_SPLEETER_PYTHON names no Python with Spleeter", allow_module_level=True)

RATE = 44100
LEAST = 4096 + 511 * 1024

TRAIN = {
    "M.E.R.C. Music - Knockout": 13.0,
    'Jokers, Jacks & Kings - "Sea" Of Leaves': 24.3,
}
VALIDATION = {
    "ANiMAL - Rockshow": 20.0,
    "Actions - One Minute Smile": 12.5,
    "Johnny Lokke - Promises & Lies": 14.123,
    "Meaxic - Take A Step": 25.0,
    "Triviul - Angelsaint": LEAST / RATE,
}

PRELUDE = """
import json, sys
import numpy as np
import tensorflow as tf
from spleeter.audio.ffmpeg import FFMPEGProcessAudioAdapter
from spleeter.dataset import DatasetBuilder, get_training_dataset, get_validation_dataset
from spleeter.utils.configuration import load_configuration

params = load_configuration(sys.argv[1])
adapter = FFMPEGProcessAudioAdapter()

def shapes(batch):
    for group in batch:
        for name, value in group.items():
            assert np.isfinite(value.numpy()).all(), name
    return [{name: list(value.shape) for name, value in group.items()} for group in batch]
"""

BATCHES = """
train = next(iter(get_training_dataset(params, adapter, sys.argv[2])))
validation = get_validation_dataset(params, adapter, sys.argv[2])
levels = [float(value) for x, _ in validation for value in tf.reduce_mean(x["mix_spectrogram"], axis=(1, 2, 3))]
print(json.dumps({
    "train": shapes(train),
    "validation": [shapes(batch) for batch in validation],
    "levels": levels,
}))
"""

COUNTS = """
counts = {}
for csv in sys.argv[3:]:
    for split, seconds, nb_chunks in (("train", 20.0, 4), ("validation", 12.0, 1)):  # 4 begin and end as 40 do
        builder = DatasetBuilder(params, adapter, sys.argv[2], chunk_duration=seconds)
        examples = builder.build(csv, 1, shuffle=False, infinite_generator=False, n_chunks_per_song=nb_chunks)
        counts[csv + " " + split] = sum(1 for _ in examples)
print(json.dumps(counts))
"""


def ask(script: str, *arguments: str, cwd: Path) -> object:
    """Return what a script prints as JSON on its last line."""
    return json.loads(run_spleeter(PRELUDE + script, *arguments, cwd=cwd).splitlines()[-1])


def write_track(folder: Path, nb_samples: int, gain: float, rng: np.random.Generator) -> None:
    """Write noise stems and their sum."""
    folder.mkdir(parents=True)
    stems = {stem: rng.integers(-4000, 4000, (nb_samples, 2)) * gain for stem in musdb18.STEMS}
    for stem, samples in stems.items():
        soundfile.write(folder / f"{stem}.wav", samples.astype(np.int16), RATE)
    soundfile.write(folder / "mixture.wav", sum(s.astype(np.int16) for s in stems.values()), RATE)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "mus db"
    rng = np.random.default_rng(0)
    for i, (name, seconds) in enumerate((TRAIN | VALIDATION).items()):
        write_track(folder / "train" / name, round(seconds * RATE), 1.0 - 0.1 * i, rng)
    write_track(folder / "test" / "Dr. Oakum - It's Only Rain", 13 * RATE, 1.0, rng)
    return folder


@pytest.mark.parametrize("stems", [2, 4])
def test_spleeter_trains_on_our_files(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stems: int) -> None:
    monkeypatch.chdir(tmp_path)
    result = make_csv(root, stems=stems, out=Path("runs/a b"), make_accompaniment=True)
    assert result.failed == {}
    assert result.rows == {"train": len(TRAIN), "validation": len(VALIDATION), "test": 1}
    config = read_config(Path(f"runs/a b/musdb_{stems}stems.json"))

    got = ask(BATCHES, f"runs/a b/musdb_{stems}stems.json", str(root), cwd=tmp_path)

    def expected(nb_rows: int) -> list[dict[str, list[int]]]:
        shape = [nb_rows, 512, 1024, 2]
        return [{"mix_spectrogram": shape}, {f"{target}_spectrogram": shape for target in config.targets}]

    assert isinstance(got, dict)
    assert got["train"] == expected(4)
    assert got["validation"] == [expected(4), expected(1)]
    # Noise of falling gain, rows sorted by name: Spleeter has read the files that the rows name.
    gains = {name: 1.0 - 0.1 * (len(TRAIN) + i) for i, name in enumerate(VALIDATION)}
    levels = np.array(got["levels"])
    np.testing.assert_allclose(levels / levels[0], [gains[n] / gains["ANiMAL - Rockshow"] for n in sorted(gains)], 0.03)
    for split in ("train", "validation", "test"):
        assert check_csv(Path(f"runs/a b/musdb_{stems}stems_{split}.csv"), root, stems).findings == ()


def test_the_least_length_is_spleeters(tmp_path: Path) -> None:
    root = tmp_path / "data"
    lengths = {"short": LEAST - 1, "least": LEAST, "11.5 s": round(11.5 * RATE), "12.5 s": round(12.5 * RATE)}
    for name, nb_samples in lengths.items():
        folder = root / "train" / name
        write_track(folder, nb_samples, 1.0, np.random.default_rng(0))
        (folder / "bass.wav").rename(folder / "accompaniment.wav")
        files = [f"train/{name}/{signal}.wav" for signal in ("mixture", "vocals", "accompaniment")]
        (tmp_path / f"{name}.csv").write_text(
            f"mix_path,vocals_path,accompaniment_path,duration\n{','.join(files)},{nb_samples / RATE:.6f}\n"
        )
    result = make_csv(root, stems=2, out=tmp_path, validation="1")
    left_out = {key.removeprefix("train/") for key in result.left_out}

    header, row = (tmp_path / "12.5 s.csv").read_text().splitlines()
    odd = tmp_path / "odd.csv"
    odd.write_text(f"{header},note,id\n \t\n{row},,\n{row},,7\n", encoding="utf-8-sig")
    assert check_csv(odd, root).findings == ()

    csvs = [*(f"{name}.csv" for name in lengths), "odd.csv"]
    got = ask(COUNTS, "musdb_2stems.json", "data", *csvs, cwd=tmp_path)

    assert isinstance(got, dict)
    assert left_out == {"short", "11.5 s"}
    for split in ("train", "validation"):
        assert got[f"odd.csv {split}"] == 2 * got[f"12.5 s.csv {split}"] > 0
        assert {name for name in lengths if not got[f"{name}.csv {split}"]} == left_out, got
