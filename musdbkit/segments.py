"""Segments of tracks, at will or at random: what the readers of spectrogram caches and of waves have in common.

Writes nothing, and needs nothing but NumPy, so that a training machine needs no more.

Conventions: segments are counted in frames; for waves, a frame is one sample. Whatever is drawn at random depends on
the seed, the other arguments and the tracks alone, not on workers or on where one begins.

References
----------
The rule `spleeter` is that of the program's training pipeline, github.com/deezer/spleeter, version 2.4.2,
`spleeter/dataset.py`: excerpts spread over each track, and from each, every time, a part that begins at random.
"""

import difflib
import errno
import math
import resource
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from musdbkit.errors import ParameterError

Array: TypeAlias = NDArray[Any]

RULES: Final = ("spleeter", "uniform")
"""How random segments are drawn; see `Reader.positions`."""

NB_CHUNKS: Final = 40
CHUNK_SECONDS: Final = 20.0
"""Chunks of each track and their length, in Spleeter's published configuration for MUSDB18."""

_MARGIN_SECONDS: Final = 0.5  # of a track's both ends, which Spleeter's chunks keep clear of
_NB_DRAWS: Final = 2**12  # of rule `uniform`, which has no rounds of its own


class Reader(ABC):
    """Segments of tracks, at will or at random: the interface of `Cache` and `Waves`.

    It may be pickled and forked at any time: arrays are mapped where they are first read. So it serves in the workers
    of a torch DataLoader, forked or spawned:

        class Batches(torch.utils.data.IterableDataset):
            def __init__(self, cache):
                self.cache = cache
            def __iter__(self):
                info = torch.utils.data.get_worker_info()  # None without workers
                worker, nb_workers = (info.id, info.num_workers) if info else (0, 1)
                yield from self.cache.batches(512, 4, seed=0, worker=worker, nb_workers=nb_workers)

        loader = torch.utils.data.DataLoader(Batches(cache), batch_size=None, num_workers=2)

    The batches come in the same order for any number of workers. To iterate again is to get the same ones again: give
    `first`, the number of batches that were used, to go on.

    Attributes
    ----------
    path : the folder.
    signals : names, `mixture` first.
    tracks : names.
    splits : what each track is for, by name: `train`, `valid`, `test`, or several of them.
    sample_rate : Hz.
    """

    path: Path
    signals: tuple[str, ...]
    tracks: tuple[str, ...]
    splits: dict[str, tuple[str, ...]]
    sample_rate: int
    _hop_length: int
    _span: int  # samples in a frame

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, str], Array] = {}  # the one that was used last comes last
        _READERS.add(self)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: all but the mapped files."""
        return {**self.__dict__, "_arrays": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin in another process."""
        self.__dict__.update(state)
        _READERS.add(self)

    def __repr__(self) -> str:
        """Return what is read."""
        return f"<{type(self).__name__} {self.path}: {len(self.tracks)} tracks of {', '.join(self.signals)}>"

    @abstractmethod
    def nb_samples(self, track: str) -> int:
        """Return the length of a track in samples."""

    def array(self, track: str, signal: str) -> Array:
        """Return a whole signal as it is stored, memory-mapped and read-only [shape=(nb_frames, ..., nb_channels)]."""
        found = self._arrays.pop((track, signal), None)
        if found is None:
            _make_room()
            found = self._map(track, signal)
        self._arrays[track, signal] = found
        return found

    @abstractmethod
    def _map(self, track: str, signal: str) -> Array:
        """Map a signal's file, for `array`."""

    def nb_frames(self, track: str) -> int:
        """Return the length of a track in frames."""
        return 1 + (self.nb_samples(track) - self._span) // self._hop_length

    def in_split(self, split: str) -> tuple[str, ...]:
        """Return the names of the tracks of a split."""
        return tuple(track for track in self.tracks if split in self.splits[track])

    def segment(self, track: str, start_frame: int, nb_frames: int) -> dict[str, Array]:
        """Return a segment of each signal of a track, by name [shape of each=(nb_frames, ..., nb_channels)].

        The arrays are read-only views of the files, and nothing is read before they are (but uint8 is decoded). As
        torch.from_numpy and DataLoaders warn of read-only arrays, give torch copies, as torch.tensor makes.

        Parameters
        ----------
        track : its name.
        start_frame : first frame, from 0.
        nb_frames : how many.

        Raises
        ------
        ParameterError
            There is no such track, or it has no such frames.
        DatasetError, AudioError
            A file is not what the index says.
        """
        length = self.nb_frames(track)
        if start_frame < 0 or nb_frames < 0 or start_frame + nb_frames > length:
            raise ParameterError(
                f"{track}: frames {start_frame} to {start_frame + nb_frames}, expected frames between 0 and {length}"
            )
        return {signal: self._decoded(track, signal, start_frame, start_frame + nb_frames) for signal in self.signals}

    def _decoded(self, track: str, signal: str, start: int, stop: int) -> Array:
        """Return a part of a signal as values."""
        return self.array(track, signal)[start:stop]

    def _copy_to(self, out: Array, track: str, signal: str, start: int) -> None:
        """Copy a part of a signal as values, as long as `out`."""
        np.copyto(out, self.array(track, signal)[start : start + len(out)])

    def _empty(self, batch_size: int, nb_frames: int) -> Array:
        """Return an array for a batch of one signal."""
        first = self.array(self.tracks[0], self.signals[0])
        return np.empty((batch_size, nb_frames, *first.shape[1:]), first.dtype)

    def chunks(
        self, track: str, nb_frames: int, *, nb_chunks: int = NB_CHUNKS, chunk_seconds: float = CHUNK_SECONDS
    ) -> list[tuple[int, int]]:
        """Return the first and the last place in frames where a segment may begin, for each of a track's chunks.

        The chunks are Spleeter's: spread evenly from 0.5 s after the track's begin to 0.5 s before its end; one alone
        lies in the middle. Their starts are rounded to the nearest frame; those with fewer than `nb_frames` frames are
        left out. Spleeter validates on chunks of 12 s, on the segment at `(first + last) // 2` of each.

        Parameters
        ----------
        track : its name.
        nb_frames : length of a segment.
        nb_chunks : how many.
        chunk_seconds : length of each.

        Raises
        ------
        ParameterError
            There is no such track, or an argument cannot be used.
        """
        if nb_frames < 1 or nb_chunks < 1 or not 0 < chunk_seconds < math.inf:
            raise ParameterError(
                f"nb_frames {nb_frames}, nb_chunks {nb_chunks}, chunk_seconds {chunk_seconds}: "
                "expected 1 or more, 1 or more, and more than 0"
            )
        seconds = self.nb_samples(track) / self.sample_rate
        step = (seconds - chunk_seconds - 2 * _MARGIN_SECONDS) / max(nb_chunks - 1, 1)
        starts = [k * step + _MARGIN_SECONDS for k in range(nb_chunks)]
        if nb_chunks == 1:
            starts = [seconds / 2 - chunk_seconds / 2]
        length = 1 + (round(chunk_seconds * self.sample_rate) - self._span) // self._hop_length
        places = []
        for start in starts:
            first = math.floor(max(start, 0.0) * self.sample_rate / self._hop_length + 0.5)
            last = min(first + length, self.nb_frames(track)) - nb_frames
            if last >= first:
                places.append((first, last))
        return places

    def positions(
        self,
        nb_frames: int,
        *,
        seed: int,
        rule: str = "spleeter",
        tracks: Sequence[str] | None = None,
        nb_chunks: int = NB_CHUNKS,
        chunk_seconds: float = CHUNK_SECONDS,
        first: int = 0,
    ) -> Iterator[tuple[str, int]]:
        """Yield tracks and first frames of random segments, without end.

        Parameters
        ----------
        nb_frames : length of a segment.
        seed : 0 or more; another seed gives other segments.
        rule : `spleeter`: all chunks of all tracks in a random order, then again in another, and from each a segment
            at a random place (see `chunks`). `uniform`: every segment of every track with the same probability.
        tracks : their names; those of split `train` by default. Tracks shorter than a segment are never drawn.
        nb_chunks, chunk_seconds : as in `chunks`; of no effect on `uniform`.
        first : how many segments to pass over, to go on where an earlier run was.

        Raises
        ------
        ParameterError
            An argument cannot be used, or no track has such a segment.
        """
        names = self.in_split("train") if tracks is None else tuple(tracks)
        if nb_frames < 1 or seed < 0 or first < 0 or rule not in RULES:
            raise ParameterError(
                f"nb_frames {nb_frames}, seed {seed}, first {first}, rule {rule}: expected 1 or more, 0 or more, "
                f"0 or more, and {' or '.join(RULES)}"
            )
        if rule == "uniform":
            places = [(i, 0, self.nb_frames(name) - nb_frames) for i, name in enumerate(names)]
            places = [place for place in places if place[2] >= 0]
        else:
            places = [
                (i, *place)
                for i, name in enumerate(names)
                for place in self.chunks(name, nb_frames, nb_chunks=nb_chunks, chunk_seconds=chunk_seconds)
            ]
        if not places:
            raise ParameterError(self._why_none(names, nb_frames, rule, chunk_seconds, tracks is None))
        return _draw(names, np.array(places), seed, rule, first)

    def _why_none(self, names: Sequence[str], nb_frames: int, rule: str, chunk_seconds: float, by_default: bool) -> str:
        """Return why there is nothing to draw from."""
        if not names and not by_default:
            return f"{self.path}: an empty list of tracks: name some, or give no list for those of split train"
        if not names:
            have = ", ".join(sorted({split for splits in self.splits.values() for split in splits}))
            return f"{self.path}: no tracks of split train, only of {have or 'none'}: name tracks"
        longest = max(names, key=self.nb_frames)
        seconds = (self._span + (nb_frames - 1) * self._hop_length) / self.sample_rate
        text = f"{self.path}: no segment of {nb_frames} frames ({seconds:.3f} s): the longest of {len(names)} tracks, "
        text += f"{longest}, has {self.nb_frames(longest)} frames"
        return text + (f", and chunks are {chunk_seconds} s long" if rule == "spleeter" else "")

    def batches(
        self,
        nb_frames: int,
        batch_size: int,
        *,
        seed: int,
        rule: str = "spleeter",
        tracks: Sequence[str] | None = None,
        nb_chunks: int = NB_CHUNKS,
        chunk_seconds: float = CHUNK_SECONDS,
        first: int = 0,
        worker: int = 0,
        nb_workers: int = 1,
        reuse: bool = False,
    ) -> Iterator[dict[str, Array]]:
        """Yield random batches of segments without end, by signal [shape=(batch_size, nb_frames, ..., nb_channels)].

        The segments are those of `positions`, batch after batch, copied once; uint8 is decoded to float32.

        Parameters
        ----------
        nb_frames, seed, rule, tracks, nb_chunks, chunk_seconds : as in `positions`.
        batch_size : segments in a batch.
        first : how many batches to pass over, to go on where an earlier run was.
        worker, nb_workers : one of several that share the work: worker i yields batches i, i + nb_workers, ...
        reuse : write every batch into the same arrays, for who has copied one, to a GPU for instance, before the next:
            new arrays take longer to come by than to fill.

        Raises
        ------
        ParameterError
            As `positions`.
        """
        if batch_size < 1 or not 0 <= worker < nb_workers:
            raise ParameterError(
                f"batch_size {batch_size}, worker {worker} of {nb_workers}: expected 1 or more, and 0 to nb_workers - 1"
            )
        positions = self.positions(
            nb_frames,
            seed=seed,
            rule=rule,
            tracks=tracks,
            nb_chunks=nb_chunks,
            chunk_seconds=chunk_seconds,
            first=(first + worker) * batch_size,
        )
        return self._batches(positions, nb_frames, batch_size, (nb_workers - 1) * batch_size, reuse)

    def _batches(
        self, positions: Iterator[tuple[str, int]], nb_frames: int, batch_size: int, nb_others: int, reuse: bool
    ) -> Iterator[dict[str, Array]]:
        """Yield batches, passing over other workers' positions."""
        batch: dict[str, Array] = {}
        while True:
            drawn = list(islice(positions, batch_size))
            if not (reuse and batch):
                batch = {signal: self._empty(batch_size, nb_frames) for signal in self.signals}
            for i, (track, start) in enumerate(drawn):
                for signal, arrays in batch.items():
                    self._copy_to(arrays[i], track, signal, start)
            yield batch
            next(islice(positions, nb_others, nb_others), None)

    def _unknown(self, track: str) -> ParameterError:
        """Return the error for a track that is not there."""
        near = difflib.get_close_matches(track, self.tracks, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {len(self.tracks)}, see .tracks"
        return ParameterError(f"{self.path}: no track {track}: {hint}")


_READERS: Final[weakref.WeakSet[Reader]] = weakref.WeakSet()
"""All readers of this process, which share what it may hold open: each map holds a file."""


def _make_room() -> None:
    """Let go of maps until the process holds no more than half of the files that it may; what was given out stays."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return
    while True:
        readers = [reader for reader in list(_READERS) if reader._arrays]
        if sum(len(reader._arrays) for reader in readers) < max(1, limit // 2):
            return
        arrays = max(readers, key=lambda reader: len(reader._arrays))._arrays
        with suppress(StopIteration, RuntimeError):  # another thread was here
            arrays.pop(next(iter(arrays)), None)


def advise(error: Exception) -> str:
    """Return what is wrong where a file cannot be mapped and it is not the file's fault, and what to do; or nothing.

    More maps than `_make_room` counts are those of arrays that the user has kept.
    """
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return "too many open files: raise the limit (ulimit -n), or keep fewer segments"
    return ""


def _draw(
    names: Sequence[str], places: NDArray[np.int64], seed: int, rule: str, first: int
) -> Iterator[tuple[str, int]]:
    """Yield what `Reader.positions` says, round by round."""
    rooms = places[:, 2] - places[:, 1] + 1
    ends = np.cumsum(rooms)
    nb_draws = len(places) if rule == "spleeter" else _NB_DRAWS
    number, skip = divmod(first, nb_draws)
    while True:
        rng = np.random.default_rng((seed, number))
        if rule == "spleeter":
            chosen = rng.permutation(len(places))
            offsets = rng.integers(rooms[chosen])
        else:
            spots = rng.integers(ends[-1], size=nb_draws)
            chosen = np.searchsorted(ends, spots, side="right")
            offsets = spots - (ends - rooms)[chosen]
        starts = places[chosen, 1] + offsets
        for track, start in zip(places[chosen, 0][skip:].tolist(), starts[skip:].tolist(), strict=True):
            yield names[track], start
        number, skip = number + 1, 0
