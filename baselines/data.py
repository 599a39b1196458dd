"""Batches of spectrograms to train on: what all have in common, and Spleeter's, from a spectrogram cache.

Reads the arrays of `musdbkit cache`, or for `wave_batches` 16-bit wav files; needs nothing that decodes audio. Writes
nothing.

What a step is given depends on the seed, the number of the step and the tracks alone. So a run that was stopped goes
on with the very batches it would have had, and the batches of several processes are the parts of one larger batch.

A batch goes one of two ways, with the same values: a thread copies its segments from the mapped files, some steps
ahead, through pinned memory; or, once everything lies on the GPU, they are gathered there. What moves everything there
is another thread, so that training begins at once.

References
----------
Spleeter: github.com/deezer/spleeter, version 2.4.2, `spleeter/dataset.py`.
"""

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Generic, NamedTuple, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from musdbkit.cache import MIXTURE, Cache
from musdbkit.errors import ParameterError
from musdbkit.segments import Reader

_Item = TypeVar("_Item")

VALIDATION_SECONDS: Final = 12.0
"""Length of Spleeter's validation excerpts, one in the middle of each track; longer where a segment is."""

_NB_AHEAD: Final = 4  # batches that the thread prepares: more than one, as page faults come in bursts
_FREE_SHARE: Final = 0.6  # of the GPU's memory that data may take; the rest is for the network


class Batch(NamedTuple):
    """What a network learns from: magnitudes, or spectra for networks that take those.

    Attributes
    ----------
    mixture : what goes in [shape=(batch_size, nb_channels, nb_bins, nb_frames), float32 or complex64].
    targets : what is to come out [shape=(batch_size, nb_targets, nb_channels, nb_bins, nb_frames), as the mixture].
    spectrum : the mixture's spectra, for losses that are measured of waves [shape as the mixture's, complex64].
    waves : the targets, for the same [shape=(batch_size, nb_targets, nb_channels, nb_samples), float32].
    """

    mixture: Tensor
    targets: Tensor
    spectrum: Tensor | None = None
    waves: Tensor | None = None


@dataclass(frozen=True)
class Share:
    """Which part of each step's batch this process draws.

    Attributes
    ----------
    rank, world_size : number of this process, and of all.
    """

    rank: int = 0
    world_size: int = 1


ALONE: Final = Share()


