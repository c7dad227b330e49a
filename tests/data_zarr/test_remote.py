"""Cubes over HTTP, S3, Google storage and fsspec: the numbers of the disk, faults by name."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from local_server import Server, serve
from small_cube import HEIGHT, WIDTH, Small
from small_points import write

from data_zarr import remote
from data_zarr.cube import open_cube
from data_zarr.errors import CubeError
from data_zarr.read import Reader
from data_zarr.schema import check_inputs, validate
from rsvlm_jax.run.cubes import find_cube

KEY = "s2_l1c/pixels/c/0/0/0/0"
SCHEMES = ("http", "s3", "gs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, _template: Small) -> Path:
    root = tmp_path_factory.mktemp("bucket")
    shutil.copytree(_template.path, root / "bucket" / "small.zarr")
    write(root / "bucket" / "points.zarr")
    return root


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with serve(folder) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", running.url)
        account = {
            "gcs_base_url": running.url,
            "disable_oauth": True,
            **dict.fromkeys(("client_email", "private_key", "private_key_id"), ""),
        }
        (tmp_path / "account.json").write_text(json.dumps(account))
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
        monkeypatch.setenv("GCE_METADATA_ROOT", "127.0.0.1:1")
        yield running


def url(server: Server, scheme: str, cube: str = "small.zarr") -> str:
    root = {"http": f"{server.url}/bucket", "s3": "s3://bucket", "gs": "gs://bucket"}[scheme]
    return f"{root}/{cube}"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_numbers_of_the_disk(server: Server, folder: Path, scheme: str) -> None:
    local, far = open_cube(folder / "bucket/small.zarr"), open_cube(url(server, scheme))
    assert far.digest() == local.digest()
    assert str(far.path) == url(server, scheme)
    assert far.path.name == "small.zarr"
    for name in local.bandsets:
        expected = local.reader(name).read(50, 40, 30, 30)
        for found, wanted in zip(far.reader(name).read(50, 40, 30, 30), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(far.target("agb"), local.target("agb"))
    assert not server.listings
    assert not sum(server.signed.values())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_points(server: Server, folder: Path, scheme: str) -> None:
    far, local = open_cube(url(server, scheme, "points.zarr")), folder / "bucket/points.zarr"
    assert far.grid == open_cube(local).grid
    expected = open_cube(local).reader("s2_l2a").read(2, 0, 4, 1)
    np.testing.assert_array_equal(far.reader("s2_l2a").read(2, 0, 4, 1)[1], expected[1])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_zarr_backend_and_the_labelled_view_list_nothing(
    server: Server, intact: Small, scheme: str
) -> None:
    far = open_cube(url(server, scheme))
    reader = Reader(far.path, far.bandsets["s2_l1c"], (3,), backend="zarr")
    np.testing.assert_array_equal(reader.read(60, 50, 8, 8)[0], intact.pixels[:, 3:4, 60:68, 50:58])
    view = far.to_xarray("s2_l1c")["pixels"].isel(time=1, band=3, y=slice(60, 62))
    expected = intact.pixels[1, 3, 60:62] * 1e-4
    np.testing.assert_allclose(view.values, expected, rtol=1e-6)
    assert not server.listings


@pytest.mark.parametrize("scheme", SCHEMES)
def test_opening_asks_once_for_each_small_file(server: Server, scheme: str) -> None:
    open_cube(url(server, scheme))
    # The root's is asked for twice: read, and held against the manifest; a web server once more,
    # for one byte of it.
    assert server.asked.pop("bucket/small.zarr/zarr.json") <= (3 if scheme == "http" else 2)
    assert set(server.asked.values()) == {1}
    assert not any("/pixels/c/" in key or "/valid/c/" in key for key in server.asked)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_pickles_as_its_url(server: Server, intact: Small, scheme: str) -> None:
    far = open_cube(url(server, scheme))
    blob = pickle.dumps(far)
    assert len(blob) < 300
    assert pickle.loads(blob).digest() == far.digest()
    reader = pickle.loads(pickle.dumps(far.reader("s2_l1c", ["B04"])))
    np.testing.assert_array_equal(reader.read(0, 0, 8, 8)[0], intact.pixels[:, 3:4, :8, :8])


@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_a_busy_server_is_asked_again(server: Server, intact: Small, scheme: str) -> None:
    """Each file is refused twice with 503."""
    server.refuse = 2
    reader = open_cube(url(server, scheme)).reader("s2_l1c")
    np.testing.assert_array_equal(reader.read(0, 0, 8, 8)[0], intact.pixels[:, :, :8, :8])
    assert server.asked[f"bucket/small.zarr/{KEY}"] >= 3


@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_a_server_that_stays_busy(
    server: Server, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "RETRIES", 1)
    server.refuse = 10**6
    with pytest.raises(
        CubeError, match=r"cannot reach the cube in .*small.zarr; found cannot read"
    ):
        open_cube(url(server, scheme))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_missing_chunk(server: Server, folder: Path, tmp_path: Path, scheme: str) -> None:
    file = folder / "bucket/small.zarr" / KEY
    shutil.move(file, tmp_path / "kept")
    try:
        for backend in ("tensorstore", "zarr"):
            far = open_cube(url(server, scheme))
            reader = Reader(far.path, far.bandsets["s2_l1c"], None, backend=backend)
            with pytest.raises(CubeError, match=f"missing chunk in {far.path}: {KEY}"):
                reader.read(0, 0, 8, 8)
        assert "missing chunk" in str(validate(open_cube(url(server, scheme))))
        with pytest.raises(CubeError, match="missing chunk"):
            check_inputs(open_cube(url(server, scheme)), ["s2_l1c"])
    finally:
        shutil.move(tmp_path / "kept", file)


@pytest.mark.parametrize("backend", ["tensorstore", "zarr"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_body_that_ends_early(
    server: Server, scheme: str, backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "RETRIES", 1)
    far = open_cube(url(server, scheme))
    reader = Reader(far.path, far.bandsets["s2_l1c"], None, backend=backend)
    server.cut = {f"bucket/small.zarr/{KEY}"}
    with pytest.raises(CubeError, match=f"(unreadable|truncated) chunk in {far.path}: {KEY}"):
        reader.read(0, 0, HEIGHT, WIDTH)


@pytest.mark.parametrize("backend", ["tensorstore", "zarr"])
def test_a_flipped_bit_on_the_server(server: Server, folder: Path, backend) -> None:
    file = folder / "bucket/small.zarr" / KEY
    whole = file.read_bytes()
    broken = bytearray(whole)
    broken[len(broken) // 2] ^= 4
    file.write_bytes(broken)
    try:
        far = open_cube(url(server, "http"))
        reader = Reader(far.path, far.bandsets["s2_l1c"], None, backend=backend)
        with pytest.raises(CubeError, match=f"corrupt chunk in {far.path}: {KEY}"):
            reader.read(0, 0, HEIGHT, WIDTH)
    finally:
        file.write_bytes(whole)


def test_credentials_of_the_environment_sign(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    open_cube("s3://bucket/small.zarr").reader("s2_l1c").read(0, 0, 8, 8)
    assert server.signed == server.asked


def test_the_command_line_takes_urls(server: Server, folder: Path) -> None:
    local = open_cube(folder / "bucket/small.zarr")
    assert find_cube(url(server, "http")).digest() == local.digest()


def test_without_obstore(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(CubeError, match=r"cannot read remote cubes without obstore .*\[remote\]"):
        open_cube(url(server, "http"))


def test_no_cube_there(server: Server) -> None:
    with pytest.raises(CubeError, match=r"no such cube in http.*/none\.zarr"):
        open_cube(url(server, "http", "none.zarr"))


def test_no_server_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "RETRIES", 0)
    with pytest.raises(CubeError, match=r"cannot reach the cube in http://127\.0\.0\.1:9/c\.zarr"):
        open_cube("http://127.0.0.1:9/c.zarr")


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(CubeError, match="a URL with credentials in it") as caught:
        open_cube("https://me:secret@host/c.zarr")
    assert "secret" not in str(caught.value)


def test_an_unknown_scheme() -> None:
    with pytest.raises(CubeError, match="no way to read this kind of URL in carrier://"):
        open_cube("carrier://pigeon/c.zarr")


def test_memory_of_fsspec(intact: Small) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(intact.path), "/shelf/small.zarr", recursive=True)
    far = open_cube("memory://shelf/small.zarr")
    pixels, _ = pickle.loads(pickle.dumps(far)).reader("s2_l1c").read(50, 40, 30, 30)
    np.testing.assert_array_equal(pixels, intact.pixels[:, :, 50:80, 40:70])
    memory.rm(f"/shelf/small.zarr/{KEY}")
    with pytest.raises(CubeError, match=f"missing chunk in memory://shelf/small.zarr: {KEY}"):
        far.reader("s2_l1c").read(0, 0, 8, 8)
    memory.rm("/shelf", recursive=True)


def test_file_urls_are_paths(intact: Small) -> None:
    assert open_cube(f"file://{intact.path}").path == intact.path


def test_a_server_without_byte_ranges(server: Server) -> None:
    server.ranges = False
    with pytest.raises(
        CubeError, match=r"the server answers no byte ranges in http://.*zarr\.json"
    ):
        open_cube(url(server, "http"))
