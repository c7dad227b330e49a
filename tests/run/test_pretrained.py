"""`rsvlm_jax.load` of directories that are no runs: what it takes and refuses, how it starts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import rsvlm_jax
from rsvlm_jax.config import (
    BandSetSpec,
    BandSpec,
    CheckpointError,
    ConfigError,
    ConnectorConfig,
    DataError,
    Experiment,
    GPT2Config,
    HeadConfig,
    InputConfig,
    LlamaConfig,
    LoraConfig,
    MeshConfig,
    SiglipConfig,
    TemporalConfig,
    ViTConfig,
    VLMConfig,
)
from rsvlm_jax.config.experiment import init_sources
from rsvlm_jax.core import base_path, flat
from rsvlm_jax.data.placeholders import place_images
from rsvlm_jax.interop.families import FAMILIES
from rsvlm_jax.interop.families.llava import LlavaConfig
from rsvlm_jax.interop.huggingface import save_pretrained
from rsvlm_jax.interop.peft import save_adapter
from rsvlm_jax.mesh import RULES, make_mesh, resolve
from rsvlm_jax.models.gpt2 import GPT2
from rsvlm_jax.models.vlm import VisionLanguageModel
from rsvlm_jax.nn import add_lora
from rsvlm_jax.run import pretrained
from rsvlm_jax.run.convert import convert
from rsvlm_jax.run.pretrained import Pretrained
from rsvlm_jax.run.start import start_from
from rsvlm_jax.run.trained import load_run

LLAVA = "LlavaForConditionalGeneration"
VISION = ViTConfig(
    image_size=16, patch_size=8, width=8, layers=2, heads=2, mlp_dim=12, feature_layers=(-2,),
    pool=True,
)  # fmt: skip
TEXT = LlamaConfig(
    vocab_size=20, width=12, layers=2, heads=3, kv_heads=1, head_dim=4, mlp_dim=16, max_length=64
)
MODEL = VLMConfig(vision=VISION, connector=ConnectorConfig(), decoder=TEXT, head=None)
CONFIG = LlavaConfig(MODEL, image_token=19)


def numbers(make: Any, seed: int = 0) -> Any:
    """Random parameters of what `make` builds."""
    rng = np.random.default_rng(seed)
    shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(make), nnx.Param))
    return jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape).astype(np.float32), shapes)


def save(folder: Path, architecture: str, config: Any, seed: int = 0) -> Path:
    params = numbers(lambda: FAMILIES[architecture].build(config, nnx.Rngs(0)), seed)
    return save_pretrained(folder, architecture, config, params)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("pretrained") / "llava", LLAVA, CONFIG)


@pytest.fixture(scope="module")
def llava(folder: Path) -> Pretrained:
    made = rsvlm_jax.load(folder)
    assert isinstance(made, Pretrained)
    return made


def images(n: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 3, size, size)).astype(np.float32)


# ---- placeholders --------------------------------------------------------------------------------


def test_placeholders_of_the_docstring() -> None:
    ids = [[1, 9, 9, 4, 9, 9, 5], [0, 0, 0, 1, 6, 7, 5], [0, 1, 9, 9, 3, 4, 5]]
    mask = [[1] * 7, [0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1]]
    made = place_images(ids, mask, vocabulary=9, images=3, image_token=9, per_image=2)
    assert made.image_slot.tolist() == [
        [-1, 0, 1, -1, 2, 3, -1],
        [-1] * 7,
        [-1, -1, 0, 1, -1, -1, -1],
    ]
    assert made.image_of.tolist() == [[0, 1], [-1, -1], [2, -1]]
    assert made.tokens[0].tolist() == [1, 0, 0, 4, 0, 0, 5]


@pytest.mark.parametrize("seed", range(20))
def test_every_image_is_placed_once_and_in_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    per_image, b = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    counts = rng.integers(0, 4, b)
    rows = []
    for count in counts:
        parts: list[int] = []
        for _ in range(count):
            parts += [1] * int(rng.integers(0, 3)) + [9] * per_image
        rows.append([*parts, 2])
    length = max(map(len, rows))
    ids = [[0] * (length - len(r)) + r for r in rows]
    mask = [[0] * (length - len(r)) + [1] * len(r) for r in rows]
    made = place_images(
        ids, mask, vocabulary=5, images=int(counts.sum()), image_token=9, per_image=per_image
    )
    seen = []
    for slots, of in zip(made.image_slot, made.image_of, strict=True):
        used = slots[slots >= 0]
        assert used.tolist() == list(range(len(used)))
        seen += [(of[s // per_image], s % per_image) for s in used]
    assert seen == [(i, j) for i in range(counts.sum()) for j in range(per_image)]


BAD_PROMPTS: dict[str, tuple[dict[str, Any], str]] = {
    "two placeholders and one image": (
        {"input_ids": [[1, 19, 19, 2]], "pixel_values": images(1)},
        r"expected 4 for each image; found 2 placeholders and 1 image; write an image as 4 times",
    ),
    "two images and the placeholders of one": (
        {"input_ids": [[1, 19, 19, 19, 19, 2]], "pixel_values": images(2)},
        "found 4 placeholders and 2 images",
    ),
    "placeholders without an image": (
        {"input_ids": [[1, 19, 19, 19, 19, 2]]},
        "found 4 placeholders and 0 images",
    ),
    "an image across two prompts": (
        {"input_ids": [[1, 19, 19, 19], [19, 1, 2, 3]], "pixel_values": images(1)},
        r"input_ids\[0\]; expected 4 for each image; found 3 placeholders",
    ),
    "LLaVA's -200": (
        {"input_ids": [[1, -200, 2]], "pixel_values": None},
        r"outside the vocabulary in input_ids\[0, 1\]; expected 0 .. 19; found -200; write an",
    ),
    "LLaVA's -200 with its image": (
        {"input_ids": [[1, -200, 2]], "pixel_values": images(1)},
        r"outside the vocabulary in input_ids\[0, 1\]; expected 0 .. 19; found -200; write an",
    ),
    "an id beyond the table": ({"input_ids": [[1, 20]]}, r"expected 0 .. 19; found 20"),
    "a prompt of padding": (
        {"input_ids": [[1, 2], [0, 0]], "attention_mask": [[1, 1], [0, 0]]},
        r"a prompt without a token in attention_mask\[1\]",
    ),
    "a mask of another shape": (
        {"input_ids": [[1, 2]], "attention_mask": [[1, 1, 1]]},
        r"expected shape \(1, 2\); found \(1, 3\)",
    ),
    "prompts of different lengths": ({"input_ids": [[1, 2], [1]]}, "padded to one length"),
    "ids that are no integers": ({"input_ids": [[1.0, 2.0]]}, r"expected \[B,L\] integers"),
    "images of another size": (
        {"input_ids": [[1, 2]], "pixel_values": images(1, 24)},
        r"expected \[F, 3, 16, 16\], channels first; found \(1, 3, 24, 24\)",
    ),
    "complex images": (
        {"input_ids": [[1, 2]], "pixel_values": images(1) + 1j},
        r"complex numbers are no image in pixel_values; .* found complex64",
    ),
    "channels last": (
        {"input_ids": [[1, 2]], "pixel_values": images(1).transpose(0, 2, 3, 1)},
        "channels first",
    ),
}


@pytest.mark.parametrize("name", BAD_PROMPTS)
def test_bad_prompts_are_refused_on_the_host(name: str, llava: Pretrained) -> None:
    given, line = BAD_PROMPTS[name]
    with pytest.raises(DataError, match=line) as e:
        llava.logits(**given)
    assert "\n" not in str(e.value)


# ---- what is loaded ------------------------------------------------------------------------------


def test_each_shape_is_traced_once(llava: Pretrained) -> None:
    before = pretrained._logits._cache_size()
    for row in ([1, 2, 3], [3, 2, 1], [4, 4, 4]):
        llava.logits([row])
    assert pretrained._logits._cache_size() - before == 1


def test_the_report_says_what_was_read(llava: Pretrained, folder: Path) -> None:
    assert llava.report.read == len(load_file(folder / "model.safetensors"))
    assert llava.report.missing == llava.report.ignored == ()
    assert llava.architecture == LLAVA
    assert llava.config == MODEL
    assert {p.split("/")[0] for p in flat(llava.params)} == {"vision", "connector", "decoder"}


def test_features_of_a_llava_are_those_of_its_tower(llava: Pretrained, tmp_path: Path) -> None:
    bare = dataclasses.replace(VISION, keep_cls=True, feature_layers=(-1,))
    tower = save_pretrained(tmp_path / "t", "CLIPVisionModel", bare, llava.params["vision"])
    one = rsvlm_jax.load(tower)
    x = images(2)
    assert llava.features(x).shape == (2, 4, 8)
    assert one.features(x).shape == (2, 5, 8)
    with pytest.raises(ConfigError, match="no language model"):
        one.logits([[1, 2]])
    with pytest.raises(DataError, match=r"expected \[F, 3, H, W\]"):
        one.features(x[0])


def test_a_language_model_alone(tmp_path: Path) -> None:
    one = rsvlm_jax.load(save(tmp_path / "llama", "LlamaForCausalLM", TEXT))
    logits = one.logits([[0, 1, 2], [3, 4, 5]], attention_mask=[[0, 1, 1], [1, 1, 1]])
    assert logits.shape == (2, 3, 20)
    with pytest.raises(DataError, match="reads no images"):
        one.logits([[1]], pixel_values=images(1))
    with pytest.raises(ConfigError, match="no vision tower"):
        one.features(images(1))
    one_by_one = []
    for _ in range(4):
        step = np.asarray(one.logits([[1, 2, *one_by_one]]))[0, -1]
        one_by_one.append(int(step.argmax()))
    said = one.generate([[1, 2]], max_new_tokens=4, ends=())
    assert said.tokens[0].tolist() == one_by_one


def test_questions_after_a_prefix_are_answered_as_whole_prompts(llava: Pretrained) -> None:
    start, questions = [[1, *[19] * 4, 7]], [[3, 4, 5], [0, 9, 2]]
    mask = [[1, 1, 1], [0, 1, 1]]
    prefix = llava.prefix(start, images(1))
    asked = {"max_new_tokens": 6, "ends": ()}
    got = llava.generate(questions, attention_mask=mask, prefix=prefix, **asked)
    whole = [start[0] + q for q in questions]
    wanted = llava.generate(
        whole, np.repeat(images(1), 2, axis=0), [[1] * 6 + m for m in mask], **asked
    )
    assert got.tokens.tolist() == wanted.tokens.tolist()
    with pytest.raises(DataError, match=r"a prefix is one text in input_ids.*one row; found 2"):
        llava.prefix(questions)


def test_a_text_longer_than_gpt2s_positions(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=20, width=8, layers=1, heads=2, mlp_dim=8, max_length=4)
    params = numbers(lambda: GPT2(config, rngs=nnx.Rngs(0)))
    one = rsvlm_jax.load(save_pretrained(tmp_path / "g", "GPT2LMHeadModel", config, params))
    with pytest.raises(DataError, match=r"more positions than the model has.*<= 4; found 5"):
        one.logits([[1, 2, 3, 4, 5]])


@pytest.mark.parametrize(
    ("file", "text", "ends"),
    [
        ("generation_config.json", {"eos_token_id": [3, 4]}, (3, 4)),
        ("generation_config.json", {"eos_token_id": 5}, (5,)),
        (None, None, ()),  # config.json says null
    ],
)
def test_end_tokens(file: str | None, text: Any, ends: tuple, folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    if file:
        (tmp_path / file).write_text(json.dumps(text))
    assert rsvlm_jax.load(tmp_path).ends == ends


@pytest.mark.parametrize("ids", ["x", [1, "a"], 1.5, True, {"a": 1}])
def test_end_tokens_that_are_no_ids(ids: Any, folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    with pytest.raises(CheckpointError, match=r"not the ids of tokens in .*: eos_token_id; .*"):
        rsvlm_jax.load(tmp_path)


def test_each_of_several_end_tokens_ends(llava: Pretrained) -> None:
    free = np.asarray(llava.generate([[1, 2]], max_new_tokens=6, ends=()).tokens)[0].tolist()
    first = next(i for i, t in enumerate(free) if t == free[2])
    said = llava.generate([[1, 2]], max_new_tokens=6, ends=(free[2], free[5]))
    assert said.length.tolist() == [min(first, free.index(free[5]))]


def test_a_checkpoint_that_lacks_a_tower(folder: Path, tmp_path: Path) -> None:
    arrays = load_file(folder / "model.safetensors")
    kept = {k: v for k, v in arrays.items() if "projector" not in k}
    save_file(kept, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"missing there \(4\): multi_modal_projector"):
        rsvlm_jax.load(tmp_path)
    one = rsvlm_jax.load(tmp_path, missing="init")
    assert set(one.report.missing) == {
        f"connector/fc{i}/{leaf}" for i in (1, 2) for leaf in ("kernel", "bias")
    }


def test_a_tokenizer_larger_than_the_embedding(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    tokenizer = {"model": {"vocab": {f"t{i}": i for i in range(21)}}, "added_tokens": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="tokenizer"):
        rsvlm_jax.load(tmp_path)


def test_a_run_is_asked_of_a_run(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a pretrained model, not a run"):
        load_run(folder)
    with pytest.raises(CheckpointError, match="not a run directory"):
        rsvlm_jax.load(tmp_path)
    with pytest.raises(CheckpointError, match="takes no tower from elsewhere"):
        rsvlm_jax.load(folder, vision=folder)


def scaled(**rope: Any) -> dict[str, Any]:
    return {"text_config": {"rope_parameters": None, "rope_scaling": rope}}


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"vision_feature_layer": []}, "no layer is returned in .*ViTConfig.feature_layers"),
        ({"vision_feature_layer": [-2, 1.5]}, r"no such layer in .*; found 1\.5"),
        ({"vision_feature_layer": True}, "no such layer in .*; found True"),
        ({"vision_feature_layer": "-2"}, "no such layer in .*; found -2"),
        ({"multimodal_projector_bias": "no"}, "multimodal_projector_bias; .* found 'no'"),
        ({"multimodal_projector_bias": None}, "multimodal_projector_bias; .* found None"),
        ({"architectures": {"a": 1}, "model_type": "b"}, "an unknown model in .*: model_type"),
        ({"vision_config": {"layer_norm_eps": float("nan")}}, "not a number in .*layer_norm_eps"),
        ({"vision_config": {"layer_norm_eps": -1}}, "layer_norm_eps; expected a number >= 0"),
        (scaled(rope_type="linear", factor=float("inf")), "RopeScaling.factor; .*; found inf"),
        (
            scaled(
                rope_type="llama3",
                low_freq_factor=1,
                high_freq_factor=4,
                factor=8,
                original_max_position_embeddings=-4,
            ),
            "RopeScaling.original_max_position_embeddings; .*; found -4",
        ),
    ],
)
def test_a_config_of_strange_values(
    changes: dict[str, Any], line: str, folder: Path, tmp_path: Path
) -> None:
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        config[key] = {**config[key], **value} if key.endswith("_config") else value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=line) as e:
        rsvlm_jax.load(tmp_path)
    assert "\n" not in str(e.value)


@pytest.mark.usefixtures("untyped")
def test_words_that_are_none(folder: Path) -> None:
    line = r"unknown choice in load\(missing\); expected error \| init; found 'inti'; did you mean"
    with pytest.raises(ConfigError, match=line):
        rsvlm_jax.load(folder, missing="inti")  # type: ignore[arg-type]
    line = r"unknown choice in MeshConfig.plan; expected replicated \| fsdp \|.*; found 'fdsp'"
    with pytest.raises(ConfigError, match=line):
        MeshConfig(plan="fdsp")  # type: ignore[arg-type]


def test_torchs_images(llava: Pretrained) -> None:
    torch = pytest.importorskip("torch", reason="torch")
    x = torch.from_numpy(images(1)).bfloat16().requires_grad_()
    wanted = llava.features(x.detach().float().numpy())
    np.testing.assert_array_equal(llava.features(x), wanted)
    with pytest.raises(DataError, match="complex numbers are no image"):
        llava.features(x.to(torch.complex64))


def test_features_come_before_the_final_norm(tmp_path: Path) -> None:
    config = SiglipConfig(
        image_size=16, patch_size=8, width=8, layers=2, heads=2, mlp_dim=12, pool=True
    )
    one = rsvlm_jax.load(save(tmp_path / "siglip", "SiglipVisionModel", config))
    assert isinstance(one, Pretrained)
    last = one.model.last_hidden_state(jax.numpy.asarray(images(1).transpose(0, 2, 3, 1)))
    found = one.features(images(1))
    np.testing.assert_allclose(one.model.post_norm(found), last, atol=1e-5)
    assert np.abs(np.asarray(found - last)).max() > 0.1


@pytest.mark.usefixtures("untyped")
def test_a_dtype_by_another_name_than_its_own(folder: Path) -> None:
    for dtype in (np.float32, "float16"):
        with pytest.raises(ConfigError, match=r"load\(dtype\); expected float32 or bfloat16; fo"):
            rsvlm_jax.load(folder, dtype=dtype)  # type: ignore[arg-type]


def test_siglip_with_a_class_token_to_drop(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["model_type"] = "siglip_vision_model"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"no class token.*expected full; found default"):
        rsvlm_jax.load(tmp_path)


# ---- what an experiment starts from --------------------------------------------------------------


def started(source: str, model: VLMConfig = MODEL, **changes: Any) -> tuple[Any, list[str]]:
    experiment = Experiment("x", model=model, init_from=source, **changes)
    params = numbers(lambda: FAMILIES[LLAVA].build(LlavaConfig(model, 19), nnx.Rngs(0)), seed=9)
    params["temporal"] = {"date_scale": np.zeros(1, np.float32)}  # as a model of cubes has it
    said: list[str] = []
    return start_from(params, experiment, say=said.append), said


def test_a_whole_llava_and_what_it_lacks(folder: Path, llava: Pretrained) -> None:
    params, said = started(str(folder))
    for path, x in flat(llava.params).items():
        np.testing.assert_array_equal(flat(params)[path], x, err_msg=path)
    assert said == [
        f"init_from {folder}: {len(flat(llava.params))} arrays read; "
        "initialised: temporal (1 arrays)"
    ]
    with pytest.raises(CheckpointError, match=r"no checkpoint holds.*temporal \(1 arrays\)"):
        started(str(folder), init_missing="error")


def test_towers_from_different_checkpoints(folder: Path, llava: Pretrained, tmp_path: Path) -> None:
    text = save(tmp_path / "text", "LlamaForCausalLM", TEXT, seed=5)
    projector = tmp_path / "mm_projector.safetensors"
    rng = np.random.default_rng(1)
    arrays = {"0.weight": (12, 8), "0.bias": (12,), "2.weight": (12, 12), "2.bias": (12,)}
    save_file(
        {f"mm_projector.{k}": rng.standard_normal(s).astype("f4") for k, s in arrays.items()},
        projector,
    )
    params, said = started(f"vision={folder},decoder={text},connector={projector}")
    np.testing.assert_array_equal(
        params["vision"]["patch"]["kernel"], llava.params["vision"]["patch"]["kernel"]
    )
    decoder = rsvlm_jax.load(text).params
    np.testing.assert_array_equal(params["decoder"]["norm"]["scale"], decoder["norm"]["scale"])
    assert np.abs(
        params["decoder"]["norm"]["scale"] - llava.params["decoder"]["norm"]["scale"]
    ).max()
    kernel = load_file(projector)["mm_projector.0.weight"]
    np.testing.assert_array_equal(params["connector"]["fc1"]["kernel"], kernel.T)
    assert "initialised: temporal" in said[0]


def test_a_pickled_projector_starts_an_experiment_that_allows_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch")
    sizes = {"0.weight": (12, 8), "0.bias": (12,), "2.weight": (12, 12), "2.bias": (12,)}
    arrays = {f"model.mm_projector.{k}": torch.rand(s).half() for k, s in sizes.items()}
    file = tmp_path / "mm_projector.bin"
    torch.save(arrays, file)
    line = rf"not opened in {file}; .*; allow_pickle \(--allow-pickle\): by"
    with pytest.raises(CheckpointError, match=line):
        started(f"connector={file}")
    wanted = arrays["model.mm_projector.0.weight"].float().numpy().T
    convert(file, tmp_path / "made" / "mm_projector.safetensors", allow_pickle=True)
    params = [
        started(f"connector={file}", allow_pickle=True)[0],
        started(f"connector={tmp_path / 'made' / 'mm_projector.safetensors'}")[0],
    ]
    for made in params:
        np.testing.assert_array_equal(made["connector"]["fc1"]["kernel"], wanted)


def test_a_pickled_language_model_starts_an_experiment_that_allows_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch")
    text = save(tmp_path / "text", "LlamaForCausalLM", TEXT, seed=5)
    wanted = rsvlm_jax.load(text).params["norm"]["scale"]
    arrays = load_file(text / "model.safetensors")
    torch.save({k: torch.from_numpy(v) for k, v in arrays.items()}, text / "pytorch_model.bin")
    (text / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="--allow-pickle"):
        started(f"decoder={text}")
    params, _ = started(f"decoder={text}", allow_pickle=True)
    np.testing.assert_array_equal(params["decoder"]["norm"]["scale"], wanted)


def test_larger_images_a_larger_vocabulary_and_no_pooling(folder: Path, llava: Pretrained) -> None:
    vision = dataclasses.replace(VISION, image_size=24, pool=False, feature_layers=(-1,))
    decoder = dataclasses.replace(TEXT, vocab_size=22)
    model = dataclasses.replace(MODEL, vision=vision, decoder=decoder)
    params, _ = started(str(folder), model)
    table = np.asarray(params["vision"]["position"]["embedding"])
    theirs = np.asarray(llava.params["vision"]["position"]["embedding"])
    assert table.shape == (10, 8)
    np.testing.assert_allclose(table[[0, 1, 3, 7, 9]], theirs, atol=1e-6)
    rows = np.asarray(params["decoder"]["embed"]["embedding"])
    theirs = np.asarray(llava.params["decoder"]["embed"]["embedding"])
    np.testing.assert_array_equal(rows[:20], theirs)
    np.testing.assert_allclose(rows[20:], np.repeat(theirs.mean(0)[None], 2, 0), atol=1e-6)


BAD_STARTS: dict[str, tuple[Any, str]] = {
    "another width": (
        lambda m: dataclasses.replace(m, decoder=dataclasses.replace(TEXT, mlp_dim=17)),
        "the decoder of the model and of the checkpoint differ.*mlp_dim=17; found mlp_dim=16",
    ),
    "another activation of the same shapes": (
        lambda m: dataclasses.replace(m, vision=dataclasses.replace(VISION, activation="gelu")),
        "expected activation=gelu; found activation=quick_gelu; set them in VLMConfig.vision",
    ),
    "another kind": (
        lambda m: dataclasses.replace(
            m,
            decoder=GPT2Config(vocab_size=20, width=12, layers=2, heads=3, mlp_dim=16),
        ),
        "expected gpt2; found llama",
    ),
    "a smaller vocabulary": (
        lambda m: dataclasses.replace(m, decoder=dataclasses.replace(TEXT, vocab_size=10)),
        r"another shape: decoder/embed/embedding \(20, 12\) \(model: \(10, 12\)\)",
    ),
}


@pytest.mark.parametrize("name", BAD_STARTS)
def test_a_start_that_does_not_fit(name: str, folder: Path) -> None:
    change, line = BAD_STARTS[name]
    with pytest.raises(CheckpointError, match=line) as e:
        started(str(folder), change(MODEL)) if name != "another kind" else gpt2(str(folder), change)
    assert "\n" not in str(e.value)


def gpt2(source: str, change: Any) -> None:
    model = change(MODEL)
    decoder = numbers(lambda: GPT2(model.decoder, rngs=nnx.Rngs(0)))
    experiment = Experiment("x", model=model, init_from=f"decoder={source}")
    start_from({"decoder": decoder}, experiment, say=print)


CUBES = VLMConfig(
    inputs=(InputConfig("s2"),),
    vision=dataclasses.replace(VISION, pool=False),
    temporal=TemporalConfig(budget=3, heads=2),
    decoder=dataclasses.replace(TEXT, vocab_size=22),
    head=HeadConfig(layers=1, reg_tokens=2, token_dim=4, channel_dim=8),
)
BANDS = tuple(BandSpec(f"B{i}", wavelength=0.45 + 0.1 * i) for i in range(4))


def test_a_llava_is_given_new_sensors(folder: Path, llava: Pretrained) -> None:
    """Vision, connector and decoder go on; what reads bands, dates and numbers is new."""

    def build() -> VisionLanguageModel:
        bandset = BandSetSpec("s2", "optical", BANDS)
        return VisionLanguageModel(
            CUBES, (bandset,), image_token=20, reg_token=21, rngs=nnx.Rngs(0)
        )

    params, said = numbers(build), []
    experiment = Experiment("x", model=CUBES, init_from=str(folder))
    new = flat(start_from(params, experiment, say=said.append))
    theirs, before = flat(llava.params), flat(params)
    assert new.keys() == before.keys()
    for path, x in new.items():
        if path.split("/")[0] in ("temporal", "head"):
            np.testing.assert_array_equal(x, before[path], err_msg=path)
        else:
            rows = 20 if path in ("decoder/embed/embedding",) else None
            ours = x[:, :20] if path == "decoder/lm_head/kernel" else x[:rows]
            np.testing.assert_array_equal(ours, theirs[path], err_msg=path)
    assert "temporal (" in said[0]
    assert "head (" in said[0]
    refusing = dataclasses.replace(experiment, init_missing="error")
    with pytest.raises(CheckpointError, match=r"no checkpoint holds.*head .*temporal"):
        start_from(params, refusing, say=said.append)


def test_an_openclip_tower_and_a_language_model(tmp_path: Path) -> None:
    """RemoteCLIP and a Qwen2, as an experiment of their own."""
    rng = np.random.default_rng(0)
    v = 8
    names: dict[str, tuple[int, ...]] = {
        "visual.conv1.weight": (v, 3, 8, 8),
        "visual.class_embedding": (v,),
        "visual.positional_embedding": (5, v),
        "visual.proj": (v, 6),
        "logit_scale": (1,),
    }
    names |= {f"visual.{n}.{e}": (v,) for n in ("ln_pre", "ln_post") for e in ("weight", "bias")}
    for i in range(2):
        block = f"visual.transformer.resblocks.{i}."
        names |= {f"{block}{n}.{e}": (v,) for n in ("ln_1", "ln_2") for e in ("weight", "bias")}
        names |= {f"{block}attn.in_proj_weight": (3 * v, v), f"{block}attn.in_proj_bias": (3 * v,)}
        linears = {"attn.out_proj": (v, v), "mlp.c_fc": (12, v), "mlp.c_proj": (v, 12)}
        for n, size in linears.items():
            names |= {f"{block}{n}.weight": size, f"{block}{n}.bias": size[:1]}
    arrays = {k: rng.standard_normal(size).astype(np.float32) for k, size in names.items()}
    save_file(arrays, tmp_path / "remoteclip.safetensors")
    qwen = dataclasses.replace(TEXT, family="qwen2", qkv_bias=True, norm_eps=1e-6)
    text = save(tmp_path / "qwen", "Qwen2ForCausalLM", qwen)
    vision = dataclasses.replace(VISION, activation="gelu", pool=False)
    model = dataclasses.replace(MODEL, vision=vision, decoder=qwen)
    params, said = started(f"vision={tmp_path / 'remoteclip.safetensors'},decoder={text}", model)
    kernel = arrays["visual.transformer.resblocks.1.attn.in_proj_weight"][v : 2 * v]
    np.testing.assert_array_equal(
        params["vision"]["layers"]["attention"]["k"]["kernel"][1], kernel.T
    )
    bias = load_file(text / "model.safetensors")["model.layers.0.self_attn.q_proj.bias"]
    np.testing.assert_array_equal(params["decoder"]["layers"]["attention"]["q"]["bias"][0], bias)
    assert "initialised: connector (4 arrays), temporal (1 arrays)" in said[0]


def test_an_adapter_is_merged(folder: Path, llava: Pretrained, tmp_path: Path) -> None:
    lora = LoraConfig(rank=2, alpha=4.0, targets="^decoder/layers/attention/q/kernel$")
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(size).astype(np.float32) for size in ((2, 12, 2), (2, 2, 12)))
    params = jax.tree.map(lambda x: x, llava.params)
    q = params["decoder"]["layers"]["attention"]["q"]
    q |= {"kernel_lora_a": a, "kernel_lora_b": b}
    save_adapter(tmp_path / "adapter", LLAVA, CONFIG, params, lora)
    one = rsvlm_jax.load(folder, adapter=tmp_path / "adapter")
    merged = one.params["decoder"]["layers"]["attention"]["q"]["kernel"]
    np.testing.assert_allclose(merged, np.asarray(q["kernel"]) + 2 * (a @ b), atol=1e-5)
    assert flat(one.params).keys() == flat(llava.params).keys()


def test_an_adapter_is_kept_where_its_kernels_are(
    folder: Path, llava: Pretrained, tmp_path: Path
) -> None:
    """With a projector that it holds whole, over eight devices, with an image in the prompt."""
    source = tmp_path / "adapter"
    lora = LoraConfig(
        rank=2, alpha=4.0, targets="^decoder/layers/(attention/[qo]|mlp/gate)/kernel$"
    )
    base = LlavaConfig(llava.config, 19)
    model = add_lora(FAMILIES[LLAVA].build(base, nnx.Rngs(0)), lora, nnx.Rngs(0))
    params = numbers(lambda: model, seed=3)
    params |= {"vision": llava.params["vision"]}
    save_adapter(source, LLAVA, base, params, lora, whole=("connector/fc1/kernel",))
    one = rsvlm_jax.load(folder, adapter=source, merge=False)
    eight = rsvlm_jax.load(folder, adapter=source, merge=False, mesh=MeshConfig(2, 2, 2))
    merged = rsvlm_jax.load(folder, adapter=source)
    ids = [[1, 19, 19, 19, 19, 5, 6, 7]]
    wanted = np.asarray(merged.logits(ids, images(1)))
    for made in (one, eight):
        got = np.asarray(made.logits(ids, images(1)))
        assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
    rules = resolve(eight.params, RULES[MeshConfig(2, 2, 2).plan], make_mesh(MeshConfig(2, 2, 2)))
    placed = flat(eight.params)
    assert any(base_path(path) != path for path in placed)
    for path, sharding in flat(rules).items():
        assert placed[path].sharding.is_equivalent_to(sharding, placed[path].ndim), path
    eight.save_adapter(tmp_path / "again")
    a, b = (load_file(f / "adapter_model.safetensors") for f in (source, tmp_path / "again"))
    assert a.keys() == b.keys()
    assert "base_model.model.model.multi_modal_projector.linear_1.weight" in a
    for name, x in a.items():
        np.testing.assert_array_equal(b[name], x, err_msg=name)


def test_a_model_without_an_adapter_has_none_to_write(llava: Pretrained, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no adapter that was kept as LoRA.*merge=False"):
        llava.save_adapter(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_what_init_from_says() -> None:
    assert init_sources("asset:stories260k") == ((None, "asset:stories260k"),)
    assert init_sources("a/run,1") == ((None, "a/run,1"),)
    assert init_sources("vision=a,b,decoder=c=d") == (("vision", "a,b"), ("decoder", "c=d"))
    for text in ("visoin=a", "vision=a,vision=b", "vision=", "vision=a,tower=b"):
        with pytest.raises(ConfigError, match="not a tower and its checkpoint"):
            Experiment("x", init_from=text)


def test_a_tower_that_is_not_there(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such tower.*expected head; found .*connector"):
        started(f"head={folder}")
    with pytest.raises(ConfigError, match="the model has no such tower"):
        started(f"vision/first={folder}")


def test_what_stays_new_is_said_on_stderr(folder: Path, capsys: pytest.CaptureFixture) -> None:
    experiment = Experiment("x", model=MODEL, init_from=f"vision={folder}")
    params = numbers(lambda: FAMILIES[LLAVA].build(CONFIG, nnx.Rngs(0)))
    start_from(params, experiment)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "initialised: connector (4 arrays), decoder (" in err


# ---- runs ----------------------------------------------------------------------------------------


def test_a_run_of_cubes_is_written_tower_by_tower(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"reads no cubes .* expected a model of images"):
        convert(finished, tmp_path / "whole")
    loaded = load_run(finished)
    for part, architecture in (("decoder", "LlamaForCausalLM"), ("vision", "CLIPVisionModel")):
        made = convert(finished, tmp_path / part, part=part)
        assert made.architecture == architecture
        again = rsvlm_jax.load(tmp_path / part)
        theirs = flat(loaded.params[part])
        for path, x in flat(again.params).items():
            if not path.startswith("post_norm/"):  # which the class has and the run has not
                np.testing.assert_array_equal(x, theirs[path], err_msg=path)


def test_a_run_gives_its_towers_to_another(finished: Path) -> None:
    loaded = load_run(finished)
    experiment = dataclasses.replace(
        loaded.experiment, init_from=f"decoder={finished},vision={finished}"
    )
    zeros = jax.tree.map(np.zeros_like, loaded.params)
    said: list[str] = []
    params = start_from(zeros, experiment, say=said.append)
    for path, x in flat(params).items():
        taken = path.startswith(("decoder/", "vision/"))
        wanted = flat(loaded.params)[path] if taken else np.zeros(x.shape, np.float32)
        np.testing.assert_array_equal(x, wanted, err_msg=path)
    assert "temporal (" in said[0]
