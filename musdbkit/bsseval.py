"""BSSEval v4 and v3 as museval defines them: SDR, ISR, SIR and SAR.

Reads arrays, or whatever a function reads frame by frame; writes nothing.

With s the reference of a source, y its estimate, and in each frame of a track

- P y, the best approximation of y by the delayed channels of s (0 to 511 samples),
- A y, the best approximation of y by the delayed channels of all references,

an estimate's error y - s is the sum of a spatial error P y - s, interference A y - P y and artefacts y - A y, and

| measure | 10 log10 of |
|---|---|
| SDR | sum s^2 / sum (y - s)^2 |
| ISR | sum s^2 / sum (P y - s)^2 |
| SIR | sum (P y)^2 / sum (A y - P y)^2 |
| SAR | sum (A y)^2 / sum (y - A y)^2 |

In v4 the filters of P and A are those that fit the whole track best, in v3 those of each frame [1]_, [2]_.

How it is computed: everything but the SDR follows from correlations at lags below the filter length. Those of each
frame are computed once, by FFT in short blocks; their sum over the frames, with the pairs of samples that lie in
different frames added, gives the one Gram matrix of the track, which is factored once; and each energy above is a
quadratic form of a filter in a frame's correlations. So the signals are read once (twice where frames overlap or leave
gaps), nothing is filtered, and memory grows by half a megabyte per frame of a track with four stereo stems. A second
scenario of the same track, whose references are sums of the first one's, costs a second, smaller, factorisation only.

Conditioning: a channel that is silent, or a sum of channels before it (L = R, duplicate sources), adds nothing to what
the others can approximate and is left out of the equations. What is above the bandwidth of all references is not
determined by them. With references from 16-bit files rounding noise fills that band. With float samples decoded from
AAC nothing does: museval's ISR, SIR and SAR then change with the order and the gain of the sources, and its SIR is far
below that of the same references at 16 bit. Such results are flagged (see `Analysis`), and computed with a ridge, as if
16-bit rounding noise had been added to the references: order and gain do not matter. The scores are near to those of
16-bit references where the estimates have no more in that band than these; they are not museval's.

Conventions: reference before estimate; arrays have the shape (nb_sources, nb_samples, nb_channels); windows and hops
are in samples. ISR, SIR and SAR beyond some 120 dB are rounding errors. The same code runs on NumPy and, on a GPU, on
torch, in float64.

References
----------
.. [1] Stöter, Liutkus, Ito: The 2018 Signal Separation Evaluation Campaign, LVA/ICA 2018.
.. [2] Vincent, Gribonval, Févotte: Performance measurement in blind audio source separation, IEEE TASLP 14(4), 2006.
"""

import functools
import operator
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import numpy as np
import scipy.fft
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from musdbkit import metrics
from musdbkit.errors import MissingDependencyError, ParameterError
from musdbkit.metrics import SECOND, Moments, Silence
from musdbkit.tracks import nb_cores

Array: TypeAlias = Any
"""A NumPy array or a torch tensor."""

Read: TypeAlias = Callable[[slice], tuple[Sequence[NDArray[Any]], Sequence[NDArray[Any]]]]
"""Returns the references and the estimates of a part of the track [shape of each=(nb_samples, nb_channels)]."""

FILTER_LENGTH: Final = 512
"""Taps of the distortion filters of every published BSSEval score."""

ILL_CONDITIONED: Final = 1e-10
"""Where the smallest eigenvalue of the references' Gram matrix is below this share of a channel's energy, scores are
flagged: 16-bit files have some 1e-8, float samples decoded from AAC 1e-11 and less."""

RIDGE: Final = 1e-8
"""Share of a channel's energy that is then added to it: what rounding to 16 bit would have added."""

MAX_THREADS: Final = 16
"""Threads that are used by default, at most: each has some 25 MB of buffers."""

_FLOOR: Final = float(np.finfo(float).eps) ** 2  # 313 dB: no measure of filtered signals is infinite, as in museval
_DEPENDENT: Final = 1e-13  # share of a channel's energy; 16-bit channels that only look alike differ by 1e-10 and more
_TILE: Final = 65536  # samples that are transformed at once, at most: more would fall out of the processor's cache
_BLAS: Final = threading.Lock()
_BATCH: Final = 8  # frames at once on a GPU
_NB_ITERATIONS: Final = 3  # of the power method: the smallest eigenvalues lie close together


class IllConditionedWarning(UserWarning):
    """The references do not determine ISR, SIR and SAR: a ridge was added."""


@dataclass(frozen=True)
class Scenario:
    """Sources that are evaluated together: each is interference to the others.

    Attributes
    ----------
    references : for each source the indices of the references that it is the sum of.
    estimates : for each source the index of its estimate.
    """

    references: tuple[tuple[int, ...], ...]
    estimates: tuple[int, ...]


