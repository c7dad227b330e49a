"""What a run starts from, made where it will lie: the same numbers, and whole on no device."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import llava15_lora
from rsvlm_jax.config import STORIES260K, ConfigError, MeshConfig
from rsvlm_jax.core import flat
from rsvlm_jax.interop.llama2c import load_llama2c
from rsvlm_jax.mesh import RULES, make_mesh, resolve
from rsvlm_jax.run.fit import describe
from rsvlm_jax.run.program import Place, program
from rsvlm_jax.run.start import start_from
from rsvlm_jax.train import init_state, make_optimizer


@pytest.mark.parametrize(("base", "plan"), [("float", "fsdp"), ("int8", "fsdp_tensor")])
def test_each_device_makes_its_part_of_the_same_numbers(base: str, plan: str):
    tiny = llava15_lora.experiment().tiny()
    made = program(tiny.model, image_token=1, lora=tiny.lora, stored=base)  # type: ignore[arg-type]
    config = MeshConfig(fsdp=4, tensor=2 if plan == "fsdp_tensor" else 1, plan=plan)
    mesh = make_mesh(config, jax.devices()[: 4 * config.tensor])
    found = []
    for place in (None, Place(mesh, plan)):
        params, stats = made.init(3, place)
        assert not jax.tree.leaves(stats)
        start = start_from(params, tiny)
        found.append((flat(start), flat(made.adapt(start, 3, place))))
    for (base_there, there), (base_here, here) in [found]:
        assert there.keys() == here.keys() == flat(made.params).keys()
        for path, x in there.items():
            np.testing.assert_array_equal(np.asarray(x), np.asarray(here[path]), err_msg=path)
        shipped = flat(load_llama2c(STORIES260K))["embed/embedding"]
        np.testing.assert_array_equal(base_here["decoder/embed/embedding"], shipped)
        total = sum(x.nbytes for x in base_here.values())
        first = mesh.devices.flat[0]
        held = sum(s.data.nbytes for x in base_here.values() for s in x.addressable_shards
                   if s.device == first)  # fmt: skip
        assert held < 0.45 * total
        assert sum(x.nbytes for x in base_there.values()) == total
    # They become the state where they lie.
    here = found[1][1]
    want = flat(resolve(made.params, RULES[plan], mesh))
    params = {p: x for p, x in here.items() if x.sharding == want[p]}
    assert params.keys() >= {p for p in here if "kernel" in p}


def test_a_state_takes_the_parameters_that_are_donated():
    tiny = llava15_lora.experiment().tiny()
    mesh = make_mesh(MeshConfig(fsdp=8))
    made = program(tiny.model, image_token=1, lora=tiny.lora)
    place = Place(mesh, "fsdp_tensor")
    params = made.adapt(made.init(0, place)[0], 0, place)
    optimizer = make_optimizer(tiny.optimizer, 4, made.params)
    state = init_state(params, {}, optimizer, mesh, config=tiny.optimizer, donate=True)
    assert all(x.is_deleted() for x in flat(params).values())
    assert jnp.isfinite(flat(state.params)["decoder/embed/embedding"]).all()


def test_what_a_plan_cannot_place_is_refused_before_anything_is_made():
    tiny = llava15_lora.experiment().tiny()
    vision = dataclasses.replace(tiny.model.vision, width=36, heads=2, mlp_dim=60)
    model = dataclasses.replace(tiny.model, vision=vision)
    train = dataclasses.replace(tiny.train, batch_size=8)
    wrong = dataclasses.replace(tiny, model=model, mesh=MeshConfig(fsdp=8), train=train)
    with pytest.raises(ConfigError, match="a dimension does not divide"):
        describe(wrong)
