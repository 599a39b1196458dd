"""Tracks on disk: find them, and run one function over all of them.

Reads a dataset's folders in any of the layouts below, detects which it is, and refuses a folder that is none of them;
reads a track's samples the same way from all of them. Writes nothing but progress, on stderr.

| layout | what is on disk |
|---|---|
| `stems` | `<root>/<subset>/<track>.stem.mp4`, as MUSDB18 arrives |
| `wav` | `<root>/<subset>/<track>/{mixture,drums,...,accompaniment}.wav` or .flac, as `convert` writes |
| `hq` | the same without accompaniment, as MUSDB18-HQ arrives |
"""

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Self, TypeVar, cast

import numpy as np

from musdbkit import audio, musdb18
from musdbkit.errors import AudioError, DatasetError, MissingDependencyError, MusdbkitError, ParameterError, printable

Item = TypeVar("Item")
Result = TypeVar("Result")

STEM_SUFFIX: Final = ".stem.mp4"

SEPARATION: Final = "separation.json"
"""Name of the file in a folder of estimates that says how they were made."""

PARTIAL_PREFIX: Final = ".musdbkit-"
PARTIAL_SUFFIX: Final = ".partial"
"""How the names of hidden folders start and end in which tracks are written."""

_AUDIO_SUFFIXES: Final = (".wav", ".flac")


@dataclass(frozen=True)
class Track:
    """One song on disk.

    Attributes
    ----------
    name : the folder's name, or the file's less `.stem.mp4`.
    subset : `train` or `test`.
    layout : `stems`, `wav` or `hq`.
    path : the stem file, or the folder of wav files.
    """

    name: str
    subset: str
    layout: str
    path: Path

    @property
    def key(self) -> str:
        """Subset and name, which no other track of the dataset has, as `test/PR - Oh No`."""
        return f"{self.subset}/{self.name}"

    @property
    def split(self) -> str:
        """The official split: `train`, `valid` or `test`."""
        return musdb18.split_of(self.name, self.subset)

    def file(self, target: str) -> Path:
        """Return the wav or flac file of a target, as a .wav path where there is none; not for stem files."""
        return find_audio(self.path, target) or self.path / f"{target}.wav"


def find_audio(folder: Path, target: str) -> Path | None:
    """Return the wav or flac file of a target in a track's folder, or None."""
    try:
        for suffix in _AUDIO_SUFFIXES:
            path = folder / (target + suffix)
            if path.is_file():
                return path
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read: {error.strerror}") from error
    return None


def find_partials(folder: Path) -> list[Path]:
    """Return the hidden folders in which tracks of a subset are being written, or were when a run was killed."""
    with suppress(OSError):
        return [path for path in folder.glob(f"{PARTIAL_PREFIX}{'[0-9a-f]' * 16}{PARTIAL_SUFFIX}") if path.is_dir()]
    return []


def find_tracks(root: Path, subsets: Sequence[str] = musdb18.SUBSETS, *, complete: bool = True) -> list[Track]:
    """Return the tracks of a dataset, train before test, each subset sorted by name.

    Parameters
    ----------
    root : the folder that holds `train` and `test`. One of the two may be absent, but neither may be empty.
    subsets : the subsets to return.
    complete : whether a track's folder must hold all five stems; without it the folder's mixture, or any one stem,
        is enough (for commands that report what is missing).

    Raises
    ------
    DatasetError
        The root is not there, is not a dataset's root, is empty, mixes layouts, or a track lacks a stem.
    """
    found = [track for subset in musdb18.SUBSETS for track in _find_subset(root, subset)]
    if not found:
        raise _no_tracks(root)
    kinds = {track.layout == "stems" for track in found}
    if len(kinds) > 1:
        stems = next(track for track in found if track.layout == "stems")
        folder = next(track for track in found if track.layout != "stems")
        raise DatasetError(
            f"{root}: both stem files ({stems.path.name}) and wav folders ({folder.name}), "
            "expected one layout: move one of them to a folder of its own"
        )
    if complete:
        _check_complete(found)
    wanted = [track for track in found if track.subset in subsets]
    if not wanted:
        raise DatasetError(f"{root}: no tracks in {' or '.join(subsets)}, only in {found[0].subset}")
    return wanted


