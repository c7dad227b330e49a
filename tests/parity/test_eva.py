"""`EVA_G`: a DINOv2 whose layer scales are 1 is the vision tower of InstructBLIP and MiniGPT-v2."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from cases_eva import CASES
from compare import Record, same_states
from flax import nnx
from reference import Arrays, reference

from rsvlm_jax.config import EVA_G
from rsvlm_jax.core import flat, map_with_path
from rsvlm_jax.models.towers import vision_tower


def by_path(disk: Arrays, layers: int) -> Arrays:
    """The weights by the paths of our tower."""

    def each(name: str) -> np.ndarray:
        return np.stack([disk[f"encoder.layers.{i}.{name}"] for i in range(layers)])

    patch = disk["embeddings.patch_embedding.weight"]
    made = {
        "cls": disk["embeddings.class_embedding"].reshape(-1),
        "patch/kernel": patch.transpose(2, 3, 1, 0).reshape(-1, patch.shape[0]),
        "patch/bias": disk["embeddings.patch_embedding.bias"],
        "position/embedding": disk["embeddings.position_embedding"][0],
    }
    weights = np.split(each("self_attn.qkv.weight"), 3, axis=1)
    biases = np.split(each("self_attn.qkv.bias"), 3, axis=1)
    for name, kernel, bias in zip("qkv", weights, biases, strict=True):
        made[f"layers/attention/{name}/kernel"] = kernel.transpose(0, 2, 1)
        made[f"layers/attention/{name}/bias"] = bias
    for ours, theirs in (
        ("attention/o", "self_attn.projection"),
        ("mlp/fc1", "mlp.fc1"),
        ("mlp/fc2", "mlp.fc2"),
    ):
        made[f"layers/{ours}/kernel"] = each(f"{theirs}.weight").transpose(0, 2, 1)
        made[f"layers/{ours}/bias"] = each(f"{theirs}.bias")
    for i in (1, 2):
        made[f"layers/norm{i}/scale"] = each(f"layer_norm{i}.weight")
        made[f"layers/norm{i}/bias"] = each(f"layer_norm{i}.bias")
    return made


def test_every_token(record_property: Record):
    found = reference(CASES[0])
    of = CASES[0].config
    config = dataclasses.replace(
        EVA_G,
        image_size=of["image_size"],
        table_size=of["image_size"],
        patch_size=of["patch_size"],
        width=of["hidden_size"],
        layers=of["num_hidden_layers"],
        heads=of["num_attention_heads"],
        mlp_dim=of["intermediate_size"],
    )
    tower = vision_tower(config, rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(tower, nnx.Param, ...)
    params = nnx.to_pure_dict(params)
    weights = by_path(found.weights, config.layers)
    assert flat(params).keys() - weights.keys() == {"layers/scale1", "layers/scale2"}  # ones
    params = map_with_path(lambda path, x: jnp.asarray(weights.get(path, x)), params)
    made = jax.jit(nnx.merge(graphdef, params, rest))(jnp.asarray(found.inputs["own"]))
    same_states(record_property, made, found.outputs["own:last"])
