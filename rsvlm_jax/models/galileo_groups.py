"""What Galileo reads: band groups, and a batch of their values. No parameters.

GalileoInputs.values["S2_RGB"] [B,H,W,T,3]   .seen["S2_RGB"] [B,h,w,T]   H / h = pixels a patch
             .values["ERA5"]   [B,T,2]       .seen["ERA5"]   [B,T]
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

from rsvlm_jax.config import ConfigError
from rsvlm_jax.core import pytree_dataclass
from rsvlm_jax.core.shapes import Array, Bool, Float, Int

Kind = Literal["space_time", "space", "time", "static"]

KINDS: tuple[Kind, ...] = ("space_time", "space", "time", "static")
"""In the order of their tokens."""


class Group(NamedTuple):
    """Channels that share a token."""

    name: str
    kind: Kind
    channels: tuple[str, ...]

    @property
    def spatial(self) -> bool:
        return self.kind.startswith("space")


_CLASSES = ("water", "trees", "grass", "flooded_vegetation", "crops", "shrub_and_scrub", "built",
            "bare", "snow_and_ice")  # fmt: skip
_CROPS = ("temporarycrops", "maize", "wintercereals", "springcereals", "irrigation")

GROUPS: tuple[Group, ...] = (
    Group("S1", "space_time", ("VV", "VH")),
    Group("S2_RGB", "space_time", ("B2", "B3", "B4")),
    Group("S2_Red_Edge", "space_time", ("B5", "B6", "B7")),
    Group("S2_NIR_10m", "space_time", ("B8",)),
    Group("S2_NIR_20m", "space_time", ("B8A",)),
    Group("S2_SWIR", "space_time", ("B11", "B12")),
    Group("NDVI", "space_time", ("NDVI",)),
    Group("SRTM", "space", ("elevation", "slope")),
    Group("DW", "space", _CLASSES),
    Group("WC", "space", _CROPS),
    Group("ERA5", "time", ("temperature_2m", "total_precipitation")),
    Group("TC", "time", ("def", "soil", "aet")),
    Group("VIIRS", "time", ("avg_rad",)),
    Group("LS", "static", ("b1",)),
    Group("location", "static", ("x", "y", "z")),
    Group("DW_static", "static", _CLASSES),
    Group("WC_static", "static", _CROPS),
)
"""All groups, in the order of their tokens and, within a kind, of their channel embeddings."""


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class GalileoInputs:
    """Normalised values by the name of their group; a group that is not named is not there.

    Attributes:
      values: [B,H,W,T,c], [B,H,W,c], [B,T,c] or [B,c], by the kind of the group.
      seen: which of its tokens are read: bool [B,h,w,T], [B,h,w], [B,T] or [B]. A patch has H / h
        pixels an edge, the same for all groups.
      month: 0 (January) .. 11, of each step.
      gsd: metres a pixel.
    """

    values: dict[str, Float[Array, "..."]]
    seen: dict[str, Bool[Array, "..."]]
    month: Int[Array, "B T"]
    gsd: Float[Array, " B"]

    def groups(self, kind: Kind) -> list[Group]:
        """Those of a kind that are there, in the order of their tokens."""
        return [g for g in GROUPS if g.kind == kind and g.name in self.values]

    def grid(self) -> tuple[int, int]:
        """(h, p): patches along an edge and pixels along a patch; (0, 0) without any patch.

        Raises:
          ConfigError: windows that are not square, or of several sizes.
        """
        sizes = {
            (*self.values[g.name].shape[1:3], *self.seen[g.name].shape[1:3])
            for g in GROUPS
            if g.spatial and g.name in self.values
        }
        if not sizes:
            return 0, 0
        height, width, rows, columns = min(sizes)
        if len(sizes) > 1 or height != width or rows != columns or not rows or height % rows:
            raise ConfigError(
                "windows that do not divide into square patches",
                where="GalileoInputs",
                expected="one H = W, a multiple of h = w",
                found=", ".join(f"{s[:2]} pixels in {s[2:]} patches" for s in sorted(sizes)),
            )
        return rows, height // rows

    def check(self, base_patch: int, max_steps: int) -> None:
        """Refuse what an encoder of this base patch and so many steps cannot read.

        Raises:
          ConfigError: no group, one that Galileo does not have or without its mask, windows that
            do not divide into square patches, patches or series that are too long.
        """
        known = {g.name for g in GROUPS}
        stray = (self.values.keys() - known) | (self.values.keys() ^ self.seen.keys())
        if not self.values or stray:
            raise ConfigError(
                "not the groups of Galileo",
                where="GalileoInputs.values",
                expected=f"some of {', '.join(g.name for g in GROUPS)}, each with its mask",
                found=", ".join(sorted(stray)) or "none",
            )
        limits = (
            ("patches", self.grid()[1], base_patch),
            ("series", self.month.shape[1], max_steps),
        )
        for what, found, most in limits:
            if found > most:
                raise ConfigError(
                    f"{what} longer than Galileo has weights for",
                    where="GalileoInputs",
                    expected=f"at most {most}",
                    found=found,
                )
