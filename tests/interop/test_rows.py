"""Weight tables: what is read is what NumPy says by hand, sharded or not, and writing undoes it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from toy import ToyConfig

from rsvlm_jax.config import CheckpointError
from rsvlm_jax.core import flat
from rsvlm_jax.interop import rows
from rsvlm_jax.interop.rows import COPY, TRANSPOSE, Row, Table, patch_kernel

Arrays = dict[str, np.ndarray]


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def mesh(*shape: int) -> Mesh:
    names = ("a", "b", "c")[: len(shape)]
    auto = (jax.sharding.AxisType.Auto,) * len(shape)
    return jax.make_mesh(shape, names, axis_types=auto)


def read(
    table: Table,
    theirs: Mapping[str, Any],
    shapes: dict[str, tuple[int, ...]],
    *,
    dtype: Any = jnp.float32,
    sharding: Any = None,
    **options: Any,
) -> dict[str, jax.Array]:
    named = {name: x.shape for name, x in theirs.items()}
    found = rows.match(table, named, shapes, where="there", **options)
    wanted = {p: jax.ShapeDtypeStruct(s, dtype, sharding=sharding) for p, s in shapes.items()}
    return dict(rows.read(found, theirs, wanted))


def roundtrip(table: Table, theirs: Arrays, ours: Arrays, sharding: Any = None) -> None:
    """`theirs` is read as `ours`, and written back bit by bit."""
    made = read(table, theirs, {p: x.shape for p, x in ours.items()}, sharding=sharding)
    assert made.keys() == ours.keys()
    for path, x in ours.items():
        np.testing.assert_array_equal(made[path], x, err_msg=path)
        if sharding is not None:
            assert made[path].sharding == sharding
    written = dict(rows.write(table, made))
    assert written.keys() == theirs.keys()
    shapes = rows.written_shapes(table, {p: x.shape for p, x in made.items()})
    assert list(shapes) == list(written)
    for name, x in theirs.items():
        np.testing.assert_array_equal(written[name], x, err_msg=name)
        assert written[name].flags.c_contiguous
        assert shapes[name] == x.shape


# ---- transforms --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (5,), (3, 5), (2, 3, 4)])
def test_copy(shape: tuple[int, ...]) -> None:
    x = draw(*shape)
    roundtrip((Row("a", "x"),), {"a": x}, {"x": x})


@pytest.mark.parametrize("shape", [(3, 5), (600, 250), (1, 7)])
def test_transpose(shape: tuple[int, int]) -> None:
    x = draw(*shape)
    roundtrip((Row("a", "x", TRANSPOSE),), {"a": x}, {"x": x.T})


@pytest.mark.parametrize(("size", "channels"), [(2, 3), (4, 1), (1, 5)])
def test_patch_kernel(size: int, channels: int) -> None:
    """The kernel that `PatchEmbed` multiplies with is that of a strided convolution."""
    x = draw(16, channels, size, size)
    ours = np.zeros((size, size, channels, 16), np.float32)
    for d, c, i, j in np.ndindex(x.shape):
        ours[i, j, c, d] = x[d, c, i, j]
    table = (Row("a", "x", patch_kernel(size, channels)),)
    roundtrip(table, {"a": x}, {"x": ours.reshape(-1, 16)})


@pytest.mark.parametrize("shape", [(8, 3, 2, 4), (8, 2, 2, 2), (8, 4, 2, 2), (8, 12), (8,), ()])
def test_patch_kernel_of_another_convolution_is_misshapen(shape: tuple[int, ...]) -> None:
    table = (Row("a", "x", patch_kernel(2)),)
    with pytest.raises(CheckpointError, match=r"of another shape \(1\): a"):
        read(table, {"a": draw(*shape)}, {"x": (12, 8)})


# ---- parts and stacks --------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("how", [COPY, TRANSPOSE])
def test_parts_of_a_fused_array(axis: int, how: rows.Transform) -> None:
    x = draw(6, 9)
    table = tuple(Row("qkv", n, how, part=(i, 3), axis=axis) for i, n in enumerate("qkv"))
    parts = np.split(x, 3, axis)
    roundtrip(table, {"qkv": x}, {n: how.read(p) for n, p in zip("qkv", parts, strict=True)})


def test_parts_may_stand_in_any_order_in_the_table() -> None:
    x = draw(6, 4)
    table = (Row("kv", "v", part=(1, 2)), Row("kv", "k", part=(0, 2)))
    roundtrip(table, {"kv": x}, {"v": x[3:], "k": x[:3]})


def test_parts_of_a_size_that_does_not_divide_are_misshapen() -> None:
    table = (Row("kv", "k", part=(0, 2)), Row("kv", "v", part=(1, 2)))
    with pytest.raises(CheckpointError, match=r"of another shape \(2\): kv \(7, 4\) \(model: k"):
        read(table, {"kv": draw(7, 4)}, {"k": (3, 4), "v": (3, 4)})


@pytest.mark.parametrize(
    "table",
    [
        (Row("kv", "k", part=(0, 2)),),
        (Row("kv", "k", part=(0, 2)), Row("kv", "v", part=(0, 2))),
        (Row("kv", "k", part=(0, 2)), Row("kv", "v", part=(1, 2), axis=1)),
        (Row("a", "x"), Row("a", "y")),
        (Row("a", "x"), Row("b", "x")),
    ],
)
def test_a_table_that_contradicts_itself(table: Table) -> None:
    with pytest.raises(ValueError, match=r"two rows|make a whole"):
        rows.match(table, {}, {}, where="there")
    with pytest.raises(ValueError, match=r"two rows|make a whole"):
        list(rows.write(table, {}))


def test_stacked_layers() -> None:
    theirs = {f"layer.{i}.w": draw(4, 6, seed=i) for i in range(12)}
    table = (Row("layer.{}.w", "x", TRANSPOSE),)
    roundtrip(table, theirs, {"x": np.stack([theirs[f"layer.{i}.w"].T for i in range(12)])})


def test_layers_of_two_kinds_in_turn() -> None:
    """A block here may be every second layer there."""
    theirs = {f"layer.{i}.w": draw(4, seed=i) for i in range(6)}
    table = (Row("layer.{}.w", "even", every=2), Row("layer.{}.w", "odd", first=1, every=2))
    ours = {n: np.stack([theirs[f"layer.{i + k}.w"] for i in (0, 2, 4)]) for n, k in
            (("even", 0), ("odd", 1))}  # fmt: skip
    roundtrip(table, theirs, ours)


def test_prefixes_reach_names_paths_and_copies() -> None:
    layers, whole = rows.prefixed(
        (Row("a.{}", "x"), Row("b", "y", copies=("c",))), "there.", "here/"
    )
    assert (layers.theirs, layers.ours) == ("there.a.{}", "here/x")
    assert (whole.theirs, whole.ours, whole.copies) == ("there.b", "here/y", ("there.c",))


# ---- shards ------------------------------------------------------------------------------------


class Watched:
    """An array that notes how much of it was read."""

    def __init__(self, x: np.ndarray) -> None:
        self.x, self.read = x, 0
        self.shape, self.dtype = x.shape, x.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        part = self.x[index]
        self.read += part.size
        return part


SPECS = [
    (None,),
    (None, "a"),
    (None, None, "a"),
    (None, "a", "b"),
    (None, "b", "a"),
    ("a",),
    ("a", None, "b"),
    ("b", "a"),
    (None, ("a", "b")),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("how", [COPY, TRANSPOSE, patch_kernel(2, 2)], ids=lambda h: h.name)
def test_sharded_stack(how: rows.Transform, spec: tuple) -> None:
    """Shards of the layer axis, the in axis and the out axis, alone and together."""
    shape = (16, 2, 2, 2) if how.name.startswith("patch") else (16, 8)
    theirs = {f"{i}": draw(*shape, seed=i) for i in range(4)}
    ours = {"x": np.stack([how.read(theirs[f"{i}"]) for i in range(4)])}
    roundtrip((Row("{}", "x", how),), theirs, ours, NamedSharding(mesh(4, 2), PartitionSpec(*spec)))


@pytest.mark.parametrize("spec", [(), ("a",), (None, "a"), ("a", "b"), ("b", "a")], ids=str)
@pytest.mark.parametrize(("how", "axis"), [*itertools.product([COPY, TRANSPOSE], [0, 1])])
def test_sharded_parts(how: rows.Transform, axis: int, spec: tuple) -> None:
    x = draw(24, 24)
    table = tuple(Row("qkv", n, how, part=(i, 3), axis=axis) for i, n in enumerate("qkv"))
    parts = np.split(x, 3, axis)
    sharding = NamedSharding(mesh(4, 2), PartitionSpec(*spec))
    ours = {n: how.read(p) for n, p in zip("qkv", parts, strict=True)}
    roundtrip(table, {"qkv": x}, ours, sharding)


@pytest.mark.parametrize("how", [COPY, TRANSPOSE, patch_kernel(2, 2)], ids=lambda h: h.name)
@pytest.mark.parametrize("axis", [0, 1])
def test_shards_read_each_number_once(how: rows.Transform, axis: int) -> None:
    shape = (16, 2, 2, 2) if how.name.startswith("patch") else (16, 8)
    source = Watched(draw(*shape))
    made = how.read(source.x)
    spec = PartitionSpec(*[None] * axis, "a")
    read((Row("w", "x", how),), {"w": source}, {"x": made.shape},
         sharding=NamedSharding(mesh(8), spec))  # fmt: skip
    split_rows = how.name.startswith("patch") and axis == 0
    assert source.read == source.x.size * (8 if split_rows else 1)


def test_a_replicated_array_is_read_once() -> None:
    source = Watched(draw(6, 4))
    sharding = NamedSharding(mesh(8), PartitionSpec())
    made = read((Row("w", "x"),), {"w": source}, {"x": (6, 4)}, sharding=sharding)
    assert source.read == 24
    assert len(made["x"].addressable_shards) == 8
    np.testing.assert_array_equal(made["x"], source.x)


def test_arrays_are_made_when_they_are_asked_for() -> None:
    """Streaming: the second source is untouched while the first array is used."""
    sources = {n: Watched(draw(4, seed=i)) for i, n in enumerate("ab")}
    table = (Row("a", "x"), Row("b", "y"))
    found = rows.match(table, {n: s.shape for n, s in sources.items()}, {"x": (4,), "y": (4,)},
                       where="there")  # fmt: skip
    wanted = {p: jax.ShapeDtypeStruct((4,), jnp.float32) for p in "xy"}
    stream = rows.read(found, sources, wanted)
    next(stream)
    assert (sources["a"].read, sources["b"].read) == (4, 0)


def test_what_was_read_is_memory_of_its_own() -> None:
    x = draw(64, 64)
    made = read((Row("w", "x"),), {"w": x}, {"x": (64, 64)})["x"]
    before = np.array(made)
    x[...] = 0
    np.testing.assert_array_equal(made, before)


@pytest.mark.parametrize("spec", [PartitionSpec(), PartitionSpec("a")], ids=str)
def test_what_was_read_may_be_donated(spec: PartitionSpec) -> None:
    """Devices that hold the same part may share memory, but never write into it."""
    x = draw(256, 64)
    made = read((Row("w", "x"),), {"w": x}, {"x": x.shape}, sharding=NamedSharding(mesh(8), spec))
    twice = jax.jit(lambda x: x * 2, donate_argnums=0)(made["x"])
    for shard in twice.addressable_shards:
        np.testing.assert_array_equal(shard.data, 2 * x[shard.index])


def test_copies_of_a_part_or_a_stack_are_refused() -> None:
    for row in ({"theirs": "a.{}"}, {"theirs": "a", "part": (0, 2)}):
        with pytest.raises(ValueError, match="no whole array"):
            Row(ours="x", copies=("b",), **row)


def test_writing_keeps_no_copy_with_the_arrays() -> None:
    """NumPy's view of a sharded array would stay in memory as long as the array."""
    sharding = NamedSharding(mesh(8), PartitionSpec("a"))
    x = jax.device_put(draw(16, 4), sharding)
    list(rows.write((Row("w", "x"),), {"x": x}))
    assert getattr(x, "_npy_value", None) is None


