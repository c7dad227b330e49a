"""PEFT adapters: against kernels merged by hand in NumPy, by their names; refused where wrong."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P
from safetensors.numpy import load_file, save_file

from rsvlm_jax.config import (
    CheckpointError,
    ConnectorConfig,
    GPT2Config,
    LlamaConfig,
    LoraConfig,
    MeshConfig,
    ViTConfig,
    VLMConfig,
)
from rsvlm_jax.core import flat, map_with_path
from rsvlm_jax.interop.families import FAMILIES
from rsvlm_jax.interop.families.llava import LlavaConfig
from rsvlm_jax.interop.huggingface import Imported, load_pretrained, save_pretrained
from rsvlm_jax.interop.peft import read_adapter, save_adapter, with_adapter
from rsvlm_jax.mesh import RULES, make_mesh, resolve
from rsvlm_jax.nn import add_lora, merge_lora

LLAMA = LlamaConfig(
    vocab_size=24, width=28, layers=3, heads=7, kv_heads=1, mlp_dim=20, max_length=16
)
GPT2 = GPT2Config(vocab_size=24, width=20, layers=2, heads=5, mlp_dim=24, max_length=16)
LLAVA = LlavaConfig(
    VLMConfig(
        vision=ViTConfig(
            image_size=8, patch_size=4, width=12, layers=2, heads=2, mlp_dim=16, pool=True
        ),
        connector=ConnectorConfig(),
        decoder=dataclasses.replace(LLAMA, layers=2),
        head=None,
    ),
    image_token=23,
)
CONFIGS = {
    "LlamaForCausalLM": LLAMA,
    "GPT2LMHeadModel": GPT2,
    "LlavaForConditionalGeneration": LLAVA,
    "LlavaLlamaForCausalLM": LLAVA,
}
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Base:
    """A random model, as it is on disk and as it is read."""

    folder: Path
    weights: Arrays
    imported: Imported


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    made = {}
    for name, config in CONFIGS.items():
        rng = np.random.default_rng(0)
        family = FAMILIES[name]
        model = nnx.eval_shape(lambda f=family, c=config: f.build(c, nnx.Rngs(0)))
        params = map_with_path(
            lambda _, x, r=rng: r.normal(size=x.shape).astype(np.float32),
            nnx.to_pure_dict(nnx.state(model, nnx.Param)),
        )
        folder = save_pretrained(tmp_path_factory.mktemp(name) / "base", name, config, params)
        weights = load_file(folder / "model.safetensors")
        made[name] = Base(folder, weights, load_pretrained(folder))
    return made


@pytest.fixture
def llama(bases: dict[str, Base]) -> Base:
    return bases["LlamaForCausalLM"]


DISK = {
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}
"""What LLaVA calls its modules in memory, as PEFT does, and on disk."""


def disk(name: str) -> str:
    start = next((start for start in DISK if name.startswith(start)), None)
    return name if start is None else DISK[start] + name.removeprefix(start)


def factors(base: Base, modules: list[str], rank: int = 3, seed: int = 1) -> Arrays:
    """Random A and B for modules by their names in memory."""
    rng = np.random.default_rng(seed)
    made = {}
    for module in modules:
        out, width = base.weights[f"{disk(module)}.weight"].shape
        if "c_" in module:
            out, width = width, out
        for factor, shape in (("A", (rank, width)), ("B", (out, rank))):
            name = f"base_model.model.{module}.lora_{factor}.weight"
            made[name] = rng.normal(size=shape).astype(np.float32)
    return made


def modules(*names: str, layers: int | list[int] = 3, layer: str = "model.layers") -> list[str]:
    numbers = range(layers) if isinstance(layers, int) else layers
    return [f"{layer}.{i}.{n}" for i in numbers for n in names]


def save(folder: Path, tensors: Arrays, **config: object) -> Path:
    """An adapter as PEFT writes it, with all the keys that it writes."""
    ends = sorted({n.split(".")[-3] for n in tensors if ".lora_" in n})
    raw = {
        "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": "some/base",
        "bias": "none", "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False,
        "inference_mode": True, "init_lora_weights": True, "layer_replication": None,
        "layers_pattern": None, "layers_to_transform": None, "loftq_config": {},
        "lora_alpha": 12, "lora_bias": False, "lora_dropout": 0.05, "megatron_config": None,
        "megatron_core": "megatron.core", "modules_to_save": None, "peft_type": "LORA", "r": 3,
        "rank_pattern": {}, "revision": None, "target_modules": ends, "task_type": "CAUSAL_LM",
        "trainable_token_indices": None, "use_dora": False, "use_rslora": False,
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({**raw, **config}))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def merged(base: Base, tensors: Arrays, scale: float, folder: Path) -> Imported:
    """The base with W + scale * B @ A under their names, read back: not through our LoRA."""
    weights = dict(base.weights)
    for name, a in tensors.items():
        if name.endswith("lora_A.weight"):
            stem = disk(name.removeprefix("base_model.model.").removesuffix("lora_A.weight"))
            delta = scale * tensors[name.replace("lora_A", "lora_B")].astype(np.float64) @ a
            delta = delta.T if "c_" in stem else delta
            weights[f"{stem}weight"] = (weights[f"{stem}weight"] + delta).astype(np.float32)
        elif ".lora_" not in name:
            weights[name.removeprefix("base_model.model.")] = tensors[name]
    folder.mkdir()
    (folder / "config.json").write_text((base.folder / "config.json").read_text())
    save_file(weights, folder / "model.safetensors")
    return load_pretrained(folder)


def assert_near(got, want, atol: float = 1e-5) -> None:
    got, want = flat(got), flat(want)
    assert got.keys() == want.keys()
    for path, x in want.items():
        np.testing.assert_allclose(got[path], x, rtol=0, atol=atol, err_msg=path)


def assert_same_files(a: Path, b: Path) -> None:
    """The same tensors, bit by bit."""
    one, two = (load_file(f / "adapter_model.safetensors") for f in (a, b))
    assert one.keys() == two.keys()
    for name, x in one.items():
        assert x.tobytes() == two[name].tobytes(), name
        assert x.shape == two[name].shape, name


def logits(imported: Imported):
    def run(params):
        model = nnx.merge(imported.graphdef, params)
        tokens = jnp.asarray([[1, 5, 3, 2, 9]], jnp.int32)
        position = jnp.arange(5, dtype=jnp.int32)[None]
        mask = jnp.tril(jnp.ones((5, 5), bool))[None, None]
        return model.logits(model(model.embed(tokens), mask, position))

    return jax.jit(run)(imported.params)


ALL = [f"self_attn.{n}_proj" for n in "qkvo"] + [f"mlp.{n}_proj" for n in ("gate", "up", "down")]
FUSED = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
CASES = {
    "llama": ("LlamaForCausalLM", modules(*ALL), {}),
    "llama, two of seven, rank-stabilised": (
        "LlamaForCausalLM", modules("self_attn.q_proj", "self_attn.v_proj"), {"use_rslora": True},
    ),
    "gpt2": (
        "GPT2LMHeadModel", modules(*FUSED, layers=2, layer="transformer.h"),
        {"fan_in_fan_out": True},
    ),
    "llava": (
        "LlavaForConditionalGeneration",
        modules(*ALL, layers=2, layer="model.language_model.layers"),
        {"target_modules": r".*language_model.*\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"},
    ),
    "llava, projector and tower too": (
        "LlavaForConditionalGeneration",
        [
            *modules("self_attn.q_proj", layers=2, layer="model.language_model.layers"),
            *modules("self_attn.q_proj", "mlp.fc1", layers=2,
                     layer="model.vision_tower.vision_model.encoder.layers"),
            "model.multi_modal_projector.linear_1",
        ],
        {"target_modules": ["q_proj", "fc1", "linear_1"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_is_merged_kept_and_written_back(bases, tmp_path, case):
    name, names, config = CASES[case]
    base = bases[name]
    tensors = factors(base, names)
    folder = save(tmp_path / "adapter", tensors, **config)
    adapter = read_adapter(folder, base.imported)
    scale = 12 / math.sqrt(3) if config.get("use_rslora") else 4
    want = merged(base, tensors, scale, tmp_path / "merged")
    assert_near(with_adapter(base.imported, adapter, merge=True).params, want.params)

    kept = with_adapter(base.imported, adapter)
    for path, x in flat(base.imported.params).items():
        assert flat(kept.params)[path] is x, path
    # The definition is that of a model that was given LoRA, and the factors are its parameters.
    build = base.imported.family.build
    model = nnx.eval_shape(
        lambda: add_lora(build(base.imported.config, nnx.Rngs(0)), adapter.config, nnx.Rngs(0))
    )
    shapes = flat(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    assert {p: x.shape for p, x in shapes.items()} == {
        p: x.shape for p, x in flat(kept.params).items()
    }
    assert kept.graphdef == nnx.graphdef(model)

    again = save_adapter(
        tmp_path / "again", name, base.imported.config, kept.params, adapter.config,
        base_name="some/base",
    )  # fmt: skip
    assert_same_files(folder, again)
    back = read_adapter(again, base.imported)
    assert back.config == adapter.config
    assert flat(back.factors).keys() == flat(adapter.factors).keys()
    for path, x in back.factors.items():
        assert x.tobytes() == adapter.factors[path].tobytes(), path


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel"])
def test_kept_and_merged_say_the_same(bases, tmp_path, name):
    base = bases[name]
    names = modules(*ALL) if "Llama" in name else modules(*FUSED, layers=2, layer="transformer.h")
    small = {k: 0.1 * v for k, v in factors(base, names).items()}
    adapter = read_adapter(save(tmp_path / "a", small), base.imported)
    kept = logits(with_adapter(base.imported, adapter))
    one = logits(with_adapter(base.imported, adapter, merge=True))
    assert float(jnp.abs(kept - logits(base.imported)).max()) > 0.1 * float(kept.std())
    np.testing.assert_allclose(kept, one, rtol=0, atol=1e-4 * float(kept.std()))


def test_factors_of_a_fused_kernel_that_grew_apart_are_written_side_by_side(bases, tmp_path):
    base = bases["GPT2LMHeadModel"]
    rng = np.random.default_rng(5)
    lora = LoraConfig(rank=2, alpha=8.0, targets="layers/attention/([qv]|o)/kernel$")
    model = add_lora(base.imported.family.build(GPT2, nnx.Rngs(0)), lora, nnx.Rngs(1))
    old = flat(base.imported.params)
    trained = map_with_path(
        lambda path, x: old.get(path, jnp.asarray(rng.normal(size=x.shape), jnp.float32)),
        nnx.to_pure_dict(nnx.state(model, nnx.Param)),
    )
    for rslora in (False, True):
        config = dataclasses.replace(lora, rslora=rslora)
        folder = save_adapter(tmp_path / f"{rslora}", "GPT2LMHeadModel", GPT2, trained, config)
        tensors = load_file(folder / "adapter_model.safetensors")
        stem = "base_model.model.transformer.h.1.attn.c_attn"
        assert tensors[f"{stem}.lora_A.weight"].shape == (4, 20)
        assert tensors[f"{stem}.lora_B.weight"].shape == (60, 4)
        back = read_adapter(folder, base.imported)
        read = with_adapter(base.imported, back, merge=True)
        assert_near(read.params, merge_lora(trained, config))
        # Written once more it is the same: the factors A are equal now.
        again = save_adapter(
            tmp_path / f"{rslora} again",
            "GPT2LMHeadModel",
            GPT2,
            with_adapter(base.imported, back).params,
            back.config,
        )
        assert_same_files(folder, again)


@pytest.mark.parametrize(
    ("names", "config"),
    [
        (modules("self_attn.q_proj", layers=[0, 2]), {"layers_to_transform": [0, 2]}),
        (modules("self_attn.q_proj", layers=[1]), {"layers_to_transform": 1}),
        (modules("self_attn.q_proj", layers=[1]),
         {"layers_to_transform": [1], "layers_pattern": "layers"}),
        (modules("mlp.up_proj", layers=[0, 1]), {"target_modules": r".*\.layers\.[01].*up_proj"}),
        (modules("mlp.up_proj", layers=[0, 1]), {"exclude_modules": ["layers.2.mlp.up_proj"]}),
        (modules(*ALL), {"target_modules": "all-linear"}),
        (modules("self_attn.q_proj"), {"target_modules": ["q_proj", "c_attn"]}),
    ],
)  # fmt: skip
def test_the_layers_that_an_adapter_leaves_out_are_not_changed(llama, tmp_path, names, config):
    tensors = factors(llama, names)
    adapter = read_adapter(save(tmp_path / "a", tensors, **config), llama.imported)
    want = merged(llama, tensors, 4, tmp_path / "merged")
    assert_near(with_adapter(llama.imported, adapter, merge=True).params, want.params)
    a, b = adapter.factors.values() if len(adapter.factors) == 2 else (None, None)
    if a is not None and len(names) < 3:
        for layer in range(3):
            there = f"model.layers.{layer}.{names[0].split('.', 3)[3]}" in names
            assert bool(a[layer].any()) == bool(b[layer].any()) == there


def test_ranks_and_scales_by_module(llama, tmp_path):
    tensors = {
        **factors(llama, modules("self_attn.q_proj"), rank=2),
        **factors(llama, modules("self_attn.k_proj", "mlp.up_proj"), rank=3),
    }
    folder = save(
        tmp_path / "a", tensors,
        rank_pattern={"q_proj": 2}, alpha_pattern={r"model.layers.\d+.mlp.up_proj": 1.5},
    )  # fmt: skip
    adapter = read_adapter(folder, llama.imported)
    scales = {n: adapter.config.scale_of(f"layers/{n}/kernel")
              for n in ("attention/q", "attention/k", "mlp/up")}  # fmt: skip
    assert scales == {"attention/q": 6, "attention/k": 4, "mlp/up": 0.5}
    kept = with_adapter(llama.imported, adapter)
    again = save_adapter(tmp_path / "again", "LlamaForCausalLM", LLAMA, kept.params, adapter.config)
    assert_same_files(folder, again)
    assert read_adapter(again, llama.imported).config == adapter.config


def test_a_head_that_was_saved_whole(llama, tmp_path):
    head = np.random.default_rng(7).normal(size=(24, 28)).astype(np.float32)
    tensors = factors(llama, modules("self_attn.q_proj"))
    tensors["base_model.model.lm_head.weight"] = head
    folder = save(tmp_path / "a", tensors, modules_to_save=["lm_head"])
    adapter = read_adapter(folder, llama.imported)
    assert list(adapter.whole) == ["lm_head/kernel"]
    kept = with_adapter(llama.imported, adapter)
    np.testing.assert_array_equal(kept.params["lm_head"]["kernel"], head.T)
    again = save_adapter(
        tmp_path / "again", "LlamaForCausalLM", LLAMA, kept.params, adapter.config,
        whole=adapter.whole,
    )  # fmt: skip
    assert_same_files(folder, again)
    assert json.loads((again / "adapter_config.json").read_text())["modules_to_save"] == ["lm_head"]


def test_lora_of_the_head_is_merged_and_not_kept(llama, tmp_path):
    tensors = factors(llama, ["lm_head"])
    adapter = read_adapter(save(tmp_path / "a", tensors), llama.imported)
    want = merged(llama, tensors, 4, tmp_path / "merged")
    assert_near(with_adapter(llama.imported, adapter, merge=True).params, want.params)
    with pytest.raises(CheckpointError, match=r"cannot be kept as LoRA in lm_head/kernel; .*merge"):
        with_adapter(llama.imported, adapter)


@pytest.mark.parametrize(
    ("name", "layer", "projector"),
    [
        ("LlavaForConditionalGeneration", "model.language_model.layers",
         "model.multi_modal_projector.linear_2"),
        ("LlavaLlamaForCausalLM", "model.layers", "model.mm_projector.2"),
    ],
)  # fmt: skip
def test_the_projector_that_llava_trains_beside_lora(bases, tmp_path, name, layer, projector):
    torch = pytest.importorskip("torch")
    base = bases[name]
    names = modules("self_attn.q_proj", layers=2, layer=layer)
    # LLaVA's own list: these ends stand in the vision tower too, which has no LoRA.
    targets = r".*language_model.*q_proj" if "Generation" in name else ["q_proj"]
    folder = save(tmp_path / "a", factors(base, names), target_modules=targets)
    bias = np.arange(28, dtype=np.float32)
    beside = {f"base_model.model.{projector}.bias": torch.from_numpy(bias)}
    torch.save(beside, folder / "non_lora_trainables.bin")
    with pytest.raises(CheckpointError, match=r"not opened in .*non_lora_trainables\.bin"):
        read_adapter(folder, base.imported)
    adapter = read_adapter(folder, base.imported, allow_pickle=True)
    assert list(adapter.whole) == ["connector/fc2/bias"]
    assert {p.rpartition("/")[0] for p in adapter.factors} == {"decoder/layers/attention/q"}
    merged_ = with_adapter(base.imported, adapter, merge=True)
    np.testing.assert_array_equal(merged_.params["connector"]["fc2"]["bias"], bias)


@pytest.mark.parametrize(
    "spelled", ["language_model.model.layers.{}.self_attn.q_proj.lora_{}.weight",
                "model.language_model.layers.{}.self_attn.q_proj.lora_{}.weight"],
)  # fmt: skip
def test_names_as_other_versions_spell_them_and_half_precision(bases, tmp_path, spelled):
    base = bases["LlavaForConditionalGeneration"]
    rng = np.random.default_rng(8)
    tensors = {
        f"base_model.model.{spelled.format(i, f)}": rng.normal(size=shape).astype(np.float16)
        for i in range(2)
        for f, shape in {"A": (3, 28), "B": (28, 3)}.items()
    }
    folder = save(tmp_path / "a", tensors, target_modules=r".*language_model.*q_proj")
    adapter = read_adapter(folder, base.imported)
    a = adapter.factors["decoder/layers/attention/q/kernel_lora_a"]
    assert a.dtype == jnp.float32
    for i in range(2):
        there = tensors[f"base_model.model.{spelled.format(i, 'A')}"]
        np.testing.assert_array_equal(a[i], there.T.astype(np.float32))


def test_factors_are_split_as_their_kernels_are(bases, tmp_path):
    base = bases["LlavaForConditionalGeneration"]
    mesh = make_mesh(MeshConfig(2, 2, 2))
    placed = load_pretrained(
        base.folder, place=lambda params: resolve(params, RULES["fsdp_tensor"], mesh)
    )
    names = modules(*ALL, layers=2, layer="model.language_model.layers")
    folder = save(tmp_path / "a", factors(base, names),
                  target_modules=r".*language_model.*_proj")  # fmt: skip
    adapter = read_adapter(folder, placed)
    specs = {path: x.sharding.spec for path, x in adapter.factors.items()}
    assert specs["decoder/layers/mlp/down/kernel_lora_a"] == P(None, ("tensor", "fsdp"))
    assert specs["decoder/layers/mlp/down/kernel_lora_b"] == P(None, None, "fsdp")
    whole = with_adapter(placed, adapter)
    for path, sharding in flat(resolve(whole.params, RULES["fsdp_tensor"], mesh)).items():
        x = flat(whole.params)[path]
        assert x.sharding.is_equivalent_to(sharding, x.ndim), path
    one = with_adapter(base.imported, read_adapter(folder, base.imported), merge=True)
    eight = with_adapter(placed, adapter, merge=True)
    assert_near(eight.params, one.params)
    for path, x in flat(eight.params).items():
        assert x.sharding.is_equivalent_to(flat(placed.params)[path].sharding, x.ndim), path


Q = modules("self_attn.q_proj")
LORA_Q = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"


def wide(llama: Base) -> Arrays:
    return {k: np.zeros((v.shape[0], 32), "f4") if "lora_A" in k else v
            for k, v in factors(llama, Q).items()}  # fmt: skip


def without(tensors: Arrays, *names: str) -> Arrays:
    return {k: v for k, v in tensors.items() if k not in names}


WRONG = {
    "more layers": (
        lambda b: factors(b, Q) | {LORA_Q.format(3, f): np.zeros((3, 28), "f4") for f in "AB"},
        {},
        r"the adapter and the base do not fit in .*; expected an adapter of this LlamaForCausalLM;"
        r" found one of some/base: unused \(2\): model\.layers\.3\.self_attn\.q_proj\.lora_A",
    ),
    "another width": (
        wide, {},
        r"do not fit .*another shape \(3\): model\.layers\.0\.self_attn\.q_proj\.lora_A\.weight "
        r"\(3, 32\) \(model: layers/attention/q/kernel_lora_a \(28, 3\)\)",
    ),
    "other names": (
        lambda b: {"base_model.model.transformer.h.0.attn.c_attn.lora_A.weight": np.zeros((3, 9))},
        {}, r"do not fit .*unused \(1\): transformer\.h\.0\.attn\.c_attn\.lora_A\.weight",
    ),
    "another rank": (lambda b: factors(b, Q, rank=4), {}, r"do not fit .*another shape \(6\)"),
    "a lost layer": (
        lambda b: factors(b, modules("self_attn.q_proj", layers=[0, 2])), {},
        r"do not fit .*missing there \(2\): model\.layers\.1\.self_attn\.q_proj\.lora_A\.weight",
    ),
    "half a layer": (
        lambda b: without(factors(b, Q), LORA_Q.format(1, "B")), {},
        r"do not fit .*missing there \(1\): model\.layers\.1\.self_attn\.q_proj\.lora_B\.weight",
    ),
    "a lost module": (
        lambda b: factors(b, Q), {"target_modules": ["q_proj", "up_proj"]},
        r"config and its tensors do not agree in .*; found no tensors of target_modules: up_proj",
    ),
    "a module too many": (
        lambda b: factors(b, modules("self_attn.q_proj", "mlp.up_proj")),
        {"target_modules": ["q_proj"]},
        r"tensors that target_modules does not take: model\.layers\.0\.mlp\.up_proj, ",
    ),
    "a layer too many": (
        lambda b: factors(b, Q), {"layers_to_transform": [0, 1]},
        r"tensors that target_modules does not take: model\.layers\.2\.self_attn\.q_proj",
    ),
    "a lost head": (
        lambda b: factors(b, Q), {"modules_to_save": ["lm_head"]},
        "no tensors of modules_to_save: lm_head",
    ),
    "a head of another vocabulary": (
        lambda b: factors(b, Q) | {"base_model.model.lm_head.weight": np.zeros((25, 28), "f4")},
        {"modules_to_save": ["lm_head"]},
        r"another shape \(1\): lm_head\.weight \(25, 28\) \(model: lm_head/kernel \(28, 24\)\)",
    ),
    "a saved module that the base lacks": (
        lambda b: factors(b, Q) | {"base_model.model.score.weight": np.zeros((2, 28), "f4")},
        {"modules_to_save": ["score"]}, "no tensors of modules_to_save: score",
    ),
    "LoRA of an embedding": (
        lambda b: factors(b, Q) | {
            "base_model.model.model.embed_tokens.lora_embedding_A": np.zeros((3, 24), "f4")},
        {}, r"unused \(1\): model\.embed_tokens\.lora_embedding_A",
    ),
    "whole numbers": (
        lambda b: {k: v.astype(np.int8) for k, v in factors(b, Q).items()}, {},
        r"no floating-point numbers in .*found base_model.*lora_A\.weight \(int8\), ",
    ),
    "nothing": (lambda b: {}, {}, "an adapter without LoRA"),
    "only a head": (
        lambda b: {"base_model.model.lm_head.weight": np.zeros((24, 28), "f4")}, {},
        "an adapter without LoRA",
    ),
    "ranks by layer": (
        lambda b: factors(b, Q), {"alpha_pattern": {"layers.1.self_attn.q_proj": 1}},
        r"tells layers apart in .*one rank and alpha for model\.layers\.\{\}\.self_attn\.q_proj",
    ),
}  # fmt: skip

REFUSED = [
    ({"use_dora": True}, "not supported in .*: use_dora; expected nothing; found true"),
    ({"bias": "all"}, "not supported in .*: bias; expected 'none'; found 'all'"),
    ({"lora_bias": True}, "not supported in .*: lora_bias; "),
    ({"init_lora_weights": "pissa"}, "not supported in .*: init_lora_weights; .*found 'pissa'"),
    ({"peft_type": "IA3"}, "not supported in .*: peft_type; expected 'LORA'; found 'IA3'"),
    ({"layer_replication": [[0, 2]]}, "not supported in .*: layer_replication; "),
    ({"trainable_token_indices": [3]}, r"not supported in .*: trainable_token_indices; .*\[3\]"),
    ({"a_key_yet_to_come": 2}, "not supported in .*: a_key_yet_to_come; "),
    ({"r": 0}, "a wrong value in .*: r; expected int > 0; found 0"),
    ({"lora_alpha": None}, "a wrong value in .*: lora_alpha; expected float > 0; found null"),
    ({"target_modules": "("}, r"a wrong value in .*: target_modules; .*a regular expression \("),
    ({"target_modules": [3]}, "a wrong value in .*: target_modules; expected names or a regular"),
    ({"rank_pattern": [3]}, "a wrong value in .*: rank_pattern; expected patterns and numbers"),
    ({"layers_to_transform": "1"}, "a wrong value in .*: layers_to_transform; expected numbers"),
]


@pytest.mark.parametrize(("config", "line"), REFUSED, ids=[next(iter(c)) for c, _ in REFUSED])
def test_what_is_not_computed_is_refused_by_its_key(llama, tmp_path, config, line):
    folder = save(tmp_path / "adapter", factors(llama, Q), **config)
    with pytest.raises(CheckpointError, match=line) as error:
        read_adapter(folder, llama.imported)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_is_refused_in_one_line(llama, tmp_path, wrong):
    tensors, config, line = WRONG[wrong]
    folder = save(tmp_path / "adapter", tensors(llama), **config)
    with pytest.raises(CheckpointError, match=line) as error:
        read_adapter(folder, llama.imported)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_files_that_are_not_an_adapter(llama, tmp_path):
    with pytest.raises(CheckpointError, match=r"a file is missing .*expected adapter_config\.json"):
        read_adapter(tmp_path, llama.imported)
    folder = save(tmp_path / "a", factors(llama, Q))
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="a truncated checkpoint in "):
        read_adapter(folder, llama.imported)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"no adapter weights in .*adapter_model\.bin"):
        read_adapter(folder, llama.imported)
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match="a pickle can run any program"):
        read_adapter(folder, llama.imported)


def test_adapters_are_not_stacked(llama, tmp_path):
    folder = save(tmp_path / "a", factors(llama, Q))
    kept = with_adapter(llama.imported, read_adapter(folder, llama.imported))
    with pytest.raises(CheckpointError, match=r"the base has LoRA already in .*merge that first"):
        read_adapter(folder, kept)


def test_what_cannot_be_written_is_refused(llama, tmp_path):
    folder = save(tmp_path / "a", factors(llama, Q))
    adapter = read_adapter(folder, llama.imported)
    params, config = with_adapter(llama.imported, adapter).params, adapter.config

    def write(name="LlamaForCausalLM", of=LLAMA, params=params, lora=config, to="b", **more):
        return save_adapter(tmp_path / to, name, of, params, lora, **more)

    for line, arguments in {
        "the folder holds an adapter in .*found adapter_config.json": {"to": "a"},
        "an unknown model in architecture; .*found 'Llama'": {"name": "Llama"},
        "no adapter of this model in GPT2LMHeadModel; .*found layers/mlp/gate/kernel": {
            "name": "GPT2LMHeadModel",
            "of": GPT2,
            "params": {"layers": {"mlp": {"gate": params["layers"]["attention"]["q"]}}},
        },
        "no adapter of this model .*found no LoRA": {"params": llama.imported.params},
        "no adapter of this model .*found score/kernel": {"whole": ["score/kernel"]},
        "LoRA of another config in layers/attention/q/kernel; expected rank 5; found 3": {
            "lora": dataclasses.replace(config, rank=5)
        },
    }.items():
        with pytest.raises(CheckpointError, match=line):
            write(**arguments)
    assert not (tmp_path / "b").exists()
