"""What a new model starts from: `Experiment.init_from`.

    "asset:stories260k"                              the shipped decoder
    "encoders/galileo=asset:galileo_nano"            shipped encoders of series; the map of their
    "encoders/presto=asset:presto"                   tokens to the encoder width starts anew
    "RUN"                                            all parameters of a run
    "DIR"                                            the towers that a Hugging Face or LLaVA
                                                     directory and the model both have; of a BLIP-2
                                                     or InstructBLIP EVA-G, Q-Former, projection
    "vision=DIR,connector=FILE,decoder=asset:..."    towers by name, each from one of these

So a LLaVA is given new sensors: its vision tower, connector and decoder go on, what reads bands and
dates is new. A tower is taken only where its config says the same as the model's; two numbers may
differ, the edge of the images (the position table is resized) and the size of the vocabulary (new
rows are the mean of all). What stays as it was initialised is said on stderr.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rsvlm_jax.config import (
    CheckpointError,
    ConfigError,
    Experiment,
    MeshConfig,
    QFormerConfig,
    SiglipConfig,
    ViTConfig,
    VLMConfig,
)
from rsvlm_jax.config.experiment import init_sources
from rsvlm_jax.core import flat, map_with_path
from rsvlm_jax.interop import encoders
from rsvlm_jax.interop.blip import is_blip, load_towers
from rsvlm_jax.interop.families.llava import LlavaConfig
from rsvlm_jax.interop.families.qformer import Blip2QFormerConfig
from rsvlm_jax.interop.files import open_checkpoint, read_json
from rsvlm_jax.interop.llama2c import load_llama2c
from rsvlm_jax.interop.llava_original import ProjectorConfig, load_projector
from rsvlm_jax.interop.openclip import load_openclip
from rsvlm_jax.nn.position import resize_stored
from rsvlm_jax.train.state import Tree

from .directory import is_pretrained, read_directory
from .reopen import open_talk
from .rundir import RunDir
from .trained import load_run

_FREE = frozenset(
    {
        *("image_size", "feature_layers", "feature_stages", "feature_join", "keep_cls"),
        *("final_norm", "pool", "projection_dim", "mask_token", "mean", "std"),
        *("vocab_size", "max_length", "family"),
        *("date_dropout", "dropout", "scale_init"),
    }
)
"""Fields in which a tower may differ from its checkpoint: they change no parameter, or only in a
way that is undone here, or are a matter of training."""

_ENCODERS: dict[tuple[str | None, str], Callable[[Any], Any]] = {
    ("encoders/galileo", "galileo_nano"): lambda config: encoders.galileo(config.galileo),
    ("encoders/presto", "presto"): lambda config: encoders.presto(config.presto),
}
"""Shipped encoders, by the part that they fill and their name."""

_POOLING = ("post_norm/", "projection/", "head/", "mask_token")
"""Of vision towers: not read by the model, so not needed and not missed."""


@dataclasses.dataclass(frozen=True)
class _Part:
    """A tower of a checkpoint: its config, where it is known, and its parameters by path."""

    config: Any
    params: dict[str, Any]
    where: str


def start_from(
    params: Tree, experiment: Experiment, *, say: Callable[[str], None] | None = None
) -> Tree:
    """Parameters with those of `experiment.init_from` in place of some or all.

    Args:
      params: as initialised; what takes their place is placed like them.
      say: told what was read and what stays; None: a line on stderr, where a directory was read.

    Raises:
      ConfigError: no such asset, or a tower that the model does not have.
      CheckpointError: a checkpoint of another model (both sides are named), or parameters that no
        checkpoint holds where `init_missing` is "error".
    """
    if experiment.init_from is None:
        return params
    shapes = flat(params)
    new: dict[str, Any] = {}
    for tower, source in init_sources(experiment.init_from):
        parts = _parts(tower, source, experiment)
        for name, part in parts.items():
            mine = {p.removeprefix(f"{name}/"): x for p, x in shapes.items() if _of(name, p)}
            if not mine:
                if tower is None:
                    continue  # of a whole checkpoint: the ablation without a language model
                raise ConfigError(
                    "the model has no such tower", where="Experiment.init_from", found=tower
                )
            fitted = _fitted(name, part, mine, _config(experiment.model, name))
            new |= {f"{name}/{path}": x for path, x in fitted.items()}
    kept = [path for path in shapes if path not in new]
    if kept and experiment.init_missing == "error":
        raise CheckpointError(
            "parameters that no checkpoint holds", where=experiment.init_from,
            expected='init_missing "init" to start them anew', found=_listed(kept, shapes),
        )  # fmt: skip
    if say is not None or not experiment.init_from.startswith("asset:"):
        line = f"init_from {experiment.init_from}: {len(new)} arrays read"
        line += f"; initialised: {_listed(kept, shapes)}" if kept else "; none initialised"
        (say or _stderr)(line)
    return map_with_path(lambda path, x: placed(new[path], x) if path in new else x, params)


def placed(x: Any, like: Any) -> jax.Array:
    """A whole array that this process has, in the place of another of its shape."""
    if not isinstance(like, jax.Array):
        return jnp.asarray(x)
    if like.is_fully_addressable:
        return jax.device_put(x, like.sharding)
    whole = np.asarray(x)  # each process gives the parts of its devices
    return jax.make_array_from_callback(whole.shape, like.sharding, lambda index: whole[index])


def check_sources(experiment: Experiment) -> None:
    """Refuse an `init_from` that is not there, before data is read. Reads nothing.

    Raises:
      CheckpointError: no such file or directory.
    """
    text = experiment.init_from
    for _, source in () if text is None else init_sources(text):
        if not source.startswith("asset:") and not Path(source).exists():
            raise CheckpointError(
                "nothing to start from", where=f"Experiment.init_from: {source}",
                expected="a run directory, a file, or a directory of Hugging Face or LLaVA",
                found="no such path",
                remedy="name your own; --init-from None starts anew",
            )  # fmt: skip


def _parts(tower: str | None, source: str, experiment: Experiment) -> dict[str, _Part]:
    """What a source holds, by tower; of a tower that was named, that alone."""
    kind, _, name = source.partition(":")
    if kind == "asset":
        if (tower, name) in _ENCODERS:
            return {str(tower): _encoder(_ENCODERS[tower, name], experiment, source)}
        if name != "stories260k" or tower not in (None, "decoder"):
            raise ConfigError(
                "no such asset", where="Experiment.init_from",
                expected="asset:stories260k, for the decoder", found=source,
            )  # fmt: skip
        decoder = experiment.model.decoder
        if decoder is None:
            return {}
        if decoder.kind != "llama":
            raise ConfigError("the asset is a Llama", where="VLMConfig.decoder", found=decoder.kind)
        return {"decoder": _Part(None, flat(load_llama2c(decoder)), source)}
    path = Path(source)
    if path.is_file():
        parts = _file(path, experiment)
    elif is_pretrained(path):
        parts = _pretrained(path, experiment)
    else:
        parts = _run(path)
    if tower is None:
        return parts
    if tower in parts:
        return {tower: parts[tower]}
    whole, _, inner = tower.partition("/")
    if whole not in parts:
        raise CheckpointError(
            "the checkpoint has no such tower", where=source, expected=whole,
            found=", ".join(parts),
        )  # fmt: skip
    return {tower: _inside(parts[whole], inner)}


def _encoder(load: Callable[[Any], Any], experiment: Experiment, source: str) -> _Part:
    """A shipped encoder inside its front."""
    model = load(experiment.model.encoders)
    return _Part(None, {f"encoder/{p}": x for p, x in flat(nnx.state(model)).items()}, source)


def _inside(part: _Part, inner: str) -> _Part:
    """One of two mixed towers: a checkpoint's own, or its only tower."""
    if getattr(part.config, "kind", None) != "mixed":
        return part
    params = {p.removeprefix(f"{inner}/"): x for p, x in part.params.items() if _of(inner, p)}
    return _Part(getattr(part.config, inner), params, part.where)


