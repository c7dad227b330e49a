"""Cubes that lie elsewhere: `place("https://...") -> RemotePath`, read-only, with retries.

    https:// http:// s3:// gs://   files through obstore, chunks through tensorstore's own drivers
    any other scheme of fsspec     (memory://, abfs://, ...): files and chunks through fsspec

A `RemotePath` has the few methods of `pathlib.Path` that reading a cube needs, and pickles as its
URL. Nothing lists a folder: the manifest names every file. Credentials are never part of a URL;
they come from the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_REGION;
GOOGLE_APPLICATION_CREDENTIALS); without them requests are not signed, as public buckets want it.
AWS_ENDPOINT_URL points at another S3-like server (path style).
"""

from __future__ import annotations

import dataclasses
import functools
import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from data_zarr.errors import CubeError

RETRIES = 6
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds between tries; doubled each time."""
OBJECT_STORES = ("http", "https", "s3", "gs")


@dataclasses.dataclass(frozen=True)
class RemotePath:
    """A file or folder below a URL."""

    url: str

    def __truediv__(self, key: str) -> RemotePath:
        return RemotePath(f"{self.url}/{key}" if key else self.url)

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return Path(self.name).stem

    def read_bytes(self, start: int | None = None, end: int | None = None) -> bytes:
        """The file, or its bytes `start : end` (a negative start counts from the end).

        Raises:
          FileNotFoundError: nothing there.
          OSError: not reachable, refused, or cut off, after `RETRIES` tries.
        """
        client, key = _client(self.url)
        try:
            if urlsplit(self.url).scheme not in OBJECT_STORES:
                return client.cat_file(key, start=start, end=end)
            options: dict[str, Any] = {}
            if start is not None:
                span = {"suffix": -start} if start < 0 else {"offset": start}
                options = {"range": span if end is None else (start, end)}
            return bytes(client.get(key, options=options).bytes())
        except Exception as error:
            raise _as_os_error(error, self.url) from error

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def check_ranges(self) -> None:
        """Refuses a web server that hands out whole files only: chunks are parts of files.

        Raises:
          CubeError: it ignores the Range header. OSError: as `read_bytes`.
        """
        if urlsplit(self.url).scheme not in ("http", "https"):
            return
        try:
            self.read_bytes(0, 1)
        except OSError as error:
            if "range request not supported" not in str(error).lower():
                raise
            raise CubeError(
                "the server answers no byte ranges",
                where=self.url,
                expected="a server that honours the Range header",
                found="the whole file",
                remedy="serve the cube with another server, or copy it to this machine",
            ) from error

    def size(self) -> int:
        """Bytes of the file; raises as `read_bytes`."""
        client, key = _client(self.url)
        try:
            if urlsplit(self.url).scheme not in OBJECT_STORES:
                return int(client.size(key))
            return int(client.head(key)["size"])
        except Exception as error:
            raise _as_os_error(error, self.url) from error


def place(path: str | os.PathLike[str] | RemotePath) -> Path | RemotePath:
    """Where a cube lies: an absolute path, or a URL with a scheme."""
    if isinstance(path, RemotePath):
        return path
    text = os.fspath(path)
    if "://" not in text:
        return Path(text).absolute()
    scheme, rest = text.split("://", 1)
    if scheme == "file":
        return Path(rest).absolute()
    if "@" in urlsplit(text).netloc:
        raise CubeError(
            "a URL with credentials in it",
            where=f"{scheme}://...",
            expected="credentials in the environment",
            remedy="URLs are written to logs and checkpoints",
        )
    return RemotePath(text.rstrip("/"))


def kvstore(path: Path | RemotePath) -> dict[str, Any] | None:
    """The key-value store of a folder for tensorstore; None where it has no driver."""
    if isinstance(path, Path):
        return {"driver": "file", "path": f"{path}/"}
    parts = urlsplit(path.url)
    bucket, key = parts.netloc, parts.path.strip("/") + "/"
    if parts.scheme in ("http", "https"):
        return {"driver": "http", "base_url": path.url + "/"}
    if parts.scheme == "gs":
        return {"driver": "gcs", "bucket": bucket, "path": key}
    if parts.scheme == "s3":
        spec = {"driver": "s3", "bucket": bucket, "path": key, "aws_region": _region()}
        if endpoint := _endpoint():
            spec["endpoint"] = endpoint
        return spec if _signed("s3") else {**spec, "aws_credentials": {"type": "anonymous"}}
    return None


def retries() -> dict[str, Any]:
    """Context of tensorstore: as many tries as everywhere else."""
    pauses = {
        "max_retries": RETRIES,
        "initial_delay": f"{FIRST_PAUSE * 1000:.0f}ms",
        "max_delay": f"{LONGEST_PAUSE:.0f}s",
    }
    return {f"{driver}_request_retries": pauses for driver in ("http", "s3", "gcs")}


def _client(url: str) -> tuple[Any, str]:
    """(object store or file system, key of `url` in it)."""
    parts = urlsplit(url)
    if parts.scheme not in OBJECT_STORES:
        return _file_system(parts.scheme), url
    return _object_store(parts.scheme, parts.netloc), parts.path.strip("/")


@functools.lru_cache(maxsize=16)
def _file_system(scheme: str) -> Any:
    import fsspec

    try:
        return fsspec.filesystem(scheme)
    except (ImportError, ValueError) as error:
        raise CubeError(
            "no way to read this kind of URL", where=f"{scheme}://", found=str(error)[:120]
        ) from error


def _object_store(scheme: str, host: str) -> Any:
    # The settings are part of the key: a changed environment makes another client.
    return _made(scheme, host, _endpoint(), _region(), _signed(scheme))


@functools.lru_cache(maxsize=16)
def _made(scheme: str, host: str, endpoint: str | None, region: str, signed: bool) -> Any:
    try:
        from obstore.store import GCSStore, HTTPStore, S3Store
    except ImportError as error:
        raise CubeError(
            "cannot read remote cubes without obstore",
            where=f"{scheme}://{host}",
            remedy="pip install 'rsvlm-jax[remote]'",
        ) from error
    retry: Any = {
        "max_retries": RETRIES,
        "backoff": {
            "init_backoff": timedelta(seconds=FIRST_PAUSE),
            "max_backoff": timedelta(seconds=LONGEST_PAUSE),
            "base": 2,
        },
        "retry_timeout": timedelta(seconds=120),
    }
    plain: Any = {"allow_http": True}
    if scheme in ("http", "https"):
        url = f"{scheme}://{host}"
        return HTTPStore.from_url(url, client_options=plain, retry_config=retry)
    if scheme == "gs":
        return GCSStore(host, client_options=plain, retry_config=retry, skip_signature=not signed)
    settings: dict[str, Any] = {"region": region, "virtual_hosted_style_request": False}
    if endpoint:
        settings["endpoint"] = endpoint
    if not signed:
        settings["skip_signature"] = True
    return S3Store(host, client_options=plain, retry_config=retry, **settings)


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def _signed(scheme: str) -> bool:
    names = {"s3": "AWS_ACCESS_KEY_ID", "gs": "GOOGLE_APPLICATION_CREDENTIALS"}
    return scheme in names and bool(os.environ.get(names[scheme]))


def _as_os_error(error: Exception, url: str) -> Exception:
    if isinstance(error, CubeError):
        return error
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"nothing at {url}")
    said = " ".join(str(error).partition("Debug source")[0].split())
    return OSError(f"cannot read {url}: {said[:160]}")
