"""The nano LLaVA of `experiments/rsvqa_tiny.py`: unseen questions about images that it has seen.

Beside it the most frequent answer of the training questions, over all and by type of question (the
harder baseline: it knows the type). Answers are generated greedily and compared word by word.

`python -m experiments.bench.rsvqa validate` scores choices on a part of the training questions:
what the figure is about is not looked at.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from experiments.rsvqa_tiny import experiment
from rsvlm_jax.config import Experiment, to_dict
from rsvlm_jax.data.conversations import Conversation
from rsvlm_jax.run.fit import fit
from rsvlm_jax.run.load import load
from rsvlm_jax.run.pretrained import Pretrained
from rsvlm_jax.run.talk import prepare_talk

from .figure import Figure

RUNS = Path(os.environ.get("RSVLM_BENCH_RUNS", "runs/bench"))
BATCH = 64
NEW = 8
"""Tokens of an answer at most: "yes", "urban", a count."""
MINUTES = 5.0
VALIDATION = 0.36
"""Held out for a choice: the held-out questions of the experiment, and others of its training."""


def figures() -> Iterator[Figure]:
    made = experiment()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run = fit(made, out=Path(folder) / made.name)
        minutes = (time.perf_counter() - start) / 60
        work = prepare_talk(made)
        assert work.test is not None
        test = work.test.conversations
        right = asked(_opened(run.path), test)
        ends = [path.read_text().splitlines()[-1] for path in (run.metrics, run.timing)]
        last = {**json.loads(ends[0]), **json.loads(ends[1])}
    scores = scored(test, right)
    simple, by_type = majorities(work.train.conversations, test)
    RUNS.mkdir(parents=True, exist_ok=True)
    (RUNS / "rsvqa.json").write_text(
        json.dumps(
            {"scores": scores, "majority": simple, "majority_by_type": by_type,
             "config": to_dict(made)}, indent=2,
        ) + "\n"
    )  # fmt: skip
    yield Figure("rsvqa.accuracy", scores["all"], at_least=simple["all"])
    yield Figure("rsvqa.over_majority_by_type", scores["all"] - by_type["all"], at_least=0.0)
    for name, score in scores.items():
        yield Figure(f"rsvqa.majority_by_type.{name}", by_type[name])
        if name != "all":
            yield Figure(f"rsvqa.accuracy.{name}", score)
    yield Figure("rsvqa.majority", simple["all"])
    yield Figure("rsvqa.questions", len(test), "questions")
    yield Figure("rsvqa.training", minutes, "min", at_most=MINUTES)
    yield Figure("rsvqa.real_tokens", last["tokens_per_second"], "tokens/s")
    yield Figure("rsvqa.real_share", last["tokens"] / last["padded"])


def asked(model: Pretrained, conversations: Sequence[Conversation]) -> list[bool]:
    """Whether the greedy answer to each question is the one in the file."""
    processor = model.processor
    assert processor is not None
    rows = [processor.encode(c.messages[:-1]) for c in conversations]
    length = max(len(row.ids) for row in rows)
    found = []
    for first in range(0, len(rows), BATCH):
        part = list(range(first, min(first + BATCH, len(rows))))
        part += part[-1:] * (BATCH - len(part))  # one shape: one program
        ids = np.zeros((BATCH, length), np.int32)
        mask = np.zeros((BATCH, length), np.int32)
        for i, n in enumerate(part):
            ids[i, : len(rows[n].ids)] = rows[n].ids
            mask[i, : len(rows[n].ids)] = 1
        pixels = np.stack([processor.pixels(conversations[n].paths[0]) for n in part])
        said = model.generate(ids, pixels.transpose(0, 3, 1, 2), mask, max_new_tokens=NEW)
        tokens, size = np.asarray(said.tokens), np.asarray(said.length)
        found += [processor.decode(t[:n]).strip() for t, n in zip(tokens, size, strict=True)]
    return [a == _answer(c) for a, c in zip(found, conversations, strict=False)]


def scored(conversations: Sequence[Conversation], right: Sequence[bool]) -> dict[str, float]:
    """Share of right answers: "all", and by type of question."""
    parts: dict[str, list[bool]] = collections.defaultdict(list)
    for conversation, ok in zip(conversations, right, strict=True):
        parts["all"].append(ok)
        parts[str(conversation.type)].append(ok)
    return {name: float(np.mean(values)) for name, values in sorted(parts.items())}


def majorities(
    train: Sequence[Conversation], test: Sequence[Conversation]
) -> tuple[dict[str, float], dict[str, float]]:
    """Scores of the most frequent training answer, and of that of the question's type."""
    whole = collections.Counter(_answer(c) for c in train).most_common(1)[0][0]
    kinds: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for c in train:
        kinds[str(c.type)][_answer(c)] += 1
    best = {kind: counter.most_common(1)[0][0] for kind, counter in kinds.items()}
    return (
        scored(test, [_answer(c) == whole for c in test]),
        scored(test, [_answer(c) == best.get(str(c.type), whole) for c in test]),
    )


def validation(made: Experiment, out: Path) -> dict[str, float]:
    """Scores of a choice on questions that neither its training nor the figure uses."""
    assert made.conversations is not None
    kept = prepare_talk(made).test
    assert kept is not None
    final = {(c.images, c.question) for c in kept.conversations}
    config = dataclasses.replace(made.conversations, held_out=VALIDATION)
    made = dataclasses.replace(made, conversations=config)
    test = prepare_talk(made).test
    assert test is not None
    run = fit(made, out=out)
    chosen = [c for c in test.conversations if (c.images, c.question) not in final]
    return scored(chosen, asked(_opened(run.path), chosen))


def _answer(conversation: Conversation) -> str:
    return conversation.messages[-1].content


def _opened(path: Path) -> Pretrained:
    model = load(path)
    assert isinstance(model, Pretrained)
    return model


if __name__ == "__main__" and sys.argv[1:2] == ["validate"]:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(validation(experiment(), Path(folder) / "run"), indent=2))
