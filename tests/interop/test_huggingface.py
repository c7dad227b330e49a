"""Directories in and out: what all families share, tested with a toy one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file
from toy import TOY, ToyConfig

from rsvlm_jax.config import CheckpointError, ConfigError, MeshConfig
from rsvlm_jax.core import flat
from rsvlm_jax.interop.families import FAMILIES
from rsvlm_jax.interop.huggingface import Imported, load_pretrained, save_pretrained
from rsvlm_jax.mesh.build import make_mesh

C = ToyConfig()
W = toy.weights(C)
TIED = ToyConfig(tied=True)


def same(made: Any, wanted: dict[str, np.ndarray]) -> None:
    found = flat(made)
    assert found.keys() == wanted.keys()
    for path, x in wanted.items():
        np.testing.assert_array_equal(found[path], x, err_msg=path)


def refused(folder: Path, *words: str, **options: Any) -> str:
    """The one line with which it is refused; it names the folder and says all the words."""
    with pytest.raises(CheckpointError) as e:
        load_pretrained(folder, **options)
    line = str(e.value)
    assert "\n" not in line
    for word in (folder.name, *words):
        assert word in line, line
    return line


# ---- in and out --------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [C, ToyConfig(bias=False), TIED, ToyConfig(layers=1)], ids=repr)
def test_load(tmp_path: Path, c: ToyConfig) -> None:
    w = toy.weights(c)
    made = load_pretrained(toy.save(tmp_path / "toy", c, w))
    assert isinstance(made, Imported)
    assert (made.family, made.config) == (TOY, c)
    assert (made.report.read, made.report.ignored, made.report.missing) == (len(w), (), ())
    same(made.params, toy.params(c, w))
    same(nnx.to_pure_dict(nnx.state(made.model, nnx.Param)), toy.params(c, w))
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(made.params))


@pytest.mark.parametrize("shard_bytes", [10**9, 5000])
def test_import_export_import_is_the_identity(tmp_path: Path, shard_bytes: int) -> None:
    made = load_pretrained(toy.save(tmp_path / "toy"))
    out = save_pretrained(
        tmp_path / "out", "ToyForCausalLM", made.config, made.params, shard_bytes=shard_bytes
    )
    assert out == tmp_path / "out"
    found = {name: x for f in out.glob("*.safetensors") for name, x in load_file(f).items()}
    assert found.keys() == W.keys()
    for name, x in W.items():
        np.testing.assert_array_equal(found[name].view(np.uint32), x.view(np.uint32))
    again = load_pretrained(out)
    assert again.config == made.config
    same(again.params, flat(made.params))


def test_exported_config(tmp_path: Path) -> None:
    made = load_pretrained(toy.save(tmp_path / "toy"))
    raw = json.loads(
        (save_pretrained(tmp_path / "out", "ToyForCausalLM", C, made.params) / "config.json")
        .read_text()
    )  # fmt: skip
    assert raw["architectures"] == ["ToyForCausalLM"]
    assert raw["model_type"] == "toy"
    assert raw["torch_dtype"] == "float32"
    assert raw["hidden_size"] == C.width


def test_bfloat16(tmp_path: Path) -> None:
    """Stored in it, read from it, and written in it, bit by bit."""
    half = toy.bfloat16(W)
    folder = toy.save(tmp_path / "half", C, half)
    made = load_pretrained(folder, dtype="bfloat16")
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(made.params))
    same(made.params, toy.params(C, half))
    wide = load_pretrained(folder)
    same(wide.params, toy.params(C, {k: v.astype(np.float32) for k, v in half.items()}))
    narrow = load_pretrained(toy.save(tmp_path / "full"), dtype=jnp.bfloat16)
    same(narrow.params, toy.params(C, half))
    for name, params, dtype in (("a", made.params, None), ("b", wide.params, "bfloat16")):
        out = save_pretrained(tmp_path / name, "ToyForCausalLM", C, params, dtype=dtype)
        for key, x in load_file(out / "model.safetensors").items():
            np.testing.assert_array_equal(x.view(np.uint16), half[key].view(np.uint16))
        assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_another_dtype_is_refused(tmp_path: Path) -> None:
    folder = toy.save(tmp_path / "toy")
    with pytest.raises(ConfigError, match="expected float32 or bfloat16; found float16"):
        load_pretrained(folder, dtype="float16")


def test_sharded(tmp_path: Path) -> None:
    """The same numbers on eight devices, and the same files from there."""
    mesh = make_mesh(MeshConfig(2, 2, 2))

    def place(params: Any) -> Any:
        spec = {1: (), 2: (None, "fsdp"), 3: (None, "fsdp", "tensor")}
        return jax.tree.map(lambda x: NamedSharding(mesh, PartitionSpec(*spec[x.ndim])), params)

    made = load_pretrained(toy.save(tmp_path / "toy"), place=place)
    same(made.params, toy.params(C, W))
    kernel = made.params["layers"]["up"]["kernel"]
    assert kernel.sharding.spec == PartitionSpec(None, "fsdp", "tensor")
    assert {s.data.shape for s in kernel.addressable_shards} == {(3, 8, 16)}
    out = save_pretrained(tmp_path / "out", "ToyForCausalLM", C, made.params)
    for name, x in load_file(out / "model.safetensors").items():
        np.testing.assert_array_equal(x, W[name])


def test_canonical_names(tmp_path: Path) -> None:
    """Every spelling of the family's versions is read."""
    folder = toy.save(tmp_path / "toy", C, {f"wrapped.{k}": v for k, v in W.items()})
    same(load_pretrained(folder).params, toy.params(C, W))
    folder = toy.save(tmp_path / "twice", C, W | {"wrapped.head.weight": W["head.weight"]})
    refused(folder, "two tensors of one name", "head.weight")


