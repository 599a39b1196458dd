"""`musdbkit cache` against Spleeter's own pipeline, the bare work, and plain copies.

The tracks are the real excerpt of the stempeg package, decoded through 16 bit and repeated to 240 s. Spleeter (2.4.2,
in a Python of its own: tests/parity/setup_spleeter.sh) runs its DatasetBuilder over the CSV that `make-csv` wrote, with
its cache on: its time is that of the pipeline alone, without imports; ours is the whole command's. Both are told per
second of audio transformed: Spleeter's chunks of 20 s overlap or leave gaps, ours is each track once. The bare work is
the plainest loop that reads, transforms and writes the same bytes, in one process.

    python benchmarks/cache.py [--spleeter PYTHON] [--runs 3] [--tracks 4]
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.fft
import soundfile

from musdbkit import audio, cache_request, caching
from musdbkit.cache import Cache, open_cache
from musdbkit.demo import find_excerpt
from musdbkit.musdb18 import STREAMS
from musdbkit.spleeter_files import make_csv
from musdbkit.tracks import Parallel

RATE = 44100
SECONDS = 240
NB_FRAMES = 512

PEER = """
import json, sys, time
from spleeter.audio.ffmpeg import FFMPEGProcessAudioAdapter
from spleeter.dataset import DatasetBuilder
from spleeter.utils.configuration import load_configuration
params = load_configuration(sys.argv[1])
builder = DatasetBuilder(params, FFMPEGProcessAudioAdapter(), sys.argv[2], chunk_duration=20.0)
examples = builder.build(
    params["train_csv"], 1, shuffle=False, infinite_generator=False, cache_directory="peer/train", n_chunks_per_song=4
)
start = time.perf_counter()
nb_chunks = sum(1 for _ in examples)
print(json.dumps([nb_chunks, time.perf_counter() - start]))
"""


def write_tracks(root: Path, nb_tracks: int, seconds: int) -> None:
    """Write tracks that repeat the excerpt, the first as a validation track."""
    blocks = list(audio.decode_stems(find_excerpt(), dtype=np.int16))
    for k in range(nb_tracks + 1):
        folder = root / "train" / f"Track {k}"
        folder.mkdir(parents=True)
        for i, stem in enumerate(STREAMS):
            samples = np.roll(np.concatenate([block[i] for block in blocks]), 5000 * k, axis=0)
            nb_samples = seconds * RATE if k else 13 * RATE
            repeated = np.tile(samples, (-(-nb_samples // len(samples)), 1))[:nb_samples]
            soundfile.write(folder / f"{stem}.wav", repeated, RATE)


def seconds_of(run: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def run_ours(jobs: int, dtype: str) -> float:
    """Return how long the command takes for an empty cache."""
    shutil.rmtree("cache", ignore_errors=True)
    command = [sys.executable, "-m", "musdbkit", "cache", "musdb_4stems.json", "--musdb", "musdb", "--dtype", dtype]
    return seconds_of(lambda: subprocess.run([*command, "--jobs", str(jobs)], check=True, capture_output=True))


def run_peer(python: str) -> float:
    """Return how long Spleeter takes for a second of 5 signals."""
    shutil.rmtree("peer", ignore_errors=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [python, "-c", PEER, "musdb_4stems.json", "musdb"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    nb_chunks, seconds = json.loads(done.stdout.splitlines()[-1])
    return float(seconds) / (20.0 * nb_chunks)


def run_bare(paths: list[Path]) -> dict[str, float]:
    """Return how long the bare work takes, by step."""
    steps = dict.fromkeys(("read", "window", "rfft", "abs", "float16", "write"), 0.0)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(4096) / 4096)).astype(np.float32).repeat(2)
    np.empty(2**24, np.uint8)  # keeps the heap, as in caching

    def step(name: str, run: Callable[[], np.ndarray]) -> np.ndarray:
        start = time.perf_counter()
        result = run()
        steps[name] += time.perf_counter() - start
        return result

    for path in paths:
        integers = step("read", lambda path=path: soundfile.read(path, dtype="int16")[0])
        samples = step("read", lambda integers=integers: integers * np.float32(2.0**-15)).reshape(-1)
        frames = np.lib.stride_tricks.sliding_window_view(samples, 8192)[::2048]
        with open("bare.npy", "wb") as file:
            for k in range(0, len(frames), 16):
                windowed = step("window", lambda k=k, frames=frames: frames[k : k + 16] * window).reshape(-1, 4096, 2)
                spectra = step("rfft", lambda windowed=windowed: scipy.fft.rfft(windowed, axis=1, overwrite_x=True))
                magnitudes = step("abs", lambda spectra=spectra: np.abs(spectra[:, :1024]))
                halves = step("float16", lambda magnitudes=magnitudes: magnitudes.astype(np.float16))
                step("write", lambda halves=halves, file=file: file.write(halves.data))
    return steps


def compare_reads(cache: Cache, runs: int) -> None:
    """Print how fast random segments are read, against plain copies of as many bytes."""
    rng = np.random.default_rng(0)
    names = cache.in_split("train")
    places = [(name, int(rng.integers(cache.nb_frames(name) - NB_FRAMES))) for name in rng.choice(names, 100)]
    buffers = [np.ones((NB_FRAMES, 1024, 2), np.float16) for _ in cache.signals]
    flat = [buffer.reshape(-1).view(np.uint8) for buffer in buffers]
    copies = [buffer.copy() for buffer in buffers]
    files = {
        name: [os.open(cache.path / "train" / name / f"{signal}.npy", os.O_RDONLY) for signal in cache.signals]
        for name in names
    }

    def from_page_cache() -> None:
        for name, start in places:
            for file, buffer in zip(files[name], flat, strict=True):
                os.preadv(file, [buffer], 128 + start * 4096)

    def from_memory() -> None:
        for _ in places:
            for copy, buffer in zip(copies, buffers, strict=True):
                np.copyto(buffer, copy)

    def segments(reader: Cache) -> None:
        for name, start in places:
            for array, buffer in zip(reader.segment(name, start, NB_FRAMES).values(), buffers, strict=True):
                np.copyto(buffer, array)

    def batches(reuse: bool) -> None:
        source = cache.batches(NB_FRAMES, 4, seed=0, nb_chunks=4, reuse=reuse)
        for _ in range(len(places) // 4):
            next(source)

    from_page_cache()
    gigabytes = len(places) * sum(buffer.nbytes for buffer in buffers) / 1e9
    calls: dict[str, Callable[[], None]] = {
        "plain copy from the page cache (preadv)": from_page_cache,
        "plain copy in memory": from_memory,
        "segment, copied; files mapped for the first time": lambda: segments(open_cache(cache.path)),
        "segment, copied; files mapped before": lambda: segments(cache),
        "batches of 4, in new arrays": lambda: batches(False),
        "batches of 4, reuse=True": lambda: batches(True),
    }
    times: dict[str, list[float]] = {label: [] for label in calls}
    for _ in range(runs):
        for label, call in calls.items():
            times[label].append(seconds_of(call))
    print("\n| 5 signals, T = 512, float16 | segments/s | GB/s | of a plain copy |\n|---|---|---|---|")
    for label, measured in times.items():
        ratio = statistics.median(a / b for a, b in zip(next(iter(times.values())), measured, strict=True))
        seconds = statistics.median(measured)
        print(f"| {label} | {len(places) / seconds:.0f} | {gigabytes / seconds:.2f} | {ratio:.2f} |")


def peak_memory() -> float:
    """Return the largest memory of a process that builds a cache of one 10-minute track, in MB."""
    write_tracks(Path("long"), 1, 600)
    request = "cache_request.find_request(pathlib.Path('long'), 'spleeter')"
    parallel = "tracks.Parallel(1)"
    code = "import pathlib\nfrom musdbkit import cache_request, caching, tracks\n"
    code += f"caching.build({request}, pathlib.Path('long-cache'), parallel={parallel})\n"
    code += "print(pathlib.Path('/proc/self/status').read_text())"
    status = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spleeter", default=os.environ.get("MUSDBKIT_SPLEETER_PYTHON"), metavar="PYTHON")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tracks", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
        os.chdir(folder)
        memory = peak_memory()
        write_tracks(Path("musdb"), options.tracks, SECONDS)
        make_csv(Path("musdb"), stems=4, validation='"Track 0"')
        nb_seconds = options.tracks * SECONDS + 13
        cores = os.cpu_count() or 1
        print(f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, numpy {np.__version__}")
        print(f"{options.tracks} tracks of {SECONDS} s, 5 signals; peak memory with 600 s: {memory:.0f} MB\n")
        ours: dict[tuple[int, str], list[float]] = {}
        peer: list[float] = []
        for _ in range(options.runs):
            for jobs, dtype in ((cores, "float16"), (1, "float16"), (cores, "float32"), (cores, "uint8")):
                ours.setdefault((jobs, dtype), []).append(run_ours(jobs, dtype) / nb_seconds)
            if options.spleeter:
                peer.append(run_peer(options.spleeter))
        print("| per second of 5 signals | ms | Spleeter / this |\n|---|---|---|")
        if peer:
            print(f"| Spleeter 2.4.2 | {1000 * statistics.median(peer):.1f} | 1.0 |")
        for (jobs, dtype), times in ours.items():
            ratio = f"{statistics.median(a / b for a, b in zip(peer, times, strict=True)):.1f}" if peer else ""
            print(f"| musdbkit cache, {dtype}, --jobs {jobs} | {1000 * statistics.median(times):.2f} | {ratio} |")

        request = cache_request.read_request(Path("musdb_4stems.json"), Path("musdb"))
        paths = [path for track in request.tracks for path in track.files.values()]
        built, bare = [], []
        for _ in range(options.runs):
            shutil.rmtree("cache", ignore_errors=True)
            built.append(seconds_of(lambda: caching.build(request, Path("cache"), parallel=Parallel(1, "sequential"))))
            bare.append(run_bare(paths))
        totals = [sum(steps.values()) for steps in bare]
        ratio = statistics.median(a / b for a, b in zip(built, totals, strict=True))
        print(f"\none process, without start-up: {1000 * statistics.median(built) / nb_seconds:.2f} ms; the bare work:")
        print(f"{1000 * statistics.median(totals) / nb_seconds:.2f} ms; ratio {ratio:.2f}; its steps in ms:")
        print(", ".join(f"{s} {1000 * statistics.median(b[s] for b in bare) / nb_seconds:.2f}" for s in bare[0]))
        compare_reads(open_cache("cache"), options.runs)


if __name__ == "__main__":
    main()
