"""The model as numbers: frozen dataclasses, no arrays.

Letters (see `rsvlm_jax.core.shapes`): B batch, T dates, C bands, G spectral groups, P patches,
N visual tokens, L text positions, D language width, Dv encoder width, K targets, Q `<reg>` tokens.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from .check import choices, in_range, positive
from .encoders import EncodersConfig
from .errors import ConfigError
from .language import DecoderConfig, LlamaConfig
from .resampler import ConnectorConfig, PerceiverConfig, PixelShuffleConfig, ResamplerConfig
from .vision import VisionConfig, ViTConfig

Plan = Literal["wavelength", "consecutive_drop", "consecutive_pad"]
SarThird = Literal["ratio_db", "mean_db", "diff_linear", "copy"]
Transform = Literal["zscore", "log1p", "sqrt", "asinh"]


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

    def __post_init__(self) -> None:
        choices(self)


@dataclasses.dataclass(frozen=True)
class InputConfig:
    """One band set that the model reads, and through which front.

    Attributes:
      bandset: name of the cube's group.
      front: "rgb" (recombination and vision tower), "pixel" (one linear token a date), or a
        pretrained encoder of series, "galileo" or "presto", which reads all its inputs at once.
      bands: native or common names in the wanted order; None takes all of the cube's.
      dates: at most so many dates a window, the clearest ones, in time order; None takes all.
      spectral: recombination of the "rgb" front; of the "pixel" front its `indices` alone, which
        join the bands.
      bins: quantile bins of the training split in which the "pixel" front reads each band as well,
        piecewise linearly; 0: bands enter linearly alone.
      lags: the "pixel" front has weights of its own for each of the `dates`, counted back from a
        window's last: for series of even steps whose last is the one that matters most.
    """

    bandset: str
    front: Literal["rgb", "pixel", "galileo", "presto"] = "rgb"
    bands: tuple[str, ...] | None = None
    dates: int | None = None
    spectral: SpectralConfig = SpectralConfig()
    bins: int = 0
    lags: bool = False

    def __post_init__(self) -> None:
        choices(self)
        if self.dates is not None:
            positive(self, "dates")
        in_range(self, "bins", least=0.0)
        if self.front != "pixel" and (self.bins or self.lags):
            raise ConfigError(
                "bins and lags are of the pixel front",
                where=f"InputConfig of {self.bandset!r}",
                expected='front="pixel"',
                found=self.front,
            )
        if self.lags and self.dates is None:
            raise ConfigError(
                "how many lags is unknown",
                where=f"InputConfig of {self.bandset!r}: dates",
                expected="a number, with lags",
                found=None,
            )


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
      dates: what the fusion is told. The ablations: "none", no date at all; "shuffled", those of
        the window dealt anew among its acquisitions, by where the window lies.
      token_dropout: share of the tokens that enter the fusion which are hidden in training.
    """

    budget: int | None = 8
    layers: int = 1
    heads: int = 4
    harmonics: int = 4
    platforms: int = 64
    scale_init: float = 0.1
    date_dropout: float = 0.1
    dates: Literal["real", "none", "shuffled"] = "real"
    token_dropout: float = 0.0

    def __post_init__(self) -> None:
        choices(self)
        positive(self, "layers", "heads", "harmonics", "platforms")
        in_range(self, "date_dropout", least=0.0, most=1.0)
        in_range(self, "token_dropout", least=0.0, below=1.0)
        if self.budget is not None:
            positive(self, "budget")


