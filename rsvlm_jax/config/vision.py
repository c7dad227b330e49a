"""Vision towers as numbers. Each is told apart by `kind` and has the same four properties:

grid        (rows, columns) of patches of one square frame
tokens      P, tokens that one frame gives
width       inside the tower;   out_width   Dv, of the tokens that it gives
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from .check import choices, divides, layers_exist, positive
from .errors import ConfigError

FeatureJoin = Literal["tokens", "channels"]
"""How several feature layers are joined: along P (each its own token; `models/resampler` reads
them by level) or along Dv (Hugging Face's LLaVA with a list of `vision_feature_layer`)."""

Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class _Tokens:
    """Counts of a transformer tower with square patches."""

    @property
    def grid(self) -> tuple[int, int]:
        side = self.image_size // self.patch_size  # type: ignore[attr-defined]
        return side, side

    @property
    def tokens(self) -> int:
        """P: tokens that one frame gives."""
        c = self
        n = self.grid[0] * self.grid[1] + int(getattr(c, "keep_cls", False))
        return n * (len(c.feature_layers) if c.feature_join == "tokens" else 1)  # type: ignore[attr-defined]

    @property
    def out_width(self) -> int:
        """Dv: width of the tokens that it gives."""
        c = self
        return c.width * (len(c.feature_layers) if c.feature_join == "channels" else 1)  # type: ignore[attr-defined]


@dataclasses.dataclass(frozen=True)
class ViTConfig(_Tokens):
    """CLIP's vision transformer (Radford et al. 2021), OpenAI's and OpenCLIP's.

    Attributes:
      feature_layers: hidden states that are returned, as in Hugging Face: index 0 is the
        embedding, -1 the last layer's output, -2 LLaVA's choice.
      keep_cls: whether the class token is returned in front of the patches.
      pool: build what follows the layers too (`post_norm`): pooled output and, with
        `projection_dim`, the image embedding. No vision-language model of this family reads it;
        checkpoints hold it.
      mean, std: of the RGB images that a pretrained tower saw, after scaling to [0, 1].
    """

    kind: Literal["clip"] = "clip"
    image_size: int = 336
    patch_size: int = 14
    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_dim: int = 4096
    activation: Activation = "quick_gelu"
    feature_layers: tuple[int, ...] = (-2,)
    feature_join: FeatureJoin = "tokens"
    keep_cls: bool = False
    norm_eps: float = 1e-5
    pool: bool = False
    projection_dim: int | None = None
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        choices(self)
        positive(self, "image_size", "patch_size", "width", "layers", "heads", "mlp_dim")
        divides(self, "patch_size", "image_size")
        divides(self, "heads", "width")
        layers_exist(self, self.feature_layers, self.layers)
        if self.projection_dim is not None:
            positive(self, "projection_dim")
            if not self.pool:
                raise ConfigError(
                    "a projection of nothing", where="ViTConfig.projection_dim", expected="pool"
                )


@dataclasses.dataclass(frozen=True)
class SiglipConfig(_Tokens):
    """SigLIP's vision transformer (Zhai et al. 2023): no class token, attention pooling.

    `image_size` need not be a multiple of `patch_size` (so400m: 384 and 14); what is left over
    at the right and bottom edges is not read, as in the original convolution.

    Attributes:
      pool: build what follows the last layer too: the final norm, and the head.
      head: with `pool`, whether there is attention pooling (Hugging Face's `vision_use_head`).
    """

    kind: Literal["siglip"] = "siglip"
    image_size: int = 384
    patch_size: int = 14
    width: int = 1152
    layers: int = 27
    heads: int = 16
    mlp_dim: int = 4304
    activation: Activation = "gelu_tanh"
    feature_layers: tuple[int, ...] = (-2,)
    feature_join: FeatureJoin = "tokens"
    norm_eps: float = 1e-6
    pool: bool = False
    head: bool = True
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        choices(self)
        positive(self, "image_size", "patch_size", "width", "layers", "heads", "mlp_dim")
        divides(self, "heads", "width")
        layers_exist(self, self.feature_layers, self.layers)


@dataclasses.dataclass(frozen=True)
class Dinov2Config(_Tokens):
    """DINOv2's vision transformer (Oquab et al. 2024): layer scale, GELU or SwiGLU MLP.

    Attributes:
      table_size: image edge for which the position table is stored; images of another size are
        given an interpolated one (bicubic, as Hugging Face does).
      image_size: edge of the frames that it is given here.
      swiglu: the gated MLP of the giant model; then `mlp_dim` is the width after the gate.
      layer_scale: what both start at; None: there are none (EVA-G).
      final_norm: feature layers pass the norm after the last layer (as InstructBLIP's do; DINOv2's
        hidden states end before it).
      pool: build the final norm too.
      mask_token: build the token that stands for masked patches too (pretraining; checkpoints
        hold it).
    """

    kind: Literal["dinov2"] = "dinov2"
    image_size: int = 518
    table_size: int = 518
    patch_size: int = 14
    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_dim: int = 4096
    activation: Activation = "gelu"
    swiglu: bool = False
    layer_scale: float | None = 1.0
    feature_layers: tuple[int, ...] = (-1,)
    feature_join: FeatureJoin = "tokens"
    keep_cls: bool = False
    norm_eps: float = 1e-6
    final_norm: bool = False
    pool: bool = False
    mask_token: bool = False
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        choices(self)
        positive(self, "image_size", "table_size", "patch_size", "width", "layers", "heads")
        positive(self, "mlp_dim")
        divides(self, "heads", "width")
        layers_exist(self, self.feature_layers, self.layers)


@dataclasses.dataclass(frozen=True)
class ConvNextConfig:
    """ConvNeXt (Liu et al. 2022): four stages of convolutions; gives its stages' maps as tokens.

    Attributes:
      feature_stages: stages whose maps are returned (0 the stem, 1 .. n the stages, -1 the last),
        each flattened in raster order and normalised nowhere; several must share one grid, or
        they are resized to that of the first (bilinear) and joined along channels.
      pool: build the final norm too.
    """

    kind: Literal["convnext"] = "convnext"
    image_size: int = 384
    patch_size: int = 4
    widths: tuple[int, ...] = (192, 384, 768, 1536)
    depths: tuple[int, ...] = (3, 3, 27, 3)
    activation: Activation = "gelu"
    layer_scale: float = 1e-6
    norm_eps: float = 1e-12
    feature_stages: tuple[int, ...] = (-1,)
    pool: bool = False
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        choices(self)
        positive(self, "image_size", "patch_size")
        if len(self.widths) != len(self.depths) or not self.widths:
            raise ConfigError(
                "a width and a depth for each stage",
                where="ConvNextConfig",
                expected="as many widths as depths",
                found=f"{self.widths} and {self.depths}",
            )
        for value in (*self.widths, *self.depths):
            if not 0 < value < 2**31:
                raise ConfigError("not a size", where="ConvNextConfig", found=value)
        for stage in self.feature_stages:
            if not -len(self.widths) - 1 <= stage <= len(self.widths):
                raise ConfigError(
                    "no such stage",
                    where="ConvNextConfig.feature_stages",
                    expected=f"{-len(self.widths) - 1} .. {len(self.widths)}",
                    found=stage,
                )
        if not self.feature_stages:
            raise ConfigError("no stage is returned", where="ConvNextConfig.feature_stages")
        least = self.patch_size << (len(self.widths) - 1)
        if self.image_size < least:
            raise ConfigError(
                "nothing of the image reaches the last stage",
                where="ConvNextConfig.image_size",
                expected=f">= {least}",
                found=self.image_size,
            )

    @property
    def width(self) -> int:
        return self.widths[-1]

    def stage_of(self, feature: int) -> int:
        """Stage number from 0 (the stem) on."""
        return feature % (len(self.widths) + 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Of the first feature stage."""
        side = self.image_size // self.patch_size
        for _ in range(max(self.stage_of(self.feature_stages[0]) - 1, 0)):
            side //= 2
        return side, side

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def out_width(self) -> int:
        stages = [max(self.stage_of(s) - 1, 0) for s in self.feature_stages]
        return sum(self.widths[s] for s in stages)


@dataclasses.dataclass(frozen=True)
class MixedConfig:
    """Two towers on the same frames (EarthGPT: DINOv2 and ConvNeXt), tokens joined by channels.

    The tokens of the second are resized (bilinear) to the grid of the first; each reads the frames
    resized to its own `image_size` and in its own normalisation.
    """

    kind: Literal["mixed"] = "mixed"
    first: ViTConfig | SiglipConfig | Dinov2Config | ConvNextConfig = Dinov2Config()
    second: ViTConfig | SiglipConfig | Dinov2Config | ConvNextConfig = ConvNextConfig()

    def __post_init__(self) -> None:
        choices(self)
        for name in ("first", "second"):
            tower = getattr(self, name)
            if tower.tokens != tower.grid[0] * tower.grid[1]:
                raise ConfigError(
                    "towers that are mixed give one token a grid cell",
                    where=f"MixedConfig.{name}",
                    expected="no class token, feature layers joined by channels",
                    found=f"{tower.tokens} tokens on a grid of {tower.grid}",
                )

    @property
    def image_size(self) -> int:
        return self.first.image_size

    @property
    def mean(self) -> tuple[float, float, float]:
        return self.first.mean

    @property
    def std(self) -> tuple[float, float, float]:
        return self.first.std

    @property
    def grid(self) -> tuple[int, int]:
        return self.first.grid

    @property
    def tokens(self) -> int:
        return self.first.tokens

    @property
    def width(self) -> int:
        return self.out_width

    @property
    def out_width(self) -> int:
        return self.first.out_width + self.second.out_width


VisionConfig = ViTConfig | SiglipConfig | Dinov2Config | ConvNextConfig | MixedConfig
