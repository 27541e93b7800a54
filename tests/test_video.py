"""Films, read back frame by frame."""
from __future__ import annotations

import numpy as np
import pytest

from common.errors import InputError
from common.video import write_video


def disks(count=12, height=61, width=47, colors=6):
    """Flat-coloured rings that move: like label maps."""
    palette = np.random.default_rng(0).integers(0, 256, (colors, 3), dtype=np.uint8)
    y, x = np.mgrid[:height, :width]
    return [palette[(np.hypot(y - 30, x - 10 - 2 * t) // 9).astype(int) % colors] for t in range(count)]


def read_mp4(path):
    import imageio_ffmpeg
    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    width, height = about["size"]
    return about, [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


def read_gif(path):
    from PIL import Image, ImageSequence
    with Image.open(path) as film:
        return film.info, [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]


def test_mp4_is_what_every_player_reads(tmp_path):
    frames = disks()
    write_video(tmp_path / "film.mp4", iter(frames), fps=12)
    about, again = read_mp4(tmp_path / "film.mp4")
    assert about["codec"] == "h264" and about["pix_fmt"].startswith("yuv420p") and about["fps"] == 12
    assert len(again) == 12 and again[0].shape == (62, 48, 3)                # odd sides made even
    error = np.abs(np.stack(again)[:, :61, :47].astype(int) - np.stack(frames))
    assert np.median(error) <= 3                                             # flat parts keep their colour; edges lose some to subsampling
    content = (tmp_path / "film.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")                   # plays while it loads


def test_gif_keeps_flat_colours_exactly(tmp_path):
    frames = disks()
    write_video(tmp_path / "film.gif", frames, fps=10, dither=False)
    about, again = read_gif(tmp_path / "film.gif")
    assert np.array_equal(np.stack(again), np.stack(frames))
    assert about["loop"] == 0 and about["duration"] == 100


def test_gif_of_many_colours_stays_close(tmp_path):
    y, x = np.mgrid[:64, :64]
    frames = [np.stack([60 + 2 * x, 60 + 2 * y, np.full_like(x, 120 + t)], axis=-1).astype(np.uint8) for t in range(8)]
    write_video(tmp_path / "film.gif", frames)
    _, again = read_gif(tmp_path / "film.gif")
    blocks = lambda film: np.stack(film).astype(float).reshape(8, 8, 8, 8, 8, 3).mean((2, 4))
    assert len(again) == 8 and np.abs(blocks(again) - blocks(frames)).mean() < 2          # dithering keeps the mean of 8 x 8 pixels


def test_one_frame_is_a_film(tmp_path):
    for name, read in (("one.mp4", read_mp4), ("one.gif", read_gif)):
        write_video(tmp_path / name, disks(1))
        assert len(read(tmp_path / name)[1]) == 1


def test_a_failure_leaves_the_old_film(tmp_path):
    write_video(tmp_path / "film.mp4", disks(3))
    before = (tmp_path / "film.mp4").read_bytes()

    def failing():
        yield from disks(2)
        raise RuntimeError("out of pictures")

    with pytest.raises(RuntimeError, match="out of pictures"):
        write_video(tmp_path / "film.mp4", failing())
    with pytest.raises(AssertionError, match="a frame of"):
        write_video(tmp_path / "film.mp4", [*disks(1), disks(1, height=20)[0]])
    assert (tmp_path / "film.mp4").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["film.avi", "film"])
def test_other_formats_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=f"{name}: films are"):
        write_video(tmp_path / name, disks(1))


def test_no_frames_are_refused(tmp_path):
    with pytest.raises(InputError, match="needs frames"):
        write_video(tmp_path / "film.mp4", [])
    assert not list(tmp_path.iterdir())
