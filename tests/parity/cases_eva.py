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


def bridge(model: Any, inputs: dict[str, Any]) -> Arrays:
    """Image tokens after the norm, what the queries make of them alone, and the projection."""
    import torch

    tokens = model.vision_model(inputs["own"].permute(0, 3, 1, 2)).last_hidden_state
    words = {"input_ids": None} if "Instruct" in type(model).__name__ else {}
    queries = model.qformer(
        query_embeds=model.query_tokens.expand(len(tokens), -1, -1),
        encoder_hidden_states=tokens,
        encoder_attention_mask=torch.ones(tokens.shape[:2], dtype=torch.long),
        **words,
    ).last_hidden_state
    found = {"tokens": tokens, "queries": queries, "visual": model.language_projection(queries)}
    return {name: x.detach().numpy() for name, x in found.items()}


VISION: dict[str, Any] = {
    "hidden_size": 14,
    "intermediate_size": 18,
    "num_hidden_layers": 3,
    "num_attention_heads": 7,
    "image_size": 12,
    "patch_size": 4,
}
QFORMER: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "encoder_hidden_size": 14,
    "max_position_embeddings": 8,
}
TEXT: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 30,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
OPT: dict[str, Any] = {
    "model_type": "opt",
    "vocab_size": 30,
    "hidden_size": 16,
    "ffn_dim": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "word_embed_proj_dim": 16,
    "max_position_embeddings": 16,
}

CASES = [
    Case(
        name="eva_g",
        architecture="InstructBlipVisionModel",
        config=VISION,
        inputs=images,
        run=run,
    ),
    Case(
        name="instructblip",
        architecture="InstructBlipForConditionalGeneration",
        config={
            "vision_config": VISION,
            "qformer_config": QFORMER,
            "text_config": TEXT,
            "num_query_tokens": 3,
        },
        inputs=images,
        run=bridge,
    ),
    Case(
        name="blip2",
        architecture="Blip2ForConditionalGeneration",
        config={
            "vision_config": VISION,
            "qformer_config": {**QFORMER, "use_qformer_text_input": False},
            "text_config": OPT,
            "num_query_tokens": 3,
        },
        inputs=images,
        run=bridge,
    ),
]
