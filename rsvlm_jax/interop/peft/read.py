"""Adapters into models: which tensor is which factor, what is refused, and the model with it."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

from rsvlm_jax.config import CheckpointError, ConfigError, LoraConfig, LoraOverride
from rsvlm_jax.core import LORA_A, LORA_B, base_path, flat, is_lora, is_quantized
from rsvlm_jax.interop import rows
from rsvlm_jax.interop.files import open_checkpoint
from rsvlm_jax.interop.huggingface import Imported
from rsvlm_jax.interop.rows import TRANSPOSE, Lazy, Row, Shape, Table
from rsvlm_jax.mesh.rules import factor_sharding
from rsvlm_jax.nn import add_lora, merge_lora, plain_shapes

from .config import AdapterConfig, ends_in, read_adapter_config
from .names import BESIDE, CONFIG, WEIGHTS, adaptable, bare, factor_name, some

Tree = Any
"""A nested dict of arrays."""


@dataclasses.dataclass(frozen=True)
class Adapter:
    """An adapter in our layout.

    Attributes:
      config: which kernels, what rank, what scale.
      factors: A and B by path, float32, placed like their kernels.
      whole: parameters by path that it holds whole (projector, language head), in place of those
        of the base.
    """

    config: LoraConfig
    factors: dict[str, jax.Array]
    whole: dict[str, jax.Array]


def read_adapter(
    folder: str | os.PathLike[str], base: Imported, *, allow_pickle: bool = False
) -> Adapter:
    """Read a PEFT directory; it must fit the model that it is for.

    Layers that the adapter leaves out by its own word (`layers_to_transform`, a pattern) get zeros
    for A and B: they change nothing and, their gradients being zero, stay so.

    Args:
      base: without LoRA; read for its family, config, shapes and placement.
      allow_pickle: read `adapter_model.bin` and LLaVA's `non_lora_trainables.bin`, see
        `rsvlm_jax.interop.files.open_checkpoint`.

    Raises:
      CheckpointError: one line; an adapter of another base is refused with the modules that do
        not fit.
    """
    folder = Path(folder)
    said = read_adapter_config(folder / CONFIG)
    params = plain_shapes(flat(base.params))
    if any(is_lora(path) for path in params):
        raise CheckpointError(
            "the base has LoRA already", where=folder, remedy="merge that first (merge_lora)"
        )
    owners = _owners(base.family.table(base.config), params)
    found = _sorted(folder, base, owners, allow_pickle)
    _check_targets(folder / CONFIG, said, found, owners)

    table: list[Row] = []
    shapes: dict[str, Shape] = {}
    theirs = dict(found.others)
    ranks: dict[str, tuple[int, float]] = {}
    for row in _rows_of(found.factors, owners):
        *stacked, d_in, d_out = params[row.ours].shape
        layers = range(stacked[0]) if row.stacked else [None]
        names = {row.name(i): i for i in layers}
        modules = [found.modules[n] for n in names if n in found.modules]
        rank, _ = ranks[row.ours] = _rank(folder / CONFIG, said, row, modules)
        shapes[row.ours + LORA_A] = (*stacked, d_in, rank)
        shapes[row.ours + LORA_B] = (*stacked, rank, d_out)
        table += _factor_rows(row)
        part, parts = row.part or (0, 1)
        nothing: dict[str, Any] = {
            "A": np.zeros((rank, d_in), np.float32),
            "B": np.zeros((d_out * parts, rank), np.float32),
        }
        left_out = _left_out(said, row, names, found.modules)
        for name in names:
            factors = nothing if name in left_out else found.factors.get(name, {})
            for factor, array in factors.items():
                theirs[factor_name(name, factor, part)] = array
    for row in _rows_of(found.others, owners):
        table.append(dataclasses.replace(row, copies=()))
        shapes[row.ours] = tuple(params[row.ours].shape)
    try:
        fits = rows.match(
            tuple(table),
            {name: tuple(x.shape) for name, x in theirs.items()},
            shapes,
            where=str(folder),
        )
    except CheckpointError as e:
        raise CheckpointError(
            "the adapter and the base do not fit", where=folder,
            expected=f"an adapter of this {base.family.architecture}",
            found=f"one of {said.base_name or 'an unnamed base'}: {e.found}",
        ) from e  # fmt: skip
    if not ranks:
        raise CheckpointError("an adapter without LoRA", where=folder, expected="lora_A, lora_B")
    wanted = {path: _wanted(path, shape, params) for path, shape in shapes.items()}
    made = dict(rows.read(fits, theirs, wanted))
    factors = {path: x for path, x in made.items() if base_path(path) != path}
    whole = {path: x for path, x in made.items() if path not in factors}
    coded = [path for path in whole if path not in flat(base.params)]
    if coded:
        raise CheckpointError(
            "the adapter holds whole what is quantised in the base", where=folder,
            expected="LoRA there", found=some(coded), remedy="leave it out of the targets",
        )  # fmt: skip
    return Adapter(_lora_config(said, ranks), factors, whole)


def with_adapter(base: Imported, adapter: Adapter, *, merge: bool = False) -> Imported:
    """The base with an adapter: kept as LoRA, or merged into its kernels (in float32).

    Merged, the model has the definition and the paths of the base and is written by
    `save_pretrained`; those of a plain base, where it is quantised (see `merge_lora`). Kept, it is
    trained on, and written by `save_adapter`.

    Raises:
      CheckpointError: an adapter that can only be merged.
    """
    params = _inserted(base.params, adapter.factors | adapter.whole)
    missing = tuple(path for path in base.report.missing if path not in adapter.whole)
    base = dataclasses.replace(base, report=dataclasses.replace(base.report, missing=missing))
    if merge:
        merged = dataclasses.replace(base, params=merge_lora(params, adapter.config))
        if not any(map(is_quantized, flat(base.params))):
            return merged
        plain = nnx.eval_shape(lambda: base.family.build(base.config, nnx.Rngs(0)))
        return dataclasses.replace(merged, graphdef=nnx.graphdef(plain))

    def build() -> nnx.Module:
        return add_lora(base.model, adapter.config, nnx.Rngs(0))

    try:
        graphdef, _ = nnx.split(nnx.eval_shape(build), nnx.Param)
    except ConfigError as e:
        raise CheckpointError(
            "the adapter cannot be kept as LoRA", where=e.where, found=e.what, remedy="merge it"
        ) from e
    return dataclasses.replace(base, graphdef=graphdef, params=params)


Owners = Mapping[str, list[Row]]
"""Their names of the base's arrays -> the rows that read them."""


