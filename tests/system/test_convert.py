"""`rsvlm convert`: every pair of formats, both ways, and what it refuses."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import rsvlm_jax
from rsvlm_jax.cli.main import main
from rsvlm_jax.config import STORIES260K, ViTConfig
from rsvlm_jax.core import flat
from rsvlm_jax.interop.llama2c import WEIGHTS

TEXT: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 20,
    "hidden_size": 12,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}


def rsvlm(capsys: pytest.CaptureFixture, *args: object) -> dict[str, Any]:
    assert main(["convert", *map(str, args), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def refused(capsys: pytest.CaptureFixture, *args: object) -> tuple[int, str]:
    code = main(["convert", *map(str, args)])
    err = capsys.readouterr().err.strip().splitlines()[-1]
    return code, err


def shapes() -> dict[str, tuple[int, ...]]:
    """Of a LlavaForConditionalGeneration, names of 5.x."""
    d, m, v = 12, 16, 8
    made: dict[str, tuple[int, ...]] = {"language_model.lm_head.weight": (20, d)}
    made |= {"language_model.model.embed_tokens.weight": (20, d)}
    made |= {"language_model.model.norm.weight": (d,)}
    for i in range(2):
        p = f"language_model.model.layers.{i}."
        made |= {f"{p}self_attn.{n}_proj.weight": (4 if n in "kv" else d, d) for n in "qkvo"}
        made |= {f"{p}mlp.{n}_proj.weight": (m, d) for n in ("gate", "up")}
        made |= {f"{p}mlp.down_proj.weight": (d, m), f"{p}input_layernorm.weight": (d,)}
        made |= {f"{p}post_attention_layernorm.weight": (d,)}
        p = f"vision_tower.encoder.layers.{i}."
        for n, s in {"mlp.fc1": (m - 4, v), "mlp.fc2": (v, m - 4)}.items():
            made |= {f"{p}{n}.weight": s, f"{p}{n}.bias": s[:1]}
        for n in ("q", "k", "v", "out"):
            made |= {f"{p}self_attn.{n}_proj.weight": (v, v), f"{p}self_attn.{n}_proj.bias": (v,)}
        made |= {f"{p}layer_norm{n}.{e}": (v,) for n in (1, 2) for e in ("weight", "bias")}
    p = "vision_tower."
    made |= {
        f"{p}{n}.{e}": (v,) for n in ("pre_layrnorm", "post_layernorm") for e in ("weight", "bias")
    }
    made |= {p + "embeddings.class_embedding": (v,)}
    made |= {p + "embeddings.patch_embedding.weight": (v, 3, 8, 8)}
    made |= {p + "embeddings.position_embedding.weight": (5, v)}
    for i, s in ((1, (d, v)), (2, (d, d))):
        made |= {
            f"multi_modal_projector.linear_{i}.{e}": s[:n] for e, n in (("weight", 2), ("bias", 1))
        }
    return made


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    """A directory as transformers 5 writes it, with a processor's files beside the weights."""
    folder = tmp_path / "llava"
    folder.mkdir()
    rng = np.random.default_rng(0)
    arrays = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes().items()}
    save_file(arrays, folder / "model.safetensors")
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "text_config": TEXT,
        "vision_config": VISION,
        "image_token_index": 19,
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    return folder


def same_numbers(a: Path, b: Path) -> None:
    one, other = (flat(rsvlm_jax.load(p).params) for p in (a, b))
    assert one.keys() == other.keys()
    for path, x in one.items():
        np.testing.assert_array_equal(np.asarray(x), np.asarray(other[path]), err_msg=path)


def test_nothing_private_goes_along(llava: Path, tmp_path: Path, capsys) -> None:
    for secret in ("hf_token.txt", "token", "my_tokens.json"):
        (llava / secret).write_text("secret")
        (tmp_path / secret).write_text("secret")
    file = legacy(tmp_path / "stories.bin")
    (tmp_path / "tokenizer.json").write_text("{}")
    assert rsvlm(capsys, llava, tmp_path / "a")["beside"] == [
        "generation_config.json",
        "tokenizer_config.json",
    ]
    assert rsvlm(capsys, file, tmp_path / "b")["beside"] == []
    for out in ("a", "b"):
        assert not [p for p in (tmp_path / out).iterdir() if p.read_bytes() == b"secret"]