def test_architecture_by_hand_and_by_model_type(tmp_path: Path) -> None:
    folder = toy.save(tmp_path / "toy", architectures=["Other"])
    same(load_pretrained(folder, architecture="ToyForCausalLM").params, toy.params(C, W))
    folder = toy.save(tmp_path / "bare", architectures=None)
    assert load_pretrained(folder).family is TOY


# ---- more or less than the model ---------------------------------------------------------------


def test_what_may_be_missing_is_initialised_and_listed(tmp_path: Path) -> None:
    w = {k: v for k, v in W.items() if "head" not in k and ".up." not in k}
    folder = toy.save(tmp_path / "toy", C, w)
    refused(folder, "missing there (4)", "head.weight (head/kernel)", "model.layers.2.up.weight")
    made = load_pretrained(folder, may_lack=["head/", "layers/up/"], seed=3, dtype="bfloat16")
    assert made.report.missing == ("head/kernel", "layers/up/kernel")
    new = jax.jit(lambda: nnx.to_pure_dict(nnx.state(TOY.build(C, nnx.Rngs(3)), nnx.Param)))
    fresh = flat(new())
    for path in made.report.missing:
        x = flat(made.params)[path]
        assert x.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            x.astype(jnp.float32), fresh[path].astype(jnp.bfloat16).astype(jnp.float32), rtol=1e-2
        )
    again = load_pretrained(folder, may_lack=["head/", "layers/up/"], seed=3, dtype="bfloat16")
    same(again.params, flat(made.params))


def test_what_is_initialised_is_placed(tmp_path: Path) -> None:
    mesh = make_mesh(MeshConfig(1, 8, 1))
    split = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    whole = NamedSharding(mesh, PartitionSpec())
    folder = toy.save(tmp_path / "toy", C, {k: v for k, v in W.items() if "head" not in k})
    made = load_pretrained(
        folder, may_lack=["head/"], place=lambda p: jax.tree.map(lambda _: whole, p) | {
            "head": {"kernel": split}}
    )  # fmt: skip
    assert made.params["head"]["kernel"].sharding.is_equivalent_to(split, 2)
    assert made.params["norm"]["scale"].sharding == whole


def test_parts_that_an_adjusted_model_lacks_are_ignored_and_listed(tmp_path: Path) -> None:
    less = dataclasses.replace(C, pool=False)
    made = load_pretrained(
        toy.save(tmp_path / "toy"), adjust=lambda c: dataclasses.replace(c, pool=False)
    )
    assert made.config == less
    assert sorted(made.report.ignored) == ["model.norm.bias", "model.norm.weight"]
    same(made.params, toy.params(less, W))


def test_buffers_are_ignored_and_listed(tmp_path: Path) -> None:
    w = W | {"model.buffer": np.arange(3)}
    assert load_pretrained(toy.save(tmp_path / "toy", C, w)).report.ignored == ("model.buffer",)


def test_a_renamed_layer(tmp_path: Path) -> None:
    w = {k.replace("layers.1.up", "layers.1.upwards"): v for k, v in W.items()}
    refused(
        toy.save(tmp_path / "toy", C, w),
        "missing there (1): model.layers.1.up.weight (layers/up/kernel)",
        "unused (1): model.layers.1.upwards.weight",
    )


def test_another_model(tmp_path: Path) -> None:
    folder = toy.save(tmp_path / "toy", hidden_size=8, num_hidden_layers=2)
    refused(folder, "of another shape", "unused (6)", "model.layers.2.norm.weight")


