"""Archives from elsewhere: what would leave them, or burst, is refused before anything is read."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from data_zarr.errors import CubeError
from data_zarr.ingest import bundle
from data_zarr.ingest.bundle import Bundle


def tar(path: Path, *members: tuple[str, bytes | None]) -> Path:
    """A tar of (name, content), None for a link to /etc/passwd."""
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["../x.txt", "a/../../x.txt", "/etc/x.txt", "..\\x.txt", "C:\\x"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_member_outside_of_the_archive(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "tar":
        tar(path, ("a.txt", b"a"), (name, b"x"))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "a")
            archive.writestr(zipfile.ZipInfo(name), "x")
    with pytest.raises(CubeError, match=r"archive reaches outside of itself .* the member"):
        Bundle(str(path))
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


def test_links_in_an_archive(tmp_path: Path) -> None:
    with pytest.raises(CubeError, match="a link or device 'b'"):
        Bundle(str(tar(tmp_path / "a.tar", ("a", b"x"), ("b", None))))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("b")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(CubeError, match="a link or device 'b'"):
        Bundle(str(tmp_path / "a.zip"))


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MEMBERS", 2)
    with pytest.raises(CubeError, match=r"archive is a bomb .* found 3 members"):
        Bundle(str(tar(tmp_path / "a.tar", ("a", b"1"), ("b", b"2"), ("c", b"3"))))


def test_a_bomb(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"\0" * 40_000_000)
    with pytest.raises(CubeError, match="archive is a bomb"):
        Bundle(str(tmp_path / "a.zip"))


def test_a_truncated_archive(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", ("a", b"1" * 5000))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CubeError, match="unreadable archive"):
        Bundle(str(path))


def test_xml_with_entities(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "m.xml").write_text('<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>')
    with pytest.raises(CubeError, match="XML with entities"):
        Bundle(str(tmp_path / "p")).xml("m.xml")


def test_what_is_read_of_an_archive(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", ("b/c.txt", b"hello"), ("a.txt", b"1"))
    found = Bundle(str(path))
    assert (found.name, found.members) == ("a", ["a.txt", "b/c.txt"])
    assert found.read("b/c.txt") == b"hello"
    assert found.raster("b/c.tif") == f"/vsitar/{path}/b/c.tif"
