"""Waves to waves: a model's estimates of a mixture, in memory that a track's length does not raise.

Reads and writes arrays only; `separate` does the same for files.

A mixture goes through in chunks. Of each, the network gets the magnitudes of the spectrogram: Open-Unmix all at once,
Spleeter's networks segment by segment, those for long inputs block by block; what they give is made a filter, and the
filtered spectrogram a wave again, some frames at a time. Block U-Nets take segments of the wave, each transformed by
itself, and give waves of which both ends are cut off. All of that stays on the network's device; only waves come and
go.

Conventions: waves are `(nb_samples, nb_channels)` outside, `(nb_channels, nb_samples)` on the device; spectrograms are
`(nb_channels, nb_bins, nb_frames)`, with targets before the channels.

Chunks begin some hop after one another and are cross-faded where they overlap. What that changes, next to a track as
one chunk, which up to `chunk_seconds` every track is:

- Spleeter's networks without Wiener filter: nothing but rounding. Chunks begin where segments do, and overlap by a
  segment and a frame more on both sides of what is cross-faded, so that what is is equal in both.
- Open-Unmix, whose recurrent layers see the whole chunk: estimates near a chunk's ends differ by what the networks
  remember of the part that they did not see. The cross-fade, a squared sine, gives them hardly any weight. Chunks begin
  where frames and, with a Wiener filter, its windows do, so that nothing else differs but the windows at the ends.
- Block U-Nets, and networks for long inputs without Wiener filter: nothing but rounding, as with Spleeter's.
- A Wiener filter without windows: its covariances are those of the chunk. With all networks but Open-Unmix, windows lie
  otherwise in each chunk.

References
----------
Spleeter: github.com/deezer/spleeter, version 2.4.2, `spleeter/model/__init__.py`. Open-Unmix: github.com/sigsep/
open-unmix-pytorch, version 1.3, `openunmix/model.py`, class Separator. Block U-Nets: github.com/ws-choi/
ISMIR2020_U_Nets_SVS, `source_separation/models/separation_framework.py`. Long inputs: github.com/legoodmanner/
sequence_length_ss, `test.py`.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.block_unet import BlockUnetSettings
from baselines.long_input import LongInputSettings
from baselines.models import Loaded
from baselines.open_unmix import OpenUnmixSettings
from baselines.spleeter_unet import MASK_EXTENSIONS, SpleeterSettings
from baselines.torch_stft import add_phase, istft, stft
from baselines.wiener import wiener
from musdbkit.errors import ParameterError
from musdbkit.stft import StftParams

Wave: TypeAlias = NDArray[np.float32]

RESIDUAL: Final = "residual"
"""Name of what the targets leave of the mixture."""

PRECISIONS: Final = ("float32", "bf16")

_MASK_EPS: Final = 1e-10  # Spleeter's
_SPLEETER_EPS: Final = torch.finfo(torch.float32).eps  # of its Wiener filter, which is norbert's
_OPEN_UNMIX_EPS: Final = 1e-10
_BLOCK_FRAMES: Final = {"cpu": 256, "cuda": 2048}  # filtered at a time: 34 or 270 MB of spectra, 4 stereo targets
_SENT_SAMPLES: Final = 2**20  # that go to a GPU at a time
_WAVE_VALUES: Final = {"cpu": 2**20, "cuda": 2**22}  # the same of a block U-Net: 4 or 16 stereo segments of 128 frames
_BATCH_VALUES: Final = 2**22  # of magnitudes that a Spleeter network gets at a time: 4 stereo segments of Spleeter's


@dataclass(frozen=True)
class SeparationSettings:
    """How a model is used. None is what the model's own settings say, or else what its authors do.

    Attributes
    ----------
    nb_wiener_iterations : how often the estimates are refined together by a multichannel Wiener filter; 0 for Spleeter.
        With a single target and no residual there is nothing to refine, and None is 0.
    wiener_window : frames in which that is done on their own; 0 is the whole chunk, as for Spleeter.
    softmask : Open-Unmix: filter with ratios of the targets' magnitudes, instead of taking the magnitudes as they are,
        with the mixture's phase. Spleeter always does.
    residual : whether what the targets leave of the mixture is estimated, too. Ratio masks count it as one target
        more, whose magnitudes are the mixture's less the sum of all estimates'; without them it is the mixture less
        all estimates. Either way it and the estimates sum to the mixture, up to the Wiener filter's regularisation.
    segment_overlap : Spleeter: share of a segment that the next one repeats; 0 is as upstream.
    mask_exponent : Spleeter: power of the estimates that a mask is the ratio of.
    mask_extension : Spleeter: masks above the bins that the network sees: `zeros` or the `average` of those below.
        `zeros` leaves all above to the residual, if that is estimated.
    chunk_seconds : tracks that are longer are separated in chunks of this, which bounds the memory.
    overlap_seconds : length of the cross-fade between two chunks.
    precision : `float32`, exact also on GPUs that would round factors to 10 bits; or `bf16`, in which CUDA computes the
        network's products.

    Raises
    ------
    ParameterError
        A value cannot be used.
    """

    nb_wiener_iterations: int | None = None
    wiener_window: int | None = None
    softmask: bool = False
    residual: bool | None = None
    segment_overlap: float | None = None
    mask_exponent: float | None = None
    mask_extension: str | None = None
    chunk_seconds: float = 600.0
    overlap_seconds: float = 10.0
    precision: str = "float32"

    def __post_init__(self) -> None:
        """Refuse what no model can do."""
        for name in ("nb_wiener_iterations", "wiener_window"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 0):
                raise ParameterError(f"{name} is {value}, expected a whole number, 0 or more")
        for name, least in (("chunk_seconds", "more than 0"), ("overlap_seconds", "0 or more")):
            value = getattr(self, name)
            if not 0 <= value < math.inf or (value == 0 and name == "chunk_seconds"):
                raise ParameterError(f"{name} is {value}, expected {least}")
        if self.segment_overlap is not None and not 0 <= self.segment_overlap < 1:
            raise ParameterError(f"segment_overlap is {self.segment_overlap}, expected 0 to less than 1")
        if self.mask_exponent is not None and not 0 < self.mask_exponent < math.inf:
            raise ParameterError(f"mask_exponent is {self.mask_exponent}, expected a number above 0")
        if self.mask_extension is not None and self.mask_extension not in MASK_EXTENSIONS:
            raise ParameterError(f"mask_extension is {self.mask_extension}, expected {' or '.join(MASK_EXTENSIONS)}")
        if self.precision not in PRECISIONS:
            raise ParameterError(f"precision is {self.precision}, expected {' or '.join(PRECISIONS)}")


DEFAULT_SETTINGS: Final = SeparationSettings()


@dataclass(frozen=True)
class Plan:
    """What is done: settings as they come out for a model. Plain values, of which none is left open.

    Attributes
    ----------
    sources : what is estimated: the model's targets, then the residual, if wanted.
    wiener_window : frames, None for the whole chunk.
    others : as in `SeparationSettings`; None where they mean nothing to the model.
    """

    sources: tuple[str, ...]
    nb_wiener_iterations: int
    wiener_window: int | None
    softmask: bool
    residual: bool
    segment_overlap: float | None
    mask_exponent: float | None
    mask_extension: str | None
    chunk_seconds: float
    overlap_seconds: float
    precision: str


def make_plan(loaded: Loaded, settings: SeparationSettings = DEFAULT_SETTINGS) -> Plan:
    """Return what settings come to with a model.

    Raises
    ------
    ParameterError
        The model cannot do that, or the outcome would be of no use.
    """
    model: Any = loaded.settings
    spleeter, waves = isinstance(model, SpleeterSettings), isinstance(model, BlockUnetSettings)
    given = [name for name in _SPLEETERS if getattr(settings, name) is not None and not spleeter]
    given += [name for name in _FILTERS if getattr(settings, name) and waves]
    if given:
        raise ParameterError(f"{given[0]} is given, but means nothing to {loaded.model}: leave it out")
    softmask = settings.softmask or spleeter
    own_residual = not (spleeter or waves) and model.residual
    residual = own_residual if settings.residual is None else settings.residual
    if residual and RESIDUAL in model.targets:
        raise ParameterError(f"a residual is wanted, but {loaded.model} has a target of that name: leave it out")
    alone = len(model.targets) == 1 and not residual
    nb_iterations, window = (0, None) if spleeter or waves else (model.nb_wiener_iterations, model.wiener_window)
    if settings.nb_wiener_iterations is not None:
        nb_iterations = settings.nb_wiener_iterations
    elif alone:
        nb_iterations = 0
    if settings.wiener_window is not None:
        window = settings.wiener_window or None
    if alone and (softmask or nb_iterations):
        what = "masks that are ratios" if softmask else "a Wiener filter"
        raise ParameterError(
            f"{model.targets[0]} is the only target, and {what} would give it the whole mixture: "
            "estimate the residual as well (--residual)"
        )
    if settings.precision != "float32" and _device(loaded).type != "cuda":
        raise ParameterError(
            f"precision {settings.precision} is for CUDA, not for {_device(loaded).type}: leave it out"
        )
    return Plan(
        sources=(*model.targets, *([RESIDUAL] if residual else [])),
        nb_wiener_iterations=nb_iterations,
        wiener_window=window if nb_iterations else None,
        softmask=softmask,
        residual=residual,
        segment_overlap=_choose(settings.segment_overlap, model.overlap) if spleeter else None,
        mask_exponent=_choose(settings.mask_exponent, model.mask_exponent) if spleeter else None,
        mask_extension=_choose(settings.mask_extension, model.mask_extension) if spleeter else None,
        chunk_seconds=settings.chunk_seconds,
        overlap_seconds=settings.overlap_seconds,
        precision=settings.precision,
    )


_SPLEETERS: Final = ("segment_overlap", "mask_exponent", "mask_extension")
_FILTERS: Final = ("nb_wiener_iterations", "wiener_window", "softmask")  # of what gives magnitudes


def _choose(given: Any, own: Any) -> Any:
    """Return what is given, or else the model's own."""
    return own if given is None else given