def default_root(root: Path | None, *, wav: bool = False) -> Path:
    """Return the dataset's root: the one given, or the folder that MUSDB_PATH names, as in musdb.

    Parameters
    ----------
    root : what the user gave.
    wav : whether wav files are needed. Then, where MUSDB_PATH names stem files, `./musdb18-wav` is taken if it is
        there.

    Raises
    ------
    DatasetError
        There is no root, or wav files are needed and only stem files are there.
    """
    chosen = root
    if chosen is None:
        if not os.environ.get("MUSDB_PATH"):
            raise DatasetError("no dataset given: name its folder (ROOT or --musdb), or set MUSDB_PATH to it")
        chosen = Path(os.environ["MUSDB_PATH"]).expanduser()
    if wav and any(next(_stem_files(chosen / subset), None) for subset in musdb18.SUBSETS):
        converted = Path("musdb18-wav")
        if root is None and converted.is_dir():
            return converted
        command = f"musdbkit convert {shlex.quote(str(chosen))}"
        raise DatasetError(f"{chosen}: stem files, expected wav files: convert them first: {command}")
    return chosen


def read_stems(track: Track, stems: Sequence[str]) -> dict[str, audio.Samples]:
    """Return the whole length of some streams of a track as written [shape of each=(nb_samples, nb_channels)].

    int16 for stem files, which are decoded through 16 bit as in musdb, and for PCM_16 files; float32 for all others.

    Parameters
    ----------
    track : the track, in any layout.
    stems : names out of `musdb18.STREAMS`, in the order in which they are returned.

    Raises
    ------
    AudioError
        A file cannot be read, or the streams differ in rate, channels or length.
    ParameterError
        There is no such stream.
    """
    unknown = [stem for stem in stems if stem not in musdb18.STREAMS]
    if unknown:
        raise ParameterError(f"{track.key}: no stream {', '.join(unknown)}: expected {', '.join(musdb18.STREAMS)}")
    if track.layout == "stems":
        blocks: dict[str, list[audio.Samples]] = {stem: [] for stem in stems}
        for block in audio.decode_stems(track.path, dtype=np.int16):
            for stem, samples in zip(musdb18.STREAMS, block, strict=True):
                if stem in blocks:
                    blocks[stem].append(samples)
        nb_channels = musdb18.NB_CHANNELS
        return {stem: _join(blocks.pop(stem), nb_channels) for stem in stems}  # pop: one stream is held twice at a time
    infos = {stem: audio.info(track.file(stem)) for stem in stems}
    for stem, found in infos.items():
        _check_alike(track, stem, found, stems[0], infos[stems[0]])
    return {stem: _read_file(track.file(stem), found) for stem, found in infos.items()}


def _read_file(path: Path, info: audio.AudioInfo) -> audio.Samples:
    """Return the samples of a wav or flac file: 16-bit ones as they are, all others as floats."""
    return _join(list(audio.read_blocks(path)), info.nb_channels) if info.subtype == "PCM_16" else audio.read(path)


def _join(blocks: list[audio.Samples], nb_channels: int) -> audio.Samples:
    """Return 16-bit blocks, of which there may be none, as one array."""
    return np.concatenate(blocks) if blocks else np.empty((0, nb_channels), np.int16)


def _check_alike(track: Track, stem: str, found: audio.AudioInfo, first: str, expected: audio.AudioInfo) -> None:
    """Check that one file of a track matches its first."""
    for code, have, want, unit in (
        ("rate", found.sample_rate, expected.sample_rate, "Hz"),
        ("channels", found.nb_channels, expected.nb_channels, "channel(s)"),
        ("length", found.nb_samples, expected.nb_samples, "samples"),
    ):
        if have != want:
            raise AudioError(
                f"{track.file(stem)}: {have} {unit}, expected {want} as in {track.file(first).name}: fetch it again",
                code,
                stem,
            )


def free_bytes(folder: Path) -> int:
    """Return what is free on the disk of a folder, which need not be there yet."""
    path = folder.absolute()
    return shutil.disk_usage(next(each for each in (path, *path.parents) if each.is_dir())).free


def nb_cores() -> int:
    """Return how many processor cores this process may use."""
    import joblib

    return int(joblib.cpu_count())


def available_memory() -> int:
    """Return how many bytes of memory this process may still take: what is free, and what its cgroup leaves it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux: half of what there is
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    with suppress(OSError, ValueError):  # no cgroup, or one without a limit
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        free = min(free, limit - int((group / "memory.current").read_text(encoding="ascii")))
    return max(free, 0)


def _list(folder: Path) -> list[os.DirEntry[str]]:
    """Return a folder's visible entries sorted by name, none where it is no folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not is_hidden(e.name)), key=lambda e: e.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be listed: {error.strerror}") from error


