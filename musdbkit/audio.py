"""Audio files: decode stem files, read, write and measure wav and flac, decode anything else.

Reads `.stem.mp4` files (all audio streams in one pass through the file, with PyAV: no ffmpeg program is needed) and wav
and flac files (soundfile); of any other kind of file what libsndfile reads, or else the first audio stream (PyAV).
Writes wav and flac.

Conventions: float samples are in [-1, 1] with shape (nb_samples, nb_channels). Samples "as written" are what a file
holds: int16 for PCM_16, int32 between -2**23 and 2**23 - 1 for PCM_24, float32 for FLOAT. Everything streams in blocks,
so that memory does not grow with the length of a track.
"""

import hashlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from musdbkit.errors import AudioError, ParameterError
from musdbkit.musdb18 import NB_CHANNELS, STREAMS

Samples: TypeAlias = NDArray[Any]

SUBTYPES: Final = ("PCM_16", "PCM_24", "FLOAT")
"""Sample formats that are written, by libsndfile's names."""

FORMATS: Final = ("wav", "flac")
"""File formats that are written, which are also the file names' endings."""

BLOCK_SIZE: Final = 16384
"""Samples per channel in a block: large enough to hide the cost of a call, small enough for the processor's cache."""

_NB_BITS: Final = {"PCM_16": 16, "PCM_24": 24}
_NB_BYTES: Final = {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4}
_HEADER_BYTES: Final = 44
_SET_ADD_PEAK_CHUNK: Final = 0x1050  # libsndfile's SFC_SET_ADD_PEAK_CHUNK


@dataclass(frozen=True)
class AudioInfo:
    """What the header of a wav or flac file says.

    Attributes
    ----------
    sample_rate : Hz.
    nb_channels : number of channels.
    nb_samples : samples per channel.
    subtype : libsndfile's name of the sample format, `PCM_16` for instance.
    """

    sample_rate: int
    nb_channels: int
    nb_samples: int
    subtype: str

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.nb_samples / self.sample_rate


@dataclass(frozen=True)
class StreamInfo:
    """What a stem file's container says of one of its audio streams.

    Attributes
    ----------
    stem : one of `musdb18.STREAMS`, by the stream's place in the file.
    sample_rate : Hz.
    nb_channels : number of channels.
    nb_samples : samples per channel, as the container declares them.
    nb_packets : coded frames the container lists, 0 where it has no such list.
    frame_size : samples per channel in a coded frame, 1024 for AAC.
    """

    stem: str
    sample_rate: int
    nb_channels: int
    nb_samples: int
    nb_packets: int
    frame_size: int

    def __str__(self) -> str:
        return f"stream {STREAMS.index(self.stem)} ({self.stem})"


def info(path: Path) -> AudioInfo:
    """Return what the header of a wav or flac file says.

    Raises
    ------
    AudioError
        The file is not there or is not audio that libsndfile reads.
    """
    with _open(path) as file:
        return AudioInfo(file.samplerate, file.channels, file.frames, file.subtype)


def probe(path: Path) -> AudioInfo:
    """Return what the header of an audio file of any kind says; of the first stream where there are several.

    The subtype of what libsndfile does not read is the name of its codec. The length is 0 where the file does not say
    it, and may be an estimate for kinds of files that are not made to be cut.

    Raises
    ------
    AudioError
        The file is not there, or holds no audio that can be decoded.
    """
    if _is_sndfile(path):
        return info(path)
    with _open_container(path, "audio") as container:
        stream = _first_stream(path, container)
        codec = stream.codec_context
        seconds = (stream.duration or 0) * (stream.time_base or 0) or (container.duration or 0) / av.time_base
        return AudioInfo(codec.sample_rate, codec.channels, round(seconds * codec.sample_rate), codec.name)


