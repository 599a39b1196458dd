"""Batches of spectrograms to train on: Spleeter's sampling from a spectrogram cache, that of others from waves.

Reads the arrays of `musdbkit cache`, or 16-bit wav files; needs nothing that decodes audio. Writes nothing.

What a step is given depends on the seed, the number of the step and the tracks alone. So a run that was stopped goes
on with the very batches it would have had, and the batches of several processes are the parts of one larger batch.

A batch goes one of two ways, with the same values: a thread copies its segments from the mapped files, some steps
ahead, through pinned memory; or, once everything lies on the GPU, they are gathered there. What moves everything there
is another thread, so that training begins at once.

References
----------
Spleeter: github.com/deezer/spleeter, version 2.4.2, `spleeter/dataset.py`. Open-Unmix: github.com/sigsep/
open-unmix-pytorch, version 1.3, `openunmix/data.py`, class MUSDBDataset. Block U-Nets: github.com/ws-choi/
ISMIR2020_U_Nets_SVS, `source_separation/data/musdb_wrapper`. Long inputs: github.com/legoodmanner/sequence_length_ss,
`dataset/augment.py`.
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

from baselines.torch_stft import stft
from musdbkit import musdb18
from musdbkit.cache import MIXTURE, Cache
from musdbkit.errors import ParameterError
from musdbkit.segments import Reader
from musdbkit.stft import StftParams
from musdbkit.waves import Waves

_Item = TypeVar("_Item")

VALIDATION_SECONDS: Final = 12.0
"""Length of Spleeter's validation excerpts, one in the middle of each track; longer where a segment is."""

_NB_AHEAD: Final = 4  # batches that the thread prepares: more than one, as page faults come in bursts
_FULL_SCALE: Final = 2.0**-15
_BLOCK_FRAMES: Final = 2048  # of which statistics are taken at a time
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


class _Mix(NamedTuple):
    """The sources of a step's batch: of each a track, where it begins, how loud, and whether channels change places.

    Each is an array [shape=(batch_size, nb_sources)].
    """

    tracks: NDArray[np.int64]
    starts: NDArray[np.int64]
    gains: NDArray[np.float32]
    swaps: NDArray[np.bool_]


@dataclass(frozen=True)
class Mixing:
    """How the sources of an example are put together; by default as Open-Unmix does.

    Attributes
    ----------
    how : `independent`: each source comes from a track and a place of its own; `remix`: tracks are cut into windows,
        of which each is taken once before any is taken again, all sources of one together; they are then shuffled, each
        kind for itself, among the examples of a group.
    least_gain, most_gain : each source is multiplied by a number between these.
    swap : when the channels of a source change places: `source`: half of the times; `batch`: half of the times in half
        of the batches; `none`: never.
    group : examples of a group; where the batch of all processes does not consist of whole groups, it is one.
    shift : samples by which a window is longer than an example, which begins somewhere in them.
    complex : whether spectra are given, not magnitudes.
    with_waves : whether what losses of waves need is given, too.
    whole : whether validation takes whole tracks and their own mixtures, not segments as long as examples and the sums
        of the sources.
    """

    how: str = "independent"
    least_gain: float = 0.25
    most_gain: float = 1.25
    swap: str = "source"
    group: int = 4
    shift: int = 0
    complex: bool = False
    with_waves: bool = False
    whole: bool = True


AS_OPEN_UNMIX: Final = Mixing()


