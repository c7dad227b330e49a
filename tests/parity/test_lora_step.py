"""A LoRA step against PEFT's: the same weights, the same batch, over float and quantised kernels.

PEFT adapts the torch model and writes the adapter; ours is read from the same two directories. Of a
quantised base torch is given the numbers that the codes stand for.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import rsvlm_jax
from rsvlm_jax.config import LORA_ONLY, LlamaConfig, OptimizerConfig
from rsvlm_jax.core import base_path, flat
from rsvlm_jax.interop.families import FAMILIES
from rsvlm_jax.interop.huggingface import load_pretrained, save_pretrained
from rsvlm_jax.nn import causal_segment_mask, dequantize_params, quantize_params, split_lora
from rsvlm_jax.train import make_optimizer
from rsvlm_jax.train.losses import mean, text_loss
from rsvlm_jax.train.state import overlay

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

CONFIG = {
    "vocab_size": 40, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "max_position_embeddings": 16,
    "tie_word_embeddings": False,
}  # fmt: skip
TARGETS = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]
RATE, CLIP = 0.1, 0.5
TOKENS = np.random.default_rng(0).integers(0, 40, (2, 8)).astype(np.int32)
VALID = np.ones((2, 8), np.int32)
VALID[1, 6:] = 0
LABELS = np.where(VALID == 1, TOKENS, -100)
LABELS[:, :3] = -100


@pytest.fixture(scope="module", params=["float", "int8", "nf4"])
def case(request, tmp_path_factory: pytest.TempPathFactory):
    """Directories of base and adapter, the kind, and PEFT's loss, gradients and updates."""
    kind = request.param
    folder = tmp_path_factory.mktemp(kind)
    torch.manual_seed(0)
    made = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG))
    for name, p in made.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(p.data, std=0.15)
    made.save_pretrained(folder / "base")
    rounded = folder / "base"
    if kind != "float":
        ours = load_pretrained(rounded)
        rounded = folder / "rounded"
        params = dequantize_params(quantize_params(ours.params, kind))
        save_pretrained(rounded, "LlamaForCausalLM", ours.config, params)
    base = transformers.LlamaForCausalLM.from_pretrained(rounded, dtype=torch.float32)
    said = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=TARGETS, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(base, said)
    factors = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for name, p in factors.items():
        if "lora_B" in name:  # zeros, over which A would have no gradient
            torch.nn.init.normal_(p.data, std=0.1)
    model.save_pretrained(folder / "adapter")
    tokens, valid, labels = (torch.from_numpy(x).long() for x in (TOKENS, VALID, LABELS))
    loss = model(input_ids=tokens, attention_mask=valid, labels=labels).loss
    loss.backward()
    grads = {n: p.grad.numpy().copy() for n, p in factors.items()}
    before = {n: p.detach().numpy().copy() for n, p in factors.items()}
    torch.nn.utils.clip_grad_norm_(list(factors.values()), CLIP)
    torch.optim.SGD(factors.values(), lr=RATE, weight_decay=0.0).step()
    moved = {n: p.detach().numpy() - before[n] for n, p in factors.items()}
    return folder, kind, float(loss.detach()), grads, moved


def ours(folder: Path, kind: str):
    """The model, and its loss by its factors."""
    model = rsvlm_jax.load(
        folder / "base", adapter=folder / "adapter", merge=False,
        quantize=None if kind == "float" else kind,
    )  # fmt: skip

    def loss(lora):
        decoder = nnx.merge(model.graphdef, overlay(model.params, lora))
        tokens = jnp.asarray(TOKENS)
        position = jnp.broadcast_to(jnp.arange(8, dtype=jnp.int32), (2, 8))
        mask = causal_segment_mask(jnp.asarray(VALID), position)
        hidden = decoder(decoder.embed(tokens), mask, position)
        weight = jnp.asarray(LABELS >= 0, jnp.float32)
        return mean(*text_loss(decoder, hidden, tokens, weight))

    return model, loss


def by_name(tree) -> dict[str, np.ndarray]:
    """Our factors, layer by layer, under PEFT's names and in its layout."""
    config = LlamaConfig(
        vocab_size=40, width=64, layers=3, heads=4, kv_heads=2, mlp_dim=128, max_length=16,
        tie_embeddings=False,
    )  # fmt: skip
    rows = {row.ours: row for row in FAMILIES["LlamaForCausalLM"].table(config)}
    made = {}
    for path, x in flat(tree).items():
        factor = f".lora_{path[-1].upper()}.default.weight"
        for i, layer in enumerate(np.asarray(x)):
            name = rows[base_path(path)].name(i).replace(".weight", factor)
            made[f"base_model.model.{name}"] = layer.T
    return made


def test_loss_and_gradients_of_the_factors(case):
    folder, kind, want, want_grads, _ = case
    model, loss = ours(folder, kind)
    assert any(kind in path for path in flat(model.params)) == (kind != "float")
    got, grads = jax.jit(jax.value_and_grad(loss))(split_lora(model.params)[1])
    assert abs(float(got) - want) <= 1e-4 * want
    grads = by_name(grads)
    assert grads.keys() == want_grads.keys()
    for name, g in want_grads.items():
        assert np.linalg.norm(grads[name] - g) <= 1e-4 * np.linalg.norm(g), name


def test_factors_after_the_step(case):
    """Through our optimiser, the base frozen: clipped by the norm of the factors alone."""
    folder, kind, _, _, want = case
    model, loss = ours(folder, kind)
    config = OptimizerConfig(
        kind="sgd", learning_rate=RATE, warmup=0.0, weight_decay=0.0, clip_norm=CLIP,
        groups=LORA_ONLY,
    )  # fmt: skip
    optimizer = make_optimizer(config, 100, model.params)
    lora = split_lora(model.params)[1]
    grads = overlay(model.params, jax.jit(jax.grad(loss))(lora))
    updates, _ = optimizer.update(grads, optimizer.init(model.params), model.params)
    new = optax.apply_updates(lora, split_lora(updates)[1])
    moved = by_name(jax.tree.map(lambda n, o: n - o, new, lora))
    for name, m in want.items():
        assert np.linalg.norm(moved[name] - m) <= 1e-4 * np.linalg.norm(m), name
