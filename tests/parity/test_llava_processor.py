"""A LLaVA in its original layout, converted, as a user of transformers finds it: end to end."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from compare import Record, same_logits
from flax import nnx

from rsvlm_jax.config import ConnectorConfig, LlamaConfig, ViTConfig, VLMConfig
from rsvlm_jax.data import ChatProcessor, Message
from rsvlm_jax.interop.families import FAMILIES
from rsvlm_jax.interop.families.llava import LlavaConfig
from rsvlm_jax.interop.huggingface import save_pretrained
from rsvlm_jax.run.convert import Converted, convert
from rsvlm_jax.run.open_pretrained import open_pretrained

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
Image = pytest.importorskip("PIL.Image")

VOCAB, SIZE, PATCH = 320, 24, 4
VISION = ViTConfig(
    image_size=SIZE, patch_size=PATCH, width=8, layers=2, heads=2, mlp_dim=12, pool=True
)
TEXT = LlamaConfig(
    vocab_size=VOCAB, width=12, layers=2, heads=3, kv_heads=1, mlp_dim=16, max_length=512
)
MODEL = VLMConfig(vision=VISION, connector=ConnectorConfig(), decoder=TEXT, head=None)
LLAVA, GEOCHAT = "LlavaLlamaForCausalLM", "GeoChatLlamaForCausalLM"
MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)


def tokenizer() -> Any:
    """As Llama's: pieces with a mark for the space, bytes for what is unknown, <s> in front."""
    vocabulary = {t: i for i, t in enumerate(("<unk>", "<s>", "</s>"))}
    vocabulary |= {f"<0x{i:02X}>": 3 + i for i in range(256)}
    for character in "▁abcdefghijklmnopqrstuvwxyzUSERAITN:.,?'":
        vocabulary.setdefault(character, len(vocabulary))
    merges = [("t", "h"), ("th", "e"), ("▁", "a"), ("U", "S"), ("E", "R"), ("US", "ER")]
    for pair in merges:
        vocabulary["".join(pair)] = len(vocabulary)
    while len(vocabulary) < VOCAB:
        vocabulary[f"▁unused{len(vocabulary)}"] = len(vocabulary)
    bpe = tokenizers.models.BPE(
        vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    made = tokenizers.Tokenizer(bpe)
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    decoders = tokenizers.decoders
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return made


def original(folder: Path, architecture: str, *, aspect: str | None = None) -> Path:
    """A random checkpoint as LLaVA's code leaves it, with the tokenizer beside it."""
    model = MODEL
    if architecture == GEOCHAT:
        model = dataclasses.replace(model, vision=dataclasses.replace(VISION, image_size=36))
    config = LlavaConfig(model, VOCAB)
    rng = np.random.default_rng(0)
    made = nnx.eval_shape(lambda: FAMILIES[architecture].build(config, nnx.Rngs(0)))
    shapes = nnx.to_pure_dict(nnx.state(made, nnx.Param))
    params = jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape).astype(np.float32), shapes)
    save_pretrained(folder, architecture, config, params)
    raw = json.loads((folder / "config.json").read_text())
    del raw["image_token_index"]
    raw |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "image_aspect_ratio": aspect}
    (folder / "config.json").write_text(json.dumps(raw))
    tokenizer().save(str(folder / "tokenizer.json"))
    words = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    said = {**words, "tokenizer_class": "LlamaTokenizer", "padding_side": "right", "legacy": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    (folder / "special_tokens_map.json").write_text(json.dumps(words))
    return folder


@pytest.fixture(scope="module", params=[LLAVA, GEOCHAT])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    home = tmp_path_factory.mktemp(request.param)
    source = original(home / "original", request.param)
    convert(source, home / "tower", part="vision")
    numbers = {"image_mean": MEAN, "image_std": STD, "resample": 2, "size": {"shortest_edge": SIZE}}
    (home / "tower/preprocessor_config.json").write_text(json.dumps(numbers))
    if request.param == GEOCHAT:  # the tower itself is that of smaller images
        (home / "tower/config.json").unlink()
        raw = json.loads((source / "config.json").read_text())["mm_vision_config"]
        (home / "tower/config.json").write_text(json.dumps(raw))
    return convert(source, home / "hf", vision=home / "tower")


def picture(rows: int, columns: int) -> Any:
    pixels = np.random.default_rng(1).integers(0, 256, (rows, columns, 3), np.uint8)
    return Image.fromarray(pixels)


def test_torch_and_we_say_the_same_to_a_picture(made: Converted, record_property: Record) -> None:
    processor = transformers.AutoProcessor.from_pretrained(made.path)
    cls = transformers.LlavaForConditionalGeneration
    theirs, info = cls.from_pretrained(made.path, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], f"{kind}: {info[kind]}"
    ours = open_pretrained(made.path)
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a tree?"}]}
    prompt = processor.apply_chat_template([turn], add_generation_prompt=True)
    inputs = processor(
        images=[picture(40, 60), picture(50, 30)],
        text=[prompt, f"{prompt} yes, one. the other: <image>".replace("<image>\n", "")],
        padding=True,
        return_tensors="pt",
    )
    count = (ours.config.vision.image_size // PATCH) ** 2
    assert (inputs["input_ids"] == VOCAB).sum(1).tolist() == [count, count]
    assert (inputs["input_ids"] == VOCAB + 1).sum() == (inputs["attention_mask"] == 0).sum() > 0
    with torch.no_grad():
        wanted = theirs.eval()(**inputs).logits.numpy()
    counts = inputs["attention_mask"].numpy().astype(bool)
    got = ours.logits(**{k: v.numpy() for k, v in inputs.items()})
    same_logits(record_property, np.asarray(got)[counts], wanted[counts])


def test_the_processor_of_conversations_reads_the_same(made: Converted) -> None:
    processor = transformers.AutoProcessor.from_pretrained(made.path)
    ours = ChatProcessor.of(made.path, open_pretrained(made.path).config)
    assert (ours.template, ours.image_token, ours.ends) == ("tokenizer", VOCAB, (2,))
    said = [
        Message("user", "a tree?\n<image>"),
        Message("assistant", "yes."),
        Message("user", "so?"),
    ]
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a tree?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "yes."}]},
        {"role": "user", "content": [{"type": "text", "text": "so?"}]},
    ]
    prompt = processor.apply_chat_template(turns, add_generation_prompt=True)
    inputs = processor(images=[picture(40, 60)], text=[prompt], return_tensors="np")
    assert ours.encode(said).ids == inputs["input_ids"][0].tolist()
    wanted = inputs["pixel_values"][0].transpose(1, 2, 0)
    assert np.abs(ours.pixels(picture(40, 60)) - wanted).max() <= 1e-5


