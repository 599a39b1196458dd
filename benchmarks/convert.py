"""`musdbkit convert` against musdbconvert and one pass of the ffmpeg program, on two stem files of 240 s.

The files are made by repeating the real excerpt of the stempeg package, packet by packet. Each figure is the wall time
of a whole command, start-up included, the median of several runs taken in turn; memory is the largest process of ours.

    python benchmarks/convert.py [--runs 3]
"""

import argparse
import importlib.util
import os
import platform
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import av

SECONDS = 240
STREAMS = ("mixture", "drums", "bass", "other", "vocals")


def repeat(excerpt: Path, out: Path, seconds: float) -> None:
    """Write a stem file that repeats the audio streams of another until it is long enough."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(out), "w", format="mp4") as sink:
        streams: dict[int, av.AudioStream] = {}
        offset = 0
        while offset < seconds * 44100:
            with av.open(str(excerpt)) as source:
                for stream in source.streams.audio:
                    streams.setdefault(stream.index, sink.add_stream_from_template(stream))
                length = source.streams.audio[0].duration or 0
                for packet in source.demux(source.streams.audio):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.dts, packet.pts = packet.dts + offset, packet.pts + offset
                    packet.stream = streams[packet.stream_index]
                    sink.mux(packet)
            offset += length


def ours(stems: Path, out: Path, jobs: int) -> list[list[str]]:
    """Return the command of musdbkit."""
    return [[sys.executable, "-m", "musdbkit", "convert", str(stems), str(out), "--jobs", str(jobs)]]


def musdbconvert(stems: Path, out: Path) -> list[list[str]]:
    """Return the command of the musdb package."""
    program = shutil.which("musdbconvert") or str(Path(sysconfig.get_path("scripts")) / "musdbconvert")
    return [[program, str(stems), str(out)]]


def ffmpeg(stems: Path, out: Path) -> list[list[str]]:
    """Return one ffmpeg command per track, which write the five streams (no accompaniment)."""
    commands = []
    for path in sorted(stems.rglob("*.stem.mp4")):
        folder = out / path.name
        folder.mkdir(parents=True)
        outputs = [word for i, name in enumerate(STREAMS) for word in ("-map", f"0:a:{i}", str(folder / f"{name}.wav"))]
        commands.append(["ffmpeg", "-v", "error", "-i", str(path), *outputs])
    return commands


def timed(commands: list[list[str]]) -> float:
    """Return the wall time in seconds of commands that run side by side."""
    start = time.perf_counter()
    processes = [subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for c in commands]
    if any(process.wait() for process in processes):
        raise SystemExit(f"failed: {commands}")
    return time.perf_counter() - start


def peak_memory(stems: Path, out: Path) -> float:
    """Return the peak memory of a worker in MB, from one track converted in a single process."""
    code = (
        "import resource, sys; from pathlib import Path; from musdbkit.convert import convert; "
        "from musdbkit.tracks import Parallel; "
        "convert(Path(sys.argv[1]), Path(sys.argv[2]), parallel=Parallel(1)); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    result = subprocess.run([sys.executable, "-c", code, stems, out], capture_output=True, text=True, check=True)
    return float(result.stdout) * (1024 if sys.platform != "darwin" else 1) / 1e6


def main() -> None:
    """Make the files, run the commands in turn, print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    spec = importlib.util.find_spec("stempeg")
    assert spec is not None
    assert spec.submodule_search_locations
    (excerpt,) = (Path(spec.submodule_search_locations[0]) / "data").glob("*.stem.mp4")
    with tempfile.TemporaryDirectory() as name:
        stems, out = Path(name) / "stems", Path(name) / "out"
        for track in ("One", "Two"):
            repeat(excerpt, stems / "train" / f"Looped - {track}.stem.mp4", SECONDS)
        candidates = {
            "musdbconvert": lambda: musdbconvert(stems, out),
            "ffmpeg, one pass, 2 processes, no accompaniment": lambda: ffmpeg(stems, out),
            "musdbkit convert --jobs 2": lambda: ours(stems, out, 2),
            "musdbkit convert --jobs 1": lambda: ours(stems, out, 1),
        }
        times: dict[str, list[float]] = {label: [] for label in candidates}
        for _ in range(runs):
            for label, make in candidates.items():
                shutil.rmtree(out, ignore_errors=True)
                times[label].append(timed(make()))
        shutil.rmtree(out, ignore_errors=True)
        memory = peak_memory(stems, out)
        repeat(excerpt, stems / "train" / "Looped - One.stem.mp4", 4 * SECONDS)
        shutil.rmtree(out, ignore_errors=True)
        memory_long = peak_memory(stems, out)
    medians = {label: statistics.median(values) for label, values in times.items()}
    print(
        f"2 stem files of {SECONDS} s, {os.cpu_count()} cores, Python {platform.python_version()}, {runs} runs each\n"
    )
    print("| command | median s | min s | musdbconvert / this |\n|---|---|---|---|")
    for label, median in medians.items():
        ratios = [a / b for a, b in zip(times["musdbconvert"], times[label], strict=True)]
        print(f"| {label} | {median:.2f} | {min(times[label]):.2f} | {statistics.median(ratios):.1f} |")
    print(f"\npeak memory of a worker: {memory:.0f} MB with 240 s tracks, {memory_long:.0f} MB with one of 960 s")


if __name__ == "__main__":
    main()
