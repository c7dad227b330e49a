"""A LLaVA that was trained as LoRA over a plain language model, put together: against torch."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import cases_llava
import numpy as np
import pytest
from compare import Record, same_logits
from reference import HAS_TORCH, Arrays, Case, reference, torch_model
from safetensors.numpy import load_file, save_file

import rsvlm_jax
from rsvlm_jax.cli.main import main
from rsvlm_jax.config import CheckpointError
from rsvlm_jax.core import flat
from rsvlm_jax.run.pretrained import Pretrained

CASE = next(case for case in cases_llava.CASES if case.name == "llava")
RANK, ALPHA = 3, 12
ENDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PROJECTOR = {"linear_1": "mm_projector.0", "linear_2": "mm_projector.2"}
BASES: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    "mistral": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": 9,
    },
}
"""Vicuna, as LLaVA's own releases; neural-chat, as RS-LLaVA, which calls it a Llama."""
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="torch")


@functools.cache
def weights() -> Arrays:
    return reference(CASE).weights


def text(name: str) -> dict[str, Any]:
    return {**CASE.config["text_config"], **BASES[name]}


@functools.cache
def lora() -> Arrays:
    """Random A and B of every linear layer, by the names that LLaVA's own code writes."""
    rng = np.random.default_rng(5)
    made: Arrays = {}
    for name, kernel in weights().items():
        module = name.removeprefix("language_model.").removesuffix(".weight")
        if name.startswith("language_model.") and module.endswith(ENDS):
            shapes = {"A": (RANK, kernel.shape[1]), "B": (kernel.shape[0], RANK)}
            for factor, shape in shapes.items():
                array = 0.2 * rng.standard_normal(shape)
                made[f"base_model.model.{module}.lora_{factor}.weight"] = array.astype(np.float32)
    return made


@functools.cache
def projector() -> Arrays:
    found = {k: v for k, v in weights().items() if k.startswith("multi_modal_projector.")}
    short = {k.removeprefix("multi_modal_projector."): v for k, v in found.items()}
    for theirs, original in PROJECTOR.items():
        short = {k.replace(theirs, original): v for k, v in short.items()}
    return short


@functools.cache
def merged() -> Arrays:
    """By hand: W + alpha / r B A."""
    made = dict(weights())
    for name, a in lora().items():
        if ".lora_A." in name:
            b = lora()[name.replace("lora_A", "lora_B")]
            kernel = name.replace("base_model.model.", "language_model.").replace(".lora_A", "")
            made[kernel] = (made[kernel] + ALPHA / RANK * b.astype(np.float64) @ a).astype("f4")
    return made


def directory(folder: Path, config: dict[str, Any], arrays: Arrays) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {k: np.asarray(v, order="C") for k, v in arrays.items()}, folder / "model.safetensors"
    )
    return folder


def inside(start: str) -> Arrays:
    return {k.removeprefix(start): v for k, v in weights().items() if k.startswith(start)}


def beside(folder: Path, name: str, arrays: Arrays) -> None:
    if name.endswith(".safetensors"):
        save_file({k: np.asarray(v, order="C") for k, v in arrays.items()}, folder / name)
        return
    import torch

    torch.save({k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}, folder / name)


def described(name: str) -> dict[str, Any]:
    """What LLaVA's own code writes beside an adapter; it names the base's class as it finds it."""
    return {
        **text(name),
        "model_type": "llava",
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": CASE.config["vision_config"]["hidden_size"],
        "mm_vision_tower": "laboratory/tower",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "image_aspect_ratio": "pad",
    }


@dataclasses.dataclass(frozen=True)
class Release:
    base: Path
    lora: Path
    tower: Path

    def load(self, **options: Any) -> Pretrained:
        made = rsvlm_jax.load(self.base, adapter=self.lora, vision=self.tower, **options)
        assert isinstance(made, Pretrained)
        return made


