"""A small one for remote sensing: SigLIP or CLIP-L and Qwen2-0.5B, all trained on instructions.

    rsvlm train experiments/qwen2_05b_rs.py --out runs/qwen2_05b --dry-run    (or --tiny)
    rsvlm train experiments/qwen2_05b_rs.py --out runs/qwen2_05b
    rsvlm train experiments/qwen2_05b_rs.py:clip --out runs/qwen2_05b_clip

For one GPU or a small slice: SigLIP-So400m/14 at 384 pixels gives 729 tokens an image, CLIP-L/14 at
336 gives 576. GeoChat_Instruct once; conversations are packed into rows, 128 rows a step.

Ours, not published: the recipe. The rate is LLaVA-1.5's for the decoder, a tenth of that for the
tower; the decoder's numbers are those of Qwen/Qwen2-0.5B.

Yours: the paths. Weights: Qwen/Qwen2-0.5B-Instruct, google/siglip-so400m-patch14-384 or
openai/clip-vit-large-patch14-336; data: MBZUAI/GeoChat_Instruct.
"""

from typing import Literal

from rsvlm_jax.config import (
    ConversationConfig,
    Experiment,
    GroupConfig,
    LlamaConfig,
    MeshConfig,
    OptimizerConfig,
    SiglipConfig,
    TrainConfig,
    ViTConfig,
    VLMConfig,
)

QWEN = "path/to/Qwen2-0.5B-Instruct"
TOWERS = {
    "siglip": ("path/to/siglip-so400m-patch14-384", SiglipConfig()),
    "clip": ("path/to/clip-vit-large-patch14-336", ViTConfig()),
}
DATA = "path/to/GeoChat_Instruct"

QWEN2_05B = LlamaConfig(
    family="qwen2",
    vocab_size=151_936,
    width=896,
    layers=24,
    heads=14,
    kv_heads=2,
    mlp_dim=4864,
    max_length=32_768,
    rope_theta=1e6,
    norm_eps=1e-6,
    qkv_bias=True,
    tie_embeddings=True,
)
SAMPLES, BATCH = 306_000, 128


def experiment(tower: Literal["siglip", "clip"] = "siglip") -> Experiment:
    weights, vision = TOWERS[tower]
    return Experiment(
        name=f"qwen2_05b_rs_{tower}",
        conversations=ConversationConfig(
            files=((f"{DATA}/GeoChat_Instruct.json", 1.0),),
            images=f"{DATA}/images",
            tokenizer=QWEN,
            template="chatml",
            length=2048,
            pack=True,
        ),
        model=VLMConfig(vision=vision, decoder=QWEN2_05B, head=None, dtype="bfloat16"),
        optimizer=OptimizerConfig(
            learning_rate=2e-5, warmup=0.03, b2=0.999, groups=(GroupConfig("^vision/", 0.1),)
        ),
        train=TrainConfig(steps=SAMPLES // BATCH, batch_size=BATCH, save_every=500),
        mesh=MeshConfig(fsdp=-1, plan="fsdp"),
        init_from=f"vision={weights},decoder={QWEN}",
    )
