"""The model as numbers: frozen dataclasses, no arrays.

Letters (see `rsvlm_jax.core.shapes`): B batch, T dates, C bands, G spectral groups, P patches,
N visual tokens, L text positions, D language width, Dv encoder width, K targets, Q `<reg>` tokens.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from .errors import ConfigError

Plan = Literal["wavelength", "consecutive_drop", "consecutive_pad"]
SarThird = Literal["ratio_db", "mean_db", "diff_linear", "copy"]


def _positive(config: object, *fields: str) -> None:
    for f in fields:
        value = getattr(config, f)
        if value <= 0:
            where = f"{type(config).__name__}.{f}"
            raise ConfigError("not a size", where=where, expected="> 0", found=value)


def _divides(config: object, part: str, whole: str) -> None:
    a, b = getattr(config, part), getattr(config, whole)
    if b % a:
        raise ConfigError(
            f"{whole} is not a multiple of {part}",
            where=type(config).__name__,
            expected=f"{whole} % {part} == 0",
            found=f"{b} % {a}",
        )


@dataclasses.dataclass(frozen=True)
class SpectralConfig:
    """How a band set becomes three-channel frames (spectral recombination).

    Attributes:
      plan: "wavelength" groups bands physically; "consecutive_drop" (EarthMind) and
        "consecutive_pad" (EarthDial) are the published baselines.
      sar_third: third channel of a dual-polarisation frame.
      indices: spectral indices appended as one more three-slot frame, e.g.
        ("ndvi", "ndmi", "nbr"). Ours; off by default; optical band sets only.
      stretch: "zscore" by the statistics of the training split, "minmax" from its 2nd and 98th
        percentiles to [0, 1] and on to the mean and std of `ViTConfig` (pretrained RGB encoders).
    """

    plan: Plan = "wavelength"
    sar_third: SarThird = "ratio_db"
    indices: tuple[str, ...] = ()
    stretch: Literal["zscore", "minmax"] = "zscore"


@dataclasses.dataclass(frozen=True)
class InputConfig:
    """One band set that the model reads, and through which front.

    Attributes:
      bandset: name of the cube's group.
      front: "rgb" (recombination and vision tower) or "pixel" (one linear token a date).
      bands: native or common names in the wanted order; None takes all of the cube's.
      dates: at most so many dates a window, the clearest ones, in time order; None takes all.
      spectral: recombination of the "rgb" front.
    """

    bandset: str
    front: Literal["rgb", "pixel"] = "rgb"
    bands: tuple[str, ...] | None = None
    dates: int | None = None
    spectral: SpectralConfig = SpectralConfig()

    def __post_init__(self) -> None:
        if self.dates is not None:
            _positive(self, "dates")


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """CLIP's vision transformer.

    Attributes:
      feature_layers: hidden states that are returned, as in Hugging Face: index 0 is the
        embedding, -1 the last layer's output, -2 LLaVA's choice. Several are concatenated along P.
      mean, std: of the RGB images that a pretrained tower saw, after scaling to [0, 1].
    """

    image_size: int = 336
    patch_size: int = 14
    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_dim: int = 4096
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    feature_layers: tuple[int, ...] = (-2,)
    keep_cls: bool = False
    norm_eps: float = 1e-5
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        _positive(self, "image_size", "patch_size", "width", "layers", "heads", "mlp_dim")
        _divides(self, "patch_size", "image_size")
        _divides(self, "heads", "width")
        for layer in self.feature_layers:
            if not -self.layers - 1 <= layer <= self.layers:
                raise ConfigError(
                    "no such layer",
                    where="ViTConfig.feature_layers",
                    expected=f"{-self.layers - 1} .. {self.layers}",
                    found=layer,
                )

    @property
    def tokens(self) -> int:
        """P: tokens that one frame gives."""
        patches = (self.image_size // self.patch_size) ** 2 + int(self.keep_cls)
        return patches * len(self.feature_layers)


@dataclasses.dataclass(frozen=True)
class TemporalConfig:
    """Date embedding and masked compression in encoder width.

    Attributes:
      budget: N, visual tokens given to the language model; None keeps all tokens in order.
      layers: cross-attention blocks of the compression.
      harmonics: day-of-year sine and cosine pairs.
      platforms: rows of the platform embedding (the sensor table's platform list).
      scale_init: initial value of the learnable scale of the date embedding.
      date_dropout: share of training samples whose dates are hidden.
    """

    budget: int | None = 8
    layers: int = 1
    heads: int = 4
    harmonics: int = 4
    platforms: int = 64
    scale_init: float = 0.1
    date_dropout: float = 0.1

    def __post_init__(self) -> None:
        _positive(self, "layers", "heads", "harmonics", "platforms")
        if self.budget is not None:
            _positive(self, "budget")


@dataclasses.dataclass(frozen=True)
class ConnectorConfig:
    """From encoder width to language width; `mlpNx_gelu` has N linear layers (LLaVA)."""

    kind: Literal["linear", "mlp2x_gelu"] = "mlp2x_gelu"


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """A Llama-style decoder: RMSNorm, RoPE, grouped-query attention, SwiGLU."""

    vocab_size: int = 32064
    width: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int = 32
    mlp_dim: int = 11008
    max_length: int = 4096
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        _positive(self, "vocab_size", "width", "layers", "heads", "kv_heads", "mlp_dim")
        _divides(self, "heads", "width")
        _divides(self, "kv_heads", "heads")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """The four-layer MLP-mixer regression head over knowledge and visual tokens.

    Attributes:
      targets: K.
      reg_tokens: Q, `<reg>` tokens whose hidden states are the knowledge tokens.
      token_dim, channel_dim: hidden sizes of the two MLPs of a mixer block.
      transform: of the target before standardisation.
    """

    kind: Literal["mixer"] = "mixer"
    layers: int = 4
    targets: int = 1
    reg_tokens: int = 4
    token_dim: int = 32
    channel_dim: int = 128
    dropout: float = 0.0
    transform: Literal["zscore", "log1p"] = "zscore"

    def __post_init__(self) -> None:
        _positive(self, "layers", "targets", "reg_tokens", "token_dim", "channel_dim")


@dataclasses.dataclass(frozen=True)
class VLMConfig:
    """The whole model. `decoder=None` is the ablation without a language model."""

    inputs: tuple[InputConfig, ...] = ()
    vision: ViTConfig = ViTConfig()
    temporal: TemporalConfig = TemporalConfig()
    connector: ConnectorConfig = ConnectorConfig()
    decoder: LlamaConfig | None = LlamaConfig()
    head: HeadConfig | None = HeadConfig()
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        names = [i.bandset for i in self.inputs]
        if len(set(names)) != len(names):
            raise ConfigError(
                "a band set is read twice", where="VLMConfig.inputs", found=", ".join(names)
            )
        if self.vision.width % self.temporal.heads:
            raise ConfigError(
                "the encoder width is not a multiple of the fusion heads",
                where="VLMConfig.temporal.heads",
                expected=f"a divisor of {self.vision.width}",
                found=self.temporal.heads,
            )
        if self.decoder is None and self.head is None:
            raise ConfigError(
                "nothing to train", where="VLMConfig", expected="a decoder, a head, or both"
            )
