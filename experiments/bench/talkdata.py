"""The data of conversation training: what of a batch is real, and how fast batches come.

share      positions that are no padding, of an epoch: rows of one length ("padded"), grouped into
           batches of similar length, packed into rows of 2,048. On the shipped RSVQA questions, and
           on lengths drawn like those of LLaVA-1.5's mixture: 576 visual tokens and a text of
           log-normal length, one in sixteen of text alone.
rows       packed rows over a bound below which no packing comes (Fekete and Schepers 2001, the
           dual feasible functions u_k); first-fit places 1,024 conversations at a time
programs   shapes of the batches of an epoch: each compiles once
pictures   frames of the packed batches that hold a picture; the others give all batches one shape
rate       conversations a second by two threads: tokens, PNG of 256 x 256 decoded, resized to 336
           with Pillow; `kept`: when all pictures stay in memory, as they do up to 256 MB
over_bare  CPU time of the pictures alone, by `ChatProcessor.pixels`, over that of whole batches
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator

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
        goal = None if kind == "padded" else found["padded"]
        yield Figure(f"talkdata.share.{name}.{kind}", total.share, "-", goal)
        programs = {plan.shape(k) for k in range(whole)}
        yield Figure(f"talkdata.programs.{name}.{kind}", len(programs))
        if kind == "packed":
            yield Figure(f"talkdata.pictures.{name}", total.images / total.frames)
            rows = plan.epoch_rows() / _fewest_rows(tokens)
            yield Figure(f"talkdata.rows.{name}", rows, "x", at_most=1.05)
            yield Figure(f"talkdata.planning.{name}", len(tokens) / seconds, "conversations/s")


def _fewest_rows(tokens: np.ndarray) -> int:
    """Of a row of length 1, u_k counts x as floor((k+1) x) / k, and as x where (k+1) x is whole: no
    row can hold more than 1 of that either. (k = 2: two at most that are longer than a third.)"""
    fewest = -(-int(tokens.sum()) // LENGTH)
    for k in range(1, 21):
        times, rest = np.divmod((k + 1) * tokens, LENGTH)
        counted = np.where(rest == 0, tokens / LENGTH, times / k)
        fewest = max(fewest, int(np.ceil(counted.sum() - 1e-6)))
    return fewest


def _speed(processor: ChatProcessor) -> Iterator[Figure]:
    config = ConversationConfig(length=LENGTH)
    before = gallery.KEPT_BYTES
    rates: dict[str, list[float]] = {"read": [], "kept": []}
    ratios: list[float] = []
    try:
        for number in range(ROUNDS + 1):
            for name in rates:
                gallery.KEPT_BYTES = before if name == "kept" else 0
                source = TalkSource.of(config, processor, "train")
                rate = _rate(source)
                if number:  # the first round warms up
                    rates[name].append(rate)
                if number and name == "read":
                    ratios.append(_over_bare(source))
    finally:
        gallery.KEPT_BYTES = before
    for name, values in rates.items():
        yield Figure(f"talkdata.rate.{name}", statistics.median(values), "conversations/s")
    yield Figure("talkdata.over_bare", statistics.median(ratios), "-", 0.85)


def _rate(source: TalkSource, batches: int = 12) -> float:
    with talk_batches(source, batch_size=BATCH, seed=0, threads=THREADS) as made:
        next(made)
        begun = time.perf_counter()
        for _ in range(batches):
            next(made)
        return batches * BATCH / (time.perf_counter() - begun)


def _over_bare(source: TalkSource, batches: int = 6) -> float:
    with talk_batches(source, batch_size=BATCH, seed=0, threads=0) as made:
        next(made)
        begun = time.process_time()
        for _ in range(batches):
            next(made)
        whole = time.process_time() - begun
        rows = [row for k in range(1, 1 + batches) for row in made.plan.rows(k)]
    paths = [p for row in rows for n in row for p in source.conversations[n].paths]
    begun = time.process_time()
    for path in paths:
        source.processor.pixels(path)
    return (time.process_time() - begun) / whole
