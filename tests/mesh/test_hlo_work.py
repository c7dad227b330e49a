"""What a compiled program does on one chip, read off its text and off small programs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from rsvlm_jax.mesh.hlo_work import Work, moved_in_memory, works

TEXT = """\
HloModule step

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%take (stack: f32[5,8,16], i: s32[]) -> f32[8,16] {
  %stack = f32[5,8,16]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %one = f32[1,8,16]{2,1,0} dynamic-slice(%stack, %i, %zero, %zero), dynamic_slice_sizes={1,8,16}
  %flat = f32[8,16]{1,0} bitcast(%one)
  ROOT %grown = f32[8,16]{1,0} exponential(%flat)
}

%put (all: f32[5,8,4], y: f32[8,4], i: s32[]) -> f32[5,8,4] {
  %all = f32[5,8,4]{2,1,0} parameter(0)
  %y = f32[8,4]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  %wide = f32[1,8,4]{2,1,0} bitcast(%y)
  ROOT %kept = f32[5,8,4]{2,1,0} dynamic-update-slice(%all, %wide, %i, %zero, %zero)
}

%body (p: (s32[], f32[5,8,16], f32[16,4], f32[5,8,4])) -> (s32[], f32[5,8,16], f32[16,4], f32[5,8,4]) {
  %p = (s32[], f32[5,8,16]{2,1,0}, f32[16,4]{1,0}, f32[5,8,4]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %stack = f32[5,8,16]{2,1,0} get-tuple-element(%p), index=1
  %w = f32[16,4]{1,0} get-tuple-element(%p), index=2
  %all = f32[5,8,4]{2,1,0} get-tuple-element(%p), index=3
  %x = f32[8,16]{1,0} fusion(%stack, %i), kind=kLoop, calls=%take
  %y = f32[8,4]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %new = f32[5,8,4]{2,1,0} fusion(%all, %y, %i), kind=kLoop, calls=%put
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  ROOT %t = (s32[], f32[5,8,16]{2,1,0}, f32[16,4]{1,0}, f32[5,8,4]{2,1,0}) tuple(%next, %stack, %w, %new)
}

%condition (p: (s32[], f32[5,8,16], f32[16,4], f32[5,8,4])) -> pred[] {
  %p = (s32[], f32[5,8,16]{2,1,0}, f32[16,4]{1,0}, f32[5,8,4]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %end = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %end), direction=LT
}

ENTRY %main (start: (s32[], f32[5,8,16], f32[16,4], f32[5,8,4])) -> f32[] {
  %start = (s32[], f32[5,8,16]{2,1,0}, f32[16,4]{1,0}, f32[5,8,4]{2,1,0}) parameter(0)
  %loop = (s32[], f32[5,8,16]{2,1,0}, f32[16,4]{1,0}, f32[5,8,4]{2,1,0}) while(%start), condition=%condition, body=%body
  %all = f32[5,8,4]{2,1,0} get-tuple-element(%loop), index=3
  %zero = f32[] constant(0)
  ROOT %total = f32[] reduce(%all, %zero), dimensions={0,1,2}, to_apply=%sum
}
"""  # noqa: E501


@pytest.fixture(scope="module")
def found() -> dict[str, Work]:
    return {work.name: work for work in works(TEXT)}


def test_a_loop_counts_as_often_as_it_runs_and_what_is_called_inside_once(found):
    counts = {name: work.count for name, work in found.items()}
    assert counts.pop("total") == 1
    assert counts == dict.fromkeys(("x", "y", "new", "next", "less"), 5)


def test_of_a_stack_the_slice_counts(found):
    assert found["x"].bytes == 4 * (8 * 16 + 1 + 8 * 16)  # a layer, its number, the result
    assert found["new"].bytes == 4 * (8 * 4 + 1 + 8 * 4)
    assert (found["x"].light, found["x"].hard) == (0, 8 * 16)


def test_a_product_is_told_from_what_moves(found):
    product = found["y"].product
    assert product is not None
    assert product.flops == 2 * 8 * 16 * 4
    assert found["total"].light == 5 * 8 * 4
    rest = sum(w.count * w.bytes for w in found.values()) - 5 * found["y"].bytes
    assert moved_in_memory(TEXT) == rest


def test_of_a_compiled_program():
    def fn(x, w):
        def body(x, w):
            return jnp.tanh(x @ w), x

        return jax.lax.scan(body, x, w)

    shapes = (jnp.zeros((32, 64)), jnp.zeros((7, 64, 64)))
    done = works(jax.jit(fn).lower(*shapes).compile())
    products = [work for work in done if work.product is not None]
    assert sum(w.count * w.product.flops for w in products) == 7 * 2 * 32 * 64 * 64
    assert sum(w.count * w.hard for w in done) == 7 * 32 * 64
