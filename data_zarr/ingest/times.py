"""Dates as people write them, to UTC instants: from text, file names, and tables of dates."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence

import numpy as np

from data_zarr.errors import CubeError

_FIELDS = {"%Y": r"\d{4}", "%m": r"\d{2}", "%d": r"\d{2}", "%j": r"\d{3}",
           "%H": r"\d{2}", "%M": r"\d{2}", "%S": r"\d{2}", "%y": r"\d{2}"}  # fmt: skip


def utc(texts: Sequence[object], where: object) -> np.ndarray:
    """ISO 8601 texts (or datetimes) to datetime64[s] in UTC.

    A text without a zone is taken as UTC; with one it is converted.

    Raises:
      CubeError: a text that is no date, an empty one or NaT, or some texts with a zone and some
        without.
    """
    parsed: list[datetime.datetime] = []
    for i, text in enumerate(texts):
        if isinstance(text, np.datetime64):
            text = "" if np.isnat(text) else str(text.astype("datetime64[s]"))
        spelling = str(text).strip()
        if spelling.lower() in ("", "nat", "nan", "none", "null"):
            raise CubeError(
                "date missing",
                where=where,
                expected="a date for every acquisition",
                found=f"{spelling or 'nothing'} at {i}",
                remedy="give its date, or leave the acquisition out",
            )
        # 9 digits of a second are more than Python takes, and more than a cube keeps.
        spelling = re.sub(r"(\.\d{6})\d+", r"\1", spelling)
        try:
            parsed.append(datetime.datetime.fromisoformat(spelling))
        except ValueError as error:
            raise CubeError(
                "unreadable date", where=where, expected="ISO 8601", found=repr(str(text))
            ) from error
    zoned = [d.tzinfo is not None for d in parsed]
    if any(zoned) and not all(zoned):
        raise CubeError(
            "mixed time zones",
            where=where,
            expected="every date with a zone, or none",
            found=f"{texts[zoned.index(True)]} and {texts[zoned.index(False)]}",
            remedy="write the zone of each date; 'Z' is UTC",
        )
    plain = [d.astimezone(datetime.UTC).replace(tzinfo=None) if d.tzinfo else d for d in parsed]
    return np.asarray(plain, "datetime64[s]")


def date_in_name(name: str, form: str, where: object) -> str:
    """The date that stands in a file name, as ISO text.

    >>> date_in_name("S2_T33_20190918.tif", "%Y%m%d", "")
    '2019-09-18T00:00:00'

    Args:
      form: of `datetime.strptime`, e.g. "%Y%m%d", "%Y-%m-%dT%H%M%S", "%Y%j", "%Y"; other text in
        it must stand in the name.
    """
    parts: list[str] = re.findall(r"%\w|.", form, flags=re.DOTALL)
    pattern = "".join(_FIELDS.get(p) or re.escape(p) for p in parts)
    hits = re.findall(rf"(?<!\d){pattern}(?!\d)", name)
    readable = []
    for hit in dict.fromkeys(hits):
        try:
            readable.append(datetime.datetime.strptime(hit, form))
        except ValueError:
            continue
    if len(readable) != 1:
        raise CubeError(
            "no date in the file name" if not readable else "several dates in the file name",
            where=where,
            expected=f"one of the form {form!r}",
            found=name,
            remedy="give more of the name in the form (MSIL2A_%Y%m%dT%H%M%S), or a table of dates",
        )
    return readable[0].isoformat()