def _file(path: Path, experiment: Experiment) -> dict[str, _Part]:
    """A stand-alone projector, or an OpenCLIP tower (RemoteCLIP, GeoRSCLIP)."""
    allow = experiment.allow_pickle
    if any(name.startswith("visual.") for name in open_checkpoint(path, allow_pickle=allow)):
        # Its file says neither the activation nor the heads. The activation is the config's word;
        # heads are those of OpenCLIP's convention where it has one for the width, so that a config
        # with others is refused.
        mine = experiment.model.vision
        said: dict[str, Any] = {}
        if isinstance(mine, ViTConfig):
            conventional = mine.width % 64 == 0
            said = {
                "activation": mine.activation,
                "heads": None if conventional else mine.heads,
            }
        found = load_openclip(path, allow_pickle=allow, **said)
        return {"vision": _Part(found.config, flat(found.params), str(path))}
    found = load_projector(path, allow_pickle=allow)
    assert isinstance(found.config, ProjectorConfig)
    return {"connector": _Part(found.config.connector, flat(found.params), str(path))}


def _pretrained(path: Path, experiment: Experiment) -> dict[str, _Part]:
    allow_pickle = experiment.allow_pickle
    if is_blip(read_json(path / "config.json")):
        blip = load_towers(path, allow_pickle=allow_pickle)
        towers = {name: flat(tree) for name, tree in blip.params.items()}
        return {n: _Part(getattr(blip.config, n), p, str(path)) for n, p in towers.items()}
    found, _ = read_directory(path, allow_pickle=allow_pickle)
    if isinstance(found.config, LlavaConfig):
        towers = {name: flat(tree) for name, tree in found.params.items()}
        model = found.config.model
        return {n: _Part(_config(model, n), p, str(path)) for n, p in towers.items()}
    if isinstance(found.config, Blip2QFormerConfig):  # which holds no queries: the model's stay
        inside = {f"former/{p}": x for p, x in flat(found.params).items()}
        mine, former = experiment.model.resampler, found.config.former
        if isinstance(mine, QFormerConfig):
            former = dataclasses.replace(former, queries=mine.queries)
        return {"resampler": _Part(former, inside, str(path))}
    name = "decoder" if "embed" in found.params else "vision"
    return {name: _Part(found.config, flat(found.params), str(path))}


