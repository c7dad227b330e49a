"""The composed model: gradients in every tower, masks, sets of dates, sizes by name."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bandsets import L1C, LANDSAT, WEATHER, garbage, random_observation, sar, text_batch
from filled import FAST, filled, shapes
from flax import nnx

from rsvlm_jax.config import (
    ConfigError,
    ConnectorConfig,
    ConvNextConfig,
    DataError,
    Dinov2Config,
    GPT2Config,
    HeadConfig,
    InputConfig,
    LlamaConfig,
    MixedConfig,
    PerceiverConfig,
    PixelShuffleConfig,
    QFormerConfig,
    SiglipConfig,
    SpectralConfig,
    TemporalConfig,
    ViTConfig,
    VLMConfig,
    llava15_7b,
    nano,
)
from rsvlm_jax.core import flat
from rsvlm_jax.data.batch import Batch, Images
from rsvlm_jax.models.frames import token_valid
from rsvlm_jax.models.spectral import make_plan, patch_valid, recombine
from rsvlm_jax.models.vlm import VisionLanguageModel, readable

Q, N = 2, 4
S1 = sar("VV", "VH")
INPUTS = (InputConfig("s2"), InputConfig("era5", "pixel"), InputConfig("s1"))
BANDSETS = (L1C, WEATHER, S1)
TINY = VLMConfig(
    inputs=INPUTS,
    vision=ViTConfig(
        image_size=8, patch_size=4, width=16, layers=2, heads=2, mlp_dim=32, feature_layers=(-1,)
    ),
    temporal=TemporalConfig(budget=N, heads=2, date_dropout=0.5),
    decoder=LlamaConfig(
        vocab_size=514, width=24, layers=2, heads=4, kv_heads=2, mlp_dim=32, tie_embeddings=True
    ),
    head=HeadConfig(layers=2, reg_tokens=Q, token_dim=8, channel_dim=16),
)


def build(config: VLMConfig = TINY, bandsets=BANDSETS, **options) -> VisionLanguageModel:
    given = {"image_token": 512, "reg_token": 513, **options}
    return filled(lambda: VisionLanguageModel(config, bandsets, rngs=nnx.Rngs(0), **given))


def abstract(config: VLMConfig, bandsets=BANDSETS, **options) -> VisionLanguageModel:
    given = {"image_token": 512, "reg_token": 513, **options}
    return nnx.eval_shape(lambda: VisionLanguageModel(config, bandsets, rngs=nnx.Rngs(0), **given))


def batch(b: int = 2, t: int = 3, n: int = N):
    obs = {
        "s2": random_observation(L1C, b, t, 8, seed=0),
        "era5": random_observation(WEATHER, b, t, 1, seed=1, share=0.9),
        "s1": random_observation(S1, b, 2, 8, seed=2),
    }
    return text_batch(obs, n=n, q=Q, length=16)


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return build()


@pytest.fixture(scope="module")
def forward(model):
    return jax.jit(lambda b: (e := model(b), model.head(e)), compiler_options=FAST)


@pytest.fixture(scope="module")
def regression(model):
    """The loss, and its gradients in the parameters and in the Sentinel-2 pixels."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, pixels, given):
        obs = {**given.obs, "s2": dataclasses.replace(given.obs["s2"], pixels=pixels)}
        made = nnx.merge(graphdef, params, rest)
        encoded = made(dataclasses.replace(given, obs=obs))
        return made.head(encoded).nll(given.target).mean()

    run = jax.jit(jax.value_and_grad(loss, (0, 1)), compiler_options=FAST)
    return lambda given: run(params, given.obs["s2"].pixels, given)


@pytest.fixture(scope="module")
def gradients(regression) -> tuple[dict, jax.Array]:
    by_parameter, by_pixel = regression(batch())[1]
    return flat(nnx.to_pure_dict(by_parameter)), by_pixel


@pytest.mark.parametrize("tower", ["vision", "pixel", "temporal", "connector", "decoder", "head"])
def test_regression_loss_reaches(tower, gradients):
    of_tower = {p: g for p, g in gradients[0].items() if p.startswith(f"{tower}/")}
    assert of_tower
    for path, g in of_tower.items():
        assert jnp.isfinite(g).all(), path
        # A key bias shifts all scores of a query alike: softmax does not see it.
        if not path.endswith("/k/bias"):
            assert jnp.abs(g).max() > 0, path