def _device(loaded: Loaded) -> torch.device:
    """Return where a network is."""
    return next(loaded.network.parameters()).device


def separate_wave(loaded: Loaded, wave: Wave, settings: SeparationSettings = DEFAULT_SETTINGS) -> dict[str, Wave]:
    """Return the estimate of every target [shape of each=(nb_samples, nb_channels), float32].

    Parameters
    ----------
    loaded : the model.
    wave : the mixture at the model's sample rate, in [-1, 1] by convention [shape=(nb_samples, nb_channels), float32].
        A single channel is doubled for a stereo model, as Spleeter and Open-Unmix do.
    settings : how the model is used.

    Raises
    ------
    ParameterError
        The model cannot do that, or the array is no wave of as many channels as the model's.
    """
    plan = make_plan(loaded, settings)
    nb_channels = loaded.settings.nb_channels
    if wave.ndim != 2 or wave.shape[1] not in (1, nb_channels):
        raise ParameterError(f"wave of shape {wave.shape}, expected (nb_samples, {nb_channels}), the model's channels")
    blocks = [np.repeat(wave, nb_channels, axis=1) if wave.shape[1] < nb_channels else wave]
    estimates = {source: np.empty((len(wave), nb_channels), np.float32) for source in plan.sources}
    position = 0
    for piece in separate_chunks(loaded, plan, cut_chunks(blocks, nb_channels, find_grid(loaded, plan))):
        for estimate, samples in zip(estimates.values(), piece, strict=True):
            estimate[position : position + len(samples)] = samples
        position += piece.shape[1]
    return estimates