def decode(path: Path, block_size: int = BLOCK_SIZE) -> Iterator[NDArray[np.float32]]:
    """Yield the samples of an audio file of any kind in blocks [shape=(nb_samples, nb_channels), float32].

    What libsndfile reads (wav, flac, ogg, aiff and others) comes as it reads it; of all else (mp3, mp4, m4a, webm) the
    first audio stream, which in a stem file is the mixture: its samples are those of `decode_stems`.

    Parameters
    ----------
    path : the file.
    block_size : samples per channel in a block; the last one is shorter.

    Raises
    ------
    AudioError
        As `probe`; also when the file is corrupt, or, of kinds that say so reliably, shorter than its header says.
    """
    if _is_sndfile(path):
        yield from (block.copy() for block in read_overlapping(path, block_size, 0))
        return
    with _open_container(path, "audio") as container:
        stream = _first_stream(path, container)
        decoder = _StreamDecoder(path, _describe(STREAMS[0], stream), stream, np.float32, in_mp4=_is_mp4(container))
        try:
            for packet in container.demux(stream):
                decoder.add(packet)
                while decoder.nb_waiting >= block_size:
                    yield decoder.read(block_size)
        except av.FFmpegError as error:
            raise AudioError(f"{path}: cannot be read: {_reason(error)}") from error
        decoder.check_length()
        if decoder.nb_waiting:
            yield decoder.read(decoder.nb_waiting)


def wav_bytes(nb_samples: int, subtype: str) -> int:
    """Return the size of a stereo wav file with integer samples; one with FLOAT samples has some bytes more."""
    return _HEADER_BYTES + nb_samples * NB_CHANNELS * _NB_BYTES[subtype]


