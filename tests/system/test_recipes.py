"""The published recipes: sizes as published, each regular expression takes what its page says.

Nothing is computed: models are built as shapes, whole and tiny. That they train is the matter of
`test_experiments.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections import Counter

import pytest
from flax import nnx

from rsvlm_jax.cli.options import experiments_folder, load_experiment
from rsvlm_jax.config import (
    STORIES260K,
    Experiment,
    LlamaConfig,
    from_json,
    to_json,
)
from rsvlm_jax.core import flat
from rsvlm_jax.mesh.build import make_mesh
from rsvlm_jax.mesh.rules import RULES, resolve
from rsvlm_jax.models.vlm import VisionLanguageModel
from rsvlm_jax.nn.lora import add_lora
from rsvlm_jax.nn.quantize import quantize
from rsvlm_jax.run.fit import checkpoint_bytes
from rsvlm_jax.train.optimizer import make_optimizer, scales
from rsvlm_jax.train.state import split_model

PAGES = {
    "llava15_stage1": (None,),
    "llava15_stage2": (None,),
    "llava15_lora": (None,),
    "geochat_lora": (1, 2),
    "rs_llava_lora": (None,),
    "rsgpt_qformer": (None,),
    "lhrs_bot": (1, 2, 3),
    "skyeye_gpt": (1, 2),
    "h2rsvlm": (1, 2),
    "earthgpt": (1, 2),
}
RECIPES = [(page, stage) for page, stages in PAGES.items() for stage in stages]
every_recipe = pytest.mark.parametrize(
    ("page", "stage"), RECIPES, ids=lambda x: str(x) if x is not None else "only"
)


def load(page: str, stage: int | None) -> Experiment:
    return load_experiment(page if stage is None else f"{page}:{stage}")


@functools.cache
def shapes(model, lora):
    """Parameters by path, as shapes, with LoRA's factors."""

    def build() -> VisionLanguageModel:
        made = VisionLanguageModel(model, image_token=1, rngs=nnx.Rngs(0))
        return made if lora is None else add_lora(made, lora, nnx.Rngs(0))

    return flat(split_model(nnx.eval_shape(build))[1])


def count(paths) -> int:
    return sum(math.prod(x.shape) for x in paths)


def linear(d_in: int, d_out: int) -> int:
    return d_in * d_out + d_out


# Counts of transformers' classes at the published configurations, without what no vision-language
# model reads (the norm after the last layer, DINOv2's mask token), Llama with 64 more tokens.
CLIP = 303_507_456 - 2 * 1024
CLIP_224 = 303_179_776 - 2 * 1024
CLIP_504 = CLIP + (36**2 - 24**2) * 1024
DINOV2 = 304_368_640 - 1024 - 2 * 1024
CONVNEXT = 196_230_336 - 2 * 1536
EVA_G = 985_952_256  # and its norm
QFORMER = 105_137_664 + 32 * 768  # and the queries, which are BLIP-2's own
LLAMA_7B = 6_738_415_616 + 2 * 64 * 4096
LLAMA_13B = 13_015_864_320 + 2 * 64 * 5120
# Six layers, shared, of released LHRS-Bot: attention, three norms, MLP; 144 queries; ours, a norm a
# level. The Linear to 4096 is the connector.
PERCEIVER = 6 * (4 * linear(1024, 1024) + 3 * 2048 + linear(1024, 4096) + linear(4096, 1024))
PERCEIVER += 144 * 1024 + 3 * 2048
MLP = linear(1024, 4096) + linear(4096, 4096)

SIZES = {
    "llava15_stage1": CLIP + MLP + LLAMA_7B,
    "llava15_stage2": CLIP + MLP + LLAMA_7B,
    "llava15_lora": CLIP + MLP + LLAMA_7B,
    "geochat_lora": CLIP_504 + MLP + LLAMA_7B,
    "rs_llava_lora": CLIP + MLP + LLAMA_7B,
    "rsgpt_qformer": EVA_G + QFORMER + linear(768, 5120) + LLAMA_13B,
    "lhrs_bot": CLIP_224 + PERCEIVER + linear(1024, 4096) + LLAMA_7B,
    "skyeye_gpt": EVA_G + linear(4 * 1408, 4096) + LLAMA_7B,
    "h2rsvlm": CLIP + linear(3 * 1024, 4096) + linear(4096, 4096) + LLAMA_7B,
    "earthgpt": DINOV2 + CONVNEXT + linear(2 * 1024 + 768 + 1536, 4096) + LLAMA_7B,
}


@every_recipe
def test_is_of_the_published_size(page: str, stage: int | None):
    model = load(page, stage).model
    assert count(shapes(model, None).values()) == SIZES[page]


