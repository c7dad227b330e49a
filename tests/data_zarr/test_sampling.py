import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_zarr.errors import CubeError
from data_zarr.sampling import WindowTable, permutation, target_means, window_table


def test_table_is_sorted_complete_and_inside():
    table = window_table(101, 100, 8, 4)
    assert len(table) == ((101 - 8) // 4 + 1) * ((100 - 8) // 4 + 1)
    order = np.lexsort((table.x, table.y))
    assert (order == np.arange(len(table))).all()
    assert table.y.max() + 8 <= 101
    assert table.x.max() + 8 <= 100


def test_the_slovenian_cube_has_144_evaluation_windows():
    assert len(window_table(101, 100, 8, 8)) == 144


def test_a_window_as_large_as_the_cube_is_allowed():
    table = window_table(8, 8, 8, 8)
    assert (table.y.tolist(), table.x.tolist()) == ([0], [0])


def test_window_larger_than_the_cube_line():
    with pytest.raises(CubeError) as e:
        window_table(101, 100, 128, 8)
    assert str(e.value) == (
        "a window is larger than the cube; expected at most 100 pixels; "
        "found 128 pixels on a cube of 101 x 100; choose a smaller window"
    )


@pytest.mark.parametrize(("size", "stride"), [(0, 1), (1, 0), (-3, 2)])
def test_impossible_windows(size, stride):
    with pytest.raises(CubeError, match="impossible windows"):
        window_table(10, 10, size, stride)


def test_keep_wants_every_pixel():
    keep = np.ones((16, 16), bool)
    keep[9, 3] = False
    table = window_table(16, 16, 8, 8, keep=keep)
    assert list(zip(table.y, table.x, strict=True)) == [(0, 0), (0, 8), (8, 8)]
    with pytest.raises(CubeError, match="another shape"):
        window_table(16, 17, 8, 8, keep=keep)


def test_digest_is_stable_and_sees_everything():
    table = window_table(20, 20, 4, 4)
    # A literal: the digest goes into checkpoints, so it may not change between releases.
    assert table.digest() == ("25a61af04e5005300745f86f0b69a76fc49c6e1f873b3005378bb12030729db0")
    others = [
        table.take(np.arange(len(table))[::-1]),
        table.take(np.arange(len(table) - 1)),
        WindowTable(table.y, table.x, 5),
        WindowTable(table.x, table.y, 4),
    ]
    assert len({table.digest(), *(o.digest() for o in others)}) == 5
    assert window_table(20, 20, 4, 4).digest() == table.digest()


def test_columns_cannot_be_written():
    table = window_table(8, 8, 4, 4)
    with pytest.raises(ValueError, match="read-only"):
        table.y[0] = 3


def test_columns_do_not_alias_the_arguments():
    y = np.array([0, 4])
    table = WindowTable(y, np.array([0, 0]), 4)
    y[0] = 7
    assert table.y[0] == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.floats(0, 1))
def test_target_means_against_a_loop(seed, size, min_valid):
    rng = np.random.default_rng(seed)
    target = (1e4 + rng.standard_normal((23, 19))).astype(np.float32)
    target[rng.random(target.shape) < 0.4] = np.nan
    table = window_table(23, 19, size, 3)
    mean, share = target_means(target, table, min_valid)
    for i, (y, x) in enumerate(zip(table.y, table.x, strict=True)):
        patch = target[y : y + size, x : x + size].astype(np.float64)
        valid = np.isfinite(patch)
        assert share[i] == valid.mean()
        if valid.any() and valid.mean() >= min_valid:
            np.testing.assert_allclose(mean[i], patch[valid].mean(), rtol=1e-9)
        else:
            assert np.isnan(mean[i])


def test_nan_targets_line():
    table = window_table(8, 8, 4, 4)
    with pytest.raises(CubeError, match=r"the target has no valid pixel; expected finite values"):
        target_means(np.full((8, 8), np.nan, np.float32), table, 0.5)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 200),
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(1, 12),
    st.integers(1, 50),
)
def test_every_row_once_and_chunks_stay_in_runs(n, seed, epoch, chunks, buffer):
    chunk_of = np.random.default_rng(n).integers(0, chunks, n)
    order = permutation(n, seed, epoch, chunk_of=chunk_of, buffer=buffer)
    assert sorted(order) == list(range(n))
    again = permutation(n, seed, epoch, chunk_of=chunk_of, buffer=buffer)
    np.testing.assert_array_equal(order, again)
    # Between the first and the last row of a chunk lie fewer than a run's rows.
    largest = np.bincount(chunk_of, minlength=1).max() if n else 0
    for c in np.unique(chunk_of):
        at = np.flatnonzero(chunk_of[order] == c)
        assert at[-1] - at[0] < buffer + largest


def test_a_small_buffer_visits_each_chunk_once():
    chunk_of = np.repeat(np.arange(10), 7)
    order = permutation(70, 0, 0, chunk_of=chunk_of, buffer=1)
    assert (np.diff(chunk_of[order]) != 0).sum() == 9


def test_a_batch_holds_no_more_neighbours_than_a_perfect_shuffle_would_give_it():
    chunk_of, batch = np.repeat(np.arange(256), 16), 32
    shard_of = chunk_of // 16
    n = len(chunk_of)
    perfect = 15 / (n - 1), 255 / (n - 1)
    for buffer in (512, 4096):
        order = permutation(n, 0, 0, chunk_of=chunk_of, buffer=buffer)
        for of, expected in zip((chunk_of, shard_of), perfect, strict=True):
            held = of[order].reshape(-1, batch)
            pairs = (held[:, :, None] == held[:, None, :]).sum((1, 2)) - batch
            found = pairs.sum() / (len(held) * batch * (batch - 1))
            assert found <= 1.5 * expected


def test_epochs_and_seeds_differ():
    orders = {tuple(permutation(50, s, e)) for s in range(3) for e in range(3)}
    assert len(orders) == 9


def test_the_order_of_a_release_is_kept():
    # A literal: a resumed run must see the samples that it would have seen.
    assert permutation(8, 1, 2).tolist() == [7, 1, 3, 0, 4, 2, 6, 5]