def test_a_tied_head_that_is_the_embedding_is_accepted(tmp_path: Path) -> None:
    w = toy.weights(TIED)
    w["head.weight"] = w["model.embed.weight"].copy()
    made = load_pretrained(toy.save(tmp_path / "toy", TIED, w))
    assert made.report.ignored == ("head.weight",)
    same(made.params, toy.params(TIED, w))


@pytest.mark.parametrize("change", ["a number", "the sign of zero", "dtype", "shape"])
def test_a_tied_head_that_differs_is_refused(tmp_path: Path, change: str) -> None:
    w = toy.weights(TIED)
    w["model.embed.weight"][3, 3] = 0
    head = w["model.embed.weight"].copy()
    if change == "dtype":
        head = head.astype(np.float64)
    elif change == "shape":
        head = head[:-1]
    else:
        head[3, 3] = 1 if change == "a number" else -0.0
    folder = toy.save(tmp_path / "toy", TIED, w | {"head.weight": head})
    refused(folder, "tied in config.json", "head.weight", "the same as model.embed.weight")


# ---- config.json -------------------------------------------------------------------------------


def test_no_config(tmp_path: Path) -> None:
    folder = toy.save(tmp_path / "toy")
    (folder / "config.json").unlink()
    refused(folder, "a file is missing", "config.json")
    refused(tmp_path / "nowhere", "no such directory")
    refused(folder / "model.safetensors", "a file where a directory was expected")


@pytest.mark.parametrize("text", ["", "{", "<html>404</html>", "[1]", "null", "[" * 100_000])
def test_a_config_that_is_no_json(tmp_path: Path, text: str) -> None:
    folder = toy.save(tmp_path / "toy")
    (folder / "config.json").write_text(text)
    assert "JSON" in refused(folder, "config.json")


def test_a_config_with_code_of_its_own(tmp_path: Path) -> None:
    """It is not run; nor is it when the class is one that we know."""
    sentinel = tmp_path / "sentinel"
    auto = {"AutoModel": "modeling.Model"}
    for name, changes in (
        ("outer", {"auto_map": auto}),
        ("inner", {"text_config": {"auto_map": auto}}),
    ):
        folder = toy.save(tmp_path / name, **changes)
        (folder / "modeling.py").write_text(f"open({str(sentinel)!r}, 'w')")
        refused(folder, "config.json", "code of its own, which is never run", "auto_map")
        refused(folder, "never run", architecture="ToyForCausalLM")
    assert not sentinel.exists()


def test_an_unknown_architecture(tmp_path: Path) -> None:
    folder = toy.save(tmp_path / "toy", architectures=["ToyForCausalML"])
    refused(
        folder, "config.json: architectures", "found 'ToyForCausalML'",
        "did you mean 'ToyForCausalLM'?",
    )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"an unknown model .*did you mean 'ToyForCausalLM'"):
        load_pretrained(folder, architecture="ToyCausalLM")
    with pytest.raises(CheckpointError, match=r"an unknown model .*did you mean 'ToyForCausalLM'"):
        save_pretrained(tmp_path / "out", "ToyCausalLM", C, {})


@pytest.mark.parametrize("kind", ["toyy", None, 5])
def test_an_unknown_model_type(tmp_path: Path, kind: Any) -> None:
    folder = toy.save(tmp_path / "toy", architectures=None, model_type=kind)
    line = refused(folder, "config.json: model_type", f"found '{kind}'")
    assert ("did you mean 'toy'?" in line) == (kind == "toyy")


def test_an_unknown_model_type_beside_a_known_class(tmp_path: Path) -> None:
    folder = toy.save(tmp_path / "toy", model_type="toy_v2")
    refused(folder, "an unknown model", "config.json: model_type", "found 'toy_v2'")


@pytest.mark.parametrize("size", [-16, 0, 2**31, 10**30, -(2**70)])
@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_negative_and_absurd_sizes(tmp_path: Path, key: str, size: int) -> None:
    folder = toy.save(tmp_path / "toy", **{key: size})
    refused(folder, "config.json: ToyConfig.", "expected 1 .. 2^31 - 1", f"found {size}")


@pytest.mark.parametrize("size", [2**31 - 1, 10**6])
@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_sizes_that_no_memory_holds(tmp_path: Path, key: str, size: int) -> None:
    """Nothing is built or listed before it fits the file."""
    line = refused(toy.save(tmp_path / "toy", **{key: size}))
    assert "do not fit" in line or "no model can be built" in line


@pytest.mark.parametrize("value", ["big", [16], {}, 16.5])
def test_sizes_that_are_no_numbers(tmp_path: Path, value: Any) -> None:
    refused(toy.save(tmp_path / "toy", hidden_size=value))