# Chunks


@dataclass(frozen=True)
class Grid:
    """How a wave is cut into chunks, in samples.

    Attributes
    ----------
    length : of a chunk; the last one may be shorter.
    hop : from one chunk's begin to the next one's.
    margin : at a chunk's begin and end, not used where there is another chunk.
    """

    length: int
    hop: int
    margin: int

    @property
    def fade(self) -> int:
        """What is cross-faded, between the margins."""
        return self.length - self.hop - 2 * self.margin


class Chunk(NamedTuple):
    """A part of a wave.

    Attributes
    ----------
    samples : the part [shape=(nb_samples, nb_channels), float32].
    last : whether the wave ends with it.
    """

    samples: Wave
    last: bool


def find_grid(loaded: Loaded, plan: Plan) -> Grid:
    """Return how waves are cut into chunks.

    Raises
    ------
    ParameterError
        Chunks are too short for the model.
    """
    model: Any = loaded.settings
    length = round(plan.chunk_seconds * model.sample_rate)
    fade = round(plan.overlap_seconds * model.sample_rate)
    margin, multiple = 0, model.hop_length * (plan.wiener_window or 1)
    if plan.segment_overlap is not None:
        margin = model.nb_frames * model.hop_length + model.n_fft
        multiple = segment_hop(model.nb_frames, plan.segment_overlap) * model.hop_length
    elif isinstance(model, LongInputSettings):
        multiple = model.nb_block_frames * model.hop_length
        margin = model.nb_block_frames * model.hop_length + model.n_fft
    elif isinstance(model, BlockUnetSettings):
        margin, multiple = model.input_samples, model.input_samples - 2 * model.trim_samples
    hop = (length - fade - 2 * margin) // multiple * multiple
    grid = Grid(length, hop, margin)
    if hop < 1 or hop < grid.fade:  # a sample is to lie in two chunks at most
        least = 2 * (fade + margin + multiple) / model.sample_rate
        raise ParameterError(
            f"chunk_seconds is {plan.chunk_seconds:g}, expected {math.ceil(least)} or more for {loaded.model} with "
            f"overlap_seconds {plan.overlap_seconds:g}"
        )
    return grid


