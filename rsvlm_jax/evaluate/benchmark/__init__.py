"""The regression benchmark of a cube: models x splits x folds x seeds, one table, one report.

Contents (import the submodules; scikit-learn, JAX and matplotlib load on first use):
  bench        `bench_regression`: all of it, restartable; `rsvlm bench regression`
  task         cube, inputs, windows and target that all models share
  deals        splits by name, with their leakage reports
  cells        what is computed once and kept: `Guess`, `Model`, `guess_of`
  models       the rows there are, by name
  features     numbers of every window; `tabular`: baselines that read them
  networks     U-Net and U-TAE; `learn` trains them
  experiments  experiments on cubes as rows: ours, and what is left of it without this or that
  scoring      cells -> rows, calibrated alike
  resample     site bootstrap and paired tests
"""
