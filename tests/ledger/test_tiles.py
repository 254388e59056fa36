"""The log as static files: C2SP tlog-tiles, held against the specification's own examples and an independent reader."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tlog_scales.reader import TilesReader

from checkrein.ledger.tiles import Layout, bundle, entries_path, tile_path
from checkrein.ledger.tree import EMPTY_ROOT, Head, leaf_hash, root_of


def records(count: int) -> list[bytes]:
    return [b"record %d" % at for at in range(count)]


def files(count: int) -> tuple[Head, dict[str, bytes]]:
    layout = Layout()
    made = {file.path: file.data for file in layout.files(records(count))}
    return layout.head, made


class Served:
    """What `TilesReader` asks a server for."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def get(self, *path: str) -> bytes | None:
        return self.files.get("/".join(path))


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        (tile_path(0, 0), "tile/0/000"),
        (tile_path(2, 1234067), "tile/2/x001/x234/067"),
        (tile_path(1, 1000, 17), "tile/1/x001/000.p/17"),
        (entries_path(999), "tile/entries/999"),
        (entries_path(70, 255), "tile/entries/070.p/255"),
    ],
)
def test_an_index_is_written_in_groups_of_three_digits(path: str, wanted: str):
    assert path == wanted


def test_a_tree_of_70000_records_has_the_tiles_of_the_specification():
    _, made = files(70_000)
    full = Counter(path.split("/")[1] for path in made if ".p/" not in path)
    partial = {path: len(data) // 32 for path, data in made.items() if ".p/" in path and "entries" not in path}
    assert full == {"0": 273, "1": 1, "entries": 273}
    assert partial == {"tile/0/273.p/112": 112, "tile/1/001.p/17": 17, "tile/2/000.p/1": 1}
    assert all(len(data) == 8192 for path, data in made.items() if ".p/" not in path and "entries" not in path)


def test_a_full_tile_is_one_hash_on_the_level_above():
    _, made = files(256)
    assert sorted(made) == ["tile/0/000", "tile/1/000.p/1", "tile/entries/000"]
    assert made["tile/1/000.p/1"] == root_of(map(leaf_hash, records(256)))


def test_an_empty_log_has_no_tiles():
    assert files(0) == (Head(0, EMPTY_ROOT), {})


def test_a_bundle_is_each_record_behind_its_length():
    assert bundle([b"ab", b"", b"c" * 300]) == b"\x00\x02ab" + b"\x00\x00" + b"\x01\x2c" + b"c" * 300


def test_a_record_too_long_for_its_length_is_refused():
    bundle([b"x" * 65_535])
    with pytest.raises(ValueError, match="65536 bytes"):
        bundle([b"x" * 65_536])


@given(st.one_of(st.integers(0, 1200), st.sampled_from([255, 256, 257, 511, 512, 65_535, 65_536, 65_537])))
def test_the_head_is_that_of_the_tree_over_all_records(count: int):
    head, _ = files(count)
    assert head == Head(count, root_of(map(leaf_hash, records(count))))


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 700, 66_000])
def test_an_independent_reader_finds_the_same_root_and_every_record(count: int):
    head, made = files(count)
    reader = TilesReader(Served(made))
    reader.set_size(count)
    assert reader.calculate_root_hash() == head.root
    for at in {0, count // 2, count - 1}:
        assert reader.get_entry(at) == records(count)[at]
        reader.get_inclusion_proof(at, count).check(leaf_hash(records(count)[at]), head.root)


def test_files_come_out_while_records_go_in():
    taken = 0

    def source() -> object:
        nonlocal taken
        for data in records(1000):
            taken += 1
            yield data

    first = next(Layout().files(source()))  # type: ignore[arg-type]
    assert (first.path, taken) == ("tile/entries/000", 256)
