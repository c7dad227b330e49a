"""The data of conversation training: what of a batch is real, and how fast batches come.

share      positions that are no padding, of an epoch: rows of one length ("padded"), grouped into
           batches of similar length, packed into rows of 2,048. On the shipped RSVQA questions, and
           on lengths drawn like those of LLaVA-1.5's mixture: 576 visual tokens and a text of
           log-normal length, one in sixteen of text alone.
programs   shapes of the batches of an epoch: each compiles once
pictures   frames of the packed batches that hold a picture; the others give all batches one shape
pipeline   conversations a second: tokens, PNG of 256 x 256 decoded, resized to 336 with Pillow;
           `bare`: the same pictures by `ChatProcessor.pixels` from as many threads, no tokens, no
           batch. `kept`: the pipeline when all pictures stay in memory, as they do up to 256 MB.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rsvlm_jax.config import ConversationConfig, ImageConfig, nano
from rsvlm_jax.data import gallery
from rsvlm_jax.data.chat import ChatProcessor
from rsvlm_jax.data.plan import Plan, Tokens
from rsvlm_jax.data.talk import TalkSource, talk_batches

from .figure import Figure

BATCH, LENGTH, THREADS, ROUNDS = 16, 2048, 2, 5
CONVERSATIONS = 20_000
KINDS = {
    "padded": {"pack": False, "group": False},
    "grouped": {"pack": False, "group": True},
    "packed": {"pack": True, "group": True},
}


def figures() -> Iterator[Figure]:
    processor = _processor()
    source = TalkSource.of(ConversationConfig(length=LENGTH), processor, "train")
    yield from _shares("rsvqa", source.tokens, source.images, BATCH)
    yield from _shares("mixture", *_mixture(), batch=128)
    yield from _speed(processor)


def _processor() -> ChatProcessor:
    """The shipped tokenizer; pictures as CLIP-L/14-336 reads them, 144 visual tokens each."""
    model = dataclasses.replace(nano(image_size=336, patch_size=28), head=None)
    image = ImageConfig(size=336, fit="pad")
    return ChatProcessor.of("asset:stories260k", model, image=image, length=LENGTH)


def _mixture() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    images = (random.random(CONVERSATIONS) >= 1 / 16).astype(np.int64)
    text = np.exp(random.normal(np.log(180), 0.8, CONVERSATIONS)).astype(np.int64) + 40
    return np.minimum(text + 576 * images, LENGTH), images


def _shares(name: str, tokens: np.ndarray, images: np.ndarray, batch: int) -> Iterator[Figure]:
    found: dict[str, float] = {}
    for kind, words in KINDS.items():
        begun = time.perf_counter()
        plan = Plan(
            tokens, images, np.ones(len(tokens)), batch_size=batch, seed=0, length=LENGTH, **words
        )
        whole = plan.epoch_batches() - 1  # the last holds the beginning of the next epoch
        seconds = time.perf_counter() - begun
        total = sum((plan.tokens(k) for k in range(whole)), Tokens(0, 0, 0, 0))
        found[kind] = total.share
        goal = {"padded": None, "grouped": found["padded"], "packed": 0.95}[kind]
        yield Figure(f"talkdata.share.{name}.{kind}", total.share, "-", goal)
        programs = {plan.shape(k) for k in range(whole)}
        yield Figure(f"talkdata.programs.{name}.{kind}", len(programs))
        if kind == "packed":
            yield Figure(f"talkdata.pictures.{name}", total.images / total.frames)
            yield Figure(f"talkdata.planning.{name}", len(tokens) / seconds, "conversations/s")


def _speed(processor: ChatProcessor) -> Iterator[Figure]:
    config = ConversationConfig(length=LENGTH)
    before = gallery.KEPT_BYTES
    rates: dict[str, list[float]] = {"bare": [], "pipeline": [], "kept": []}
    try:
        for number in range(ROUNDS + 1):
            for name in rates:
                gallery.KEPT_BYTES = before if name == "kept" else 0
                source = TalkSource.of(config, processor, "train")
                rate = _bare(source) if name == "bare" else _piped(source)
                if number:  # the first round warms up
                    rates[name].append(rate)
    finally:
        gallery.KEPT_BYTES = before
    middle = {name: statistics.median(values) for name, values in rates.items()}
    yield Figure("talkdata.rate.bare", middle["bare"], "pictures/s")
    yield Figure("talkdata.rate.pipeline", middle["pipeline"], "conversations/s")
    yield Figure("talkdata.rate.kept", middle["kept"], "conversations/s")
    yield Figure("talkdata.pipeline_over_bare", middle["pipeline"] / middle["bare"], "-", 0.7)


def _piped(source: TalkSource, batches: int = 12) -> float:
    with talk_batches(source, batch_size=BATCH, seed=0, threads=THREADS) as made:
        next(made)
        begun = time.perf_counter()
        for _ in range(batches):
            next(made)
        return batches * BATCH / (time.perf_counter() - begun)


def _bare(source: TalkSource, pictures: int = 12 * BATCH) -> float:
    paths = [p for c in source.conversations[:: len(source) // pictures] for p in c.paths]
    with ThreadPoolExecutor(THREADS) as pool:
        begun = time.perf_counter()
        list(pool.map(source.processor.pixels, paths[:pictures]))
        return pictures / (time.perf_counter() - begun)
