"""Decoding and converting against programs that no one here wrote: ffmpeg, musdb and stempeg."""

import re
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from musdbkit import audio, musdb18
from musdbkit.convert import DEFAULT_TARGETS, convert
from musdbkit.synth import synth
from musdbkit.tracks import Parallel
from tests.conftest import require_ffmpeg


@pytest.fixture(scope="module")
def roots(excerpt: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Stem files, the real excerpt and a synthetic one whose sums stay in range; and what convert makes of them."""
    require_ffmpeg()
    root = tmp_path_factory.mktemp("parity")
    synth(root / "stems", train=1, valid=0, test=0, seconds=5.3, parallel=Parallel(1))
    (root / "stems" / "test").mkdir()
    shutil.copy(excerpt, root / "stems" / "test")
    assert not convert(root / "stems", root / "wav", parallel=Parallel(1)).failed
    return root / "stems", root / "wav"


def ffmpeg_version() -> int:
    """Return the major version of the ffmpeg program."""
    out = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True).stdout
    return int(re.search(r"version \D*(\d+)", out)[1])  # type: ignore[index]


def test_decoded_streams_are_ffmpegs(roots: tuple[Path, Path], tmp_path: Path) -> None:
    for path in roots[0].rglob("*.stem.mp4"):
        streams = [np.concatenate(blocks) for blocks in zip(*audio.decode_stems(path), strict=True)]
        for i, stream in enumerate(streams):
            out = tmp_path / "ffmpeg.wav"
            command = ["ffmpeg", "-v", "error", "-y", "-i", path, "-map", f"0:a:{i}", "-c:a", "pcm_s16le", out]
            subprocess.run(command, check=True)
            expected, rate = soundfile.read(out, dtype="int16")
            assert rate == 44100
            if ffmpeg_version() < 9:  # from 9 on ffmpeg cuts the padding in the last AAC frame
                assert expected.shape == stream.shape
            assert 0 <= len(stream) - len(expected) < 1024
            difference = np.abs(audio.quantise(stream, "PCM_16").astype(int)[: len(expected)] - expected)
            assert difference.max() <= 1
            assert np.mean(difference > 0) < 1e-3  # decoder versions differ in a few samples of ten thousand


def test_accompaniment_is_the_integer_sum_of_the_stems(roots: tuple[Path, Path]) -> None:
    folders = [path for subset in musdb18.SUBSETS for path in (roots[1] / subset).iterdir()]
    subtypes = set()
    for folder in folders:
        written = {target: soundfile.read(folder / f"{target}.wav")[0] for target in DEFAULT_TARGETS}
        total = sum(np.rint(written[stem] * 32768) for stem in musdb18.TARGETS["accompaniment"])
        np.testing.assert_array_equal(written["accompaniment"] * 32768, total)
        subtypes.add(audio.info(folder / "accompaniment.wav").subtype)
    assert subtypes == {"PCM_16", "FLOAT"}  # the synthetic sum fits, the excerpt's does not


def test_targets_are_musdbs(roots: tuple[Path, Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import musdb

        tracks = [track for subset in musdb18.SUBSETS for track in musdb.DB(str(roots[0]), subsets=subset)]
        assert len(tracks) == 2
        for track in tracks:
            for target in DEFAULT_TARGETS:
                expected = track.audio if target == "mixture" else track.targets[target].audio
                ours = audio.read(roots[1] / track.subset / track.name / f"{target}.wav")
                assert ours.shape == expected.shape
                assert np.abs(ours - expected).max() * 32768 <= 3.001


def test_musdb_reads_what_convert_writes(roots: tuple[Path, Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import musdb

        (track,) = musdb.DB(str(roots[1]), subsets="test", is_wav=True)
        np.testing.assert_array_equal(track.audio, audio.read(roots[1] / "test" / track.name / "mixture.wav"))
        assert set(track.sources) == set(musdb18.STEMS)


def test_stempeg_decodes_the_same(excerpt: Path) -> None:
    require_ffmpeg()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import stempeg

        expected, rate = stempeg.read_stems(str(excerpt))
    streams = np.stack([np.concatenate(blocks) for blocks in zip(*audio.decode_stems(excerpt), strict=True)])
    assert rate == 44100
    assert np.abs(streams - expected).max() < 1e-5  # both keep float, beyond full scale, too
