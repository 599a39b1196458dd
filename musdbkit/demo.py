"""The walk on real input, from a real excerpt and synthetic tracks to the report of two oracles.

The excerpt is the stem file that the stempeg package ships, found by its file: importing stempeg would need an ffmpeg
program. Writes a dataset, its wav files, Spleeter's files, spectrograms, a picture of one, estimates, scores and a
report into one folder; a second run does only what is missing.
"""

import csv
import importlib.util
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from musdbkit import caching
from musdbkit.audio import info
from musdbkit.cache import Cache, open_cache
from musdbkit.cache_request import Request, find_request, read_request
from musdbkit.check import check, print_result
from musdbkit.compare import compare
from musdbkit.comparison_tables import print_text
from musdbkit.convert import convert
from musdbkit.errors import MissingDependencyError, MusdbkitError, printable
from musdbkit.excerpts import cut_worst
from musdbkit.methods import load_methods
from musdbkit.oracle import oracle
from musdbkit.report import report
from musdbkit.scoring import find_references, score
from musdbkit.scoring import print_result as print_scores
from musdbkit.spleeter_files import make_csv
from musdbkit.synth import synth
from musdbkit.tracks import STEM_SUFFIX, Parallel

if TYPE_CHECKING:
    from rich.console import Console

SECONDS = 20.0
"""Length of a synthetic track: Spleeter's chunks are 20 s."""

_DRAWN_DECIBELS: Final = 80

ORACLES: Final = {
    "mix": "the floor: a quarter of the mixture as the estimate of each stem",
    "irm2": "the ceiling of masks: ideal ratio masks, which know the true stems",
}
"""The oracles that are scored."""


def find_excerpt() -> Path:
    """Return the real stem file of the stempeg package.

    Raises
    ------
    MissingDependencyError
        The package or its file is not there.
    """
    spec = importlib.util.find_spec("stempeg")
    folders = spec.submodule_search_locations if spec is not None else None
    for path in sorted(Path(folders[0], "data").glob("*.stem.mp4")) if folders else []:
        return path
    raise MissingDependencyError("the stempeg package with its excerpt is not installed: pip install stempeg")


def demo(out: Path, console: "Console", *, parallel: Parallel) -> None:
    """Run the walk in a folder and print each step with what it made.

    Parameters
    ----------
    out : folder to write to; what an earlier run made there is kept.
    console : where to print.
    parallel : jobs and backend.

    Raises
    ------
    MusdbkitError
        A step failed for some track.
    """
    start = time.perf_counter()
    stems, wav, spleeter = out / "musdb18", out / "musdb18-wav", out / "spleeter"
    excerpt = find_excerpt()

    _head(console, f"musdbkit synth {stems}", "a real excerpt and a few synthetic tracks, as .stem.mp4")
    made = synth(stems, train=3, valid=1, test=1, seconds=SECONDS, parallel=parallel)
    _stop_at(made.failed)
    _copy(excerpt, stems / "test" / excerpt.name)

    _head(console, f"musdbkit check {stems}", "what is right and wrong with the data and the machine")
    print_result(check(stems, parallel=parallel), console)

    _head(console, f"musdbkit convert {stems} {wav}", "every target of a track from one pass through its file")
    outcome = convert(stems, wav, parallel=parallel)
    _stop_at(outcome.failed)
    _print_converted(console, outcome.done.keys(), wav)

    _head(console, f"musdbkit make-csv {wav} --stems 2 --out {spleeter}", "what Spleeter trains from")
    result = make_csv(wav, stems=2, out=spleeter, parallel=parallel)
    _stop_at(result.failed)
    _print_csvs(console, (*result.written, *result.kept), result.left_out)

    cache = out / "cache"
    _head(
        console,
        f"musdbkit cache {spleeter}/musdb_2stems.json --musdb {wav} --out {cache}",
        "the spectrograms that training reads",
    )
    _cache(console, read_request(spleeter / "musdb_2stems.json", wav), cache, parallel)
    cache = out / "cache-openunmix"
    _head(
        console,
        f"musdbkit cache --preset openunmix --musdb {wav} --subset test --out {cache}",
        "the same of any tracks, without a configuration",
    )
    _cache(console, find_request(wav, "openunmix", subsets=("test",)), cache, parallel)
    name = excerpt.name.removesuffix(STEM_SUFFIX)
    picture = out / f"{name} - mixture.png"
    draw_spectrogram(open_cache(cache), name, "mixture", picture)
    console.print(f"a picture of it: {printable(picture)}", markup=False, highlight=False, soft_wrap=True)

    for method, text in ORACLES.items():
        folder = out / "estimates" / method
        _head(console, f"musdbkit oracle --method {method} --musdb {wav} --out {folder}", text)
        _stop_at(oracle(wav, folder, method, subsets=("test",), parallel=parallel).failed)
        _head(
            console,
            f"musdbkit score {folder} --musdb {wav}",
            "BSSEval v4 as museval defines it, and how it is summed up",
        )
        scored = score(folder, find_references(wav), folder.with_name(f"{method}-scores"), parallel=parallel)
        _stop_at(scored.failed)
        print_scores(scored, console)

    estimates = [out / "estimates" / method for method in ORACLES]
    scored_folders = [folder.with_name(f"{folder.name}-scores") for folder in estimates]
    methods = load_methods(scored_folders)
    _head(
        console,
        f"musdbkit compare {' '.join(map(str, scored_folders))}",
        "methods side by side, track by track; oracles are bounds, which are not tested",
    )
    print_text(compare(methods, nb_changes=1), console)
    page = out / "report.html"
    _head(
        console,
        f"musdbkit report {' '.join(map(str, scored_folders))} --out {page} --musdb {wav} "
        + " ".join(f"--estimates {folder}" for folder in estimates),
        "who is better, on which tracks, in which seconds, and how it sounds",
    )
    sounds = cut_worst(methods, estimates, wav, parallel=parallel)
    _stop_at(sounds.failed)
    written = report(methods, page, excerpts=sounds.excerpts)
    console.print(
        f"{written.nb_bytes / 1e6:.1f} MB, {written.nb_excerpts} excerpts to hear: open it in a browser",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )

    _head(console, "Next", f"All of this took {time.perf_counter() - start:.0f} s. With MUSDB18 on disk, go on with:")
    for line in (
        "export MUSDB_PATH=/path/to/musdb18",
        "musdbkit check",
        "musdbkit convert",
        "musdbkit make-csv --stems 2",
        "musdbkit cache musdb_2stems.json",
        "musdbkit score estimates/",
        "musdbkit compare estimates-scores",
        "musdbkit report estimates-scores --estimates estimates/",
    ):
        console.print(f"  {line}", markup=False, highlight=False)
    console.print(f"The report is {printable(page)}.", markup=False, soft_wrap=True)
    console.print(f"Everything is in {printable(out)}; remove it when you have seen it.", markup=False, soft_wrap=True)


