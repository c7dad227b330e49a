"""ConvNeXt and the Q-Former against transformers: states, gradients, round trips."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import cases_towers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import Record, same_gradients, same_states
from flax import nnx
from reference import HAS_TORCH, Reference, reference
from safetensors.numpy import load_file

from rsvlm_jax.config import CheckpointError
from rsvlm_jax.core import flat
from rsvlm_jax.interop.huggingface import Imported, load_pretrained, save_pretrained
from rsvlm_jax.interop.rows import write

CASES = {case.name: case for case in cases_towers.CASES}
FAST = {"xla_backend_optimization_level": 0}
"""Compiler options of what runs once."""
WRITTEN_AS = {"ConvNextForImageClassification": "ConvNextModel"}
"""A classifier is not kept."""

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
    return load_pretrained(folder(name, home))


def convnext_outputs(one: Imported, params: Any, inputs: Any) -> dict[str, jax.Array]:
    model, made = nnx.merge(one.graphdef, params), {}
    for name, x in inputs.items():
        for i, state in enumerate(model.hidden_states(jnp.asarray(x))):
            made[f"{name}:state{i}"] = state
        made[f"{name}:pooled"] = model.pooled(jnp.asarray(x))
    return made


def qformer_outputs(one: Imported, params: Any, inputs: Any) -> dict[str, jax.Array]:
    """The states between the layers one layer after the other; the last one by the model."""
    model = nnx.merge(one.graphdef, params)
    query, memory = jnp.asarray(inputs["query"]), jnp.asarray(inputs["memory"])
    n = one.config.former.cross_attention_frequency
    x = model.norm(query)
    states = [x]
    for i in range(one.config.former.layers - 1):
        layer = jax.tree.map(lambda a, i=i: a[i], model.layers)
        x = layer.attend(x)
        if i % n == 0:
            x = jax.tree.map(lambda a, i=i: a[i // n], model.cross)(x, memory)
        x = layer.feed(x)
        states.append(x)
    return {"states": jnp.stack([*states, model(query, memory)])}


def loss(made: dict[str, jax.Array]) -> jax.Array:
    """That of `cases_towers`."""
    total = jnp.float32(0)
    for name, x in made.items():
        if name == "states":
            total = total + jnp.sin(2 * x[-1]).mean()
        else:
            total = total + (jnp.sin(x) if "pooled" in name else jnp.square(x)).mean()
    return total


@functools.cache
def computed(name: str, home: Path) -> tuple[Any, Any]:
    one, inputs = imported(name, home), known(name).inputs
    outputs = convnext_outputs if name.startswith("convnext") else qformer_outputs

    @functools.partial(jax.jit, compiler_options=FAST)
    def run(params: Any) -> Any:
        def total(params: Any) -> Any:
            made = outputs(one, params, inputs)
            return loss(made), made

        return jax.value_and_grad(total, has_aux=True)(params)

    (_, made), grads = run(one.params)
    return made, grads


@each
def test_every_hidden_state(name: str, home: Path, record_property: Record) -> None:
    made, _ = computed(name, home)
    wanted = {k: v for k, v in known(name).outputs.items() if not k.startswith("grad:")}
    assert made.keys() == wanted.keys()
    for key, value in wanted.items():
        ours = np.asarray(made[key])
        assert ours.shape == value.shape, key
        pairs = zip(ours, value, strict=True) if key == "states" else [(ours, value)]
        for x, y in pairs:
            same_states(record_property, x, y, key)


@each
def test_gradients(name: str, home: Path, record_property: Record) -> None:
    one = imported(name, home)
    _, grads = computed(name, home)
    ours = dict(write(one.family.table(one.config), flat(grads)))
    found = known(name).outputs.items()
    theirs = {
        one.family.canonical(k.removeprefix("grad:")): v for k, v in found if k.startswith("grad:")
    }
    same_gradients(record_property, ours, theirs)


@each
def test_export_and_import_are_the_identity(name: str, home: Path, tmp_path: Path) -> None:
    one = imported(name, home)
    architecture = WRITTEN_AS.get(one.family.architecture, one.family.architecture)
    out = save_pretrained(tmp_path / "out", architecture, one.config, one.params)
    again = load_pretrained(out)
    assert again.config == one.config
    assert not again.report.ignored
    a, b = flat(one.params), flat(again.params)
    assert a.keys() == b.keys()
    for path, x in a.items():
        np.testing.assert_array_equal(np.asarray(x), np.asarray(b[path]), err_msg=path)
    weights = load_file(out / "model.safetensors")
    before = {one.family.canonical(k): v for k, v in known(name).weights.items()}
    assert before.keys() - weights.keys() == set(one.report.ignored)
    for key, value in weights.items():
        np.testing.assert_array_equal(value, before[key], err_msg=key)


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


def test_a_classifier_is_listed_as_ignored_and_not_written(home: Path, tmp_path: Path) -> None:
    one = imported("convnext_classifier", home)
    assert set(one.report.ignored) == {"classifier.weight", "classifier.bias"}
    with pytest.raises(CheckpointError, match=r"classifier, .* write it as ConvNextModel"):
        save_pretrained(tmp_path / "out", one.family.architecture, one.config, one.params)


def test_the_final_norm_may_be_left_out_and_is_then_not_written(home: Path, tmp_path: Path) -> None:
    one = load_pretrained(
        folder("convnext", home), adjust=lambda c: dataclasses.replace(c, pool=False)
    )
    assert set(one.report.ignored) == {"layernorm.weight", "layernorm.bias"}
    with pytest.raises(CheckpointError, match=r"cannot be written .* post_norm/bias"):
        save_pretrained(tmp_path / "out", "ConvNextModel", one.config, one.params)


@pytest.mark.parametrize(
    ("name", "changes", "line"),
    [
        ("convnext", {"num_channels": 4}, "not supported in .*num_channels; expected 3; found 4"),
        ("convnext", {"depths": [1, 2]}, "a width and a depth for each stage in .*num_stages"),
        ("convnext", {"depths": "12"}, "not a list in .*depths"),
        ("convnext", {"depths": [1, -1, 2]}, "not a size in .*ConvNextConfig.*found -1"),
        ("convnext", {"hidden_act": "relu"}, "not supported in .*hidden_act"),
        ("qformer", {"use_qformer_text_input": True}, "not supported in .*use_qformer_text_input"),
        ("qformer", {"hidden_act": "quick_gelu"}, "not supported in .*hidden_act"),
        ("qformer", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("qformer", {"encoder_hidden_size": -9}, "not a size in .*d_in; .*found -9"),
        ("qformer", {"num_attention_heads": 3}, "width is not a multiple of heads"),
    ],
)
def test_a_config_that_would_be_computed_differently_is_refused(
    name: str, changes: dict[str, Any], line: str, tmp_path: Path
) -> None:
    made = known(name)
    made = dataclasses.replace(made, config={**made.config, **changes})
    with pytest.raises(CheckpointError, match=line) as error:
        load_pretrained(made.save(tmp_path))
    assert "\n" not in str(error.value)
