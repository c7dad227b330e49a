"""PEFT's adapter_config.json: what it says about a LoRA adapter, and the way back.

Which modules an adapter takes is PEFT's own rule, on names like
"model.layers.0.self_attn.q_proj": a list takes what ends in one of its entries, and
`layers_to_transform` narrows it; a string takes what it matches whole. Nothing here knows arrays.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rsvlm_jax.config import CheckpointError, LoraConfig
from rsvlm_jax.interop.family import only
from rsvlm_jax.interop.files import read_json

ALL_LINEAR = "all-linear"

_HARMLESS = {
    "auto_mapping",
    "ensure_weight_tying",
    "eva_config",  # of the initial A only
    "inference_mode",
    "lora_dropout",  # in training only
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}
"""Keys that change no number of a finished adapter."""

_READ = {
    "alpha_pattern",
    "base_model_name_or_path",
    "bias",
    "exclude_modules",
    "fan_in_fan_out",  # of the base's kernel; A and B are stored the same way in both cases
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "use_rslora",
}


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """What an adapter_config.json says.

    Attributes:
      targets: entries of a list, a regular expression, or None: all that has tensors.
      exclude: as `targets`.
      layers: `layers_to_transform`; None: all.
      ranks, alphas: `rank_pattern` and `alpha_pattern`, in their order.
    """

    rank: int
    alpha: float
    rslora: bool
    targets: tuple[str, ...] | str | None
    exclude: tuple[str, ...] | str
    layers: tuple[int, ...] | None
    layers_pattern: tuple[str, ...]
    ranks: tuple[tuple[str, int], ...]
    alphas: tuple[tuple[str, float], ...]
    modules_to_save: tuple[str, ...]
    base_name: str | None

    @property
    def target_list(self) -> tuple[str, ...]:
        """The entries of a list, none where the targets are a pattern."""
        return self.targets if isinstance(self.targets, tuple) else ()

    def takes(self, module: str) -> bool:
        """Whether PEFT puts LoRA on a module of this name."""
        if self.exclude and _matches(self.exclude, module):
            return False
        if self.targets is None:
            return True
        if isinstance(self.targets, str) or not _matches(self.targets, module):
            return _matches(self.targets, module)
        if self.layers is None:
            return True
        starts = [rf"(?:^|.*?\.){p}" for p in self.layers_pattern] or [r".*?\.[^.]*"]
        found = (re.match(rf"{start}\.(\d+)\.", module) for start in starts)
        return next((int(m[1]) in self.layers for m in found if m), False)

    def rank_of(self, module: str) -> int:
        return next((r for key, r in self.ranks if _ends_as(module, key)), self.rank)

    def alpha_of(self, module: str) -> float:
        return next((a for key, a in self.alphas if _ends_as(module, key)), self.alpha)


def _matches(targets: tuple[str, ...] | str, module: str) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return any(ends_in(module, t) for t in targets)


def ends_in(module: str, target: str) -> bool:
    """Whether the last words of a module's name are `target`."""
    return module == target or module.endswith(f".{target}")


def _ends_as(module: str, key: str) -> bool:
    return re.match(rf"(.*\.)?({key})$", module) is not None


def read_adapter_config(path: Path) -> AdapterConfig:
    """Read it strictly.

    Raises:
      CheckpointError: not a LoRA adapter, or one with something that is not computed here; the
        line names the key.
    """
    raw = read_json(path)
    only(raw, "peft_type", ("LORA",), str(path))
    only(raw, "bias", ("none",), str(path))
    # PiSSA, OLoRA, LoftQ and their like change the base too, and only PEFT knows how.
    only(raw, "init_lora_weights", (True, False, None, "gaussian", "orthogonal", "eva"), str(path))
    for key in sorted(raw.keys() - _READ - _HARMLESS):
        if raw[key]:  # use_dora, layer_replication, trainable_token_indices, what is yet to come
            raise CheckpointError(
                "not supported", where=f"{path}: {key}", expected="nothing",
                found=json.dumps(raw[key])[:60],
            )  # fmt: skip
    read = _Reader(path, raw)
    targets = read.names("target_modules")
    return AdapterConfig(
        rank=read.number("r", raw.get("r"), int),
        alpha=read.number("lora_alpha", raw.get("lora_alpha"), float),
        rslora=read.flag("use_rslora"),
        targets=None if targets in ((), ALL_LINEAR) else targets,
        exclude=read.names("exclude_modules"),
        layers=read.layers(),
        layers_pattern=_tuple(read.names("layers_pattern")),
        ranks=read.pattern("rank_pattern", int),
        alphas=read.pattern("alpha_pattern", float),
        modules_to_save=_tuple(read.names("modules_to_save")),
        base_name=raw.get("base_model_name_or_path") or None,
    )


