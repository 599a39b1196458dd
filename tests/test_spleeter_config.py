"""Spleeter's configuration in our words."""

import json
from pathlib import Path

import pytest

from musdbkit.errors import DatasetError, ParameterError
from musdbkit.spleeter_config import read_config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"T": None}, "T is null, expected a whole number above 0"),
        ({"T": 512.0}, "T is 512.0"),
        ({"T": True}, "T is true"),
        ({"T": 0}, "T is 0"),
        ({"F": 2050}, r"F is 2050, expected at most frame_length / 2 \+ 1"),
        ({"T": 860}, "T is 860, but chunk_duration"),
        ({"learning_rate": float("nan")}, "learning_rate is NaN, expected a number above 0"),
        ({"chunk_duration": "20"}, 'chunk_duration is "20"'),
        ({"instrument_list": []}, r"instrument_list is \[\], expected a list of names"),
        ({"instrument_list": "vocals"}, "instrument_list is"),
        ({"mask_extension": "ones"}, 'mask_extension is "ones", expected zeros or average'),
        ({"model": {"type": "unet.unet"}}, "model is"),
        ({"train_csv": ""}, "train_csv is"),
        ({"MWF": 0}, "MWF is 0"),
    ],
)
def test_config_values_that_cannot_be_used(tmp_path: Path, change: dict[str, object], message: str) -> None:
    template = Path(__file__).parent.parent / "templates" / "spleeter_2stems.json"
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(template.read_text()) | change))
    with pytest.raises(ParameterError, match=rf"config\.json: {message}"):
        read_config(path)


def test_config_of_spleeters_own(tmp_path: Path) -> None:
    """Keys that Spleeter lets be missing take its defaults; keys that are not ours are kept."""
    template = Path(__file__).parent.parent / "templates" / "spleeter_4stems.json"
    settings = json.loads(template.read_text())
    for key in ("n_chunks_per_song", "chunk_duration", "MWF", "training_cache", "batch_size"):
        del settings[key]
    settings |= {"optimizer": "SGD", "dropout": 0, "validation_cache": "validation_cache"}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings))
    config = read_config(path)
    assert (config.nb_chunks, config.chunk_seconds, config.wiener, config.batch_size) == (2, 20.0, False, 8)
    assert config.training_cache is None
    assert (config.optimiser, config.loss) == ("SGD", "L1_mask")
    assert config.other == {"dropout": 0}
    assert (config.n_fft, config.hop_length, config.nb_frames, config.nb_bins) == (4096, 1024, 512, 1024)
    assert config.least_samples == 4096 + 511 * 1024
    del settings["F"]
    path.write_text(json.dumps(settings))
    with pytest.raises(ParameterError, match="no F, which Spleeter needs"):
        read_config(path)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [(None, DatasetError, "cannot be read"), ("{", DatasetError, "not JSON"), ("[]", ParameterError, "a list")],
)
def test_config_files_that_cannot_be_read(
    tmp_path: Path, content: str | None, error: type[Exception], message: str
) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match=message):
        read_config(path)
