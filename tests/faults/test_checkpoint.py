"""Checkpoints under faults: damage is found and named, an older state is taken, nothing is lost."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import rsvlm_jax
from rsvlm_jax.config import CheckpointError, MeshConfig
from rsvlm_jax.core import flat
from rsvlm_jax.mesh import make_mesh
from rsvlm_jax.train import (
    Checkpoints,
    CheckpointWarning,
    Keep,
    TrainState,
    abstract,
    manifest,
)


def state(step: int, width: int = 4, dtype: str = "float32") -> TrainState:
    kernel = jnp.arange(8 * width, dtype=jnp.float32).reshape(8, width) + step
    params = {"decoder": {"kernel": kernel.astype(dtype), "bias": jnp.zeros(width)}}
    return TrainState(
        step=jnp.int32(step),
        seed=jnp.int32(0),
        params=params,
        stats={"mean": jnp.full((3,), 0.1)},
        opt_state=({"count": jnp.int32(step), "mu": params},),
    )


def same(a, b) -> bool:
    a, b = flat(jax.device_get(a)), flat(jax.device_get(b))
    return a.keys() == b.keys() and all(
        a[p].dtype == b[p].dtype and a[p].tobytes() == b[p].tobytes() for p in a
    )


@pytest.fixture
def saved(tmp_path):
    """Steps 1 and 2 on disk."""
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step), {"index": step})
    return tmp_path


def biggest(directory: Path) -> Path:
    files = [p for p in (directory / "state").rglob("*") if p.is_file()]
    return max(files, key=lambda p: p.stat().st_size)


def restore(directory: Path, step: int | None = None, **other):
    with Checkpoints(directory) as checkpoints:
        return checkpoints.restore(abstract(state(0, **other)), step)


def restored_step(directory: Path) -> int:
    got, data = restore(directory)
    assert same(got, state(data["index"]))
    return data["index"]


def test_a_state_comes_back_bitwise_with_its_data(saved):
    got, data = restore(saved)
    assert same(got, state(2))
    assert data == {"index": 2}
    assert isinstance(got.opt_state, tuple)
    assert same(restore(saved, 1)[0], state(1))


def test_only_the_newest_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (3, 7, 11, 20):
            checkpoints.save(step, state(step), {})
        checkpoints.wait()
        assert checkpoints.steps() == [11, 20]


def test_a_state_that_is_donated_after_the_save_is_saved_as_it_was(tmp_path):
    bump = jax.jit(lambda s: jax.tree.map(lambda x: x + jnp.ones_like(x), s), donate_argnums=0)
    big = dataclasses.replace(state(1), params={"kernel": jnp.ones((1024, 1024))}, opt_state=())
    want = jax.tree.map(lambda x: np.array(x, copy=True), big)
    shapes = abstract(big)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, big, {})
        for _ in range(5):
            big = bump(big)
        got, _ = checkpoints.restore(shapes)
    assert same(got, want)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


DAMAGE = {"truncated": truncate, "changed": flip, "missing": Path.unlink}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_is_named_and_the_step_before_taken(saved, how):
    file = biggest(saved / "2")
    DAMAGE[how](file)
    with pytest.warns(CheckpointWarning) as warned:
        assert restored_step(saved) == 1
    message = str(warned[0].message)
    assert message.startswith(f"restoring step 1: {file} ")
    assert how in message


@pytest.mark.parametrize("content", [b"", b"{}", b'{"digest": "0", "step": 2}'])
def test_a_damaged_manifest_is_named_and_the_step_before_taken(saved, content):
    (saved / "2" / "manifest.json").write_bytes(content)
    with pytest.warns(CheckpointWarning, match=r"2/manifest\.json"):
        assert restored_step(saved) == 1


def test_every_flipped_bit_is_noticed(saved):
    rng = random.Random(0)
    files = [p for p in (saved / "2").rglob("*") if p.is_file() and p.stat().st_size]
    for _ in range(30):
        file = rng.choice(files)
        content = bytearray(file.read_bytes())
        before = bytes(content)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
        with Checkpoints(saved) as checkpoints, pytest.raises(CheckpointError, match=file.name):
            checkpoints.tree(2)
        file.write_bytes(before)
    assert restored_step(saved) == 2


def test_a_flipped_bit_in_the_format_is_damage_and_no_newer_format(saved):
    path = saved / "2" / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 3'))
    with pytest.warns(CheckpointWarning, match="does not match its own digest"):
        assert restored_step(saved) == 1


def test_a_truncated_checkpoint_asked_for_by_step_is_an_error(saved):
    truncate(biggest(saved / "2"))
    with pytest.raises(CheckpointError) as error:
        restore(saved, 2)
    assert str(error.value).startswith(f"no checkpoint can be used in {saved}; expected step 2;")
    assert "is truncated: " in str(error.value)


def test_when_all_are_damaged_it_is_an_error_that_names_them(saved):
    files = [biggest(saved / step) for step in ("1", "2")]
    for file in files:
        flip(file)
    with pytest.raises(CheckpointError) as error:
        restore(saved)
    assert error.value.exit_code == 4
    assert "\n" not in str(error.value)
    assert all(str(file) in str(error.value) for file in files)


def test_no_checkpoint_at_all(tmp_path):
    with Checkpoints(tmp_path / "none") as checkpoints:
        assert checkpoints.latest() is None
        with pytest.raises(CheckpointError, match=r"no checkpoint in .*; expected a verified"):
            checkpoints.restore(abstract(state(0)))
    assert not (tmp_path / "none").exists()


def test_a_bare_step_directory_is_no_checkpoint(saved):
    (saved / "9").mkdir()
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.latest() == 2
    with pytest.warns(CheckpointWarning, match=r"/9 was never finished"):
        assert restored_step(saved) == 2
    with Checkpoints(saved) as checkpoints:  # and it is not in the way
        checkpoints.save(9, state(9), {"index": 9})
    assert restored_step(saved) == 9
    assert not (saved / "9.set-aside").exists()


@pytest.mark.parametrize("name", ["09", "9.", "nine", "9_tmp", "9.orbax-checkpoint-tmp-1", "٩"])
def test_a_half_named_directory_is_no_checkpoint_and_in_nobodys_way(saved, name):
    (saved / name).mkdir()
    assert restored_step(saved) == 2
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.latest() == 2
        checkpoints.save(9, state(9), {"index": 9})
    assert restored_step(saved) == 9


def test_a_save_whose_commit_never_happens_is_no_checkpoint(saved, monkeypatch):
    async def never(*_, **__):
        return None

    commit = "orbax.checkpoint._src.path.atomicity.AtomicRenameTemporaryPath.finalize"
    with Checkpoints(saved) as checkpoints, monkeypatch.context() as patch:
        patch.setattr(commit, never)
        checkpoints.save(3, state(3), {"index": 3})
        with pytest.raises(CheckpointError, match="could not be written"):
            checkpoints.wait()
    left = [p.name for p in saved.iterdir() if p.name.startswith("3.orbax-checkpoint-tmp")]
    assert left, "written, and never renamed"
    with Checkpoints(saved) as checkpoints:  # as the next process finds it
        assert checkpoints.steps() == [1, 2]
        assert restored_step(saved) == 2
        checkpoints.save(3, state(3), {"index": 3})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3]
    assert not (saved / left[0]).exists()


def test_a_step_that_was_being_deleted_is_no_checkpoint_and_goes_with_the_next_save(saved):
    half = saved / "1.discarded"
    os.replace(saved / "1", half)
    biggest(half).unlink()
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.steps() == [2]
        assert half.exists()
        checkpoints.save(3, state(3), {"index": 3})
    assert not half.exists()


def test_a_step_goes_only_after_a_newer_one_is_vouched_for(tmp_path, monkeypatch):
    found = []
    write = manifest.write

    def watched(directory, step, tree):
        found.append(sorted(p.name for p in tmp_path.iterdir() if p.name.isdecimal()))
        write(directory, step, tree)

    monkeypatch.setattr("rsvlm_jax.train.manifest.write", watched)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), {})
        checkpoints.wait()
        assert checkpoints.steps() == [3]
    assert found == [["1"], ["1", "2"], ["2", "3"]]


KEPT = [
    (Keep(2), [8, 10]),
    (Keep(1, every=4), [4, 8, 10]),
    (Keep(1, best=2), [2, 6, 10]),
    (Keep(2, every=5, best=1), [2, 5, 8, 10]),
]


@pytest.mark.parametrize(("keep", "stay"), KEPT)
def test_which_steps_stay(keep, stay):
    scores = {2: 0.5, 4: 0.7, 6: 0.5, 7: 0.1, 8: 0.9}  # 7 was never saved
    assert sorted(keep.of([2, 4, 5, 6, 8, 10], scores)) == stay


def test_a_commit_without_a_manifest_is_no_checkpoint(saved):
    (saved / "2" / "manifest.json").unlink()
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.latest() == 1
        checkpoints.save(2, state(2), {"index": 2})
    assert restored_step(saved) == 2


def test_saves_that_ended_between_commit_and_manifest_leave_nothing(saved):
    """Each is as large as a whole checkpoint: many kills there would fill the disk."""
    for step in (3, 4):
        with Checkpoints(saved, keep=1) as checkpoints:
            checkpoints.save(step, state(step), {"index": step})
        (saved / str(step) / "manifest.json").unlink()
    with Checkpoints(saved, keep=1) as checkpoints:
        checkpoints.save(5, state(5), {"index": 5})
    assert [p.name for p in saved.iterdir()] == ["5"]


def test_a_file_that_the_disk_does_not_give_is_damage(saved, monkeypatch):
    real = manifest._sha256

    def failing(path: Path) -> str:
        if path.is_relative_to(saved / "2"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    monkeypatch.setattr(manifest, "_sha256", failing)
    with pytest.warns(CheckpointWarning, match=r"2/.* cannot be read \(Input/output error\)"):
        assert restored_step(saved) == 1


def test_a_reader_beside_a_writer_takes_what_is_there_then(saved, monkeypatch):
    """While it reads one, two newer are saved and what it reads is deleted."""
    real, wrote = manifest._sha256, []

    def slow(path: Path) -> str:
        if not wrote:
            wrote.append(path)
            monkeypatch.setattr(manifest, "_sha256", real)
            with Checkpoints(saved, keep=2) as writer:
                for step in (3, 4):
                    writer.save(step, state(step), {"index": step})
        return real(path)

    monkeypatch.setattr(manifest, "_sha256", slow)
    assert restored_step(saved) == 4
    assert wrote


def test_an_old_step_that_cannot_be_deleted_ends_no_run(saved, monkeypatch):
    """On a network disk files that a reader holds come back as .nfs0000."""
    real = shutil.rmtree

    def busy(path, ignore_errors=False, **more):
        if str(path).endswith(".discarded") and not ignore_errors:
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        real(path, ignore_errors=ignore_errors, **more)

    monkeypatch.setattr(shutil, "rmtree", busy)
    (saved / "notes.discarded").write_text("a file of somebody's")
    with Checkpoints(saved, keep=1) as checkpoints:
        for step in (3, 4):
            checkpoints.save(step, state(step), {"index": step})
    assert restored_step(saved) == 4
    assert (saved / "notes.discarded").is_file()


def test_a_leftover_tmp_directory_is_ignored_and_removed_by_the_next_save(saved):
    left = saved / "7.orbax-checkpoint-tmp"
    (left / "state").mkdir(parents=True)
    (left / "state" / "half").write_bytes(b"x")
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.latest() == 2
        assert restored_step(saved) == 2
        assert left.exists()  # a reader changes nothing
        checkpoints.save(7, state(7), {"index": 7})
    assert not left.exists()
    assert restored_step(saved) == 7


def test_a_damaged_newest_step_is_not_kept_instead_of_a_good_one(saved):
    flip(biggest(saved / "2"))
    with Checkpoints(saved, keep=2) as checkpoints:
        with pytest.warns(CheckpointWarning):
            checkpoints.restore(abstract(state(0)))
        checkpoints.save(3, state(3), {"index": 3})
        checkpoints.wait()
        assert checkpoints.steps() == [1, 3]
    assert (saved / "2.set-aside").is_dir()


def test_a_checkpoint_of_another_width(saved):
    with pytest.raises(CheckpointError) as error:
        restore(saved, width=6)
    line = str(error.value)
    assert line.startswith(f"a checkpoint of another model in {saved / '2'}; expected ")
    assert "params/decoder/kernel float32[8, 6]" in line
    assert "params/decoder/kernel float32[8, 4]" in line
    assert line.endswith("use the configuration that it was trained with")


def test_a_checkpoint_of_another_dtype_is_not_cast(saved):
    with pytest.raises(CheckpointError) as error:
        restore(saved, dtype="bfloat16")
    assert "expected params/decoder/kernel bfloat16[8, 4]" in str(error.value)
    assert "found params/decoder/kernel float32[8, 4]" in str(error.value)


def test_a_checkpoint_with_other_keys_lists_a_few_of_each_side(tmp_path):
    def many(prefix: str, count: int):
        return {"params": {f"{prefix}{i:02}": jnp.zeros(1) for i in range(count)}}

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, many("old", 12), {})
        with pytest.raises(CheckpointError) as error:
            checkpoints.restore(abstract(many("new", 3)))
    assert "expected params/new00 float32[1], params/new01 float32[1], params/new02" in str(
        error.value
    )
    assert "params/old02 float32[1] and 9 more" in str(error.value)
    assert "old03" not in str(error.value)


def test_another_topology_restores_bitwise(saved):
    mesh = make_mesh(MeshConfig(2, 2, 2))

    def place(x):
        axes = PartitionSpec(*("fsdp", "tensor")[: x.ndim]) if x.ndim == 2 else PartitionSpec()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, axes))

    with Checkpoints(saved) as checkpoints:
        got, _ = checkpoints.restore(jax.tree.map(place, state(0)))
        assert same(got, state(2))
        kernel = got.params["decoder"]["kernel"]
        assert kernel.sharding.spec == PartitionSpec("fsdp", "tensor")
        checkpoints.save(3, got, {"index": 2})  # and back to one device
    got, _ = restore(saved)
    assert same(got, state(2))
    assert len(got.params["decoder"]["kernel"].devices()) == 1


def test_a_part_of_a_state_is_read_alone(saved):
    wanted = abstract({"params": state(0).params, "stats": state(0).stats})
    with Checkpoints(saved) as checkpoints:
        part = checkpoints.restore_part(wanted)
        assert same(part, {"params": state(2).params, "stats": state(2).stats})
        with pytest.raises(CheckpointError, match=r"params/decoder/kernel float32\[8, 6\]"):
            checkpoints.restore_part(abstract({"params": state(0, width=6).params}))


def test_an_unwritable_directory_is_a_checkpoint_error(tmp_path):
    (tmp_path / "file").write_text("")
    checkpoints = Checkpoints(tmp_path / "file" / "checkpoints")
    with pytest.raises(CheckpointError) as error:
        checkpoints.save(1, state(1), {})
    assert str(error.value).startswith("the checkpoint of step 1 could not be written (NotADirect")


def test_a_save_that_fails_in_the_background_is_raised_and_deletes_nothing(saved, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with Checkpoints(saved, keep=1) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr("rsvlm_jax.train.manifest.write", full)
            checkpoints.save(3, state(3), {})
            with pytest.raises(CheckpointError, match=r"No space left on device.*untouched"):
                checkpoints.wait()
        assert checkpoints.steps() == [1, 2]
    assert restored_step_quietly(saved) == 2


FULL = """
import dataclasses, resource, sys
from rsvlm_jax.cli import train
from rsvlm_jax.cli.main import main
from rsvlm_jax.config import Experiment, InputConfig, TrainConfig, nano

resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
colours = InputConfig("s2_l1c", bands=("red", "green", "blue"), dates=1)
model = dataclasses.replace(nano((colours,)), decoder=None)
loop = TrainConfig(steps=4, batch_size=4, save_every=2)
train.load_experiment = lambda name: Experiment("small", model=model, train=loop)
sys.exit(main())
"""


def test_a_save_that_the_system_refuses_ends_in_one_line(tmp_path):
    """Files of more than 150 kB cannot be written, as on a full disk: Orbax itself fails.

    Its event loop may complain of writes that were under way; the last line is ours.
    """
    root = str(Path(rsvlm_jax.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", FULL, "train", "small", "--out", str(tmp_path / "run"), "--json"],
        env={**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": root,
             "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert line.startswith("error: a checkpoint could not be written (")
    assert line.endswith("earlier checkpoints are untouched")
    assert json.loads(done.stdout.splitlines()[-1])["exit_code"] == 4


def restored_step_quietly(directory: Path) -> int:
    with pytest.warns(CheckpointWarning, match="3 was never finished"):
        return restored_step(directory)
