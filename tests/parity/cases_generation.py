"""Generation by tiny random models: greedy, penalised, beams; and the processors of scores alone.

Batches with prompts of different lengths, padding on the left, and several end tokens, so that
texts end early and at different steps.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import cases_llava
import numpy as np
from cases_language import DEFAULT_ROPE, VOCAB
from reference import Arrays, Case

PAD, BANNED = 1, 3
NEW_TOKENS = 14
ENDS = (2, 11, 5)
LENGTHS = (9, 6, 4, 8)

ASKED: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy_penalty": {"repetition_penalty": 1.6},
    "beams_penalty": {"num_beams": 3, "repetition_penalty": 1.3},
} | {
    f"beams{n}_{penalty}_{early}": {
        "num_beams": n, "length_penalty": penalty, "early_stopping": early,
    }
    for n in (2, 3) for penalty in (-1.0, 0.0, 1.0, 2.5) for early in (False, True)
}  # fmt: skip
"""Names mean the same in both GenerationConfigs."""

FILTERS: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.6},
    "top_k": {"temperature": 1.3, "top_k": 5},
    "top_k_all": {"temperature": 1.0, "top_k": 999},
    "top_k_one": {"temperature": 1.0, "top_k": 1},
    "top_p": {"temperature": 1.5, "top_p": 0.7},
    "top_p_one_token": {"temperature": 1.0, "top_p": 1e-9},
    "min_p": {"temperature": 2.0, "min_p": 0.2},
    "min_p_one": {"temperature": 2.0, "min_p": 1.0},
    "penalty": {"temperature": 0.9, "repetition_penalty": 1.7},
    "all": {
        "temperature": 1.8, "top_k": 20, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 0.8,
    },
}  # fmt: skip


def prompts(rng: np.random.Generator) -> Arrays:
    """`ids` [4,9] with padding on the left; `scores` [24,64] and the ids before them."""
    ids = np.full((len(LENGTHS), max(LENGTHS)), PAD)
    for row, length in enumerate(LENGTHS):
        ids[row, -length:] = rng.integers(3, VOCAB, length)
    return {
        "ids": ids,
        "mask": (ids != PAD).astype(np.int64),
        "scores": (3 * rng.standard_normal((24, 64))).astype(np.float32),
        "before": rng.integers(0, 64, (24, 10)),
    }


def run(model: Any, inputs: dict[str, Any]) -> Arrays:
    asked = {"input_ids": inputs["ids"], "attention_mask": inputs["mask"]}
    return said(model, asked) | shares(model, inputs["scores"], inputs["before"])


def said(model: Any, inputs: dict[str, Any]) -> Arrays:
    """Texts, the end token included, padded; and of beams the log-probability over the length."""
    outputs: Arrays = {}
    width = inputs["input_ids"].shape[1]
    for name, settings in ASKED.items():
        made = model.generate(
            **inputs, **settings, do_sample=False, max_new_tokens=NEW_TOKENS,
            eos_token_id=list(ENDS), pad_token_id=PAD, return_dict_in_generate=True,
            output_scores=True,
        )  # fmt: skip
        text = made.sequences[:, width:].numpy()
        outputs[f"said:{name}"] = np.pad(
            text, ((0, 0), (0, NEW_TOKENS - text.shape[1])), constant_values=PAD
        )
        if "num_beams" in settings:
            outputs[f"score:{name}"] = made.sequences_scores.numpy()
    return outputs


def shares(model: Any, scores: Any, before: Any) -> Arrays:
    """Probabilities after all processors in their order, 0 where a token was taken out."""
    import transformers

    outputs: Arrays = {}
    for name, settings in FILTERS.items():
        config = transformers.GenerationConfig(
            do_sample=True, suppress_tokens=[BANNED], **{"top_k": 0, **settings}
        )
        processors = model._get_logits_processor(config, input_ids_seq_length=before.shape[1])
        made = processors(before, scores.clone())
        outputs[f"share:{name}"] = made.softmax(-1).numpy()
    return outputs


def talk_about_images(model: Any, inputs: dict[str, Any]) -> Arrays:
    return said(
        model,
        {
            "input_ids": inputs["left_ids"],
            "attention_mask": inputs["left_mask"],
            "pixel_values": inputs["pixel_values"],
        },
    )


def language(name: str, architecture: str, seed: int = 1, **config: Any) -> Case:
    base: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    return Case(name, architecture, base | config, prompts, run, seed=seed)


LLAMA: dict[str, Any] = {
    "intermediate_size": 20,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_parameters": DEFAULT_ROPE,
}

CASES = [
    language("talk_llama", "LlamaForCausalLM", **LLAMA),
    language("talk_qwen2", "Qwen2ForCausalLM", **LLAMA),
    language("talk_gpt2", "GPT2LMHeadModel", n_positions=64),
    cases_llava.llava(
        "talk_llava", cases_llava.CLIP, cases_llava.text("llama"), cases_llava.PATCHES
    ),
]
CASES[-1] = dataclasses.replace(CASES[-1], run=talk_about_images)
