"""What we export, read by transformers 4.57: no key missing or unused, the same numbers.

    make test-transformers4
    python tests/parity/old_transformers.py FOLDER      FOLDER holds that version (pip --target)

transformers 4.57 says nothing where names of 5.x leave its vision tower random, so every class that
is written is read there once: the tiny models of all cases, through our own import and export, and
a LLaVA of the original layout with its processor, after `convert`. Two versions do not fit into one
process: this one writes a directory for each model, with the outputs of the installed version's
goldens, and a second one, which has FOLDER first on its path, reads them.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from reference import Case, Reference, reference

HERE = Path(__file__).parent
WITHIN = 1e-4
"""Largest difference, relative to the spread of an output where that is above 1."""

WRITTEN_AS = {
    "CLIPModel": "CLIPVisionModelWithProjection",
    "SiglipModel": "SiglipVisionModel",
    "ConvNextForImageClassification": "ConvNextModel",
}
"""Whole models, whose text tower or classifier is not kept."""

PROCESSOR = "llava_processor"
PROMPT = "USER: <image>\na tree? ASSISTANT:"


def cases() -> dict[str, Case]:
    files = sorted(HERE.glob("cases_*.py"))
    files = [p for p in files if p.stem != "cases_eva"]  # a class that we do not write
    return {case.name: case for file in files for case in importlib.import_module(file.stem).CASES}


def export(home: Path) -> None:
    """A directory for each case, of each class that we write."""
    from rsvlm_jax.interop.families import FAMILIES
    from rsvlm_jax.interop.families.llava_original import ORIGINAL
    from rsvlm_jax.interop.huggingface import load_pretrained, save_pretrained

    written = set()
    for name, case in cases().items():
        known: Reference = reference(case)
        one = load_pretrained(known.save(home / "read" / name))
        architecture = WRITTEN_AS.get(case.architecture, case.architecture)
        save_pretrained(home / name, architecture, one.config, one.params)
        np.savez(home / name / "inputs.npz", **known.inputs)
        np.savez(home / name / "outputs.npz", **known.outputs)
        (home / name / "class.txt").write_text(architecture)
        written.add(architecture)
    lacking = FAMILIES.keys() - {f.architecture for f in ORIGINAL} - WRITTEN_AS.keys() - written
    assert not lacking, f"no case of {', '.join(sorted(lacking))}"


def export_converted(home: Path) -> None:
    """The directory of a converted LLaVA, a picture, and what we and 5.x make of it."""
    import test_llava_processor as llava
    import transformers

    import rsvlm_jax

    made = llava.convert(llava.original(home / "original", llava.LLAVA), home / PROCESSOR)
    picture = llava.picture(30, 40)
    picture.save(home / PROCESSOR / "picture.png")
    processor = transformers.AutoProcessor.from_pretrained(made.path)
    inputs = processor(images=[picture], text=[PROMPT], return_tensors="np")
    logits = rsvlm_jax.load(made.path).logits(**inputs)
    np.savez(home / PROCESSOR / "outputs.npz", logits=np.asarray(logits), **inputs)


def read(architecture: str, folder: Path) -> Any:
    """The model in eval mode; all of its keys are there, and no others."""
    import transformers

    cls = getattr(transformers, architecture)
    model, info = cls.from_pretrained(folder, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info[kind], f"{folder.name}: {kind}: {info[kind]}"
    return model.eval()


def check(folder: Path, case: Case) -> tuple[str, float]:
    """The class, and the largest difference of an output."""
    import torch

    architecture = (folder / "class.txt").read_text()
    model = read(architecture, folder)
    inputs = {k: torch.from_numpy(v) for k, v in np.load(folder / "inputs.npz").items()}
    made = case.run(model, inputs)
    wanted = {k: v for k, v in np.load(folder / "outputs.npz").items() if "grad:" not in k}
    assert wanted.keys() <= made.keys(), f"{folder.name}: no {wanted.keys() - made.keys()}"
    return architecture, max(off(f"{folder.name}: {k}", made[k], v) for k, v in wanted.items())


def check_converted(folder: Path) -> tuple[str, float]:
    """As a user does it: processor, model, logits."""
    import torch
    import transformers
    from PIL import Image

    processor = transformers.AutoProcessor.from_pretrained(folder)
    picture = Image.open(folder / "picture.png")
    inputs = processor(images=[picture], text=[PROMPT], return_tensors="pt")
    wanted = dict(np.load(folder / "outputs.npz"))
    with torch.no_grad():
        logits = read("LlavaForConditionalGeneration", folder)(**inputs).logits
    made = {**{k: v.numpy() for k, v in inputs.items()}, "logits": logits.numpy()}
    largest = max(off(f"{folder.name}: {key}", made[key], x) for key, x in wanted.items())
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a tree?"}]}
    said = processor.apply_chat_template([turn], add_generation_prompt=True)
    assert said.endswith(f"questions. {PROMPT}"), said
    return "AutoProcessor, LlavaForConditionalGeneration", largest


def off(name: str, made: Any, wanted: np.ndarray) -> float:
    made = np.asarray(made)
    assert made.shape == wanted.shape, f"{name}: {made.shape}, not {wanted.shape}"
    if wanted.dtype.kind in "iu":
        assert np.array_equal(made, wanted), f"{name}: other tokens"
        return 0.0
    largest = float(np.abs(made - wanted).max()) / max(1.0, float(wanted.std()))
    assert largest <= WITHIN, f"{name}: off by {largest:.1e}"
    return largest


def check_all(home: Path) -> int:
    """How many fail; a line each."""
    import torch
    import transformers

    assert transformers.__version__.startswith("4."), transformers.__version__
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    jobs: dict[str, Callable[[], tuple[str, float]]] = {
        name: lambda case=case: check(home / case.name, case) for name, case in cases().items()
    }
    jobs[PROCESSOR] = lambda: check_converted(home / PROCESSOR)
    failed = 0
    for name, job in jobs.items():
        try:
            architecture, largest = job()
            print(f"ok    {name:24} {largest:.1e}  {architecture}")
        except Exception as e:
            failed += 1
            print(f"FAIL  {name:24} {type(e).__name__}: {str(e)[:300]}")
    print(json.dumps({"read": len(jobs) - failed, "failed": failed}))
    return failed


def main(folder: Path) -> int:
    with tempfile.TemporaryDirectory() as made:
        export(Path(made))
        export_converted(Path(made))
        path = os.pathsep.join([str(folder.resolve()), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, __file__, "--read", made]
        return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}).returncode


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if sys.argv[1] == "--read":
        sys.exit(min(check_all(Path(sys.argv[2])), 1))
    sys.exit(main(Path(sys.argv[1])))
