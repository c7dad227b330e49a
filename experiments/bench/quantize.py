"""What quantised weights cost, and what they save.

On the shipped 260k Llama, weights in int8 (`int8`: its layers, `int8_all`: all of it) and in nf4
(its layers but `mlp/down`, whose 172 inputs are no whole blocks of 64: int8 there), and float
weights with the cache's keys and values in int8 (`int8_keys`; heads of 8 features, so that its
scales weigh much):

    perplexity   of the little stories below, which are in no training set, and of text that the
                 float model itself wrote (sampled at temperature 1): against the float model's
    agreement    of the most probable next token after every prefix of that text; and the share of
                 greedy continuations, of its beginnings, that comes before the first difference

So small a model is the hardest case: a rounding error has few others to average out with. Goals
follow what was measured when they were set, with room for another version of XLA.

On a synthetic Llama of 0.2 GB: the anonymous memory that reading takes at most, over the bytes of
the float model (`import_memory` says how it is counted), and beside it that of the few programs
which make codes, compiled before: a matter of their number, not of the model's size.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .figure import Figure
from .import_memory import SAMPLER, run

STORIES = """
Once upon a time, there was a little snail named Nori. Nori had a small blue shell. Every
morning he looked at the big hill and said, "One day I will go to the top." His friends laughed.
"You are too slow," they said. But Nori did not stop. He went up a little each day. When it
rained, he slept in his shell. After many days, Nori was at the top. He could see the whole
garden. He was very happy.

Ben and Mia found an old box under the bed. The box was dusty and it had a lock. "What is in
it?" asked Mia. Ben did not know. They looked for the key in the kitchen and in the garden. Then
their grandma came and smiled. She had the key on a string. She opened the box. Inside there
were letters and a red toy train. "This was my train when I was small," she said. They played
with it all day.

One day, a little boat wanted to see the sea. The boat lived on a pond with ducks. "The sea is
very big," said the oldest duck. "Are you not scared?" The boat was a bit scared, but it went
down the river. The water was fast and loud. At last the boat saw the sea. It was blue and it
had no end. The boat said, "Wow!" Then it went home to tell the ducks.

There was a girl named Sara who liked to paint. She had three colors: red, yellow and blue. She
wanted to paint a green tree, but she had no green. Sara was sad. Her dad said, "Put the yellow
and the blue together." Sara did it and saw green! She painted a big tree with red apples. Her
dad put it on the wall. Sara gave him a hug.

Tom had a kite with a long tail. It was windy, so he ran to the park. The kite went up and up.
Then the string broke and the kite flew into a tall tree. Tom started to cry. A big bird heard
him. "Do not cry," said the bird. It took the kite in its beak and brought it down. Tom said
thank you and gave the bird some bread. After that, they were friends.

It was night and a small fox could not sleep. She heard a noise outside: tap, tap, tap. "Who is
there?" she asked. Nobody said a word. The fox went to look. It was only the rain on a leaf. The
fox laughed. She went back to her warm bed and the rain sang to her until she slept.

Lucy planted a seed in a cup. She gave it water every day, but nothing came. "Maybe it is
asleep," said her brother. Lucy sang a song to the seed. The next day there was a tiny green
leaf. Lucy jumped up and down. The plant grew and grew until it was as tall as Lucy. In the
summer it had a yellow flower as big as the sun.

A man had a donkey who would not walk. He pulled and pushed, but the donkey stood still. A boy
came by with a carrot. He held it in front of the donkey. The donkey took one step, then
another. They walked to the market like this. The man thanked the boy, and the donkey ate the
carrot. It was a good day for all of them.
"""
"""Written for this file; an empty line between two."""

LENGTH = 192
"""Positions of a text; longer ones are cut."""

SAMPLED = 32
PROMPT, NEW = 12, 64
NF4 = r"^layers/(attention/.|mlp/(gate|up))/kernel$"

BIG = {"vocab_size": 4096, "width": 1024, "layers": 4, "heads": 16, "kv_heads": 16}
BIG |= {"mlp_dim": 2816, "max_length": 512, "tie_embeddings": False}

WRITE = """
import json, sys
import jax
from flax import nnx
from rsvlm_jax.config import LlamaConfig
from rsvlm_jax.interop.huggingface import save_pretrained
from rsvlm_jax.models.llama import Llama

