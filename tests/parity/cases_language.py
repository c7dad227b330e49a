"""Tiny language models: odd heads, every bias and norm, every scaling of RoPE, a short window."""

from __future__ import annotations

from typing import Any

import numpy as np
from reference import Arrays, Case, gradients

NEW_TOKENS = 64
EOS = 2
"""Never said, here and there: so that every text has all its tokens."""

VOCAB = 40
LENGTHS = (5, 12)
"""Of the prompts that are continued."""

DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}


def tokens(rng: np.random.Generator) -> Arrays:
    """Two sequences for states and gradients, two prompts; 20 tokens and 12."""
    return {
        "tokens": rng.integers(3, VOCAB, (2, 20)),
        "prompts": rng.integers(3, VOCAB, (len(LENGTHS), max(LENGTHS))),
    }


def run(model: Any, inputs: dict[str, Any]) -> Arrays:
    import torch

    ids = inputs["tokens"]
    made = model(input_ids=ids, output_hidden_states=True)
    loss = torch.nn.functional.cross_entropy(
        made.logits[:, :-1].reshape(-1, VOCAB), ids[:, 1:].reshape(-1)
    )
    outputs = {
        "hidden": made.hidden_states[-1].detach().numpy(),
        "logits": made.logits.detach().numpy(),
        "loss": loss.detach().numpy(),
        **gradients(model, loss),
    }
    for prompt, length in zip(inputs["prompts"], LENGTHS, strict=True):
        forget(model)
        outputs[f"greedy{length}"] = greedy(model, prompt[None, :length])[0]
    return outputs


def greedy(model: Any, prompt: Any) -> np.ndarray:
    import torch

    said = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        suppress_tokens=[EOS],
        pad_token_id=0,
    )
    return said[:, prompt.shape[1] :].numpy()


def forget(model: Any) -> None:
    """Undo what dynamic RoPE remembers of longer sequences than the next one."""
    for part in model.modules():
        if hasattr(part, "original_inv_freq"):
            part.inv_freq = part.original_inv_freq.clone()
            part.max_seq_len_cached = part.original_max_seq_len


def llama(name: str, architecture: str = "LlamaForCausalLM", seed: int = 1, **config: Any) -> Case:
    base: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_parameters": DEFAULT_ROPE,
    }
    return Case(name, architecture, base | config, tokens, run, seed=seed)


ODD: dict[str, Any] = {
    "hidden_size": 14,
    "num_hidden_layers": 3,
    "num_attention_heads": 7,
    "num_key_value_heads": 1,
    "head_dim": 6,
}
"""Seven heads of a width of their own, one KV head."""

# Seeds of which the texts have many different tokens, none of them chosen by a hair.
CASES = [
    llama(
        "llama_odd", seed=2, **ODD, rope_parameters={"rope_type": "default", "rope_theta": 500.0}
    ),
    llama("llama_tied", seed=7, num_key_value_heads=4, tie_word_embeddings=True),
    llama("llama_biases", seed=8, attention_bias=True, mlp_bias=True),
    llama(
        "llama3_rope",
        seed=6,
        head_dim=8,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            # Of the wavelengths 6, 63, 628 and 6283 one stays, one lies between, two grow.
            "original_max_position_embeddings": 64,
        },
    ),
    llama(
        "llama_linear_rope",
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
    ),
    llama(
        "llama_dynamic_rope",
        seed=5,
        head_dim=8,
        max_position_embeddings=16,  # shorter than the sequences, longer than the prompts
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 8.0},
    ),
    llama("mistral_window", "MistralForCausalLM", seed=4, sliding_window=5, head_dim=6),
    llama(
        "qwen2",
        "Qwen2ForCausalLM",
        seed=8,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
    llama("qwen3", "Qwen3ForCausalLM", seed=2, **ODD),
    Case(
        "gpt2",
        "GPT2LMHeadModel",
        {
            "vocab_size": VOCAB,
            "n_positions": 80,
            "n_embd": 14,
            "n_layer": 3,
            "n_head": 7,
            "bos_token_id": 1,
            "eos_token_id": EOS,
        },
        tokens,
        run,
        seed=7,
    ),
]