@dataclasses.dataclass(frozen=True)
class _Found:
    """The tensors of an adapter by the base's names.

    Attributes:
      factors: name of a kernel there -> its "A" and "B".
      modules: name of a kernel there -> the module, as the adapter spells it.
      others: everything else: whole arrays, and what has no place.
    """

    factors: dict[str, dict[str, Lazy]]
    modules: dict[str, str]
    others: dict[str, Lazy]


def _owners(table: Table, params: Mapping[str, Any]) -> dict[str, list[Row]]:
    owners: dict[str, list[Row]] = {}
    for row in table:
        if row.ours in params:
            for i in range(params[row.ours].shape[0]) if row.stacked else [None]:
                owners.setdefault(row.name(i), []).append(row)
    return owners


def _rows_of(names: Iterable[str], owners: Owners) -> list[Row]:
    return list({row.ours: row for name in names for row in owners.get(name, ())}.values())


def _sorted(folder: Path, base: Imported, owners: Owners, allow_pickle: bool) -> _Found:
    found = _Found({}, {}, {})
    strange: list[str] = []
    for full, array in adapter_tensors(folder, allow_pickle=allow_pickle):
        name = bare(full)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            strange.append(f"{full} ({array.dtype})")
        cut = re.fullmatch(r"(.+)\.lora_([AB])\.weight", name)
        kernel = base.family.canonical(f"{cut[1]}.weight" if cut else name)
        if cut and all(adaptable(row) for row in owners.get(kernel, ())) and kernel in owners:
            place, key = found.factors.setdefault(kernel, {}), cut[2]
            found.modules[kernel] = cut[1]
        else:
            place, key = found.others, factor_name(kernel, cut[2]) if cut else kernel
        if key in place:
            raise CheckpointError("two tensors of one name", where=folder, found=full)
        place[key] = array
    if strange:
        raise CheckpointError(
            "weights that are no floating-point numbers", where=folder,
            expected="float32, float16 or bfloat16", found=some(strange),
        )  # fmt: skip
    return found


def adapter_tensors(folder: Path, *, allow_pickle: bool = False) -> list[tuple[str, Lazy]]:
    """All tensors of an adapter by their names there, what LLaVA trains beside it at the end.

    Raises:
      CheckpointError: no weights, or a pickle that was not allowed.
    """
    files = [folder / name for name in WEIGHTS if (folder / name).exists()][:1]
    if not files:
        raise CheckpointError("no adapter weights", where=folder, expected=" or ".join(WEIGHTS))
    files += [folder / name for name in BESIDE if (folder / name).exists()][:1]
    opened = [open_checkpoint(file, allow_pickle=allow_pickle) for file in files]
    return [item for checkpoint in opened for item in checkpoint.items()]


