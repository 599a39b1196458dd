"""What each dtype of the spectrogram cache costs, in dB, on the real excerpt of the stempeg package.

The excerpt is decoded through 16 bit and cached as `musdbkit cache --preset spleeter` does. Three figures for each
dtype, with the least favourable signal of five, or target of four:

- spectral SNR: energy of the exact magnitudes over that of the error of those read from the cache, in the bins kept.
- estimate SNR: an oracle's estimate of each target (its share of the targets' squared magnitudes as a mask on the
  mixture's exact spectrogram, zero above the bins kept, as Spleeter masks) from cached magnitudes, against the same
  from exact ones, as waves.
- SDR lost: of that estimate against the true stem, over the whole excerpt; negative where it gains.

    python benchmarks/cache_error.py
"""

import tempfile
from pathlib import Path

import numpy as np
import soundfile

from musdbkit import audio, cache_request, caching
from musdbkit.cache import DTYPES, open_cache
from musdbkit.demo import find_excerpt
from musdbkit.metrics import usdr
from musdbkit.musdb18 import STEMS, STREAMS
from musdbkit.stft import PRESETS, istft, stft

PARAMS = PRESETS["spleeter"]
NB_BINS = 1024


def snr(exact: np.ndarray, found: np.ndarray) -> float:
    """Return the energy of a signal over that of an error, in dB."""
    return float(10 * np.log10(np.sum(exact**2) / np.sum((exact - found) ** 2)))


def estimate(magnitudes: dict[str, np.ndarray], mixture: np.ndarray) -> dict[str, np.ndarray]:
    """Return the estimates of an oracle, without the two ends, which no frame determines."""
    powers = {stem: magnitudes[stem].astype(np.float64) ** 2 for stem in STEMS}
    whole = sum(powers.values()) + 1e-10
    spectrogram = stft(mixture, PARAMS)
    start, stop = PARAMS.n_fft, (len(spectrogram) - 1) * PARAMS.hop_length
    estimates = {}
    for stem, power in powers.items():
        masked = np.zeros_like(spectrogram)
        masked[:, :NB_BINS] = spectrogram[:, :NB_BINS] * ((power + 1e-10 / len(STEMS)) / whole)
        estimates[stem] = istft(masked, PARAMS, start=start, nb_samples=stop - start)
    return estimates


def measure() -> dict[str, tuple[float, float, float]]:
    """Return spectral SNR, estimate SNR and SDR lost of each dtype, in dB."""
    blocks = list(audio.decode_stems(find_excerpt(), dtype=np.int16))
    integers = {stem: np.concatenate([block[i] for block in blocks]) for i, stem in enumerate(STREAMS)}
    waves = {stem: samples * 2.0**-15 for stem, samples in integers.items()}
    exact = {stem: np.abs(stft(wave, PARAMS))[:, :NB_BINS] for stem, wave in waves.items()}
    best = estimate(exact, waves["mixture"])
    inside = slice(PARAMS.n_fft, PARAMS.n_fft + len(best["vocals"]))
    costs = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "musdb" / "train" / "excerpt").mkdir(parents=True)
        for stem, samples in integers.items():
            soundfile.write(folder / "musdb" / "train" / "excerpt" / f"{stem}.wav", samples, 44100)
        for dtype in DTYPES:
            request = cache_request.find_request(folder / "musdb", "spleeter", dtype=dtype)
            caching.build(request, folder / dtype)
            cache = open_cache(folder / dtype)
            cached = cache.segment("excerpt", 0, cache.nb_frames("excerpt"))
            estimates = estimate(cached, waves["mixture"])
            costs[dtype] = (
                min(snr(exact[stem], cached[stem].astype(np.float64)) for stem in STREAMS),
                min(snr(best[stem], estimates[stem]) for stem in STEMS),
                max(usdr(waves[s][inside], best[s]) - usdr(waves[s][inside], estimates[s]) for s in STEMS),
            )
    return costs


def main() -> None:
    """Print the figures."""
    print("| dtype | spectral SNR | estimate SNR | SDR lost |\n|---|---|---|---|")
    for dtype, (spectral, masked, lost) in measure().items():
        print(f"| {dtype} | {spectral:.1f} dB | {masked:.1f} dB | {lost:.4f} dB |")


if __name__ == "__main__":
    main()
