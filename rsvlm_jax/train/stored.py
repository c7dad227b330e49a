"""A tree of arrays as Orbax stores it: nested dicts, whatever optax's classes are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from rsvlm_jax.core import flat, map_with_path


def nested(tree: Any) -> dict[str, Any]:
    """Any tree as nested dicts with string keys."""
    root: dict[str, Any] = {}
    for path, leaf in flat(tree).items():
        *parents, last = path.split("/")
        node = root
        for word in parents:
            node = node.setdefault(word, {})
        node[last] = leaf
    return root


def read(directory: Path, abstract: Any) -> Any:
    """The arrays that `abstract` names, placed as it says; others are not read.

    Raises:
      OSError, ValueError: from Orbax.
    """
    wanted = nested(abstract)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        restored = reader.restore(
            directory,
            args=ocp.args.PyTreeRestore(
                item=wanted,
                restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                partial_restore=True,
            ),
        )
    arrays = flat(restored)
    return map_with_path(lambda path, _: arrays[path], abstract)
