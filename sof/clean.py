"""Look through a data set and take bad views out: the command `clean` of sof/preprocess.py (the release's CleanData notebook and its check boxes).

A head's views are those that have a preview, seg_vis_07.png beside seg_07.png; without its preview a view is neither trained on nor counted, and its label
map stays where it is. The release left the cameras as they were, so that each view after one taken out got another's: here cam2world.npy, intrinsic.npy
and zRange.npy become dicts by the views' names first.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.config import option
from common.errors import InputError
from common.files import replacing
from common.images import contact_sheet, read_labels, resize_nearest, write_png
from common.labels import colorize
from common.published import read_npy
from sof import data

PER_VIEW = {"cam2world.npy": [(4, 4)], "intrinsic.npy": [(3, 3), (4, 4)], "intrinsics.npy": [(3, 3), (4, 4)], "zRange.npy": [(2,)]}
ROWS, TILE, FADED = 10, 96, 4                                 # heads on a sheet; pixels of a preview; views taken out are this much darker


@dataclass
class CleanConfig:
    """Options of `clean`."""

    data_root: str = option(..., "folder with one folder per head; changed in place")
    out: str | None = option(None, "folder for sheets of all heads, those taken out darkened; empty: none")
    remove: list[str] = option([], "views to take out, HEAD:NUMBERS, numbers as in the views' names: 00003:2,5-7")
    restore: list[str] = option([], "views to put back, HEAD:NUMBERS")


def clean(config: CleanConfig) -> None:
    """Show every head's views in a row; take views out of a data set, or put them back."""
    folders = {folder.name: folder for folder in data.head_folders(config.data_root)}
    changes = [(folder, numbers, restored) for asked, restored in ((config.remove, False), (config.restore, True)) for folder, numbers in told(asked, folders)]
    for folder, numbers, restored in changes:
        kept = {number_of(file) for file in data.view_files(folder)}
        keep_views(folder, kept | numbers if restored else kept - numbers)
    if config.out:
        rows = list(folders.values())
        for k in range(0, len(rows), ROWS):
            write_png(Path(config.out) / f"clean_{k // ROWS:03d}.png", sheet(rows[k:k + ROWS]))
        print(f"row by row {', '.join(folders)}; columns are the views {' '.join(map(str, sorted(every_view(rows[0]))))} ...: {config.out}")
    print(f"{sum(len(data.view_files(folder)) for folder in folders.values())} of {sum(len(every_view(f)) for f in folders.values())} views are in")


def told(asked: list[str], folders: dict[str, Path]) -> list[tuple[Path, set[int]]]:
    """The folder and view numbers of each HEAD:NUMBERS. Raises InputError for a head or view that is not there."""
    result = []
    for text in asked:
        head, _, numbers = text.rpartition(":")
        if head not in folders:
            raise InputError(f"{text}: expected HEAD:NUMBERS with a head of {next(iter(folders.values())).parent}, such as {next(iter(folders))}:2,5-7")
        views = every_view(folders[head])
        chosen = set(data.select(numbers, max(views) + 1, text))
        if not chosen <= views.keys():
            raise InputError(f"{text}: {folders[head]} has no view {min(chosen - views.keys())}")
        result.append((folders[head], chosen))
    return result


def number_of(file: Path) -> int:
    """The number in a view's name."""
    return int("".join(filter(str.isdigit, file.stem)))


def every_view(folder: Path) -> dict[int, Path]:
    """{number: label map} of a head, in or not. Raises InputError for one whose views have other names."""
    found = {number_of(file): file for file in sorted(folder.glob("seg_[0-9]*.png"))}
    if not found:
        raise InputError(f"{folder}: no label maps seg_00.png ...; only those can be taken out")
    return found


def keep_views(folder: Path, kept: set[int]) -> None:
    """Make these the views of a head: they alone have previews, and its cameras go by name. Raises InputError if none is left."""
    if not kept:
        raise InputError(f"{folder}: no view would be left; take the whole folder out instead")
    name_entries(folder)
    for number, file in every_view(folder).items():
        preview = file.with_name(file.name.replace("seg", "seg_vis"))
        if number in kept and not preview.exists():
            write_png(preview, colorize(read_labels(file)))
    for number, file in every_view(folder).items():            # last, for a head without any preview has all its views
        if number not in kept:
            file.with_name(file.name.replace("seg", "seg_vis")).unlink(missing_ok=True)


def name_entries(folder: Path) -> None:
    """Make dicts by the views' names of a head's arrays with one entry for each of its views."""
    files = data.view_files(folder)
    for name, shapes in PER_VIEW.items():
        path = folder / name
        if path.exists() and not isinstance(read_npy(path), dict):
            entries = data.per_view(path, files, shapes)
            save_npy(path, np.array({file.name: entry for file, entry in zip(files, entries)}, dtype=object))


def sheet(folders: list[Path]) -> np.ndarray:
    """A picture (H, W, 3) uint8 with a row of views for each head, darkened where they are out."""
    columns, tiles = max(len(every_view(folder)) for folder in folders), []
    for folder in folders:
        kept = {number_of(file) for file in data.view_files(folder)}
        row = [resize_nearest(colorize(read_labels(file)), TILE, TILE) // (1 if number in kept else FADED) for number, file in every_view(folder).items()]
        tiles += row + [np.zeros((TILE, TILE, 3), np.uint8)] * (columns - len(row))
    return contact_sheet(tiles, columns=columns)


def save_npy(path: Path, array: np.ndarray) -> None:
    """Write an .npy file, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)
