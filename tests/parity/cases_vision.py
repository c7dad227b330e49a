"""Tiny vision towers: odd heads, odd depth, images that are not square or of another size."""

from __future__ import annotations

from typing import Any

import numpy as np
from reference import Arrays, Case, gradients

TOWER = {
    "hidden_size": 14,
    "intermediate_size": 18,
    "num_hidden_layers": 3,
    "num_attention_heads": 7,
    "patch_size": 4,
}
TEXT = {
    "hidden_size": 14,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 11,
    "max_position_embeddings": 5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def images(*, size: int, rest: int = 0) -> Any:
    """Two of the tower's own size, two wide ones; `rest` pixels beyond the last patch."""

    def make(rng: np.random.Generator) -> Arrays:
        return {
            "own": rng.standard_normal((2, size, size, 3)).astype(np.float32),
            "wide": rng.standard_normal((2, 12 + rest, 24 + rest, 3)).astype(np.float32),
        }

    return make


def masked_images(rng: np.random.Generator) -> Arrays:
    made = images(size=20, rest=1)(rng)
    return {**made, "masked": rng.random((2, 25)) < 0.4}


def _outputs(made: dict[str, Any], embed: Any) -> tuple[Arrays, Any]:
    """What is compared; the loss reads the states of one size and the last vector of the other."""
    import torch

    outputs = {f"{k}:hidden_states": torch.stack(list(x.hidden_states)) for k, x in made.items()}
    vector = made["wide"].pooler_output
    # A SigLIP without a head pools nothing: all that stands after its final norm is read.
    outputs["wide:vector"] = made["wide"].last_hidden_state if vector is None else embed(vector)
    loss = outputs["own:hidden_states"].square().mean() + outputs["wide:vector"].square().mean()
    return {k: v.detach().numpy() for k, v in outputs.items()}, loss


def run_contrastive(model: Any, inputs: dict[str, Any]) -> Arrays:
    """CLIP's and SigLIP's towers."""
    tower = model.vision_model if hasattr(model, "visual_projection") else model
    how = {"interpolate_pos_encoding": True, "output_hidden_states": True}
    made = {name: tower(x.permute(0, 3, 1, 2), **how) for name, x in inputs.items()}
    outputs, loss = _outputs(made, getattr(model, "visual_projection", lambda x: x))
    return {**outputs, **gradients(model, loss)}


def run_whole(model: Any, inputs: dict[str, Any]) -> Arrays:
    """The image's vector alone: the tower is the same as in the cases without text."""
    x = inputs["wide"].permute(0, 3, 1, 2)
    if hasattr(model, "get_image_features"):
        vector = model.get_image_features(x, interpolate_pos_encoding=True).pooler_output
    elif hasattr(model, "visual_projection"):
        vector = model(x, interpolate_pos_encoding=True).image_embeds
    else:
        vector = model(x, interpolate_pos_encoding=True).pooler_output
    return {"wide:vector": vector.detach().numpy()}


def run_dinov2(model: Any, inputs: dict[str, Any]) -> Arrays:
    made = {}
    for name, mask in (("own", inputs["masked"]), ("wide", None)):
        x = inputs[name].permute(0, 3, 1, 2)
        made[name] = model(x, bool_masked_pos=mask, output_hidden_states=True)
    outputs, loss = _outputs(made, lambda x: x)
    return {**outputs, **gradients(model, loss)}


CASES = [
    Case(
        name="clip_quick_gelu",
        architecture="CLIPVisionModelWithProjection",
        config={**TOWER, "image_size": 16, "hidden_act": "quick_gelu", "projection_dim": 5},
        inputs=images(size=16),
        run=run_contrastive,
    ),
    Case(
        name="clip_gelu",
        architecture="CLIPVisionModel",
        config={**TOWER, "image_size": 16, "hidden_act": "gelu"},
        inputs=images(size=16),
        run=run_contrastive,
    ),
    Case(
        name="clip_whole",
        architecture="CLIPModel",
        config={
            "vision_config": {**TOWER, "image_size": 16},
            "text_config": TEXT,
            "projection_dim": 6,
        },
        inputs=images(size=16),
        run=run_whole,
    ),
    Case(
        name="siglip",
        architecture="SiglipVisionModel",
        config={**TOWER, "image_size": 22},
        inputs=images(size=22, rest=3),
        run=run_contrastive,
    ),
    Case(
        name="siglip_headless",
        architecture="SiglipVisionModel",
        config={**TOWER, "image_size": 16, "vision_use_head": False},
        inputs=images(size=16),
        run=run_contrastive,
    ),
    Case(
        name="siglip_whole",
        architecture="SiglipModel",
        config={
            "vision_config": {**TOWER, "image_size": 16, "hidden_act": "gelu"},
            "text_config": TEXT,
        },
        inputs=images(size=16),
        run=run_whole,
    ),
    Case(
        name="dinov2_gelu",
        architecture="Dinov2Model",
        # The table is for 16 x 16: both sizes of images are interpolated.
        config={k: v for k, v in TOWER.items() if k != "intermediate_size"}
        | {"image_size": 16, "mlp_ratio": 2},
        inputs=masked_images,
        run=run_dinov2,
    ),
    Case(
        name="dinov2_swiglu",
        architecture="Dinov2Model",
        config={k: v for k, v in TOWER.items() if k != "intermediate_size"}
        | {"image_size": 20, "mlp_ratio": 3, "use_swiglu_ffn": True, "layerscale_value": 0.5},
        inputs=masked_images,
        run=run_dinov2,
    ),
]
