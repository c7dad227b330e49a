"""CLIP, SigLIP and DINOv2 against transformers: states, pooled outputs, gradients, round trips."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import cases_vision
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import Record, same_gradients, same_states
from flax import nnx
from reference import HAS_TORCH, Arrays, Reference, reference
from safetensors.numpy import load_file

from rsvlm_jax.core import flat
from rsvlm_jax.interop.huggingface import Imported, load_pretrained, save_pretrained
from rsvlm_jax.interop.rows import write

CASES = {case.name: case for case in cases_vision.CASES}
WRITTEN_AS = {"CLIPModel": "CLIPVisionModelWithProjection", "SiglipModel": "SiglipVisionModel"}
"""Whole models, whose text tower is not kept."""


def whole(name: str) -> bool:
    return CASES[name].architecture in WRITTEN_AS


each = pytest.mark.parametrize("name", CASES)
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="torch")


@functools.cache
def known(name: str) -> Reference:
    return reference(CASES[name])


@functools.cache
def folder(name: str, made: Path) -> Path:
    return known(name).save(made / name)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("towers")


@functools.cache
def imported(name: str, home: Path) -> Imported:
    """All hidden states side by side, where the class token stands first if there is one."""

    def everything(config: Any) -> Any:
        layers = tuple(range(config.layers + 1))
        return dataclasses.replace(config, feature_layers=layers, feature_join="channels")

    return load_pretrained(folder(name, home), adjust=everything)


@functools.cache
def computed(name: str, home: Path) -> tuple[dict[str, jax.Array], Any]:
    """Outputs and gradients of the loss of `cases_vision`."""
    one, inputs = imported(name, home), known(name).inputs
    own, wide = jnp.asarray(inputs["own"]), jnp.asarray(inputs["wide"])
    masked = [jnp.asarray(inputs["masked"])] if "masked" in inputs else []

    def states(model: Any, *args: jax.Array) -> jax.Array:
        return jnp.stack(jnp.split(model(*args), model.config.layers + 1, axis=2))

    def vector(params: Any) -> jax.Array:
        model = nnx.merge(one.graphdef, params)
        projected = getattr(model, "projection", None) is not None
        if not getattr(model.config, "head", True):
            return model.last_hidden_state(wide)
        return model.embed_image(wide) if projected else model.pooled(wide)

    def total(params: Any) -> Any:
        model = nnx.merge(one.graphdef, params)
        made = {"own:hidden_states": states(model, own, *masked), "wide:vector": vector(params)}
        return sum(jnp.square(x).mean() for x in made.values()), made

    @jax.jit
    def run(params: Any) -> Any:
        (_, made), grads = jax.value_and_grad(total, has_aux=True)(params)
        made["wide:hidden_states"] = states(nnx.merge(one.graphdef, params), wide)
        return made, grads

    return ({"wide:vector": jax.jit(vector)(one.params)}, None) if whole(name) else run(one.params)


@each
def test_every_hidden_state_and_pooled_output(
    name: str, home: Path, record_property: Record
) -> None:
    made, _ = computed(name, home)
    wanted = {k: v for k, v in known(name).outputs.items() if not k.startswith("grad:")}
    assert made.keys() == wanted.keys()
    for key, value in wanted.items():
        pairs = zip(made[key], value, strict=True) if "states" in key else [(made[key], value)]
        for ours, theirs in pairs:
            same_states(record_property, ours, theirs, key)


@pytest.mark.parametrize("name", [name for name in CASES if not whole(name)])
def test_gradients(name: str, home: Path, record_property: Record) -> None:
    one = imported(name, home)
    _, grads = computed(name, home)
    ours = dict(write(one.family.table(one.config), flat(grads)))
    same_gradients(record_property, ours, by_disk_name(one, known(name).outputs))


def by_disk_name(one: Imported, outputs: Arrays) -> Arrays:
    """Gradients by names on disk, where the halves of DINOv2's gated MLP are one array."""
    found = {k.removeprefix("grad:"): v for k, v in outputs.items() if k.startswith("grad:")}
    for name in list(found):
        if ".gate_proj." in name:
            parts = [found.pop(name), found.pop(name.replace("gate_proj", "up_proj"))]
            found[name.replace("gate_proj", "weights_in")] = np.concatenate(parts)
    return {one.family.canonical(k): v for k, v in found.items()}