config = LlamaConfig(**json.loads(sys.argv[2]))
state = jax.jit(lambda: nnx.state(Llama(config, rngs=nnx.Rngs(0)), nnx.Param))()
save_pretrained(sys.argv[1], "LlamaForCausalLM", config, nnx.to_pure_dict(state))
"""

READ = """
import jax
from rsvlm_jax.nn.quantize import encode
from rsvlm_jax.run.load import load

kind = None if sys.argv[2] == "float" else sys.argv[2]
sizes = json.loads(sys.argv[3])
jax.block_until_ready(jax.jit(lambda x: x + 1)(jax.numpy.zeros(8)))
before = anonymous()
for shape in {(a, b) for a in sizes for b in sizes} if kind else ():
    encode("kernel", jax.numpy.zeros(shape), kind)
programs = anonymous() - before
reading = Peak()
made = load(sys.argv[1], quantize=kind)
peak, seconds = reading.stop()
size = sum(x.nbytes for x in jax.tree.leaves(made.params))
print(json.dumps({"bytes": size, "peak": peak, "seconds": seconds, "programs": programs}))
"""

GOALS = {
    "int8": {"bytes": 0.37, "perplexity": 1.01, "agreement": 0.97},
    "int8_all": {"bytes": 0.27, "perplexity": 1.01, "agreement": 0.97},
    "nf4": {"bytes": 0.28, "perplexity": 1.12, "agreement": 0.8},
    "int8_keys": {"bytes": 0.4, "perplexity": 1.01, "agreement": 0.96},
}
PEAKS = {"float": 1.1, "int8": 0.45, "nf4": 0.35}


def figures() -> Iterator[Figure]:
    yield from _cost()
    yield from _memory()


def _cost() -> Iterator[Figure]:
    from rsvlm_jax.config import DECODER_WEIGHTS
    from rsvlm_jax.data.tokenizer import Tokenizer
    from rsvlm_jax.nn import quantize

    plain = _model()
    held_out = [
        Tokenizer.shipped().encode(" ".join(story.split()), bos=True)[:LENGTH]
        for story in STORIES.split("\n\n")
    ]
    texts = {"stories": _rows(held_out), "own": _rows(_written_by(plain))}
    models = {
        "float": plain,
        "int8": quantize(_model(), "int8"),
        "int8_all": quantize(_model(), "int8", targets=DECODER_WEIGHTS),
        "nf4": quantize(quantize(_model(), "nf4", targets=NF4), "int8", targets="down/kernel$"),
    }
    scored = {
        (name, of): _scores(model, *rows)
        for name, model in models.items()
        for of, rows in texts.items()
    }
    scored |= {("int8_keys", of): _scores(plain, *rows, "int8") for of, rows in texts.items()}
    begun = np.concatenate([rows[0] for rows in texts.values()])
    continued = {name: _greedy(model, begun) for name, model in models.items()}
    continued["int8_keys"] = _greedy(plain, begun, "int8")
    sizes = {name: _bytes(model) for name, model in models.items()}
    sizes["int8_keys"] = _bytes(plain.empty_cache(1, LENGTH, "int8"))
    sizes["float_keys"] = _bytes(plain.empty_cache(1, LENGTH, "float32"))
    for of in texts:
        yield Figure(f"quantize.float.perplexity_{of}", scored["float", of][0])
    for name, goal in GOALS.items():
        size = sizes["float_keys" if name == "int8_keys" else "float"]
        yield Figure(
            f"quantize.{name}.bytes", sizes[name] / size, "of_float", at_most=goal["bytes"]
        )
        for of in texts:
            (before, best), (after, now) = scored["float", of], scored[name, of]
            yield Figure(
                f"quantize.{name}.perplexity_{of}", after / before, "of_float",
                at_most=goal["perplexity"],
            )  # fmt: skip
            yield Figure(
                f"quantize.{name}.agreement_{of}", float((best == now).mean()), "of_tokens",
                at_least=goal["agreement"],
            )  # fmt: skip
        same = np.cumprod(continued[name] == continued["float"], axis=1)
        yield Figure(f"quantize.{name}.same_continuation", float(same.mean()), "of_tokens")


def _model() -> Any:
    """A new one: `quantize` changes what it is given."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from rsvlm_jax.config import STORIES260K
    from rsvlm_jax.interop.llama2c import load_llama2c
    from rsvlm_jax.models.llama import Llama

    graphdef = nnx.graphdef(nnx.eval_shape(lambda: Llama(STORIES260K, rngs=nnx.Rngs(0))))
    return nnx.merge(graphdef, jax.tree.map(jnp.asarray, load_llama2c(STORIES260K)))


