"""`EVA_G` is the tower of InstructBLIP and MiniGPT-v2; what a model starts from of a BLIP."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_eva import CASES
from cases_towers import CASES as QFORMERS
from compare import Record, same_states
from flax import nnx
from reference import Arrays, reference

from rsvlm_jax.config import (
    EVA_G,
    CheckpointError,
    ConnectorConfig,
    Experiment,
    LlamaConfig,
    PixelShuffleConfig,
    QFormerConfig,
    VLMConfig,
)
from rsvlm_jax.core import flat, map_with_path
from rsvlm_jax.models.towers import vision_tower
from rsvlm_jax.models.vlm import VisionLanguageModel
from rsvlm_jax.run.load import load
from rsvlm_jax.run.start import start_from
from rsvlm_jax.train.state import merge, split_model


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
        final_norm=False,
    )
    tower = vision_tower(config, rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(tower, nnx.Param, ...)
    params = nnx.to_pure_dict(params)
    weights = by_path(found.weights, config.layers)
    assert flat(params).keys() == weights.keys()
    params = map_with_path(lambda path, x: jnp.asarray(weights[path]), params)
    made = jax.jit(nnx.merge(graphdef, params, rest))(jnp.asarray(found.inputs["own"]))
    same_states(record_property, made, found.outputs["own:last"])


# ---- BLIP-2 and InstructBLIP as what a model starts from -----------------------------------------

EVA = dataclasses.replace(
    EVA_G, image_size=12, table_size=12, patch_size=4, width=14, layers=3, heads=7, mlp_dim=18
)
FORMER = QFormerConfig(queries=3, width=12, layers=2, heads=2, mlp_dim=16)
LLAMA = LlamaConfig(
    vocab_size=32, width=16, layers=2, heads=2, kv_heads=2, mlp_dim=20, max_length=64,
    norm_eps=1e-6,
)  # fmt: skip
MODEL = VLMConfig(
    vision=EVA, resampler=FORMER, connector=ConnectorConfig("linear"), decoder=LLAMA, head=None
)


def started(model: VLMConfig, source: str) -> tuple[VisionLanguageModel, dict, list[str]]:
    """A model that started from a checkpoint, its parameters by path, and what was said."""
    made = VisionLanguageModel(model, image_token=1, rngs=nnx.Rngs(0))
    graphdef, params, stats = split_model(made)
    said: list[str] = []
    params = start_from(params, Experiment("x", model=model, init_from=source), say=said.append)
    return merge(graphdef, params, stats), flat(params), said


@pytest.mark.parametrize("case", CASES[1:], ids=lambda c: c.name)
def test_a_model_starts_from_the_towers_of_a_blip(case, record_property: Record, tmp_path: Path):
    found = reference(case)
    folder = found.save(tmp_path / case.name)
    over_llama = case.name == "instructblip"
    source = str(folder) if over_llama else f"vision={folder},resampler={folder},connector={folder}"
    model, params, said = started(MODEL, source)
    tokens = model.vision(jnp.asarray(found.inputs["own"]))
    same_states(record_property, tokens, found.outputs["tokens"])
    same_states(record_property, model.resampler(tokens), found.outputs["queries"])
    visual = model.connector(model.resampler(tokens))
    same_states(record_property, visual, found.outputs["visual"])
    words = params["decoder/embed/embedding"]
    if over_llama:
        theirs = found.weights["language_model.model.embed_tokens.weight"]
        np.testing.assert_array_equal(np.asarray(words)[:30], theirs)
        assert said[0].endswith("none initialised")
    else:
        assert "initialised: decoder (" in said[0]


def test_the_tower_of_a_blip_for_larger_images_without_its_class_token(tmp_path: Path):
    """As MiniGPT-v2 has it: the table is that of 224 pixels, interpolated."""
    folder = reference(CASES[2]).save(tmp_path)
    eva = dataclasses.replace(EVA, image_size=24, keep_cls=False)
    shuffled = dataclasses.replace(MODEL, vision=eva, resampler=PixelShuffleConfig(factor=2))
    model, params, _ = started(shuffled, f"vision={folder}")
    assert model.vision(jnp.zeros((1, 24, 24, 3))).shape == (1, 36, 14)
    assert params["vision/position/embedding"].shape == (10, 14)


def test_a_q_former_by_itself_has_no_queries(tmp_path: Path):
    found = reference(next(c for c in QFORMERS if c.name == "qformer"))
    folder = found.save(tmp_path)
    raw = found.config
    former = QFormerConfig(
        queries=5, width=raw["hidden_size"], layers=raw["num_hidden_layers"],
        heads=raw["num_attention_heads"], mlp_dim=raw["intermediate_size"],
        cross_attention_frequency=raw["cross_attention_frequency"],
    )  # fmt: skip
    eva = dataclasses.replace(EVA, width=raw["encoder_hidden_size"], heads=1)
    model = dataclasses.replace(MODEL, vision=eva, resampler=former)
    _, params, said = started(model, f"resampler={folder}")
    theirs = found.weights["encoder.layer.0.attention.attention.query.weight"]
    mine = params["resampler/former/layers/attention/q/kernel"]
    np.testing.assert_array_equal(np.asarray(mine[0]), theirs.T)
    assert "resampler/query" in said[0]


def test_a_blip_over_another_language_model_has_no_decoder(tmp_path: Path):
    folder = reference(CASES[2]).save(tmp_path)
    with pytest.raises(CheckpointError, match="the checkpoint has no such tower") as e:
        started(MODEL, f"decoder={folder}")
    assert "\n" not in str(e.value)


def test_a_q_former_of_other_sizes_is_refused(tmp_path: Path):
    folder = reference(CASES[1]).save(tmp_path)
    model = dataclasses.replace(MODEL, resampler=dataclasses.replace(FORMER, queries=4))
    with pytest.raises(CheckpointError, match=r"the resampler of the model .*queries=4.*queries=3"):
        started(model, str(folder))


def test_a_blip_is_no_model_to_talk_to(tmp_path: Path):
    folder = reference(CASES[1]).save(tmp_path)
    with pytest.raises(CheckpointError, match="a BLIP is no model of ours") as e:
        load(folder)
    assert "init_from" in str(e.value)
    assert "\n" not in str(e.value)
