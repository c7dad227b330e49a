"""`python -m data_zarr.readers NAME SOURCE ... OUT`: a public data set as a cube."""

from __future__ import annotations

import argparse
import sys

from data_zarr.errors import CubeError

from .agbd import agbd
from .biomassters import biomassters


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_zarr.readers", description=__doc__)
    verbs = parser.add_subparsers(dest="name", required=True)
    chips = verbs.add_parser("biomassters", help="a folder with train_features and train_agbm")
    chips.add_argument("source")
    chips.add_argument("out")
    chips.add_argument("--split", choices=("train", "test"), default="train")
    chips.add_argument("--chips", type=int, help="the first so many")
    prints = verbs.add_parser("agbd", help="HDF5 files")
    prints.add_argument("source", nargs="+")
    prints.add_argument("out")
    prints.add_argument("--tiles", help="names with commas between; all without")
    prints.add_argument("--footprints", type=int, help="the first so many")
    reo = verbs.add_parser("reo_instruct", help="refused: its files are not documented")
    reo.add_argument("source", nargs="+")
    reo.add_argument("out")
    for verb in (chips, prints, reo):
        verb.add_argument("--overwrite", action="store_true")
    args = parser.parse_args(argv)
    try:
        if args.name == "biomassters":
            out = biomassters(
                args.source, args.out, split=args.split, chips=args.chips,
                overwrite=args.overwrite,
            )  # fmt: skip
        elif args.name == "reo_instruct":
            raise CubeError(
                "REO-Instruct documents no layout of its images and texts (arXiv 2511.16853), so "
                "none is guessed",
                where=args.source[0],
                expected="a data set whose files are described: agbd, biomassters",
                remedy="its imagery and biomass are AGBD's, which `agbd` reads; texts in LLaVA's "
                "form are files of a ConversationConfig",
            )
        else:
            tiles = None if args.tiles is None else args.tiles.split(",")
            out = agbd(
                args.source, args.out, tiles=tiles, footprints=args.footprints,
                overwrite=args.overwrite,
            )  # fmt: skip
    except CubeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
