"""Checkpoints that prove themselves: Orbax writes, a SHA-256 manifest vouches.

    RUN/checkpoints/
      200/state/...  data/...      Orbax: arrays (any sharding) and the data iterator's JSON state
      200/config.json              what it was trained with, so that a copy of the step says it
      200/manifest.json            written last; without it the step does not exist
      300.orbax-checkpoint-tmp-*   an unfinished save, removed by the next writer; so is a number
                                   without a manifest
      100.discarded                a step that was being deleted, removed by the next writer
      250.set-aside                a finished step that a writer found damaged, or went on before

Saving is asynchronous: `save` returns when the arrays are copied to the host; a thread waits for
Orbax's commit, writes the manifest, and only then deletes steps that are not to be kept. An error
in that thread is raised by the next `save`, `wait` or `close`. Reading never changes the directory;
a step is verified when a `Checkpoints` first reads it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import warnings
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from rsvlm_jax.config import CheckpointError
from rsvlm_jax.core import flat
from rsvlm_jax.mesh import together

from . import manifest as manifests
from . import stored
from .keeping import Keep

CONFIG = "config.json"
DISCARDED = ".discarded"

_saving = threading.Lock()
"""Orbax numbers its saves by a global counter; only their start has to be alone."""


class CheckpointWarning(UserWarning):
    """A checkpoint was passed over for an older one."""


class Checkpoints:
    """The checkpoints of one run; one writer at a time, whose processes make the same calls.

    Args:
      directory: made by the first save.
      keep: which steps are kept; a number: so many of the newest.
      config: text that is saved in every step as `config.json`.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        keep: int | Keep = 2,
        *,
        config: str | None = None,
    ) -> None:
        self.directory = Path(directory).absolute()
        self.keep = Keep(keep) if isinstance(keep, int) else keep
        self._config = config
        self._scores: dict[int, float] = {}
        self._manager: ocp.CheckpointManager | None = None
        self._pending: threading.Thread | None = None
        self._error: BaseException | None = None
        self._damaged: set[int] = set()
        self._good: dict[int, manifests.Manifest] = {}
        self._told: set[str] = set()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(self, step: int, state: Any, data: dict[str, Any]) -> None:
        """Write a state and the JSON state of its data; returns before they are on disk.

        Raises:
          CheckpointError: the directory cannot be written, or the save before this one failed.
        """
        self.wait()
        tree = {p: (tuple(x.shape), str(x.dtype)) for p, x in flat(state).items()}
        try:
            with _saving:
                manager = self._open(step)
                manager.save(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardSave(stored.nested(state)),
                        data=ocp.args.JsonSave(data),
                    ),
                    force=True,
                )
        except (OSError, ValueError) as e:
            raise self._unwritable(step, e) from e
        self._pending = threading.Thread(
            target=self._finish, args=(manager, step, tree), name=f"checkpoint-{step}"
        )
        self._pending.start()

    def wait(self) -> None:
        """Return when the last save is on disk and vouched for. Errors as `save`."""
        if self._pending is not None:
            self._pending.join()
            self._pending = None
        if self._error is not None:
            error, self._error = self._error, None
            raise self._unwritable(None, error) from error

    def scored(self, step: int, loss: float) -> bool:
        """Tell the held-out loss of a step; true where it is among the lowest that are kept.

        Scores are not stored here: of a resumed run they are told again (`rsvlm_jax.train.loop`).
        """
        self._scores = {**self._scores, step: loss}  # anew: a thread may read the old ones
        return step in self.keep.best_of(self._scores)

    def close(self) -> None:
        """`wait`, and let go of Orbax's threads."""
        try:
            self.wait()
        finally:
            manager, self._manager = self._manager, None
            if manager is not None:
                # It raises the error of a failed save again; `wait` has told it in one line.
                with contextlib.suppress(Exception):
                    manager.close()

    def steps(self) -> list[int]:
        """Finished steps, ascending: those with a manifest. Their files are not read."""
        return together.first("steps", self._finished())

    def _finished(self) -> list[int]:
        """`steps` as this process sees them."""
        return [s for s in self._numbered() if (self._at(s) / manifests.NAME).is_file()]

    def latest(self) -> int | None:
        """The newest finished step, or None. `restore` may have to take an older one."""
        self.wait()
        steps = self.steps()
        return steps[-1] if steps else None

    def newest(self) -> int | None:
        """The newest step that verifies, its files read; None where none was ever finished.

        Raises:
          CheckpointError: steps were finished, and none verifies.

        Warns:
          CheckpointWarning: as `restore`.
        """
        return None if self.latest() is None else self._verified(None)[0]

    def begun(self) -> list[Path]:
        """Numbered directories without a manifest: saves that were never finished."""
        finished = set(self.steps())
        return [self._at(s) for s in self._numbered() if s not in finished]

    def restore(self, abstract: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """The newest state that verifies, as `abstract` wants it placed.

        Args:
          abstract: the state as `jax.ShapeDtypeStruct` with shardings (`state.abstract`); any mesh.
          step: this step and no other.

        Returns:
          The state, and the JSON state of its data.

        Raises:
          CheckpointError: no checkpoint, none that verifies, or one of other paths, shapes or
            dtypes (nothing is ever cast).

        Warns:
          CheckpointWarning: an older step was taken; names the damaged file.
        """
        found, manifest = self._verified(step)
        manifests.compare(manifest.tree, flat(abstract), self._at(found))
        return self._read(found, abstract)

    def restore_part(self, abstract: dict[str, Any], step: int | None = None) -> dict[str, Any]:
        """Some fields of a state, e.g. `{"params": ..., "stats": ...}`, without reading the rest.

        Args and errors as `restore`.
        """
        found, manifest = self._verified(step)
        tree = {p: x for p, x in manifest.tree.items() if p.split("/")[0] in abstract}
        manifests.compare(tree, flat(abstract), self._at(found))
        return self._read(found, abstract)[0]

    def tree(self, step: int | None = None) -> manifests.Shapes:
        """Shape and dtype by path of a verified step. Errors as `restore`."""
        return self._verified(step)[1].tree

    def config(self, step: int | None = None) -> str | None:
        """The text saved with a verified step; None: there was none. Errors as `restore`."""
        path = self._at(self._verified(step)[0]) / CONFIG
        return path.read_text() if path.is_file() else None

    def _verified(self, step: int | None) -> tuple[int, manifests.Manifest]:
        self.wait()
        numbered = together.first("numbered", self._numbered())
        while True:
            try:
                return self._verified_of(numbered, step)
            except CheckpointError:
                # A writer beside this reader may have deleted what it was reading.
                before, numbered = numbered, together.first("numbered", self._numbered())
                if numbered == before:
                    raise

    def _verified_of(self, numbered: list[int], step: int | None) -> tuple[int, manifests.Manifest]:
        candidates = numbered[::-1] if step is None else [s for s in numbered if s == step]
        problems: list[str] = []
        for candidate in candidates:
            try:
                if (manifest := self._good.get(candidate)) is None:
                    manifest = self._examined(candidate)
            except FileNotFoundError:
                problems.append(f"{self._at(candidate)} was never finished")
            except manifests.Damaged as e:
                self._damaged.add(candidate)
                problems.append(str(e))
            else:
                self._good[candidate] = manifest
                if problems:
                    self._tell(f"restoring step {candidate}: {'; '.join(problems)}")
                return candidate, manifest
        raise CheckpointError(
            "no checkpoint can be used" if problems else "no checkpoint",
            where=str(self.directory),
            expected="a verified step" if step is None else f"step {step}",
            found="; ".join(problems[: manifests.SHOWN]) if problems else f"steps {self.steps()}",
            remedy="start again in a new directory" if problems else None,
        )

    def _examined(self, step: int) -> manifests.Manifest:
        """The manifest of a step, its files compared: each process takes a share of them.

        Raises:
          FileNotFoundError, manifests.Damaged: on all processes, whichever has found it.
        """
        found, problem = None, None
        try:
            found = manifests.read(self._at(step))
            manifests.verify(self._at(step), found, together.index(), together.count())
        except FileNotFoundError:
            problem = ""
        except manifests.Damaged as e:
            problem = str(e)
        for told in together.each("examined", problem):
            if told is not None:
                raise manifests.Damaged(told) if told else FileNotFoundError
        assert found is not None
        return found

    def _tell(self, what: str) -> None:
        """A warning, once."""
        if what not in self._told:
            self._told.add(what)
            warnings.warn(what, CheckpointWarning, stacklevel=4)

    def _read(self, step: int, abstract: Any) -> tuple[Any, dict[str, Any]]:
        try:
            tree = stored.read(self._at(step) / "state", abstract)
            return tree, json.loads((self._at(step) / "data" / "metadata").read_text())
        except (OSError, ValueError) as e:
            raise CheckpointError(
                f"a verified checkpoint cannot be read ({type(e).__name__}: {e})",
                where=str(self._at(step)),
            ) from e

    def _finish(
        self,
        manager: ocp.CheckpointManager,
        step: int,
        tree: manifests.Shapes,
    ) -> None:
        try:
            manager.wait_until_finished()
            if together.index() == 0:
                if self._config is not None:
                    (self._at(step) / CONFIG).write_text(self._config)
                manifests.write(self._at(step), step, tree)
                self._discard()
        except BaseException as e:
            self._error = e
        # No process goes on, or ends, before the manifest stands.
        for process, told in enumerate(together.each("saved", self._error and repr(self._error))):
            if told is not None and self._error is None:
                self._error = OSError(f"process {process}: {told}")

    def _discard(self) -> None:
        """Delete what is not to be kept, each step at once: its name goes before its files."""
        steps = self._finished()
        for step in set(steps) - self.keep.of(steps, self._scores):
            gone = self.directory / f"{step}{DISCARDED}"
            os.replace(self._at(step), gone)
            shutil.rmtree(gone, ignore_errors=True)  # what a reader holds goes with the next writer

    def _open(self, step: int) -> ocp.CheckpointManager:
        """The manager; before its first save, what cannot stay beside that save is moved away."""
        if self._manager is None:
            finished = set(self.steps())
            if together.index() == 0:
                self.directory.mkdir(parents=True, exist_ok=True)
                for found in self._numbered():
                    if found not in finished:  # as large as a whole one, and of no use
                        shutil.rmtree(self._at(found))
                    elif found >= step or found in self._damaged:
                        self._set_aside(found)
                for half in self.directory.glob(f"[0-9]*{DISCARDED}"):
                    shutil.rmtree(half, ignore_errors=True)
            together.first("opened")
            self._good = {s: m for s, m in self._good.items() if s < step}
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=None,  # ours: a step goes only after a newer one is vouched for
                    create=True,
                    cleanup_tmp_directories=True,
                    enable_async_checkpointing=True,
                    # Created later, directories are announced under a number that is global to
                    # the process: two runs that save at once would hear each other's.
                    async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
                ),
            )
        return self._manager

    def _set_aside(self, step: int) -> None:
        target = self.directory / f"{step}.set-aside"
        shutil.rmtree(target, ignore_errors=True)
        os.replace(self._at(step), target)

    def _numbered(self) -> list[int]:
        if not self.directory.is_dir():
            return []
        names = [p.name for p in self.directory.iterdir() if p.is_dir()]
        return sorted(int(n) for n in names if n.isdecimal() and n == str(int(n)))

    def _at(self, step: int) -> Path:
        return self.directory / str(step)

    def _unwritable(self, step: int | None, error: BaseException) -> CheckpointError:
        what = "a checkpoint" if step is None else f"the checkpoint of step {step}"
        return CheckpointError(
            f"{what} could not be written ({type(error).__name__}: {error})",
            where=str(self.directory),
            remedy="earlier checkpoints are untouched",
        )