def read(path: Path, start: int = 0, nb_samples: int | None = None) -> NDArray[np.float32]:
    """Return the samples of a wav or flac file [shape=(nb_samples, nb_channels), float32].

    Parameters
    ----------
    path : the file.
    start : first sample to read.
    nb_samples : how many samples to read, to the end by default.

    Raises
    ------
    AudioError
        The file cannot be read, or holds fewer samples than were asked for or than its header says.
    """
    with _open(path) as file:
        expected = max(file.frames - start, 0) if nb_samples is None else nb_samples
        try:
            file.seek(start)
            samples: NDArray[np.float32] = file.read(expected, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:  # ValueError: an absurd length
            raise AudioError(f"{path}: cannot be read: {_reason(error)}") from error
    _check_length(path, len(samples), expected)
    return samples


def read_blocks(path: Path, block_size: int = BLOCK_SIZE) -> Iterator[Samples]:
    """Yield the samples of a wav or flac file as written, in blocks [shape=(block_size or fewer, nb_channels)].

    Raises
    ------
    AudioError
        The file cannot be read, its subtype is none of `SUBTYPES`, or it is shorter than its header says.
    """
    with _open(path) as file:
        if file.subtype not in SUBTYPES:
            raise AudioError(f"{path}: subtype {file.subtype}, expected one of {', '.join(SUBTYPES)}")
        dtype = {"PCM_16": "int16", "PCM_24": "int32", "FLOAT": "float32"}[file.subtype]
        nb_read = 0
        try:
            while len(block := file.read(block_size, dtype=dtype, always_2d=True)):
                nb_read += len(block)
                yield block >> 8 if file.subtype == "PCM_24" else block
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise AudioError(f"{path}: cannot be read: {_reason(error)}") from error
        _check_length(path, nb_read, file.frames)


def read_overlapping(path: Path, block_size: int, overlap: int) -> Iterator[NDArray[np.float32]]:
    """Yield a wav or flac file in blocks that overlap [shape=(block_size or fewer, nb_channels), float32].

    Each block begins with the last `overlap` samples of the one before. It is valid until the next one is asked for.

    Raises
    ------
    AudioError
        The file cannot be read, or is shorter than its header says.
    """
    with _open(path) as file:
        buffer = np.empty((block_size, file.channels), np.float32)
        integers = np.empty(buffer.shape, np.int16) if file.subtype == "PCM_16" else None
        nb_read = nb_kept = 0
        try:
            while nb_new := len(file.read(out=(buffer if integers is None else integers)[nb_kept:])):
                nb_read += nb_new
                if integers is not None:  # which NumPy makes floats of in a fifth of libsndfile's time
                    new = slice(nb_kept, nb_kept + nb_new)
                    np.multiply(integers[new], np.float32(2.0**-15), out=buffer[new])
                yield buffer[: nb_kept + nb_new]
                if nb_kept + nb_new < block_size:
                    break
                buffer[:overlap] = buffer[block_size - overlap :]
                nb_kept = overlap
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise AudioError(f"{path}: cannot be read: {_reason(error)}") from error
        _check_length(path, nb_read, file.frames)


def to_float(samples: Samples, subtype: str) -> NDArray[np.float32]:
    """Return samples as written (or sums of such) in [-1, 1] [same shape, float32].

    Exact for values of up to 24 bits.
    """
    if subtype == "FLOAT":
        return samples.astype(np.float32, copy=False)
    return samples.astype(np.float32) * np.float32(2.0 ** (1 - _NB_BITS[subtype]))


def quantise(samples: NDArray[np.floating], subtype: str) -> Samples:
    """Return float samples as a file of `subtype` holds them [same shape].

    Integers are scaled by 2**15 or 2**23, rounded to the nearest (halves to even) and limited to the range, which is
    what ffmpeg's pcm_s16le does with AAC's float output.
    """
    if subtype == "FLOAT":
        return samples.astype(np.float32, copy=False)
    limit = 2.0 ** (_NB_BITS[subtype] - 1)
    scaled = samples * samples.dtype.type(limit)
    np.rint(scaled, out=scaled)
    np.clip(scaled, -limit, limit - 1, out=scaled)
    return scaled.astype(np.int16 if subtype == "PCM_16" else np.int32)


def count_clipped(samples: NDArray[np.floating], subtype: str) -> int:
    """Return how many values of float samples `quantise` has to limit; none if it writes floats."""
    if subtype == "FLOAT":
        return 0
    limit = 2.0 ** (_NB_BITS[subtype] - 1)
    scaled = np.rint(samples * samples.dtype.type(limit))
    return int(np.count_nonzero((scaled < -limit) | (scaled > limit - 1)))


class _UnsyncedFile(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is closed without waiting until it is on the disk: a tenth of the time of converting a track.

    What guards against half-written files is the renaming of finished ones, not the disk's cache.
    """

    def flush(self) -> None:
        """Do not call libsndfile's fsync, as `close` would otherwise."""


class _Closing(ABC):
    """A context manager that closes in the end; an error that is on its way goes before one of closing."""

    @abstractmethod
    def close(self) -> None:
        """Finish the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(AudioError) if exc is not None else nullcontext():
            self.close()


class Writer(_Closing):
    """Writes a wav or flac file block by block; a context manager.

    Equal samples give equal bytes, on any day: libsndfile's PEAK chunk, which holds the time of writing, is left out.

    Parameters
    ----------
    path : the file, ending in .wav or .flac; replaced where it exists.
    sample_rate : Hz.
    nb_channels : number of channels.
    subtype : one of `SUBTYPES`; flac holds no FLOAT.

    Raises
    ------
    AudioError
        The file cannot be written; a full disk is named as such.
    ParameterError
        The format or subtype is not one that is written.
    """

    def __init__(self, path: Path, sample_rate: int, nb_channels: int, subtype: str) -> None:
        file_format = path.suffix[1:]
        if file_format not in FORMATS or subtype not in SUBTYPES or (file_format, subtype) == ("flac", "FLOAT"):
            raise ParameterError(f"{path.name}: {subtype} cannot be written as .{file_format}")
        self.path = path
        self.subtype = subtype
        self.nb_samples = 0
        try:
            self._file = _UnsyncedFile(
                path, "w", sample_rate, nb_channels, subtype, format=file_format.upper(), endian="FILE"
            )
        except (soundfile.LibsndfileError, OSError) as error:
            raise _write_error(path, error) from error
        soundfile._snd.sf_command(self._file._file, _SET_ADD_PEAK_CHUNK, soundfile._ffi.NULL, 0)

    def write(self, samples: Samples) -> None:
        """Append samples as written [shape=(nb_samples, nb_channels)]."""
        if self.subtype == "PCM_24":
            samples = samples.astype(np.int32, copy=False) << 8
        elif self.subtype == "PCM_16":
            samples = samples.astype(np.int16, copy=False)
        try:
            self._file.write(samples)
        except (soundfile.LibsndfileError, OSError, AssertionError) as error:  # soundfile asserts on a short write
            raise _write_error(self.path, error) from error
        self.nb_samples += len(samples)

    def close(self) -> None:
        """Finish the file and check that it holds what was written: libsndfile hides the last error of a flac file."""
        try:
            self._file.close()
            if self.nb_samples and info(self.path).nb_samples != self.nb_samples:
                raise AudioError("it holds less than was written")
        except (soundfile.LibsndfileError, OSError, AudioError) as error:
            raise _write_error(self.path, error) from error


def write(path: Path, samples: Samples, sample_rate: int, subtype: str = "PCM_16") -> None:
    """Write samples [shape=(nb_samples, nb_channels)] as wav or flac.

    Parameters
    ----------
    path : the file, ending in .wav or .flac; replaced where it exists.
    samples : floats in [-1, 1], which are quantised, or integers as written.
    sample_rate : Hz.
    subtype : one of `SUBTYPES`.
    """
    if np.issubdtype(samples.dtype, np.floating):
        samples = quantise(samples, subtype)
    elif subtype == "FLOAT" or not _fits(samples, subtype):
        raise ParameterError(f"{path}: the integers given are no {subtype} samples")
    with Writer(path, sample_rate, samples.shape[1], subtype) as writer:
        writer.write(samples)


def write_sum(paths: list[Path], out: Path) -> str:
    """Write the exact sum of audio files of one subtype, rate and length; return the subtype written.

    The sum is written in the subtype of the files, or as a FLOAT wav in place of `out` where it would overflow.

    Raises
    ------
    AudioError
        The files differ in rate, channels, subtype or length.
    """
    infos = [info(path) for path in paths]
    for path, found in zip(paths, infos, strict=True):
        if found != infos[0]:
            raise AudioError(
                f"{path}: {found}, expected {infos[0]} as in {paths[0].name}: stems must match to be summed"
            )
    with SumWriter(out, infos[0].sample_rate, infos[0].nb_channels, infos[0].subtype) as writer:
        for blocks in zip(*map(read_blocks, paths), strict=True):
            writer.write(list(blocks))
    return writer.subtype


class SumWriter(_Closing):
    """Writes the exact sum of one or more stems as written, block by block; a context manager.

    It starts in the stems' own subtype, where integers sum exactly. The first sum that would overflow turns the whole
    file into a FLOAT wav, whatever the format: nothing is clipped. FLOAT holds sums of 16-bit stems exactly, those of
    24-bit stems up to twice full scale, and rounds beyond to its 24 significant bits.

    Parameters
    ----------
    path : the file; where the sum overflows, its ending becomes .wav.
    sample_rate : Hz.
    nb_channels : number of channels.
    subtype : the stems' subtype.
    """

    def __init__(self, path: Path, sample_rate: int, nb_channels: int, subtype: str) -> None:
        self._stems_subtype = subtype
        self._open = (sample_rate, nb_channels)
        self._writer = Writer(path, *self._open, subtype)

    @property
    def path(self) -> Path:
        """The file that is written."""
        return self._writer.path

    @property
    def subtype(self) -> str:
        """The subtype that is written."""
        return self._writer.subtype

    @property
    def nb_samples(self) -> int:
        """Samples per channel written so far."""
        return self._writer.nb_samples

    def write(self, stems: list[Samples]) -> None:
        """Append the sum of one block of each stem [shape of each=(nb_samples, nb_channels)]."""
        if len(stems) == 1:
            self._writer.write(stems[0])
            return
        total = sum_samples(stems)
        if self.subtype == self._stems_subtype and not _fits(total, self.subtype):
            self._widen()
        self._writer.write(total if self.subtype == self._stems_subtype else to_float(total, self._stems_subtype))

    def _widen(self) -> None:
        """Go on as FLOAT, with what was written so far."""
        narrow = self._writer
        narrow.close()
        kept = narrow.path.with_name(narrow.path.name + ".narrow")
        narrow.path.rename(kept)
        try:
            wide = narrow.path.parent / (narrow.path.name.rpartition(".")[0] + ".wav")
            self._writer = Writer(wide, *self._open, "FLOAT")
            for block in read_blocks(kept) if narrow.nb_samples else ():  # an empty flac file cannot be read
                self._writer.write(to_float(block, narrow.subtype))
        finally:
            kept.unlink()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


def sum_samples(stems: list[Samples]) -> Samples:
    """Return the sum of stems as written [same shape]: int32 for integers, float32 for floats; one stem as it is."""
    if stems[0].dtype == np.float32:
        exact = stems[0].astype(np.float64)
        for stem in stems[1:]:
            exact += stem
        return exact.astype(np.float32)
    total = stems[0] if len(stems) == 1 else np.add(stems[0], stems[1], dtype=np.int32)
    for stem in stems[2:]:
        total += stem
    return total


def _fits(samples: Samples, subtype: str) -> bool:
    """Return whether a sum of samples as written can be written in their subtype without clipping."""
    if subtype == "FLOAT" or not samples.size:
        return True
    limit = 2 ** (_NB_BITS[subtype] - 1)
    return bool(samples.min() >= -limit and samples.max() < limit)


class PcmHash:
    """The SHA-256 of samples as a wav file's data chunk holds them: independent of headers and of flac's coding."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, samples: Samples, subtype: str) -> None:
        """Add a block of samples as written."""
        data = np.ascontiguousarray(samples, dtype={"PCM_16": "<i2", "PCM_24": "<i4", "FLOAT": "<f4"}[subtype])
        if subtype == "PCM_24":  # three of the four bytes are in the file
            data = np.ascontiguousarray(data.view(np.uint8).reshape(-1, 4)[:, :3])
        self._hash.update(data.data)

    def hexdigest(self) -> str:
        """Return the hash of what was added."""
        return self._hash.hexdigest()


def hash_pcm(path: Path) -> str:
    """Return the `PcmHash` of a wav or flac file.

    Raises
    ------
    AudioError
        As `read_blocks`.
    """
    subtype = info(path).subtype
    pcm_hash = PcmHash()
    for block in read_blocks(path):
        pcm_hash.update(block, subtype)
    return pcm_hash.hexdigest()


def probe_stems(path: Path) -> tuple[StreamInfo, ...]:
    """Return what a stem file's container says of its five audio streams, in the order of `musdb18.STREAMS`.

    Raises
    ------
    AudioError
        The file cannot be opened, does not hold exactly five stereo audio streams, or their rates or lengths differ.
    """
    with _open_container(path) as container:
        return _check_streams(path, container)


def decode_stems(
    path: Path, block_size: int = BLOCK_SIZE, dtype: type[np.float32] | type[np.int16] = np.float32
) -> Iterator[list[Samples]]:
    """Yield blocks of all five streams of a stem file [shape of each=(block_size or fewer, 2)].

    The file is read once; video streams (cover art) are passed over. Blocks come in the order of `musdb18.STREAMS`.

    Parameters
    ----------
    path : the stem file.
    block_size : samples per channel in a block.
    dtype : np.float32, or np.int16 for what `quantise` makes of it, computed by libswresample while it packs channels.

    Raises
    ------
    AudioError
        As `probe_stems`; also when a stream cannot be decoded, or decodes to another length than the container says
        (a cut file decodes without any complaint from the decoder). A sound file decodes to at most one AAC frame more
        than the container says.
    """
    with _open_container(path) as container:
        infos = _check_streams(path, container)
        streams = container.streams.audio
        decoders = {s.index: _StreamDecoder(path, i, s, dtype) for i, s in zip(infos, streams, strict=True)}
        try:
            for packet in container.demux(streams):
                decoder = decoders[packet.stream.index]  # packet.stream_index is 0 in the packets that flush
                decoder.add(packet)
                while decoder.nb_waiting >= block_size and all(d.nb_waiting >= block_size for d in decoders.values()):
                    yield [d.read(block_size) for d in decoders.values()]
        except av.FFmpegError as error:
            raise AudioError(f"{path}: cannot be read: {_reason(error)}") from error
    for decoder in decoders.values():
        decoder.check_length()
    rest = min(decoder.nb_waiting for decoder in decoders.values())  # equal, or up to one AAC frame apart
    if rest:
        yield [decoder.read(rest) for decoder in decoders.values()]


class _StreamDecoder:
    """Decodes one stream of a file, packet by packet, into a queue of samples.

    In mp4 an encoder's priming samples, which have negative time stamps, are dropped here and not by libavcodec: its
    versions differ in what they also cut from the end. Other containers say neither that reliably nor their length.
    """

    def __init__(
        self, path: Path, info: StreamInfo, stream: av.AudioStream, dtype: type[np.generic], *, in_mp4: bool = True
    ) -> None:
        self._path = path
        self._dtype = dtype
        self._packer = av.AudioResampler("s16" if dtype is np.int16 else "flt")
        self._info = info
        self._queue = av.AudioFifo()
        self._converter: av.AudioResampler | None = None
        self._begun = False
        self._nb_packets = 0
        self._nb_samples = 0
        self._nb_priming = 0
        self._in_mp4 = in_mp4
        if in_mp4:
            stream.codec_context.flags2 |= av.codec.context.Flags2.skip_manual

    @property
    def nb_waiting(self) -> int:
        """Samples that can be read."""
        return 0 if self._nb_priming else self._queue.samples

    def add(self, packet: "av.Packet[av.AudioStream]") -> None:
        """Decode a packet."""
        if packet.is_corrupt:  # libavformat's mark for a packet that ends with the file
            raise self._cut_off()
        if packet.size:
            self._nb_packets += 1
        try:
            for frame in packet.decode():
                if not self._begun:
                    self._begin(frame)
                self._nb_samples += frame.samples
                for part in (frame,) if self._converter is None else self._converter.resample(frame):
                    part.pts = None  # samples are joined by order; edit lists may leave gaps in the time stamps
                    self._queue.write(part)
        except (av.FFmpegError, ValueError) as error:  # ValueError: a stream whose layout changes half-way
            raise AudioError(
                f"{self._path}: {self._info}: corrupt after {self._nb_samples} of {self._info.nb_samples} samples "
                f"({_reason(error)}): fetch it again",
                stem=self._info.stem,
            ) from error
        if 0 < self._nb_priming <= self._queue.samples:
            self._queue.read(self._nb_priming)
            self._nb_priming = 0

    def _begin(self, frame: av.AudioFrame) -> None:
        """Learn from the first frame what to convert and what to drop."""
        self._begun = True
        if frame.format.name != "fltp":  # AAC's is; ALAC's is not
            self._converter = av.AudioResampler("fltp")
        if self._in_mp4 and frame.pts is not None and frame.time_base is not None:
            self._nb_priming = max(0, round(-frame.pts * frame.time_base * self._info.sample_rate))
            self._nb_samples = -self._nb_priming

    def read(self, nb_samples: int) -> Samples:
        """Return the next samples [shape=(nb_samples, nb_channels)]."""
        frame = self._queue.read(nb_samples)
        assert frame is not None  # the callers ask for no more than there is
        (packed,) = self._packer.resample(frame)
        nb_channels = self._info.nb_channels
        samples: Samples = np.frombuffer(memoryview(packed.planes[0]), self._dtype, nb_samples * nb_channels)
        if self._dtype == np.float32 and not np.isfinite(np.vdot(samples, samples)):
            raise AudioError(
                f"{self._path}: {self._info}: decodes to values that are no numbers: fetch it again",
                stem=self._info.stem,
            )
        return samples.reshape(nb_samples, nb_channels)

    def check_length(self) -> None:
        """Check the decoded length against what an mp4 container says, in samples and in packets."""
        if not self._in_mp4:
            return
        info = self._info
        most = max(info.nb_samples, info.nb_packets * info.frame_size) + info.frame_size
        complete = self._nb_packets >= info.nb_packets
        if not (complete and info.nb_samples - info.frame_size <= self._nb_samples <= most):
            raise self._cut_off()

    def _cut_off(self) -> AudioError:
        """Return the error for a stream that is not as long as the container says."""
        return AudioError(
            f"{self._path}: {self._info}: decoded {self._nb_samples} samples, "
            f"the container says {self._info.nb_samples}: the file is cut off or corrupt: fetch it again",
            "length",
            self._info.stem,
        )


def _open(path: Path) -> soundfile.SoundFile:
    """Open a wav or flac file to read."""
    try:
        return soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, OSError) as error:
        raise _open_error(path, "wav or flac", error) from error


def _is_sndfile(path: Path) -> bool:
    """Return whether libsndfile reads a file, and well: of mp3 all blocks after the first begin with a false start.

    That is because soundfile seeks to where it is after each block.
    """
    try:
        with soundfile.SoundFile(path) as file:
            return bool(file.format != "MP3")
    except (soundfile.LibsndfileError, OSError):
        return False


def _open_container(path: Path, kind: str = "mp4") -> "av.container.InputContainer":
    """Open a stem file, or another one that holds streams."""
    try:
        return av.open(str(path))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise _open_error(path, kind, error) from error


def _is_mp4(container: "av.container.InputContainer") -> bool:
    """Return whether a container is an mp4 file or one of its kin."""
    return "mp4" in container.format.name.split(",")


def _first_stream(path: Path, container: "av.container.InputContainer") -> av.AudioStream:
    """Return the first audio stream of a file."""
    stream = next(iter(container.streams.audio), None)
    if (
        stream is None
        or not isinstance(stream.codec_context, av.AudioCodecContext)
        or not (stream.channels and stream.rate)
    ):
        raise AudioError(f"{path}: no audio stream that can be decoded: choose another file")
    return stream


def _open_error(path: Path, kind: str, error: Exception) -> AudioError:
    """Return the error for a file that could not be opened."""
    if not path.exists():
        return AudioError(f"{path}: no such file", "missing")
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
    except OSError as denied:
        return AudioError(f"{path}: cannot be opened: {denied.strerror}: change its permissions or remove it")
    return AudioError(f"{path}: {size} bytes that are no readable {kind} file ({_reason(error)}): fetch it again")


def _check_streams(path: Path, container: "av.container.InputContainer") -> tuple[StreamInfo, ...]:
    """Return the streams' descriptions, all alike."""
    streams = container.streams.audio
    if len(streams) != len(STREAMS):
        raise AudioError(
            f"{path}: {len(streams)} audio streams, expected {len(STREAMS)} ({', '.join(STREAMS)}): fetch it again",
            "missing",
        )
    for stem, coded in zip(STREAMS, streams, strict=True):
        if not isinstance(coded.codec_context, av.AudioCodecContext):
            raise AudioError(f"{path}: stream {STREAMS.index(stem)} ({stem}): unknown codec: fetch it again", stem=stem)
    infos = tuple(_describe(stem, stream) for stem, stream in zip(STREAMS, streams, strict=True))
    for stream in infos:
        if stream.nb_channels != NB_CHANNELS:
            raise AudioError(
                f"{path}: {stream}: {stream.nb_channels} channel(s), expected {NB_CHANNELS}: fetch it again",
                "channels",
                stream.stem,
            )
        if stream.sample_rate != infos[0].sample_rate:
            raise AudioError(
                f"{path}: {stream}: {stream.sample_rate} Hz, but {infos[0]} has {infos[0].sample_rate} Hz: "
                "all streams must have one rate",
                "rate",
                stream.stem,
            )
        if abs(stream.nb_samples - infos[0].nb_samples) > stream.frame_size:
            raise AudioError(
                f"{path}: {stream}: {stream.nb_samples} samples, but {infos[0]} has {infos[0].nb_samples}: "
                "all streams must have one length",
                "length",
                stream.stem,
            )
    return infos


def _describe(stem: str, stream: av.AudioStream) -> StreamInfo:
    """Return what a container says of a stream."""
    return StreamInfo(
        stem=stem,
        sample_rate=stream.rate or 0,
        nb_channels=stream.channels,
        nb_samples=round((stream.duration or 0) * (stream.time_base or 0) * (stream.rate or 0)),
        nb_packets=stream.frames,
        frame_size=stream.codec_context.frame_size or 1024,
    )


def _check_length(path: Path, found: int, expected: int) -> None:
    """Check that a wav or flac file held as many samples as expected."""
    if found != expected:
        raise AudioError(f"{path}: {found} samples, expected {expected}: the file is cut off", "length")


def _write_error(path: Path, error: Exception) -> AudioError:
    """Return the error for a file that could not be written, with the reason that the system has."""
    try:
        if shutil.disk_usage(path.parent).free < BLOCK_SIZE * NB_CHANNELS * 4:
            return AudioError(f"{path}: the disk is full: free some space and run again", "unwritable")
    except OSError:
        pass
    return AudioError(f"{path}: cannot be written: {_reason(error)}", "unwritable")


def _reason(error: Exception) -> str:
    """Return what an error says, on one line and without the path it repeats."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()).rstrip(".")
