"""LLaVA's own layout: towers in and beside it, GeoChat's table, projectors, what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rsvlm_jax.config import CheckpointError, ConnectorConfig, ViTConfig
from rsvlm_jax.core import flat
from rsvlm_jax.interop.families.llava_original import GEOCHAT, LLAVA_LLAMA
from rsvlm_jax.interop.huggingface import load_pretrained, save_pretrained
from rsvlm_jax.interop.llava_original import load_llava, load_projector
from rsvlm_jax.nn.position import resize_stored

VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
CONFIG: dict[str, Any] = {
    "architectures": ["LlavaLlamaForCausalLM"],
    "model_type": "llava_llama",
    "vocab_size": 30,
    "hidden_size": 12,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "mm_projector_type": "mlp2x_gelu",
    "mm_hidden_size": 8,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_vision_config": VISION,
}
TOWER = "model.vision_tower.vision_tower."


def weights(positions: int = 5, projector: tuple[int, ...] = (0, 2)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    d, m, v = 12, 16, 8
    shapes = {"model.embed_tokens": (30, d), "lm_head": (30, d), "model.norm": (d,)}
    for i in range(2):
        p = f"model.layers.{i}."
        shapes |= {p + f"self_attn.{n}_proj": (4 if n in "kv" else d, d) for n in "qkvo"}
        shapes |= {p + f"mlp.{n}_proj": (m, d) for n in ("gate", "up")}
        shapes |= {p + "mlp.down_proj": (d, m), p + "input_layernorm": (d,)}
        shapes |= {p + "post_attention_layernorm": (d,)}
    made = {f"{k}.weight": s for k, s in shapes.items()}
    for n, i in enumerate(projector):
        made |= {f"model.mm_projector.{i}.weight": (d, d if n else v)}
        made |= {f"model.mm_projector.{i}.bias": (d,)}
    p = f"{TOWER}vision_model."
    made |= {
        p + "embeddings.class_embedding": (v,),
        p + "embeddings.patch_embedding.weight": (v, 3, 8, 8),
        p + "embeddings.position_embedding.weight": (positions, v),
    }
    norms = [p + "pre_layrnorm", p + "post_layernorm"]
    linears = {}
    for i in range(2):
        layer = f"{p}encoder.layers.{i}."
        norms += [layer + "layer_norm1", layer + "layer_norm2"]
        linears |= {f"{layer}self_attn.{n}_proj": (v, v) for n in ("q", "k", "v", "out")}
        linears |= {layer + "mlp.fc1": (12, v), layer + "mlp.fc2": (v, 12)}
    made |= {f"{n}.{end}": (v,) for n in norms for end in ("weight", "bias")}
    made |= {f"{n}.weight": s for n, s in linears.items()}
    made |= {f"{n}.bias": s[:1] for n, s in linears.items()}
    return {k: rng.standard_normal(s).astype(np.float32) for k, s in made.items()}


def save(folder: Path, arrays: dict[str, np.ndarray], **changes: Any) -> Path:
    folder.mkdir(parents=True)
    config = {k: v for k, v in {**CONFIG, **changes}.items() if v is not None}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(arrays, folder / "model.safetensors")
    return folder


def split(arrays: dict[str, np.ndarray]) -> tuple[dict, dict]:
    """Without the tower, and the tower as a bare CLIPVisionModel."""
    tower = {k.removeprefix(TOWER): v for k, v in arrays.items() if k.startswith(TOWER)}
    return {k: v for k, v in arrays.items() if not k.startswith(TOWER)}, tower


def same_bits(a: Any, b: Any) -> None:
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys()
    for path, x in a.items():
        np.testing.assert_array_equal(np.asarray(x), np.asarray(b[path]), err_msg=path)


def test_reads_what_it_writes_and_writes_what_it_reads(tmp_path: Path) -> None:
    arrays = weights()
    one = load_llava(save(tmp_path / "in", arrays))
    assert one.config.image_token == 30
    assert one.config.model.vision.feature_layers == (-2,)
    assert one.config.model.vision.out_width == 8
    out = save_pretrained(tmp_path / "out", LLAVA_LLAMA.architecture, one.config, one.params)
    again = load_file(out / "model.safetensors")
    assert again.keys() == arrays.keys()
    for key, value in again.items():
        np.testing.assert_array_equal(value, arrays[key], err_msg=key)
    both = load_llava(out)
    assert both.config == one.config
    same_bits(one.params, both.params)


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": None},
        {"architectures": None, "model_type": "llava"},
        {"model_type": "llava"},
    ],
)
def test_older_configs_are_told_from_hugging_faces(changes: dict, tmp_path: Path) -> None:
    folder = save(tmp_path / "in", weights(), **changes)
    assert load_llava(folder).family is LLAVA_LLAMA


def test_through_hugging_faces_layout_and_back(tmp_path: Path) -> None:
    one = load_llava(save(tmp_path / "in", weights()))
    out = save_pretrained(tmp_path / "hf", "LlavaForConditionalGeneration", one.config, one.params)
    hf = load_pretrained(out)
    assert hf.config == one.config
    same_bits(one.params, hf.params)


def test_a_tower_from_its_own_directory(tmp_path: Path) -> None:
    rest, tower = split(weights())
    whole = load_llava(save(tmp_path / "whole", weights()))
    alone = save(tmp_path / "alone", rest, mm_vision_config=None)
    vision = tmp_path / "clip"
    vision.mkdir()
    save_file(tower, vision / "model.safetensors")
    architecture = {"architectures": ["CLIPVisionModel"]}
    (vision / "config.json").write_text(json.dumps({**VISION, **architecture}))
    one = load_llava(alone, vision=vision)
    assert one.config == whole.config
    same_bits(one.params, whole.params)


def test_a_tower_that_is_nowhere(tmp_path: Path) -> None:
    folder = save(tmp_path / "in", split(weights())[0])
    line = (
        rf"no vision tower in {re.escape(str(folder))}; .*patch14-336'; "
        r"give the directory of that tower as vision="
    )
    with pytest.raises(CheckpointError, match=line):
        load_llava(folder)


def test_a_tower_of_another_kind(tmp_path: Path) -> None:
    vision = tmp_path / "other"
    vision.mkdir()
    (vision / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    folder = save(tmp_path / "in", split(weights())[0])
    with pytest.raises(
        CheckpointError, match=r"another tower than LLaVA's .* found LlamaForCausalLM"
    ):
        load_llava(folder, vision=vision)


REFUSED = {
    "an unknown tower": (
        {"mm_vision_tower": "laboratory/tower", "mm_vision_config": None},
        r"unknown vision tower.*found 'laboratory/tower'; give its directory as vision=",
    ),
    "a tower of another width": ({"mm_hidden_size": 9}, r"mm_hidden_size; expected 8.*found 9"),
    "a projector of another kind": (
        {"mm_projector_type": "mlp2x_res1x_gelu"},
        r"mm_projector_type; .*mlp2x_res1x_gelu",
    ),
    "LLaVA-NeXT's tiles": ({"mm_patch_merge_type": "spatial_unpad"}, "mm_patch_merge_type"),
    "a resampler": ({"mm_resampler_type": "perceiver"}, "mm_resampler_type"),
    "another feature": ({"mm_vision_select_feature": "cls"}, "mm_vision_select_feature"),
    "a renamed layer": ({"num_hidden_layers": 3}, r"model\.layers\.2\.input_layernorm"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str, tmp_path: Path) -> None:
    changes, line = REFUSED[name]
    folder = save(tmp_path / "in", weights(), **changes)
    with pytest.raises(CheckpointError, match=line) as e:
        load_llava(folder)
    assert "\n" not in str(e.value)
    assert str(folder) in str(e.value)


def test_published_towers_by_name() -> None:
    """LLaVA-1.5-7B's config.json, as published, as far as it is read."""
    config = {
        k: v for k, v in CONFIG.items() if k.startswith("mm_") and k != "mm_vision_config"
    } | {"vocab_size": 32000, "mm_hidden_size": 1024, "rms_norm_eps": 1e-5}
    made = LLAVA_LLAMA.read_config(config).model
    assert made.vision == ViTConfig(pool=True)
    assert (made.frame_tokens, made.frame_width) == (576, 1024)
    made = GEOCHAT.read_config(config).model
    assert made.vision.image_size == 504
    assert made.frame_tokens == 1296


