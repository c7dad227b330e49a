"""The loop: order, metrics, stops, threads."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import threading
import time

import numpy as np
import pytest

from rsvlm_jax.config import (
    CheckpointError,
    ConfigError,
    DataError,
    MeshConfig,
    NonFiniteError,
    Preempted,
)
from rsvlm_jax.core import flat
from rsvlm_jax.mesh import make_mesh
from rsvlm_jax.testing import StandIn, Stream, standin_experiment
from rsvlm_jax.train import (
    Checkpoints,
    EarlyStopping,
    Hook,
    Keep,
    Skipped,
    Timing,
    abstract,
    create,
    init_state,
    make_optimizer,
    make_train_step,
    resume,
    train,
)


def start(seed: int = 0):
    experiment = standin_experiment()
    mesh = make_mesh(MeshConfig())
    graphdef, params, stats = create(lambda rngs: StandIn(rngs=rngs), seed=seed)
    optimizer = make_optimizer(experiment.optimizer, 20, params)
    state = init_state(
        params, stats, optimizer, mesh, config=experiment.optimizer, plan="replicated", seed=seed
    )
    return state, make_train_step(graphdef, experiment, optimizer, mesh, state)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def values(state):
    return {path: np.asarray(x) for path, x in flat(state).items()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """20 steps without a break: the metrics file's bytes and the last state."""
    path = tmp_path_factory.mktemp("unbroken") / "metrics.jsonl"
    state, step = start()
    state = train(state, step, Stream(), steps=20, metrics_file=path)
    return path.read_bytes(), values(state)


def test_every_step_has_a_row_with_exact_floats(unbroken):
    text, _ = unbroken
    parsed = [json.loads(line) for line in text.splitlines()]
    assert [row["step"] for row in parsed] == list(range(1, 21))
    state, step = start()
    _, metrics = step(state, next(Stream()))
    assert np.float32(parsed[0]["loss"]) == np.asarray(metrics["loss"])


def test_progress_is_told_every_few_steps_and_at_the_end(tmp_path):
    told = []
    state, step = start()
    train(
        state, step, Stream(), steps=7, log_every=3, progress=lambda at, row: told.append((at, row))
    )
    assert [at for at, _ in told] == [3, 6, 7]
    assert all(np.isfinite(row["loss"]) for _, row in told)


def test_a_resumed_run_is_bitwise_the_unbroken_one(tmp_path, unbroken):
    path = tmp_path / "metrics.jsonl"
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        asked = iter(range(100))
        state, step = start()
        with pytest.raises(Preempted) as error:
            train(
                state, step, Stream(), steps=20, checkpoints=checkpoints, save_every=5,
                metrics_file=path, stop=lambda: next(asked) == 13,
            )  # fmt: skip
        assert (
            str(error.value) == "stopped after step 13 of 20; run the same command again to go on"
        )
        assert checkpoints.latest() == 13
    with open(path, "a") as f:  # steps that were taken after the save, and a torn line
        f.write('{"step": 14, "loss": 1.0}\n{"step": 15, "lo')
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        state, step = start(seed=5)  # what it starts from does not matter
        batches = Stream()
        state = resume(state, batches, checkpoints)
        assert (int(state.step), batches.index) == (13, 13)
        state = train(state, step, batches, steps=20, checkpoints=checkpoints, metrics_file=path)
    text, last = unbroken
    assert path.read_bytes() == text
    for name, x in values(state).items():
        assert x.tobytes() == last[name].tobytes(), name


def test_the_data_state_is_saved_before_the_next_batch_is_drawn(tmp_path):
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        state, step = start()
        train(state, step, Stream(), steps=6, checkpoints=checkpoints, save_every=2)
        assert checkpoints.steps() == [2, 4, 6]
        for at in checkpoints.steps():
            batches = Stream()
            data = checkpoints.restore(abstract(start()[0]), at)[1]
            batches.set_state(data)
            assert batches.index == at


def test_resume_of_nothing_is_the_start(tmp_path):
    with Checkpoints(tmp_path / "none") as checkpoints:
        state, _ = start()
        batches = Stream()
        assert resume(state, batches, checkpoints) is state
        assert batches.index == 0


