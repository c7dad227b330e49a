"""Batches of conversations: order, resume, processes, bad images, what a batch holds."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from said import LENGTH, config, entry, picture, processor, source, write

from rsvlm_jax.config import ConfigError, ConversationConfig, DataError, MeshConfig
from rsvlm_jax.data import BadLog, Batch, read_bad
from rsvlm_jax.data.talk import TalkSource, Tokens, count_tokens, talk_batches
from rsvlm_jax.mesh.build import make_mesh
from rsvlm_jax.mesh.rules import batch_sharding

KINDS = {"plain": {"group": False}, "grouped": {}, "packed": {"pack": True}}


def digest(batch: Batch) -> str:
    h = hashlib.sha256()
    for leaf in jax.tree.leaves(batch):
        h.update(f"{leaf.shape} {leaf.dtype}".encode())
        h.update(np.ascontiguousarray(leaf).tobytes())
    return h.hexdigest()


def start(made: TalkSource, **changes):
    return talk_batches(made, **{"batch_size": 4, "seed": 3, "threads": 0, **changes})


def take(batches, n: int) -> list[str]:
    with batches:
        return [digest(b) for b in itertools.islice(batches, n)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("talk"), 23)


@pytest.fixture(scope="module", params=KINDS)
def made(request, path: Path) -> TalkSource:
    return source(path, **KINDS[request.param])


# ---- what a batch holds --------------------------------------------------------------------------


def test_a_batch_holds_the_conversations_of_its_rows(made: TalkSource):
    said = made.processor
    with start(made) as batches:
        for k in range(2 * batches.plan.epoch_batches()):
            batch, rows, shape = next(batches), batches.plan.rows(k), batches.plan.shape(k)
            assert batch.tokens.shape == (4, shape.length)
            assert batch.sample.tolist() == [row[0] for row in rows]
            for b, row in enumerate(rows):
                for segment, number in enumerate(row, 1):
                    wanted = said.encode(made.conversations[number].messages)
                    own = batch.segment[b] == segment
                    ids = np.where(batch.image_slot[b] >= 0, said.image_token, batch.tokens[b])[own]
                    assert ids.tolist() == wanted.ids
                    assert batch.weight[b][own].tolist() == wanted.weight
                    assert batch.position[b][own].tolist() == list(range(len(ids)))
                assert (batch.segment[b] > len(row)).sum() == 0
                paths = [p for n in row for p in made.conversations[n].paths]
                if batch.images is None:
                    assert not paths
                    continue
                of = batch.images.of[b]
                assert of.tolist() == [
                    b * shape.images + i if i < len(paths) else -1 for i in range(shape.images)
                ]
                for i, file in zip(of, paths, strict=False):
                    np.testing.assert_array_equal(batch.images.pixels[i], said.pixels(file))
            if batch.images is not None:
                assert len(batch.images.pixels) == 4 * shape.images
                unnamed = np.setdiff1d(np.arange(4 * shape.images), batch.images.of)
                assert (batch.images.pixels[unnamed] == 0).all()


def test_tokens_are_counted_on_the_host_and_from_the_plan(made: TalkSource):
    with start(made) as batches:
        found = [count_tokens(next(batches)) for _ in range(9)]
        assert found == [batches.plan.tokens(k) for k in range(9)]
    total = sum(found, Tokens(0, 0, 0, 0))
    assert 0 < total.real < total.padded
    assert total.share == total.real / total.padded


def test_batches_without_images_have_none(tmp_path: Path):
    file = tmp_path / "talk.json"
    file.write_text(json.dumps([entry(i) for i in range(5)]))
    with start(source(file)) as batches:
        assert next(batches).images is None


def test_grouped_batches_of_text_alone_run_no_tower(tmp_path: Path):
    file = write(tmp_path)
    file.write_text(json.dumps([entry(i, image="1.png" if i < 12 else None) for i in range(24)]))
    with start(source(file)) as batches:
        kinds = [next(batches).images is None for _ in range(6)]
    assert sum(kinds) >= 2


# ---- order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 5, 7, 13])
def test_resume_is_bitwise_from_any_place(made: TalkSource, at: int):
    whole = take(start(made), 16)
    first = start(made, threads=2)
    assert [digest(next(first)) for _ in range(at)] == whole[:at]
    state = json.loads(json.dumps(first.get_state()))
    first.close()
    again = start(made)
    again.set_state(state)
    assert take(again, 16 - at) == whole[at:]


def test_resume_with_any_number_of_workers(path: Path):
    made = source(path, pack=True)
    whole = take(start(made), 7)
    with start(made, workers=2, threads=1) as first:
        assert [digest(next(first)) for _ in range(4)] == whole[:4]
        state = json.loads(json.dumps(first.get_state()))
    assert state["next_index"] == 4
    for workers in (0, 2):
        again = start(made, workers=workers)
        again.set_state(state)
        assert take(again, 3) == whole[4:]


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_processes_read_the_parts_of_every_batch(made: TalkSource, parts: int):
    whole = start(made)
    several = [start(made, rows=rows) for rows in np.arange(4).reshape(parts, -1)]
    seen: list[int] = []
    for k in range(whole.plan.epoch_batches() + 1):
        batch, pieces = next(whole), [next(b) for b in several]
        for leaf, *of in zip(*map(jax.tree.leaves, (batch, *pieces)), strict=True):
            np.testing.assert_array_equal(leaf, np.concatenate(of))
        seen += [n for row in whole.plan.rows(k) for n in row]
    assert sorted(seen[: len(made)]) == list(range(len(made))), "every conversation once"
    state = several[-1].get_state()
    alone = start(made)
    alone.set_state(state)
    assert digest(next(alone)) == digest(next(whole))


def test_a_place_in_another_sequence_is_refused(path: Path):
    with start(source(path)) as batches:
        state = batches.get_state()
    others = [
        start(source(path), seed=4),
        start(source(path), batch_size=8),
        start(source(path, pack=True)),
        start(source(path, group=False)),
        start(source(path, held_out=0.2)),
        start(TalkSource.of(config(path), processor(template="llava_v1"), "train")),
    ]
    for other in others:
        with pytest.raises(DataError, match="belongs to another sequence of samples"):
            other.set_state(state)
    start(source(path)).set_state(state)


def test_batches_are_placed_over_the_devices(made: TalkSource):
    sharding = batch_sharding(make_mesh(MeshConfig(data=2), jax.devices()[:2]))
    with start(made, threads=2, prefetch=2, sharding=sharding) as placed:
        found = [next(placed) for _ in range(3)]
    for leaf in jax.tree.leaves(found):
        assert isinstance(leaf, jax.Array)
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    assert [digest(b) for b in found] == take(start(made), 3)


@pytest.mark.parametrize(
    "changes",
    [{"rows": [2, 6]}, {"rows": []}, {"batch_size": 0}, {"threads": -1}],
)
def test_impossible_batches(path: Path, changes: dict):
    with pytest.raises(ConfigError, match="impossible batches in talk_batches"):
        start(source(path), **changes)


def test_buffers_are_stated(path: Path):
    made = source(path, group=False)
    stated = start(made, threads=2).buffers
    with start(made) as batches:
        batch = next(batches)
    held = sum(np.asarray(x).nbytes for x in jax.tree.leaves(batch))
    assert held <= stated.batch_bytes <= 1.2 * held
    assert stated.held_bytes == 7 * 8 * 8 * 3 * 4
    assert stated.bytes == 5 * stated.batch_bytes + stated.held_bytes


# ---- splits and mixtures -------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["image", "question"])
def test_the_splits_are_all_of_it(by: str):
    # The one model and length of the shipped questions: two hundred tokens are LLaVA's preface.
    said = ConversationConfig(length=LENGTH, held_out=0.25, held_out_by=by)  # type: ignore[arg-type]
    both = [TalkSource.of(said, processor(), split) for split in ("train", "held_out")]  # type: ignore[arg-type]
    ids = [{c.id for c in s.conversations} for s in both]
    assert not ids[0] & ids[1]
    assert len(ids[0] | ids[1]) == 2403


def test_a_mixture_reads_files_by_weight(tmp_path: Path):
    a, b = write(tmp_path / "a", 10), write(tmp_path / "b", 20)
    said = ConversationConfig(files=((str(a), 1.0), (str(b), 0.5)), length=LENGTH, group=False)
    made = TalkSource.of(said, processor(), "train")
    files = [c.file for c in made.conversations]
    with start(made) as batches:
        seen = [files[n] for k in range(5) for row in batches.plan.rows(k) for n in row]
    assert (seen.count(str(a)), seen.count(str(b))) == (10, 10)


def test_a_split_without_conversations(path: Path):
    with pytest.raises(DataError, match="an empty split"):
        TalkSource.of(config(path), processor(), "held_out")


# ---- lengths -------------------------------------------------------------------------------------


def test_a_long_conversation_is_cut_after_the_last_answer_that_fits(tmp_path: Path):
    file = write(tmp_path)
    file.write_text(json.dumps([entry(0, image="0.png", turns=9), entry(1, image="1.png")]))
    made = source(file)
    assert made.turns.tolist()[1] == 2
    turns = int(made.turns[0])
    assert 2 < turns < 18
    assert turns % 2 == 0
    messages = made.conversations[0].messages
    whole = [len(processor(length=9999).encode(messages[:n]).ids) for n in (turns, turns + 2)]
    assert whole[0] == made.tokens[0] <= LENGTH < whole[1]


def test_an_answer_that_does_not_fit_is_cut_as_in_llava(tmp_path: Path):
    file = write(tmp_path)
    long = entry(0, image="0.png")
    long["conversations"][1]["value"] = "There are some trees near the water. " * 30
    file.write_text(json.dumps([long]))
    made = source(file)
    assert made.tokens.tolist() == [LENGTH]
    assert made.row(0).supervised


def test_images_that_do_not_fit_are_refused_at_once(tmp_path: Path):
    file = write(tmp_path)
    many = [f"{i % 7}.png" for i in range(60)]
    file.write_text(json.dumps([entry(i, image=many) for i in range(3)]))
    match = rf"an image does not fit in .*\(id '0'\).*at most {LENGTH} tokens.*\(and 2 more\)"
    with pytest.raises(DataError, match=match):
        source(file)


def test_a_conversation_with_all_labels_masked_is_refused_at_once(tmp_path: Path):
    file = write(tmp_path)
    asked = entry(0, image="0.png")
    asked["conversations"][0]["value"] = "<image>\n" + "Is it a lake or is it a tree? " * 30
    file.write_text(json.dumps([asked]))
    match = r"all labels are masked in .*\(id '0'\).*an answer in the first 300 tokens"
    with pytest.raises(DataError, match=match):
        source(file)


# ---- bad images ----------------------------------------------------------------------------------


def hurt(folder: Path) -> Path:
    """An image that is none: six conversations show it, some beside another."""
    file = write(folder)
    (folder / "1.png").write_bytes((folder / "2.png").read_bytes()[:60])
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_image_keeps_its_slot_with_weight_0(tmp_path: Path, kind: str):
    file, log = hurt(tmp_path / "bad"), BadLog(tmp_path / "bad_samples.jsonl")
    good = source(write(tmp_path / "good"), **KINDS[kind])
    made = TalkSource(
        source(file, **KINDS[kind]).conversations, processor(), config(file, **KINDS[kind]),
        error_budget=0.5,
    )  # fmt: skip
    affected = {n for n, c in enumerate(made.conversations) if "1.png" in c.images}
    with start(made, log=log) as batches, start(good) as sound:
        for k in range(batches.plan.epoch_batches()):
            batch, whole = next(batches), next(sound)
            np.testing.assert_array_equal(batch.tokens, whole.tokens)
            np.testing.assert_array_equal(batch.segment, whole.segment)
            for b, row in enumerate(batches.plan.rows(k)):
                for segment, number in enumerate(row, 1):
                    own = batch.segment[b] == segment
                    if number in affected:
                        assert (batch.weight[b][own] == 0).all()
                    else:
                        np.testing.assert_array_equal(batch.weight[b][own], whole.weight[b][own])
                fine = [n for n in row if n not in affected]
                assert batch.sample[b] == (fine[0] if fine else -1)
    assert set(made.bad) == affected
    bad = read_bad(log.path)
    assert {b.sample for b in bad} == affected
    assert len(bad) == len(affected)
    assert all(b.cube == str(file) and b.window is None for b in bad)
    assert all("1.png" in b.reason and "\n" not in b.reason for b in bad)
    assert made.unreadable["windows"] == len(affected)


def test_a_resumed_run_does_not_repeat_the_lines_of_bad_samples(tmp_path: Path):
    file, log = hurt(tmp_path), tmp_path / "bad_samples.jsonl"
    for workers in (0, 2):
        made = TalkSource(source(file).conversations, processor(), config(file), error_budget=0.5)
        with start(made, log=BadLog(log), workers=workers) as batches:
            for _ in range(batches.plan.epoch_batches()):
                next(batches)
        assert len(read_bad(log)) == len(made.bad) == 6


def test_too_many_bad_images_stop_the_run(tmp_path: Path):
    made = source(hurt(tmp_path))
    match = "too many conversations cannot be"
    with start(made) as batches, pytest.raises(DataError, match=match) as e:
        list(itertools.islice(batches, 8))
    (bad,) = {c.id for c in made.conversations if f"id {c.id!r}: " in str(e.value)}
    assert str(e.value).count(f"id {bad!r}: ") == 1


def test_an_image_that_goes_away_is_a_bad_sample(tmp_path: Path):
    file = write(tmp_path, 14)
    made = TalkSource(source(file).conversations, processor(), config(file), error_budget=1.0)
    os.remove(tmp_path / "2.png")
    with start(made) as batches:
        for _ in range(batches.plan.epoch_batches()):
            next(batches)
    assert {made.conversations[n].images for n in made.bad} == {("2.png",)}


def test_a_bombing_image_is_a_bad_sample(tmp_path: Path):
    file = write(tmp_path, 14)
    made = TalkSource(source(file).conversations, processor(), config(file), error_budget=1.0)
    # A picture of 60,000 x 60,000 pixels in some bytes: the size stands in its head.
    data = bytearray(picture(tmp_path / "3.png", 3).read_bytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    (tmp_path / "3.png").write_bytes(bytes(data))
    with start(made) as batches:
        for _ in range(batches.plan.epoch_batches()):
            next(batches)
    assert made.bad
    assert all("3.png" in reason for reason in made.bad.values())


def test_rows_of_text_alone_do_not_ask_for_pictures(tmp_path: Path):
    file = tmp_path / "talk.json"
    file.write_text(json.dumps([entry(i) for i in range(4)]))
    silent = dataclasses.replace(processor(), image=None, image_token=None, per_image=0)
    made = TalkSource.of(config(file), silent, "train")
    with start(made) as batches:
        assert next(batches).images is None