def test_ids_rows_and_files_agree(made: Converted) -> None:
    tokens = transformers.AutoTokenizer.from_pretrained(made.path)
    config = json.loads((made.path / "config.json").read_text())
    assert tokens.convert_tokens_to_ids(["<image>", "<pad>"]) == [VOCAB, VOCAB + 1]
    assert tokens.pad_token == "<pad>"
    assert tokens.padding_side == "left"
    assert tokens("the")["input_ids"][0] == 1
    assert config["image_token_index"] == VOCAB
    assert config["pad_token_id"] == config["text_config"]["pad_token_id"] == VOCAB + 1
    assert config["text_config"]["vocab_size"] == 384
    settings = transformers.GenerationConfig.from_pretrained(made.path)
    assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (1, 2, 321)
    assert made.notes == ()
    assert {"tokenizer.json", "preprocessor_config.json", "chat_template.jinja"} < {*made.beside}


def test_images_are_prepared_with_the_numbers_of_the_tower(made: Converted) -> None:
    size = open_pretrained(made.path).config.vision.image_size
    processor = transformers.AutoProcessor.from_pretrained(made.path)
    grey = Image.new("RGB", (50, 40), (51, 102, 204))
    pixels = processor.image_processor(grey, return_tensors="np")["pixel_values"][0]
    assert pixels.shape == (3, size, size)
    wanted = (np.array([0.2, 0.4, 0.8]) - MEAN) / STD
    np.testing.assert_allclose(pixels, np.broadcast_to(wanted[:, None, None], pixels.shape), 1e-4)
    assert processor.image_processor.resample == 2


def test_the_template_is_the_conversation_of_training(made: Converted) -> None:
    processor = transformers.AutoProcessor.from_pretrained(made.path)
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "why?"}, {"type": "image"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "so."}]},
        {"role": "user", "content": "and?"},
    ]
    said = processor.apply_chat_template(turns, add_generation_prompt=True)
    raw = json.loads((made.path.parent / "original/config.json").read_text())
    system = SYSTEM.replace("user", "human") if raw["architectures"] == [GEOCHAT] else SYSTEM
    assert said == f"{system} USER: <image>\nwhy? ASSISTANT: so.</s>USER: and? ASSISTANT:"
    turns.insert(0, {"role": "system", "content": "Be brief."})
    assert processor.apply_chat_template(turns).startswith("Be brief. USER: <image>")


def test_images_are_padded_to_squares_where_training_did(tmp_path: Path) -> None:
    source = original(tmp_path / "original", LLAVA, aspect="pad")
    convert(source, tmp_path / "hf")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "hf")
    wide = Image.new("RGB", (2 * SIZE, SIZE), (255, 0, 0))
    pixels = processor.image_processor(wide, return_tensors="np")["pixel_values"][0]
    assert pixels.shape == (3, SIZE, SIZE)
    red = (1 - VISION.mean[0]) / VISION.std[0]
    np.testing.assert_allclose(pixels[0, SIZE // 2], red, rtol=1e-4)
    np.testing.assert_allclose(pixels[:, 0], 0, atol=0.02)  # the mean colour, in whole numbers


def test_a_source_without_a_tokenizer_is_said(tmp_path: Path, capsys) -> None:
    from rsvlm_jax.cli.main import main

    source = original(tmp_path / "original", LLAVA)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (source / name).unlink()
    assert main(["convert", str(source), str(tmp_path / "hf")]) == 0
    said = capsys.readouterr()
    assert f"no tokenizer in {source}: put one with <image> = {VOCAB}" in said.out + said.err
    assert transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf").crop_size["width"] == 24


def test_a_tokenizer_that_has_its_words_keeps_them(tmp_path: Path) -> None:
    """Padding and placeholder among the rows of the model: nothing grows."""
    source = original(tmp_path / "original", LLAVA)
    raw = json.loads((source / "tokenizer.json").read_text())
    for token, i in (("<image>", VOCAB - 2), ("<empty>", VOCAB - 1)):
        vocabulary = raw["model"]["vocab"]
        del vocabulary[f"▁unused{i}"]
        vocabulary[token] = i
        raw["added_tokens"].append({**raw["added_tokens"][0], "id": i, "content": token})
    (source / "tokenizer.json").write_text(json.dumps(raw))
    said = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**said, "pad_token": "<empty>"}))
    convert(source, tmp_path / "hf")
    one = open_pretrained(tmp_path / "hf")
    assert (one.image_token, one.config.decoder.vocab_size) == (VOCAB - 2, VOCAB)
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert (tokens.pad_token, tokens.pad_token_id) == ("<empty>", VOCAB - 1)
    assert len(tokens) == VOCAB