def test_regression_loss_reaches_spectral(gradients):
    """Spectral recombination has no parameters: its gradient is that of the bands it read."""
    obs = batch().obs["s2"]
    by_pixel = np.asarray(gradients[1])
    assert np.isfinite(by_pixel).all()
    assert (np.abs(by_pixel).sum(axis=(0, 1, 3, 4)) > 0).all()
    assert (by_pixel[~np.asarray(obs.valid)] == 0).all()


def test_shapes(forward):
    encoded, made = forward(batch())
    assert encoded.hidden.shape == (2, 16, 24)
    assert encoded.visual.shape == (2, N, 16)
    assert encoded.knowledge.shape == (2, Q, 24)
    assert encoded.has_knowledge.all()
    assert made.mean.shape == (2, 1)


def test_towers_start_the_paths(model):
    towers = {path.split("/")[0] for path in flat(nnx.to_pure_dict(nnx.state(model)))}
    assert towers == {
        "spectral",
        "vision",
        "pixel",
        "temporal",
        "connector",
        "decoder",
        "head",
    }


@pytest.mark.parametrize("seed", range(3))
def test_invalid_values_change_no_bit(forward, seed):
    given = batch()
    dirty = {n: garbage(o, seed) for n, o in given.obs.items()}
    again = forward(dataclasses.replace(given, obs=dirty))
    for a, b in zip(jax.tree.leaves(forward(given)), jax.tree.leaves(again), strict=True):
        assert np.array_equal(a, b)


