"""What `transformers`' torch models say, live where torch is installed and from files elsewhere.

A golden file holds the weights of a tiny random model (float16, so that they are exact in any
dtype) by their names on disk, its config.json, its inputs and its outputs. `reference(case)` reads
it; where torch can be imported it runs the torch model on these weights and inputs and returns
*that*, after checking that the file still says the same. So parity is tested everywhere, and
nowhere against a stale file.

    python tests/parity/reference.py [NAME ...]     writes goldens/*.npz anew (needs torch)

A case is data and two functions; cases stand in `cases_*.py`, one file for each kind of model, in
a list named CASES. `Reference.save(folder)` writes the Hugging Face directory that the importers
read.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

HERE = Path(__file__).parent
GOLDENS = HERE / "goldens"
HAS_TORCH = importlib.util.find_spec("torch") is not None

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """One tiny random model.

    Attributes:
      architecture: class of `transformers`.
      config: keyword arguments of its `config_class` (nested configs as dicts).
      inputs: generator -> input arrays (small; a golden holds them).
      run: (torch model in eval mode, the inputs as tensors) -> outputs as NumPy arrays. Gradients
        of a loss go under "grad:NAME" with the model's own parameter names (see `gradients`).
      noise: spread of the random weights: far from the initial values, so that all of them count.
      frozen: substrings of weight names that stay as constructed.
    """

    name: str
    architecture: str
    config: dict[str, Any]
    inputs: Callable[[np.random.Generator], Arrays]
    run: Callable[[Any, dict[str, Any]], Arrays]
    noise: float = 0.3
    seed: int = 1
    frozen: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Reference:
    """Weights by their names on disk (float32), config.json, inputs and outputs of one case."""

    config: dict[str, Any]
    weights: Arrays
    inputs: Arrays
    outputs: Arrays

    def save(self, folder: Path, rename: Callable[[str], str] = str) -> Path:
        """A Hugging Face directory: config.json and model.safetensors.

        Args:
          rename: of the weights, to write another version's names.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        weights = {rename(k): np.asarray(v, order="C") for k, v in self.weights.items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder


def reference(case: Case) -> Reference:
    """The case, its outputs live where torch is installed."""
    parts: dict[str, Arrays] = {"weights": {}, "inputs": {}, "outputs": {}}
    with np.load(GOLDENS / f"{case.name}.npz", allow_pickle=False) as file:
        config = json.loads(str(file["config"]))
        for key in file.files:
            part, _, leaf = key.partition(":")
            if part in parts:
                parts[part][leaf] = file[key]
    weights = {k: v.astype(np.float32) for k, v in parts["weights"].items()}
    outputs = parts["outputs"]
    if HAS_TORCH:
        live = _outputs(case, torch_model(case, weights), parts["inputs"])
        assert sorted(live) == sorted(outputs), f"{case.name}: write the golden file anew"
        for key, value in live.items():
            spread = max(float(np.abs(value).max()), 1.0)
            np.testing.assert_allclose(outputs[key], value, rtol=0, atol=2e-5 * spread, err_msg=key)
        outputs = live
    return Reference(config, weights, parts["inputs"], outputs)


def torch_model(case: Case, weights: Arrays | None = None) -> Any:
    """The torch model in eval mode; with `weights` by their names on disk, loaded strictly."""
    import tempfile

    import torch
    import transformers

    cls = getattr(transformers, case.architecture)
    torch.manual_seed(case.seed)
    # A copy: some configs take their nested dicts apart.
    made = cls(cls.config_class(**json.loads(json.dumps(case.config)))).eval()
    if weights is None:
        return made
    with tempfile.TemporaryDirectory() as folder:
        made.config.architectures = [case.architecture]
        Reference(made.config.to_dict(), weights, {}, {}).save(Path(folder))
        model, info = cls.from_pretrained(folder, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], f"{case.name}: {kind}: {info[kind]}"
    return model.eval()


def gradients(model: Any, loss: Any) -> Arrays:
    """Gradients of every parameter under "grad:NAME", after `loss.backward()`."""
    model.zero_grad()
    loss.backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {f"grad:{n}": g.detach().numpy().copy() for n, g in found.items()}


def _outputs(case: Case, model: Any, inputs: Arrays) -> Arrays:
    import torch

    made = case.run(model, {k: torch.from_numpy(v) for k, v in inputs.items()})
    return {k: np.asarray(v) for k, v in made.items()}


def _write(case: Case) -> None:
    import tempfile

    from safetensors.numpy import load_file

    rng = np.random.default_rng(case.seed)
    model = torch_model(case)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        weights = load_file(Path(folder) / "model.safetensors")
        config = json.loads((Path(folder) / "config.json").read_text())
    for key, value in weights.items():
        if any(word in key for word in case.frozen) or value.dtype.kind != "f":
            continue
        noise = case.noise * rng.standard_normal(value.shape)
        ones = value.ndim == 1 and bool((value == 1).all())  # norm scales stay around 1
        weights[key] = (noise + (1 if ones else 0)).astype(np.float16)
    inputs = case.inputs(rng)
    full = {k: v.astype(np.float32) if v.dtype == np.float16 else v for k, v in weights.items()}
    outputs = _outputs(case, torch_model(case, full), inputs)
    parts = {"weights": weights, "inputs": inputs, "outputs": outputs}
    flat = {f"{part}:{k}": v for part, leaves in parts.items() for k, v in leaves.items()}
    GOLDENS.mkdir(exist_ok=True)
    np.savez_compressed(GOLDENS / f"{case.name}.npz", config=json.dumps(config), **flat)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    for file in sorted(HERE.glob("cases_*.py")):
        for each in importlib.import_module(file.stem).CASES:
            if len(sys.argv) == 1 or each.name in sys.argv[1:]:
                print(each.name)
                _write(each)