def _bytes(model: Any) -> int:
    import jax

    return sum(x.nbytes for x in jax.tree.leaves(model))


def _rows(texts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Ids [N, LENGTH] and which of them are text."""
    ids = np.zeros((len(texts), LENGTH), np.int32)
    valid = np.zeros(ids.shape, bool)
    for row, here, text in zip(ids, valid, texts, strict=True):
        row[: len(text)], here[: len(text)] = text, True
    return ids, valid


def _written_by(model: Any) -> np.ndarray:
    """Texts [SAMPLED, LENGTH] at temperature 1, whatever ends in them."""
    from rsvlm_jax.config import GenerationConfig

    begin = np.full((SAMPLED, 1), 1, np.int32)
    config = GenerationConfig(max_new_tokens=LENGTH - 1, temperature=1.0, seed=0)
    return np.concatenate([begin, _generated(model, begin, config)], axis=1)


def _greedy(model: Any, texts: np.ndarray, keys: str | None = None) -> np.ndarray:
    """Continuations [N, NEW] of the first `PROMPT` tokens of texts."""
    from rsvlm_jax.config import GenerationConfig

    return _generated(model, texts[:, :PROMPT], GenerationConfig(max_new_tokens=NEW), keys)


def _generated(model: Any, prompt: np.ndarray, config: Any, keys: str | None = None) -> np.ndarray:
    import jax.numpy as jnp

    from rsvlm_jax.generate import generate

    rows, length = prompt.shape
    slots = length + config.max_new_tokens
    cache = None if keys is None else model.empty_cache(rows, slots, keys)
    embedded, valid = model.embed(jnp.asarray(prompt)), np.ones(prompt.shape, bool)
    made = generate(model, embedded, valid, config=config, eos=(), cache=cache)
    return np.asarray(made.tokens)


def _scores(
    model: Any, ids: np.ndarray, valid: np.ndarray, keys: str | None = None
) -> tuple[float, np.ndarray]:
    """The perplexity of texts, and the most probable token after each of their prefixes.

    Args:
      keys: dtype of the cache that keys and values go through; None: there is none.
    """
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from rsvlm_jax.nn import cache_mask, causal_segment_mask

    graphdef, state = nnx.split(model)

    @jax.jit
    def scores(state: Any) -> Any:
        decoder = nnx.merge(graphdef, state)
        tokens = jnp.asarray(ids)
        position = jnp.broadcast_to(jnp.arange(LENGTH, dtype=jnp.int32), tokens.shape)
        if keys is None:
            mask = causal_segment_mask(jnp.asarray(valid, jnp.int32), position)
            hidden = decoder(decoder.embed(tokens), mask, position)
        else:
            cache = decoder.empty_cache(len(ids), LENGTH, keys).claim(jnp.asarray(valid))
            mask = cache_mask(cache.length, LENGTH, cache.valid)
            hidden, _ = decoder(decoder.embed(tokens), mask, position, cache)
        logits = jax.nn.log_softmax(decoder.logits(hidden)[:, :-1])
        told = jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1)[..., 0]
        return told, logits.argmax(axis=-1)

    told, best = (np.asarray(x)[valid[:, 1:]] for x in scores(state))
    return float(np.exp(-told.mean(dtype=np.float64))), best


def _memory() -> Iterator[Figure]:
    sizes = json.dumps([BIG["width"], BIG["mlp_dim"]])
    with tempfile.TemporaryDirectory() as folder:
        source = str(Path(folder) / "llama")
        run(WRITE, source, json.dumps(BIG))
        made = {kind: run(SAMPLER + READ, source, kind, sizes) for kind in PEAKS}
    size = made["float"]["bytes"]
    yield Figure("quantize.read.float", size / 1e6, "MB")
    for kind, found in made.items():
        yield Figure(f"quantize.read.{kind}_bytes", found["bytes"] / size, "of_float")
        yield Figure(
            f"quantize.read.{kind}_peak", found["peak"] / size, "of_float", at_most=PEAKS[kind]
        )
        yield Figure(f"quantize.read.{kind}_programs", found["programs"] / 1e6, "MB")
        yield Figure(f"quantize.read.{kind}_seconds", found["seconds"], "s")