class Batches(ABC):
    """Batches of one dataset for one device.

    Attributes
    ----------
    reader : where they come from.
    batch_size : examples in a batch of this process.
    tracks : names of the tracks to train on.
    left_out : names of those of split train that are too short for a segment.
    valid_tracks : names of the tracks to validate on.
    nb_bytes : what everything takes on the device, if it is to be resident.
    waited_seconds : how long `train` has waited for segments; what it computes of them is not counted.
    """

    def __init__(
        self, reader: Reader, signals: Sequence[str], batch_size: int, seed: int, device: torch.device
    ) -> None:
        if batch_size < 1:
            raise ParameterError(f"batch_size is {batch_size}, expected 1 or more")
        self.reader = reader
        self.batch_size = batch_size
        self.tracks: tuple[str, ...] = reader.in_split("train")
        self.left_out: tuple[str, ...] = ()
        self.valid_tracks: tuple[str, ...] = reader.in_split("valid")
        self.waited_seconds = 0.0
        self._signals = tuple(signals)
        self._seed = seed
        self._device = device
        self._lock = threading.Lock()  # a reader serves one thread at a time
        self._resident: dict[str, Tensor] = {}
        self._offsets = np.zeros(0, np.int64)
        self._loader: threading.Thread | None = None
        self._closed = threading.Event()
        self._problem: Exception | None = None

    def _leave_out(self, tracks: Sequence[str]) -> None:
        """Do not train on tracks that are too short."""
        self.left_out = tuple(tracks)
        self.tracks = tuple(track for track in self.tracks if track not in tracks)

    @property
    @abstractmethod
    def nb_bytes(self) -> int:
        """What all tracks to train on take."""

    @property
    def resident(self) -> bool:
        """Whether everything lies on the device already."""
        return len(self._resident) == len(self._signals)

    def fits(self) -> bool:
        """Return whether everything has room on the device beside a network; never on a CPU, where files are mapped."""
        return self._device.type == "cuda" and self.nb_bytes < _FREE_SHARE * torch.cuda.mem_get_info(self._device)[0]

    def start_loading(self) -> None:
        """Begin to move everything to the device; training goes on meanwhile."""
        lengths = [self.reader.nb_frames(track) for track in self.tracks]
        self._offsets = np.cumsum([0, *lengths])
        self._loader = threading.Thread(target=self._load, name="baselines-load", daemon=True)
        self._loader.start()

    def close(self) -> None:
        """End the loading, if it still goes on."""
        self._closed.set()
        if self._loader is not None:
            self._loader.join()

    def finish_loading(self) -> None:
        """Wait until everything is on the device."""
        if self._loader is not None:
            self._loader.join()
        if self._problem is not None:
            raise self._problem

    def _load(self) -> None:
        """Move everything to the device, on a stream of its own."""
        try:
            loaded = {}
            stream = _make_stream(self._device)
            with torch.cuda.stream(stream):
                for signal in self._signals:
                    first = self._array(self.tracks[0], signal)
                    shape = (int(self._offsets[-1]), *first.shape[1:])
                    whole = torch.empty(shape, dtype=getattr(torch, first.dtype.name), device=self._device)
                    loaded[signal] = whole
                    for track, start in zip(self.tracks, self._offsets, strict=False):
                        if self._closed.is_set():
                            return
                        part = self._array(track, signal)
                        whole[start : start + len(part)].copy_(torch.from_numpy(np.array(part)))
                if stream is not None:
                    stream.synchronize()
            self._resident = loaded
        except torch.OutOfMemoryError:  # the network has taken more than was thought: go on from the files
            del loaded, whole
            torch.cuda.empty_cache()
        except Exception as error:  # told at the next batch, in the training thread
            self._problem = error

    def _array(self, track: str, signal: str) -> NDArray[Any]:
        """Return a mapped signal, of which what is used [shape=(nb_frames, ..., nb_channels)]."""
        with self._lock:
            return self.reader.array(track, signal)

    def _gather(self, signal: str, tracks: NDArray[np.int64], starts: NDArray[np.int64], length: int) -> Tensor:
        """Return segments from the device [shape=(nb_segments, ..., length), a copy with time last]."""
        first = torch.from_numpy(self._offsets[tracks] + starts).to(self._device, non_blocking=True)
        return self._resident[signal].unfold(0, length, 1)[first]

    def train(self, first_step: int = 0, share: Share = ALONE) -> Iterator[Batch]:
        """Yield the batches of steps from `first_step` on, without end, each on the device.

        Parameters
        ----------
        first_step : how many steps were taken before.
        share : the part of each step's batch that is this process's.

        Raises
        ------
        DatasetError, AudioError
            A file is not what the reader was told.
        """
        step = first_step
        if not self.resident:
            with _Ahead(self._draw(step, share), self._stage, self._device) as staged:
                for draw, stored in self._timed(iter(staged)):
                    yield self._finish(draw, stored)
                    step += 1
                    if self._problem is not None:
                        raise self._problem
                    if self.resident:
                        break
        for draw in self._timed(self._draw(step, share)):
            yield self._finish(draw, self._gather_all(draw))

    def _timed(self, items: Iterator[_Item]) -> Iterator[_Item]:
        """Yield what there is, and add up how long it was waited for."""
        while True:
            start = time.perf_counter()
            item = next(items)
            self.waited_seconds += time.perf_counter() - start
            yield item

    @abstractmethod
    def _draw(self, first_step: int, share: Share) -> Iterator[Any]:
        """Yield what each step is given."""

    @abstractmethod
    def _stage(self, draw: Any) -> Tensor:
        """Return a step's segments as they are stored, in memory that the device copies from."""

    @abstractmethod
    def _gather_all(self, draw: Any) -> Tensor:
        """Return the same from the device."""

    @abstractmethod
    def _finish(self, draw: Any, stored: Tensor) -> Batch:
        """Return a step's batch from its segments as they are stored, on the device."""

    @abstractmethod
    def valid(self, share: Share = ALONE) -> Iterator[Batch]:
        """Yield the validation batches of this process, always the same ones."""

    def _empty(self, shape: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, NDArray[Any]]:
        """Return memory that the device copies from, and the same as an array."""
        tensor = torch.empty(tuple(shape), dtype=dtype, pin_memory=self._device.type == "cuda")
        return tensor, tensor.numpy()