@pytest.mark.parametrize("page", ["llava15_stage1", "llava15_stage2", "llava15_lora"])
def test_llava_at_13b_is_the_same_but_for_its_decoder(page: str):
    small, large = load(page, None), load_experiment(f"{page}:13b")
    mlp = linear(1024, 5120) + linear(5120, 5120)
    assert count(shapes(large.model, None).values()) == CLIP + mlp + LLAMA_13B
    assert large.init_from == re.sub("stage1", "stage1_13b", small.init_from.replace("7b", "13b"))
    own = {name: getattr(small, name) for name in ("name", "model", "conversations", "init_from")}
    assert dataclasses.replace(large, **own) == small


def test_ours_are_of_the_sizes_that_their_pages_say():
    """Qwen2-0.5B as on Hugging Face; budgets of visual tokens by name."""
    for tower, tokens in (("siglip", 729), ("clip", 576)):
        model = load_experiment(f"qwen2_05b_rs:{tower}").model
        found = shapes(model, None)
        assert count(x for p, x in found.items() if p.startswith("decoder/")) == 494_032_768
        assert model.frame_tokens == tokens
    for page, dates in (("multispectral_7b", 4), ("landsat_series_7b", 24)):
        for budget in (64, 256, 768):
            model = load_experiment(f"{page}:{budget}").model
            assert (model.temporal.budget, model.inputs[0].dates) == (budget, dates)


def test_llava_is_of_hugging_faces_size():
    assert SIZES["llava15_stage1"] + 2 * 1024 == 7_063_427_072  # LlavaForConditionalGeneration


# Of Llama-7B, every linear layer but the head: 319.8 M at rank 128; q and v alone, 33.6 M at 64.
LORA = {
    ("llava15_lora", None): 319_815_680,
    ("geochat_lora", 1): 159_907_840,
    ("geochat_lora", 2): 159_907_840,
    ("rs_llava_lora", None): 159_907_840,
    ("lhrs_bot", 2): 319_815_680,
    ("lhrs_bot", 3): 319_815_680,
    ("skyeye_gpt", 1): 32 * 2 * 64 * (4096 + 4096),
    ("skyeye_gpt", 2): 32 * 2 * 64 * (4096 + 4096),
    ("earthgpt", 2): 159_907_840 // 8,
}
# What trains, and at which peak of the learning rate.
RATES = {
    ("llava15_stage1", None): {"connector": 1e-3},
    ("llava15_stage2", None): {"connector": 2e-5, "decoder": 2e-5},
    ("llava15_lora", None): {"lora": 2e-4, "connector": 2e-5},
    ("geochat_lora", 1): {"lora": 2e-4},
    ("geochat_lora", 2): {"lora": 2e-4},
    ("rs_llava_lora", None): {"lora": 2e-4, "connector": 2e-5},
    ("rsgpt_qformer", None): {"vision": 3e-5, "resampler": 3e-5, "connector": 3e-5},
    ("lhrs_bot", 1): {"resampler": 2e-4, "connector": 2e-4},
    ("lhrs_bot", 2): {"lora": 2e-4, "resampler": 2e-4, "connector": 2e-4},
    ("lhrs_bot", 3): {"lora": 1e-4},
    ("skyeye_gpt", 1): {"lora": 1e-5, "connector": 1e-5},
    ("skyeye_gpt", 2): {"lora": 1e-5, "connector": 1e-5},
    ("h2rsvlm", 1): {"vision": 2e-5, "connector": 2e-5, "decoder": 2e-5},
    ("h2rsvlm", 2): {"connector": 2e-5, "decoder": 2e-5},
    ("earthgpt", 1): {"connector": 2e-5, "decoder": 2e-5},
    ("earthgpt", 2): {"lora": 2e-5},
}


def rates(experiment: Experiment) -> dict[str, float]:
    params = shapes(experiment.model, experiment.lora)
    factors = scales(experiment.optimizer, params)
    found: dict[str, set[float]] = {}
    for path, factor in factors.items():
        name = "lora" if re.search("_lora_[ab]$", path) else path.partition("/")[0]
        if factor:
            found.setdefault(name, set()).add(experiment.optimizer.learning_rate * factor)
    return {name: only for name, (only,) in found.items()}


@every_recipe
def test_trains_what_its_page_says(page: str, stage: int | None):
    whole = load(page, stage)
    assert rates(whole) == pytest.approx(RATES[page, stage])
    assert rates(whole.tiny()) == pytest.approx(RATES[page, stage])
    factors = [x for p, x in shapes(whole.model, whole.lora).items() if "_lora_" in p]
    assert count(factors) == LORA.get((page, stage), 0)


@every_recipe
def test_groups_and_rules_fit_the_model_and_the_tiny_one(page: str, stage: int | None):
    whole = load(page, stage)
    for experiment in (whole, whole.tiny()):
        params = shapes(experiment.model, experiment.lora)
        make_optimizer(experiment.optimizer, experiment.train.steps, params)
        mesh = make_mesh(experiment.mesh)
        assert resolve(params, RULES[experiment.mesh.plan], mesh)
    assert {a: n for a, n in make_mesh(whole.mesh).shape.items() if n > 1} == {"fsdp": 8}