def release(
    home: Path,
    name: str = "llama",
    *,
    prefix: str = "base_model.model.model.",
    suffix: str = "safetensors",
    more: Arrays | None = None,
) -> Release:
    vision = {**CASE.config["vision_config"], "architectures": ["CLIPVisionModel"]}
    base = directory(home / "base", text(name), inside("language_model."))
    tower = directory(home / "tower", vision, inside("vision_tower."))
    folder = home / "lora"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(described(name)))
    said = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": list(ENDS)}
    (folder / "adapter_config.json").write_text(json.dumps({**said, "bias": "none"}))
    beside(folder, f"adapter_model.{suffix}", lora())
    trained = {f"{prefix}{k}": v for k, v in projector().items()} | (more or {})
    beside(folder, f"non_lora_trainables.{suffix}", trained)
    return Release(base, folder, tower)


def asked(side: str, image: int) -> dict[str, np.ndarray]:
    inputs = reference(CASE).inputs
    ids = inputs[f"{side}_ids"]
    return {
        "input_ids": np.where(ids == cases_llava.IMAGE, image, ids),
        "attention_mask": inputs[f"{side}_mask"],
        "pixel_values": inputs["pixel_values"],
    }


def torch_logits(name: str, side: str) -> np.ndarray:
    import torch

    config = {**CASE.config, "text_config": text(name)}
    model = torch_model(Case(name, CASE.architecture, config, CASE.inputs, CASE.run), merged())
    given = {k: torch.from_numpy(v) for k, v in asked(side, cases_llava.IMAGE).items()}
    return model(**given).logits.detach().numpy()


def compare(record: Record, one: Pretrained, name: str) -> None:
    assert one.image_token is not None
    for side in ("left", "right"):
        given = asked(side, one.image_token)
        there = given["attention_mask"] > 0
        found = np.asarray(one.logits(**given))[..., : cases_llava.VOCAB]
        same_logits(record, found[there], torch_logits(name, side)[there])


@needs_torch
@pytest.mark.parametrize("name", BASES)
def test_logits_of_pickled_lora_over_a_language_model(
    name: str, tmp_path: Path, record_property: Record
) -> None:
    made = release(tmp_path, name, suffix="bin")
    one = made.load(allow_pickle=True)
    assert one.architecture == f"Llava{name.title()}ForCausalLM"
    assert one.report.missing == ()
    compare(record_property, one, name)
    compare(record_property, made.load(allow_pickle=True, merge=False), name)
    assert made.load(allow_pickle=True, missing="init").report.missing == ()


