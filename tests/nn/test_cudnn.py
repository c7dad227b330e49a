"""cuDNN's kernel as it is lowered for NVIDIA, without a GPU: one fused call, and no table.

Its numbers are not checked here: there is no GPU.
"""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax._src.cudnn import fused_attention_stablehlo as library

from rsvlm_jax.nn import Mask
from rsvlm_jax.nn.kernels.cudnn import _as_told, _runs, cudnn
from rsvlm_jax.nn.stack import remembered

B, L, H, KV, D = 2, 256, 4, 2, 64


@pytest.fixture(autouse=True)
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lowering asks of the machine: the version of cuDNN and a Hopper."""
    monkeypatch.setattr(library, "check_cudnn_version", lambda: 91300)
    monkeypatch.setattr(library, "check_compute_capability", lambda capability: True)


def lowered(mask, remat="none") -> str:
    """A layer of a training step for NVIDIA."""
    q = jax.ShapeDtypeStruct((B, L, H, D), jnp.bfloat16)
    k = jax.ShapeDtypeStruct((B, L, KV, D), jnp.bfloat16)
    segment = jax.ShapeDtypeStruct((B, L), jnp.int32)

    def loss(q, k, v, segment):
        def layer(x, _):
            return x + jnp.sin(cudnn(jnp.cos(x), k, v, mask(segment))), None

        x, _ = lax.scan(remembered(layer, remat, looped=True), q, None, length=2)
        return x.astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(q, k, k, segment)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


def calls(text: str) -> list[str]:
    return re.findall(r"custom_call @(__cudnn\$\w+)", text)


MASKS = {
    "NO_MASK": lambda segment: Mask(),
    "CAUSAL": lambda segment: Mask(causal=True),
    "PADDING_CAUSAL": lambda segment: Mask.rows(segment, segments=1),
    "packed": lambda segment: Mask.rows(segment, segments=3),
}


@pytest.mark.parametrize("name", MASKS)
def test_one_fused_call_each_way_and_no_table(name: str) -> None:
    text = lowered(MASKS[name])
    assert calls(text) == ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"]
    assert f"{L}x{L}x" not in text
    kind = "PADDING_CAUSAL" if name == "packed" else name
    assert f"mask_type\\22: \\22{kind}\\22" in text
    segments = 3 if name == "packed" else 1
    assert f"max_seg_per_batch\\22: {segments}," in text


def test_a_window_is_the_kernels_own() -> None:
    text = lowered(lambda segment: Mask.rows(segment, segments=1).within(100))
    assert "sliding_window_length\\22: 100" in text


@pytest.mark.parametrize(("remat", "forward"), [("full", 2), ("save_context", 1)])
def test_what_the_kernel_keeps_is_kept_by_name(remat: str, forward: int) -> None:
    found = calls(lowered(MASKS["PADDING_CAUSAL"], remat))
    assert found.count("__cudnn$fmhaSoftmax") == forward


def test_runs_of_the_docstring() -> None:
    runs = _runs(jnp.asarray([[1, 1, 2, 2, 0]], jnp.int32), 3)
    assert runs.start.tolist() == [[0, 2, 5, -1]]
    assert runs.length.tolist() == [[2, 2, 0]]
    assert runs.count.tolist() == [2]


def test_the_packed_layout_is_what_the_library_wants() -> None:
    """Segments of all rows one after the other, where the batch begins (its own helper)."""
    segment = jnp.asarray([[1, 1, 2, 2, 0], [1, 2, 2, 3, 3]], jnp.int32)
    runs = _runs(segment, 3)
    x = jnp.zeros((2, 5, 1, 1), jnp.bfloat16)
    length, _, start, _ = library._fix_seqlen_offsets(
        runs.length, runs.length, runs.start, runs.start, x, x
    )
    assert length.reshape(-1).tolist() == [2, 2, 0, 1, 2, 2]
    assert start.reshape(-1).tolist()[:6] == [0, 2, 5, 5, 6, 8]


@pytest.mark.parametrize(
    ("segment", "segments", "told"),
    [
        ([1, 1, 0], 1, True),
        ([0, 1, 1], 1, False),
        ([1, 2, 0], 1, False),
        ([1, 2, 0], 2, True),
        ([1, 2, 3], 2, False),
    ],
)
def test_rows_that_are_not_as_told_are_found(segment, segments: int, told: bool) -> None:
    mask = Mask.rows(jnp.asarray([segment], jnp.int32), segments=segments)
    assert _as_told(mask).tolist() == [told]