def test_the_tokenizer_of_a_run_goes_with_its_decoder(tmp_path: Path) -> None:
    from rsvlm_jax.run.beside import copy_beside

    (tmp_path / "run/processor").mkdir(parents=True)
    (tmp_path / "run/processor/tokenizer.json").write_text("{}")
    for config, beside in ((STORIES260K, ("tokenizer.json",)), (ViTConfig(), ())):
        out = tmp_path / type(config).__name__
        out.mkdir()
        assert copy_beside(tmp_path / "run", out, config) == beside


def test_names_of_5_become_names_of_4(llava: Path, tmp_path: Path, capsys) -> None:
    made = rsvlm(capsys, llava, tmp_path / "out")
    names = load_file(tmp_path / "out/model.safetensors").keys()
    assert "vision_tower.vision_model.pre_layrnorm.weight" in names
    assert made["architecture"] == "LlavaForConditionalGeneration"
    assert made["beside"] == ["generation_config.json", "tokenizer_config.json"]
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["text_config"]["eos_token_id"], config["pad_token_id"]) == (2, 0)
    same_numbers(llava, tmp_path / "out")


def test_to_the_original_layout_and_back(llava: Path, tmp_path: Path, capsys) -> None:
    made = rsvlm(capsys, llava, tmp_path / "original", "--to", "llava")
    assert made["architecture"] == "LlavaLlamaForCausalLM"
    names = load_file(tmp_path / "original/model.safetensors").keys()
    assert {"model.mm_projector.2.bias", "lm_head.weight"} <= names
    back = rsvlm(capsys, tmp_path / "original", tmp_path / "back")
    assert back["architecture"] == "LlavaForConditionalGeneration"
    same_numbers(llava, tmp_path / "back")
    a, b = (json.loads((p / "config.json").read_text()) for p in (llava, tmp_path / "back"))
    assert b["image_token_index"] == a["image_token_index"]
    assert b["text_config"]["eos_token_id"] == 2


def test_a_placeholder_beyond_the_vocabulary_is_given_a_row(
    llava: Path, tmp_path: Path, capsys
) -> None:
    """As LLaVA's own checkpoints, whose placeholder is no token."""
    rsvlm(capsys, llava, tmp_path / "original", "--to", "llava")
    file = tmp_path / "original/config.json"
    config = json.loads(file.read_text())
    del config["image_token_index"]
    file.write_text(json.dumps(config))
    rsvlm(capsys, tmp_path / "original", tmp_path / "back")
    one = rsvlm_jax.load(tmp_path / "back")
    assert (one.image_token, one.config.decoder.vocab_size) == (20, 64)
    table = np.asarray(one.params["decoder"]["embed"]["embedding"])
    np.testing.assert_allclose(table[20:], np.repeat(table[:20].mean(0)[None], 44, 0), atol=1e-6)


def test_bfloat16(llava: Path, tmp_path: Path, capsys) -> None:
    half = rsvlm(capsys, llava, tmp_path / "half", "--dtype", "bfloat16")
    assert half["dtype"] == "bfloat16"
    again = rsvlm(capsys, tmp_path / "half", tmp_path / "again")
    assert again["dtype"] == "bfloat16"  # nothing is widened that was not
    assert [p.read_bytes() for p in sorted((tmp_path / "half").glob("model*"))] == [
        p.read_bytes() for p in sorted((tmp_path / "again").glob("model*"))
    ]


