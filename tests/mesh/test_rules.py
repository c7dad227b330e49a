"""Placement of parameters is strict: everything is matched once, or an error names it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from rsvlm_jax.config import ConfigError, MeshConfig
from rsvlm_jax.core import flat
from rsvlm_jax.mesh import RULES, Rule, make_mesh, resolve, state_shardings
from rsvlm_jax.mesh.constraints import spec_of
from rsvlm_jax.train import TrainState


def shapes(**arrays: tuple[int, ...]):
    tree: dict = {}
    for path, shape in arrays.items():
        *parents, last = path.split("/")
        node = tree
        for word in parents:
            node = node.setdefault(word, {})
        node[last] = jax.ShapeDtypeStruct(shape, jnp.float32)
    return tree


def mesh():
    return make_mesh(MeshConfig(2, 2, 2))


def specs(tree, rules):
    return {path: s.spec for path, s in flat(resolve(tree, rules, mesh())).items()}


def test_a_rule_names_the_last_axes():
    tree = shapes(**{"a/kernel": (6, 4), "a/layers/kernel": (3, 6, 4), "a/bias": (4,)})
    rules = [Rule(r"^a/(layers/)?kernel$", ("fsdp", "tensor")), Rule(r"bias$")]
    assert specs(tree, rules) == {
        "a/bias": P(),
        "a/kernel": P("fsdp", "tensor"),
        "a/layers/kernel": P(None, "fsdp", "tensor"),
    }


def test_a_question_mark_replicates_what_does_not_divide():
    tree = shapes(**{"a/odd": (5, 4), "a/even": (6, 4), "a/both": (6, 4)})
    rules = [
        Rule(r"^a/(odd|even)$", ("tensor?", None)),
        Rule(r"^a/both$", (("tensor?", "fsdp?"), None)),
    ]
    assert specs(tree, rules) == {"a/both": P("tensor"), "a/even": P("tensor"), "a/odd": P()}


@pytest.mark.parametrize(
    ("rules", "line"),
    [
        ([Rule("^a/kernel$")], "no sharding rule matches in a/bias; add a rule"),
        ([Rule("a/"), Rule("bias$")], "two sharding rules match one parameter in a/bias; found"),
        ([Rule("^a/"), Rule("^a/gone$")], "a sharding rule matches no parameter; found '^a/gone$'"),
        ([Rule("^a/", ("fsdp", "tensor"))], "a sharding rule for more axes than the parameter has"),
        ([Rule("^a/", ("model",))], "no such mesh axis in a/bias (rule '^a/', shape (4,)); expect"),
        (
            [Rule("bias$"), Rule("kernel$", (None, ("fsdp", "fsdp")))],
            "a mesh axis is used twice in a/kernel",
        ),
        (
            [Rule("bias$"), Rule("kernel$", ("fsdp", None))],
            "a dimension does not divide over the mesh in a/kernel",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused(rules, line):
    tree = shapes(**{"a/kernel": (5, 4), "a/bias": (4,)})
    with pytest.raises(ConfigError) as error:
        resolve(tree, rules, mesh())
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_rules_for_towers_that_the_model_lacks_are_no_error():
    tree = shapes(**{"a/kernel": (4,)})
    rules = [Rule("^a/kernel$"), Rule("^b/kernel$"), Rule("^a/extra$", optional=True)]
    assert specs(tree, rules) == {"a/kernel": P()}


def test_every_table_names_known_axes_and_patterns_that_compile():
    for plan, rules in RULES.items():
        assert len({rule.pattern for rule in rules}) == len(rules), plan
        for rule in rules:
            assert rule.replicates != "little" or rule.tower is not None, (plan, rule)


def test_a_plan_without_tensor_is_the_table_without_it():
    rule = Rule("^a/", (("tensor?", "fsdp?"), "tensor", None), optional=True)
    assert rule.without("tensor") == Rule("^a/", ("fsdp?", None, None), optional=True)
    assert {r.pattern for r in RULES["fsdp"]} == {r.pattern for r in RULES["fsdp_tensor"]}
    assert "tensor" not in str([r.dims for r in RULES["fsdp"]])


def test_too_many_bytes_that_are_whole_everywhere_are_refused():
    tree = shapes(**{"a/odd": (7, 64), "a/kernel": (128, 64), "a/bias": (64,)})
    rules = [Rule("^a/(odd|kernel)$", ("fsdp?", None)), Rule("^a/bias$")]
    assert resolve(tree, rules, mesh())  # small models have odd sizes
    with pytest.raises(ConfigError) as error:
        resolve(tree, rules, mesh(), negligible=0)
    assert str(error.value).startswith(
        "too many bytes are whole on every device in MeshConfig.plan; expected at most 2% of the"
    )
    assert "the largest a/odd (7, 64), a/bias (64,)" in str(error.value)
    named = [Rule("^a/odd$", replicates="all"), Rule("^a/kernel$", ("fsdp", None)), Rule("bias$")]
    assert resolve(tree, named, mesh(), negligible=0)
    assert resolve(tree, rules, make_mesh(MeshConfig(data=8)), negligible=0)  # nothing to split


def test_a_plan_for_lora_is_refused_for_other_training():
    params = shapes(**{"a/kernel": (64, 64), "a/kernel_lora_a": (64, 2)})
    scalar = jnp.int32(0)

    def state(trained: str) -> TrainState:
        moments = {"a": {trained: params["a"][trained]}}
        return TrainState(scalar, scalar, params, {}, ({"mu": moments, "nu": moments},))

    rules, eight = RULES["lora_dp"], make_mesh(MeshConfig(data=8, plan="lora_dp"))
    assert state_shardings(state("kernel_lora_a"), rules, eight, negligible=0)
    with pytest.raises(ConfigError, match=r"too many bytes .* the largest opt_state/0/mu/a/kernel"):
        state_shardings(state("kernel"), rules, eight, negligible=0)


@given(
    shape=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    sizes=st.fixed_dictionaries({axis: st.integers(1, 4) for axis in ("data", "fsdp", "tensor")}),
    data=st.data(),
)
def test_a_resolved_placement_always_divides(shape, sizes, data):
    axes = data.draw(st.permutations([f"{a}?" for a in sizes]))
    dims = [tuple(axes[:2]), (axes[2],), ()][: len(shape)]
    spec = spec_of(dims, tuple(shape), sizes, "here")
    for size, entry in zip(shape, spec, strict=False):
        names = (entry,) if isinstance(entry, str) else entry or ()
        for name in names:
            assert size % sizes[name] == 0
            size //= sizes[name]


def test_moments_are_stored_like_their_parameters():
    params = shapes(**{"a/kernel": (6, 4)})
    scalar = jnp.int32(0)
    state = TrainState(
        step=scalar,
        seed=scalar,
        params=params,
        stats=shapes(**{"a/mean": (4,)}),
        opt_state=({"count": scalar, "mu": params},),
        ema=params,
    )
    placed = state_shardings(state, [Rule("^a/kernel$", ("fsdp", None))], mesh())
    got = {path: s.spec for path, s in flat(placed).items()}
    assert got == {
        "step": P(),
        "seed": P(),
        "params/a/kernel": P("fsdp"),
        "stats/a/mean": P(),
        "opt_state/0/count": P(),
        "opt_state/0/mu/a/kernel": P("fsdp"),
        "ema/a/kernel": P("fsdp"),
    }


def test_an_optimiser_array_without_a_parameter_is_refused():
    params = shapes(**{"a/kernel": (6, 4)})
    scalar = jnp.int32(0)
    opt_state = shapes(**{"mu/a/kernel": (4, 6)})
    state = TrainState(scalar, scalar, params, {}, opt_state)
    with pytest.raises(ConfigError, match="belongs to no parameter in opt_state/mu/a/kernel"):
        state_shardings(state, [Rule("^a/kernel$")], mesh())
