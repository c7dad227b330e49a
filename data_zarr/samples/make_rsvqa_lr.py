"""Makes `rsvqa_lr/`, questions about small images, from the examples of the RSVQA website.

Source: syvlo/RSVQA_website (commit bd6d5c3): 40 images of RSVQA-LR (Lobry et al. 2020) and their
4005 questions, here as `images/<img_id>.png` and `qa.json`. The first 24 images are taken, as they
are. The questions go into the file layout of RSVQA-LR itself, so that readers of the whole data
set read them; its images end in .tif, these in .png.

    python -m data_zarr.samples.make_rsvqa_lr --source DIR --out rsvqa_lr
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

IMAGES = 24
"""Of 40: enough to try everything, and two megabytes."""


def tables(content: dict[str, Any], images: int) -> dict[str, list[dict[str, Any]]]:
    """The three tables of RSVQA-LR: questions, answers, images.

    Args:
      content: `images` with `id`, `qa` with `question_id`, `img_id`, `type`, `question`, `answer`.
      images: how many, from the first.
    """
    rows = [r for r in content["qa"] if r["img_id"] < images]
    questions = [
        {"id": r["question_id"], "img_id": r["img_id"], "type": r["type"],
         "question": r["question"], "answers_ids": [r["question_id"]], "active": True}
        for r in rows
    ]  # fmt: skip
    answers = [
        {"id": r["question_id"], "question_id": r["question_id"], "answer": r["answer"],
         "active": True}
        for r in rows
    ]  # fmt: skip
    asked: dict[int, list[int]] = {}
    for row in rows:
        asked.setdefault(row["img_id"], []).append(row["question_id"])
    pictures = [
        {**i, "questions_ids": asked[i["id"]], "active": True}
        for i in content["images"]
        if i["id"] < images
    ]
    return {"questions": questions, "answers": answers, "images": pictures}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="folder with the files")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    (args.out / "images").mkdir(parents=True)
    for name, rows in tables(json.loads((args.source / "qa.json").read_text()), IMAGES).items():
        text = json.dumps({name: rows}, separators=(",", ":")) + "\n"
        (args.out / f"LR_split_test_{name}.json").write_text(text)
    for i in range(IMAGES):
        shutil.copyfile(args.source / f"images/{i}.png", args.out / f"images/{i}.png")


if __name__ == "__main__":
    main()