@pytest.mark.parametrize(
    ("part", "name"), [("decoder", "LlamaForCausalLM"), ("vision", "CLIPVisionModel")]
)
def test_one_tower_of_a_llava(part: str, name: str, llava: Path, tmp_path: Path, capsys) -> None:
    assert rsvlm(capsys, llava, tmp_path / "out", "--part", part)["architecture"] == name
    one, whole = rsvlm_jax.load(tmp_path / "out"), rsvlm_jax.load(llava)
    for path, x in flat(one.params).items():
        np.testing.assert_array_equal(x, flat(whole.params[part])[path], err_msg=path)


def test_the_shipped_llama(tmp_path: Path, capsys) -> None:
    made = rsvlm(capsys, "asset:stories260k", tmp_path / "out")
    assert made["architecture"] == "LlamaForCausalLM"
    assert "tokenizer.json" in made["beside"]
    one = rsvlm_jax.load(tmp_path / "out")
    assert one.config.vocab_size == STORIES260K.vocab_size
    said = one.generate([[1]], max_new_tokens=48, ends=())
    torch = pytest.importorskip("torch", reason="torch")
    import transformers

    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out")
    told = theirs.generate(torch.tensor([[1]]), do_sample=False, max_new_tokens=48)
    np.testing.assert_array_equal(said.tokens[0], told[0, 1:].numpy())
    text = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "out/tokenizer.json"))
    assert text.decode(told[0, 1:]).startswith("Once upon a time")


def legacy(path: Path) -> Path:
    """The shipped model in llama2.c's own format."""
    arrays = load_file(WEIGHTS)
    c = STORIES260K
    numbers = (c.width, c.mlp_dim, c.layers, c.heads, c.kv_heads, 512, c.max_length)
    names = ("tok_embeddings", "rms_att", "wq", "wk", "wv", "wo", "rms_ffn", "w1", "w2", "w3")
    data = struct.pack("<7i", *numbers)
    for name in (*names, "rms_final"):
        data += arrays[name].astype("<f4").tobytes()
    path.write_bytes(data + bytes(4 * c.max_length * c.head_width))
    return path


def test_llama2cs_own_format(tmp_path: Path, capsys) -> None:
    rsvlm(capsys, legacy(tmp_path / "stories260K.bin"), tmp_path / "out")
    rsvlm(capsys, "asset:stories260k", tmp_path / "asset")
    a, b = (rsvlm_jax.load(tmp_path / n).params for n in ("out", "asset"))
    assert a["embed"]["embedding"].shape == (512, 64)
    a["embed"], b["embed"] = {}, {}
    for path, x in flat(b).items():
        np.testing.assert_array_equal(x, flat(a)[path], err_msg=path)


def openclip(path: Path) -> Path:
    rng = np.random.default_rng(0)
    v, m = 64, 80
    names: dict[str, tuple[int, ...]] = {
        "visual.conv1.weight": (v, 3, 8, 8),
        "visual.class_embedding": (v,),
        "visual.positional_embedding": (5, v),
        "visual.proj": (v, 10),
        "logit_scale": (),
    }
    block = "visual.transformer.resblocks.0."
    names |= {f"visual.{n}.{e}": (v,) for n in ("ln_pre", "ln_post") for e in ("weight", "bias")}
    names |= {f"{block}{n}.{e}": (v,) for n in ("ln_1", "ln_2") for e in ("weight", "bias")}
    names |= {f"{block}attn.in_proj_weight": (3 * v, v), f"{block}attn.in_proj_bias": (3 * v,)}
    for n, s in {"attn.out_proj": (v, v), "mlp.c_fc": (m, v), "mlp.c_proj": (v, m)}.items():
        names |= {f"{block}{n}.weight": s, f"{block}{n}.bias": s[:1]}
    save_file({k: np.asarray(rng.standard_normal(s), np.float32) for k, s in names.items()}, path)
    return path


def test_an_openclip_tower(tmp_path: Path, capsys) -> None:
    made = rsvlm(capsys, openclip(tmp_path / "RemoteCLIP.safetensors"), tmp_path / "out")
    assert made["architecture"] == "CLIPVisionModelWithProjection"
    assert made["ignored"] == ["logit_scale"]
    one = rsvlm_jax.load(tmp_path / "out")
    assert one.config.activation == "gelu"
    assert one.config.projection_dim == 10