def cut_chunks(blocks: Iterable[Wave], nb_channels: int, grid: Grid) -> Iterator[Chunk]:
    """Yield the chunks of a wave that comes in blocks; of an empty wave a single one, empty."""
    buffer = np.empty((grid.length, nb_channels), np.float32)
    count = 0
    for block in blocks:
        used = 0
        while used < len(block):
            if count == grid.length:
                yield Chunk(buffer, False)
                kept = buffer[grid.hop :]
                buffer = np.empty_like(buffer)
                count = len(kept)
                buffer[:count] = kept
            nb_new = min(grid.length - count, len(block) - used)
            buffer[count : count + nb_new] = block[used : used + nb_new]
            used += nb_new
            count += nb_new
    yield Chunk(buffer[:count], True)


def separate_chunks(loaded: Loaded, plan: Plan, chunks: Iterable[Chunk]) -> Iterator[NDArray[np.float32]]:
    """Yield the estimates piece by piece [shape of each=(nb_sources, nb_samples, nb_channels), float32].

    From a GPU they come in memory that is pinned, each while the next one is computed. That memory is used again when
    nothing refers to the piece any more, so whoever keeps all of them keeps as much pinned.

    Parameters
    ----------
    loaded : the model.
    plan : what is done.
    chunks : from `cut_chunks`, with the grid that `find_grid` returns for both.
    """
    yield from _fetch(_join_chunks(loaded, plan, chunks))


def _fetch(pieces: Iterable[Tensor]) -> Iterator[NDArray[np.float32]]:
    """Yield pieces of waves in memory [shape of each=(nb_sources, nb_samples, nb_channels)]."""
    copied: tuple[Tensor, torch.cuda.Event] | None = None
    for piece in pieces:
        if piece.device.type != "cuda":
            yield piece.mT.cpu().numpy()
            continue
        held = torch.empty(piece.mT.shape, dtype=piece.dtype, pin_memory=True)  # torch keeps such memory for the next
        held.copy_(piece.mT.contiguous(), non_blocking=True)
        event = torch.cuda.current_stream(piece.device).record_event()
        if copied is not None:
            yield _wait(*copied)
        copied = held, event
    if copied is not None:
        yield _wait(*copied)


def _wait(held: Tensor, event: torch.cuda.Event) -> NDArray[np.float32]:
    """Return what a GPU has written, once it has."""
    event.synchronize()
    return held.numpy()


