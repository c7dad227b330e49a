"""Small conversation files with pictures, for the tests of what reads them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
from PIL import Image

from rsvlm_jax.config import ConversationConfig, ImageConfig, ViTConfig, VLMConfig, nano
from rsvlm_jax.data.chat import ChatProcessor
from rsvlm_jax.data.talk import TalkSource

LENGTH = 300
WORDS = ("Yes.", "No.", "A big lake.", "There are some trees near the water.", "I see a dog.")


def model() -> VLMConfig:
    """Four visual tokens an image of 8 x 8 pixels."""
    tower = ViTConfig(image_size=8, patch_size=4, width=16, layers=1, heads=2, mlp_dim=32,
                      feature_layers=(-1,))  # fmt: skip
    return dataclasses.replace(nano(), vision=tower, head=None)


def processor(**changes) -> ChatProcessor:
    image = ImageConfig(size=8, fit="squash")
    made = ChatProcessor.of("asset:stories260k", model(), template="plain", image=image)
    return dataclasses.replace(made, **{"template": "vicuna_v1", **changes})


def picture(path: Path, seed: int) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def entry(i: int, *, image: object = None, turns: int = 1) -> dict[str, object]:
    """About as many images as `image` names; the question is its own."""
    names = [] if image is None else [image] if isinstance(image, str) else image
    said: list[dict[str, str]] = []
    for turn in range(turns):
        front = "<image>\n" * len(names) if turn == 0 else ""
        said += [
            {"from": "human", "value": f"{front}What is it, number {i}?"},
            {"from": "gpt", "value": " ".join((WORDS * 2)[i % 5 :][: 1 + (i + turn) % 3])},
        ]
    return {"id": str(i), "conversations": said, **({} if image is None else {"image": image})}


def write(folder: Path, n: int = 23, *, name: str = "talk.json") -> Path:
    """`n` conversations: every fifth without an image, every seventh with two."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for i in range(n):
        image: object = f"{i % 7}.png"
        if i % 5 == 0:
            image = None
        elif i % 7 == 0:
            image = [f"{i % 7}.png", f"{(i + 1) % 7}.png"]
        entries.append(entry(i, image=image, turns=1 + i % 2))
    for i in range(7):
        picture(folder / f"{i}.png", i)
    path = folder / name
    path.write_text(json.dumps(entries))
    return path


def config(path: Path | str, **changes) -> ConversationConfig:
    return ConversationConfig(files=((str(path), 1.0),), length=LENGTH, **changes)


def source(path: Path | str, **changes) -> TalkSource:
    return TalkSource.of(config(path, **changes), processor(), "train")