def _tuple(names: tuple[str, ...] | str) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Values of the right type, or a line that names the key."""

    path: Path
    raw: Mapping[str, Any]

    def refuse(self, key: str, expected: str) -> CheckpointError:
        found = json.dumps(self.raw.get(key))[:60]
        return CheckpointError(
            "a wrong value", where=f"{self.path}: {key}", expected=expected, found=found
        )

    def number(self, key: str, value: Any, kind: type) -> Any:
        good = isinstance(value, int if kind is int else int | float)
        if not good or isinstance(value, bool) or not 0 < value < 2**31:
            raise self.refuse(key, f"{kind.__name__} > 0")
        return kind(value)

    def flag(self, key: str) -> bool:
        if not isinstance(self.raw.get(key, False), bool):
            raise self.refuse(key, "true or false")
        return self.raw.get(key, False)

    def names(self, key: str) -> tuple[str, ...] | str:
        value = self.raw.get(key) or ()
        if isinstance(value, str):
            self.regex(key, value)
            return value
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise self.refuse(key, "names or a regular expression")
        return tuple(value)

    def layers(self) -> tuple[int, ...] | None:
        value = self.raw.get("layers_to_transform")
        if value is None or value == []:
            return None
        value = [value] if isinstance(value, int) else value
        if not isinstance(value, list) or not all(type(v) is int for v in value):
            raise self.refuse("layers_to_transform", "numbers of layers")
        return tuple(value)

    def pattern(self, key: str, kind: type) -> tuple[tuple[str, Any], ...]:
        value = self.raw.get(key) or {}
        if not isinstance(value, Mapping):
            raise self.refuse(key, "patterns and numbers")
        for pattern in value:
            self.regex(key, pattern)
        return tuple((k, self.number(key, v, kind)) for k, v in value.items())

    def regex(self, key: str, pattern: str) -> None:
        try:
            re.compile(pattern)
        except re.error as e:
            raise self.refuse(key, f"a regular expression ({e})") from e


def write_adapter_config(
    targets: Mapping[str, tuple[int, float]],
    linears: Iterable[str],
    lora: LoraConfig,
    *,
    transposed: bool,
    whole: Iterable[str],
    causal: bool,
    base_name: str | None,
) -> str:
    """The text of the file.

    Args:
      targets: their modules, `{}` for the layer number -> rank and alpha.
      linears: all modules of the base that could be targets.
      transposed: the base's kernels are (in, out) there (GPT-2's Conv1D).
      whole: their modules that are saved whole.
      causal: the base is a language model.
    """
    ends = {t.split(".")[-1] for t in targets}
    others = [m for m in linears if m not in targets]
    simple = not any(e.isdigit() for e in ends) and not any(
        ends_in(m, e) for m in others for e in ends
    )
    patterns = {t: _pattern(t) for t in targets}
    ranks = {patterns[t]: r for t, (r, _) in targets.items() if r != lora.rank}
    alphas = {patterns[t]: _plain(a) for t, (_, a) in targets.items() if a != lora.alpha}
    raw = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if causal else None,
        "base_model_name_or_path": base_name,
        "r": lora.rank,
        "lora_alpha": _plain(lora.alpha),
        "lora_dropout": 0.0,
        "use_rslora": lora.rslora,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "target_modules": sorted(ends) if simple else "|".join(patterns.values()),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "layers_to_transform": None,
        "layers_pattern": None,
        "modules_to_save": sorted({_last(m) for m in whole}) or None,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    return json.dumps(raw, indent=2, sort_keys=True) + "\n"


def _plain(x: float) -> int | float:
    return int(x) if x == int(x) else x


def _last(module: str) -> str:
    """Enough of the end of a name: "lm_head"; "mm_projector.0", since "0" ends many names."""
    words = module.split(".")
    return ".".join(words[-2:] if words[-1].isdigit() else words[-1:])


def _pattern(module: str) -> str:
    """A name of any layer, as any version of transformers spells it in memory.

    "model." and "vision_model." come, go and move in front of the layer's number.
    """
    words = [w for w in module.split(".") if w not in ("model", "vision_model")]
    plain = [r"\d+" if w == "{}" else re.escape(w) for w in words]
    first = words.index("{}") if "{}" in words else 1
    wander = r"(?:(?:vision_)?model\.)?"
    start = "".join(f"{wander}{w}\\." for w in plain[:first])
    return start + r"\.".join(plain[first:]) if first < len(plain) else wander + plain[0]
