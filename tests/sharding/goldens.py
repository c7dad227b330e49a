"""Where every parameter is stored, by model and plan: `goldens/*.json`, read in reviews.

    python tests/sharding/goldens.py            write them
    python tests/sharding/goldens.py --check    exit 1 and name the files that would change

A file says the shape of every parameter once, and for each plan its mesh and which parameters have
which placement; a placement is "stacked, in, out" as the rules write it, "-" where nothing splits.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    os.environ["JAX_PLATFORMS"] = "cpu"

import nano

from experiments import geochat_lora, lhrs_bot, llava15_lora
from rsvlm_jax.config import PRESETS, Experiment, InputConfig, MeshConfig, SelectionConfig
from rsvlm_jax.core import flat
from rsvlm_jax.mesh import RULES, make_mesh, resolve
from rsvlm_jax.run.program import program

FOLDER = Path(__file__).parent / "goldens"

MESHES = {
    "replicated": MeshConfig(data=8, plan="replicated"),
    "fsdp": MeshConfig(fsdp=8, plan="fsdp"),
    "fsdp_tensor": MeshConfig(fsdp=4, tensor=2, plan="fsdp_tensor"),
    "lora_dp": MeshConfig(data=8, plan="lora_dp"),
}


def recipes() -> dict[str, Experiment]:
    lora = llava15_lora.experiment()
    return {
        "llava15_lora": lora,
        "llava15_qlora": dataclasses.replace(lora, base="nf4"),
        "geochat_lora": geochat_lora.experiment(),
        "lhrs_bot_2": lhrs_bot.experiment(2),
    }


def models() -> dict[str, Any]:
    """Trees of shapes by the name of their file."""
    presets = {"nano": "nano", "llava15_7b": "7b", "llava15_13b": "13b"}
    made = {name: nano.shapes(PRESETS[key](nano.INPUTS)) for name, key in presets.items()}
    fronts = (InputConfig("s2", "galileo"), InputConfig("ndvi", "pixel"))
    made["nano_galileo"] = nano.shapes(PRESETS["nano"](fronts))
    vlm = nano.config()
    gated = dataclasses.replace(vlm.head, kind="experts", output="quantiles", targets=2)
    made["nano_experts"] = nano.shapes(dataclasses.replace(vlm, head=gated))
    selecting = dataclasses.replace(PRESETS["nano"](nano.INPUTS), selection=SelectionConfig(32))
    made["nano_selection"] = nano.shapes(selecting)
    for name, experiment in recipes().items():
        made[name] = program(
            experiment.model, image_token=0, lora=experiment.lora, stored=experiment.base
        ).params
    return made


def golden(params: Any) -> dict[str, Any]:
    plans: dict[str, Any] = {}
    for plan, config in MESHES.items():
        mesh = make_mesh(config)
        by_spec: dict[str, list[str]] = {}
        for path, sharding in flat(resolve(params, RULES[plan], mesh)).items():
            by_spec.setdefault(_words(sharding.spec), []).append(path)
        plans[plan] = {
            "mesh": {axis: size for axis, size in mesh.shape.items() if size > 1},
            "specs": "all -" if set(by_spec) == {"-"} else dict(sorted(by_spec.items())),
        }
    shapes = {path: "x".join(map(str, x.shape)) for path, x in flat(params).items()}
    return {"shapes": shapes, "plans": plans}


def text(params: Any) -> str:
    return json.dumps(golden(params), indent=1) + "\n"


def _words(spec: Any) -> str:
    entries = ["+".join(e) if isinstance(e, tuple) else e or "-" for e in spec]
    return ", ".join(entries) or "-"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    FOLDER.mkdir(exist_ok=True)
    changed = []
    for name, params in models().items():
        file, made = FOLDER / f"{name}.json", text(params)
        if not file.exists() or file.read_text() != made:
            changed.append(file.name)
            if not check:
                file.write_text(made)
    print(f"{'would change' if check else 'written'}: {', '.join(changed) or 'nothing'}")
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