@pytest.mark.parametrize("stored", [5, 10])
def test_geochat_reads_larger_images(stored: int, tmp_path: Path) -> None:
    """2 x 2 places become 3 x 3, as 24 x 24 become 36 x 36; those that are there already stay."""
    arrays = weights(stored)
    changes = {"architectures": ["GeoChatLlamaForCausalLM"], "model_type": "geochat"}
    one = load_llava(save(tmp_path / "in", arrays, **changes))
    assert one.config.model.vision.image_size == 24
    table = np.asarray(one.params["vision"]["position"]["embedding"])
    theirs = arrays[f"{TOWER}vision_model.embeddings.position_embedding.weight"]
    wanted = resize_stored(theirs, (3, 3), "bicubic_align_corners")
    np.testing.assert_array_equal(table, wanted)
    if stored == 5:  # corners are kept
        np.testing.assert_allclose(table[[0, 1, 3, 7, 9]], theirs, atol=1e-6)
    out = save_pretrained(tmp_path / "out", GEOCHAT.architecture, one.config, one.params)
    hf = save_pretrained(tmp_path / "hf", "LlavaForConditionalGeneration", one.config, one.params)
    for again in (load_llava(out), load_pretrained(hf)):
        assert again.config == one.config
        same_bits(one.params, again.params)