def test_loss_and_gradients_stay_finite_where_nothing_is_valid(regression):
    """The first sample has no valid value at all, the second a single image; garbage elsewhere."""
    given = batch()
    obs = {n: dataclasses.replace(o, valid=jnp.zeros_like(o.valid)) for n, o in given.obs.items()}
    one_left = obs["s2"].valid.at[1].set(given.obs["s2"].valid[1])
    obs["s2"] = dataclasses.replace(obs["s2"], valid=one_left)
    obs = {n: garbage(o) for n, o in obs.items()}
    value, gradients = regression(dataclasses.replace(given, obs=obs))
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_order_of_dates_does_not_matter(forward):
    given = batch()
    order = np.array([2, 0, 1])
    s2 = given.obs["s2"]
    moved = dataclasses.replace(
        s2,
        pixels=s2.pixels[:, order],
        valid=s2.valid[:, order],
        date=s2.date[:, order],
        platform=s2.platform[:, order],
    )
    again = forward(dataclasses.replace(given, obs={**given.obs, "s2": moved}))
    for a, b in zip(jax.tree.leaves(forward(given)), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_dates_matter(forward):
    given = batch()
    s2 = given.obs["s2"]
    later = {**given.obs, "s2": dataclasses.replace(s2, date=s2.date + 180)}
    moved = forward(dataclasses.replace(given, obs=later))[1].loc
    assert np.abs(moved - forward(given)[1].loc).max() > 1e-5


@pytest.fixture(scope="module")
def told():
    """What the fusion is told of dates, by `TemporalConfig.dates`, of two places."""
    given = batch()
    place = jnp.asarray([[15.0, 46.0], [15.1, 46.0]])
    obs = dataclasses.replace(given.obs["s2"], lonlat=place)
    valid, group = jnp.ones((2, 3, 5, 4), bool), jnp.arange(5, dtype=jnp.int32)
    found = {}
    for dates in ("real", "none", "shuffled"):
        temporal = dataclasses.replace(TINY.temporal, dates=dates)
        model = abstract(dataclasses.replace(TINY, temporal=temporal))
        found[dates] = lambda o, m=model: np.asarray(m._known(o, valid, group).date)
    return obs, found


def test_dates_can_be_kept_from_the_fusion(told):
    obs, found = told
    assert np.isnan(found["none"](obs)).all()
    assert not np.isnan(found["real"](obs)).any()


def test_dates_can_be_dealt_anew_by_place(told):
    """The same dates in another order, which place alone decides: not batch, not row."""
    obs, found = told
    many = dataclasses.replace(obs, date=obs.date + 0)
    real, dealt = found["real"](many), found["shuffled"](many)
    np.testing.assert_array_equal(np.sort(dealt, axis=1), np.sort(real, axis=1))
    turned = jax.tree.map(lambda x: x[::-1], many)
    np.testing.assert_array_equal(found["shuffled"](turned), dealt[::-1])
    places = jnp.stack([jnp.linspace(10, 11, 2), jnp.full(2, 46.0)], axis=1)
    orders = set()
    for shift in range(8):
        moved = dataclasses.replace(many, lonlat=places + 0.01 * shift)
        orders |= {tuple(row) for row in found["shuffled"](moved)[:, :: 5 * 4] - real[:, :1]}
    assert len(orders) >= 4  # of six


def test_knowledge_is_the_hidden_state_at_reg(model, forward):
    given = batch()
    encoded, _ = forward(given)
    np.testing.assert_array_equal(encoded.knowledge, encoded.hidden[:, 13:15])
    tokens = given.tokens.at[1, 14].set(7)
    encoded, made = forward(dataclasses.replace(given, tokens=tokens))
    assert encoded.has_knowledge.tolist() == [True, False]
    assert (encoded.knowledge[1] == 0).all()
    assert np.isfinite(made.loc).all()


def test_placeholders_take_their_visual_token(model):
    given = batch()

    @jax.jit
    def run(visual):
        x = model.embed(given.tokens, given.image_slot, visual)
        return x, model.connector(visual), model.decoder.embed(given.tokens)

    visual = jax.random.normal(jax.random.key(0), (2, N, 16))
    x, connected, text = run(visual)
    np.testing.assert_allclose(x[:, 1 : N + 1], connected, atol=1e-6)
    outside = np.r_[0, N + 1 : 16]
    np.testing.assert_array_equal(x[:, outside], text[:, outside])


def test_placeholders_of_missing_tokens_are_not_read():
    slot = jnp.asarray([[-1, 0, 1, -1]])
    assert readable(slot, jnp.asarray([[False, True]])).tolist() == [[True, False, True, True]]


def test_text_sees_only_what_stands_before_it(forward):
    given = batch()
    changed = dataclasses.replace(given, tokens=given.tokens.at[:, 9].set(99))
    a, b = forward(given)[0].hidden, forward(changed)[0].hidden
    np.testing.assert_array_equal(a[:, :9], b[:, :9])
    assert np.abs(a[:, 9:] - b[:, 9:]).max() > 0


def test_dates_are_hidden_only_with_an_rng(model):
    given = batch()
    train = jax.jit(lambda key: model.encode_visual(given, rng=key)[0], compiler_options=FAST)
    shown = [train(jax.random.key(s)) for s in range(6)]
    assert any(not np.array_equal(shown[0], s) for s in shown[1:])


def test_without_a_language_model():
    model = build(dataclasses.replace(TINY, decoder=None))
    assert model.decoder is model.connector is None
    run = jax.jit(lambda b: (e := model(b), model.head(e)), compiler_options=FAST)
    encoded, made = run(batch())
    assert encoded.hidden.shape == (2, 16, 0)
    assert encoded.knowledge.shape[:2] == (2, 0)
    assert not encoded.has_knowledge.any()
    assert np.isfinite(made.loc).all()


def test_without_a_head():
    model = abstract(dataclasses.replace(TINY, head=None))
    assert shapes(model, lambda model, b: model(b), batch()).knowledge.shape == (2, 0, 24)


def test_without_a_budget_every_token_stays():
    """5 groups x 3 dates and 1 x 2 of radar, 4 patches and CLS of two layers each, 3 points."""
    config = dataclasses.replace(
        TINY,
        vision=dataclasses.replace(TINY.vision, keep_cls=True, feature_layers=(1, 2)),
        temporal=dataclasses.replace(TINY.temporal, budget=None),
    )
    count = (5 * 3 + 2) * (4 + 1) * 2 + 3
    model, given = build(config, visual_tokens=count), batch()
    visual, valid = jax.jit(lambda b: model.encode_visual(b), compiler_options=FAST)(given)
    assert visual.shape[1] == count
    np.testing.assert_array_equal(valid[:, -3:], given.obs["era5"].valid.any(axis=(2, 3, 4)))
    first_frame = patch_valid(recombine(given.obs["s2"], make_plan(L1C, SpectralConfig())), 8, 4)
    np.testing.assert_array_equal(valid[:, 1:5], first_frame[:, 0, 0])
    np.testing.assert_array_equal(valid[:, 0], first_frame[:, 0, 0].any(axis=1))


def test_a_head_needs_to_know_the_number_of_tokens():
    config = dataclasses.replace(TINY, temporal=dataclasses.replace(TINY.temporal, budget=None))
    with pytest.raises(ConfigError, match=r"number of visual tokens is unknown in Vision"):
        abstract(config)


def test_bfloat16_computes_in_bfloat16_with_float32_parameters():
    model = abstract(dataclasses.replace(TINY, dtype="bfloat16"))
    encoded, made = shapes(model, lambda model, b: (e := model(b), model.head(e)), batch())
    assert encoded.hidden.dtype == encoded.visual.dtype == jnp.bfloat16
    assert made.loc.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}