class WaveBatches(Batches):
    """Batches from waves: mixtures are the sums of sources, of the same place or of others.

    Validation is measured of what is there: whole tracks one by one, or all their segments.

    Parameters
    ----------
    waves : their reader, of signals `mixture`, drums, bass, other and vocals.
    targets : what is estimated: sources, or sums of them (`musdb18.TARGETS`).
    transform : which spectrograms are given.
    segment_seconds : length of an example.
    batch_size : examples in a batch of this process.
    seed : of all that is drawn.
    device : where batches are wanted.
    mixing : how sources are put together.

    Raises
    ------
    ParameterError
        There is no such target, or no track is long enough.
    """

    def __init__(
        self,
        waves: Waves,
        targets: Sequence[str],
        *,
        transform: StftParams,
        segment_seconds: float,
        batch_size: int,
        seed: int,
        device: torch.device,
        mixing: Mixing = AS_OPEN_UNMIX,
    ) -> None:
        super().__init__(waves, musdb18.STEMS, batch_size, seed, device)
        unknown = [target for target in targets if target not in musdb18.TARGETS]
        if unknown:
            raise ParameterError(f"no target {', '.join(unknown)}: expected some of {', '.join(musdb18.TARGETS)}")
        self._transform = transform
        self._mixing = mixing
        self._length = round(segment_seconds * waves.sample_rate)
        if transform.nb_frames(self._length) < 1:
            raise ParameterError(f"segment_seconds is {segment_seconds}, expected {transform.n_fft} samples or more")
        least = self.least_samples(self._length, mixing)
        self._leave_out([track for track in self.tracks if waves.nb_samples(track) < least])
        if not self.tracks:
            seconds = segment_seconds + mixing.shift / waves.sample_rate
            longest = max((waves.nb_samples(track) for track in self.left_out), default=0) / waves.sample_rate
            raise ParameterError(
                f"{waves.path}: no track to train on is longer than {seconds:g} s: the longest has {longest:g} s: "
                "choose shorter inputs (input_seconds, nb_frames or segment_seconds, as the model has)"
            )
        self._nb_samples = np.array([waves.nb_samples(track) for track in self.tracks])
        self._windows = self._cut_windows()
        self._epoch_order: tuple[int, NDArray[np.int64]] | None = None
        sums = [[stem in musdb18.TARGETS[target] for stem in self._signals] for target in targets]
        self._sums = torch.tensor(sums, dtype=torch.float32, device=device)

    @property
    def nb_bytes(self) -> int:
        """What all tracks to train on take."""
        nb_channels = self._array(self.tracks[0], self._signals[0]).shape[1]
        return 2 * int(self._nb_samples.sum()) * int(nb_channels) * len(self._signals)

    @staticmethod
    def least_samples(length: int, mixing: Mixing) -> int:
        """Return how many samples a track must have to be trained on, for examples of a length."""
        return length + (mixing.shift if mixing.how == "remix" else 1)

    @property
    def nb_segments(self) -> int:
        """How many segments that do not overlap the tracks to train on hold; of remixed ones, windows."""
        return len(self._windows)

    def _cut_windows(self) -> NDArray[np.int64]:
        """Return the windows of all tracks: number of the track and first sample [shape=(nb_windows, 2)]."""
        length = self._length + (self._mixing.shift if self._mixing.how == "remix" else 0)
        counts = self._nb_samples // length
        tracks = np.repeat(np.arange(len(counts)), counts)
        return np.column_stack([tracks, np.concatenate([np.arange(count) for count in counts]) * length])

    def _draw(self, first_step: int, share: Share) -> Iterator[_Mix]:
        shape = (share.world_size, self.batch_size, len(self._signals))
        step = first_step
        while True:
            rng = np.random.default_rng((self._seed, step))
            if self._mixing.how == "remix":
                tracks, starts = self._remix(rng, step, shape)
            else:
                tracks = rng.integers(len(self.tracks), size=shape)
                starts = rng.integers(self._nb_samples[tracks] - self._length, endpoint=True)
            gains = rng.uniform(self._mixing.least_gain, self._mixing.most_gain, shape).astype(np.float32)
            swaps = rng.random(shape) < (0.0 if self._mixing.swap == "none" else 0.5)
            if self._mixing.swap == "batch":
                swaps &= rng.random() < 0.5
            yield _Mix(*(values[share.rank] for values in (tracks, starts, gains, swaps)))
            step += 1

    def _remix(
        self, rng: np.random.Generator, step: int, shape: tuple[int, int, int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return tracks and first samples of a step's examples, the sources shuffled in groups [shape as given]."""
        world_size, batch_size, nb_sources = shape
        nb_examples = world_size * batch_size
        numbers = step * nb_examples + np.arange(nb_examples)
        epochs, places = np.divmod(numbers, self.nb_segments)
        orders = {epoch: self._order(int(epoch)) for epoch in np.unique(epochs)}
        windows = self._windows[[orders[epoch][place] for epoch, place in zip(epochs, places, strict=True)]]
        windows[:, 1] += rng.integers(self._mixing.shift, size=nb_examples, endpoint=True)
        group = self._mixing.group if nb_examples % self._mixing.group == 0 else nb_examples
        grouped = np.repeat(windows.reshape(-1, group, 1, 2), nb_sources, axis=2)
        orders_in_group = rng.permuted(np.broadcast_to(np.arange(group)[:, None], grouped.shape[:3]), axis=1)
        shuffled = np.take_along_axis(grouped, orders_in_group[..., None], axis=1).reshape(*shape, 2)
        return shuffled[..., 0], shuffled[..., 1]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Return the order in which an epoch takes the windows."""
        if self._epoch_order is None or self._epoch_order[0] != epoch:
            rng = np.random.default_rng((self._seed, epoch, 1))  # three numbers: no step's
            self._epoch_order = epoch, rng.permutation(self.nb_segments)
        return self._epoch_order[1]

    def _stage(self, draw: _Mix) -> Tensor:
        first = self._array(self.tracks[0], self._signals[0])
        stored, view = self._empty((*draw.tracks.shape, self._length, first.shape[1]), torch.int16)
        for k, i in np.ndindex(draw.tracks.shape):
            array = self._array(self.tracks[draw.tracks[k, i]], self._signals[i])
            start = draw.starts[k, i]
            np.copyto(view[k, i], array[start : start + self._length])
        return stored

    def _gather_all(self, draw: _Mix) -> Tensor:
        parts = [
            self._gather(signal, draw.tracks[:, i], draw.starts[:, i], self._length)
            for i, signal in enumerate(self._signals)
        ]
        return torch.stack(parts, 1).movedim(-1, 2)

    def _finish(self, draw: _Mix, stored: Tensor) -> Batch:
        gains = torch.from_numpy(draw.gains * np.float32(_FULL_SCALE)).to(self._device, non_blocking=True)
        swaps = torch.from_numpy(draw.swaps).to(self._device, non_blocking=True)
        sources = stored.movedim(-1, -2) * gains[..., None, None]
        sources = torch.where(swaps[..., None, None], sources.flip(-2), sources)
        return self._transform_all(sources.sum(1), sources)

    def _transform_all(self, mixture: Tensor, sources: Tensor) -> Batch:
        """Return spectrograms of the mixture and the targets, from waves with time last."""
        waves = torch.einsum("ts,bscn->btcn", self._sums, sources)
        spectrum, targets = stft(mixture, self._transform), stft(waves, self._transform)
        extra = (spectrum, waves) if self._mixing.with_waves else ()
        if self._mixing.complex:
            return Batch(spectrum, targets, *extra)
        return Batch(spectrum.abs(), targets.abs(), *extra)

    def valid(self, share: Share = ALONE) -> Iterator[Batch]:
        """Yield whole validation tracks, or all their segments."""
        if not self._mixing.whole:
            yield from self._valid_segments(share)
            return
        for track in self.valid_tracks[share.rank :: share.world_size]:
            if self.reader.nb_frames(track) < self._transform.n_fft:
                continue
            waves = np.stack([self._array(track, signal) for signal in (MIXTURE, *self._signals)])
            samples = torch.from_numpy(waves).to(self._device).mT.contiguous() * _FULL_SCALE
            yield self._transform_all(samples[None, 0], samples[None, 1:])

    def _valid_segments(self, share: Share) -> Iterator[Batch]:
        """Yield the segments of validation tracks that are whole, in batches; their mixtures are sums of sources."""
        places = [
            (track, start)
            for track in self.valid_tracks
            for start in range(0, self.reader.nb_frames(track) - self._length + 1, self._length)
        ][share.rank :: share.world_size]
        for i in range(0, len(places), self.batch_size):
            waves = np.stack(
                [
                    [self._array(track, signal)[start : start + self._length] for signal in self._signals]
                    for track, start in places[i : i + self.batch_size]
                ]
            )
            sources = torch.from_numpy(waves).to(self._device).mT.contiguous() * _FULL_SCALE
            yield self._transform_all(sources.sum(1), sources)


def measure_statistics(
    waves: Waves, transform: StftParams, device: torch.device, say: Callable[[int, int], None] = lambda *_: None
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the mixtures' magnitudes [shape of each=(nb_bins,), float64].

    Over all frames of all tracks to train on, of the mean over channels: what Open-Unmix scales its input with.

    Parameters
    ----------
    waves : the reader.
    transform : whose magnitudes.
    device : where to compute.
    say : called with the number of each track, from 0, and of all, before it is read.

    Raises
    ------
    ParameterError
        No track holds a frame.
    """
    count = 0
    total = torch.zeros(transform.nb_bins, dtype=torch.float64, device=device)
    squares = torch.zeros_like(total)
    tracks = waves.in_split("train")
    for number, track in enumerate(tracks):
        say(number, len(tracks))
        array = waves.array(track, MIXTURE)
        for first in range(0, transform.nb_frames(len(array)), _BLOCK_FRAMES):
            start = first * transform.hop_length
            part = array[start : start + (_BLOCK_FRAMES - 1) * transform.hop_length + transform.n_fft]
            samples = torch.from_numpy(part.T.copy()).to(device) * _FULL_SCALE
            magnitudes = stft(samples, transform).abs().mean(0).double()
            total += magnitudes.sum(1)
            squares += magnitudes.square().sum(1)
            count += magnitudes.shape[1]
    if not count:
        raise ParameterError(f"{waves.path}: no track to train on has {transform.n_fft} samples")
    mean = total / count
    return mean.cpu(), (squares / count - mean.square()).clamp_min(0).sqrt().cpu()


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