@dataclass(frozen=True)
class Analysis:
    """What came of one scenario of a track; arrays of frames have the shape (nb_sources, nb_frames).

    Attributes
    ----------
    framewise : moments of the frames.
    total : moments of the whole track [shape of each=(nb_sources,)].
    scores : by name (`SDR`, and with filters `ISR`, `SIR`, `SAR`) in dB; NaN where a frame is dropped.
    independence : the smallest eigenvalue of the Gram matrix of the references' delayed channels, each of energy 1:
        the least that any combination of them keeps. 1 without filters; with v3 the smallest of all frames.
    ridge : the share of its energy that was added to each channel, `RIDGE` where independence is below
        `ILL_CONDITIONED`, else 0.
    """

    framewise: Moments
    total: Moments
    scores: dict[str, NDArray[np.float64]]
    independence: float
    ridge: float

    @property
    def ill_conditioned(self) -> bool:
        """Whether ISR, SIR and SAR would depend on rounding errors by up to several dB, and a ridge was added."""
        return self.independence < ILL_CONDITIONED


def evaluate(
    references: ArrayLike,
    estimates: ArrayLike,
    win: float = SECOND,
    hop: float = SECOND,
    mode: str = "v4",
    padding: bool = True,
    *,
    silence: Silence = "museval",
    filter_length: int = FILTER_LENGTH,
    device: str = "cpu",
    workers: int | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return SDR, ISR, SIR and SAR of a group of sources [shape of each=(nb_sources, nb_frames), dB].

    As museval.evaluate, except that a source that is silent in the whole track gets NaN where museval raises an error,
    and takes no frames of the others away; its reference, if that is not silent, still counts as interference to them.

    Parameters
    ----------
    references, estimates : groups of sources [shape=(nb_sources, nb_samples, nb_channels)]; arrays, or sequences of an
        array for each source, which are not copied.
    win, hop : samples.
    mode : `v4`, or `v3` with filters of their own for each frame.
    padding : whether estimates of another length are cut or padded with zeros to that of the references.
    silence : which frames are NaN: see `metrics.dropped`.
    filter_length : taps of the distortion filters.
    device : `cpu`, or what torch calls a GPU, as `cuda` or `cuda:1`.
    workers : threads; by default all cores, up to 16. The result does not depend on them.

    Warns
    -----
    IllConditionedWarning
        The references do not determine ISR, SIR and SAR: a ridge was added.

    Raises
    ------
    ParameterError
        The shapes do not fit, or samples are not finite.
    """
    lengths = {np.shape(source)[:1] for source in cast(Iterable[ArrayLike], references)}
    if padding and len(lengths) == 1 and () not in lengths:
        estimates = cast(ArrayLike, pad(cast(Iterable[ArrayLike], estimates), *lengths.pop()))
    true, estimated = metrics.groups(references, estimates)
    sources = tuple(range(len(true)))

    def read(part: slice) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
        return [source[part] for source in true], [source[part] for source in estimated]

    (result,) = analyse(
        read,
        len(true[0]),
        [Scenario(tuple((i,) for i in sources), sources)],
        window=win,
        hop=hop,
        mode=mode,
        silence=silence,
        filter_length=filter_length,
        device=device,
        workers=workers,
    )
    if result.ill_conditioned:
        warnings.warn(describe_conditioning(result), IllConditionedWarning, stacklevel=2)
    scores = result.scores
    return scores["SDR"], scores["ISR"], scores["SIR"], scores["SAR"]


def pad(estimates: Iterable[ArrayLike], nb_samples: int) -> list[NDArray[Any]]:
    """Return estimates [shape of each=(nb_samples, nb_channels)], each cut or padded with zeros to a length."""
    arrays = [np.asarray(source)[:nb_samples] for source in estimates]
    return [
        np.pad(array, ((0, nb_samples - len(array)), *((0, 0),) * (array.ndim - 1)))
        if len(array) < nb_samples
        else array
        for array in arrays
    ]


def describe_conditioning(result: Analysis) -> str:
    """Return one line on what an ill-conditioned result means."""
    return (
        f"the references determine the filters only to {result.independence:.0e} (expected {ILL_CONDITIONED:.0e} or "
        f"more): a ridge of {result.ridge:.0e} was added, ISR, SIR and SAR are not museval's: use 16-bit references"
    )


def analyse(
    read: Read,
    nb_samples: int,
    scenarios: Sequence[Scenario],
    *,
    window: float = SECOND,
    hop: float = SECOND,
    mode: str = "v4",
    filters: bool = True,
    silence: Silence = "museval",
    filter_length: int = FILTER_LENGTH,
    device: str = "cpu",
    workers: int | None = None,
) -> list[Analysis]:
    """Return the scores of all scenarios of one track, in one pass through its samples.

    Parameters
    ----------
    read : returns the references and the estimates of a part; called from several threads.
    nb_samples : samples per channel.
    scenarios : what is evaluated together.
    window, hop : samples.
    mode : `v4` or `v3`.
    filters : whether to compute ISR, SIR and SAR, too.
    silence, filter_length, device, workers : as in `evaluate`.

    Raises
    ------
    ParameterError
        A parameter cannot be used.
    MissingDependencyError
        A device was asked for, and torch is not installed.
    """
    if mode not in ("v4", "v3"):
        raise ParameterError(f"mode {mode}: expected v4 or v3")
    metrics.check_silence(silence)
    numbers = {"nb_samples": nb_samples, "filter_length": filter_length, "workers": 1 if workers is None else workers}
    for name, number in numbers.items():
        if number < 1:
            raise ParameterError(f"{name} {number}: expected 1 or more")
    if filter_length > _TILE // 2:
        raise ParameterError(f"filter_length {filter_length}: expected {_TILE // 2} or less")
    from threadpoolctl import threadpool_limits

    backend = _open_device(device)
    nb_threads = workers or min(nb_cores(), MAX_THREADS)
    # the number of BLAS' own threads, which is one for the whole process, would change the last digits
    with _BLAS, ThreadPoolExecutor(nb_threads) as pool, threadpool_limits(limits=1, user_api="blas"):
        sweep = _Sweep(read, scenarios, filter_length, backend, pool)
        return sweep.analyse(nb_samples, metrics.frames(nb_samples, window, hop), mode, filters, silence)


def check_device(device: str) -> None:
    """Refuse a device that cannot compute.

    Raises
    ------
    ParameterError
        torch does not know or have it.
    MissingDependencyError
        torch is not installed.
    """
    _open_device(device)


def _open_device(device: str) -> "_Numpy | _Torch":
    """Return what computes on a device."""
    return _Numpy() if device == "cpu" else _Torch(device)


class _Numpy:
    """What differs between NumPy and torch: here NumPy."""

    xp: Any = np
    batch = 1

    def zeros(self, shape: tuple[int, ...], dtype: type = float) -> Array:
        """Return zeros [float64, or complex128 for complex]."""
        return np.zeros(shape, dtype)

    def array(self, values: NDArray[Any]) -> Array:
        """Return an array from host memory [float64]."""
        return np.asarray(values, float)

    def host(self, values: Array) -> NDArray[np.float64]:
        """Return an array in host memory."""
        return np.asarray(values)

    def windows(self, values: Array, length: int) -> Array:
        """Return all windows along the last axis [shape=(..., nb_windows, length)]."""
        return np.lib.stride_tricks.sliding_window_view(values, length, axis=-1)

    def cholesky(self, tile: Array) -> Array | None:
        """Return the lower Cholesky factor of a matrix, or None if it has none."""
        factor, status = scipy.linalg.lapack.dpotrf(tile, lower=1)
        return factor if status == 0 else None

    def divide(self, right: Array, tile: Array, *, transposed: bool = False) -> Array:
        """Return the solution of equations with a lower triangular matrix, or with its transpose."""
        return scipy.linalg.solve_triangular(tile, right, trans=int(transposed), lower=True, check_finite=False)


class _Torch:
    """What differs between NumPy and torch: here torch, on a GPU or, for tests, on the processor."""

    batch = _BATCH

    def __init__(self, device: str) -> None:
        try:
            import torch
        except ImportError as error:
            raise MissingDependencyError(f"device {device} needs torch: pip install 'musdbkit[baselines]'") from error
        self.xp: Any = torch
        try:
            self._device = torch.device(device.removeprefix("torch:"))
            self.zeros((1,))
        except (RuntimeError, AssertionError, TypeError) as error:  # TypeError: no float64 there
            raise ParameterError(f"device {device}: {str(error).splitlines()[0]}") from error

    def zeros(self, shape: tuple[int, ...], dtype: type = float) -> Array:
        """Return zeros [float64, or complex128 for complex]."""
        chosen = self.xp.complex128 if dtype is complex else self.xp.float64
        return self.xp.zeros(shape, dtype=chosen, device=self._device)

    def array(self, values: NDArray[Any]) -> Array:
        """Return an array from host memory [float64]."""
        return self.xp.as_tensor(values).to(self._device).to(self.xp.float64)

    def host(self, values: Array) -> NDArray[np.float64]:
        """Return an array in host memory."""
        return np.asarray(values.cpu())

    def windows(self, values: Array, length: int) -> Array:
        """Return all windows along the last axis [shape=(..., nb_windows, length)]."""
        return values.unfold(-1, length, 1)

    def cholesky(self, tile: Array) -> Array | None:
        """Return the lower Cholesky factor of a matrix, or None if it has none."""
        factor, status = self.xp.linalg.cholesky_ex(tile)
        return factor if int(status) == 0 else None

    def divide(self, right: Array, tile: Array, *, transposed: bool = False) -> Array:
        """Return the solution of equations with a lower triangular matrix, or with its transpose."""
        return self.xp.linalg.solve_triangular(tile.mT if transposed else tile, right, upper=transposed)


@dataclass(frozen=True)
class _Lags:
    """Correlations of some frames, or of a whole track as one frame.

    An entry is the sum over time of a reference channel, some samples earlier, times another channel.

    Attributes
    ----------
    within : with the reference channels [shape=(nb_frames, nb_references, nb_references, filter_length)].
    across : with the estimate channels [shape=(nb_frames, nb_references, nb_estimates, filter_length)].
    """

    within: Array
    across: Array

    def __getitem__(self, span: slice) -> "_Lags":
        """Return the correlations of some of the frames."""
        return _Lags(self.within[span], self.across[span])


@dataclass(frozen=True)
class _Fit:
    """Filters that fit a scenario's estimates best.

    Attributes
    ----------
    own, full : filters on a source's own references and on all of them
        [shape=(nb_reference_channels, filter_length, nb_sources * nb_channels)].
    identity : filters that give the source itself [same shape].
    independence, ridge : see `Analysis`.
    """

    own: Array
    full: Array
    identity: Array
    independence: float
    ridge: float


@dataclass(frozen=True)
class _Piece:
    """What is transformed at once: a part of the track, or a piece of a long one.

    Attributes
    ----------
    index : which part it is of.
    start, stop : its samples.
    goes_on : whether it is not the part's first.
    looks_back : whether the samples before it are wanted, too.
    """

    index: int
    start: int
    stop: int
    goes_on: bool
    looks_back: bool


@dataclass(frozen=True)
class _Space:
    """Buffers of a thread.

    Attributes
    ----------
    bodies : the signals of some pieces, in blocks with room for what comes before each
        [shape=(nb_parts, nb_signals, nb_blocks, fft_length), in host memory].
    histories : the last samples of the references before each part [shape=(nb_parts, nb_references, history)].
    spectra : transforms of one source's blocks.
    left, right : conjugate transforms of the references, and transforms of all signals
        [shape=(nb_parts, nb_bins, nb_signals, nb_blocks)].
    products : their products, summed over blocks [shape=(nb_parts, nb_bins, nb_references, nb_signals)].
    turned, waves : the same with the bins last, and its inverse transform.
    """

    bodies: NDArray[np.float64]
    histories: NDArray[np.float64]
    spectra: Array
    left: Array
    right: Array
    products: Array
    turned: Array
    waves: Array


class _Sweep:
    """One pass through the signals of a track, and what follows from it."""

    def __init__(
        self,
        read: Read,
        scenarios: Sequence[Scenario],
        filter_length: int,
        backend: _Numpy | _Torch,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._pool = pool
        self._read = read
        self._scenarios = scenarios
        self._length = filter_length
        self._history = filter_length - 1
        self._backend = backend
        self._spaces = threading.local()
        references, estimates = read(slice(0, 1))
        self._nb_channels = references[0].shape[1]
        self._nb_references = len(references) * self._nb_channels
        self._nb_estimates = len(estimates) * self._nb_channels
        self._fft_length = scipy.fft.next_fast_len(4 * filter_length, real=True)
        self._block = self._fft_length - self._history

    def analyse(
        self, nb_samples: int, frames: list[slice], mode: str, filters: bool, silence: Silence
    ) -> list[Analysis]:
        """Return the scores of all scenarios."""
        fit_track = filters and mode == "v4"
        if metrics.follow(frames):  # with what they leave over they are the whole track
            stop = frames[-1].stop
            rest = [slice(stop, nb_samples)] if stop < nb_samples else []
            moments, lags, total_lags = self._measure([*frames, *rest], len(frames) if filters else 0, fit_track)
            frame_moments = moments[: len(frames)]
        else:
            moments, _, total_lags = self._measure([slice(0, nb_samples)], 0, fit_track)
            frame_moments, lags, _ = self._measure(frames, len(frames) if filters else 0, False)
        return [
            self._score(i, frame_moments, moments, lags, total_lags if fit_track else None, filters, silence)
            for i in range(len(self._scenarios))
        ]

    def _score(
        self,
        i: int,
        frame_moments: list[list[Moments]],
        moments: list[list[Moments]],
        lags: _Lags,
        total_lags: _Lags | None,
        filters: bool,
        silence: Silence,
    ) -> Analysis:
        """Return the scores of scenario i; without the lags of the whole track the filters are those of each frame."""
        scenario = self._scenarios[i]
        framewise = metrics.stack(row[i] for row in frame_moments)
        total = functools.reduce(operator.add, (row[i] for row in moments))
        dropped = metrics.dropped(framewise, total, silence)
        scores = {"SDR": metrics.ratio_db(framewise.signal, framewise.error)}
        fits = []
        if filters:
            nb_frames = len(frame_moments)
            spans = [slice(t, t + 1) for t in range(nb_frames)] if total_lags is None else [slice(0, nb_frames)]
            columns: list[tuple[NDArray[np.float64], ...]] = []
            for span in spans:
                if dropped[:, span].all():
                    columns.append((np.full(dropped[:, span].shape, np.nan),) * 3)
                    continue
                fits.append(self._fit(scenario, lags[span] if total_lags is None else total_lags))
                energies = framewise.signal[:, span], framewise.estimate[:, span]
                columns.append(self._ratios(scenario, fits[-1], lags[span], *energies))
            for j, name in enumerate(("ISR", "SIR", "SAR")):
                scores[name] = np.concatenate([column[j] for column in columns], axis=1)
        for values in scores.values():
            values[dropped] = np.nan
        return Analysis(
            framewise,
            total,
            scores,
            independence=min((fit.independence for fit in fits), default=1.0),
            ridge=max((fit.ridge for fit in fits), default=0.0),
        )

    def _measure(self, parts: list[slice], nb_kept: int, sum_up: bool) -> tuple[list[list[Moments]], _Lags, _Lags]:
        """Return the moments of parts of the track, the lags of the first of them, and the lags of all together.

        Parameters
        ----------
        parts : the parts; to be summed up they must follow each other.
        nb_kept : of how many parts the lags are returned.
        sum_up : whether to sum the lags of all parts, with the pairs of samples that lie in two of them.
        """
        nb_references, nb_batch = self._nb_references, self._backend.batch
        shape = (nb_references, self._nb_estimates, self._length)
        kept = _Lags(
            self._backend.zeros((nb_kept, nb_references, nb_references, self._length)),
            self._backend.zeros((nb_kept, *shape)),
        )
        total = self._backend.zeros((nb_references, nb_references + self._nb_estimates, self._length))
        moments: list[list[Moments]] = [[] for _ in parts]
        pieces = [piece for t, part in enumerate(parts) for piece in _cut(t, part, sum_up)]
        batches = [pieces[i : i + nb_batch] for i in range(0, len(pieces), nb_batch)]

        def work(batch: list[_Piece]) -> tuple[list[list[Moments]], Array, Array]:
            return self._measure_batch(batch, sum_up or batch[0].index < nb_kept)

        for batch, (rows, lags, bridges) in zip(batches, self._pool.map(work, batches), strict=True):
            for i, (piece, row) in enumerate(zip(batch, rows, strict=True)):
                t = piece.index
                moments[t] = list(map(operator.add, moments[t], row)) if moments[t] else row
                for each, inside in ((lags, True), (bridges, piece.goes_on)):
                    if len(each) and inside and t < nb_kept:
                        kept.within[t] += each[i, :, :nb_references]
                        kept.across[t] += each[i, :, nb_references:]
                    if len(each) and sum_up:
                        total += each[i]
        return moments, kept, _Lags(total[None, :, :nb_references], total[None, :, nb_references:])

    def _measure_batch(self, pieces: list[_Piece], with_lags: bool) -> tuple[list[list[Moments]], Array, Array]:
        """Return the moments of pieces, their lags, and those of the pairs of samples across their beginnings."""
        nb_blocks = -(-max(piece.stop - piece.start for piece in pieces) // self._block)
        space = self._space(len(pieces), nb_blocks) if with_lags else None
        moments = []
        for i, piece in enumerate(pieces):
            before = min(piece.start, self._history) if with_lags and piece.looks_back else 0
            signals = self._read(slice(piece.start - before, piece.stop))
            references, estimates = ([np.asarray(source, float) for source in group] for group in signals)
            sources = [source[before:] for source in (*references, *estimates)]
            moments.append([_moments(scenario, sources, len(references)) for scenario in self._scenarios])
            if space is not None:
                _lay(sources, space.bodies[i, :, :, self._history :])
                space.histories[i] = 0
                for j, source in enumerate(references if before else ()):
                    rows = slice(j * self._nb_channels, (j + 1) * self._nb_channels)
                    space.histories[i, rows, self._history - before :] = source[:before].T
        nothing = np.zeros(0)
        if space is None:
            return moments, nothing, nothing
        bodies = self._backend.array(space.bodies)
        heads = bodies[:, :, 0, self._history : 2 * self._history]
        if not self._history or not any(piece.looks_back for piece in pieces):
            return moments, self._lags(bodies, space), nothing
        bridges = self._bridges(self._backend.array(space.histories), heads)
        return moments, self._lags(bodies, space), bridges

    def _space(self, nb_parts: int, nb_blocks: int) -> "_Space":
        """Return this thread's buffers for parts of so many blocks: new ones would cost more time than the sums."""
        space: _Space | None = getattr(self._spaces, "space", None)
        if space is None or space.bodies.shape[::2] != (nb_parts, nb_blocks):
            nb_rows, nb_signals = self._nb_references, self._nb_references + self._nb_estimates
            nb_bins, zeros = self._fft_length // 2 + 1, self._backend.zeros
            space = self._spaces.space = _Space(
                bodies=np.zeros((nb_parts, nb_signals, nb_blocks, self._fft_length)),
                histories=np.zeros((nb_parts, nb_rows, self._history)),
                spectra=zeros((nb_parts, self._nb_channels, nb_blocks, nb_bins), complex),
                left=zeros((nb_parts, nb_bins, nb_rows, nb_blocks), complex),
                right=zeros((nb_parts, nb_bins, nb_signals, nb_blocks), complex),
                products=zeros((nb_parts, nb_bins, nb_rows, nb_signals), complex),
                turned=zeros((nb_parts, nb_rows, nb_signals, nb_bins), complex),
                waves=zeros((nb_parts, nb_rows, nb_signals, self._fft_length)),
            )
        return space

    def _lags(self, bodies: Array, space: "_Space") -> Array:
        """Return the lags of parts with nothing around them [shape=(nb_parts, nb_references, nb_signals, taps)].

        Each part is cut into blocks. In a block, the products of a sample with those up to `filter_length` - 1 samples
        before it come from the transforms of the block with zeros before it, and of the block with the samples before.
        """
        xp, history = self._backend.xp, self._history
        for start in range(0, bodies.shape[1], self._nb_channels):
            rows = slice(start, start + self._nb_channels)
            blocks = bodies[:, rows]
            space.right[:, :, rows] = xp.moveaxis(xp.fft.rfft(blocks, out=space.spectra), -1, 1)
            if start < self._nb_references:
                blocks[:, :, 1:, :history] = blocks[:, :, :-1, self._fft_length - history :]
                space.left[:, :, rows] = xp.moveaxis(xp.fft.rfft(blocks, out=space.spectra), -1, 1)
                blocks[:, :, 1:, :history] = 0
        space.left.imag *= -1
        xp.matmul(space.left, xp.moveaxis(space.right, -1, -2), out=space.products)
        space.turned[...] = xp.moveaxis(space.products, 1, -1)
        lags = xp.fft.irfft(space.turned, self._fft_length, out=space.waves)[..., : self._length]
        result = self._backend.zeros(lags.shape)
        result[...] = lags
        return result

    def _bridges(self, histories: Array, heads: Array) -> Array:
        """Return the lags of pairs of a sample before a part's beginning and one after it [shape as of `_lags`]."""
        xp = self._backend.xp
        fft_length = scipy.fft.next_fast_len(2 * self._history, real=True)
        later = self._backend.zeros((*heads.shape[:2], fft_length))
        later[..., self._history : 2 * self._history] = heads
        left, right = xp.fft.rfft(histories, fft_length), xp.fft.rfft(later)
        return xp.fft.irfft(xp.conj(left)[:, :, None] * right[:, None], fft_length)[..., : self._length]

    def _fit(self, scenario: Scenario, lags: _Lags) -> _Fit:
        """Return the filters that fit a scenario's estimates best, by the lags of one frame or of the track."""
        xp, nb_channels, length = self._backend.xp, self._nb_channels, self._length
        sums = self._sums(scenario)
        within = xp.einsum("jl,ila->ija", sums, xp.einsum("ik,kla->ila", sums, lags.within[0]))
        columns = self._columns(scenario)
        across = xp.einsum("ik,kma->iam", sums, lags.across[0][:, columns])
        nb_rows = len(columns)
        energies = self._backend.host(xp.einsum("iia->ai", within)[0])
        scales = self._backend.array(1 / np.sqrt(np.where(energies > 0, energies, 1)))
        within = within * scales[:, None, None] * scales[None, :, None]
        across = across * scales[:, None, None]
        gram = self._backend.host(within[:, :, 0])
        own, full, identity = (self._backend.zeros((nb_rows, length, nb_rows)) for _ in range(3))
        independence, ridge = 1.0, 0.0
        rows = _independent(gram, range(nb_rows))
        if len(rows):
            factor, independence = self._factor(within, rows)
            while factor is None or (not ridge and independence < ILL_CONDITIONED):
                ridge = 10 * ridge or RIDGE
                factor, _ = self._factor(within, rows, ridge)
            full[rows.tolist()] = self._divide(across[rows.tolist()], factor)
        for start in range(0, nb_rows, nb_channels):
            group = slice(start, start + nb_channels)
            rows = _independent(gram, range(start, start + nb_channels))
            if len(rows):
                factor, _ = self._factor(within, rows, ridge)
                own[rows.tolist(), :, group] = self._divide(across[rows.tolist()][:, :, group], factor)
        for i in range(nb_rows):
            identity[i, 0, i] = 1 / scales[i]
        lifted = [xp.einsum("ik,iam->kam", sums * scales[:, None], each) for each in (own, full, identity)]
        return _Fit(lifted[0], lifted[1], lifted[2], independence, ridge)

    def _sums(self, scenario: Scenario) -> Array:
        """Return which reference channels add up to each of a scenario's [shape=(nb_rows, nb_reference_channels)]."""
        sums = np.zeros((len(scenario.references), self._nb_channels, self._nb_references))
        for j, references in enumerate(scenario.references):
            for reference in references:
                for channel in range(self._nb_channels):
                    sums[j, channel, reference * self._nb_channels + channel] = 1
        return self._backend.array(sums.reshape(-1, self._nb_references))

    def _columns(self, scenario: Scenario) -> list[int]:
        """Return the estimate channels of a scenario."""
        return [e * self._nb_channels + channel for e in scenario.estimates for channel in range(self._nb_channels)]

    def _factor(self, within: Array, rows: NDArray[np.intp], ridge: float = 0.0) -> tuple[Array | None, float]:
        """Return the factor of some channels' Gram matrix, None where it has none, and its smallest eigenvalue."""
        factor = self._cholesky(self._gram(within[rows.tolist()][:, rows.tolist()], ridge))
        if factor is None:
            return None, 0.0
        xp = self._backend.xp
        vector = self._backend.array(np.random.default_rng(0).standard_normal((len(rows), self._length, 1)))
        for _ in range(_NB_ITERATIONS):
            vector = self._divide(vector / xp.sqrt((vector**2).sum()), factor)
        return factor, 1 / float(xp.sqrt((vector**2).sum()))

    def _gram(self, within: Array, ridge: float) -> Array:
        """Return the products of all delayed channels with each other [shape=(nb_rows, nb_rows, taps, taps)].

        Tile (k, l) holds those of channels k and l; tiles above the diagonal are left zero.
        """
        xp = self._backend.xp
        nb_rows, length = within.shape[0], within.shape[2]
        tiles = self._backend.zeros((nb_rows, nb_rows, length, length))
        later = xp.moveaxis(within, 0, 1)[:, :, 1:]
        both = xp.concatenate((xp.flip(within, (2,)), later), -1)  # from lag length - 1 down to 1 - length
        windows = xp.flip(self._backend.windows(both, length), (2,))

        def fill(k: int) -> None:
            tiles[k, : k + 1] = windows[k, : k + 1]
            tiles[k, k].reshape(-1)[:: length + 1] += ridge

        self._run(fill, range(nb_rows))
        return tiles

    def _cholesky(self, tiles: Array) -> Array | None:
        """Return the lower Cholesky factor of a matrix in tiles, which are overwritten, or None if it has none.

        Tile by tile, on all threads: a library's own threads would make the last digits depend on their number.
        """

        def divide(k: int, i: int) -> None:
            tiles[i, k] = self._backend.divide(tiles[i, k].T, tiles[k, k]).T

        def subtract(k: int, tile: tuple[int, int]) -> None:
            i, j = tile
            tiles[i, j] -= tiles[i, k] @ tiles[j, k].T

        for k in range(len(tiles)):
            corner = self._backend.cholesky(tiles[k, k])
            if corner is None:
                return None
            tiles[k, k] = corner
            below = range(k + 1, len(tiles))
            self._run(functools.partial(divide, k), below)
            self._run(functools.partial(subtract, k), [(i, j) for i in below for j in range(k + 1, i + 1)])
        return tiles

    def _divide(self, right: Array, factor: Array) -> Array:
        """Return the solution of equations from their matrix's factor [shape of both=(nb_rows, taps, nb_columns)]."""
        solution = right + 0
        nb_rows = len(factor)
        for i in range(nb_rows):
            for j in range(i):
                solution[i] -= factor[i, j] @ solution[j]
            solution[i] = self._backend.divide(solution[i], factor[i, i])
        for i in reversed(range(nb_rows)):
            for j in range(i + 1, nb_rows):
                solution[i] -= factor[j, i].T @ solution[j]
            solution[i] = self._backend.divide(solution[i], factor[i, i], transposed=True)
        return solution

    def _run(self, function: Callable[[Any], None], items: Sequence[Any]) -> None:
        """Call a function with each item, on all threads."""
        for _ in self._pool.map(function, items):
            pass

    def _ratios(
        self, scenario: Scenario, fit: _Fit, lags: _Lags, signal: NDArray[np.float64], estimate: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], ...]:
        """Return ISR, SIR and SAR of some frames [shape of each, and of the energies=(nb_sources, nb_frames), dB]."""
        spatial, own, interference, full = (
            self._energies(filters, lags) for filters in (fit.own - fit.identity, fit.own, fit.full - fit.own, fit.full)
        )
        artefacts = estimate - 2 * self._products(scenario, fit.full, lags) + full
        isr, sir, sar = (
            metrics.ratio_db(top, np.maximum(bottom, _FLOOR * top))
            for top, bottom in ((signal, spatial), (own, interference), (full, artefacts))
        )
        return isr, sir if len(scenario.references) > 1 else np.full(sir.shape, np.inf), sar

    def _energies(self, filters: Array, lags: _Lags) -> NDArray[np.float64]:
        """Return the energy of filtered references, summed over channels [shape=(nb_sources, nb_frames)].

        With c the filters, it is the sum over k, l and lags of r_kl(lag) (c_k * c_l)(lag), where r are the correlations
        of the references and * correlates; lags other than 0 count twice, for both their signs.
        """
        xp = self._backend.xp
        nb_rows, length, _ = filters.shape
        fft_length = scipy.fft.next_fast_len(2 * length, real=True)
        spectra = xp.moveaxis(xp.fft.rfft(filters, fft_length, 1), 1, 0)  # (bins, rows, columns)
        spectra = xp.moveaxis(spectra.reshape(len(spectra), nb_rows, -1, self._nb_channels), 2, 0)
        products = xp.moveaxis(xp.matmul(spectra, xp.conj(xp.moveaxis(spectra, -1, -2))), 1, -1)
        weights = xp.fft.irfft(products, fft_length)[..., :length]
        weights[..., 1:] *= 2
        within = lags.within.reshape(len(lags.within), -1)
        energies = self._backend.host(weights.reshape(len(weights), -1) @ within.T)
        return np.maximum(energies, 0)  # rounding errors may be negative

    def _products(self, scenario: Scenario, filters: Array, lags: _Lags) -> NDArray[np.float64]:
        """Return the sums of filtered references times estimates [shape=(nb_sources, nb_frames)]."""
        nb_channels, columns = self._nb_channels, range(0, filters.shape[2], self._nb_channels)
        sums = [
            self._backend.xp.einsum(
                "tkma,kam->t",
                lags.across[:, :, estimate * nb_channels : (estimate + 1) * nb_channels],
                filters[:, :, column : column + nb_channels],
            )
            for estimate, column in zip(scenario.estimates, columns, strict=True)
        ]
        return np.array([self._backend.host(each) for each in sums])