@dataclasses.dataclass(frozen=True)
class SelectionConfig:
    """The visual tokens that matter: of all tokens of a sample those of the highest learned score.

    Attributes:
      keep: K, tokens that stay, in their order; of fewer all.
      gate: how the score learns. "straight": a token passes as it is, and its score has the
        gradient that a factor sigmoid(score) would have; "soft": it is multiplied by that factor.
    """

    keep: int = 256
    gate: Literal["straight", "soft"] = "straight"

    def __post_init__(self) -> None:
        choices(self)
        positive(self, "keep")


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """The regression head over knowledge and visual tokens; the default is REO-VLM's.

    Attributes:
      kind: the trunk, from tokens to features: "mixer" mixes tokens and channels in `layers`
        blocks and averages; "mlp" averages and has `layers` residual blocks; "linear" averages;
        "experts" is "mlp" followed by `experts` of these blocks side by side, gated by the target
        and by the value range that a first rough prediction falls in; "xval" reads the knowledge
        tokens alone, in two layers, and so needs a decoder: the number head of xVal.
      output: the distribution of a target: "gaussian", "laplace", non-crossing "quantiles",
        "histogram" (HL-Gauss), "ordinal" (bins of equal shares, and where in its bin).
      targets: K.
      reg_tokens: Q, `<reg>` tokens of an answer, and knowledge tokens.
      knowledge: which hidden states these are: "reg", those of the `<reg>` tokens; "answer", of the
        answer's words up to and with them, in Q means; "last", of the last Q tokens before the
        answer. The latter two need answers in words (`DataConfig.templates`).
      token_dim: hidden size of the token MLP of a mixer block.
      channel_dim: hidden size of the channel MLPs, and of an expert.
      transform: of the target before standardisation.
      quantiles: levels, ascending, 0.5 among them.
      bins: of "histogram" and "ordinal".
      bin_sigma: of "histogram": spread of a training target in widths of a bin.
      experts: how many.
      readout: ridge penalty of a linear readout of the mean visual token, fitted to the training
        split before the first step and then fixed: what is trained corrects it. In variances of a
        channel a sample; 0: none. For fronts that start pretrained, whose tokens say something
        before any training; of "gaussian" and "laplace".
      dense: "no": one answer a window; else one for each of its pixels, by any kind and output:
        what the trunk says of the window is added to all pixels, and each of them reads, beside its
        neighbours, the "visual" tokens, or the decoder's states at the "places" of the image.
    """

    kind: Literal["mixer", "mlp", "linear", "experts", "xval"] = "mixer"
    layers: int = 4
    targets: int = 1
    reg_tokens: int = 4
    knowledge: Literal["reg", "answer", "last"] = "reg"
    token_dim: int = 32
    channel_dim: int = 128
    dropout: float = 0.0
    transform: Transform = "zscore"
    output: Literal["gaussian", "laplace", "quantiles", "histogram", "ordinal"] = "gaussian"
    quantiles: tuple[float, ...] = (
        0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975,
    )  # fmt: skip
    bins: int = 100
    bin_sigma: float = 0.75
    experts: int = 4
    readout: float = 0.0
    dense: Literal["no", "visual", "places"] = "no"

    def __post_init__(self) -> None:
        choices(self)
        if self.kind == "xval" and (self.readout or self.dense != "no"):
            raise ConfigError(
                "a head that reads no visual token",
                where='HeadConfig.kind "xval"',
                expected='readout 0 and dense "no"',
                found=f"readout {self.readout:g}, dense {self.dense!r}",
            )
        if self.readout and self.dense != "no":
            raise ConfigError(
                "a readout is fitted to the means of windows",
                where="HeadConfig.readout",
                expected='0, or HeadConfig.dense "no"',
                found=f"{self.readout:g} with dense {self.dense!r}",
            )
        in_range(self, "readout", least=0.0)
        if self.readout and self.output not in ("gaussian", "laplace"):
            raise ConfigError(
                "a readout gives the place of a distribution",
                where="HeadConfig.readout",
                expected='HeadConfig.output "gaussian" or "laplace", or 0',
                found=self.output,
            )
        positive(self, "layers", "targets", "reg_tokens", "token_dim", "channel_dim")
        in_range(self, "dropout", least=0.0, below=1.0)
        in_range(self, "bins", least=2.0, most=65536.0)
        in_range(self, "bin_sigma", least=0.01, most=100.0)
        in_range(self, "experts", least=2.0, most=1024.0)
        levels = self.quantiles
        rising = all(a < b for a, b in zip((0.0, *levels), (*levels, 1.0), strict=True))
        if len(levels) < 3 or not rising or 0.5 not in levels[1:-1]:
            raise ConfigError(
                "impossible levels",
                where="HeadConfig.quantiles",
                expected="three or more in (0, 1), ascending, 0.5 inside",
                found=levels,
            )


