"""The vision tower against transformers' CLIPVisionModel: every hidden state within 1e-4."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import Reference, reference

from rsvlm_jax.config import ViTConfig
from rsvlm_jax.models.clip_vit import CLIPVisionTower


def parameters(ref: Reference) -> dict:
    """Torch weights in this project's layout."""
    w, layers = ref.weights, range(ref.options["num_hidden_layers"])

    def stacked(name: str, kind: str) -> jnp.ndarray:
        arrays = [w[f"encoder.layers.{i}.{name}.{kind}"] for i in layers]
        transpose = kind == "weight" and arrays[0].ndim == 2
        return jnp.asarray(np.stack([a.T if transpose else a for a in arrays]))

    def linear(name: str) -> dict:
        return {"kernel": stacked(name, "weight"), "bias": stacked(name, "bias")}

    def norm(name: str) -> dict:
        return {"scale": stacked(name, "weight"), "bias": stacked(name, "bias")}

    patch = w["embeddings.patch_embedding.weight"]
    return {
        "cls": jnp.asarray(w["embeddings.class_embedding"]),
        "patch": {"kernel": jnp.asarray(patch.transpose(2, 3, 1, 0).reshape(-1, patch.shape[0]))},
        "position": {"embedding": jnp.asarray(w["embeddings.position_embedding.weight"])},
        "pre_norm": {
            "scale": jnp.asarray(w["pre_layrnorm.weight"]),
            "bias": jnp.asarray(w["pre_layrnorm.bias"]),
        },
        "layers": {
            "norm1": norm("layer_norm1"),
            "norm2": norm("layer_norm2"),
            "attention": {
                ours: linear(f"self_attn.{theirs}")
                for ours, theirs in zip(
                    "qkvo", ("q_proj", "k_proj", "v_proj", "out_proj"), strict=True
                )
            },
            "mlp": {"fc1": linear("mlp.fc1"), "fc2": linear("mlp.fc2")},
        },
    }


@pytest.mark.parametrize("case", ["clip_quick_gelu", "clip_gelu"])
@pytest.mark.parametrize(
    ("feature_layers", "keep_cls"),
    [((0, 1, 2, 3), True), ((-2,), False), ((-1, 1), False), ((-1,), True)],
)
def test_hidden_states(case: str, feature_layers: tuple[int, ...], keep_cls: bool) -> None:
    ref = reference(case)
    o = ref.options
    config = ViTConfig(
        image_size=o["image_size"],
        patch_size=o["patch_size"],
        width=o["hidden_size"],
        layers=o["num_hidden_layers"],
        heads=o["num_attention_heads"],
        mlp_dim=o["intermediate_size"],
        activation=o.get("hidden_act", "quick_gelu"),
        feature_layers=feature_layers,
        keep_cls=keep_cls,
    )
    tower = nnx.eval_shape(lambda: CLIPVisionTower(config, rngs=nnx.Rngs(0)))
    nnx.update(tower, parameters(ref))
    out = nnx.jit(lambda m, x: m(x))(tower, jnp.asarray(ref.inputs["images"]))
    states = ref.outputs["hidden_states"][:, :, 0 if keep_cls else 1 :]
    wanted = np.concatenate([states[i] for i in feature_layers], axis=1)
    assert out.shape == (2, config.tokens, config.width)
    np.testing.assert_allclose(out, wanted, rtol=0, atol=1e-4)
