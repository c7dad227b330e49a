"""Tiny ConvNeXts and Q-Formers: odd widths, depths and heads, images that fill no whole patches."""

from __future__ import annotations

from typing import Any

import numpy as np
from reference import Arrays, Case, gradients


def images(rng: np.random.Generator) -> Arrays:
    """One of the tower's own size; a wide one whose edges fill no patch, and no square later on:
    37 x 46 pixels, 9 x 11 patches, 4 x 5 and 2 x 2 cells."""
    return {
        "own": rng.standard_normal((1, 32, 32, 3)).astype(np.float32),
        "wide": rng.standard_normal((2, 37, 46, 3)).astype(np.float32),
    }


def run_convnext(model: Any, inputs: dict[str, Any]) -> Arrays:
    """Hidden states in channels-last order."""
    outputs: Arrays = {}
    loss: Any = 0.0
    backbone = getattr(model, "convnext", model)
    for name, x in inputs.items():
        made = backbone(x.permute(0, 3, 1, 2), output_hidden_states=True)
        for i, state in enumerate(made.hidden_states):
            outputs[f"{name}:state{i}"] = state.permute(0, 2, 3, 1).detach().numpy()
            loss = loss + state.square().mean()
        outputs[f"{name}:pooled"] = made.pooler_output.detach().numpy()
        loss = loss + made.pooler_output.sin().mean()
    return {**outputs, **gradients(model, loss)}


def queries(*, width: int, d_in: int) -> Any:
    """The same queries for every frame, as BLIP-2 has them."""

    def make(rng: np.random.Generator) -> Arrays:
        query = rng.standard_normal((1, 3, width)).astype(np.float32)
        memory = rng.standard_normal((2, 5, d_in)).astype(np.float32)
        return {"query": np.repeat(query, 2, axis=0), "memory": memory}

    return make


def run_qformer(model: Any, inputs: dict[str, Any]) -> Arrays:
    import torch

    made = model(
        query_embeds=inputs["query"],
        encoder_hidden_states=inputs["memory"],
        output_hidden_states=True,
    )
    states = torch.stack(list(made.hidden_states))
    # Of the last one alone: that is what the tower returns. A norm makes squares constant: sines.
    loss = (2 * made.last_hidden_state).sin().mean()
    return {"states": states.detach().numpy(), **gradients(model, loss)}


def convnext(name: str, architecture: str = "ConvNextModel", **changes: Any) -> Case:
    config = {
        "hidden_sizes": [6, 10, 14],
        "depths": [2, 1, 3],
        "num_stages": 3,
        "image_size": 32,
        "layer_scale_init_value": 0.5,
        **changes,
    }
    return Case(name, architecture, config, images, run_convnext)


def qformer(name: str, *, d_in: int, **changes: Any) -> Case:
    config = {
        "hidden_size": 14,
        "num_hidden_layers": 5,
        "num_attention_heads": 7,
        "intermediate_size": 18,
        "encoder_hidden_size": d_in,
        **changes,
    }
    # Larger weights make all queries of a frame alike, and then gradients are rounding.
    inputs = queries(width=14, d_in=d_in)
    return Case(name, "Blip2QFormerModel", config, inputs, run_qformer, noise=0.2)


CASES = [
    convnext("convnext"),
    convnext(
        "convnext_unscaled",
        hidden_sizes=[6, 10],
        depths=[1, 2],
        num_stages=2,
        layer_scale_init_value=0.0,
        hidden_act="gelu_pytorch_tanh",
        patch_size=3,
        layer_norm_eps=1e-5,
    ),
    convnext(
        "convnext_classifier",
        "ConvNextForImageClassification",
        num_labels=3,
        hidden_sizes=[5],
        depths=[2],
        num_stages=1,
    ),
    qformer("qformer", d_in=9),  # cross-attention in layers 0, 2 and 4
    qformer(
        "qformer_every",
        d_in=14,
        cross_attention_frequency=1,
        num_hidden_layers=3,
        hidden_act="relu",
    ),
    qformer(
        "qformer_once",
        d_in=5,
        cross_attention_frequency=7,
        num_hidden_layers=3,
        hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=1e-6,
    ),
]