def test_geochat_with_a_table_of_no_known_size(tmp_path: Path) -> None:
    changes = {"architectures": ["GeoChatLlamaForCausalLM"], "model_type": "geochat"}
    folder = save(tmp_path / "in", weights(17), **changes)
    with pytest.raises(CheckpointError, match=r"another shape \(1\): .*position_embedding"):
        load_llava(folder)


@pytest.mark.parametrize("prefix", ["model.mm_projector.", "mm_projector."])
def test_a_projector_by_itself(prefix: str, tmp_path: Path) -> None:
    file = tmp_path / "mm_projector.safetensors"
    arrays = {k: v for k, v in weights().items() if "mm_projector" in k}
    save_file({k.replace("model.mm_projector.", prefix): v for k, v in arrays.items()}, file)
    one = load_projector(file)
    assert one.config.connector == ConnectorConfig("mlp2x_gelu")
    assert (one.config.d_in, one.config.d_out) == (8, 12)
    kernel = arrays["model.mm_projector.0.weight"]
    np.testing.assert_array_equal(one.params["fc1"]["kernel"], kernel.T)


def test_projectors_of_other_lengths(tmp_path: Path) -> None:
    arrays = {k: v for k, v in weights(projector=(0, 2, 4)).items() if "mm_projector" in k}
    save_file(arrays, tmp_path / "three.safetensors")
    assert load_projector(tmp_path / "three.safetensors").config.connector.layers == 3
    ends = ("weight", "bias")
    linear = {f"model.mm_projector.{e}": arrays[f"model.mm_projector.0.{e}"] for e in ends}
    save_file(linear, tmp_path / "one.safetensors")
    assert load_projector(tmp_path / "one.safetensors").config.connector.kind == "linear"


def test_not_a_projector(tmp_path: Path) -> None:
    save_file({"some.weight": np.zeros((2, 2), np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"not a projector.*found some\.weight"):
        load_projector(tmp_path / "x.safetensors")


def test_a_pickled_projector_needs_the_flag(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch")
    arrays = {k: v for k, v in weights().items() if "mm_projector" in k}
    file = tmp_path / "mm_projector.bin"
    torch.save({k: torch.from_numpy(v) for k, v in arrays.items()}, file)
    with pytest.raises(CheckpointError, match="pickle"):
        load_projector(file)
    one = load_projector(file, allow_pickle=True)
    np.testing.assert_array_equal(one.params["fc2"]["bias"], arrays["model.mm_projector.2.bias"])