@each
def test_both_disk_layouts_say_the_same(name: str, home: Path, tmp_path: Path) -> None:
    one = imported(name, home)
    renamed = known(name).save(tmp_path / "4.x", one.family.canonical)
    other = load_pretrained(renamed, adjust=lambda _: one.config)
    same_bits(one.params, other.params)


@each
def test_export_and_import_are_the_identity(name: str, home: Path, tmp_path: Path) -> None:
    one = imported(name, home)
    architecture = WRITTEN_AS.get(one.family.architecture, one.family.architecture)
    out = save_pretrained(tmp_path / "out", architecture, one.config, one.params)
    read, again = load_pretrained(folder(name, home)), load_pretrained(out)
    assert again.config == read.config
    same_bits(one.params, again.params)
    assert not again.report.ignored
    weights = load_file(out / "model.safetensors")
    before = {one.family.canonical(k): v for k, v in known(name).weights.items()}
    assert before.keys() - weights.keys() == set(one.report.ignored)
    for key, value in weights.items():
        np.testing.assert_array_equal(value, before[key], err_msg=key)


def same_bits(a: Any, b: Any) -> None:
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys()
    for path, x in a.items():
        np.testing.assert_array_equal(np.asarray(x), np.asarray(b[path]), err_msg=path)


@needs_torch
@each
def test_torch_reads_the_export_and_gives_the_same_bits(
    name: str, home: Path, tmp_path: Path
) -> None:
    import torch
    import transformers

    one, case = imported(name, home), CASES[name]
    architecture = WRITTEN_AS.get(one.family.architecture, one.family.architecture)
    out = save_pretrained(tmp_path / "out", architecture, one.config, one.params)
    cls = getattr(transformers, architecture)
    model, info = cls.from_pretrained(out, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], f"{kind}: {info[kind]}"
    inputs = {k: torch.from_numpy(v) for k, v in known(name).inputs.items()}
    again = case.run(model.eval(), inputs)
    for key, value in known(name).outputs.items():
        if not key.startswith("grad:"):
            np.testing.assert_array_equal(again[key], value, err_msg=key)


def test_whole_models_list_their_text_tower_as_ignored(home: Path) -> None:
    for name in ("clip_whole", "siglip_whole"):
        ignored = imported(name, home).report.ignored
        assert "logit_scale" in ignored
        assert any(k.startswith("text_model.encoder.layers.0.") for k in ignored)


def test_a_whole_clip_model_reads_as_a_bare_tower(home: Path) -> None:
    one = load_pretrained(folder("clip_whole", home), architecture="CLIPVisionModel")
    assert one.config.projection_dim is None
    assert "visual_projection.weight" in one.report.ignored


@pytest.mark.parametrize("name", ["clip_quick_gelu", "siglip", "dinov2_gelu"])
def test_parts_that_an_adjusted_config_leaves_out_are_ignored(name: str, home: Path) -> None:
    def bare(config: Any) -> Any:
        changes: dict[str, Any] = {"pool": False}
        if name.startswith("clip"):
            changes["projection_dim"] = None
        if name.startswith("dinov2"):
            changes["mask_token"] = False
        return dataclasses.replace(config, **changes)

    # The projection is a matter of the class, not of the tower.
    architecture = "CLIPVisionModel" if name.startswith("clip") else None
    one = load_pretrained(folder(name, home), adjust=bare, architecture=architecture)
    full = flat(imported(name, home).params)
    kept = flat(one.params)
    gone = full.keys() - kept.keys()
    assert {path.split("/")[0] for path in gone} <= {
        "post_norm",
        "head",
        "projection",
        "mask_token",
    }
    assert "post_norm/scale" in gone
    assert one.report.ignored
    assert not one.report.missing