class SpectrogramBatches(Batches):
    """Spleeter's batches, from a spectrogram cache: all chunks of all tracks in a random order, cropped at random.

    Parameters
    ----------
    cache : its reader.
    targets : signals that are estimated.
    nb_frames, nb_bins : size of an example; bins from 0 Hz on.
    batch_size : examples in a batch of this process.
    seed : of the order and the crops.
    device : where batches are wanted.
    nb_chunks, chunk_seconds : excerpts of each track; see `Reader.chunks`.

    Raises
    ------
    ParameterError
        The cache lacks a signal or bins, or no track is long enough.
    DatasetError
        A file is missing, or not what the cache says: looked at now, not only when training comes to it.
    """

    def __init__(
        self,
        cache: Cache,
        targets: Sequence[str],
        *,
        nb_frames: int,
        nb_bins: int,
        batch_size: int,
        seed: int,
        device: torch.device,
        nb_chunks: int,
        chunk_seconds: float,
    ) -> None:
        super().__init__(cache, (MIXTURE, *targets), batch_size, seed, device)
        lacking = [signal for signal in self._signals if signal not in cache.signals]
        if lacking:
            raise ParameterError(
                f"{cache.path}: no {', '.join(lacking)}, only {', '.join(cache.signals)}: build one with "
                "musdbkit cache CONFIG.json --out DIR, of a configuration of these targets, or with "
                f"musdbkit cache --preset spleeter --targets {','.join(targets)} --out DIR"
            )
        if nb_bins > cache.parameters.nb_bins:
            raise ParameterError(
                f"{cache.path}: {cache.parameters.nb_bins} bins, expected {nb_bins} or more: build the cache with them"
            )
        self._cache = cache
        self._nb_frames, self._nb_bins = nb_frames, nb_bins
        self._chunks: dict[str, Any] = {"nb_chunks": nb_chunks, "chunk_seconds": chunk_seconds}
        next(self._positions(0))  # an error is to come here
        self._leave_out([track for track in self.tracks if not cache.chunks(track, nb_frames, **self._chunks)])
        for track in (*self.tracks, *self.valid_tracks):
            for signal in self._signals:
                cache.array(track, signal)
        self._numbers = {track: i for i, track in enumerate(self.tracks)}
        self._tables = self._read_tables(self.tracks)

    def _read_tables(self, tracks: Sequence[str]) -> Tensor | None:
        """Return what uint8 codes stand for [shape=(nb_signals, nb_tracks, 256)], None where magnitudes are stored."""
        tables = [[self._cache.table(track, signal) for track in tracks] for signal in self._signals]
        if not tracks or tables[0][0] is None:
            return None
        return torch.from_numpy(np.array(tables)).to(self._device)

    @property
    def nb_bytes(self) -> int:
        """What all tracks to train on take."""
        nb_frames = sum(self._cache.nb_frames(track) for track in self.tracks)
        nb_values = nb_frames * self._nb_bins * self._cache.parameters.nb_channels * len(self._signals)
        return nb_values * np.dtype(self._cache.parameters.dtype).itemsize

    def _array(self, track: str, signal: str) -> NDArray[Any]:
        return super()._array(track, signal)[:, : self._nb_bins]

    def _positions(self, first: int) -> Iterator[tuple[str, int]]:
        """Yield tracks and first frames from the segment numbered `first` on."""
        return self._cache.positions(
            self._nb_frames,
            seed=self._seed,
            tracks=self.tracks or None,
            first=first,
            **self._chunks,
        )

    def _draw(self, first_step: int, share: Share) -> Iterator[list[tuple[str, int]]]:
        positions = self._positions((first_step * share.world_size + share.rank) * self.batch_size)
        nb_others = (share.world_size - 1) * self.batch_size
        while True:
            yield list(islice(positions, self.batch_size))
            next(islice(positions, nb_others, nb_others), None)

    def _stage(self, draw: list[tuple[str, int]]) -> Tensor:
        p = self._cache.parameters
        shape = (len(self._signals), len(draw), self._nb_frames, self._nb_bins, p.nb_channels)
        stored, view = self._empty(shape, getattr(torch, p.dtype))
        for i, signal in enumerate(self._signals):
            for k, (track, start) in enumerate(draw):
                array = self._array(track, signal)
                np.copyto(view[i, k], array[start : start + self._nb_frames])
        return stored

    def _gather_all(self, draw: list[tuple[str, int]]) -> Tensor:
        tracks = np.array([self._numbers[track] for track, _ in draw])
        starts = np.array([start for _, start in draw])
        parts = [self._gather(signal, tracks, starts, self._nb_frames) for signal in self._signals]
        return torch.stack(parts).movedim(-1, 2)

    def _finish(self, draw: list[tuple[str, int]], stored: Tensor) -> Batch:
        tables = self._tables
        if tables is not None:
            numbers = torch.from_numpy(np.array([self._numbers[track] for track, _ in draw]))
            tables = tables[:, numbers.to(tables.device, non_blocking=True)]
        return self._decode(stored, tables)

    def _decode(self, stored: Tensor, tables: Tensor | None) -> Batch:
        """Return a batch from what is stored [shape=(nb_signals, batch_size, nb_frames, nb_bins, nb_channels)]."""
        if tables is None:
            values = stored.float()
        else:
            codes = stored.flatten(2).long()
            values = tables.gather(2, codes).view(stored.shape)
        values = values.permute(1, 0, 4, 3, 2).contiguous()
        return Batch(values[:, 0], values[:, 1:])

    def valid(self, share: Share = ALONE) -> Iterator[Batch]:
        """Yield the segment in the middle of each validation track, in batches."""
        p = self._cache.parameters
        seconds = max(VALIDATION_SECONDS, (p.n_fft + (self._nb_frames - 1) * p.hop_length) / p.sample_rate)
        draws = []
        for track in self.valid_tracks:
            places = self._cache.chunks(track, self._nb_frames, nb_chunks=1, chunk_seconds=seconds)
            draws += [(track, (first + last) // 2) for first, last in places]
        draws = draws[share.rank :: share.world_size]
        for i in range(0, len(draws), self.batch_size):
            draw = draws[i : i + self.batch_size]
            tables = self._read_tables([track for track, _ in draw])
            yield self._decode(self._stage(draw).to(self._device), tables)


def _make_stream(device: torch.device) -> torch.cuda.Stream | None:
    """Return a stream of a GPU's own, beside the one it computes on; None for a CPU."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]


_Draw = TypeVar("_Draw")


class _Ahead(Generic[_Draw]):
    """A thread that stages what each step is given, some steps ahead; iterate in the training thread.

    To a GPU the segments are copied on a stream of their own, while the steps before are computed.
    """

    def __init__(
        self, draws: Iterator[_Draw], stage: Callable[[_Draw], Tensor], device: torch.device, nb_ahead: int = _NB_AHEAD
    ) -> None:
        self._draws = draws
        self._stage = stage
        self._device = device
        self._stream = _make_stream(device)
        self._queue: queue.Queue[tuple[_Draw, Tensor, Any] | Exception] = queue.Queue(nb_ahead)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="baselines-data", daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the thread."""
        self._stopped.set()
        while self._thread.is_alive():
            with suppress(queue.Empty):
                self._queue.get(timeout=0.05)
        self._thread.join()

    def _run(self) -> None:
        """Stage until stopped, in the thread."""
        try:
            for draw in self._draws:
                stored, copied = self._stage(draw), None
                if self._stream is not None:
                    with torch.cuda.stream(self._stream):
                        stored = stored.to(self._device, non_blocking=True)
                        copied = self._stream.record_event()
                self._put((draw, stored, copied))
                if self._stopped.is_set():
                    return
        except Exception as error:  # raised where the batch is wanted
            self._put(error)

    def _put(self, item: tuple[_Draw, Tensor, Any] | Exception) -> None:
        """Hand over, unless it is not wanted any more."""
        while not self._stopped.is_set():
            with suppress(queue.Full):
                self._queue.put(item, timeout=0.1)
                return

    def __iter__(self) -> Iterator[tuple[_Draw, Tensor]]:
        """Yield what was drawn and its segments, on the device."""
        while True:
            item = self._queue.get()
            if isinstance(item, Exception):
                raise item
            draw, stored, copied = item
            if copied is not None:
                current = torch.cuda.current_stream(self._device)
                current.wait_event(copied)
                stored.record_stream(current)
            yield draw, stored
