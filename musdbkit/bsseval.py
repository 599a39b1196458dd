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
AAC nothing does, and there the measures that need filters are arbitrary by up to several dB, here and in museval (where
they change with the order of the sources). Such results are flagged, see `Analysis`.

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
import os
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

_FLOOR: Final = float(np.finfo(float).eps) ** 2  # 313 dB: no measure of filtered signals is infinite, as in museval
_DEPENDENT: Final = 1e-13  # share of a channel's energy; 16-bit channels that only look alike differ by 1e-10 and more
_TILE: Final = SECOND
_BATCH: Final = 8  # frames at once on a GPU
_NB_ITERATIONS: Final = 3  # of the power method: the smallest eigenvalues lie close together


class IllConditionedWarning(UserWarning):
    """ISR, SIR and SAR depend on rounding errors."""


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
    independence : the smallest share of a delayed reference that is no combination of the others, 1 without filters;
        the smallest of all frames with v3. Where it is below `ILL_CONDITIONED`, rounding errors decide on ISR, SIR and
        SAR, by up to several dB.
    ridge : the share of its energy that was added to each channel to make the equations solvable; mostly 0.
    """

    framewise: Moments
    total: Moments
    scores: dict[str, NDArray[np.float64]]
    independence: float
    ridge: float

    @property
    def ill_conditioned(self) -> bool:
        """Whether rounding errors decide on ISR, SIR and SAR."""
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
    and the others are scored without it.

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
    workers : threads; all cores by default. The result does not depend on them.

    Warns
    -----
    IllConditionedWarning
        ISR, SIR and SAR depend on rounding errors.

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
        f"only {result.independence:.0e} of a delayed reference is independent of the others (expected "
        f"{ILL_CONDITIONED:.0e} or more): ISR, SIR and SAR depend on rounding errors; score against 16-bit references"
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
    numbers = {"nb_samples": nb_samples, "filter_length": filter_length, "workers": 1 if workers is None else workers}
    for name, number in numbers.items():
        if number < 1:
            raise ParameterError(f"{name} {number}: expected 1 or more")
    from threadpoolctl import threadpool_limits

    sweep = _Sweep(read, scenarios, filter_length, _Numpy() if device == "cpu" else _Torch(device), workers)
    with threadpool_limits(limits=1, user_api="blas"):  # its threads' number would change the last digits
        return sweep.analyse(nb_samples, metrics.frames(nb_samples, window, hop), mode, filters, silence)


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

    def factor(self, gram: Array) -> Array | None:
        """Return the Cholesky factor of a matrix, given by its lower half and overwritten, or None."""
        factor, status = scipy.linalg.lapack.dpotrf(gram.T, lower=0, clean=0, overwrite_a=1)
        return factor if status == 0 else None

    def solve(self, factor: Array, right: Array) -> Array:
        """Return the solution of equations from the Cholesky factor of their matrix."""
        return scipy.linalg.lapack.dpotrs(factor, right, lower=0)[0]


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

    def factor(self, gram: Array) -> Array | None:
        """Return the Cholesky factor of a matrix, given by its lower half, or None."""
        factor, status = self.xp.linalg.cholesky_ex(gram)
        return factor if int(status) == 0 else None

    def solve(self, factor: Array, right: Array) -> Array:
        """Return the solution of equations from the Cholesky factor of their matrix."""
        return self.xp.cholesky_solve(right, factor)


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
class _Space:
    """Buffers of a thread.

    Attributes
    ----------
    bodies : the signals of some parts [shape=(nb_parts, nb_signals, nb_blocks * block), in host memory].
    histories : the last samples of the references before each part [shape=(nb_parts, nb_references, history)].
    blocks : one source, cut into blocks with what comes before each.
    left, right : transforms of the references and of all signals [shape=(nb_parts, nb_bins, nb_signals, nb_blocks)].
    """

    bodies: NDArray[np.float64]
    histories: NDArray[np.float64]
    blocks: Array
    left: Array
    right: Array


class _Sweep:
    """One pass through the signals of a track, and what follows from it."""

    def __init__(
        self,
        read: Read,
        scenarios: Sequence[Scenario],
        filter_length: int,
        backend: _Numpy | _Torch,
        workers: int | None,
    ) -> None:
        self._read = read
        self._scenarios = scenarios
        self._length = filter_length
        self._history = filter_length - 1
        self._backend = backend
        self._spaces = threading.local()
        self._workers = workers or os.cpu_count() or 1
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
            tiles = [slice(i, min(i + _TILE, nb_samples)) for i in range(0, nb_samples, _TILE)]
            moments, _, total_lags = self._measure(tiles, 0, fit_track)
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
        shape = (self._nb_references, self._length)
        kept = _Lags(
            self._backend.zeros((nb_kept, shape[0], self._nb_references, shape[1])),
            self._backend.zeros((nb_kept, shape[0], self._nb_estimates, shape[1])),
        )
        total = self._backend.zeros((shape[0], self._nb_references + self._nb_estimates, shape[1]))
        moments: list[list[Moments]] = []

        def work(start: int) -> tuple[list[list[Moments]], Array, Array]:
            return self._measure_batch(parts[start : start + self._backend.batch], start < nb_kept or sum_up, sum_up)

        starts = range(0, len(parts), self._backend.batch)
        with ThreadPoolExecutor(self._workers) as pool:
            for start, (rows, lags, bridges) in zip(starts, pool.map(work, starts), strict=True):
                moments += rows
                for t in range(start, min(start + len(rows), nb_kept)):
                    kept.within[t] = lags[t - start, :, : self._nb_references]
                    kept.across[t] = lags[t - start, :, self._nb_references :]
                if sum_up:
                    for each in (*lags, *bridges):
                        total += each
        return moments, kept, _Lags(total[None, :, : self._nb_references], total[None, :, self._nb_references :])

    def _measure_batch(
        self, parts: list[slice], with_lags: bool, with_bridges: bool
    ) -> tuple[list[list[Moments]], Array, Array]:
        """Return the moments of parts, their lags, and those of the pairs of samples across their beginnings."""
        nb_blocks = -(-max(part.stop - part.start for part in parts) // self._block)
        space = self._space(len(parts), nb_blocks) if with_lags else None
        moments = []
        for i, part in enumerate(parts):
            before = min(part.start, self._history) if with_bridges else 0
            signals = self._read(slice(part.start - before, part.stop))
            references, estimates = ([np.asarray(source, float) for source in group] for group in signals)
            sources = [source[before:] for source in (*references, *estimates)]
            moments.append([_moments(scenario, sources, len(references)) for scenario in self._scenarios])
            if space is not None:
                _lay(sources, space.bodies[i], 0)
                _lay([source[:before] for source in references], space.histories[i], self._history - before)
        nothing = np.zeros(0)
        if space is None:
            return moments, nothing, nothing
        bodies = self._backend.array(space.bodies)
        lags = self._lags(bodies, space)
        if not with_bridges or not self._history:
            return moments, lags, nothing
        heads = bodies[:, :, : self._history]
        return moments, lags, self._bridges(self._backend.array(space.histories), heads)

    def _space(self, nb_parts: int, nb_blocks: int) -> "_Space":
        """Return this thread's buffers for parts of so many blocks: new ones would cost more time than the sums."""
        space: _Space | None = getattr(self._spaces, "space", None)
        if space is None or space.blocks.shape[0] != nb_parts or space.blocks.shape[2] != nb_blocks:
            nb_signals, nb_bins = self._nb_references + self._nb_estimates, self._fft_length // 2 + 1
            space = self._spaces.space = _Space(
                bodies=np.zeros((nb_parts, nb_signals, nb_blocks * self._block)),
                histories=np.zeros((nb_parts, self._nb_references, self._history)),
                blocks=self._backend.zeros((nb_parts, self._nb_channels, nb_blocks, self._fft_length)),
                left=self._backend.zeros((nb_parts, nb_bins, self._nb_references, nb_blocks), complex),
                right=self._backend.zeros((nb_parts, nb_bins, nb_signals, nb_blocks), complex),
            )
        return space

    def _lags(self, bodies: Array, space: "_Space") -> Array:
        """Return the lags of parts with nothing around them [shape=(nb_parts, nb_references, nb_signals, taps)].

        Each part is cut into blocks. In a block, the products of a sample with those up to `filter_length` - 1 samples
        before it come from the transforms of the block with zeros before it, and of the block with the samples before.
        """
        xp = self._backend.xp
        cut = bodies.reshape(*bodies.shape[:2], -1, self._block)
        for start in range(0, bodies.shape[1], self._nb_channels):
            rows = slice(start, start + self._nb_channels)
            space.blocks[..., self._history :] = cut[:, rows]
            space.blocks[..., : self._history] = 0
            space.right[:, :, rows] = xp.moveaxis(xp.fft.rfft(space.blocks), -1, 1)
            if start < self._nb_references:
                space.blocks[:, :, 1:, : self._history] = cut[:, rows, :-1, self._block - self._history :]
                space.left[:, :, rows] = xp.moveaxis(xp.fft.rfft(space.blocks), -1, 1)
        return self._correlate(xp.conj(space.left), space.right, self._fft_length)

    def _bridges(self, histories: Array, heads: Array) -> Array:
        """Return the lags of pairs of a sample before a part's beginning and one after it [shape as of `_lags`]."""
        xp = self._backend.xp
        fft_length = scipy.fft.next_fast_len(2 * self._history, real=True)
        later = self._backend.zeros((*heads.shape[:2], fft_length))
        later[..., self._history : 2 * self._history] = heads
        left, right = (xp.moveaxis(xp.fft.rfft(x, fft_length), -1, 1)[..., None] for x in (histories, later))
        return self._correlate(xp.conj(left), right, fft_length)

    def _correlate(self, left: Array, right: Array, fft_length: int) -> Array:
        """Return lags, summed over blocks, from transforms [shape=(nb_parts, nb_bins, nb_signals, nb_blocks)]."""
        xp = self._backend.xp
        products = xp.matmul(left, xp.moveaxis(right, -1, -2))
        return xp.moveaxis(xp.fft.irfft(products, fft_length, 1)[:, : self._length], 1, -1)

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
            self._solve(factor, across, rows, full)
        for start in range(0, nb_rows, nb_channels):
            group = slice(start, start + nb_channels)
            rows = _independent(gram, range(start, start + nb_channels))
            if len(rows):
                factor, _ = self._factor(within, rows, ridge)
                self._solve(factor, across[:, :, group], rows, own[:, :, group])
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
        factor = self._backend.factor(self._gram(within[rows][:, rows], ridge))
        if factor is None:
            return None, 0.0
        vector = self._backend.array(np.random.default_rng(0).standard_normal((len(rows) * self._length, 1)))
        for _ in range(_NB_ITERATIONS):
            vector = self._backend.solve(factor, vector / self._backend.xp.linalg.norm(vector))
        return factor, 1 / float(self._backend.xp.linalg.norm(vector))

    def _solve(self, factor: Array, across: Array, rows: NDArray[np.intp], out: Array) -> None:
        """Write the filters on some channels from the factor of their Gram matrix."""
        right = across[rows].reshape(len(rows) * self._length, -1)
        out[rows] = self._backend.solve(factor, right).reshape(len(rows), self._length, -1)

    def _gram(self, within: Array, ridge: float) -> Array:
        """Return the lower half of the products of all delayed channels [shape=(nb_rows * taps, nb_rows * taps)]."""
        xp = self._backend.xp
        nb_rows, length = within.shape[0], within.shape[2]
        gram = self._backend.zeros((nb_rows, length, nb_rows, length))
        later = xp.moveaxis(within, 0, 1)[:, :, 1:]
        both = xp.concatenate((xp.flip(within, (2,)), later), -1)  # from lag length - 1 down to 1 - length
        windows = xp.flip(self._backend.windows(both, length), (2,))
        for k in range(nb_rows):
            gram[k, :, : k + 1] = xp.moveaxis(windows[k, : k + 1], 1, 0)
        gram = gram.reshape(nb_rows * length, nb_rows * length)
        index = np.arange(len(gram))
        gram[index, index] += ridge
        return gram

    def _ratios(
        self, scenario: Scenario, fit: _Fit, lags: _Lags, signal: NDArray[np.float64], estimate: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], ...]:
        """Return ISR, SIR and SAR of some frames [shape of each, and of the energies=(nb_sources, nb_frames), dB]."""
        spatial, own, interference, full = (
            self._energies(filters, lags) for filters in (fit.own - fit.identity, fit.own, fit.full - fit.own, fit.full)
        )
        artefacts = estimate - 2 * self._products(scenario, fit.full, lags) + full
        pairs = (signal, spatial), (own, interference), (full, artefacts)
        return tuple(metrics.ratio_db(top, np.maximum(bottom, _FLOOR * top)) for top, bottom in pairs)

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
        xp, nb_sources = self._backend.xp, len(scenario.references)
        across = xp.moveaxis(lags.across[:, :, self._columns(scenario)], 2, 1)
        across = across.reshape(len(across), nb_sources, -1)
        taps = xp.moveaxis(xp.moveaxis(filters, 1, 2), 1, 0).reshape(nb_sources, -1)
        return self._backend.host(xp.einsum("tjx,jx->jt", across, taps))


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


def _lay(sources: Sequence[NDArray[np.float64]], rows: NDArray[np.float64], start: int) -> None:
    """Copy the channels of sources [shape=(nb_samples, nb_channels)] into rows, from a column on, with zeros around."""
    for i, source in enumerate(sources):
        for channel, row in zip(source.T, rows[i * source.shape[1] :], strict=False):
            row[:start] = 0
            row[start : start + len(channel)] = channel
            row[start + len(channel) :] = 0