def _run(path: Path) -> dict[str, _Part]:
    """Of the newest verified checkpoint, averaged where averages were kept, LoRA merged."""
    if RunDir(path).experiment().conversations is None:
        loaded = load_run(path, mesh=MeshConfig())
        model, params = loaded.experiment.model, loaded.params
    else:
        opened = open_talk(path, mesh=MeshConfig())
        model, params = opened.config, opened.params
    return {n: _Part(_config(model, n), flat(tree), str(path)) for n, tree in params.items()}


def _fitted(tower: str, part: _Part, mine: dict[str, Any], config: Any) -> dict[str, Any]:
    """The checkpoint's parameters as the model holds them."""
    if part.config is not None:
        _same_numbers(tower, part, config)
    stray = [p for p in part.params if p not in mine and not p.startswith(_POOLING)]
    wrong, made = [], {}
    for path, x in part.params.items():
        if path not in mine:
            continue
        y = _resized(path, x, mine[path].shape, config)
        made[path] = y
        if y.shape != mine[path].shape:
            wrong.append(f"{tower}/{path} {x.shape} (model: {mine[path].shape})")
    if stray or wrong:
        parts = [("no place for", stray), ("of another shape", wrong)]
        raise CheckpointError(
            "the checkpoint and the model do not fit", where=part.where,
            found=" | ".join(f"{w}: {', '.join(x[:10])}" for w, x in parts if x),
        )  # fmt: skip
    return {path: x.astype(mine[path].dtype) for path, x in made.items()}


def _resized(path: str, x: Any, shape: tuple[int, ...], config: Any) -> Any:
    if x.shape == shape:
        return x
    if path == "position/embedding" and hasattr(config, "grid") and x.shape[1:] == shape[1:]:
        extra = 0 if isinstance(config, SiglipConfig) else 1
        return resize_stored(np.asarray(x), config.grid, "bicubic_align_corners", extra=extra)
    axis = {"embed/embedding": 0, "lm_head/kernel": 1}.get(path)
    if axis is None or x.shape[axis] > shape[axis]:
        return x
    x = np.asarray(x)
    more = shape[axis] - x.shape[axis]
    return np.concatenate([x, np.repeat(x.mean(axis, keepdims=True), more, axis)], axis)


def _same_numbers(tower: str, part: _Part, config: Any) -> None:
    """Refuse a tower that would compute something else, above all where its shapes are the same."""
    a, b = part.config, config
    if type(a) is not type(b):
        names = [getattr(x, "kind", type(x).__name__) for x in (b, a)]
    else:
        one, other = _numbers(a), _numbers(b)
        differ = [f for f in one if f not in _FREE and one[f] != other[f]]
        names = [", ".join(f"{f}={x[f]}" for f in differ) for x in (other, one)]
    if names[0] != names[1]:
        raise CheckpointError(
            f"the {tower} of the model and of the checkpoint differ", where=part.where,
            expected=names[0], found=names[1], remedy=f"set them in VLMConfig.{tower}",
        )  # fmt: skip


def _numbers(config: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(config):
        return {}
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    if "head_dim" in fields:  # None is the quotient
        fields["head_dim"] = config.head_width  # type: ignore[attr-defined]
    return fields


def _config(model: VLMConfig, tower: str) -> Any:
    config: Any = model
    for word in tower.split("/"):
        config = getattr(config, word, None)
    return config


def _of(tower: str, path: str) -> bool:
    return path.startswith(f"{tower}/")


def _listed(paths: list[str], shapes: dict[str, Any]) -> str:
    """Paths; of a tower of which nothing was read, the tower."""
    words = []
    for tower in dict.fromkeys(p.partition("/")[0] for p in paths):
        inside = [p for p in paths if _of(tower, p)]
        whole = len(inside) == sum(_of(tower, p) for p in shapes)
        words += [f"{tower} ({len(inside)} arrays)"] if whole else inside
    return ", ".join(words)


def _stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
