"""Pretrained encoders as fronts of the whole model: gradients, masks, what they refuse."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bandsets import garbage, sar, text_batch
from filled import FAST, filled
from flax import nnx
from test_monthly import ALL, scene
from test_vlm import TINY, N, Q

from rsvlm_jax.config import (
    ConfigError,
    EncodersConfig,
    GalileoConfig,
    InputConfig,
    PrestoConfig,
    TemporalConfig,
    VLMConfig,
)
from rsvlm_jax.core import flat
from rsvlm_jax.models.vlm import VisionLanguageModel

SMALL = {"width": 32, "layers": 1, "heads": 2, "mlp_dim": 32, "steps": 3}
INPUTS = (
    InputConfig("s2_l1c", "galileo"),
    InputConfig("s1_db", "galileo"),
    InputConfig("era5", "presto"),
    InputConfig("srtm", "presto"),
)
CONFIG = dataclasses.replace(
    TINY,
    inputs=INPUTS,
    decoder=None,
    encoders=EncodersConfig(GalileoConfig(**SMALL, patch_size=2), PrestoConfig(**SMALL)),
)


def build(config: VLMConfig = CONFIG, bandsets=ALL) -> VisionLanguageModel:
    return VisionLanguageModel(config, bandsets, image_token=512, reg_token=513, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def run():
    """Loss, visual tokens, and gradients by parameter, of a batch."""
    model = filled(build)
    assert model.vision is None
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, batch):
        made = nnx.merge(graphdef, params, rest)
        encoded = made(batch)
        return made.head(encoded).nll(batch.target).mean(), (encoded.visual, encoded.visual_valid)

    step = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=FAST)

    def made(obs):
        (value, aux), gradients = step(params, text_batch(obs, n=N, q=Q, length=16))
        return value, aux, flat(nnx.to_pure_dict(gradients))

    return made


def test_gradients_reach_both_encoders(run):
    value, (visual, valid), gradients = run(scene())
    assert np.isfinite(value)
    assert valid.all()
    assert np.abs(visual).max() > 0
    assert all(np.isfinite(g).all() for g in gradients.values())
    for kind in ("galileo", "presto"):
        for part in ("encoder/layers", "encoder/maps", "encoder/channel", "project"):
            inside = [g for p, g in gradients.items() if p.startswith(f"encoders/{kind}/{part}")]
            assert inside
            assert max(np.abs(g).max() for g in inside) > 0, (kind, part)


def test_invalid_values_change_no_bit(run):
    obs = scene()
    a, b = run(obs), run({name: garbage(one) for name, one in obs.items()})
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.array_equal(x, y)


def test_a_sample_without_any_value_is_finite(run):
    obs = {
        name: dataclasses.replace(one, valid=jnp.asarray(one.valid).at[1].set(False))
        for name, one in scene().items()
    }
    value, (visual, valid), gradients = run(obs)
    assert valid[:, 0].tolist() == [True, False]
    assert (np.asarray(visual[1]) == 0).all()
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients.values())


def test_models_that_cannot_be(untyped: None):
    with pytest.raises(ConfigError, match=r"in VLMConfig\.temporal\.budget; expected a number"):
        dataclasses.replace(CONFIG, temporal=TemporalConfig(budget=None, heads=2))
    palsar = dataclasses.replace(sar("HH", "HV"), name="palsar2_db")
    one = dataclasses.replace(CONFIG, inputs=(InputConfig("palsar2_db", "presto"),))
    with pytest.raises(ConfigError, match="reads nothing in band set 'palsar2_db'; expected"):
        nnx.eval_shape(lambda: build(one, (palsar,)))
    decoding = EncodersConfig(CONFIG.encoders.galileo, PrestoConfig(decoder=True))
    with pytest.raises(ConfigError, match=r"a front does not decode in PrestoConfig\.decoder"):
        nnx.eval_shape(lambda: build(dataclasses.replace(CONFIG, encoders=decoding)))
