"""Print the level of each stem of a stem file, decoded block by block in constant memory.

python examples/loudness_of_stems.py FILE.stem.mp4
"""

import sys
from pathlib import Path

import numpy as np

from musdbkit.audio import decode_stems
from musdbkit.musdb18 import STREAMS

energies = np.zeros(len(STREAMS))
nb_values = 0
for block in decode_stems(Path(sys.argv[1])):
    energies += [np.sum(stream.astype(np.float64) ** 2) for stream in block]
    nb_values += block[0].size
for stream, energy in zip(STREAMS, energies, strict=True):
    print(f"{stream:8} {10 * np.log10(energy / nb_values + 1e-12):6.1f} dBFS")
