"""Text and head agree: an answer in words carries the number that `regress` gives, as it is told.

The words are given, not generated (six steps do not teach a decoder to speak): the hidden states
are those of the model over question and answer, as `generate` gives them token by token
(`tests/generate/test_decode.py`).
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from rsvlm_jax.config import ConfigError
from rsvlm_jax.generate import Generated
from rsvlm_jax.run.cubes import find_cube
from rsvlm_jax.run.program import program_of
from rsvlm_jax.run.trained import Loaded, _hidden, load_run


class Saying(Loaded):
    """A model that says the answer of its training."""

    def _speak(self, question, batch, max_new=0):
        del max_new
        p = self.processor
        whole = dict((*p.questions.target, *p.questions.other))[question]
        text = p.prompt(question, whole).repeat(len(batch.sample))
        given = dataclasses.replace(
            batch, tokens=text.tokens, segment=text.segment, position=text.position,
            weight=text.weight, image_slot=text.image_slot, answer=text.answer,
        )  # fmt: skip
        hidden = _hidden(self.graphdef, self.params, self.stats, given)
        begins, used = int(text.answer[0]), int(text.used[0])
        made = Generated(
            tokens=jnp.asarray(text.tokens[:, begins:used]),
            length=jnp.full(len(batch.sample), used - begins - 1),  # without the end
            score=jnp.zeros(len(batch.sample)),
            hidden=hidden[:, begins:used],
        )
        visual, valid = self.model.encode_visual(batch)
        return made, visual, valid


@pytest.fixture(scope="module", params=["reg", "answer", "last"])
def saying(request, finished: Path) -> Saying:
    """The finished run, whose parameters any reading of knowledge fits."""
    run = load_run(finished)
    head = dataclasses.replace(run.processor.config.head, knowledge=request.param)
    model = dataclasses.replace(run.processor.config, head=head)
    processor = dataclasses.replace(run.processor, config=model)
    fields = {f.name: getattr(run, f.name) for f in dataclasses.fields(run)}
    program = program_of(processor)
    return Saying(**{**fields, "processor": processor, "graphdef": program.graphdef})


def test_the_answer_carries_the_number_of_the_head(saying: Saying):
    batch = saying.window(find_cube("sample:slovenia_s2"), 40, 40)
    question = saying.processor.questions.pairs[0].question
    (answer,) = saying.chat(question, batch)
    numbers = saying.regress(batch)
    told = answer.value, answer.lo, answer.hi
    kept = [float(x[0]) for x in (numbers.mean, numbers.lo, numbers.hi)]
    np.testing.assert_allclose(told, kept, atol=1e-5)
    assert answer.text == f"The tree cover is {saying.processor.format(*told)}."
    found = [float(x) for x in re.findall(r"(?<!\d)-?\d+\.?\d*", answer.text.replace("90 %", ""))]
    np.testing.assert_allclose(found, kept, atol=0.51 * 10.0 ** -_decimals(answer.text))


def test_an_answer_without_a_number_has_none(saying: Saying):
    batch = saying.window(find_cube("sample:slovenia_s2"), 40, 40)
    (answer,) = saying.chat("Who lives here?", batch)
    assert (answer.value, answer.text) == (None, "I can not tell that from this image.")


def test_knowledge_of_answers_needs_answers(saying: Saying):
    processor = saying.processor
    data = dataclasses.replace(processor.data, templates="plain")
    if processor.knowledge == "reg":
        assert dataclasses.replace(processor, data=data).knowledge == "reg"
        return
    with pytest.raises(ConfigError, match=r"no answer to read knowledge from in HeadConfig"):
        dataclasses.replace(processor, data=data)


def _decimals(text: str) -> int:
    return len(re.search(r"\d+\.?(\d*)", text)[1])