@torch.inference_mode()
def _join_chunks(loaded: Loaded, plan: Plan, chunks: Iterable[Chunk]) -> Iterator[Tensor]:
    """Yield the estimates, chunks cross-faded [shape of each=(nb_sources, nb_channels, nb_samples)]."""
    grid = find_grid(loaded, plan)
    ramp = np.sin(np.pi / 2 * (np.arange(grid.fade, dtype=np.float32) + 0.5) / max(grid.fade, 1)) ** 2
    weights = torch.from_numpy(ramp).to(_device(loaded))
    tail: Tensor | None = None  # the chunk before, where it is cross-faded
    for samples, last in chunks:
        start = 0
        kept = []
        for piece in _separate_chunk(loaded, plan, samples):
            stop = start + piece.shape[2]
            if tail is not None:
                first, end = max(start, grid.margin), min(stop, grid.margin + grid.fade)
                if first < end:
                    part = slice(first - grid.margin, end - grid.margin)
                    faded = piece[..., first - start : end - start].mul_(weights[part])
                    faded += (1 - weights[part]) * tail[..., part]
                piece = piece[..., max(grid.margin - start, 0) :]
            first = stop - piece.shape[2]
            if not last:
                end = max(grid.hop + grid.margin - first, 0)
                if end < piece.shape[2]:  # else an empty part would hold all of the piece
                    kept.append(piece[..., end : max(grid.hop + grid.margin + grid.fade - first, 0)])
                piece = piece[..., :end]
            if piece.shape[2]:
                yield piece
            start = stop
        tail = torch.cat(kept, dim=2) if kept else None


# One chunk, on the device


def _separate_chunk(loaded: Loaded, plan: Plan, samples: Wave) -> Iterator[Tensor]:
    """Yield a chunk's estimates piece by piece [shape of each=(nb_sources, nb_channels, nb_samples)]."""
    if not len(samples):
        return
    wave = _send(samples, _device(loaded))
    if isinstance(loaded.settings, BlockUnetSettings):
        yield from _estimate_waves(loaded, plan, wave)
        return
    spectra = _Spectra(wave, loaded.settings.separation_stft)
    estimate = _estimate_segments if plan.segment_overlap is not None else _estimate_whole
    if isinstance(loaded.settings, LongInputSettings):
        estimate = _estimate_blocks
    groups = _regroup(estimate(loaded, plan, spectra), _group_size(plan, _device(loaded)))
    yield from _invert(_filter_all(loaded, plan, groups, spectra), spectra)


def _send(samples: Wave, device: torch.device) -> Tensor:
    """Return a wave on the device [shape=(nb_channels, nb_samples)]."""
    wave = torch.from_numpy(samples)
    if device.type != "cuda":
        return wave.mT.to(device)
    sent = torch.empty(wave.shape, dtype=wave.dtype, device=device)
    for first in range(0, len(wave), _SENT_SAMPLES):
        part = slice(first, first + _SENT_SAMPLES)
        sent[part].copy_(wave[part].pin_memory(), non_blocking=True)
    return sent.mT.contiguous()


def _block_frames(device: torch.device) -> int:
    """Return how many frames a device computes at a time."""
    return _BLOCK_FRAMES["cpu" if device.type == "cpu" else "cuda"]


