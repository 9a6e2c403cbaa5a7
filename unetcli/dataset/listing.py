"""The image files below a folder, without opening one."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from unetcli.dataset.names import folder_role, is_hidden, is_output, natural_key, split_extension
from unetcli.errors import InputError, UnetError
from unetcli.images.dicom import holds_series

DEEPEST = 4  # levels of folders below the one that was named
_DICOM = ".dcm"
_OWN_FOLDERS = (".run", ".part")  # our run folders; an OME-Zarr that is being written


class File(NamedTuple):
    """An image file, or the folder of a DICOM series: where it lies, its name without and with only the extension."""

    path: Path
    stem: str
    extension: str


class LeftOut(NamedTuple):
    """A file that no pair uses, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Folder:
    """A folder with its image files, sorted as people sort names, and the names of its other files.

    Parameters
    ----------
    path : where it lies.
    parts : the names of the folders that lead to it from the one that was named.
    files : its image files.
    others : names of files that are no images, such as ``dataset.json``.
    """

    path: Path
    parts: tuple[str, ...]
    files: tuple[File, ...]
    others: tuple[str, ...]

    @property
    def role(self) -> str | None:
        """Return "images", "masks" or None, by the deepest name that says one."""
        return next((role for name in reversed(self.parts) if (role := folder_role(name)[0])), None)

    @property
    def split(self) -> str | None:
        """Return "train", "validation", "test" or None."""
        return next((split for name in reversed(self.parts) if (split := folder_role(name)[1])), None)

    @property
    def group(self) -> tuple[str, ...]:
        """Return the names that say neither role nor split: images and masks with the same ones belong together."""
        deepest = max((i for i, name in enumerate(self.parts) if folder_role(name)[0]), default=-1)
        return tuple(
            name
            for i, name in enumerate(self.parts)
            if i != deepest and (folder_role(name)[1] is None or folder_role(name)[0] is not None)
        )


@dataclass(frozen=True)
class Listing:
    """Everything that lies below a folder.

    Parameters
    ----------
    root : the folder that was named.
    folders : it and those below, in natural order; hidden ones and our run folders are left out.
    left_out : outputs of this and other programs.
    problems : links that lead nowhere, folders that cannot be read.
    """

    root: Path
    folders: tuple[Folder, ...]
    left_out: tuple[LeftOut, ...] = ()
    problems: tuple[UnetError, ...] = field(default=(), compare=False)

    @property
    def files(self) -> Iterator[File]:
        """All image files."""
        return (file for folder in self.folders for file in folder.files)


def list_folder(root: Path) -> Listing:
    """Return the image files below a folder, at most `DEEPEST` levels down.

    Only names are looked at, as the system lists them: 100,000 files take seconds. Links to folders are followed,
    unless they lead back to where they come from.
    """
    folders: list[Folder] = []
    left_out: list[LeftOut] = []
    problems: list[UnetError] = []
    pending: list[tuple[Path, tuple[str, ...]]] = [(root, ())]
    while pending:
        path, parts = pending.pop()
        try:
            with os.scandir(path) as entries:
                folder, below, outputs = _look_into(path, parts, list(entries), problems)
        except PermissionError:
            problems.append(InputError("permission denied", path=path, hint="make the folder readable: chmod +rx"))
            continue
        folders.append(folder)
        left_out += outputs
        pending += reversed(below)
    return Listing(root, tuple(_with_series(folders)), tuple(left_out), tuple(problems))


def _with_series(folders: Sequence[Folder]) -> list[Folder]:
    """Return the folders with each DICOM series as one image of the folder that it lies in.

    A folder whose name says a role, and one with a mask per slice under the same name, hold an image per file.
    """
    drawn = {folder.path.name for folder in folders if any(file.extension != _DICOM for file in folder.files)}
    series: dict[Path, list[File]] = {}
    for folder in folders:
        free = folder.parts and folder_role(folder.parts[-1]) == (None, None) and folder.path.name not in drawn
        if free and (folder.files or folder.others) and holds_series(folder.path):
            series.setdefault(folder.path.parent, []).append(File(folder.path, folder.path.name, _DICOM))
    if not series:
        return list(folders)
    every = {file.path for files in series.values() for file in files}
    return [
        replace(folder, files=tuple(sorted((*folder.files, *series.get(folder.path, ())), key=_by_name)))
        for folder in folders
        if folder.path not in every
    ]


def _by_name(file: File) -> list[tuple[int, int, str]]:
    return natural_key(file.path.name)


def _look_into(
    path: Path, parts: tuple[str, ...], entries: list[os.DirEntry[str]], problems: list[UnetError]
) -> tuple[Folder, list[tuple[Path, tuple[str, ...]]], list[LeftOut]]:
    files: list[File] = []
    others: list[str] = []
    below: list[tuple[Path, tuple[str, ...]]] = []
    outputs: list[LeftOut] = []
    for entry in entries:
        name = entry.name
        if is_hidden(name):
            continue
        stem, extension = split_extension(name)
        if _is_folder(entry) and not extension.endswith(".zarr"):
            if len(parts) < DEEPEST and not name.endswith(_OWN_FOLDERS) and not _leads_back(entry, path):
                below.append((path / name, (*parts, name)))
        elif not extension:
            others.append(name)
        elif entry.is_symlink() and not Path(entry.path).exists():
            problems.append(
                InputError(
                    f"is a link to {Path(entry.path).readlink()}, which does not exist",
                    path=path / name,
                    hint="restore the file that it leads to, or remove the link",
                )
            )
        elif is_output(name):
            outputs.append(LeftOut(path / name, "output of a program"))
        else:
            files.append(File(path / name, stem, extension))
    files.sort(key=_by_name)
    below.sort(key=lambda item: natural_key(item[1][-1]))
    return Folder(path, parts, tuple(files), tuple(others)), below, outputs


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _leads_back(entry: os.DirEntry[str], path: Path) -> bool:
    """Whether a folder is a link to the folder it lies in, or to one above."""
    if not entry.is_symlink():
        return False
    target, here = os.path.realpath(entry.path), os.path.realpath(path)
    return here == target or here.startswith(target.rstrip("/") + "/")
