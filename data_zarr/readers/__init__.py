"""Public data sets as cubes, one file each: they run when a user points at the data.

biomassters   chips of Finnish forest: a year of Sentinel-1 and -2 by month, biomass a pixel
agbd          25 x 25 pixels around GEDI footprints: Sentinel-2, PALSAR-2, height, terrain; biomass
atlas         patches without a common grid, laid side by side

    python -m data_zarr.readers biomassters SOURCE OUT.zarr --split train
    python -m data_zarr.readers agbd FILE.h5 ... OUT.zarr --tiles 30NXM,31NBJ

A reader follows the layout that its data set documents, and says where that is documented; what
does not look like it is refused by name. REO-Instruct (arXiv 2511.16853) documents no layout of
files (its README: imagery and texts as archives to download, no word of what is in them), so it is
refused by name; its imagery and biomass are AGBD's, for which `agbd` stands.
"""