def test_nano_is_half_a_million_parameters():
    model = abstract(nano((InputConfig("s2"),)), (L1C,))
    params = nnx.state(model, nnx.Param)
    assert 3e5 < sum(x.size for x in jax.tree.leaves(params)) < 6e5


def test_7b_has_its_size_without_being_allocated():
    config = llava15_7b((InputConfig("landsat"),))
    model = abstract(config, (LANDSAT,), image_token=32000, reg_token=32001)
    sizes = dict.fromkeys(("vision", "connector", "decoder"), 0)
    for path, leaf in flat(nnx.to_pure_dict(nnx.state(model, nnx.Param))).items():
        tower = path.split("/")[0]
        if tower in sizes:
            sizes[tower] += leaf.size
    assert sizes["decoder"] == pytest.approx(6.74e9, rel=0.01)
    assert sizes["connector"] == 1024 * 4096 + 4096 + 4096 * 4096 + 4096
    assert sizes["vision"] == pytest.approx(303e6, rel=0.01)


def test_a_missing_band_set_is_named():
    given = batch()
    obs = {n: o for n, o in given.obs.items() if n != "s1"}
    with pytest.raises(DataError, match=r"lacks a band set in Batch\.obs; expected s1; found s2"):
        abstract(TINY).encode_visual(dataclasses.replace(given, obs=obs))


def test_a_missing_band_is_named():
    given = batch()
    s2 = given.obs["s2"]
    short = dataclasses.replace(s2, pixels=s2.pixels[:, :, :12], valid=s2.valid[:, :, :12])
    with pytest.raises(DataError, match=r"expected 13 bands \(B01, .*, B12\); found 12"):
        abstract(TINY).encode_visual(dataclasses.replace(given, obs={**given.obs, "s2": short}))


def test_band_sets_of_another_order_are_refused():
    with pytest.raises(ConfigError, match="expected s2, era5, s1; found s2, s1, era5"):
        abstract(TINY, (L1C, S1, WEATHER))


# ---- any tower, any resampler, any decoder -------------------------------------------------------

LAYERS = {"width": 16, "layers": 2, "heads": 2, "mlp_dim": 32, "feature_layers": (-1,)}
SIGLIP = SiglipConfig(image_size=10, patch_size=4, **LAYERS)  # two pixels are left over
DINO = Dinov2Config(image_size=8, table_size=8, patch_size=4, **LAYERS)
CONVNEXT = ConvNextConfig(image_size=16, patch_size=4, widths=(8, 16), depths=(1, 1))
TOWERS = {
    "siglip": SIGLIP,
    "dinov2": DINO,
    "convnext": CONVNEXT,
    "mixed": MixedConfig(first=DINO, second=CONVNEXT),
    "several layers": dataclasses.replace(
        TINY.vision, feature_layers=(1, 2), feature_join="channels", keep_cls=True
    ),
}
QFORMER = QFormerConfig(
    queries=3, width=12, layers=2, heads=2, mlp_dim=16, cross_attention_frequency=2
)
RESAMPLERS = {
    "pixel shuffle": (PixelShuffleConfig(), TINY.vision, 1, 64),
    "qformer": (QFORMER, TINY.vision, 3, 12),
    "perceiver": (
        PerceiverConfig(queries=(2, 1), layers=1, heads=2, mlp_dim=16),
        dataclasses.replace(TINY.vision, feature_layers=(1, 2)),
        3,
        16,
    ),
}


@pytest.mark.parametrize("name", TOWERS)
def test_a_cube_through_any_tower(name):
    config = dataclasses.replace(TINY, vision=TOWERS[name])
    model = abstract(config)
    encoded = shapes(model, lambda model, b: model(b), batch())
    assert encoded.visual.shape == (2, N, config.vision.out_width)
    assert encoded.hidden.shape == (2, 16, 24)


