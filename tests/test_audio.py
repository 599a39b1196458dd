"""Wav and flac files against hand-computed values and hashlib; stem files against their container."""

import hashlib
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from musdbkit import audio
from musdbkit.errors import AudioError, ParameterError

EXCERPT_SAMPLES = 268_288  # 262 AAC frames, as the container of the shipped excerpt says


def decode(path: Path, block_size: int = audio.BLOCK_SIZE) -> list[np.ndarray]:
    return [np.concatenate(blocks) for blocks in zip(*audio.decode_stems(path, block_size), strict=True)]


def test_quantise_rounds_halves_to_even_and_limits() -> None:
    lsb = np.float32(1 / 32768)
    samples = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 0.49, 32767.4, 32767.6, 40000, -32768, -40000], np.float32) * lsb
    expected = [0, 2, 2, 0, -2, 0, 32767, 32767, 32767, -32768, -32768]
    assert audio.quantise(samples, "PCM_16").tolist() == expected
    assert audio.quantise(samples, "PCM_16").dtype == np.int16


def test_quantise_24_bit_keeps_all_bits() -> None:
    values = np.array([1, -1, 2**23 - 1, -(2**23), 1234567], np.int32)
    assert audio.quantise(audio.to_float(values, "PCM_24"), "PCM_24").tolist() == values.tolist()
    assert audio.quantise(np.array([1.0, -1.1], np.float32), "PCM_24").tolist() == [2**23 - 1, -(2**23)]


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("flac", "PCM_16"), ("flac", "PCM_24")],
)
def test_written_samples_read_back_exactly(tmp_path: Path, rng: np.random.Generator, suffix: str, subtype: str) -> None:
    samples = audio.quantise(rng.uniform(-1, 1, (70_000, 2)).astype(np.float32), subtype)
    path = tmp_path / f"a.{suffix}"
    audio.write(path, samples, 44100, subtype)
    assert audio.info(path) == audio.AudioInfo(44100, 2, 70_000, subtype)
    np.testing.assert_array_equal(np.concatenate(list(audio.read_blocks(path))), samples)
    np.testing.assert_array_equal(audio.read(path, 100, 50), audio.to_float(samples, subtype)[100:150])


def test_float_files_do_not_hold_the_time(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", np.ones((10, 2), np.float32), 44100, "FLOAT")
    assert b"PEAK" not in (tmp_path / "a.wav").read_bytes()


def test_closing_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(soundfile.SoundFile, "flush", lambda file: synced.append(file.mode))
    audio.write(tmp_path / "a.wav", np.ones((10, 2), np.float32), 44100)
    assert "w" not in synced
    assert audio.info(tmp_path / "a.wav").nb_samples == 10


@pytest.mark.parametrize(("subtype", "width"), [("PCM_16", 2), ("PCM_24", 3), ("FLOAT", 4)])
def test_pcm_hash_is_that_of_the_data_chunk(tmp_path: Path, rng: np.random.Generator, subtype: str, width: int) -> None:
    samples = rng.uniform(-1, 1, (40_000, 2)).astype(np.float32)
    audio.write(tmp_path / "a.wav", samples, 44100, subtype)
    data = (tmp_path / "a.wav").read_bytes()[-40_000 * 2 * width :]
    assert audio.hash_pcm(tmp_path / "a.wav") == hashlib.sha256(data).hexdigest()
    if subtype != "FLOAT":
        audio.write(tmp_path / "a.flac", samples, 44100, subtype)
        assert audio.hash_pcm(tmp_path / "a.flac") == hashlib.sha256(data).hexdigest()


def test_sum_of_integers_is_exact(tmp_path: Path, rng: np.random.Generator) -> None:
    stems = [rng.integers(-10_000, 10_000, (50_000, 2)).astype(np.int16) for _ in range(3)]
    paths = [tmp_path / f"{i}.wav" for i in range(3)]
    for path, stem in zip(paths, stems, strict=True):
        audio.write(path, stem, 44100)
    assert audio.write_sum(paths, tmp_path / "sum.wav") == "PCM_16"
    written, _ = soundfile.read(tmp_path / "sum.wav", dtype="int16")
    np.testing.assert_array_equal(written, sum(stem.astype(int) for stem in stems))


@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize("where", [0, 60_000], ids=["at the start", "half-way"])
def test_sum_that_overflows_becomes_float_and_is_exact(tmp_path: Path, suffix: str, where: int) -> None:
    stems = [np.full((80_000, 2), 1000, np.int16) for _ in range(3)]
    for stem in stems:
        stem[where] = 30_000
    with audio.SumWriter(tmp_path / f"sum.{suffix}", 44100, 2, "PCM_16") as writer:
        for start in range(0, 80_000, 20_000):
            writer.write([stem[start : start + 20_000] for stem in stems])
    assert (writer.path, writer.subtype) == (tmp_path / "sum.wav", "FLOAT")
    written, _ = soundfile.read(tmp_path / "sum.wav", dtype="float32")
    np.testing.assert_array_equal(written * 32768, sum(stem.astype(int) for stem in stems))
    assert [path.name for path in tmp_path.iterdir()] == ["sum.wav"]


def test_sum_of_unlike_files_is_refused(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", np.zeros((10, 2), np.int16), 44100)
    audio.write(tmp_path / "b.wav", np.zeros((11, 2), np.int16), 44100)
    with pytest.raises(AudioError, match=r"b\.wav: .*nb_samples=11.*expected .*nb_samples=10"):
        audio.write_sum([tmp_path / "a.wav", tmp_path / "b.wav"], tmp_path / "sum.wav")
    assert not (tmp_path / "sum.wav").exists()


def test_unwritable_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"a\.flac: FLOAT cannot be written"):
        audio.write(tmp_path / "a.flac", np.zeros((1, 2), np.float32), 44100, "FLOAT")
    with pytest.raises(ParameterError, match=r"cannot be written as \.mp3"):
        audio.write(tmp_path / "a.mp3", np.zeros((1, 2), np.float32), 44100)


def test_integers_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"a\.wav: the integers given are no PCM_16 samples"):
        audio.write(tmp_path / "a.wav", np.full((10, 2), 40_000, np.int32), 44100)
    assert not (tmp_path / "a.wav").exists()


