"""Any tower by its config, and where its parameters, resamplers' and connectors' are stored."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from filled import shapes
from flax import nnx
from jax.sharding import PartitionSpec as P
from test_resampler import FITS, RESAMPLERS, TOWERS

from rsvlm_jax.config import (
    ConnectorConfig,
    ConvNextConfig,
    Dinov2Config,
    MeshConfig,
    MixedConfig,
    SiglipConfig,
    VisionConfig,
    ViTConfig,
)
from rsvlm_jax.core import flat
from rsvlm_jax.mesh import RULES, make_mesh, resolve
from rsvlm_jax.models.connector import Connector
from rsvlm_jax.models.resampler import build_resampler
from rsvlm_jax.models.towers import vision_tower

KINDS = {
    "clip": "CLIPVisionTower",
    "siglip": "SiglipVisionTower",
    "dinov2": "Dinov2Tower",
    "convnext": "ConvNextTower",
    "mixed": "MixedTower",
}
WIDE: dict[str, Any] = {
    "image_size": 16, "patch_size": 4, "width": 8, "layers": 2, "heads": 2, "mlp_dim": 12,
}  # fmt: skip
DINOV2 = Dinov2Config(**WIDE, table_size=16, swiglu=True, pool=True, mask_token=True)
CONVNEXT = ConvNextConfig(image_size=18, patch_size=4, widths=(4, 8), depths=(1, 2), pool=True)
WHOLE: dict[str, VisionConfig] = {
    "clip": ViTConfig(**WIDE, pool=True, projection_dim=6),
    "siglip": SiglipConfig(**WIDE, pool=True),
    "dinov2": DINOV2,
    "dinov2_gelu": Dinov2Config(**WIDE, table_size=16),
    "convnext": CONVNEXT,
    "mixed": MixedConfig(first=DINOV2, second=CONVNEXT),
    "mixed_others": MixedConfig(first=ViTConfig(**WIDE), second=SiglipConfig(**WIDE, pool=True)),
}
"""With every part that a config switches on, in widths that divide over the mesh."""


@pytest.mark.parametrize("name", TOWERS)
def test_shape_is_what_the_config_says(name: str) -> None:
    config = TOWERS[name]
    model = nnx.eval_shape(lambda: vision_tower(config, remat="full", rngs=nnx.Rngs(0)))
    assert type(model).__name__ == KINDS[config.kind]
    images = jax.ShapeDtypeStruct((2, config.image_size, config.image_size, 3), jnp.float32)
    made = shapes(model, lambda m, x: m(x), images)
    assert made.shape == (2, config.tokens, config.out_width)
    assert len(FITS) == len(TOWERS)


WHOLE_PLANS = ("replicated", "lora_dp")
"""Plans that split no parameter."""


def placed(make: Any, word: str, plan: str) -> dict[str, P]:
    params = nnx.to_pure_dict(nnx.state(nnx.eval_shape(make), nnx.Param))
    tree = resolve({word: params}, RULES[plan], make_mesh(MeshConfig(2, 2, 2)))
    return {path: s.spec for path, s in flat(tree).items()}


@pytest.mark.parametrize("plan", RULES)
@pytest.mark.parametrize("name", WHOLE)
def test_every_parameter_of_a_tower_is_placed(name: str, plan: str) -> None:
    specs = placed(lambda: vision_tower(WHOLE[name], rngs=nnx.Rngs(0)), "vision", plan)
    if plan in WHOLE_PLANS:
        assert set(specs.values()) == {P()}
        return
    split = {path for path, spec in specs.items() if spec != P()}
    assert split == {path for path in specs if path.endswith("kernel")}


@pytest.mark.parametrize("plan", RULES)
@pytest.mark.parametrize("name", [n for n in RESAMPLERS if n[:5] != "pixel"])  # no parameters
def test_every_parameter_of_a_resampler_is_placed(name: str, plan: str) -> None:
    config = RESAMPLERS[name]
    specs = placed(
        lambda: build_resampler(config, WHOLE["siglip"], rngs=nnx.Rngs(0)), "resampler", plan
    )
    split = {path for path, spec in specs.items() if spec != P()}
    kernels = {path for path in specs if path.endswith("kernel")}
    assert split == (set() if plan in WHOLE_PLANS else kernels)


@pytest.mark.parametrize("plan", RULES)
@pytest.mark.parametrize("kind", ["linear", "mlp1x_gelu", "mlp2x_gelu", "mlp12x_gelu"])
@pytest.mark.parametrize("bias", [True, False])
def test_every_parameter_of_a_connector_is_placed(kind: str, bias: bool, plan: str) -> None:
    config = ConnectorConfig(kind, bias=bias)
    specs = placed(lambda: Connector(config, 4, 6, rngs=nnx.Rngs(0)), "connector", plan)
    for path, spec in specs.items():
        pair = P("fsdp", "tensor"), P("tensor", "fsdp")
        if plan == "fsdp":
            pair = P("fsdp"), P(None, "fsdp")
        layer = int(path.split("/")[1].removeprefix("fc"))
        whole = plan in WHOLE_PLANS or path.endswith("bias")
        assert spec == (P() if whole else pair[(layer + 1) % 2]), path
