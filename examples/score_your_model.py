"""Score a separation function on stem files without writing a wav, and print the median SDR of each target.

python examples/score_your_model.py FILE.stem.mp4 [FILE.stem.mp4 ...]
"""

import sys
from pathlib import Path

import numpy as np

from musdbkit.audio import decode_stems
from musdbkit.metrics import framewise_sdr
from musdbkit.musdb18 import STEMS, STREAMS


def separate(mixture: np.ndarray) -> dict[str, np.ndarray]:
    """Return an estimate of each stem [shape=(nb_samples, nb_channels)]: put your model here."""
    return {stem: mixture / len(STEMS) for stem in STEMS}


medians: dict[str, list[float]] = {stem: [] for stem in STEMS}
for path in map(Path, sys.argv[1:]):
    blocks = list(decode_stems(path, dtype=np.int16))  # through 16 bit, as musdb decodes
    streams = {stem: np.concatenate([block[i] for block in blocks]) / 32768 for i, stem in enumerate(STREAMS)}
    estimates = separate(streams["mixture"])
    sdr = framewise_sdr([streams[stem] for stem in STEMS], [estimates[stem] for stem in STEMS])
    for stem, frames in zip(STEMS, sdr, strict=True):
        medians[stem].append(float(np.nanmedian(frames)))
for stem, values in medians.items():
    print(f"{stem:8} {np.median(values):6.2f} dB SDR (median of frames, median of tracks)")