def test_a_full_disk_is_noticed_to_the_last_byte(small_disk: Path) -> None:
    """Libsndfile does not report it when the end of a flac file finds no room."""
    samples = np.random.default_rng(0).integers(-3000, 3000, (20_000, 2)).astype(np.int16)
    for suffix in audio.FORMATS:
        audio.write(small_disk / f"whole.{suffix}", samples, 44100)
        size = (small_disk / f"whole.{suffix}").stat().st_size
        (small_disk / f"whole.{suffix}").unlink()
        filler = small_disk / "filler"
        failures = 0
        for room in range(0, size + 8192, 4096):
            filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - room))
            try:
                audio.write(small_disk / f"a.{suffix}", samples, 44100)
            except AudioError as error:
                failures += str(error).endswith("the disk is full: free some space and run again")
            else:
                np.testing.assert_array_equal(
                    np.concatenate(list(audio.read_blocks(small_disk / f"a.{suffix}"))), samples
                )
            (small_disk / f"a.{suffix}").unlink(missing_ok=True)
            filler.unlink()
        assert failures == -(-size // 4096)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"nothing\.wav: no such file"):
        audio.info(tmp_path / "nothing.wav")
    (tmp_path / "text.wav").write_text("hello")
    with pytest.raises(AudioError, match=r"text\.wav: 5 bytes that are no readable wav or flac file"):
        audio.info(tmp_path / "text.wav")


def test_cut_wav_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    audio.write(path, np.random.default_rng(0).uniform(-1, 1, (50_000, 2)).astype(np.float32), 44100)
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(AudioError, match=r"a\.flac: .*(cut off|cannot be read)"):
        audio.read(path)
    with pytest.raises(AudioError, match=r"a\.flac: .*(cut off|cannot be read)"):
        list(audio.read_blocks(path))


def test_excerpt_has_five_equal_streams(excerpt: Path) -> None:
    infos = audio.probe_stems(excerpt)
    assert [info.stem for info in infos] == ["mixture", "drums", "bass", "other", "vocals"]
    assert str(infos[2]) == "stream 2 (bass)"
    assert {(info.sample_rate, info.nb_channels, info.nb_samples) for info in infos} == {(44100, 2, EXCERPT_SAMPLES)}


@pytest.mark.parametrize("block_size", [1000, audio.BLOCK_SIZE, 10**6])
def test_decoding_does_not_depend_on_the_block_size(excerpt: Path, block_size: int) -> None:
    assert all(len(block[0]) <= block_size for block in audio.decode_stems(excerpt, block_size))
    streams = decode(excerpt, block_size)
    assert [stream.shape for stream in streams] == [(EXCERPT_SAMPLES, 2)] * 5
    for stream, other in zip(streams, decode(excerpt), strict=True):
        np.testing.assert_array_equal(stream, other)


def test_streams_come_in_the_published_order(excerpt: Path) -> None:
    mixture, *stems = (stream[44_100:250_000] for stream in decode(excerpt))  # its ends hold clicks of the cut
    residual = mixture - sum(stems)
    assert 10 * np.log10(np.sum(mixture**2) / np.sum(residual**2)) > 20
    spectra = [np.abs(np.fft.rfft(stem[:, 0])) for stem in stems]
    centroids = [np.sum(spectrum * np.arange(spectrum.size)) / spectrum.sum() for spectrum in spectra]
    assert np.argmin(centroids) == 1  # bass
    assert np.argmax(centroids) == 0  # drums


@pytest.mark.parametrize("share", [0.33, 0.5, 0.9, 0.99])
def test_cut_stem_file_is_refused_with_both_lengths(excerpt: Path, tmp_path: Path, share: float) -> None:
    data = excerpt.read_bytes()
    path = tmp_path / "cut.stem.mp4"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(
        AudioError, match=rf"stream \d \(\w+\): decoded \d+ samples, the container says {EXCERPT_SAMPLES}"
    ):
        decode(path)


def test_stem_file_without_its_last_frame_is_refused(excerpt: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.stem.mp4"
    with (
        av.open(str(excerpt)) as source,
        av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as sink,
    ):
        streams = {s.index: sink.add_stream_from_template(s) for s in source.streams.audio}
        for packet in source.demux(source.streams.audio):
            if packet.dts is not None:
                packet.stream = streams[packet.stream_index]
                sink.mux(packet)
    assert len(decode(path)[0]) == EXCERPT_SAMPLES
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(AudioError, match=r"stream \d \(\w+\): decoded"):
        decode(path)


def test_garbage_inside_a_stem_file_is_refused(excerpt: Path, tmp_path: Path) -> None:
    data = bytearray(excerpt.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = np.random.default_rng(0).bytes(20_000)
    (tmp_path / "bad.stem.mp4").write_bytes(data)
    with pytest.raises(AudioError, match=r"stream \d \(\w+\): corrupt after \d+ of 268288 samples \(Invalid data"):
        decode(tmp_path / "bad.stem.mp4")


@pytest.mark.parametrize("content", [b"", b"hello\n" * 100, bytes(range(256)) * 40], ids=["empty", "text", "binary"])
def test_what_is_no_stem_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.stem.mp4").write_bytes(content)
    with pytest.raises(AudioError, match=rf"x\.stem\.mp4: {len(content)} bytes that are no readable mp4"):
        audio.probe_stems(tmp_path / "x.stem.mp4")


def test_a_video_before_the_audio_is_passed_over(excerpt: Path, tmp_path: Path) -> None:
    path = tmp_path / "video.stem.mp4"
    with av.open(str(excerpt)) as source, av.open(str(path), "w", format="mp4") as sink:
        video = sink.add_stream("mpeg4", rate=25)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        streams = {s.index: sink.add_stream_from_template(s) for s in source.streams.audio}
        for packet in (*video.encode(av.VideoFrame(64, 64, "yuv420p")), *video.encode(None)):
            sink.mux(packet)
        for packet in source.demux(source.streams.audio):
            if packet.dts is not None:
                packet.stream = streams[packet.stream_index]
                sink.mux(packet)
    for ours, theirs in zip(decode(path), decode(excerpt), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_other_audio_under_the_name_is_refused(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", np.zeros((1000, 2), np.int16), 44100)
    shutil.move(tmp_path / "a.wav", tmp_path / "a.stem.mp4")
    with pytest.raises(AudioError, match="1 audio streams, expected 5"):
        audio.probe_stems(tmp_path / "a.stem.mp4")


# Files of any kind


def encode(path: Path, codec: str, samples: np.ndarray, rate: int = 48_000) -> Path:
    """Write samples [shape=(nb_samples, nb_channels)] with PyAV."""
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[1]]
    with av.open(str(path), "w") as sink:
        stream = sink.add_stream(codec, rate=rate, layout=layout)
        context = stream.codec_context
        packer = av.AudioResampler(context.format.name, layout, rate, frame_size=context.frame_size or 0)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T, np.float32), "fltp", layout)
        frame.sample_rate = rate
        for part in (*packer.resample(frame), *packer.resample(None)):
            sink.mux(stream.encode(part))
        sink.mux(stream.encode(None))
    return path


def sine(nb_channels: int = 2, nb_samples: int = 100_000, rate: int = 48_000) -> np.ndarray:
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(nb_samples) / rate)
    return wave[:, None] * np.linspace(1, 0.5, nb_channels)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "aiff"])