def projector(path: Path) -> Path:
    rng = np.random.default_rng(0)
    sizes = {"0.weight": (12, 8), "0.bias": (12,), "2.weight": (12, 12), "2.bias": (12,)}
    arrays = {k: rng.standard_normal(s).astype(np.float32) for k, s in sizes.items()}
    save_file({f"model.mm_projector.{k}": v for k, v in arrays.items()}, path)
    return path


@pytest.mark.parametrize("half", [False, True])
def test_a_projector_by_itself(half: bool, tmp_path: Path, capsys) -> None:
    torch = pytest.importorskip("torch", reason="torch")
    arrays = load_file(projector(tmp_path / "mm_projector.safetensors"))
    kind, name = (torch.bfloat16, "bfloat16") if half else (torch.float32, "float32")
    tensors = {k: torch.from_numpy(v).to(kind) for k, v in arrays.items()}
    torch.save(tensors, tmp_path / "mm_projector.bin")
    made = rsvlm(capsys, tmp_path / "mm_projector.bin", tmp_path / "x.safetensors",
                 "--allow-pickle")  # fmt: skip
    assert (made["architecture"], made["dtype"]) == ("mm_projector", name)
    assert made["parameters"] == sum(v.size for v in arrays.values())
    again = load_torch(tmp_path / "x.safetensors")
    assert again.keys() == tensors.keys()
    for key, value in tensors.items():
        assert torch.equal(again[key], value), key


def load_torch(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(path)


REFUSED: dict[str, tuple[Any, int, str]] = {
    "a projector into a directory": (
        lambda llava, tmp: [projector(tmp / "x.safetensors"), tmp / "out"],
        2,
        "a projector by itself becomes one file in",
    ),
    "a pickled projector": (
        lambda llava, tmp: [_bytes(tmp / "x.bin", b"\x80\x02}q\x00."), tmp / "out"],
        4,
        "allow_pickle (--allow-pickle): by torch's weights-only loader",
    ),
    "a target that holds something": (
        lambda llava, tmp: [llava, llava],
        2,
        "the target holds something",
    ),
    "nothing there": (lambda llava, tmp: [tmp / "nothing", tmp / "out"], 4, "not a run directory"),
    "the layout of LLaVA for a bare tower": (
        lambda llava, tmp: ["asset:stories260k", tmp / "out", "--to", "llava"],
        2,
        "only a LLaVA has this layout in --to llava; found LlamaForCausalLM",
    ),
    "an adapter for a single file": (
        lambda llava, tmp: ["asset:stories260k", tmp / "out", "--adapter", llava],
        2,
        "not read with one file in --adapter",
    ),
    "a part of a single file": (
        lambda llava, tmp: ["asset:stories260k", tmp / "out", "--part", "vision"],
        2,
        "not read with one file in --part; found vision",
    ),
    "another format of llama2.c": (
        lambda llava, tmp: [_bytes(tmp / "x.bin", b"24ka" + bytes(252)), tmp / "out"],
        4,
        "a later format of llama2.c",
    ),
    "a llama2.c that was cut off": (
        lambda llava, tmp: [_cut(legacy(tmp / "x.bin")), tmp / "out"],
        4,
        "a damaged checkpoint",
    ),
    "a pickle": (
        lambda llava, tmp: [_bytes(tmp / "x.pt", b"\x80\x02}q\x00."), tmp / "out"],
        4,
        "pickle",
    ),
}


def _bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _cut(path: Path) -> Path:
    return _bytes(path, path.read_bytes()[:-8])


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str, llava: Path, tmp_path: Path, capsys) -> None:
    args, code, line = REFUSED[name]
    before = sorted(p.name for p in llava.iterdir())
    got, err = refused(capsys, *args(llava, tmp_path))
    assert (got, err.startswith("error: ")) == (code, True)
    assert line in err
    assert sorted(p.name for p in llava.iterdir()) == before
    assert not (tmp_path / "out").exists()
