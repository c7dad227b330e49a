"""Evaluation: baselines, the benchmark, calibrated intervals, reports and plots.

Contents (import the submodules; scikit-learn and matplotlib load on first use):
  pixels      maps of a dense head, pixel by pixel; the scores that calibrate a run
  conformal   intervals from held-out errors: split, across folds, per stratum, for shifted places
  baselines   window features; training mean, ridge, random forest
  regression  `regression_benchmark`: models x folds -> rows of the table
  benchmark   `rsvlm bench regression`: models x splits x folds x seeds, one report
  report      rows as a rich table, Markdown, JSON and CSV; `write_report`
  figure      `demo_figure`: image, prediction, interval, reference, scatter
  cubeplots   `show_cube`: every pseudo-RGB frame with its bands and wavelengths
  panels      parts of both figures: stretches, maps with coordinates, saving
  crossval    train and predict an experiment fold by fold; the held-out map
  cubeframes  a cube's frames for `show_cube` and for the background of a figure
  cubeinfo    what a cube is, as facts; `cubepage` prints them
  cubefolds   folds of a cube and what they share; `foldsreport` says, `foldsplot` draws it
  yearfolds   dates of years held out
  cubeseries  `show_series`: the bands of places over time
  runs, demo  `rsvlm evaluate` and `rsvlm demo` as functions
"""