def is_hidden(name: str) -> bool:
    """Return whether a name is not a user's: one dot at the start is, as in `.DS_Store`; "...And You - Song" is not."""
    return name.startswith(".") and not name.startswith("..")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder; a link that leads in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _stem_files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the stem files of a subset's folder."""
    return (e for e in _list(folder) if e.name.endswith(STEM_SUFFIX) and (e.is_symlink() or e.is_file()))


def _find_subset(root: Path, subset: str) -> list[Track]:
    """Return the tracks of one subset, none where its folder is absent."""
    folder = root / subset
    if find_partials(folder):
        raise DatasetError(f"{folder}: convert is at work here, or was killed: wait for it, or run it again")
    entries = _list(folder)
    tracks = [Track(e.name[: -len(STEM_SUFFIX)], subset, "stems", folder / e.name) for e in _stem_files(folder)]
    folders = [folder / e.name for e in entries if _is_folder(e)]
    with_audio = [path for path in folders if any(find_audio(path, stem) for stem in musdb18.STREAMS)]
    for path in with_audio if tracks or not with_audio else folders:  # beside tracks, an empty folder is half a track
        layout = "wav" if find_audio(path, "accompaniment") else "hq"
        tracks.append(Track(path.name, subset, layout, path))
    if not tracks and folder.is_dir():
        seen = f"{len(entries)} other entries ({', '.join(e.name for e in entries[:3])})" if entries else "nothing"
        raise DatasetError(f"{folder}: looked for *{STEM_SUFFIX} files or folders with mixture.wav, found {seen}")
    return sorted(tracks, key=lambda track: track.name)


def _no_tracks(root: Path) -> DatasetError:
    """Return the error for a root without tracks, with a hint at the root that was meant."""
    looked = f"looked for {root / 'train'} and {root / 'test'}"
    if not root.exists():
        return DatasetError(f"{root}: no such folder ({looked})")
    if not root.is_dir():
        return DatasetError(f"{root}: a file, expected the folder that holds train and test")
    hint = "expected stem files or wav folders there"
    if root.name in musdb18.SUBSETS:
        hint = f"did you mean its parent, {root.parent}?"
    for entry in _list(root):
        if _is_folder(entry) and any((root / entry.name / subset).is_dir() for subset in musdb18.SUBSETS):
            hint = f"did you mean {root / entry.name}?"
    return DatasetError(f"{root}: no tracks ({looked}): {hint}")


def _check_complete(found: Iterable[Track]) -> None:
    """Check that each wav folder holds all stems."""
    lacking = {
        track.key: missing
        for track in found
        if track.layout != "stems" and (missing := [s for s in musdb18.STREAMS if not find_audio(track.path, s)])
    }
    if lacking:
        key, missing = next(iter(lacking.items()))
        more = f"; {len(lacking) - 1} more tracks lack stems" if len(lacking) > 1 else ""
        raise DatasetError(
            f"{key}: no {', '.join(missing)} "
            f"(looked for {', '.join(musdb18.STREAMS)} as .wav or .flac){more}: complete the folder or remove it"
        )


@dataclass(frozen=True)
class Parallel:
    """How a function is run over tracks.

    Attributes
    ----------
    jobs : worker processes; all cores by default. With `dask`, the cluster decides.
    backend : `loky` (processes on this machine), `dask` (a cluster), or any other backend registered with joblib.
    scheduler : address of the Dask scheduler, as tcp://host:8786; a local cluster by default.
    """

    jobs: int | None = None
    backend: str = "loky"
    scheduler: str | None = None

    def __post_init__(self) -> None:
        """Refuse what joblib would take in another sense."""
        if self.jobs is not None and self.jobs < 1:
            raise ParameterError(f"jobs is {self.jobs}, expected 1 or more")
        if self.scheduler and self.backend != "dask":
            raise ParameterError(f"a scheduler was given for backend {self.backend}: use it with --backend dask")


