"""Features computed once: what is written, taken up again, refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from said import config, picture, processor, write

from rsvlm_jax.config import ConfigError, DataError
from rsvlm_jax.data.features import Features, digest_of
from rsvlm_jax.data.precompute import write_features
from rsvlm_jax.data.talk import TalkSource, talk_batches

WHO = {"tower": digest_of("tower"), "preprocessing": digest_of(processor().image)}


class Tower:
    """Two tokens of three numbers: the mean colour of the upper and the lower half."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.dies_at = dies_at

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.shapes.append(pixels.shape)
        if self.dies_at == len(self.shapes):
            raise KeyboardInterrupt
        return pixels.reshape(len(pixels), 2, -1, 3).mean(axis=2)


def compute(folder: Path, paths: list[str], tower=None, **changes):
    words = {**WHO, "dtype": "float32", "batch": 2, "shard": 3, **changes}
    return write_features(folder, paths, processor().pixels, tower or Tower(), **words)


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    (tmp_path / "in").mkdir()
    return [str(picture(tmp_path / "in" / f"{i}.png", i)) for i in range(8)]


def test_features_are_those_of_the_tower(tmp_path: Path, paths: list[str]):
    tower = Tower()
    assert compute(tmp_path / "f", paths, tower) == (8, 0, {})
    assert set(tower.shapes) == {(2, 8, 8, 3)}, "one program"
    features = Features(tmp_path / "f", **WHO)
    assert len(features) == 8
    for path in paths:
        wanted = Tower()(processor().pixels(path)[None])[0]
        np.testing.assert_array_equal(features.read(path), wanted)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(tmp_path: Path, paths: list[str], dtype: str):
    compute(tmp_path / "f", paths, dtype=dtype)
    features = Features(tmp_path / "f")
    kind = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}[dtype]
    wanted = Tower()(processor().pixels(paths[5])[None])[0].astype(kind)
    found = features.read(paths[5])
    assert found.dtype == features.dtype == np.dtype(kind)
    assert found.tobytes() == wanted.tobytes()


def test_an_image_is_known_by_its_content(tmp_path: Path, paths: list[str]):
    moved = str(shutil.copy(paths[2], tmp_path / "another name.png"))
    found = compute(tmp_path / "f", [*paths, moved])
    assert found == (8, 1, {})
    features = Features(tmp_path / "f")
    np.testing.assert_array_equal(features.read(moved), features.read(paths[2]))


def test_a_writer_that_was_killed_goes_on(tmp_path: Path, paths: list[str]):
    with pytest.raises(KeyboardInterrupt):
        compute(tmp_path / "f", paths, Tower(dies_at=4))  # in the second shard
    tower = Tower()
    assert compute(tmp_path / "f", paths, tower) == (5, 3, {})
    assert compute(tmp_path / "f", paths) == (0, 8, {})
    compute(tmp_path / "whole", paths)
    a, b = Features(tmp_path / "f"), Features(tmp_path / "whole")
    for path in paths:
        np.testing.assert_array_equal(a.read(path), b.read(path))


def test_a_shard_without_its_index_does_not_count(tmp_path: Path, paths: list[str]):
    compute(tmp_path / "f", paths)
    (tmp_path / "f" / "00001.json").unlink()
    assert len(Features(tmp_path / "f")) == 5
    assert compute(tmp_path / "f", paths).images == 3
    assert len(Features(tmp_path / "f")) == 8


def test_progress_ends_with_all_images(tmp_path: Path, paths: list[str]):
    seen: list[tuple[int, int]] = []
    compute(tmp_path / "f", paths, progress=lambda *at: seen.append(at))
    assert seen == [(3, 8), (6, 8), (8, 8)]


def test_an_unreadable_image_is_left_out_and_known_as_such(tmp_path: Path, paths: list[str]):
    Path(paths[1]).write_bytes(b"no picture")
    Path(paths[6]).unlink()
    images, before, unread = compute(tmp_path / "f", paths)
    assert (images, before, set(unread)) == (6, 0, {paths[1], paths[6]})
    assert compute(tmp_path / "f", paths).images == 0, "not tried again"
    features = Features(tmp_path / "f")
    for path in (paths[1], paths[6]):
        with pytest.raises(DataError, match=f"an unreadable image.*{Path(path).name}"):
            features.read(path)


def test_features_of_another_tower(tmp_path: Path, paths: list[str]):
    compute(tmp_path / "f", paths)
    other = digest_of("other")
    match = rf"features of another tower in .*f; expected {other[:12]}; found {WHO['tower'][:12]};"
    with pytest.raises(DataError, match=match):
        Features(tmp_path / "f", tower=other)
    with pytest.raises(DataError, match=match):
        write_features(
            tmp_path / "f", paths, processor().pixels, Tower(), **{**WHO, "tower": other}
        )


