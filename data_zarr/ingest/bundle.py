"""A product as its provider ships it: a folder, a .zip or a .tar, seen as names of members.

Nothing is unpacked: rasters are opened where they lie (/vsizip/, /vsitar/), small documents are
read into memory. An archive comes from elsewhere, so a member that would leave it (`../`, an
absolute path, a link), or more of them than any product has, is refused before anything is read.
"""

from __future__ import annotations

import tarfile
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from data_zarr.errors import CubeError

MEMBERS = 20_000
BYTES = 64 * 2**30
"""Of all members, unpacked; a Sentinel-2 product has about 1 GB."""
RATIO = 200
"""Unpacked over packed; real products stay below 20."""
DOCUMENT = 32 * 2**20


class Bundle:
    """A folder or an archive.

    Attributes:
      path: where it lies.
      name: of the product: the folder, or the archive without its suffix.
      members: files in it, as POSIX paths below it, sorted.
    """

    def __init__(self, path: str):
        self.path = Path(path)
        self.name = self.path.name
        suffix = "".join(self.path.suffixes[-2:]).lower()
        if self.path.is_dir():
            self.members = sorted(
                p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file()
            )
            self._prefix, self._read = f"{self.path}/", self._from_folder
        elif self.path.suffix.lower() == ".zip":
            self.members = _zip_members(self.path)
            self._prefix, self._read = f"/vsizip/{self.path}/", self._from_zip
            self.name = self.path.stem
        elif self.path.suffix.lower() == ".tar" or suffix in (".tar.gz", ".tgz"):
            self.members = _tar_members(self.path)
            self._prefix, self._read = f"/vsitar/{self.path}/", self._from_tar
            self.name = self.path.name.partition(".tar")[0]
        else:
            raise CubeError(
                "not a product", where=path, expected="a folder, .zip or .tar", found="a file"
            )

    def find(self, test: Callable[[str], bool]) -> list[str]:
        """Members whose file name passes a test."""
        return [m for m in self.members if test(PurePosixPath(m).name)]

    def raster(self, member: str) -> str:
        """The path under which rasterio opens a member."""
        return self._prefix + member

    def read(self, member: str) -> bytes:
        """A small document."""
        content = self._read(member)
        if len(content) > DOCUMENT:
            raise CubeError("document too large", where=f"{self.path}: {member}",
                            expected=f"at most {DOCUMENT} bytes")  # fmt: skip
        return content

    def xml(self, member: str) -> Any:
        """The root element of an XML document; without entities, which may explode."""
        content, where = self.read(member), f"{self.path}: {member}"
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
            raise CubeError("XML with entities", where=where, expected="none in a product")
        try:
            return ElementTree.fromstring(content)
        except ElementTree.ParseError as error:
            raise CubeError("unreadable XML", where=where, found=str(error)) from error

    def _from_folder(self, member: str) -> bytes:
        with open(self.path / member, "rb") as file:
            return file.read(DOCUMENT + 1)

    def _from_zip(self, member: str) -> bytes:
        with zipfile.ZipFile(self.path) as archive, archive.open(member) as file:
            return file.read(DOCUMENT + 1)

    def _from_tar(self, member: str) -> bytes:
        with tarfile.open(self.path) as archive:
            file = archive.extractfile(member)
            return b"" if file is None else file.read(DOCUMENT + 1)


def _zip_members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (OSError, zipfile.BadZipFile) as error:
        raise CubeError("unreadable archive", where=path, found=str(error)) from error
    for info in infos:
        kind = info.external_attr >> 16 & 0o170000
        _check(path, info.filename, link=kind == 0o120000)
    _check_size(path, len(infos), sum(i.file_size for i in infos))
    return sorted(i.filename for i in infos if not i.is_dir())


def _tar_members(path: Path) -> list[str]:
    names, size = [], 0
    try:
        with tarfile.open(path) as archive:
            for i, info in enumerate(archive):
                _check(path, info.name, link=not (info.isfile() or info.isdir()))
                size += info.size
                _check_size(path, i + 1, size)
                if info.isfile():
                    names.append(info.name)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise CubeError("unreadable archive", where=path, found=str(error)) from error
    return sorted(names)


def _check(path: Path, name: str, *, link: bool) -> None:
    """Refuses a member that reaches outside of its archive."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    outside = ".." in parts or name.startswith(("/", "\\")) or (parts and ":" in parts[0])
    if outside or link:
        raise CubeError(
            "archive reaches outside of itself",
            where=path,
            expected="plain files below it",
            found=f"{'a link or device' if link else 'the member'} {name!r}",
            remedy="do not unpack it; fetch the product from its provider",
        )


def _check_size(path: Path, count: int, size: int) -> None:
    packed = max(1, path.stat().st_size)
    if count > MEMBERS or size > BYTES or size > RATIO * packed + 2**20:
        raise CubeError(
            "archive is a bomb",
            where=path,
            expected=f"at most {MEMBERS} members, {BYTES} bytes, {RATIO} times its size",
            found=f"{count} members, {size} bytes in {packed}",
        )
