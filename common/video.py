"""Frames to films: H.264 in .mp4 (what every browser and slide program plays) and .gif, by the ffmpeg that imageio-ffmpeg carries."""
from __future__ import annotations

import subprocess
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.files import replacing

# constant quality 16 keeps the edges of label maps; faststart lets a browser begin before the end has come
MP4 = ["-f", "mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "16", "-movflags", "+faststart"]
# one palette for all frames, made from them; colours are kept exactly where there are 256 or fewer and no dithering is asked for
GIF = ["-f", "gif", "-loop", "0", "-filter_complex", "split[a][b];[a]palettegen=reserve_transparent=0[p];[b][p]paletteuse=dither={}"]


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float = 24.0, dither: bool = True) -> None:
    """Write frames (H, W, 3) uint8, any iterable of one size, as a .mp4 or as a .gif that loops; the file is whole or not there.

    The last row or column is repeated where .mp4 needs an even size. `dither` False keeps the flat colours of label maps flat in a .gif.
    Raises InputError for another suffix, no frames, or what ffmpeg says when it cannot write (a full disk).
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".mp4", ".gif"):
        raise InputError(f"{path}: films are .mp4 or .gif files, not {suffix or 'without a suffix'}")
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise InputError(f"{path}: a film needs frames, and there are none")
    options = MP4 if suffix == ".mp4" else [*GIF[:-1], GIF[-1].format("sierra2_4a" if dither else "none")]
    pad = [(0, side % 2 if suffix == ".mp4" else 0) for side in first.shape[:2]] + [(0, 0)]
    with replacing(path) as temporary, _ffmpeg(np.pad(first, pad).shape, fps, [*options, str(temporary)]) as process:
        for frame in chain([first], frames):
            assert frame.shape == first.shape and frame.dtype == np.uint8, f"a frame of {frame.shape}, {frame.dtype} among {first.shape}, uint8"
            try:
                process.stdin.write(np.pad(frame, pad, mode="edge").tobytes())
            except BrokenPipeError:                           # it gave up; what it said comes next
                break
        said = process.communicate()[1].decode(errors="replace").strip().splitlines()
        if process.returncode:
            raise InputError(f"{path}: the film could not be written: {said[0] if said else 'ffmpeg failed'}")


def _ffmpeg(shape: tuple[int, int, int], fps: float, output: list[str]) -> subprocess.Popen:
    """ffmpeg, reading frames of this shape from its standard input."""
    from imageio_ffmpeg import get_ffmpeg_exe
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{shape[1]}x{shape[0]}", "-r", str(fps), "-i", "-"]
    return subprocess.Popen([get_ffmpeg_exe(), "-y", "-loglevel", "error", *source, *output], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
