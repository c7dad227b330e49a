"""What a run says when it is asked: a number where there is one to give, or else a refusal.

    held-out wordings about the target      answered with a number | refused | other words
    unanswerable questions, held out too    refused | a number all the same | other words

Every answer is the decoder's own, token by token, and its number the head's; `agreeing` counts
those that `Loaded.regress` gives too, in one pass over the same question with the trained answer in
place. Not here: whether the number is right, which the table says.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rsvlm_jax.data.batch import Batch
from rsvlm_jax.data.questions import REFUSAL
from rsvlm_jax.run.trained import Answer, Loaded


def count_answers(loaded: Loaded, batch: Batch) -> dict[str, Any]:
    """Asks every held-out question of every window of a batch.

    Args:
      batch: windows, all of them readable.

    Returns:
      `windows`; `target` and `unanswerable`, each {asked, numbers, refused, other}; `agreeing`, of
      the numbers about the target those that `regress` gives too, to a thousandth.

    Raises:
      ConfigError: a model without a decoder or a head.
    """
    questions = loaded.processor.questions
    about = [loaded.chat(qa.question, batch) for qa in questions.held_out]
    beyond = [loaded.chat(qa.question, batch) for qa in questions.held_out_other]
    agreeing = 0
    for qa, answers in zip(questions.held_out, about, strict=True):
        numbers = loaded.regress(_answered(loaded, qa.question, batch)).mean
        agreeing += sum(
            a.value is not None and bool(np.isclose(a.value, number, rtol=1e-3))
            for a, number in zip(answers, numbers, strict=True)
        )
    return {
        "windows": len(batch.sample),
        "target": _counted([a for answers in about for a in answers]),
        "unanswerable": _counted([a for answers in beyond for a in answers]),
        "agreeing": agreeing,
    }


def markdown(found: dict[str, Any]) -> str:
    """A GitHub table with what it says."""
    lines = [
        "## Answers in words",
        "",
        "| questions | asked | with a number | refused | other words |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, words in (("target", "about the target"), ("unanswerable", "unanswerable")):
        c = found[name]
        lines.append(f"| {words} | {c['asked']} | {c['numbers']} | {c['refused']} | {c['other']} |")
    lines += [
        "",
        f"Wordings that were never trained on, asked of {found['windows']} held-out windows."
        f" {found['agreeing']} of the {found['target']['numbers']} numbers about the target are"
        " those that one pass over question and answer gives.",
    ]
    return "\n".join(lines)


def _answered(loaded: Loaded, question: str, batch: Batch) -> Batch:
    """The batch with a question and its trained answer in place of its text."""
    text = loaded.processor.regress_prompt(question).repeat(len(batch.sample))
    return dataclasses.replace(
        batch, tokens=text.tokens, segment=text.segment, position=text.position,
        weight=text.weight, image_slot=text.image_slot,
        answer=None if batch.answer is None else text.answer,
    )  # fmt: skip


def _counted(answers: list[Answer]) -> dict[str, int]:
    numbers = sum(a.value is not None for a in answers)
    refused = sum(a.value is None and a.text == REFUSAL for a in answers)
    other = len(answers) - numbers - refused
    return {"asked": len(answers), "numbers": numbers, "refused": refused, "other": other}