@pytest.mark.parametrize("name", TOWERS)
def test_every_token_of_a_tower_has_a_validity(name):
    config = dataclasses.replace(TINY, vision=TOWERS[name])
    rows, columns = config.vision.grid
    valid = np.random.default_rng(0).random((1, 2, 1, rows * columns)) < 0.5
    made = token_valid(config, jnp.asarray(valid))
    assert made.shape[3] == config.vision.tokens
    np.testing.assert_array_equal(made[..., -rows * columns :], valid)


@pytest.mark.parametrize("name", RESAMPLERS)
def test_a_resampler_works_frame_by_frame_before_fusion(name):
    """5 groups x 3 dates and 1 x 2 of radar; each frame gives P' tokens, then 3 points."""
    resampler, vision, tokens, width = RESAMPLERS[name]
    config = dataclasses.replace(
        TINY,
        vision=vision,
        resampler=resampler,
        temporal=dataclasses.replace(TINY.temporal, budget=None),
        head=None,
    )
    model, given = build(config), batch()
    run = jax.jit(lambda b: model.encode_visual(b), compiler_options=FAST)
    visual, valid = run(given)
    assert visual.shape == (2, 17 * tokens + 3, width)
    frames = recombine(given.obs["s2"], make_plan(L1C, SpectralConfig()))
    some = patch_valid(frames, 8, 4)[:, 0, 0].any(axis=1)
    np.testing.assert_array_equal(valid[:, :tokens].all(axis=1), some)
    dirty = {n: garbage(o, 1) for n, o in given.obs.items()}
    again, _ = run(dataclasses.replace(given, obs=dirty))
    np.testing.assert_array_equal(visual, again)


def test_pixel_shuffle_takes_a_square_that_is_valid_anywhere():
    vision = dataclasses.replace(TINY.vision, image_size=16)  # 4 x 4 patches
    config = dataclasses.replace(
        TINY, vision=vision, resampler=PixelShuffleConfig(), temporal=TemporalConfig(heads=1)
    )
    valid = np.zeros((1, 1, 1, 4, 4), bool)
    valid[..., 1, 2] = True
    made = token_valid(config, jnp.asarray(valid.reshape(1, 1, 1, 16)))
    assert made.reshape(-1).tolist() == [False, True, False, False]


def test_gpt2_reads_what_it_is_given():
    gpt2 = GPT2Config(vocab_size=514, width=24, layers=2, heads=3, mlp_dim=32, max_length=16)
    model = abstract(dataclasses.replace(TINY, decoder=gpt2, head=None))
    assert shapes(model, lambda model, b: model(b), batch()).hidden.shape == (2, 16, 24)


# ---- plain images --------------------------------------------------------------------------------

PLAIN = dataclasses.replace(TINY, inputs=(), head=None)
PATCHES = 4


def prompts(pixels, of, slot) -> Batch:
    """Text around placeholders; `slot` [B,L]."""
    given = text_batch({"x": random_observation(L1C, len(slot), 1, 8)}, n=0, q=0, length=12)
    images = None if pixels is None else Images(jnp.asarray(pixels), jnp.asarray(of, jnp.int32))
    slot = jnp.asarray(slot, jnp.int32)
    return dataclasses.replace(given, obs={}, image_slot=slot, images=images)


OF = [[0, 1], [-1, -1], [2, -1]]
SLOT = [
    [-1, 0, 1, 2, 3, -1, 4, 5, 6, 7, -1, -1],
    [-1] * 12,
    [-1] * 8 + [0, 1, 2, 3],
]


@pytest.fixture(scope="module")
def plain() -> VisionLanguageModel:
    return build(PLAIN, (), reg_token=None)


@pytest.fixture(scope="module")
def read(plain):
    return jax.jit(lambda b: plain(b), compiler_options=FAST)


