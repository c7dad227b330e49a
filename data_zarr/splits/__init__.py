"""Honest splits, and a report that proves what they share. No model, no metric.

tiles        spatial tiles dealt to folds, windows kept apart: `tile_folds`, `split`
groups       sites, regions, years left out whole: `group_split`, `group_folds`, `year_split`
sites        places by longitude and latitude: `site_blocks`, `site_split`
strata       strata of a target, and dealing that balances them: `strata_of`, `deal`
report       `leakage`: shared pixels, places and dates, distances in pixels and metres
splitters    scikit-learn's protocol: `SpatialBlocks`, `SiteBlocks`, `GroupFolds`, `splits_of`

A random split of overlapping windows measures memory, not skill. Which split answers which
question:

    a new place nearby       SpatialBlocks, SiteBlocks     buffer >= window + range of the target
    a new region or site     GroupFolds on a label
    a new year               GroupFolds on a label of the samples, or `year_split` of the dates
"""

from __future__ import annotations

from data_zarr.splits.groups import (
    DateSplit,
    group_folds,
    group_split,
    sample_years,
    year_split,
)
from data_zarr.splits.report import Leakage, leakage
from data_zarr.splits.sites import site_blocks, site_split
from data_zarr.splits.splitters import GroupFolds, SiteBlocks, SpatialBlocks, splits_of
from data_zarr.splits.strata import deal, strata_of
from data_zarr.splits.tiles import Split, cover, guard, split, tile_folds

__all__ = [
    "DateSplit",
    "GroupFolds",
    "Leakage",
    "SiteBlocks",
    "SpatialBlocks",
    "Split",
    "cover",
    "deal",
    "group_folds",
    "group_split",
    "guard",
    "leakage",
    "sample_years",
    "site_blocks",
    "site_split",
    "split",
    "splits_of",
    "strata_of",
    "tile_folds",
    "year_split",
]