def draw_spectrogram(cache: Cache, track: str, signal: str, path: Path) -> None:
    """Draw a signal of a spectrogram cache as a PNG, in dB below its greatest level, unless the file is there already.

    Parameters
    ----------
    cache : the cache.
    track, signal : what to draw; the mean of the channels' powers.
    path : the file.
    """
    from matplotlib.figure import Figure

    if path.exists():
        return
    parameters = cache.parameters
    magnitudes = cache.segment(track, 0, cache.nb_frames(track))[signal].astype(np.float32)
    powers = np.mean(magnitudes**2, axis=2)
    decibels = 10 * np.log10(np.maximum(powers / max(powers.max(), 1e-30), 1e-10))
    hop, resolution = parameters.hop_length / parameters.sample_rate, parameters.sample_rate / parameters.n_fft
    start = (parameters.n_fft - parameters.hop_length) / 2 / parameters.sample_rate  # a frame is drawn at its middle
    figure = Figure(figsize=(9, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(
        decibels.T,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(start, start + len(decibels) * hop, -resolution / 2, (decibels.shape[1] - 0.5) * resolution),
        vmin=-_DRAWN_DECIBELS,
        vmax=0,
        cmap="magma",
    )
    axes.set_title(f"{track}: {signal}".replace("$", r"\$"))  # which would begin a formula
    axes.set_xlabel("time in s")
    axes.set_ylabel("frequency in Hz")
    figure.colorbar(image, label="level in dB, the greatest at 0", pad=0.01)
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, format="png")
    partial.replace(path)


def _cache(console: "Console", request: Request, folder: Path, parallel: Parallel) -> None:
    """Build a cache and print what it holds."""
    _stop_at(caching.build(request, folder, parallel=parallel).failed)
    for line in caching.describe_info(caching.inspect(folder)):
        console.print(printable(line), markup=False, highlight=False)


def _head(console: "Console", title: str, text: str) -> None:
    """Print the head of a step."""
    from rich.text import Text

    console.rule()
    console.print(Text(printable(title), style="bold"), soft_wrap=True)
    console.print(printable(text), style="italic", markup=False, highlight=False)


def _stop_at(failed: dict[str, str]) -> None:
    """Raise an error that names the tracks that failed, if any did."""
    if failed:
        raise MusdbkitError("; ".join(f"{key}: {message}" for key, message in failed.items()))


def _copy(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    shutil.copyfile(source, partial)
    partial.replace(target)


def _print_converted(console: "Console", keys: Iterable[str], wav: Path) -> None:
    """Print a table of the wav files, by track."""
    from rich.table import Table
    from rich.text import Text

    table = Table("track", "seconds", "files", "MB", "sum overflows 16 bit")
    for key in keys:
        infos = {path.stem: info(path) for path in sorted((wav / key).glob("*.wav"))}
        nb_bytes = sum(path.stat().st_size for path in (wav / key).glob("*.wav"))
        others = ", ".join(f"{target} ({each.subtype})" for target, each in infos.items() if each.subtype != "PCM_16")
        table.add_row(
            Text(printable(key)), f"{infos['mixture'].seconds:.2f}", str(len(infos)), f"{nb_bytes / 1e6:.1f}", others
        )
    console.print(table)


def _print_csvs(console: "Console", paths: Iterable[Path], left_out: dict[str, str]) -> None:
    """Print a table of the CSVs, and what is in none of them."""
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(Column("file", no_wrap=True), "tracks", "first track", "duration")
    for path in sorted(paths):
        if path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            table.add_row(path.name, str(len(rows)), Text(printable(rows[0]["mix_path"])), rows[0]["duration"])
        else:
            table.add_row(path.name, "", "Spleeter's configuration, with every key", "")
    console.print(table)
    for key, reason in left_out.items():
        console.print(f"left out: {printable(key)}: {reason}", markup=False, highlight=False)