@needs_torch
@pytest.mark.parametrize("name", BASES)
def test_converted_for_transformers(
    name: str, tmp_path: Path, record_property: Record, capsys: pytest.CaptureFixture
) -> None:
    import torch
    import transformers

    made, out = release(tmp_path, name, suffix="bin"), tmp_path / "out"
    words = ["--adapter", made.lora, "--vision", made.tower, "--allow-pickle"]
    assert main(["convert", str(made.base), str(out), *map(str, words)]) == 0, capsys.readouterr()
    one = rsvlm_jax.load(out)
    assert isinstance(one, Pretrained)
    assert one.image_token is not None
    compare(record_property, one, name)
    image = json.loads((out / "preprocessor_config.json").read_text())
    assert image["image_processor_type"] == "LlavaImageProcessor"  # the release pads to squares
    cls = transformers.LlavaForConditionalGeneration
    model, info = cls.from_pretrained(out, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for side in ("left", "right"):
        given = {k: torch.from_numpy(v) for k, v in asked(side, one.image_token).items()}
        found = model.eval()(**given).logits.detach().numpy()[..., : cases_llava.VOCAB]
        there = given["attention_mask"].numpy() > 0
        same_logits(record_property, found[there], torch_logits(name, side)[there])


@pytest.mark.parametrize(
    "prefix", ["base_model.model.model.", "model.", "model.model.", "base_model.model."]
)
def test_each_array_is_that_of_the_merge_by_hand(prefix: str, tmp_path: Path) -> None:
    one = release(tmp_path, prefix=prefix).load()
    config = {**CASE.config, "architectures": [CASE.architecture], "model_type": "llava"}
    other = rsvlm_jax.load(directory(tmp_path / "hand", config, merged()))
    a, b = flat(one.params), flat(other.params)
    assert a.keys() == b.keys()
    for path, x in b.items():
        np.testing.assert_allclose(a[path], x, rtol=0, atol=1e-6, err_msg=path)


def test_what_was_trained_whole_goes_before_the_base(tmp_path: Path) -> None:
    head = np.full(weights()["language_model.lm_head.weight"].shape, 0.5, np.float32)
    made = release(tmp_path, more={"base_model.model.lm_head.weight": head})
    np.testing.assert_array_equal(made.load().params["decoder"]["lm_head"]["kernel"], head.T)


def test_kept_lora_is_written_and_read_over_the_language_model_again(tmp_path: Path) -> None:
    made = release(tmp_path)
    one = made.load(merge=False)
    again = dataclasses.replace(made, lora=one.save_adapter(tmp_path / "again"))
    for path, x in flat(again.load(merge=False).params).items():
        np.testing.assert_array_equal(x, flat(one.params)[path], err_msg=path)
    tensors = load_file(again.lora / "adapter_model.safetensors")
    assert "base_model.model.model.mm_projector.0.weight" in tensors


@needs_torch
def test_a_projector_over_a_language_model(tmp_path: Path) -> None:
    """As LLaVA's first stage leaves it: its config.json and mm_projector.bin."""
    made = release(tmp_path)
    (tmp_path / "stage").mkdir()
    file = tmp_path / "stage" / "mm_projector.bin"
    beside(file.parent, file.name, {f"model.{k}": v for k, v in projector().items()})
    with pytest.raises(CheckpointError, match=r"a file is missing in .*/stage; .* config\.json"):
        rsvlm_jax.load(made.base, projector=file, vision=made.tower)
    (file.parent / "config.json").write_text(json.dumps(described("llama")))
    with pytest.raises(CheckpointError, match="--allow-pickle"):
        rsvlm_jax.load(made.base, projector=file, vision=made.tower)
    one = rsvlm_jax.load(made.base, projector=file, vision=made.tower, allow_pickle=True)
    assert isinstance(one, Pretrained)
    given = asked("left", one.image_token or 0)
    there = given["attention_mask"] > 0
    wanted = reference(CASE).outputs["left_logits"]
    found = np.asarray(one.logits(**given))
    np.testing.assert_allclose(found[there], wanted[there], atol=1e-4 * wanted.std(), rtol=0)


def test_a_projector_where_it_has_no_place(tmp_path: Path) -> None:
    made = release(tmp_path)
    (tmp_path / "stage").mkdir()
    file = tmp_path / "stage" / "mm_projector.safetensors"
    beside(file.parent, file.name, projector())
    line = r"takes no projector from elsewhere in .*; found projector=.*/stage"
    for base, options in (
        (made.base, {"adapter": made.lora, "vision": made.tower}),
        (made.tower, {}),
        (made.base, {"projector": file.parent}),
    ):
        with pytest.raises(CheckpointError, match=line):
            rsvlm_jax.load(base, **{"projector": file, **options})
    (file.parent / "config.json").write_text(json.dumps(text("llama")))
    with pytest.raises(CheckpointError, match=r"another config\.json than LLaVA's in .*/stage"):
        rsvlm_jax.load(made.base, projector=file, vision=made.tower)


def test_a_release_without_its_projector(tmp_path: Path) -> None:
    made = release(tmp_path)
    (made.lora / "non_lora_trainables.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no projector was trained with it in .*/lora; "):
        made.load()


def test_a_release_whose_tower_is_not_given(tmp_path: Path) -> None:
    made = release(tmp_path)
    with pytest.raises(CheckpointError, match=r"no vision tower.*laboratory/tower.*as vision="):
        rsvlm_jax.load(made.base, adapter=made.lora)


def test_a_release_over_another_language_model(tmp_path: Path) -> None:
    made = release(tmp_path)
    config = {**described("llama"), "intermediate_size": 21}
    (made.lora / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"of another shape .*mlp\.down_proj") as e:
        made.load()
    assert "\n" not in str(e.value)


@needs_torch
def test_a_pickled_release_needs_the_flag(tmp_path: Path) -> None:
    made = release(tmp_path, suffix="bin")
    with pytest.raises(CheckpointError, match=r"pickle .* not opened in .*adapter_model\.bin"):
        made.load()