ALL_CORES: Final = Parallel()
"""Processes on all cores of this machine."""


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What came of running a function over tracks, by key and in the order of the tracks.

    Attributes
    ----------
    done : results.
    failed : one-line error messages.
    """

    done: dict[str, Result]
    failed: dict[str, str]


def for_each(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    key: Callable[[Item], str],
    label: str,
    parallel: Parallel,
) -> Outcome[Result]:
    """Run a function over tracks in parallel and return all results and failures.

    An item that fails does not stop the others. What is computed for an item does not depend on the number of jobs:
    in the workers every BLAS and OpenMP pool is capped at one thread.

    Parameters
    ----------
    function : called with each item; it and the items must be picklable.
    items : usually tracks.
    key : returns an item's distinct name for results and progress.
    label : what is being done, for progress lines, as `convert`.
    parallel : jobs and backend.
    """
    import joblib

    names = [key(item) for item in items]
    results: dict[int, Result] = {}
    failures: dict[int, str] = {}
    jobs = min(parallel.jobs or nb_cores(), max(len(items), 1))
    with _backend(parallel, jobs), _Progress(label, len(items)) as progress:
        streams = joblib.parallel.get_active_backend()[0].supports_return_generator
        runner = joblib.Parallel(
            return_as="generator_unordered" if streams else "list", batch_size=1, pre_dispatch="n_jobs"
        )
        folder = os.getcwd() if parallel.backend == "dask" else None
        calls = (joblib.delayed(_guarded)(function, i, item, folder) for i, item in enumerate(items))
        try:
            for i, result, failure in runner(calls):
                if failure is None:
                    results[i] = cast(Result, result)
                else:
                    failures[i] = failure
                progress.advance(names[i], failure)
        except Exception as error:
            if type(error).__name__ not in {"TerminatedWorkerError", "BrokenProcessPool", "KilledWorker"}:
                raise
            died = "not done, a worker process died (out of memory?): run again with fewer --jobs"
            failures |= {i: died for i in range(len(items)) if i not in results and i not in failures}
    return Outcome(
        {names[i]: results[i] for i in sorted(results)},
        {names[i]: failures[i] for i in sorted(failures)},
    )


def _guarded(
    function: Callable[[Item], Result], i: int, item: Item, folder: str | None
) -> tuple[int, Result | None, str | None]:
    """Return an item's index with its result, or with what went wrong."""
    from threadpoolctl import threadpool_limits

    try:
        if folder is not None:  # a Dask worker's own current folder is another, and paths may be relative
            os.chdir(folder)
        with threadpool_limits(limits=1):
            return i, function(item), None
    except MusdbkitError as error:
        return i, None, printable(error)
    except Exception as error:  # a fault of ours in one track must not cost the user the other 149
        if os.environ.get("MUSDBKIT_DEBUG"):
            raise
        return i, None, printable(f"{type(error).__name__}: {error} (MUSDBKIT_DEBUG=1 shows where)")


@contextmanager
def _backend(parallel: Parallel, jobs: int) -> Iterator[None]:
    """Let joblib run on the chosen backend."""
    import joblib

    if parallel.backend != "dask":
        with joblib.parallel_config(parallel.backend, n_jobs=jobs):
            yield
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingDependencyError("--backend dask needs distributed: pip install 'musdbkit[dask]'") from error
    options: dict[str, Any] = {"address": parallel.scheduler}
    if not parallel.scheduler:  # its page is for this machine only, on a free port: two runs do not meet
        options = {"n_workers": jobs, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    try:
        client = Client(**options)
    except (OSError, ValueError) as error:
        raise MusdbkitError(f"no Dask scheduler answers at {parallel.scheduler}: {error}") from error
    with client, joblib.parallel_config("dask"):
        yield


class _Progress:
    """Progress on stderr: a bar with the time left on a terminal, else a line for each track."""

    def __init__(self, label: str, total: int) -> None:
        self._label = label
        self._total = total
        self._nb_done = 0
        self._bar: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and self._total:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
            from rich.table import Column

            columns = (
                TextColumn(self._label, table_column=Column(no_wrap=True)),
                BarColumn(bar_width=20),
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
                TimeRemainingColumn(table_column=Column(no_wrap=True)),
                TextColumn("{task.fields[name]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), expand=True)
            self._bar.add_task(self._label, total=self._total, name="")
            self._bar.start()
        return self

    def advance(self, name: str, failure: str | None) -> None:
        """Count one more track."""
        self._nb_done += 1
        text = printable(name) + ("" if failure is None else ": failed")
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], advance=1, name=text)
        else:
            print(f"{self._label}: {self._nb_done}/{self._total} {text}", file=sys.stderr, flush=True)

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()