@every_recipe
def test_tiny_is_tiny_and_of_the_same_kind(page: str, stage: int | None):
    whole = load(page, stage)
    small = whole.tiny()
    assert count(shapes(small.model, small.lora).values()) < 1_000_000
    assert small.model.decoder == STORIES260K
    assert small.init_from == "decoder=asset:stories260k"
    for tower in ("vision", "resampler", "connector"):
        kinds = [getattr(getattr(x.model, tower), "kind", None) for x in (whole, small)]
        assert kinds[0] == kinds[1]
    # The names of what is inside, but for the head of the shipped decoder, which it ties.
    inside = [set(shapes(x.model, x.lora)) for x in (whole, small)]
    assert inside[0] - inside[1] <= {"decoder/lm_head/kernel"}
    assert inside[1] <= inside[0]
    assert "path/to" not in to_json(small)
    assert "runs/" not in to_json(small)


@every_recipe
def test_steps_are_samples_over_batch_and_images_fit_the_tower(page: str, stage: int | None):
    whole = load(page, stage)
    assert from_json(Experiment, to_json(whole)) == whole
    talk, model = whole.conversations, whole.model
    assert talk is not None
    assert talk.image is None or talk.image.size == model.vision.image_size
    assert model.frame_tokens < talk.length
    assert isinstance(model.decoder, LlamaConfig)
    assert talk.length <= model.decoder.positions
    assert whole.loss.text == 1.0
    assert whole.train.batch_size % 8 == 0  # over the devices of a host


def test_visual_tokens_are_the_published_ones():
    found = {page: load(page, stages[0]).model.frame_tokens for page, stages in PAGES.items()}
    assert found == {
        **dict.fromkeys(("llava15_stage1", "llava15_stage2", "llava15_lora"), 576),
        "geochat_lora": 1296,
        "rs_llava_lora": 576,
        "rsgpt_qformer": 32,
        "lhrs_bot": 144,
        "skyeye_gpt": 256,
        "h2rsvlm": 576,
        "earthgpt": 576,  # ours: its image size is not public
    }


def test_half_of_a_tower_trains_in_both():
    """The upper 12 of 24 layers, 2 of the tiny one's 4."""
    whole = load("h2rsvlm", 1)
    for experiment, layers in ((whole, 24), (whole.tiny(), 4)):
        group = experiment.optimizer.groups[0]
        path = "vision/layers/mlp/fc1/kernel"
        assert re.search(group.pattern, path)
        assert shapes(experiment.model, None)[path].shape[0] == layers == 2 * group.from_layer


@pytest.mark.parametrize("page", [p for p, stages in PAGES.items() if len(stages) > 1])
def test_a_stage_starts_from_the_run_of_the_one_before(page: str):
    names = [load(page, stage).init_from for stage in PAGES[page]]
    runs = [f"--out {name}" in (experiments_folder() / f"{page}.py").read_text() for name in names]
    assert names[0] is not None
    assert "runs/" not in names[0]
    assert all(re.fullmatch(rf"runs/\w+_{i}", str(n)) for i, n in enumerate(names[1:], 1))
    assert all(runs[1:])  # the commands that make the runs of the stages before stand on the page


@pytest.mark.parametrize(("base", "found"), [("float", "32.3"), ("int8", "12.8"), ("nf4", "10")])
def test_a_checkpoint_is_as_large_as_the_readme_says(base: str, found: str):
    """All of a LoRA run's parameters, frozen ones too, and two moments of those that train."""
    recipe = dataclasses.replace(load("llava15_lora", None), base=base)

    def build() -> VisionLanguageModel:
        made = VisionLanguageModel(recipe.model, image_token=1, rngs=nnx.Rngs(0))
        if base != "float":
            quantize(made, base, targets=recipe.lora.targets)
        return add_lora(made, recipe.lora, nnx.Rngs(0))

    params = split_model(nnx.eval_shape(build))[1]
    assert f"{checkpoint_bytes(recipe, params) / 1e9:.3g}" == found
    text = (experiments_folder() / "README.md").read_text()
    assert f"{found} GB" in text


def test_every_page_says_what_it_cannot():
    for page in PAGES:
        text = (experiments_folder() / f"{page}.py").read_text()
        found = Counter(re.findall(r"^(Cannot|Yours|From|Reproduces|The second)\b", text, re.M))
        assert found["Cannot"] == 1
        assert found["Yours"] == 1
        assert f"experiments/{page}.py --out" in text
        assert re.search(r"arXiv \d{4}\.\d{5}|Remote Sensing 16\(9\)", text.splitlines()[0])
