"""What `SCALING.md` says around its tables: the formulas, and what is published elsewhere."""

from __future__ import annotations

PUBLISHED = (
    ("Llama2-7B, 8 H100, FSDP, 2 rows of 4,096 each", "MaxText: 0.721 s a step",
     "NVIDIA/JAX-Toolbox, docs/frameworks/maxtext/README.md"),
    ("Llama2-70B, 64 H100, rows of 4,096", "MaxText: MFU 46.6 %", "NGC catalog, DGXC recipe 25.01"),
    ("Llama3.1-8B, 8 H100 (500 W), rows of 8,192", "torchtitan: MFU 33-39 %",
     "torchtitan, benchmarks/llama3_h100_202412_torchtitan.md"),
    ("32B and 64B, 64 v5p", "MaxText: MFU 71.5 and 70.3 % (attention in full)",
     "maxtext, configs/tpu/v5p/README.md"),
    ("Llama2-70B, 512 v5p, rows of 4,096", "MaxText: MFU 65.4 %",
     "maxtext, docs/reference/models/tiering.md"),
    ("16B to 128B, 256 v5e", "MaxText: MFU 56 to 67 %; 32 slices of 256: 46 to 60 %",
     "maxtext, configs/tpu/v5e/README.md"),
    ("Llama3.1-8B, 256 v6e, rows of 8,192", "MaxText: MFU 45.5 % (attention in full)",
     "maxtext, docs/reference/models/tiering.md"),
    ("PaliGemma 3B, 256 v5e", "big_vision: MFU 55 %", "a third party's summary of the paper"),
    ("LLaVA-1.5-7B stage 2, 8 A100-40G, ZeRO-3", "LLaVA: 10 h for 665K",
     "haotian-liu/LLaVA, README"),
)  # fmt: skip

MEASURED = 0.721
"""Seconds of the first step of `PUBLISHED`."""

LAST = """
The first of these by the formulas here: {:.3f} s, MFU {:.0%}; the published step takes {:.2f} times
as long, an MFU of {:.0%} by the same count. Links have room there, so it is the work that takes
longer: 0.80 is of the best product alone, and attention reaches 580 to 675 of 989 TFLOP/s
(tritonbench#141, flash-attention#1075). Read the rows of H100 as what to come near to.
"""

AFTER = """## Published, for comparison

MFU as its source counts it.
"""

HEAD = """# Scaling on paper

Written by `python -m experiments.plans.scaling`; a test holds it to what that gives. LLaVA-1.5,
stage 2 (`experiments/llava15_stage2.py`): projector and language model train, the vision tower is
frozen, bfloat16 over float32 parameters, AdamW. Every chip has {rows} rows of {length:,} positions
with an image each, however many chips there are: 32 chips have the recipe's batch of 128, more
chips a larger one. Nothing here is measured. Bytes in GiB, what is sent in GB, times in ms.

## Formulas

f, t: chips along "fsdp" and "tensor"; d: replicas. N: numbers of parameters, by what splits each in
`rsvlm_jax/mesh/tables.py`. L positions, r rows of all chips; D, F: widths of the decoder and its
MLP; h its layers; b = 2 bytes. T tokens of a chip.

    state        (4 N + 8 N trained) / (f t)      what the program takes, to the byte
    gradients    4 N trained / (f t)
    remat        of the policies that fit, the one that computes least again
    kept         b h T x  D                       full: the input of each layer
                          2 D                     save_context: what attention gives
                          5 D + 2 F               save_qkv_mlp: queries, keys, values, gate, up
                          9 D + 4 F               none
                 over t, but the first D
    of memory    state + gradients + kept + two gathered layers + 1 GiB / t of words' scores
                 + the features of all images (576 x 1,024 b each); "no": above {fits:.0%}
    sent         FSDP    (f-1)/f x (2 x 2 N + 4 N) / t    two gathers in bfloat16, gradients in f32
                 HSDP    and 2 (d-1)/d x 4 N / f          of a chip, over the replicas
                 tensor  and 2 (t-1)/t x b r L D / f x h x 7    (8 where layers are computed again)
                 images  (d f - 1)/(d f) x features of all images
    compute      (operations + those computed again) / (0.80 x peak)
    memory       (3 h b T (14 D + 3 F) + 28 N trained / (f t)) / (0.93 x bandwidth)
    links        sent / rate of the mesh axis (`rsvlm_jax/mesh/links.py`), GPUs / 0.82
    step         max(compute + memory, links) + 0.2 x min(compute + memory, links)
    MFU          operations that the model needs (causal attention by half) / (step x peak);
                 in brackets: nothing of the shorter hidden, all of it
    efficiency   step of chips that send nothing / step
    needs        tokens of a chip whose products take as long as what is sent of parameters

Shares of the peaks, with their sources: `REACH` in `rsvlm_jax/run/roofline.py`; the overlap is
assumed. HSDP holds a copy on {group} chips,
tensor is over {tensor}. Where "fsdp" does not divide the table of 32,064 tokens (128 and 256 chips)
it is whole on every chip.
"""