def _group_size(plan: Plan, device: torch.device) -> int | None:
    """Return how many frames are filtered at a time, of a Wiener filter whole windows; None for all."""
    nb_frames = _block_frames(device)
    if not plan.nb_wiener_iterations:
        return nb_frames
    window = plan.wiener_window
    return None if window is None else max(nb_frames // window, 1) * window


class _Spectra:
    """A wave's spectrogram, computed where it is asked for.

    Attributes
    ----------
    params : the transform.
    nb_samples, nb_frames : lengths.
    nb_channels : number of channels.
    """

    def __init__(self, wave: Tensor, params: StftParams) -> None:
        self.params = params
        self.nb_channels, self.nb_samples = wave.shape
        if params.padding == "reflect":  # which takes more than half a frame
            wave = torch.nn.functional.pad(wave, (0, max(params.lead + 1 - self.nb_samples, 0)))
        if params.alignment == "center" and 4 * params.hop_length > params.n_fft:
            # what comes after the middle of the last frame, only that frame would tell, and next to nothing
            wave = torch.nn.functional.pad(wave, (0, -wave.shape[1] % params.hop_length))
        self.nb_frames = params.nb_frames(wave.shape[1])
        length = (self.nb_frames - 1) * params.hop_length + params.n_fft
        padding = (params.lead, max(length - params.lead - wave.shape[1], 0))
        mode = "reflect" if params.padding == "reflect" else "constant"
        self._padded = torch.nn.functional.pad(wave, padding, mode)
        self._inner = replace(params, alignment="start", padding="none")

    def __getitem__(self, frames: slice) -> Tensor:
        """Return some frames [shape=(nb_channels, nb_bins, nb_frames)]."""
        hop_length, n_fft = self.params.hop_length, self.params.n_fft
        part = self._padded[:, frames.start * hop_length : (frames.stop - 1) * hop_length + n_fft]
        return stft(part, self._inner)

    def magnitude(self, start: int, stop: int, nb_bins: int) -> Tensor:
        """Return the magnitudes of some frames, zeros beyond the last [shape=(nb_channels, nb_bins, stop - start)]."""
        magnitudes = self._padded.new_zeros((self.nb_channels, stop - start, nb_bins)).mT
        nb_frames = _block_frames(magnitudes.device)
        for first in range(start, min(stop, self.nb_frames), nb_frames):
            last = min(first + nb_frames, stop, self.nb_frames)
            magnitudes[..., first - start : last - start] = self[first:last][:, :nb_bins].abs()
        return magnitudes


@contextmanager
def _computing(loaded: Loaded, plan: Plan) -> Iterator[None]:
    """Let a network compute in the precision that is wanted."""
    if _device(loaded).type != "cuda":
        yield
        return
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cuda", torch.bfloat16, enabled=plan.precision == "bf16"):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


def _estimate_whole(loaded: Loaded, plan: Plan, spectra: _Spectra) -> Iterator[Tensor]:
    """Yield Open-Unmix's magnitudes of all frames at once [shape=(nb_targets, nb_channels, nb_bins, nb_frames)]."""
    model: OpenUnmixSettings = loaded.settings
    mixture = spectra.magnitude(0, spectra.nb_frames, model.nb_bins)
    shape = (len(model.targets), spectra.nb_channels, spectra.nb_frames, model.nb_bins)
    magnitudes = mixture.new_empty(shape).mT
    networks: Any = loaded.network.networks
    with _computing(loaded, plan):
        for i, network in enumerate(networks.values()):  # one by one: what a network needs meanwhile is as much again
            magnitudes[i] = network(mixture[None])[0]
    yield magnitudes


def _estimate_blocks(loaded: Loaded, plan: Plan, spectra: _Spectra) -> Iterator[Tensor]:
    """Yield magnitudes block after block, the last one shorter [shape=(nb_targets, nb_channels, nb_bins, nb_frames)].

    Blocks are as long as the inputs that the network was trained for, and know nothing of each other.
    """
    model: LongInputSettings = loaded.settings
    for first in range(0, spectra.nb_frames, model.nb_block_frames):
        last = min(first + model.nb_block_frames, spectra.nb_frames)
        mixture = spectra.magnitude(first, last, model.nb_bins)
        with _computing(loaded, plan):
            estimates = loaded.network(mixture[None])[0]
        yield estimates


def _estimate_waves(loaded: Loaded, plan: Plan, wave: Tensor) -> Iterator[Tensor]:
    """Yield the waves of all sources segment by segment [shape of each=(nb_sources, nb_channels, nb_samples)].

    Segments overlap by what is cut off of both ends; before the wave and after it there is silence.
    """
    model: BlockUnetSettings = loaded.settings
    length, trim, nb_samples = model.input_samples, model.trim_samples, wave.shape[1]
    span = length - 2 * trim
    nb_segments = -(-nb_samples // span)
    padded = torch.nn.functional.pad(wave, (trim, nb_segments * span + trim - nb_samples))
    segments = padded.unfold(1, length, span).transpose(0, 1)  # nb_segments, nb_channels, length
    values = model.nb_frames * model.nb_bins * len(wave)
    batch_size = max(_WAVE_VALUES["cpu" if wave.device.type == "cpu" else "cuda"] // values, 1)
    # frames that begin with a segment are centred ones of what begins half a frame later, and that is enough
    inverse, lead = model.separation_stft, 0
    if not model.centred:
        inverse, lead = replace(inverse, alignment="center", padding="zeros"), model.n_fft // 2
    for first in range(0, nb_segments, batch_size):
        spectra = stft(segments[first : first + batch_size], model.separation_stft)
        with _computing(loaded, plan):
            estimates = loaded.network(spectra if model.spec_type == "complex" else spectra.abs())
        if model.spec_type == "magnitude":
            estimates = add_phase(estimates, spectra[:, None])
        waves = istft(estimates, inverse, nb_samples=trim + span - lead)[..., trim - lead :]
        start = first * span
        joined = waves.movedim(0, -2).flatten(-2)[..., : nb_samples - start]  # nb_targets, nb_channels, nb_samples
        if plan.residual:
            left = wave[:, start : start + joined.shape[-1]] - joined.sum(0)
            joined = torch.cat([joined, left[None]])
        yield joined


def segment_hop(nb_frames: int, overlap: float) -> int:
    """Return the frames from the begin of a segment of Spleeter's to that of the next, which repeats a share of it."""
    return max(round(nb_frames * (1 - overlap)), 1)


def _estimate_segments(loaded: Loaded, plan: Plan, spectra: _Spectra) -> Iterator[Tensor]:
    """Yield Spleeter's magnitudes of some frames after others [shape=(nb_targets, nb_channels, nb_bins, nb_frames)].

    Segments are cross-faded where they overlap; the last one is filled up with zeros.
    """
    model: SpleeterSettings = loaded.settings
    length, hop = model.nb_frames, segment_hop(model.nb_frames, plan.segment_overlap or 0.0)
    nb_segments = 1 + max(-(-(spectra.nb_frames - length) // hop), 0)
    batch_size = max(_BATCH_VALUES // (length * model.nb_bins * spectra.nb_channels), 1)
    places = torch.arange(1, length + 1, device=_device(loaded))
    weights = torch.minimum(places, places.flip(0)).clamp(max=length - hop + 1) / (length - hop + 1)
    rest = weights.new_zeros((len(model.targets), spectra.nb_channels, model.nb_bins, 0))
    total = weights.new_zeros(0)
    for first in range(0, nb_segments, batch_size):
        count = min(batch_size, nb_segments - first)
        start, nb_frames = first * hop, (count - 1) * hop + length
        mixture = spectra.magnitude(start, start + nb_frames, model.nb_bins)
        with _computing(loaded, plan):
            segments = loaded.network(mixture.unfold(2, length, hop).movedim(2, 0))
        sums = torch.nn.functional.pad(rest, (0, nb_frames - rest.shape[3]))
        total = torch.nn.functional.pad(total, (0, nb_frames - len(total)))
        for i, segment in enumerate(segments):
            sums[..., i * hop : i * hop + length] += weights * segment
            total[i * hop : i * hop + length] += weights
        ready = count * hop if first + count < nb_segments else spectra.nb_frames - start
        yield sums[..., :ready] / total[:ready]
        rest, total = sums[..., ready:], total[ready:]


def _regroup(pieces: Iterable[Tensor], size: int | None) -> Iterator[Tensor]:
    """Yield the same frames in groups of a size, the last one smaller; all in one without a size."""
    rest: Tensor | None = None
    for piece in pieces:
        joined = piece if rest is None else torch.cat([rest, piece], dim=-1)
        nb_frames = joined.shape[-1]
        nb_used = 0 if size is None else nb_frames - nb_frames % size
        for start in range(0, nb_used, size or 1):
            yield joined[..., start : start + (size or 1)]
        rest = joined[..., nb_used:] if nb_used < nb_frames else None
    if rest is not None:
        yield rest


def _filter_all(loaded: Loaded, plan: Plan, groups: Iterable[Tensor], spectra: _Spectra) -> Iterator[Tensor]:
    """Yield the sources' spectra of groups of frames [shape=(nb_sources, nb_channels, nb_bins, nb_frames)]."""
    start = 0
    for magnitudes in groups:
        mixture = spectra[start : start + magnitudes.shape[-1]]
        start += magnitudes.shape[-1]
        if plan.residual and plan.softmask:
            left = mixture.abs()
            left[:, : magnitudes.shape[2]] -= magnitudes.sum(0)
            magnitudes = torch.cat([_fill(magnitudes, left.shape[1]), left.clamp_(min=0)[None]])
        if plan.softmask and not plan.nb_wiener_iterations and plan.mask_exponent is not None:
            filtered = _mask(magnitudes[:, :, : loaded.settings.nb_bins], mixture, plan, plan.mask_exponent)
        else:
            filtered = _refine(magnitudes, mixture, plan)
        yield _fill(filtered, mixture.shape[1])


def _fill(spectra: Tensor, nb_bins: int) -> Tensor:
    """Return spectra with zeros in the bins above theirs."""
    missing = nb_bins - spectra.shape[-2]
    return torch.nn.functional.pad(spectra, (0, 0, 0, missing)) if missing else spectra


def _mask(magnitudes: Tensor, mixture: Tensor, plan: Plan, exponent: float) -> Tensor:
    """Return the mixture through Spleeter's ratio masks, up to the last bin that one of them is not zero in."""
    powers = magnitudes**exponent
    masks = (powers + _MASK_EPS / len(powers)) / (powers.sum(0) + _MASK_EPS)
    nb_bins = masks.shape[2]
    if nb_bins < mixture.shape[1] and plan.mask_extension == "average":
        above = masks.mean(2, keepdim=True).expand(-1, -1, mixture.shape[1] - nb_bins, -1)
        masks = torch.cat([masks, above], dim=2)
    elif nb_bins < mixture.shape[1] and plan.residual:
        masks = _fill(masks, mixture.shape[1])
        masks[-1, :, nb_bins:] = 1
    return masks * mixture[:, : masks.shape[2]]


def _refine(magnitudes: Tensor, mixture: Tensor, plan: Plan) -> Tensor:
    """Return the mixture through a Wiener filter of no or more iterations, in the magnitudes' bins.

    Each bin is filtered on its own, but for a scale that comes from the loudest of them all in a window: so the loudest
    of each frame go along, as a bin more.
    """
    nb_bins = magnitudes.shape[2]
    if nb_bins < mixture.shape[1]:
        loudest = mixture.abs().amax(dim=(0, 1)).expand(len(mixture), 1, -1)
        mixture = torch.cat([mixture[:, :nb_bins], loudest.to(mixture.dtype)], dim=1)
    estimates = wiener(
        _fill(magnitudes, mixture.shape[1])[None],
        mixture[None],
        nb_iterations=plan.nb_wiener_iterations,
        softmask=plan.softmask,
        residual=plan.residual and not plan.softmask,
        eps=_OPEN_UNMIX_EPS if plan.mask_exponent is None else _SPLEETER_EPS,
        window=plan.wiener_window,
    )
    return estimates[0, :, :, :nb_bins]


def _invert(groups: Iterable[Tensor], spectra: _Spectra) -> Iterator[Tensor]:
    """Yield the waves of spectra that come in groups of frames [shape of each=(nb_sources, nb_channels, nb_samples)].

    Of each group what no later frame reaches; so the frames that reach further are held, and inverted again.
    """
    params = spectra.params
    nb_reaching = -(-params.n_fft // params.hop_length)
    held: Tensor | None = None
    first = done = 0  # the first frame that is held, and how many samples are out
    for group in groups:
        held = group if held is None else torch.cat([held, group], dim=-1)
        last = first + held.shape[-1]
        stop = spectra.nb_samples
        if last < spectra.nb_frames:
            stop = min(stop, last * params.hop_length - params.lead)
        if stop > done:
            begin = first * params.hop_length
            yield istft(held, params, nb_samples=stop - begin)[..., done - begin :]
            done = stop
            first = max(last - nb_reaching, first)
            held = held[..., held.shape[-1] - (last - first) :]