def test_a_finished_run_trains_no_further(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        state, step = start()
        state = train(state, step, Stream(), steps=3, checkpoints=checkpoints)
        again = train(state, step, Stream(), steps=3, checkpoints=checkpoints)
        assert int(again.step) == 3


def test_sigterm_saves_and_raises_preempted(tmp_path):
    before = signal.getsignal(signal.SIGTERM)

    def progress(at, row):
        if at == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with Checkpoints(tmp_path) as checkpoints:
        state, step = start()
        with pytest.raises(Preempted) as error:
            train(
                state, step, Stream(), steps=20, checkpoints=checkpoints, log_every=1,
                progress=progress,
            )  # fmt: skip
        assert error.value.exit_code == 75
        assert checkpoints.latest() == 5  # step 4 is told of while step 5 runs
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_sigterm_that_comes_too_late_is_given_on():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("SIGTERM"))

    def progress(at, row):
        if at == 3:  # told of when nothing is left to do
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        state, step = start()
        state = train(state, step, Stream(), steps=3, log_every=1, progress=progress)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert int(state.step) == 3
    assert heard == ["SIGTERM"]


@pytest.mark.parametrize(
    "damage", ['{"step": 1, "lo\n', "[]\n", "{}\n", '{"step": "2"}\n', "\x00\x00\n"]
)
def test_a_damaged_row_of_metrics_is_named_and_nothing_is_lost(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    text = '{"step": 1}\n' + damage + '{"step": 3}\n'
    path.write_text(text)
    state, step = start()
    with pytest.raises(CheckpointError) as error:
        train(state, step, Stream(), steps=2, metrics_file=path)
    assert str(error.value).startswith(f"a damaged row of metrics in {path}, line 2; expected ")
    assert "\n" not in str(error.value)
    assert path.read_text() == text


def test_a_full_disk_ends_in_one_line_and_the_next_run_goes_on(tmp_path, unbroken, monkeypatch):
    path = tmp_path / "metrics.jsonl"

    class Full(io.StringIO):
        """A file on a disk that takes nine rows; closing it tries the tenth again."""

        def __init__(self, *_):
            super().__init__()
            self.file, self.left = open(path, "a"), 9  # noqa: SIM115

        def write(self, text):
            self.left -= 1
            return self.file.write(text) if self.left >= 0 else 0

        def flush(self):
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.file.flush()

        def fileno(self):
            return self.file.fileno()

        def close(self):
            self.file.close()
            self.flush()

    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        state, step = start()
        with monkeypatch.context() as patch:
            patch.setattr("rsvlm_jax.train.rows.open", Full, raising=False)
            with pytest.raises(ConfigError) as error:
                train(
                    state, step, Stream(), steps=20, checkpoints=checkpoints, save_every=5,
                    metrics_file=path,
                )  # fmt: skip
        assert str(error.value).startswith(
            f"cannot write the metrics (No space left on device) in {path}; free space"
        )
        assert checkpoints.newest() == 5
        state, step = start()
        batches = Stream()
        state = resume(state, batches, checkpoints)
        train(state, step, batches, steps=20, checkpoints=checkpoints, metrics_file=path)
    assert path.read_bytes() == unbroken[0]


def test_bad_batches_are_skipped_and_written_as_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    state, step = start()
    bad = frozenset({2, 3, 6})
    state = train(state, step, Stream(bad=bad), steps=9, metrics_file=path, max_bad_steps=2)
    assert [row["step"] - 1 for row in rows(path) if row["skipped"]] == [2, 3, 6]
    assert [row["loss"] is None for row in rows(path)] == [i in bad for i in range(9)]
    assert all(np.isfinite(x).all() for x in values(state.params).values())


@pytest.mark.parametrize("borne", [0, 1, 3])
def test_too_many_bad_batches_end_the_run_with_the_last_good_state_saved(tmp_path, borne):
    first = 4
    good, step = start()
    good = train(good, step, Stream(), steps=first)
    with Checkpoints(tmp_path) as checkpoints:
        state, step = start()
        batches = Stream(bad=frozenset(range(first, 20)))
        with pytest.raises(NonFiniteError) as error:
            train(
                state, step, batches, steps=20, checkpoints=checkpoints, max_bad_steps=borne,
                metrics_file=tmp_path / "metrics.jsonl",
            )  # fmt: skip
        assert error.value.exit_code == 5
        at = first + borne + 1
        assert str(error.value).startswith(
            f"loss or gradient not finite in {borne + 1} steps in a row in step {at}; "
            f"expected at most {borne}"
        )
        restored, _ = checkpoints.restore(abstract(start()[0]))
    for name, x in values(good.params).items():
        assert x.tobytes() == values(restored.params)[name].tobytes(), name
    assert len(rows(tmp_path / "metrics.jsonl")) == at


def test_a_run_that_ended_so_ends_so_again_and_goes_on_when_more_is_borne(tmp_path):
    """Bad steps before a restart count: started over and over it would step over all of them."""
    options = {"steps": 12, "metrics_file": tmp_path / "metrics.jsonl"}
    bad = frozenset({4, 5})
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for _ in range(2):
            state, step = start()
            batches = Stream(bad=bad)
            state = resume(state, batches, checkpoints)
            with pytest.raises(NonFiniteError, match="2 steps in a row in step 6; expected at mo"):
                train(state, step, batches, checkpoints=checkpoints, max_bad_steps=1, **options)
        assert checkpoints.latest() == 6
        state, step = start()
        batches = Stream(bad=bad)
        state = resume(state, batches, checkpoints)
        train(state, step, batches, checkpoints=checkpoints, max_bad_steps=2, **options)
    assert [row["step"] for row in rows(tmp_path / "metrics.jsonl")] == list(range(1, 13))


def test_a_state_that_is_given_away_is_gone_before_another_is_read(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        state, step = start()
        train(state, step, Stream(), steps=2, checkpoints=checkpoints)
        state, _ = start(seed=5)
        real = Checkpoints.restore

        def restore(self, shapes):
            assert all(x.is_deleted() for x in flat(state).values())
            return real(self, shapes)

        monkeypatch.setattr(Checkpoints, "restore", restore)
        assert int(resume(state, Stream(), checkpoints, donate=True).step) == 2


def test_checkpoints_on_a_disk_that_is_not_mounted_are_not_none(tmp_path):
    (tmp_path / "checkpoints").symlink_to(tmp_path / "scratch")
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        state, _ = start()
        with pytest.raises(CheckpointError, match=r"a disk that is not there .* mount it"):
            resume(state, Stream(), checkpoints)


def test_what_is_due_is_saved_before_a_long_score(tmp_path):
    def score(state):
        seen.append((int(state.step), checkpoints.latest()))
        return {"loss": 1.0}

    seen: list[tuple] = []
    with Checkpoints(tmp_path) as checkpoints:
        state, step = start()
        train(
            state, step, Stream(), steps=6, checkpoints=checkpoints, save_every=2, held_out=score,
            held_out_every=2,
        )  # fmt: skip
    assert seen == [(0, None), (2, 2), (4, 4), (6, 4)]


def test_batches_that_end_early_are_an_error():
    class Short(Stream):
        def __next__(self):
            if self.index == 3:
                raise StopIteration
            return super().__next__()

    state, step = start()
    with pytest.raises(DataError, match="the batches ended at step 3 of 20"):
        train(state, step, Short(), steps=20)


def test_two_runs_train_in_two_threads(tmp_path, unbroken):
    results: dict[int, object] = {}

    def one(seed: int) -> None:
        with Checkpoints(tmp_path / str(seed) / "checkpoints") as checkpoints:
            state, step = start(seed)
            results[seed] = values(
                train(
                    state, step, Stream(), steps=20, checkpoints=checkpoints, save_every=3,
                    metrics_file=tmp_path / str(seed) / "metrics.jsonl",
                )
            )  # fmt: skip

    threads = [threading.Thread(target=one, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 1]
    text, last = unbroken
    assert (tmp_path / "0" / "metrics.jsonl").read_bytes() == text
    assert (tmp_path / "1" / "metrics.jsonl").read_bytes() != text
    for name, x in results[0].items():
        assert x.tobytes() == last[name].tobytes(), name


@pytest.mark.parametrize("stopped", [4, 6, 7])
def test_a_resumed_run_scores_the_steps_of_an_unbroken_one(tmp_path, stopped):
    """Every third step and the last, where it was stopped included."""

    def score(state):
        return {"loss": float(state.step) + 0.5}

    options = {"steps": 8, "held_out": score, "held_out_every": 3, "save_every": 5}
    state, step = start()
    train(state, step, Stream(), held_out_file=tmp_path / "unbroken.jsonl", **options)
    assert [row["step"] for row in rows(tmp_path / "unbroken.jsonl")] == [0, 3, 6, 8]
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        options |= {"checkpoints": checkpoints, "held_out_file": tmp_path / "held_out.jsonl"}
        asked = iter(range(100))
        state, step = start()
        with pytest.raises(Preempted):
            train(state, step, Stream(), stop=lambda: next(asked) == stopped, **options)
        state, step = start()
        batches = Stream()
        state = resume(state, batches, checkpoints)
        train(state, step, batches, **options)
    assert rows(tmp_path / "held_out.jsonl") == rows(tmp_path / "unbroken.jsonl")


def test_counts_have_rates_beside_them(tmp_path):
    def counting(state, batch):
        state, metrics = step(state, batch)
        return state, {**metrics, "tokens": np.float32(6), "padded": np.float32(8)}

    state, step = start()
    path = tmp_path / "timing.jsonl"
    train(state, counting, Stream(), steps=3, hooks=[Timing(path)])
    for row in rows(path):
        assert row["tokens_per_second"] * row["seconds"] == pytest.approx(6)
        assert row["padded_per_second"] * row["seconds"] == pytest.approx(8)


def test_waiting_for_a_batch_is_measured_and_the_metrics_stay_as_they_are(tmp_path, unbroken):
    class Slow(Stream):
        def __next__(self):
            time.sleep(0.05)
            return super().__next__()

    for name, batches in (("slow", Slow()), ("ready", Stream())):
        state, step = start()
        timing, metrics = (tmp_path / f"{name}_{kind}.jsonl" for kind in ("timing", "metrics"))
        train(state, step, batches, steps=20, metrics_file=metrics, hooks=[Timing(timing)])
        assert metrics.read_bytes() == unbroken[0]
        found = rows(timing)
        assert [row["step"] for row in found] == list(range(1, 21))
        waited = [row["input_wait"] * row["seconds"] for row in found]
        assert all(0 <= row["input_wait"] <= 1 for row in found)
        if name == "slow":
            assert min(waited[1:-1]) >= 0.05


def test_hooks_hear_of_every_row_and_close_however_the_run_ends(tmp_path):
    class Told(Hook):
        def __init__(self):
            self.heard = []

        def start(self, step):
            self.heard.append(("start", step))

        def on_row(self, step, row, times):
            self.heard.append((step, row["step"], times["step"]))
            if step == 3:
                raise DataError("enough")

        def close(self):
            self.heard.append("close")

    told = Told()
    state, step = start()
    with pytest.raises(DataError, match="enough"):
        train(state, step, Stream(), steps=9, hooks=[told])
    assert told.heard == [("start", 0), (1, 1, 1), (2, 2, 2), (3, 3, 3), "close"]


def spiking(step, *at):
    """A step that reports a spike at some places, as a step that skips spikes does."""

    def stepped(state, batch):
        spiked = np.float32(int(state.step) in at)
        state, metrics = step(state, batch)
        return state, {**metrics, "skipped": metrics["skipped"] + spiked, "spiked": spiked}

    return stepped


def named(place):
    return [{"sample": 10 * place["index"]}]


def test_skipped_steps_are_listed_with_their_samples_on_resume_too(tmp_path):
    def run(folder, state, batches, steps=9, **more):
        hooks = [Skipped(folder / "skipped.jsonl", named)]
        return train(state, step, batches, steps=steps, hooks=hooks, **more)

    bad = frozenset({2, 6})
    state, step = start()
    run(tmp_path, state, Stream(bad=bad))
    expected = [
        {"step": 3, "why": "not finite", "loss": None, "grad_norm": None,
         "samples": [{"sample": 20}]},
        {"step": 7, "why": "not finite", "loss": None, "grad_norm": None,
         "samples": [{"sample": 60}]},
    ]  # fmt: skip
    assert rows(tmp_path / "skipped.jsonl") == expected
    again = tmp_path / "again"
    with Checkpoints(again / "checkpoints") as checkpoints:
        state, step = start()
        run(again, state, Stream(bad=bad), steps=5, checkpoints=checkpoints)
        (again / "skipped.jsonl").open("a").write('{"step": 7, "why": "of later"}\n')
        state, step = start()
        batches = Stream(bad=bad)
        state = resume(state, batches, checkpoints)
        run(again, state, batches, checkpoints=checkpoints)
    assert rows(again / "skipped.jsonl") == expected


def test_a_spike_is_listed_and_does_not_count_as_not_finite(tmp_path):
    state, step = start()
    metrics, skipped = tmp_path / "metrics.jsonl", tmp_path / "skipped.jsonl"
    train(
        state, spiking(step, 2, 3, 4, 6), Stream(bad=frozenset({3})), steps=9, max_bad_steps=1,
        metrics_file=metrics, hooks=[Skipped(skipped, named)],
    )  # fmt: skip
    assert [row["step"] for row in rows(metrics) if row["spiked"]] == [3, 4, 5, 7]
    why = {row["step"]: row["why"] for row in rows(skipped)}
    assert why == {3: "a spike", 4: "not finite", 5: "a spike", 7: "a spike"}
    (first, *_) = rows(skipped)
    assert first["loss"] > 0


def test_spikes_between_batches_that_are_not_finite_do_not_hide_them():
    state, step = start()
    with pytest.raises(NonFiniteError, match="2 steps in a row in step 5"):
        train(
            state, spiking(step, 3), Stream(bad=frozenset({2, 4})), steps=9, max_bad_steps=1
        )  # fmt: skip


# ---- what goes by the held-out loss -------------------------------------------------------------

LOSSES = {0: 5.0, 2: 3.0, 4: 2.0, 6: 2.5, 8: 2.0, 10: 4.0, 12: 1.0, 14: 1.5}


def scoring(state):
    return {"loss": LOSSES[int(state.step)]}


def stopping(folder, checkpoints, *, patience=3, stop=None):
    state, step = start()
    batches = Stream()
    state = resume(state, batches, checkpoints)
    return train(
        state, step, batches, steps=14, checkpoints=checkpoints, save_every=5, stop=stop,
        metrics_file=folder / "metrics.jsonl", held_out=scoring, held_out_every=2,
        held_out_file=folder / "held_out.jsonl", hooks=[EarlyStopping(patience)],
    )  # fmt: skip


def test_a_run_whose_held_out_loss_falls_no_more_ends_well_and_stays_ended(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        state = stopping(tmp_path, checkpoints)
        assert int(state.step) == 10  # 2.5, 2.0 again and 4.0 after the 2.0 of step 4
        assert checkpoints.newest() == 10
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert [row["step"] for row in rows(tmp_path / "metrics.jsonl")] == list(range(1, 11))
    assert rows(tmp_path / "held_out.jsonl")[-1] == {"step": 10, "loss": 4.0, "stopped": 1.0}
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert int(stopping(tmp_path, checkpoints).step) == 10
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert len(rows(tmp_path / "held_out.jsonl")) == 6


@pytest.mark.parametrize("stopped", [4, 7, 10])
def test_a_resumed_run_stops_early_where_the_unbroken_one_does(tmp_path, stopped):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        asked = iter(range(100))
        with pytest.raises(Preempted):
            stopping(tmp_path, checkpoints, stop=lambda: next(asked) == stopped)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert int(stopping(tmp_path, checkpoints).step) == 10
    assert [row["step"] for row in rows(tmp_path / "held_out.jsonl")] == [0, 2, 4, 6, 8, 10]


def test_early_stopping_says_why():
    hook = EarlyStopping(1)
    for step, loss in ((0, 2.0), (5, 1.0)):
        hook.on_score(step, {"loss": loss})
        assert hook.ended() is None
    hook.on_score(10, {"loss": None})  # was not finite
    assert hook.ended() == "1 scores without a new lowest held-out loss; that of step 5 is 1"


@pytest.mark.parametrize("stopped", [None, 7, 9])
def test_the_best_checkpoints_stay_and_are_known_after_a_resume(tmp_path, stopped):
    """Of steps 2 .. 14: 12 (1.0) and 14 (1.5) are the lowest, then 4 and 8 (2.0)."""
    keep = Keep(newest=1, every=10, best=3)
    if stopped is not None:
        asked = iter(range(100))
        with Checkpoints(tmp_path / "checkpoints", keep) as checkpoints, pytest.raises(Preempted):
            stopping(tmp_path, checkpoints, patience=9, stop=lambda: next(asked) == stopped)
    with Checkpoints(tmp_path / "checkpoints", keep) as checkpoints:
        stopping(tmp_path, checkpoints, patience=9)
        assert checkpoints.steps() == [4, 10, 12, 14]
        for at in checkpoints.steps():
            assert int(checkpoints.restore(abstract(start()[0]), at)[0].step) == at
