"""Small real data: cubes and a set of questions, their licences, and the recipes that made them.

    slovenia_s2, spain_s1s2             rasters with targets: Sentinel-2 series; Sentinel-1 and -2
    fuel_moisture, hls_gpp              sites with targets and labels: optics, radar, weather
    landsat_ard_pixels, landsat_wa_pixel    sites: every Landsat observation of some pixels
    landsat7_olinda, s2_l2a_609u, s2_l2a_637u, treesat_aerial    one undated image each
    treesat_series                      Sentinel-1 and -2 of one plot through a year
    rsvqa_lr                            questions and answers about RGB images: `sample_questions`

README.md has a page for each: where it comes from, what is established and what is not. Recipes are
in `recipes/`, for `rsvlm cube build`, licences and attributions in `LICENSES/`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from data_zarr.errors import CubeError

SAMPLES: tuple[str, ...] = (
    "slovenia_s2",
    "spain_s1s2",
    "fuel_moisture",
    "hls_gpp",
    "landsat_ard_pixels",
    "landsat_wa_pixel",
    "landsat7_olinda",
    "s2_l2a_609u",
    "s2_l2a_637u",
    "treesat_series",
    "treesat_aerial",
)
QUESTIONS: dict[str, str] = {"rsvqa_lr": "LR_split_test"}
"""Sets of questions, and how their files begin."""


class Question(NamedTuple):
    """A question about an image; `type` is the data set's own: comp, count, presence ..."""

    image: Path
    question: str
    answer: str
    type: str


def sample_path(name: str) -> Path:
    """Path of a shipped cube; CubeError for a name that is not in `SAMPLES`."""
    if name not in SAMPLES:
        raise CubeError(
            "no such sample",
            expected=", ".join(SAMPLES),
            found=repr(name),
            remedy=f"sample_questions({name!r})" if name in QUESTIONS else None,
        )
    return Path(__file__).parent / f"{name}.zarr"


def sample_questions(name: str) -> tuple[Question, ...]:
    """The questions of a shipped set that are in use, in its order, with their answers.

    Raises:
      CubeError: a name that is not in `QUESTIONS`.
    """
    if name not in QUESTIONS:
        raise CubeError("no such set of questions", expected=", ".join(QUESTIONS), found=repr(name))
    folder = Path(__file__).parent / name

    def rows(table: str) -> list[dict[str, object]]:
        return json.loads((folder / f"{QUESTIONS[name]}_{table}.json").read_text())[table]

    answers = {a["question_id"]: str(a["answer"]) for a in rows("answers") if a["active"]}
    return tuple(
        Question(folder / f"images/{q['img_id']}.png", str(q["question"]), answers[q["id"]],
                 str(q["type"]))
        for q in rows("questions") if q["active"]
    )  # fmt: skip