# ---- dtypes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [np.float32, np.float16, jnp.bfloat16, np.float64])
@pytest.mark.parametrize("here", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("how", [COPY, TRANSPOSE])
def test_dtypes(there: Any, here: Any, how: rows.Transform) -> None:
    x = draw(300, 250).astype(there)
    made = read((Row("w", "x", how),), {"w": x}, {"x": how.read(x).shape}, dtype=here)["x"]
    assert made.dtype == here
    np.testing.assert_array_equal(made, how.read(x).astype(here))


def test_bfloat16_is_written_bit_by_bit() -> None:
    x = draw(8, 6).astype(jnp.bfloat16)
    for sharding in (None, NamedSharding(mesh(2), PartitionSpec("a"))):
        made = read(
            (Row("w", "x", TRANSPOSE),), {"w": x}, {"x": (6, 8)}, dtype=jnp.bfloat16,
            sharding=sharding,
        )  # fmt: skip
        ((_, back),) = rows.write((Row("w", "x", TRANSPOSE),), made)
        assert back.dtype == jnp.bfloat16
        np.testing.assert_array_equal(back.view(np.uint16), x.view(np.uint16))


# ---- what does not fit -------------------------------------------------------------------------


def fit(table: Table, theirs: dict[str, tuple], ours: dict[str, tuple], **options: Any):
    return rows.match(table, theirs, ours, where="there", **options)


TABLE = (
    Row("embed", "embed"),
    Row("layer.{}.w", "w", TRANSPOSE),
    Row("layer.{}.b", "b", optional=True),
    Row("pool", "pool"),
)
OURS = {"embed": (10, 4), "w": (2, 4, 6)}
THEIRS = {"embed": (10, 4), "layer.0.w": (6, 4), "layer.1.w": (6, 4)}


def test_everything_that_does_not_fit_is_in_one_line() -> None:
    theirs = {"embed": (11, 4), "layer.0.w": (6, 4), "layer.1.weight": (6, 4), "strange": (1,)}
    ours = {**OURS, "unknown": (3,)}
    with pytest.raises(CheckpointError) as e:
        fit(TABLE, theirs, ours)
    line = str(e.value)
    assert "\n" not in line
    assert "in there;" in line
    assert "missing there (2): layer.1.w (w), unknown (in no table)" in line
    assert "unused (2): layer.1.weight, strange" in line
    assert "of another shape (1): embed (11, 4) (model: embed (10, 4))" in line


def test_a_long_list_is_cut_but_counted() -> None:
    theirs = THEIRS | {f"strange{i}": (1,) for i in range(25)}
    with pytest.raises(CheckpointError, match=r"unused \(25\): .*strange9 and 15 more"):
        fit(TABLE, theirs, OURS)


@pytest.mark.parametrize("layers", [3, 10**9])
def test_a_model_of_more_layers(layers: int) -> None:
    """However many: the names of a thousand million layers are not made."""
    with pytest.raises(CheckpointError, match=r"missing there \(\d+\): layer\.2\.w \(w\)"):
        fit(TABLE, THEIRS, {**OURS, "w": (layers, 4, 6)})


def test_a_model_of_fewer_layers() -> None:
    with pytest.raises(CheckpointError, match=r"unused \(1\): layer\.1\.w$"):
        fit(TABLE, THEIRS, {**OURS, "w": (1, 4, 6)})


def test_optional_rows() -> None:
    """Absent on both sides or present on both; anything else changes the numbers."""
    biases = {"layer.0.b": (6,), "layer.1.b": (6,)}
    assert fit(TABLE, THEIRS, OURS).ignored == ()
    assert "b" in fit(TABLE, THEIRS | biases, OURS | {"b": (2, 6)}).sources
    with pytest.raises(CheckpointError, match=r"unused \(2\): layer\.0\.b, layer\.1\.b"):
        fit(TABLE, THEIRS | biases, OURS)
    with pytest.raises(CheckpointError, match=r"missing there \(2\): layer\.0\.b \(b\)"):
        fit(TABLE, THEIRS, OURS | {"b": (2, 6)})


def test_parts_that_the_model_does_not_have_are_ignored_and_listed() -> None:
    assert fit(TABLE, THEIRS | {"pool": (4,)}, OURS).ignored == ("pool",)
    table = (*TABLE[:1], Row("layer.{}.w", "elsewhere"))
    assert fit(table, THEIRS, {"embed": (10, 4)}).ignored == ("layer.0.w", "layer.1.w")


def test_ignore_patterns_match_whole_names() -> None:
    theirs = THEIRS | {"position_ids": (1, 5)}
    assert fit(TABLE, theirs, OURS, ignore=[r".*position_ids"]).ignored == ("position_ids",)
    with pytest.raises(CheckpointError, match=r"unused \(1\): position_ids"):
        fit(TABLE, theirs, OURS, ignore=["position"])


def test_may_lack_allows_whole_arrays_only() -> None:
    found = fit(TABLE, {"embed": (10, 4)}, OURS, may_lack=["w"])
    assert found.missing == ("w",)
    assert found.sources.keys() == {"embed"}
    found = fit(TABLE, THEIRS, OURS | {"unknown/x": (3,)}, may_lack=["unknown/"])
    assert found.missing == ("unknown/x",)
    with pytest.raises(CheckpointError, match=r"missing there \(1\): layer\.1\.w \(w\)$"):
        fit(TABLE, {"embed": (10, 4), "layer.0.w": (6, 4)}, OURS, may_lack=["w"])


def test_copies_are_named_and_not_unused() -> None:
    table = (Row("embed", "embed", copies=("head", "head.old")), *TABLE[1:])
    found = fit(table, THEIRS | {"head": (10, 4)}, OURS)
    assert found.copies == (("head", "embed"),)
    assert found.ignored == ()


def test_writing_names_what_has_no_place() -> None:
    x = {"embed": draw(10, 4), "w": draw(2, 4, 6), "extra": draw(1)}
    with pytest.raises(CheckpointError, match="expected also pool; found no place for extra"):
        list(rows.write(TABLE, x))


# ---- a whole model -----------------------------------------------------------------------------


def tables() -> Iterator[ToyConfig]:
    for bias, tied in itertools.product((True, False), repeat=2):
        yield ToyConfig(bias=bias, tied=tied, layers=5, vocab_size=7)


@pytest.mark.parametrize("c", [*tables()], ids=lambda c: f"bias={c.bias}-tied={c.tied}")
def test_toy_model(c: ToyConfig) -> None:
    w = toy.weights(c)
    state = nnx.state(nnx.eval_shape(lambda: toy.Toy(c, nnx.Rngs(0))), nnx.Param)
    assert {p: x.shape for p, x in flat(nnx.to_pure_dict(state)).items()} == {
        p: x.shape for p, x in toy.params(c, w).items()
    }
    roundtrip(toy.table(c), w, toy.params(c, w))
