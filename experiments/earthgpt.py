"""EarthGPT: DINOv2 and ConvNeXt side by side; optical, SAR and infrared (arXiv 2401.16822).

    rsvlm train experiments/earthgpt.py --out runs/earthgpt_1 --dry-run    (or --tiny)
    rsvlm train experiments/earthgpt.py --out runs/earthgpt_1
    rsvlm train experiments/earthgpt.py:2 --out runs/earthgpt_2

Neither code nor weights are public (wivizhang/EarthGPT holds a README); what follows is how third
parties read the paper: DINOv2-L/14 and CLIP's ConvNeXt-L frozen, layers of the one and stages of
the other mixed; stage 1 (LAION-400M, COCO captions) trains the projector, and attention and norms
of the language model; stage 2 (MMRS-1M, 1,005,842 pairs) a bias and a scale at each of its layers;
AdamW (0.9, 0.95), 2e-5.

Contradictory: Llama-2 7B (the survey arXiv 2410.17283; taken) or 13B. Not public, and so ours:
image sizes, which layers and stages, batches, steps of stage 1, warm-up, weight decay, template.
How one or two channels of SAR and infrared become three is asked and unanswered (its issue 7).

Cannot: biases and scales beside frozen kernels; LoRA of rank 8 stands in their place, ours too.
ConvNeXt's weights are read from Hugging Face (ImageNet); no table reads OpenCLIP's, CLIP-trained.

Yours: the paths. Weights: facebook/dinov2-large, facebook/convnext-large-384,
meta-llama/Llama-2-7b-chat-hf; data: MMRS-1M and captions as LLaVA conversations.
"""

from typing import Literal

from rsvlm_jax.config import (
    LORA_ONLY,
    ConnectorConfig,
    ConversationConfig,
    ConvNextConfig,
    Dinov2Config,
    Experiment,
    GroupConfig,
    LoraConfig,
    MeshConfig,
    MixedConfig,
    OptimizerConfig,
    TrainConfig,
    VLMConfig,
)

LLAMA = "path/to/Llama-2-7b-chat-hf"
DINOV2, CONVNEXT = "path/to/dinov2-large", "path/to/convnext-large-384"
FILE = {1: "path/to/captions.json", 2: "path/to/MMRS-1M/conversations.json"}
BATCH = 128


def experiment(stage: Literal[1, 2] = 1) -> Experiment:
    towers = f"vision/first={DINOV2},vision/second={CONVNEXT},decoder={LLAMA}"
    dinov2 = Dinov2Config(image_size=336, feature_layers=(12, 24), feature_join="channels")
    opened = ("^connector/", "^decoder/layers/attention/", "^decoder/(layers/norm|norm/)")
    return Experiment(
        name=f"earthgpt_{stage}",
        conversations=ConversationConfig(
            files=((FILE[stage], 1.0),), tokenizer=LLAMA, template="llama_2", group=False
        ),
        model=VLMConfig(
            vision=MixedConfig(first=dinov2, second=ConvNextConfig(feature_stages=(-2, -1))),
            connector=ConnectorConfig("linear"),
            head=None,
            dtype="bfloat16",
        ),
        lora=None if stage == 1 else LoraConfig(rank=8, alpha=16.0),
        optimizer=OptimizerConfig(
            learning_rate=2e-5,
            warmup=0.03,
            weight_decay=0.0,
            b2=0.95,
            eps=1e-8,
            groups=LORA_ONLY if stage == 2 else (*map(GroupConfig, opened), GroupConfig("", 0.0)),
        ),
        train=TrainConfig(
            steps=10_000 if stage == 1 else 1_005_842 // BATCH, batch_size=BATCH, save_every=500
        ),
        mesh=MeshConfig(fsdp=-1),
        init_from=towers if stage == 1 else "runs/earthgpt_1",
    )