def test_a_missing_key(tmp_path: Path) -> None:
    folder = toy.save(tmp_path / "toy", hidden_size=None)
    refused(folder, "config.json", "a key is missing", "expected hidden_size")


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize(
    "how", [{"quant_method": "bitsandbytes", "load_in_4bit": True}, {"bits": 4}]
)
def test_quantised_weights(tmp_path: Path, how: dict[str, Any], inner: bool) -> None:
    changes: dict[str, Any] = {"quantization_config": how}
    folder = toy.save(tmp_path / "toy", **({"text_config": changes} if inner else changes))
    refused(folder, "quantised", "config.json", str(how.get("quant_method", "unnamed")))


def test_weights_that_are_no_floats(tmp_path: Path) -> None:
    w = W | {"head.weight": W["head.weight"].astype(np.int8)}
    refused(toy.save(tmp_path / "toy", C, w), "no floating-point numbers", "head.weight (int8)")


# ---- the tokenizer beside the weights ----------------------------------------------------------


def bpe(largest: int, added: int | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"model": {"type": "BPE", "vocab": {f"t{i}": i for i in
                                                               range(largest + 1)}}}  # fmt: skip
    if added is not None:
        made["added_tokens"] = [{"id": added, "content": "<image>"}]
    return made


def unigram(count: int) -> dict[str, Any]:
    return {"model": {"type": "Unigram", "vocab": [[f"t{i}", -1.0] for i in range(count)]}}


TOKENIZERS: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "as large as the embedding": ("tokenizer.json", bpe(23), None),
    "one more": ("tokenizer.json", bpe(24), "'t24' = 24"),
    "an added token within": ("tokenizer.json", bpe(5, 23), None),
    "an added token beyond": ("tokenizer.json", bpe(5, 24), "'<image>' = 24"),
    "unigram": ("tokenizer.json", unigram(24), None),
    "unigram, one more": ("tokenizer.json", unigram(25), "'t24' = 24"),
    "added_tokens.json": ("added_tokens.json", {"<pad>": 23}, None),
    "added_tokens.json beyond": ("added_tokens.json", {"<pad>": 24}, "'<pad>' = 24"),
    "vocab.json beyond": ("vocab.json", {"a": 99}, "'a' = 99"),
    "tokenizer_config.json": (
        "tokenizer_config.json",
        {"added_tokens_decoder": {"23": {"content": "<s>"}}, "model_max_length": 10**30},
        None,
    ),
    "tokenizer_config.json beyond": (
        "tokenizer_config.json",
        {"added_tokens_decoder": {"24": {"content": "<s>"}}},
        "'<s>' = 24",
    ),
    "damaged": ("tokenizer.json", {"model": 5}, "a damaged tokenizer"),
    "empty": ("tokenizer.json", {"model": {"vocab": {}}}, None),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokenizer_and_embedding(tmp_path: Path, case: str) -> None:
    name, data, words = TOKENIZERS[case]
    folder = toy.save(tmp_path / "toy")
    (folder / name).write_text(json.dumps(data))
    if words is None:
        load_pretrained(folder)
    else:
        line = refused(folder, name, words)
        if "=" in words:
            assert "larger than the embedding" in line
            assert "expected ids below vocab_size 24" in line


# ---- pickles, and what is not written -----------------------------------------------------------


def test_pickles_only_with_the_flag(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    folder = toy.save(tmp_path / "toy")
    (folder / "model.safetensors").unlink()
    torch.save({k: torch.from_numpy(v) for k, v in W.items()}, folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin", "a pickle can run any program")
    same(load_pretrained(folder, allow_pickle=True).params, toy.params(C, W))


def test_a_model_that_the_class_cannot_hold_is_not_written(tmp_path: Path) -> None:
    less = dataclasses.replace(C, pool=False)
    params = load_pretrained(toy.save(tmp_path / "toy"), adjust=lambda _: less).params
    with pytest.raises(CheckpointError, match="expected also norm/bias, norm/scale"):
        save_pretrained(tmp_path / "out", "ToyForCausalLM", less, params)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    folder = toy.save(tmp_path / "toy")
    made = load_pretrained(folder)
    with pytest.raises(CheckpointError, match="holds a checkpoint"):
        save_pretrained(folder, "ToyForCausalLM", made.config, made.params)
    save_file({}, tmp_path / "x.safetensors")
    same(load_pretrained(folder).params, toy.params(C, W))


def test_names_of_families() -> None:
    assert all(name == family.architecture for name, family in FAMILIES.items())