def _cut(index: int, part: slice, looks_back: bool) -> list[_Piece]:
    """Return the pieces of a part, of about equal length."""
    size = max(-(-(part.stop - part.start) // -(-(part.stop - part.start) // _TILE)), 1)
    return [
        _Piece(index, start, min(start + size, part.stop), start > part.start, looks_back or start > part.start)
        for start in range(part.start, part.stop, size)
    ]


def _moments(scenario: Scenario, sources: list[NDArray[np.float64]], nb_references: int) -> Moments:
    """Return the moments of a scenario from the references and estimates of a part."""
    with np.errstate(invalid="ignore"):  # inf - inf; what is not finite is an error anyway
        references = [functools.reduce(operator.add, [sources[i] for i in parts]) for parts in scenario.references]
    return metrics.measure(references, [sources[nb_references + i] for i in scenario.estimates])


def _independent(gram: NDArray[np.float64], rows: Iterable[int]) -> NDArray[np.intp]:
    """Return those of some channels that are no sums of those before them, from the Gram matrix of all channels."""
    kept: list[int] = []
    for row in rows:
        rest = gram[row, row]
        if kept:
            rest = rest - gram[row, kept] @ np.linalg.solve(gram[np.ix_(kept, kept)], gram[kept, row])
        if rest > _DEPENDENT:
            kept.append(row)
    return np.array(kept, np.intp)


def _lay(sources: Sequence[NDArray[np.float64]], rows: NDArray[np.float64]) -> None:
    """Copy sources [shape=(nb_samples, nb_channels)], a row for each channel [shape=(nb_rows, nb_blocks, block)]."""
    _, nb_blocks, block = rows.shape
    for i, source in enumerate(sources):
        nb_full, rest = divmod(len(source), block)
        for channel, row in zip(source.T, rows[i * source.shape[1] :], strict=False):
            row[:nb_full] = channel[: nb_full * block].reshape(nb_full, block)
            if nb_full < nb_blocks:
                row[nb_full, :rest] = channel[nb_full * block :]
                row[nb_full, rest:] = 0
                row[nb_full + 1 :] = 0
