"""OpenCLIP towers: a Hugging Face one with its arrays renamed and fused must say the same."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from rsvlm_jax.config import CheckpointError
from rsvlm_jax.core import flat
from rsvlm_jax.interop.huggingface import load_pretrained, save_pretrained
from rsvlm_jax.interop.openclip import config_of, load_openclip, table
from rsvlm_jax.interop.rows import write

sys.path.append(str(Path(__file__).parents[1] / "parity"))
from cases_vision import CASES
from reference import Arrays, Reference, reference

TEXT = {
    "positional_embedding": (5, 4),
    "text_projection": (4, 5),
    "logit_scale": (),
    "token_embedding.weight": (9, 4),
    "transformer.resblocks.0.attn.in_proj_weight": (12, 4),
    "ln_final.weight": (4,),
}


@pytest.fixture(scope="module")
def known() -> Reference:
    return reference(next(c for c in CASES if c.name == "clip_quick_gelu"))


def fused(weights: Arrays) -> Arrays:
    """CLIPVisionModelWithProjection's arrays by OpenCLIP's names, with a text tower of noise."""
    rng = np.random.default_rng(0)
    out = {k: rng.standard_normal(s).astype(np.float32) for k, s in TEXT.items()}
    tops = {
        "embeddings.class_embedding": "class_embedding",
        "embeddings.patch_embedding.weight": "conv1.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        **{f"pre_layrnorm.{k}": f"ln_pre.{k}" for k in ("weight", "bias")},
        **{f"post_layernorm.{k}": f"ln_post.{k}" for k in ("weight", "bias")},
    }
    for theirs, ours in tops.items():
        out[f"visual.{ours}"] = weights[f"vision_model.{theirs}"]
    out["visual.proj"] = weights["visual_projection.weight"].T
    inner = {
        "layer_norm1": "ln_1",
        "self_attn.out_proj": "attn.out_proj",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    for i in range(3):
        layer, block = f"vision_model.encoder.layers.{i}", f"visual.transformer.resblocks.{i}"
        for kind in ("weight", "bias"):
            for theirs, ours in inner.items():
                out[f"{block}.{ours}.{kind}"] = weights[f"{layer}.{theirs}.{kind}"]
            parts = [weights[f"{layer}.self_attn.{x}_proj.{kind}"] for x in "qkv"]
            out[f"{block}.attn.in_proj_{kind}"] = np.concatenate(parts)
    return {k: np.asarray(v, order="C") for k, v in out.items()}


def saved(path: Path, arrays: Arrays) -> Path:
    save_file(arrays, path, metadata={"format": "pt"})
    return path


def test_the_same_vectors_as_hugging_face(known: Reference, tmp_path: Path) -> None:
    file = saved(tmp_path / "open_clip_model.safetensors", fused(known.weights))
    one = load_openclip(file, activation="quick_gelu", heads=7)
    hf = load_pretrained(known.save(tmp_path / "hf"))
    assert one.config == hf.config
    assert set(one.report.ignored) == set(TEXT)
    ours, theirs = flat(one.params), flat(hf.params)
    assert ours.keys() == theirs.keys()
    for path, x in ours.items():
        np.testing.assert_array_equal(x, theirs[path], err_msg=path)
    made = nnx.jit(lambda m, x: m.embed_image(x))(one.model, jnp.asarray(known.inputs["wide"]))
    np.testing.assert_allclose(made, known.outputs["wide:vector"], rtol=0, atol=1e-5)


def test_the_table_reads_and_writes(known: Reference, tmp_path: Path) -> None:
    arrays = fused(known.weights)
    one = load_openclip(saved(tmp_path / "a.safetensors", arrays), heads=7)
    assert one.config.activation == "gelu"
    back = dict(write(table(one.config), flat(one.params)))
    assert back.keys() == arrays.keys() - TEXT.keys()
    for name, x in back.items():
        np.testing.assert_array_equal(x, arrays[name], err_msg=name)
    out = save_pretrained(tmp_path / "out", "CLIPVisionModelWithProjection", one.config, one.params)
    again = load_pretrained(out)
    assert again.config == one.config
    for path, x in flat(again.params).items():
        np.testing.assert_array_equal(x, flat(one.params)[path], err_msg=path)


def test_what_training_scripts_wrap_around_a_model(known: Reference, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    arrays = fused(known.weights)
    named = {f"module.{k}": torch.from_numpy(v) for k, v in arrays.items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": named}, tmp_path / "epoch_3.pt")
    with pytest.raises(CheckpointError, match="a pickle can run any program"):
        load_openclip(tmp_path / "epoch_3.pt", heads=7)
    one = load_openclip(tmp_path / "epoch_3.pt", heads=7, allow_pickle=True)
    np.testing.assert_array_equal(one.params["cls"], arrays["visual.class_embedding"])


def shapes(
    width: int, layers: int, patch: int, size: int, mlp: int, joint: int
) -> dict[str, tuple[int, ...]]:
    block = "visual.transformer.resblocks.{}.mlp.c_fc.weight"
    return {
        "visual.conv1.weight": (width, 3, patch, patch),
        "visual.positional_embedding": ((size // patch) ** 2 + 1, width),
        "visual.proj": (width, joint),
        **{block.format(i): (mlp, width) for i in range(layers)},
    }


@pytest.mark.parametrize(
    ("sizes", "heads"),
    [
        ((768, 12, 32, 224, 3072, 512), 12),  # ViT-B-32
        ((1024, 24, 14, 224, 4096, 768), 16),  # ViT-L-14
        ((1280, 32, 14, 224, 5120, 1024), 16),  # ViT-H-14: heads of 80
    ],
)
def test_the_config_comes_from_the_shapes(sizes: tuple[int, ...], heads: int) -> None:
    config = config_of(shapes(*sizes))
    width, layers, patch, size, mlp, joint = sizes
    assert (config.width, config.layers, config.patch_size) == (width, layers, patch)
    assert (config.image_size, config.mlp_dim, config.projection_dim) == (size, mlp, joint)
    assert config.heads == heads
    assert config.activation == "gelu"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("visual.layer1.0.conv1.weight", r"not supported: a ResNet \(RN50 and its kin\) in"),
        ("visual.trunk.blocks.0.norm1.weight", "not supported: a tower of timm in"),
        ("visual.attn_pool.query", "not supported: a tower with an attention pooler"),
    ],
)
def test_other_towers_are_refused_by_name(name: str, line: str, tmp_path: Path) -> None:
    arrays = {name: np.zeros((2, 2), np.float32), "logit_scale": np.zeros(1, np.float32)}
    with pytest.raises(CheckpointError, match=line):
        load_openclip(saved(tmp_path / "a.safetensors", arrays))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"visual.proj": None}, "expected visual.proj of 2 axes; found nothing"),
        ({"visual.positional_embedding": (7, 768)}, r"1 \+ n \* n positions; found 3 and 7"),
        ({"visual.conv1.weight": (768, 4, 32, 32)}, "found 4 and 50"),
    ],
)
def test_a_state_dict_of_no_tower(change: dict[str, Any], line: str) -> None:
    found = {**shapes(768, 2, 32, 224, 3072, 512), **change}
    with pytest.raises(CheckpointError, match=line):
        config_of({k: v for k, v in found.items() if v is not None})


def test_a_renamed_layer_is_named(known: Reference, tmp_path: Path) -> None:
    arrays = fused(known.weights)
    arrays["visual.ln_last.weight"] = arrays.pop("visual.ln_post.weight")
    file = saved(tmp_path / "a.safetensors", arrays)
    with pytest.raises(CheckpointError, match=r"missing there .*ln_post.* unused .*ln_last"):
        load_openclip(file, heads=7)


def test_parameters_have_the_dtype_that_is_asked_for(known: Reference, tmp_path: Path) -> None:
    file = saved(tmp_path / "a.safetensors", fused(known.weights))
    one = load_openclip(file, heads=7, dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(one.params)} == {jnp.dtype("bfloat16")}