def test_features_of_another_preprocessing(tmp_path: Path, paths: list[str]):
    compute(tmp_path / "f", paths)
    with pytest.raises(DataError, match="features of another preprocessing"):
        Features(tmp_path / "f", preprocessing=digest_of("crop"))


def test_features_of_another_type(tmp_path: Path, paths: list[str]):
    compute(tmp_path / "f", paths)
    with pytest.raises(DataError, match=r"another dtype in .*expected float16; found float32"):
        compute(tmp_path / "f", paths, dtype="float16")


def test_an_image_that_has_changed(tmp_path: Path, paths: list[str]):
    compute(tmp_path / "f", paths)
    picture(Path(paths[3]), 99)
    with pytest.raises(ConfigError, match=r"without features in .*f; expected .*3\.png; found 8"):
        Features(tmp_path / "f").read(paths[3])


def test_damaged_features(tmp_path: Path, paths: list[str]):
    compute(tmp_path / "f", paths)
    file = tmp_path / "f" / "00000.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    features = Features(tmp_path / "f")
    features.read(paths[0])
    with pytest.raises(DataError, match=r"damaged features in .*00000\.npy\[2\]; expected CRC-32C"):
        features.read(paths[2])


@pytest.mark.parametrize("size", [None, 10, 150])
def test_a_shard_that_is_cut_or_gone(tmp_path: Path, paths: list[str], size: int | None):
    compute(tmp_path / "f", paths)
    file = tmp_path / "f" / "00000.npy"
    data = file.read_bytes()
    file.unlink()
    if size is not None:
        file.write_bytes(data[:size])
    with pytest.raises(DataError, match=r"damaged features in .*00000\.npy.*delete 00000\.json"):
        Features(tmp_path / "f").read(paths[0])


def test_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(DataError, match=r"no readable features in .*rsvlm features"):
        Features(tmp_path / "none")


def test_a_folder_of_another_version(tmp_path: Path, paths: list[str]):
    compute(tmp_path / "f", paths)
    file = tmp_path / "f" / "features.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "version": 2}))
    with pytest.raises(DataError, match=r"not a folder of features.*version 1 with.*version 2"):
        Features(tmp_path / "f")


def test_a_folder_that_cannot_be_written(tmp_path: Path, paths: list[str]):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write the features"):
        compute(tmp_path / "file" / "f", paths)


def test_digests_tell_numbers_and_names_apart():
    x = np.arange(4, dtype=np.float32)
    found = {
        digest_of("a"), digest_of("a", {"x": x}), digest_of("a", {"y": x}),
        digest_of("a", {"x": x + 1}), digest_of("a", {"x": x.astype(np.int32)}),
        digest_of("a", {"x": x.reshape(2, 2)}),
    }  # fmt: skip
    assert len(found) == 6
    assert digest_of("a", {"x": x, "y": x}) == digest_of("a", {"y": x, "x": x})


# ---- in batches ----------------------------------------------------------------------------------


def test_batches_hold_features_in_place_of_pixels(tmp_path: Path):
    file = write(tmp_path)
    compute(tmp_path / "f", [str(tmp_path / f"{i}.png") for i in range(7)], dtype="bfloat16")
    said = config(file, features=str(tmp_path / "f"), group=False)
    source = TalkSource.of(said, processor(), "train", tower=WHO["tower"])
    plain = TalkSource.of(config(file, group=False), processor(), "train")
    with (
        talk_batches(source, batch_size=4, seed=0) as featured,
        talk_batches(plain, batch_size=4, seed=0) as pictured,
    ):
        a, b = next(featured), next(pictured)
    np.testing.assert_array_equal(a.tokens, b.tokens)
    assert a.images is not None
    assert b.images is not None
    np.testing.assert_array_equal(a.images.of, b.images.of)
    assert a.images.pixels is b.images.features is None
    wanted = Tower()(b.images.pixels).astype(ml_dtypes.bfloat16)
    assert np.asarray(a.images.features).tobytes() == wanted.tobytes()


def test_a_run_refuses_features_of_another_tower_before_it_starts(tmp_path: Path):
    file = write(tmp_path)
    compute(tmp_path / "f", [str(tmp_path / f"{i}.png") for i in range(7)])
    said = config(file, features=str(tmp_path / "f"))
    with pytest.raises(DataError, match="features of another tower"):
        TalkSource.of(said, processor(), "train", tower=digest_of("other"))


def test_a_run_refuses_images_without_features_before_it_starts(tmp_path: Path):
    file = write(tmp_path)
    compute(tmp_path / "f", [str(tmp_path / f"{i}.png") for i in range(6)])
    with pytest.raises(ConfigError, match=r"an image without features .*6\.png"):
        TalkSource.of(config(file, features=str(tmp_path / "f")), processor(), "train")
