"""Evaluation: baselines, the benchmark, calibrated intervals, reports and plots.

Contents (import the submodules; scikit-learn and matplotlib load on first use):
  conformal   intervals from out-of-fold errors: `cross_conformal`, `interval`, `cross_crps`
  baselines   window features; training mean, ridge, random forest
  regression  `regression_benchmark`: models x folds -> rows of the table
  report      rows as a rich table, Markdown, JSON and CSV; `write_report`
  figure      `demo_figure`: image, prediction, interval, reference, scatter
  cubeplots   `show_cube`: every pseudo-RGB frame with its bands and wavelengths
"""
