"""`bsseval.evaluate`, `metrics.framewise_sdr` and `musdbkit score` against museval.evaluate, on the same arrays.

The track is the real excerpt of the stempeg package, decoded through 16 bit and repeated; the estimates are ideal ratio
masks, some noise added. Each call runs in a process of its own: its time is that of the call alone, the median of
several; its memory is the largest that the process took above its arrays. museval runs once for each length.

    python benchmarks/score.py [--seconds 30 240] [--runs 3] [--tracks 50] [--device cuda]
"""

import argparse
import json
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import soundfile

from musdbkit import audio, bsseval, metrics, oracle, scoring
from musdbkit.demo import find_excerpt
from musdbkit.musdb18 import STEMS, STREAMS

RATE = 44100


def make_arrays(seconds: float, folder: Path, nb_sources: int = 4) -> None:
    """Write references.npy and estimates.npy of a track [shape=(nb_sources, nb_samples, 2), float64]."""
    blocks = list(audio.decode_stems(find_excerpt(), dtype=np.int16))
    streams = {stem: np.concatenate([block[i] for block in blocks]) / 32768 for i, stem in enumerate(STREAMS)}
    estimates = oracle.estimate("irm1", streams["mixture"], {stem: streams[stem] for stem in STEMS})
    nb_samples = round(seconds * RATE)
    rng = np.random.default_rng(0)

    def repeat(samples: np.ndarray, i: int) -> np.ndarray:
        rolled = np.roll(samples, 40_000 * (i // 4), axis=0)
        return np.tile(rolled, (-(-nb_samples // len(rolled)), 1))[:nb_samples]

    names = [STEMS[i % 4] for i in range(nb_sources)]
    np.save(folder / "references.npy", np.array([repeat(streams[name], i) for i, name in enumerate(names)]))
    noise = 1e-4 * rng.standard_normal((nb_samples, 2))
    np.save(folder / "estimates.npy", np.array([repeat(estimates[n], i) + noise for i, n in enumerate(names)]))


def call(what: str, folder: Path, device: str) -> None:
    """Run one call in this process and print its seconds, and its memory above the arrays in MB."""
    references, estimates = np.load(folder / "references.npy"), np.load(folder / "estimates.npy")
    if what == "museval":
        scenario = bsseval.Scenario(tuple((i,) for i in range(len(references))), tuple(range(len(references))))

        def run() -> None:
            scoring.run_museval(
                lambda part: (references[:, part], estimates[:, part]), references.shape[1], scenario, RATE, RATE
            )
    elif what == "sdr":

        def run() -> None:
            metrics.framewise_sdr(references, estimates)
    else:

        def run() -> None:
            bsseval.evaluate(references, estimates, device=device, workers=1 if what == "all, 1 thread" else None)

        if device != "cpu":
            run()  # the first call on a GPU loads its libraries
    before = resident()
    peak = [before]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    print(json.dumps([seconds, (peak[0] - before) / 1e6]))


def resident() -> int:
    """Return the memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure(what: str, folder: Path, runs: int, device: str = "cpu") -> tuple[float, float]:
    """Return the median of a call's seconds and the largest of its megabytes."""
    command = [sys.executable, __file__, "--call", what, "--folder", str(folder), "--device", device]
    results = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(runs)
    ]
    return statistics.median(seconds for seconds, _ in results), max(megabytes for _, megabytes in results)


def row(*cells: object) -> None:
    """Print a line of a table."""
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def compare(folder: Path, seconds: float, runs: int, device: str) -> float:
    """Print ours and museval's figures for one length; return museval's seconds."""
    make_arrays(seconds, folder)
    slow, memory = measure("museval", folder, 1)
    row(f"museval.evaluate, {seconds:g} s", f"{slow:.2f}", f"{memory:.0f}", "1.0")
    calls = [("all", "cpu"), ("all, 1 thread", "cpu"), ("sdr", "cpu")] + [("all", device)] * (device != "cpu")
    for what, where in calls:
        fast, memory = measure(what, folder, runs, where)
        row(f"ours, {what}, {seconds:g} s, {where}", f"{fast:.2f}", f"{memory:.0f}", f"{slow / fast:.1f}")
    return slow


def grow(folder: Path, runs: int) -> None:
    """Print how our time and memory grow with length and with the number of sources."""
    print("\n| ours, all metrics | s | MB above the arrays |\n|---|---|---|")
    for seconds in (60, 120, 240, 480):
        make_arrays(seconds, folder)
        fast, memory = measure("all", folder, runs)
        row(f"4 sources, {seconds} s", f"{fast:.2f}", f"{memory:.0f}")
    for nb_sources in (1, 2, 3, 6):
        make_arrays(120, folder, nb_sources)
        fast, memory = measure("all", folder, runs)
        row(f"{nb_sources} sources, 120 s", f"{fast:.2f}", f"{memory:.0f}")


def from_disk(folder: Path, seconds: float, nb_tracks: int, slow: float) -> None:
    """Print the time and memory of `musdbkit score` on a set of tracks, all of which are links to one track's files."""
    make_arrays(seconds, folder)
    references, estimates = np.load(folder / "references.npy"), np.load(folder / "estimates.npy")
    one, other = folder / "one", folder / "other"
    for path, sources, subtype in ((one, references, "PCM_16"), (other, estimates, "FLOAT")):
        path.mkdir()
        for name, samples in zip(STEMS, sources, strict=True):
            soundfile.write(path / f"{name}.wav", samples, RATE, subtype)
    mixture = references.sum(axis=0)
    soundfile.write(one / "mixture.wav", mixture, RATE, "PCM_16")
    for i in range(nb_tracks):
        for kind, source in (("references", one), ("estimates", other)):
            (folder / kind / "test" / f"track {i}").parent.mkdir(parents=True, exist_ok=True)
            (folder / kind / "test" / f"track {i}").symlink_to(source)
    command = [
        sys.executable,
        "-m",
        "musdbkit",
        "score",
        str(folder / "estimates"),
        "--musdb",
        str(folder / "references"),
    ]
    title = f"musdbkit score, {nb_tracks} tracks of {seconds:g} s"
    print(f"\n| {title} | s | largest process MB | museval / this |\n|---|---|---|---|")
    for options in ([], ["--metrics", "sdr"]):
        out = folder / "scores"
        shutil.rmtree(out, ignore_errors=True)
        start = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--out", str(out), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        largest = largest_of_session(process)
        took = time.perf_counter() - start
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}")
        row(" ".join(options) or "all metrics", f"{took:.1f}", f"{largest / 1e6:.0f}", f"{nb_tracks * slow / took:.1f}")


def largest_of_session(process: "subprocess.Popen[bytes]") -> int:
    """Return the largest memory of a process and its descendants in bytes, when it has ended."""
    largest = 0
    while process.poll() is None:
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            if int(fields[3]) == process.pid:
                largest = max(largest, int(fields[21]) * resource.getpagesize())
        time.sleep(0.1)
    return largest


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", nargs="+", type=float, default=[30, 240])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tracks", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--call")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.call:
        call(options.call, options.folder, options.device)
        return
    print(f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("| 4 stereo sources | s | MB above the arrays | museval / this |\n|---|---|---|---|")
        slow = [compare(folder, seconds, options.runs, options.device) for seconds in options.seconds]
        grow(folder, options.runs)
        if options.tracks:
            from_disk(folder, options.seconds[-1], options.tracks, slow[-1])


if __name__ == "__main__":
    main()