@dataclasses.dataclass(frozen=True)
class VLMConfig:
    """The whole model.

    Attributes:
      inputs: band sets of a cube; none for a model of images and text alone (LLaVA's own).
      resampler: changes the tokens of a frame before fusion; None keeps them.
      selection: keeps few of the tokens that fusion reads; None: it reads all.
      temporal: read only where there are inputs.
      encoders: of the fronts "galileo" and "presto".
      decoder: None is the ablation without a language model.
    """

    inputs: tuple[InputConfig, ...] = ()
    vision: VisionConfig = ViTConfig()
    resampler: ResamplerConfig | None = None
    selection: SelectionConfig | None = None
    temporal: TemporalConfig = TemporalConfig()
    connector: ConnectorConfig = ConnectorConfig()
    decoder: DecoderConfig | None = LlamaConfig()
    head: HeadConfig | None = HeadConfig()
    encoders: EncodersConfig = EncodersConfig()
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        choices(self)
        names = [i.bandset for i in self.inputs]
        if len(set(names)) != len(names):
            raise ConfigError(
                "a band set is read twice", where="VLMConfig.inputs", found=", ".join(names)
            )
        if self.inputs and self.frame_width % self.temporal.heads:
            raise ConfigError(
                "the encoder width is not a multiple of the fusion heads",
                where="VLMConfig.temporal.heads",
                expected=f"a divisor of {self.frame_width}",
                found=self.temporal.heads,
            )
        if self.selection is not None and not self.inputs:
            raise ConfigError(
                "tokens of plain images have their places in the text",
                where="VLMConfig.selection",
                expected="None, or inputs",
            )
        encoded = [i for i in self.inputs if i.front in ("galileo", "presto")]
        if encoded and self.temporal.dates != "real":
            raise ConfigError(
                "an encoder of series reads the dates itself",
                where="VLMConfig.temporal.dates",
                expected=f"real, with the front {encoded[0].front!r}",
                found=self.temporal.dates,
            )
        if encoded and self.temporal.budget is None:
            raise ConfigError(
                "how many tokens an encoder gives is a matter of the window",
                where="VLMConfig.temporal.budget",
                expected=f"a number, with the front {encoded[0].front!r}",
                found=None,
            )
        if self.decoder is None and self.head is None:
            raise ConfigError(
                "nothing to train", where="VLMConfig", expected="a decoder, a head, or both"
            )
        if self.head is not None and self.head.kind == "xval" and self.decoder is None:
            raise ConfigError(
                "without a decoder there is no token of the number",
                where="HeadConfig.kind",
                expected="another kind, or a language model in VLMConfig.decoder",
                found="xval",
            )
        self._check_dense()
        _ = self.frame_tokens  # the resampler fits the tower, or this says why not

    def _check_dense(self) -> None:
        """A map has pixels to be drawn from, and places only in a decoder's text."""
        if self.head is None or self.head.dense == "no" or not self.inputs:
            return
        if not any(i.front in ("rgb", "pixel") for i in self.inputs):
            raise ConfigError(
                "a dense head draws its map from pixels, which an encoder of series does not show",
                where="HeadConfig.dense",
                expected='"no", or an input by the front "rgb" or "pixel"',
                found=", ".join(i.front for i in self.inputs),
            )
        if self.head.dense == "places" and self.decoder is None:
            raise ConfigError(
                "without a decoder there are no places",
                where="HeadConfig.dense",
                expected='"visual", or a language model in VLMConfig.decoder',
                found="places",
            )

    @property
    def is_dense(self) -> bool:
        """Whether it answers with a map a window."""
        return self.head is not None and self.head.dense != "no"

    @property
    def frame_width(self) -> int:
        """Width of the tokens that fusion and connector read."""
        if isinstance(self.resampler, PixelShuffleConfig):
            return self.vision.out_width * self.resampler.factor**2
        if self.resampler is not None and self.resampler.kind == "qformer":
            return self.resampler.width
        return self.vision.out_width

    @property
    def frame_tokens(self) -> int:
        """P': tokens of one frame after the resampler.

        Raises:
          ConfigError: the resampler does not fit the tower.
        """
        vision, resampler = self.vision, self.resampler
        if isinstance(resampler, PixelShuffleConfig):
            (rows, columns), k = vision.grid, resampler.factor
            if vision.tokens != rows * columns or rows % k or columns % k:
                raise ConfigError(
                    "pixel shuffle needs a grid of whole squares",
                    where="VLMConfig.resampler",
                    expected=f"one token a cell, rows and columns multiples of {k}",
                    found=f"{vision.tokens} tokens on {rows} x {columns} cells",
                )
            return vision.tokens // k**2
        if isinstance(resampler, PerceiverConfig):
            by_tokens = getattr(vision, "feature_join", "channels") == "tokens"
            levels = len(vision.feature_layers) if by_tokens else 1  # type: ignore[union-attr]
            if len(resampler.queries) != levels:
                raise ConfigError(
                    "the perceiver has queries for other levels",
                    where="VLMConfig.resampler.queries",
                    expected=f"{levels}, one for each feature layer that is joined by tokens",
                    found=len(resampler.queries),
                )
            if vision.out_width % resampler.heads:
                raise ConfigError(
                    "the encoder width is not a multiple of the perceiver's heads",
                    where="VLMConfig.resampler.heads",
                    expected=f"a divisor of {vision.out_width}",
                    found=resampler.heads,
                )
            return sum(resampler.queries)
        return vision.tokens if resampler is None else resampler.queries
