"""`open_pretrained`: a directory of Hugging Face, LLaVA or GeoChat as a `Pretrained`.

`rsvlm_jax.run.directory` finds out what the directory holds and reads it.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any, Literal

from rsvlm_jax.config import DECODER_LINEARS, ConfigError, MeshConfig
from rsvlm_jax.interop.families.llava import LlavaConfig
from rsvlm_jax.interop.quantized import Codes
from rsvlm_jax.mesh.build import make_mesh
from rsvlm_jax.nn.quantize import Kind

from .directory import end_tokens, place_parts, read_directory
from .pretrained import Dtype, Pretrained


def open_pretrained(
    path: str | os.PathLike[str],
    *,
    mesh: MeshConfig | None = None,
    dtype: Dtype | None = None,
    missing: Literal["error", "init"] = "error",
    vision: str | os.PathLike[str] | None = None,
    adapter: str | os.PathLike[str] | None = None,
    projector: str | os.PathLike[str] | None = None,
    merge: bool = True,
    quantize: Kind | None = None,
    quantize_targets: str = DECODER_LINEARS,
    allow_pickle: bool = False,
) -> Pretrained:
    """Read a directory of Hugging Face, LLaVA or GeoChat.

    Args:
      mesh: devices over which the parameters are spread as they are read; None: the first one.
      dtype: of parameters and computation; None: float32, whatever the file holds.
      missing: "init" initialises what the checkpoint lacks, and lists it; "error" refuses.
      vision: directory of the vision tower, where a LLaVA does not hold its own.
      adapter: directory of a PEFT adapter, or of LLaVA's LoRA over a plain language model.
      projector: file of one that was trained over a plain language model.
      merge: the adapter into the kernels; False keeps its factors, see `Pretrained.params`.
      quantize: "int8" or "nf4": the weights that `quantize_targets` takes are quantised from the
        numbers of the file as they are read, layer by layer.
      allow_pickle: read `.bin` and `.pt` files, through torch's weights-only loader.

    Raises:
      ConfigError: an option that is none; weights that cannot be quantised so.
      CheckpointError: one line with the file, what was expected and what was found.
    """
    path = Path(path)
    dtype = "float32" if dtype is None else dtype
    if dtype not in ("float32", "bfloat16"):  # jnp.bfloat16 is what a hand types first
        raise ConfigError(
            "not a dtype of parameters", where="load(dtype)", expected="float32 or bfloat16",
            found=getattr(dtype, "__name__", dtype), remedy="give its name, a str",
        )  # fmt: skip

    if quantize is not None and adapter is not None and merge:
        raise ConfigError(
            "an adapter is not merged into quantised weights", where="load(quantize)",
            expected="merge=False: its factors stay beside the codes", found="merge=True",
        )  # fmt: skip

    def computing(config: Any) -> Any:
        if not isinstance(config, LlavaConfig):
            return config
        model = dataclasses.replace(config.model, dtype=dtype)
        return dataclasses.replace(config, model=model)

    place = None
    if mesh is not None:
        place = functools.partial(place_parts, plan=mesh.plan, mesh=make_mesh(mesh))
    found, kept = read_directory(
        path,
        vision=vision,
        adapter=adapter,
        projector=projector,
        merge=merge,
        allow_pickle=allow_pickle,
        dtype=dtype,
        adjust=computing,
        place=place,
        codes=None if quantize is None else Codes(quantize, quantize_targets),
        may_lack=("",) if missing == "init" else (),
    )
    llava = found.config if isinstance(found.config, LlavaConfig) else None
    return Pretrained(
        path=path,
        architecture=found.family.architecture,
        config=found.config if llava is None else llava.model,
        report=found.report,
        graphdef=found.graphdef,
        params=found.params,
        dtype=dtype,
        image_token=None if llava is None else llava.image_token,
        ends=end_tokens(path),
        lora=None if kept is None else kept.config,
        whole=() if kept is None else tuple(kept.whole),
    )