def test_what_libsndfile_reads_is_decoded_as_it_does(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.b.{suffix}"
    soundfile.write(path, sine(), 48_000)
    samples, _ = soundfile.read(path, dtype="float32")
    assert audio.probe(path) == audio.info(path)
    blocks = list(audio.decode(path, 7000))
    assert {len(block) for block in blocks[:-1]} == {7000}
    np.testing.assert_array_equal(np.concatenate(blocks), samples)


@pytest.mark.parametrize(
    ("name", "codec", "nb_channels", "snr"),
    [
        *(("a.m4a", "alac", nb_channels, 80) for nb_channels in (1, 2)),
        *(("a.mp4", "aac", nb_channels, 15) for nb_channels in (1, 2, 6)),
        ("a.mka", "aac", 2, 15),
        ("a.webm", "libopus", 2, 25),
    ],
)
def test_other_files_are_decoded_stream_by_stream(
    tmp_path: Path, name: str, codec: str, nb_channels: int, snr: float
) -> None:
    path = encode(tmp_path / name, codec, sine(nb_channels))
    info = audio.probe(path)
    assert (info.sample_rate, info.nb_channels, info.subtype) == (48_000, nb_channels, codec.removeprefix("lib"))
    samples = np.concatenate(list(audio.decode(path, 3000)))
    assert samples.dtype == np.float32
    assert abs(len(samples) - 100_000) <= 2048
    assert abs(info.nb_samples - len(samples)) <= 4096
    if nb_channels < 6:
        expected = sine(nb_channels)[5000:90_000]  # not every file says how many samples its encoder put before
        errors = [np.sum((samples[5000 + lag :][: len(expected)] - expected) ** 2) for lag in (0, 1024)]
        assert 10 * np.log10(np.sum(expected**2) / min(errors)) > snr


@pytest.mark.parametrize("block_size", [1000, audio.BLOCK_SIZE])
def test_mp3_is_decoded_in_one_piece(tmp_path: Path, block_size: int) -> None:
    """Libsndfile reads it, too, but each block after the first begins with up to 1152 wrong samples."""
    path = tmp_path / "a.mp3"
    soundfile.write(path, sine(), 48_000)
    assert audio.probe(path).sample_rate == 48_000
    samples = np.concatenate(list(audio.decode(path, block_size)))
    assert samples.shape == (100_000, 2)
    np.testing.assert_allclose(samples[2000:90_000], sine()[2000:90_000], atol=0.02)


def test_the_first_stream_of_a_stem_file_is_decoded_as_with_the_others(excerpt: Path) -> None:
    assert audio.probe(excerpt) == audio.AudioInfo(44_100, 2, EXCERPT_SAMPLES, "aac")
    np.testing.assert_array_equal(np.concatenate(list(audio.decode(excerpt))), decode(excerpt)[0])


def test_a_cut_mp4_is_refused(excerpt: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.m4a"
    path.write_bytes(excerpt.read_bytes()[:300_000])
    with pytest.raises(AudioError, match=rf"cut\.m4a: stream 0 .*: decoded \d+ samples, .* {EXCERPT_SAMPLES}"):
        list(audio.decode(path))


def test_what_holds_no_audio_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.m4a").write_text("hello")
    with pytest.raises(AudioError, match=r"text\.m4a: 5 bytes that are no readable audio file"):
        audio.probe(tmp_path / "text.m4a")
    with pytest.raises(AudioError, match=r"none\.m4a: no such file"):
        next(audio.decode(tmp_path / "none.m4a"))
    with av.open(str(tmp_path / "film.mp4"), "w") as sink:
        video = sink.add_stream("mpeg4", rate=25)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        sink.mux([*video.encode(av.VideoFrame(64, 64, "yuv420p")), *video.encode(None)])
    for read in (audio.probe, lambda path: list(audio.decode(path))):
        with pytest.raises(AudioError, match=r"film\.mp4: no audio stream that can be decoded"):
            read(tmp_path / "film.mp4")


def test_clipped_values_are_those_that_quantise_limits() -> None:
    lsb = np.float32(1 / 32768)
    samples = np.array([[32767, 32767.4, 32767.6, 40000], [-32768, -32768.4, -32768.6, 0]], np.float32) * lsb
    assert audio.count_clipped(samples, "PCM_16") == 3
    assert audio.count_clipped(samples, "PCM_24") == 3  # 32767.6 is no more, -32768.4 is
    assert audio.count_clipped(samples, "FLOAT") == 0
