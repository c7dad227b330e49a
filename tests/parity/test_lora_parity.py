"""LoRA against torch: its own modules with W + scale * B @ A in place of W, and their gradients."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import rsvlm_jax
from rsvlm_jax.core import base_path, flat
from rsvlm_jax.interop.huggingface import load_pretrained
from rsvlm_jax.interop.peft import read_adapter, with_adapter
from rsvlm_jax.nn import split_lora

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

RANK, ALPHA = 3, 5
TOKENS = np.asarray([[3, 1, 4, 1, 5, 9, 2, 6]], np.int32)
MODELS = {
    "LlamaForCausalLM": (
        {
            "vocab_size": 24, "hidden_size": 28, "num_hidden_layers": 3, "num_attention_heads": 7,
            "num_key_value_heads": 1, "intermediate_size": 20, "max_position_embeddings": 16,
        },
        ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"],
    ),
    "GPT2LMHeadModel": (
        {"vocab_size": 24, "n_embd": 20, "n_layer": 3, "n_head": 5, "n_positions": 16,
         "resid_pdrop": 0.0},
        ["c_attn", "c_fc", "c_proj"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def case(request, tmp_path_factory):
    """Logits, loss gradients of A and B by name, and the two directories."""
    config, targets = MODELS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    cls = getattr(transformers, request.param)
    model = cls(cls.config_class(**config)).eval()
    for name, p in model.named_parameters():
        if "norm" not in name and "ln_" not in name:
            torch.nn.init.normal_(p.data, std=0.3)
    model.save_pretrained(folder / "base")
    factors, changed = {}, {}
    for name, p in model.named_parameters():
        module = name.removesuffix(".weight")
        if name == module or module.split(".")[-1] not in targets:
            continue
        conv1d = "c_" in module
        out, width = p.shape[::-1] if conv1d else p.shape
        a, b = torch.randn(RANK, width) * 0.3, torch.randn(out, RANK) * 0.3
        a.requires_grad_()
        b.requires_grad_()
        factors[f"{module}.lora_A.weight"], factors[f"{module}.lora_B.weight"] = a, b
        delta = ALPHA / RANK * (b @ a)
        changed[name] = p.detach() + (delta.T if conv1d else delta)
    tokens = torch.from_numpy(TOKENS).long()
    logits = torch.func.functional_call(model, changed, (tokens,)).logits
    logits[:, :, 0].square().sum().backward()
    adapter = folder / "adapter"
    save(adapter, {k: v.detach().numpy() for k, v in factors.items()}, targets)
    grads = {k: v.grad.numpy() for k, v in factors.items()}
    return load_pretrained(folder / "base"), adapter, logits.detach().numpy(), grads


def save(folder: Path, factors: dict[str, np.ndarray], targets: list[str]) -> None:
    folder.mkdir()
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = {f"base_model.model.{k}": v for k, v in factors.items()}
    save_file(tensors, folder / "adapter_model.safetensors")


def logits(graphdef, params):
    model = nnx.merge(graphdef, params)
    position = jnp.arange(TOKENS.shape[1], dtype=jnp.int32)[None]
    mask = jnp.tril(jnp.ones((TOKENS.shape[1],) * 2, bool))[None, None]
    return model.logits(model(model.embed(jnp.asarray(TOKENS)), mask, position))


@pytest.mark.parametrize("merge", [False, True])
def test_logits(case, merge):
    base, folder, want, _ = case
    model = with_adapter(base, read_adapter(folder, base), merge=merge)
    got = jax.jit(lambda p: logits(model.graphdef, p))(model.params)
    assert np.abs(got - want).max() <= 1e-4 * want.std()


def test_gradients_of_the_factors(case):
    base, folder, _, want = case
    model = with_adapter(base, read_adapter(folder, base))

    def loss(params):
        return jnp.square(logits(model.graphdef, params)[:, :, 0]).sum()

    grads = flat(split_lora(jax.jit(jax.grad(loss))(model.params))[1])
    rows = {row.ours: row for row in base.family.table(base.config)}
    got: dict[str, list] = {}
    for path, g in grads.items():
        row = rows[base_path(path)]
        factor = path[-1].upper()
        for i, layer in enumerate(g):
            name = row.name(i).replace(".weight", f".lora_{factor}.weight")
            got.setdefault(name, []).append((row.part or (0, 1), np.asarray(layer).T))
    assert got.keys() == want.keys()
    for name, g in want.items():
        parts = [x for _, x in sorted(got[name], key=lambda p: p[0])]
        # Of a fused kernel: B is cut in parts, A is shared by them, so its gradients add up.
        mine = np.concatenate(parts) if "lora_B" in name else sum(parts)
        assert np.linalg.norm(mine - g) <= 1e-4 * np.linalg.norm(g), name


def test_a_model_that_keeps_its_adapter(case, tmp_path: Path):
    """Through `rsvlm_jax.load`: as torch, as merged, and written again bit for bit."""
    _, folder, want, _ = case
    kept = rsvlm_jax.load(folder.parent / "base", adapter=folder, merge=False)
    merged = rsvlm_jax.load(folder.parent / "base", adapter=folder)
    got = np.asarray(kept.logits(TOKENS))
    for other in (want, np.asarray(merged.logits(TOKENS))):
        assert np.abs(got - other).max() <= 1e-5 * np.abs(other).max()
    np.testing.assert_array_equal(
        kept.generate(TOKENS[:, :4], max_new_tokens=8, ends=()).tokens,
        merged.generate(TOKENS[:, :4], max_new_tokens=8, ends=()).tokens,
    )
    assert merged.lora is None
    assert {base_path(p) for p in flat(kept.params)} == flat(merged.params).keys()
    kept.save_adapter(tmp_path / "again")
    one, other = (load_file(f / "adapter_model.safetensors") for f in (folder, tmp_path / "again"))
    assert one.keys() == other.keys()
    for name, x in one.items():
        np.testing.assert_array_equal(other[name], x, err_msg=name)
