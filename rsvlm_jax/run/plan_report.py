"""What a plan says: `PlanReport`, as lines for people and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from .roofline import Estimate

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class PlanReport:
    """One program on one topology; bytes are of one device, a step is of all.

    Attributes:
      experiment, topology, program: "train", "prefill" or "decode".
      compiler: whose program it is.
      chips, devices: of all slices.
      mesh: sizes of its axes of more than one device.
      settings: batch, micro-batches, remat, plan, base and length.
      fits: None where nothing says how much memory there is.
      refused: the compiler itself refused it; what only a program says is then None.
      hbm_bytes: that a program may use.
      peak_bytes: at the same time, arguments included.
      argument_bytes: of state and batch, as the compiler has them; of a refused program by formula.
      formula_bytes: the same by shapes, placement and the tiles of the layout.
      temporary_bytes, donated_bytes: as the compiler says.
      largest: the largest pieces of memory, the largest first (`rsvlm_jax.run.plan_memory.Buffer`).
      remedies: options that need less memory, where it does not fit.
      collectives: kind, mesh axes, bytes that a device sends in a step, how often.
      collective_bytes: their sum.
      gathered_by_sums: all-reduces of a whole weight where it should be gathered: a mistake.
      summed_whole: gradients that are summed whole and then sliced (twice the bytes of a
        reduce-scatter); the compiler's choice.
      replicated: parameters that are whole on every device, of a megabyte and more.
      parameters, trained_parameters: counts.
      flops: of a step by formula, causal attention by half; all devices.
      tokens: positions of a batch.
      kernels: calls of hand-written kernels (splash attention) in the program.
      lower_seconds, compile_seconds: on this machine.
      estimate: by the roofline; None for CPUs.
      dollars: of 1000 steps, where a price is given.
      assumed, unproven: lines.
    """

    experiment: str
    topology: str
    program: str
    compiler: str
    chips: int
    devices: int
    mesh: dict[str, int]
    settings: dict[str, Any]
    fits: bool | None
    refused: bool
    hbm_bytes: int | None
    peak_bytes: int | None
    argument_bytes: int
    formula_bytes: int | None
    temporary_bytes: int | None
    donated_bytes: int | None
    largest: tuple[dict[str, Any], ...]
    remedies: tuple[str, ...]
    collectives: tuple[dict[str, Any], ...]
    collective_bytes: int | None
    gathered_by_sums: tuple[str, ...]
    summed_whole: tuple[str, ...]
    replicated: tuple[dict[str, Any], ...]
    parameters: int
    trained_parameters: int
    flops: float
    tokens: int
    kernels: int | None
    lower_seconds: float
    compile_seconds: float
    estimate: Estimate | None
    dollars: float | None
    assumed: tuple[str, ...]
    unproven: tuple[str, ...]

    @property
    def mfu_estimate(self) -> float | None:
        return None if self.estimate is None else self.estimate.mfu

    @property
    def step_seconds(self) -> float | None:
        return None if self.estimate is None else self.estimate.step_seconds

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: all fields, and `mfu_estimate` and `step_seconds`."""
        made = dataclasses.asdict(self)
        return {**made, "mfu_estimate": self.mfu_estimate, "step_seconds": self.step_seconds}

    @property
    def over_bytes(self) -> int:
        """By which it does not fit; 0 where it does, or where nothing says."""
        if self.fits is not False or self.hbm_bytes is None:
            return 0
        return max((self.peak_bytes or self.argument_bytes) - self.hbm_bytes, 0)

    @property
    def refusal(self) -> str:
        """The one line of what does not fit."""
        remedy = f"; {'; '.join(self.remedies)}" if self.remedies else ""
        return (
            f"the plan does not fit in {self.topology}; expected at most "
            f"{gib(self.hbm_bytes)} a device; found {gib(self.peak_bytes)}, "
            f"{self.over_bytes} bytes over; the largest: "
            + ", ".join(f"{gib(b['bytes'])} {b['shape']} ({b['kind']})" for b in self.largest[:3])
            + remedy
        )

    def lines(self) -> list[str]:
        """For people."""
        rows = [
            ("program", f"{self.program} of {self.experiment}"),
            ("on", f"{self.topology}: {self.chips} chips, mesh "
             + (" x ".join(f"{k}={v}" for k, v in self.mesh.items()) or "of one device")),
            ("settings", ", ".join(f"{k} {v}" for k, v in self.settings.items())),
            ("compiler", f"{self.compiler}; {self.compile_seconds:.0f} s"),
            ("memory", self._memory()),
            *(("", f"{gib(b['bytes'])} {b['shape']} {b['kind']}: {b['what'][-60:]}")
              for b in self.largest[:3]),
        ]  # fmt: skip
        rows += [("", remedy) for remedy in self.remedies]
        if self.collective_bytes is not None:
            rows.append(("sent", f"{self.collective_bytes / 1e9:.3g} GB a device and step"))
            rows += [
                ("", f"{c['kind']} over {c['axes'] or 'one device'}: {c['bytes'] / 1e9:.3g} GB, "
                 f"{c['count']} times") for c in self.collectives if c["bytes"]
            ]  # fmt: skip
        rows += [("mistake", f"a weight gathered by a sum: {x}") for x in self.gathered_by_sums]
        if self.summed_whole:
            line = f"{len(self.summed_whole)} gradients are summed whole, then split"
            rows.append(("note", f"{line}: the compiler's choice for this many devices"))
        rows += [
            ("whole", f"{x['path']}: {gib(x['bytes'])} on every device") for x in self.replicated
        ]
        rows += [
            ("parameters", f"{self.parameters / 1e9:.4g} billion, "
             f"{self.trained_parameters / 1e9:.4g} trained"),
            ("operations", f"{self.flops / 1e12:.4g} TFLOP a step"),
        ]  # fmt: skip
        rows += self._time()
        rows += [("assumed", x) for x in self.assumed]
        rows += [("unproven", x) for x in self.unproven]
        return [f"{name:<11} {text}" for name, text in rows]

    def _memory(self) -> str:
        parts = f"{gib(self.argument_bytes)} arguments"
        if self.temporary_bytes is not None:
            parts += f", {gib(self.temporary_bytes)} temporary"
        if self.peak_bytes is not None:
            parts += f", {gib(self.peak_bytes)} at its peak"
        if self.hbm_bytes is None:
            return f"{parts}; no limit is known"
        if self.fits is None:
            return f"{parts}, of {gib(self.hbm_bytes)}: not proven by a program for CPUs"
        word = "fits" if self.fits else f"does not fit, {gib(self.over_bytes)} over"
        return f"{parts}, of {gib(self.hbm_bytes)}: {word}"

    def _time(self) -> list[tuple[str, str]]:
        e = self.estimate
        if e is None:
            return []
        per_chip = self.tokens / self.devices
        rows = [
            ("estimate", f"{e.step_seconds:.3g} s a step, MFU {100 * e.mfu:.0f} %: compute "
             f"{e.compute_seconds:.3g} s, memory {e.memory_seconds:.3g} s, communication "
             f"{e.communication_seconds:.3g} s"),
        ]  # fmt: skip
        if e.tokens_needed:  # weights or gradients are sent
            line = f"{per_chip:.0f} a device; the links ask for {e.tokens_needed:.0f}"
            rows.append(("tokens", line))
        if self.dollars is not None:
            rows.append(("price", f"{self.dollars:.2f} dollars for 1000 steps"))
        return rows


def gib(size: float | int | None) -> str:
    """Bytes for people."""
    if size is None:
        return "?"
    if size < 2**27:
        return f"{size / 2**20:.3g} MiB"
    return f"{size / GIB:.2f} GiB"


def table(reports: Sequence[PlanReport]) -> list[str]:
    """Several plans side by side, a line each."""
    rows = [("topology", "program", "mesh", "peak", "of", "fits", "step", "MFU", "sent", "price")]
    for r in reports:
        sent = None if r.collective_bytes is None else r.collective_bytes / 1e9
        rows.append(
            (
                r.topology,
                r.program,
                " ".join(f"{k}={v}" for k, v in r.mesh.items()) or "-",
                gib(r.peak_bytes),
                "-" if r.hbm_bytes is None else gib(r.hbm_bytes),
                {True: "yes", False: "no", None: "-"}[r.fits],
                "-" if r.step_seconds is None else f"{r.step_seconds:.3g} s",
                "-" if r.mfu_estimate is None else f"{100 * r.mfu_estimate:.0f} %",
                "-" if sent is None else f"{sent:.3g} GB",
                "-" if r.dollars is None else f"{r.dollars:.2f} $",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(f"{x:<{w}}" for x, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
