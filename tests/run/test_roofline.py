"""The roofline's arithmetic: units, bounds, what it refuses."""

from __future__ import annotations

import dataclasses
import math

import pytest

from rsvlm_jax.config import ConfigError
from rsvlm_jax.mesh.chips import CHIPS, chip_named
from rsvlm_jax.mesh.links import links_of
from rsvlm_jax.run.roofline import REACH, Estimate, Reach, estimate

ALL = Reach(1.0, 1.0, 1.0, 1.0)
V5P = chip_named("v5p")
LINKS = links_of(V5P, {"fsdp": 64}, (4, 4, 4))


def made(**changed: object) -> Estimate:
    """7B on 64 chips of v5p, 8,192 tokens each; see the notes of the module's formulas."""
    given = {
        "flops": 6 * 6.74e9 * 8192,
        "hbm_bytes_moved": 0.0,
        "collective": {"fsdp": 40e9},
        "chip": V5P,
        "links": LINKS,
        "tokens_per_chip": 8192,
        "reach": ALL,
    }
    return estimate(**{**given, **changed})


def test_each_part_is_its_amount_over_its_rate():
    found = made(hbm_bytes_moved=V5P.bandwidth)
    assert found.compute_seconds == pytest.approx(6 * 6.74e9 * 8192 / 459e12)
    assert found.memory_seconds == pytest.approx(1.0)
    assert found.communication_seconds == pytest.approx(40e9 / 540e9)
    assert found.step_seconds == pytest.approx(1.0 + found.compute_seconds)
    assert found.bound == "memory"


def test_at_the_peaks_and_all_hidden_the_mfu_is_one():
    found = made()
    assert found.mfu == pytest.approx(1.0)
    assert found.step_seconds == found.floor_seconds == found.compute_seconds
    assert found.tokens_per_second == pytest.approx(459e12 / (6 * 6.74e9))


def test_what_is_computed_again_takes_time_and_counts_not_as_needed():
    assert made(flops_again=6 * 6.74e9 * 8192).mfu == pytest.approx(0.5)


def test_what_is_not_hidden_adds_up():
    work, sent = made().compute_seconds, made().communication_seconds
    none = made(reach=dataclasses.replace(ALL, overlap=0.0))
    half = made(reach=dataclasses.replace(ALL, overlap=0.5))
    assert none.step_seconds == pytest.approx(work + sent)
    assert half.step_seconds == pytest.approx(work + sent / 2)
    assert made(waited=0.25).step_seconds == pytest.approx(work + 0.25)


def test_the_tokens_that_a_chip_needs_are_those_of_the_bandwidth_rule():
    """6 N T / peak = 6 N bytes / bandwidth: T = peak / bandwidth, whatever the model's size."""
    for n in (1e9, 7e9):
        found = made(flops=6 * n * 4096, collective={"fsdp": 6 * n}, tokens_per_chip=4096)
        assert found.tokens_needed == pytest.approx(459e12 / 540e9)
    # What is sent of activations grows with the tokens, and no number of them helps.
    both = links_of(V5P, {"fsdp": 16, "tensor": 4}, (4, 4, 4))
    more = made(collective={"fsdp": 40e9, "tensor": 40e9}, links=both)
    assert more.tokens_needed == made(collective={"fsdp": 40e9}, links=both).tokens_needed


@pytest.mark.parametrize("name", ["flops", "hbm_bytes_moved", "flops_again", "waited"])
def test_more_of_anything_takes_longer(name):
    base = {"flops": 6 * 6.74e9 * 8192}.get(name, 0.0)
    amount = 1.0 if name == "waited" else 1e12
    assert made(**{name: base + amount}).step_seconds > made().step_seconds
    more = made(collective={"fsdp": 80e9}, reach=None)
    assert more.step_seconds > made(reach=None).step_seconds


@pytest.mark.parametrize("chip", CHIPS, ids=lambda c: c.name)
def test_every_chip_has_an_estimate_whose_assumptions_are_said(chip):
    found = estimate(
        flops=1e15, hbm_bytes_moved=1e10, collective={}, chip=chip, links=None, tokens_per_chip=1
    )
    assert 0 < found.mfu < REACH["gpu"].matrix <= 0.8
    text = "\n".join(found.assumptions)
    assert chip.name in text
    for word in ("matrix", "memory", "link", "overlap"):
        assert word in text
    assert all("\n" not in line for line in found.assumptions)
    assert math.isfinite(found.step_seconds)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"flops": 0.0}, r"impossible figure of a step in estimate\(flops\)"),
        ({"hbm_bytes_moved": -1.0}, r"impossible figure .* 0 or more"),
        ({"tokens_per_chip": math.inf}, r"impossible figure .*\(tokens_per_chip\)"),
        ({"collective": {"fsdp": math.nan}}, r"impossible figure .*\(collective\[fsdp\]\)"),
        ({"collective": {"tensr": 1.0}}, "no such mesh axis"),
        ({"collective": {"data": 1.0}}, "nothing is sent over axes of one chip"),
        ({"links": None}, "bytes to send and nothing to send them over"),
    ],
)
def test_what_cannot_be_is_refused(changed, line):
    with pytest.raises(ConfigError, match=line) as error:
        made(**changed)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changed", [{"matrix": 0.0}, {"link": 1.2}, {"overlap": -0.1}])
def test_no_share(changed):
    with pytest.raises(ConfigError, match="no share in Reach"):
        dataclasses.replace(ALL, **changed)
