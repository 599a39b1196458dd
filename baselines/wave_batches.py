"""Batches of spectrograms from waves: the mixtures of Open-Unmix, of block U-Nets and of networks for long inputs.

Reads 16-bit wav files; needs nothing that decodes audio. Writes nothing. What a step is given depends on the seed, the
number of the step and the tracks alone; see `data`.

References
----------
Open-Unmix: github.com/sigsep/open-unmix-pytorch, version 1.3, `openunmix/data.py`, class MUSDBDataset. Block U-Nets:
github.com/ws-choi/ISMIR2020_U_Nets_SVS, `source_separation/data/musdb_wrapper`. Long inputs: github.com/legoodmanner/
sequence_length_ss, `dataset/augment.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.data import ALONE, Batch, Batches, Share
from baselines.torch_stft import stft
from musdbkit import musdb18
from musdbkit.cache import MIXTURE
from musdbkit.errors import ParameterError
from musdbkit.stft import StftParams
from musdbkit.waves import Waves

_FULL_SCALE: Final = 2.0**-15
_BLOCK_FRAMES: Final = 2048  # of which statistics are taken at a time


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