def _check_targets(where: Path, said: AdapterConfig, found: _Found, owners: Owners) -> None:
    """What the config announces is there, and nothing else.

    Raises:
      CheckpointError: naming the modules.
    """
    linears = [n.removesuffix(".weight") for n, own in owners.items() if all(map(adaptable, own))]
    modules = found.modules.values()
    saved = [name for name in found.others if name in owners]
    wrong = {
        "tensors that target_modules does not take": [m for m in modules if not said.takes(m)],
        "no tensors of target_modules": [
            t
            for t in said.target_list
            if any(ends_in(n, t) for n in linears) and not any(ends_in(m, t) for m in modules)
        ],
        "no tensors of modules_to_save": [
            m for m in said.modules_to_save if not any(f".{m}." in f".{name}" for name in saved)
        ],
    }
    if found.factors and any(wrong.values()):
        raise CheckpointError(
            "the adapter's config and its tensors do not agree", where=where,
            found="; ".join(f"{what}: {some(names)}" for what, names in wrong.items() if names),
        )  # fmt: skip


def _left_out(
    said: AdapterConfig, row: Row, names: Mapping[str, int | None], modules: Mapping[str, str]
) -> set[str]:
    """Names of the layers without tensors that the adapter does not take."""
    absent = [name for name in names if name not in modules]
    if not absent:
        return set()
    number = {name: str(row.first + row.every * (i or 0)) for name, i in names.items()}
    known = {number[name]: modules[name] for name in names if name in modules}
    first = next(iter(known))
    places = [m.span() for m in re.finditer(rf"(?<=\.){first}(?=\.)", known[first])]
    cuts = [(known[first][:start], known[first][stop:]) for start, stop in places]
    cuts = [c for c in cuts if all(c[0] + n + c[1] == module for n, module in known.items())]
    if not cuts:
        return set()
    before, after = cuts[-1]
    return {name for name in absent if not said.takes(before + number[name] + after)}


def _rank(where: Path, said: AdapterConfig, row: Row, modules: list[str]) -> tuple[int, float]:
    """Rank and alpha of one of our kernels, all layers of which share them."""
    found = sorted({(said.rank_of(m), said.alpha_of(m)) for m in modules})
    if len(found) > 1:
        raise CheckpointError(
            "rank_pattern or alpha_pattern tells layers apart", where=where,
            expected=f"one rank and alpha for {row.theirs}",
            found=" and ".join(f"{r}, {a:g}" for r, a in found),
        )  # fmt: skip
    return found[0]


def _factor_rows(row: Row) -> Table:
    """Where the factors of a row's kernel come from; (out, in) there, whatever the kernel is."""
    part = row.part[0] if row.part else 0
    a, b = (factor_name(row.theirs, factor, part) for factor in "AB")
    new = dataclasses.replace(row, how=TRANSPOSE, axis=0, optional=False, copies=())
    return (
        dataclasses.replace(new, theirs=a, ours=row.ours + LORA_A, part=None),
        dataclasses.replace(new, theirs=b, ours=row.ours + LORA_B),
    )


def _wanted(path: str, shape: Shape, params: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
    """A factor is split as `rsvlm_jax.mesh.factor_sharding` has it from its kernel."""
    kernel = params[base_path(path)]
    if path in params:
        return jax.ShapeDtypeStruct(shape, kernel.dtype, sharding=kernel.sharding)
    sharding = kernel.sharding
    if isinstance(sharding, NamedSharding):
        sharding = factor_sharding(path, shape, sharding)
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)


def _lora_config(said: AdapterConfig, ranks: Mapping[str, tuple[int, float]]) -> LoraConfig:
    """Patterns that take exactly these kernels."""
    usual = (said.rank, said.alpha)
    others = sorted({found for found in ranks.values() if found != usual})
    return LoraConfig(
        rank=said.rank,
        alpha=said.alpha,
        targets=_exactly(ranks),
        rslora=said.rslora,
        overrides=tuple(
            LoraOverride(_exactly(p for p, found in ranks.items() if found == other), *other)
            for other in others
        ),
    )


def _exactly(kernels: Iterable[str]) -> str:
    stems = sorted(re.escape(path.removesuffix("/kernel")) for path in kernels)
    return f"^({'|'.join(stems)})/kernel$"


def _inserted(tree: Tree, new: Mapping[str, Any], prefix: str = "") -> Tree:
    """A nested dict with the leaves of `new` in it: its own replaced, factors beside kernels."""
    made = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            made[key] = _inserted(value, new, f"{path}/")
            continue
        made[key] = new.get(path, value)
        kernel, name = base_path(path), base_path(str(key))
        made |= {name + s: new[kernel + s] for s in (LORA_A, LORA_B) if kernel + s in new}
    return made