def pictures(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((3, 8, 8, 3)).astype(np.float32)


def test_a_model_without_inputs_has_no_towers_of_cubes(plain):
    towers = {path.split("/")[0] for path in flat(nnx.to_pure_dict(nnx.state(plain)))}
    assert towers == {"vision", "connector", "decoder"}
    assert plain.temporal is plain.head is None


def test_each_prompt_gets_its_own_images_in_order(plain, read):
    encoded = read(prompts(pictures(), OF, SLOT))
    assert encoded.visual.shape == (3, 2 * PATCHES, 16)
    assert encoded.visual_valid.tolist() == [[True] * 8, [False] * 8, [True] * 4 + [False] * 4]
    alone = jax.jit(plain.encode_frames)(jnp.asarray(pictures()))
    np.testing.assert_allclose(encoded.visual[0].reshape(2, 4, 16), alone[:2], atol=1e-6)
    np.testing.assert_allclose(encoded.visual[2, :4], alone[2], atol=1e-6)
    assert (encoded.visual[1] == 0).all()


def test_no_prompt_reads_an_image_of_another(read):
    before = read(prompts(pictures(), OF, SLOT)).hidden
    changed = pictures()
    changed[2] += 1
    after = read(prompts(changed, OF, SLOT)).hidden
    np.testing.assert_array_equal(before[:2], after[:2])
    assert np.abs(before[2, 8:] - after[2, 8:]).max() > 1e-4


def test_text_alone(plain):
    given = prompts(None, None, [[-1] * 12])
    encoded = jax.jit(lambda b: plain(b), compiler_options=FAST)(given)
    assert encoded.visual.shape == (1, 0, 16)
    assert np.isfinite(encoded.hidden).all()


def test_images_have_gradients(plain):
    given = prompts(pictures(), OF, SLOT)

    def loss(pixels):
        images = dataclasses.replace(given.images, pixels=pixels)
        return jnp.square(plain(dataclasses.replace(given, images=images)).hidden[0]).sum()

    grads = jax.jit(jax.grad(loss), compiler_options=FAST)(given.images.pixels)
    assert (jnp.abs(grads[:2]).sum(axis=(1, 2, 3)) > 0).all()
    assert (grads[2] == 0).all()


def test_images_through_a_resampler():
    resampler, vision, tokens, width = RESAMPLERS["qformer"]
    model = abstract(
        dataclasses.replace(PLAIN, vision=vision, resampler=resampler), (), reg_token=None
    )
    slot = np.full((3, 12), -1)
    encoded = shapes(model, lambda m, b: m(b), prompts(pictures(), OF, slot))
    assert encoded.visual.shape == (3, 2 * tokens, width)


def test_features_made_before_are_read_like_their_images(plain, read):
    given = prompts(pictures(), OF, SLOT)
    made = jax.jit(plain.tower_features)(given.images.pixels)
    images = Images(None, given.images.of, made)
    encoded = read(dataclasses.replace(given, images=images))
    np.testing.assert_allclose(encoded.hidden, read(given).hidden, atol=1e-6)


def test_features_go_through_the_resampler():
    resampler, vision, tokens, width = RESAMPLERS["qformer"]
    model = abstract(
        dataclasses.replace(PLAIN, vision=vision, resampler=resampler), (), reg_token=None
    )
    given = prompts(pictures(), OF, np.full((3, 12), -1))
    features = shapes(model, lambda m, b: m.tower_features(b.images.pixels), given)
    images = Images(None, given.images.of, jnp.zeros(features.shape, features.dtype))
    encoded = shapes(model, lambda m, b: m(b), dataclasses.replace(given, images=images))
    assert encoded.visual.shape == (3, 2 * tokens, width)


def test_images_without_pixels_or_features_are_refused(plain):
    given = prompts(pictures(), OF, SLOT)
    nothing = dataclasses.replace(given, images=Images(None, given.images.of))
    with pytest.raises(DataError, match="images of nothing"):
        plain.encode_visual(nothing)


def test_recomputed_activations_change_no_number(plain, read):
    config = dataclasses.replace(PLAIN, connector=ConnectorConfig())
    again = filled(
        lambda: VisionLanguageModel(config, image_token=512, remat="full", rngs=nnx.Rngs(0))
    )
    given = prompts(pictures(), OF, SLOT)
    made = jax.jit(lambda b: again(b), compiler_options=FAST)(given)
    np.testing.assert_allclose(made.hidden, read(given).hidden, atol=1e-6)


def test_images_for_a_model_of_cubes_are_refused(model):
    given = dataclasses.replace(
        batch(), images=Images(jnp.zeros((1, 8, 8, 3)), jnp.zeros((2, 1), jnp.int32))
    )
    with pytest.raises(DataError, match=r"the model reads cubes in Batch\.images"):
        model.encode_visual(given)


def test_a_head_without_a_reg_token_is_refused():
    with pytest.raises(ConfigError, match=r"reads tokens of a decoder.*expected reg_token"):
        abstract(TINY, reg_token=None)
