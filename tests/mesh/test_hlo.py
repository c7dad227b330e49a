"""What a program moves, read from its text: kinds, bytes, loops, groups, slices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rsvlm_jax.config import MeshConfig
from rsvlm_jax.mesh import axes_of, collectives, make_mesh, moved


def program(body: str, *more: str) -> str:
    return "\n\n".join([*more, f"ENTRY %main (p: f32[8,4]) -> f32[64,4] {{\n{body}\n}}\n"])


def test_collectives_are_counted_with_their_bytes():
    mesh = make_mesh(MeshConfig(1, 8, 1))
    split, whole = NamedSharding(mesh, P("fsdp")), NamedSharding(mesh, P())
    x = jax.ShapeDtypeStruct((64, 4), jnp.float32)
    gather = jax.jit(lambda x: x, in_shardings=split, out_shardings=whole).lower(x).compile()
    (found,) = collectives(gather)
    assert (found.kind, found.bytes, found.operand_bytes) == ("all-gather", 1024, 128)
    assert (found.shape.dims, found.operand_shape.dims) == ((64, 4), (8, 4))
    assert axes_of(found, mesh) == ("fsdp",)
    assert moved([found]) == 7 * 128
    reduce = jax.jit(lambda x: x.sum(0), in_shardings=split, out_shardings=whole).lower(x)
    assert [(c.kind, c.bytes) for c in collectives(reduce.compile())] == [("all-reduce", 4 * 4)]
    local = jax.jit(lambda x: x + 1, in_shardings=split, out_shardings=split).lower(x).compile()
    assert collectives(local) == []


def test_what_a_loop_does_is_counted_as_often_as_it_runs():
    mesh = make_mesh(MeshConfig(2, 4, 1))
    split, rows = NamedSharding(mesh, P(None, "fsdp")), NamedSharding(mesh, P("data"))

    def through(x, kernels):
        def layer(x, kernel):
            kernel = jax.lax.with_sharding_constraint(kernel, NamedSharding(mesh, P()))
            return jnp.tanh(x @ kernel), None

        return jax.lax.scan(layer, x, kernels)[0]

    x = jax.ShapeDtypeStruct((8, 16), jnp.float32)
    kernels = jax.ShapeDtypeStruct((5, 16, 16), jnp.float32)
    made = jax.jit(through, in_shardings=(rows, split), out_shardings=rows).lower(x, kernels)
    (found,) = collectives(made.compile())
    assert (found.kind, found.bytes, found.count, found.loop_depth) == ("all-gather", 1024, 5, 1)
    assert axes_of(found, mesh) == ("fsdp",)
    assert moved([found]) == 5 * 3 * 256


def test_a_sum_that_is_only_sliced_is_a_reduce_scatter():
    mesh = make_mesh(MeshConfig(1, 8, 1))
    split, whole = NamedSharding(mesh, P("fsdp")), NamedSharding(mesh, P())
    x = jax.ShapeDtypeStruct((64, 16), jnp.float32)

    def product(x):
        return x.T @ x

    for out, sliced in ((split, True), (whole, False)):
        made = jax.jit(product, in_shardings=split, out_shardings=out).lower(x).compile()
        (found,) = collectives(made)
        assert (found.kind, found.sliced, found.bytes) == ("all-reduce", sliced, 1024)
        assert moved([found]) == 896 * (1 if sliced else 2)


def test_asynchronous_collectives_are_counted_once():
    text = program("""
      %p = f32[8,4]{1,0} parameter(0)
      %s = (f32[8,4]{1,0}, f32[64,4]{1,0}) all-gather-start(f32[8,4]{1,0} %p), dimensions={0}
      %d = f32[64,4]{1,0} all-gather-done((f32[8,4]{1,0}, f32[64,4]{1,0}) %s)
      %r = bf16[10]{0} reduce-scatter(bf16[80]{0} %q), dimensions={0}
      %b = pred[16]{0} all-reduce(pred[16]{0} %c), to_apply=%or
      %t = (f32[8], f32[4]) all-reduce-start(%x, %y), to_apply=%add
      %m = (f32[2,2], f32[2,2], u32[], u32[]) collective-permute-start(%z)
      ROOT %u = f32[64,4]{1,0} copy(%d)
    """)
    found = [(c.kind, c.bytes, c.operand_bytes) for c in collectives(text)]
    assert found == [
        ("all-gather", 1024, 128),
        ("reduce-scatter", 20, 160),
        ("all-reduce", 16, 16),
        ("all-reduce", 32, 32),
        ("all-reduce", 16, 16),
        ("collective-permute", 16, 16),
    ]


def test_a_fusion_of_a_tpu_that_scatters_a_sum():
    fused = """%all-reduce-scatter.3 (a: bf16[64,16]) -> bf16[8,16] {
      %a = bf16[64,16]{1,0:T(8,128)(2,1)} parameter(0)
      %s = bf16[64,16]{1,0} all-reduce(%a), replica_groups=[1,8]<=[8], to_apply=%add
      %i = s32[] constant(0)
      ROOT %r = bf16[8,16]{1,0} dynamic-slice(%s, %i, %i), dynamic_slice_sizes={8,16}
}"""
    body = """
      %p = bf16[64,16]{1,0} parameter(0)
      ROOT %f = bf16[8,16]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.3
    """
    (found,) = collectives(program(body, fused))
    assert (found.kind, found.bytes, found.operand_bytes) == ("reduce-scatter", 256, 2048)
    assert found.groups == (tuple(range(8)),)
    assert moved([found]) == 7 * 256


def test_a_collective_that_a_tpu_prints_in_three_fusions_of_a_loop():
    parts = [
        f"""%fused.{i} (a: bf16[8,16]) -> bf16[64,16] {{
      %a.{i} = bf16[8,16]{{1,0}} parameter(0)
      ROOT %g.{i} = bf16[64,16]{{1,0}} all-gather(%a.{i}), channel_id=7, dimensions={{0}}
}}"""
        for i in range(3)
    ]
    fusions = "".join(
        f"      %f.{i} = bf16[64,16] fusion(%w), kind=kCustom, calls=%fused.{i}\n" for i in range(3)
    )
    body = f"""%body (t: (s32[], bf16[8,16])) -> (s32[], bf16[8,16]) {{
      %t = (s32[], bf16[8,16]) parameter(0)
{fusions}      ROOT %o = (s32[], bf16[8,16]) tuple(%i, %w)
}}"""
    condition = """%condition (t: (s32[], bf16[8,16])) -> pred[] {
      %n = s32[]{:T(128)} constant(5)
      %t.1 = (s32[], bf16[8,16]) parameter(0)
      %i = s32[]{:T(128)} get-tuple-element(%t.1), index=0
      ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}"""
    entry = """
      %p = (s32[], bf16[8,16]) parameter(0)
      ROOT %w.1 = (s32[], bf16[8,16]) while(%p), condition=%condition, body=%body
    """
    (found,) = collectives(program(entry, *parts, body, condition))
    assert (found.kind, found.bytes, found.count, found.loop_depth) == ("all-gather", 2048, 5, 1)


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", ("context",)),
        ("replica_groups={{0,2},{1,3},{4,6},{5,7}}", ("tensor",)),
        ("replica_groups=[4,2]<=[8]", ("context",)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", ("fsdp",)),
        ("replica_groups=[2,4]<=[2,2,2]T(1,0,2)", ("fsdp", "context")),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", ("fsdp",)),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}", ("fsdp", "context")),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([2,2,2]T(1,0,2)) {'a'}", ("tensor",)),
        ("replica_groups=mesh['a'=8] {'a':(2)4}", None),
        ("replica_groups={{0,3},{1,2},{4,7},{5,6}}", None),
        ("replica_groups={}", ("fsdp", "tensor", "context")),
        ("source_target_pairs={{0,1},{1,0}}", ("context",)),
        ("source_target_pairs={{0,5},{5,0}}", ("fsdp", "context")),
    ],
)
def test_groups_are_those_of_mesh_axes(groups, axes):
    kind = "collective-permute" if "pairs" in groups else "all-reduce"
    body = f"  %p = f32[4] parameter(0)\n  ROOT %s = f32[4] {kind}(%p), {groups}, channel_id=1"
    (found,) = collectives(program(body))
    assert axes_of(found, make_mesh(MeshConfig(1, 2, 2, 2))) == axes


def test_what_a_kernel_says_of_itself_over_several_lines():
    """Splash attention's metadata has lines that begin with a brace; the computation goes on."""
    found = collectives(
        program(
            "  %p = f32[8,4]{1,0} parameter(0)\n"
            '  %k = f32[8,4]{1,0} custom-call(%p), custom_call_target="tpu_custom_call", '
            'backend_config={"a":{\n"xprof_metadata":"{\\"block_q\\": 128}"\n'
            '}}, metadata={op_name="attention"}\n'
            "  ROOT %g = f32[64,4]{1,0} all-gather(%k), replica_groups=[1,8]<=[8], dimensions={0}"
        )
    )
    assert [(c.kind, c.bytes) for c in found] == [("all-gather", 1024)]
