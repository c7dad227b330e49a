"""What a run says when it is asked: numbers where there is one to give, refusals where there is none.

    held-out wordings about the target      answered with a number | refused | other words
    unanswerable questions, held out too    refused | a number all the same | other words

Every answer is the decoder's own, token by token. A number in words is that of the head; `agreeing`
counts the answers whose number is also what `Loaded.regress` gives for the window with the answer
in place. Not here: whether the number is right, which the table says.
"""

from __future__ import annotations

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
      the numbers about the target those that `regress` gives too (to 1e-3 of the larger).

    Raises:
      ConfigError: a model without a decoder or a head.
    """
    questions = loaded.processor.questions
    numbers = loaded.regress(batch).mean
    about = [loaded.chat(qa.question, batch) for qa in questions.held_out]
    beyond = [loaded.chat(qa.question, batch) for qa in questions.held_out_other]
    agreeing = sum(
        answer.value is not None and np.isclose(answer.value, number, rtol=1e-3)
        for answers in about
        for answer, number in zip(answers, numbers, strict=True)
    )
    return {
        "windows": len(numbers),
        "target": _counted([a for answers in about for a in answers]),
        "unanswerable": _counted([a for answers in beyond for a in answers]),
        "agreeing": int(agreeing),
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
        lines.append(
            f"| {words} | {c['asked']} | {c['numbers']} | {c['refused']} | {c['other']} |"
        )
    lines += [
        "",
        f"Wordings that were never trained on, asked of {found['windows']} held-out windows."
        f" {found['agreeing']} of the {found['target']['numbers']} numbers about the target are"
        " those of the regression to a thousandth; they are conditioned on other words.",
    ]
    return "\n".join(lines)


def _counted(answers: list[Answer]) -> dict[str, int]:
    numbers = sum(a.value is not None for a in answers)
    refused = sum(a.value is None and a.text == REFUSAL for a in answers)
    other = len(answers) - numbers - refused
    return {"asked": len(answers), "numbers": numbers, "refused": refused, "other": other}
