"""InstructBLIP's vision tower (EVA-G) in small; biases of keys are random here, zero there."""

from __future__ import annotations

from typing import Any

import numpy as np
from reference import Arrays, Case


def images(rng: np.random.Generator) -> Arrays:
    return {"own": rng.standard_normal((2, 12, 12, 3)).astype(np.float32)}


def run(model: Any, inputs: dict[str, Any]) -> Arrays:
    """The last hidden state, before the norm that follows the tower."""
    made = model(inputs["own"].permute(0, 3, 1, 2), output_hidden_states=True)
    return {"own:last": made.hidden_states[-1].detach().numpy()}


CASES = [
    Case(
        name="eva_g",
        architecture="InstructBlipVisionModel",
        config={
            "hidden_size": 14,
            "intermediate_size": 18,
            "num_hidden_layers": 3,
            "num_attention_heads": 7,
            "image_size": 12,
            "patch_size": 4,
        },
        inputs=images,
        run=run,
    )
]
