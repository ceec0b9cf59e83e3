"""The data path: every sample once per epoch, on any number of ranks, with the bytes that were written."""

import hashlib
import json
import tempfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.cli.errors import Failure, Mistake
from jobs.data import ngrams, shards

TEXTS = [(f"module_{number}.py", f"value = {number}\n".encode() * 40) for number in range(40)]
ROOM = tempfile.TemporaryDirectory()


def files(texts: list[tuple[str, bytes]] = TEXTS) -> list[shards.Source]:
    """The texts as files."""
    root = Path(tempfile.mkdtemp(dir=ROOM.name))
    for name, text in texts:
        (root / name).write_bytes(text)
    return [(name, root / name) for name, _ in texts]


def prepare(folder: Path, shard_bytes: int = 2048) -> Path:
    return shards.prepare(folder, shard_bytes=shard_bytes, validation=0.2, texts=files())


@given(
    samples=st.integers(1, 300),
    size=st.integers(1, 64),
    ranks=st.integers(1, 9),
    seed=st.integers(0, 2**64 - 1),
    epochs=st.integers(1, 3),
)
def test_every_sample_comes_exactly_once_per_epoch_on_any_number_of_ranks(
    samples: int, size: int, ranks: int, seed: int, epochs: int
) -> None:
    order = shards.Order(samples, seed)
    steps = -(-samples * epochs // size)
    seen = [
        sample
        for step in range(steps)
        for rank in range(ranks)
        for sample in order.batch(step, size, rank=rank, ranks=ranks)
    ]
    for epoch in range(epochs):
        assert sorted(seen[epoch * samples : (epoch + 1) * samples]) == list(range(samples))


@given(st.integers(0, 10**6), st.integers(1, 64), st.integers(1, 9))
def test_ranks_cut_the_global_batch_without_gap_or_overlap(step: int, size: int, ranks: int) -> None:
    order = shards.Order(1000, seed=3)
    parts = [order.batch(step, size, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert [sample for part in parts for sample in part] == order.batch(step, size)


def test_order_is_a_function_of_seed_and_step_only() -> None:
    assert shards.Order(500, 1).batch(77, 8) == shards.Order(500, 1).batch(77, 8)
    assert shards.Order(500, 1).batch(77, 8) != shards.Order(500, 2).batch(77, 8)


def test_shards_hold_the_text_of_each_file_in_one_split(tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    streams = {
        name: b"".join(path.read_bytes() for path in sorted(folder.glob(f"{name}-*.bin")))
        for name in shards.SPLITS
    }
    for path, text in TEXTS:
        held_out = shards.in_validation(path, 0.2)
        assert (text + b"\0" in streams["validation"]) == held_out
        assert (text + b"\0" in streams["train"]) != held_out
    assert sum(map(len, streams.values())) == sum(len(text) + 1 for _, text in TEXTS)


def test_more_files_move_no_file_to_the_other_split() -> None:
    assert all(shards.in_validation(path, 0.2) for path, _ in TEXTS if shards.in_validation(path, 0.1))


def test_windows_are_the_shards_bytes_and_do_not_overlap(tmp_path: Path) -> None:
    folder = prepare(tmp_path, shard_bytes=1024)
    split = shards.Split(folder, "train", context=16)
    rows = split.windows(range(len(split)))
    assert rows.shape == (len(split), 17)
    rebuilt, at = [], 0
    for shard in sorted(folder.glob("train-*.bin")):
        content = shard.read_bytes()
        for start in range(0, len(content) - 16, 16):
            assert rows[at].tobytes() == content[start : start + 17]
            rebuilt.append(at)
            at += 1
    assert rebuilt == list(range(len(split)))


def test_prepared_once_and_anew_when_anything_changes(tmp_path: Path) -> None:
    first = prepare(tmp_path)
    before = (first / "manifest.json").stat().st_mtime_ns
    assert prepare(tmp_path) == first
    assert (first / "manifest.json").stat().st_mtime_ns == before
    changed = [*TEXTS[:-1], (TEXTS[-1][0], b"changed\n" * 50)]
    assert shards.prepare(tmp_path, shard_bytes=2048, validation=0.2, texts=files(changed)) != first


@given(
    st.lists(st.binary(max_size=300), min_size=1, max_size=30),
    st.integers(1, 400),
    st.integers(1, 400),
)
@settings(deadline=None, max_examples=50)
def test_however_it_is_cut_and_read_the_shards_are_the_texts_one_after_the_other(
    texts: list[bytes], shard_bytes: int, piece: int
) -> None:
    folder = Path(tempfile.mkdtemp(dir=ROOM.name))
    stream = shards.Stream(folder, "train", shard_bytes)
    for text in texts:
        for start in range(0, len(text), piece):
            stream.write(text[start : start + piece])
        stream.write(b"\0")
    found, whole = stream.close(), b"".join(text + b"\0" for text in texts)
    assert [(folder / name).read_bytes() for name in found] == [
        whole[start : start + shard_bytes] for start in range(0, len(whole), shard_bytes)
    ]
    for name, facts in found.items():
        content = (folder / name).read_bytes()
        assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_no_more_than_a_piece_of_a_corpus_is_in_memory(tmp_path: Path) -> None:
    with (tmp_path / "big.py").open("wb") as file:
        file.truncate(32 << 20)  # sparse
    (tmp_path / "module_3.py").write_text("held out")
    texts = [(name, tmp_path / name) for name in ("big.py", "module_3.py")]
    tracemalloc.start()
    try:
        folder = shards.prepare(tmp_path / "out", shard_bytes=16 << 20, validation=0.5, texts=texts)
        shards.check(folder)
        assert tracemalloc.get_traced_memory()[1] < 4 * shards.PIECE
    finally:
        tracemalloc.stop()


def test_a_text_that_changes_meanwhile_is_no_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, name_of = files(), shards.name_of

    def changed(*arguments: Any, **named: Any) -> str:  # between the name and the bytes
        name = name_of(*arguments, **named)
        texts[0][1].write_bytes(b"another")
        return name

    monkeypatch.setattr(shards, "name_of", changed)
    with pytest.raises(Failure, match="changed while it was prepared"):
        shards.prepare(tmp_path / "data", shard_bytes=2048, validation=0.2, texts=texts)
    assert list((tmp_path / "data").iterdir()) == []


def test_jobs_that_prepare_at_once_all_get_whole_data(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as jobs:
        folders = set(jobs.map(lambda _: prepare(tmp_path), range(8)))
    assert len(folders) == 1
    shards.check(folders.pop())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_wrong_checksum_is_refused_by_file_name(tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    shards.check(folder)
    shard = folder / "train-00001.bin"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(Failure, match=r"train-00001\.bin: sha256 is .*, should be"):
        shards.check(folder)


def test_a_missing_shard_and_a_broken_manifest_are_refused_by_name(tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    (folder / "validation-00000.bin").unlink()
    with pytest.raises(Failure, match=r"validation-00000\.bin: No such file"):
        shards.check(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(Failure, match=r"manifest\.json"):
        shards.check(folder)


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_of_a_check_cover_all_shards(tmp_path: Path, parts: int) -> None:
    folder = prepare(tmp_path)
    for file in json.loads((folder / "manifest.json").read_text())["shards"]:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(b"?" + content[1:])
        refused = 0
        for part in range(parts):
            try:
                shards.check(folder, part=part, parts=parts)
            except Failure:
                refused += 1
        assert refused == 1
        (folder / file).write_bytes(content)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Failure, match="cannot be written: Not a directory"):
        prepare(tmp_path / "file" / "below")


def test_impossible_shapes_are_mistakes(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match=r"data\.validation: 0\.0 of 40 files leaves none for validation"):
        shards.prepare(tmp_path, shard_bytes=2048, validation=0.0, texts=files())
    with pytest.raises(Mistake, match=r"model\.context: 5000 bytes is longer than any train shard"):
        shards.Split(prepare(tmp_path), "train", context=5000)


def test_corpus_is_the_standard_library_without_what_was_installed_into_it() -> None:
    paths = [path for path, _ in shards.sources()]
    assert "json/decoder.py" in paths
    assert paths == sorted(paths)
    assert not any("site-packages" in path or "/test/" in path for path in paths)


def test_ngrams_against_counting_by_hand() -> None:
    stream = np.frombuffer(b"abababab", dtype=np.uint8)
    windows = np.frombuffer(b"aba", dtype=np.uint8).reshape(1, 3)
    unigram, bigram = ngrams.bits_per_byte([stream], windows)
    # 7 pairs: ab 4 times, ba 3 times. Every byte is counted once more, so that none is impossible.
    p = {"a": 4 / 263, "b": 5 / 263}
    assert unigram == pytest.approx(-(np.log2(p["b"]) + np.log2(p["a"])) / 2)
    ab, ba = (4 + p["b"]) / 5, (3 + p["a"]) / 4
    assert bigram == pytest.approx(-(np.log2(ab) + np.log2(ba)) / 2)
