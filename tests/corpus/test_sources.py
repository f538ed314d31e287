"""Every format gives what was put into it, and what is wrong with a part of it is said of that part."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import KINDS, columns, expected, items_of, write, write_tar
from hypothesis import given
from hypothesis import strategies as st

from exportable_losses.runtime import LossSession, Scorer, score_corpus
from exportable_losses.runtime.corpus.columns import Column, column_of
from exportable_losses.runtime.corpus.reading import Reader, cut, shards, windows

IDS = [f"utt{i:02}" for i in range(12)]
NUMBERS = st.integers(-9, 9)
GRIDS = st.tuples(st.integers(0, 4), st.integers(1, 3)).flatmap(
    lambda size: st.lists(
        st.lists(NUMBERS, min_size=size[1], max_size=size[1]), min_size=size[0], max_size=size[0]
    )
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", ["ctc_loss", "l1_loss", "TokenErrorRate", "EqualErrorRate"])
def test_a_corpus_adds_up_to_the_row_of_all_items(row: str, kind: str, graphs: Any, tmp_path: Path) -> None:
    items = items_of(row)
    path = write(kind, tmp_path / "dev", items, IDS)
    found = score_corpus(Scorer(graphs[row]), [path], tmp_path / "out", window_bytes=1500)
    assert {name: each["value"] for name, each in found["totals"].items()} == pytest.approx(
        expected(row, items), 2e-5
    )
    assert json.loads((tmp_path / "out" / "totals.json").read_text()) == found
    assert (found["items"], found["set_aside"], found["data"]) == (12, 0, [{"path": str(path), "rows": 12}])
    table = pq.read_table(tmp_path / "out" / "items.parquet")
    assert table["id"].to_pylist() == IDS
    assert table["size"].to_pylist() == [len(next(iter(item.values()))) for item in items]
    assert not (tmp_path / "out" / "state").exists()
    assert len(pq.read_table(tmp_path / "out" / "set_aside.parquet")) == 0


def test_an_item_has_the_value_that_it_has_alone(graphs: Any, tmp_path: Path) -> None:
    items = items_of("ctc_loss")
    score_corpus(Scorer(graphs["ctc_loss"]), [write("npz", tmp_path / "dev", items, IDS)], tmp_path / "out")
    session, whole = LossSession(graphs["ctc_loss"]), np.ones(1, np.float32)
    alone = [
        session(**{name: array[None] for name, array in item.items()}, input_lens=whole, target_lens=whole)
        for item in items
    ]
    found = pq.read_table(tmp_path / "out" / "items.parquet")["loss"].to_pylist()
    assert found == pytest.approx([each["loss"][0] for each in alone], 1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window_bytes", [1, 3000, 1 << 30])
def test_windows_are_all_of_a_shard_in_any_order(kind: str, window_bytes: int, tmp_path: Path) -> None:
    items = items_of("ctc_loss")
    path = write(kind, tmp_path / "dev", items, IDS, group=5)
    wanted = ["log_probs", "targets", "input_lens"]
    found = list(windows([str(path)], wanted, window_bytes))
    assert sum(window.rows for window in found) == 12
    assert (len(found) == 1) == (window_bytes == 1 << 30)
    for order in (found, found[::-1], found[1::2]):  # a resumed run reads some, a worker reads others
        reader = Reader(wanted)
        for window in order:
            row = window.start
            for some in reader.read(window):
                end = row + len(some.ids)
                assert (some.ids, some.wrong) == (IDS[row:end], {})
                assert set(some.columns) == {"log_probs", "targets"}
                for name, column in some.columns.items():
                    for array, item in zip(column, items[row:end], strict=True):
                        assert array.dtype == item[name].dtype
                        np.testing.assert_array_equal(array, item[name])
                row = end
            assert row == window.start + window.rows


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 100))), st.integers(1, 60), st.booleans())
def test_no_row_is_cut_off(groups: list[tuple[int, int]], most: int, divisible: bool) -> None:
    found = list(cut(groups, most, divisible))
    assert sum(rows for rows, _ in found) == sum(rows for rows, _ in groups)
    assert all(rows > 0 for rows, _ in found)
    bytes_of = [size / rows for rows, size in groups for _ in range(rows)]
    ends = itertools.accumulate(rows for rows, _ in found)
    for (rows, _), end in zip(found, ends, strict=True):
        assert rows == 1 or sum(bytes_of[end - rows : end]) <= most + max(bytes_of)


def arrays_of(name: str, column: pa.Array) -> list[np.ndarray | str]:
    """The array of each row, or what is wrong with it."""
    found, wrong = column_of(name, column)
    assert len(found) == len(column)
    good = np.array([row for row in range(len(column)) if row not in wrong], int)
    arrays = iter(found.part(good))
    return [wrong[row] if row in wrong else next(arrays) for row in range(len(column))]


@given(st.lists(GRIDS, max_size=8), st.data())
def test_nested_lists_are_their_arrays(grids: list[list[list[int]]], data: Any) -> None:
    column = pa.array(grids, pa.list_(pa.list_(pa.int16())))
    start = data.draw(st.integers(0, len(grids)))
    for array, grid in zip(arrays_of("x", column[start:]), grids[start:], strict=True):
        assert isinstance(array, np.ndarray)
        np.testing.assert_array_equal(
            array, np.array(grid, np.int16).reshape(len(grid), len(grid[0]) if grid else 0)
        )


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.list_(pa.float32(), 2)),
        pa.large_list(pa.list_(pa.float64())),
        pa.list_(pa.list_(pa.bool_())),
        pa.list_(pa.list_(pa.float16(), 2), 3),
        pa.list_(pa.uint8(), 6),
    ],
)
def test_lists_of_every_kind(kind: pa.DataType) -> None:
    arrays = [np.arange(6).reshape(3, 2) % 2, np.ones((3, 2)), np.zeros((3, 2))]
    flat = kind == pa.list_(pa.uint8(), 6)
    leaf = bool if kind == pa.list_(pa.list_(pa.bool_())) else float
    column = pa.array([(a.ravel() if flat else a).astype(leaf).tolist() for a in arrays], kind)
    for chunk, left in ((column, arrays), (column[1:], arrays[1:]), (column[1:2], arrays[1:2])):
        for got, array in zip(arrays_of("x", chunk), left, strict=True):
            np.testing.assert_array_equal(got, array.ravel() if flat else array)


def test_tensors_of_a_fixed_shape() -> None:
    arrays = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(arrays)
    np.testing.assert_array_equal(arrays_of("x", column[1:]), arrays[1:])
    turned = pa.FixedShapeTensorArray.from_numpy_ndarray(arrays.transpose(0, 2, 1))
    np.testing.assert_array_equal(arrays_of("x", turned), arrays.transpose(0, 2, 1))


def test_columns_one_behind_the_other() -> None:
    arrays = [np.full((rows, 2), rows) for rows in range(7)]
    flat = np.concatenate([array.ravel() for array in arrays[:4]])
    edges = np.cumsum([0, *(array.size for array in arrays[:4])])
    nested = pa.FixedSizeListArray.from_arrays(pa.array(flat), 2)
    first, _ = column_of("x", pa.ListArray.from_arrays(pa.array(edges // 2, pa.int32()), nested))
    joined = Column.join([first.part(slice(1, None)), Column.of(arrays[4:]), first.part(np.array([3, 0]))])
    for part, rows_of in ((joined, [1, 2, 3, 4, 5, 6, 3, 0]), (joined.part(np.array([6, 4])), [3, 5])):
        for got, rows in zip(part, rows_of, strict=True):
            np.testing.assert_array_equal(got, arrays[rows])


def test_numbers_are_not_copied() -> None:
    column = pa.array([[[1.0, 2.0]], [[3.0, 4.0]]], pa.list_(pa.list_(pa.float64())))
    buffer = column.values.values.buffers()[1]
    second = arrays_of("x", column)[1]
    assert isinstance(second, np.ndarray)
    assert second.__array_interface__["data"][0] == buffer.address + 16


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ([[[1.0]], None, [[2.0]]], "a null"),
        ([[[1.0]], [None], [[2.0]]], "a null"),
        ([[[1.0]], [[3.0, None]], [[2.0]]], "a null"),
        ([[[1.0]], [[3.0], [4.0, 5.0]], [[2.0, 2.5]]], "lists of several sizes side by side"),
        ([[[1.0]], [[3.0, 1.0], []], []], "lists of several sizes side by side"),
    ],
)
def test_a_row_that_is_no_array_says_so(values: Any, wrong: str) -> None:
    found = arrays_of("x", pa.array(values))
    assert found[1] == f"x: got {wrong}, expected an array of numbers"
    assert isinstance(found[0], np.ndarray)
    assert isinstance(found[2], np.ndarray)


def test_a_column_of_something_else_says_so() -> None:
    found = arrays_of("x", pa.array([["a"], ["b"]]))
    assert found == ["x: got list<item: string>, expected numbers or lists of them"] * 2


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_text_is_an_array_of_one(kind: pa.DataType) -> None:
    found = arrays_of("text", pa.array(["it rains", None, "\u00e9"], kind))
    assert [each if isinstance(each, str) else each.item() for each in found] == [
        "it rains",
        "text: got a null, expected text",
        "\u00e9",
    ]


def test_text_where_numbers_belong_says_so(graphs: Any, tmp_path: Path) -> None:
    scores = items_of("ctc_loss", 1)[0]["log_probs"].tolist()
    pq.write_table(pa.table({"log_probs": [scores], "targets": ["it rains"]}), tmp_path / "dev.parquet")
    with pytest.raises(ValueError, match="#0: targets: got text, expected numbers"):
        score_corpus(Scorer(graphs["ctc_loss"]), [tmp_path / "dev.parquet"], tmp_path / "out")


def test_folders_patterns_and_urls(graphs: Any, tmp_path: Path) -> None:
    items, folder = items_of("ctc_loss"), tmp_path / "data" / "more"
    folder.mkdir(parents=True)
    first = write("parquet", folder / "a", items[:5], IDS[:5])
    second = write("tar", tmp_path / "data" / "b", items[5:], IDS[5:])
    (tmp_path / "data" / "notes.txt").write_text("hello")
    assert shards([tmp_path / "data"]) == [str(second), str(first)]
    assert shards([f"{tmp_path}/data/**/*.parquet", second]) == [str(first), str(second)]
    urls = shards([f"file://{tmp_path}/data"])
    assert urls == [f"file://{second}", f"file://{first}"]
    results = [
        score_corpus(Scorer(graphs["ctc_loss"]), paths, tmp_path / name)["totals"]
        for name, paths in (("local", [tmp_path / "data"]), ("remote", urls))
    ]
    assert results[0] == results[1]
    with pytest.raises(FileNotFoundError, match=r"data: got .*nowhere"):
        shards([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match=r"data: got .*notes.txt, expected a file that ends with .parquet"):
        shards([tmp_path / "data" / "notes.txt"])


@pytest.mark.parametrize("kind", KINDS)
def test_data_in_memory_of_a_filesystem(kind: str, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    path = write(kind, tmp_path / "dev", items_of("ctc_loss"), IDS)
    url = f"memory://corpus/{kind}/{path.name}"
    with fsspec.open(url, "wb") as file:
        file.write(path.read_bytes())
    wanted = ["targets"]
    found = [some for window in windows([url], wanted, 100) for some in Reader(wanted).read(window)]
    assert [id_ for some in found for id_ in some.ids] == IDS
    assert not any(some.wrong for some in found)


def aside(out: Path) -> list[tuple[str, str]]:
    table = pq.read_table(out / "set_aside.parquet").to_pylist()
    return [(row["id"], row["reason"]) for row in table]


def test_the_shorter_of_two_says_what_is_compared(graphs: Any, tmp_path: Path) -> None:
    items = items_of("l1_loss")
    for row, item in enumerate(items[:8]):
        name = ("predictions", "targets")[row % 2]
        item[name] = item[name][: max(1, len(item[name]) - row // 2)]
    path = write("parquet", tmp_path / "dev", items, IDS)
    found = score_corpus(Scorer(graphs["l1_loss"]), [path], tmp_path / "out")
    both = [min(map(len, item.values())) for item in items]
    table = pq.read_table(tmp_path / "out" / "items.parquet")
    assert table["size"].to_pylist() == both
    apart = [
        np.abs(item["predictions"][:size] - item["targets"][:size]).ravel()
        for item, size in zip(items, both, strict=True)
    ]
    assert table["loss"].to_pylist() == pytest.approx([each.mean() for each in apart], 1e-5)
    assert found["totals"]["loss"]["value"] == pytest.approx(np.concatenate(apart).mean(), 1e-5)


def test_what_is_wrong_with_an_item_is_said(graphs: Any, tmp_path: Path) -> None:
    good = items_of("ctc_loss", 9)
    nan = good[1]["log_probs"].copy()
    nan[2, 3] = np.nan
    whole: Any = np.float32(1)
    for item in good:
        item |= {"input_lens": whole, "target_lens": whole}
    bad: Any = [
        good[0],
        good[1] | {"log_probs": nan},
        good[2] | {"targets": np.array([1, 9])},
        good[3] | {"targets": np.array([0])},
        good[4] | {"input_lens": np.float32(1.2)},
        good[5] | {"input_lens": np.float32(0.49)},
        good[6] | {"target_lens": np.float32("nan")},
        good[7] | {"log_probs": good[7]["log_probs"][0]},
        good[8],
    ]
    ids = [*IDS[:8], IDS[0]]
    path = write("npz", tmp_path / "dev", bad[:8], ids[:8])
    last = write("npz", tmp_path / "more", bad[8:], ids[8:])
    found = score_corpus(Scorer(graphs["ctc_loss"]), [path, last], tmp_path / "out")
    assert (found["items"], found["set_aside"]) == (1, 8)
    said, frames = dict(aside(tmp_path / "out")[:-1]), [len(item["log_probs"]) for item in good]
    assert [said[id_].partition(", expected")[0] for id_ in IDS[1:8]] == [
        "log_probs: got nan at [0, 2, 3]",
        "targets: got 9 at [0, 1]",
        "targets: got 0 at [0, 0]",
        f"input_lens: got 1.2 of {frames[4]} frames, which is {1.2 * frames[4]:g}",
        f"input_lens: got 0.49 of {frames[5]} frames, which is {0.49 * frames[5]:g}",
        f"target_lens: got nan of {len(good[6]['targets'])} labels",
        "log_probs: got 2 dimensions",
    ]
    assert aside(tmp_path / "out")[-1] == (IDS[0], "id: got it a second time, expected one item of each")
    assert found["totals"]["loss"]["value"] == pytest.approx(
        expected("ctc_loss", [items_of("ctc_loss", 1)[0]])["loss"], 1e-5
    )


def test_what_is_wrong_leaves_what_is_beside_it(graphs: Any, tmp_path: Path) -> None:
    items: Any = [item | {"input_lens": np.float64(1)} for item in items_of("ctc_loss")]
    good = [items[row] for row in (0, 1, 2, 5, 7, 10, 11)]
    items[3] |= {"log_probs": None, "targets": None}
    items[4] |= {"targets": None}
    items[6] |= {"input_lens": np.float64(-1)}
    items[8] |= {"input_lens": np.float64("inf")}
    items[9] |= {"targets": np.array([1, 9, 1])}
    path = write("file", tmp_path / "dev", items, IDS, group=12)
    found = score_corpus(Scorer(graphs["ctc_loss"]), [path], tmp_path / "out")
    assert [(id_, reason.partition(", expected")[0]) for id_, reason in aside(tmp_path / "out")] == [
        (IDS[3], "log_probs: got a null"),
        (IDS[4], "targets: got a null"),
        (IDS[6], f"input_lens: got -1 of {len(items[6]['log_probs'])} frames"),
        (IDS[8], f"input_lens: got inf of {len(items[8]['log_probs'])} frames"),
        (IDS[9], "targets: got 9 at [0, 1]"),
    ]
    assert found["totals"]["loss"]["value"] == pytest.approx(
        expected("ctc_loss", [{name: item[name] for name in ("log_probs", "targets")} for item in good])[
            "loss"
        ],
        1e-5,
    )


def test_what_is_wrong_in_a_batch_leaves_the_others(graphs: Any, tmp_path: Path) -> None:
    (item,) = items_of("ctc_loss", 1)
    items = [dict(item) for _ in range(7)]
    items[2] |= {"log_probs": np.full_like(item["log_probs"], np.nan)}
    items[5] |= {"targets": np.full_like(item["targets"], 9)}
    path = write("file", tmp_path / "dev", items, IDS[:7])
    found = score_corpus(Scorer(graphs["ctc_loss"]), [path], tmp_path / "out")
    assert [id_ for id_, _ in aside(tmp_path / "out")] == [IDS[2], IDS[5]]
    assert found["totals"]["loss"]["value"] == pytest.approx(expected("ctc_loss", [item])["loss"], 1e-5)


def test_wrong_dtypes_and_missing_columns(graphs: Any, tmp_path: Path) -> None:
    items = items_of("ctc_loss", 4)
    yes_or_no = [{**item, "log_probs": item["log_probs"] > 0} for item in items[:2]]
    small = [{**item, "targets": item["targets"].astype(np.int8)} for item in items[2:3]]
    flags = [{**item, "targets": item["targets"] > 0} for item in items[3:4]]
    paths = [
        write("parquet", tmp_path / "a", yes_or_no, IDS[:2]),
        write("parquet", tmp_path / "b", small, IDS[2:3]),
        write("parquet", tmp_path / "c", [{"targets": items[3]["targets"]}], IDS[3:4]),
        write("parquet", tmp_path / "d", flags, IDS[4:5]),
    ]
    found = score_corpus(Scorer(graphs["ctc_loss"]), paths, tmp_path / "out")
    wrong = "log_probs: got bool, expected floating point: log-probabilities"
    missing = "inputs: log_probs missing, found targets, expected log_probs, targets"
    missing += "; optional: input_lens, target_lens"
    no_index = "targets: got bool, expected integers: class indices"
    assert aside(tmp_path / "out") == [
        *((id_, wrong) for id_ in IDS[:2]),
        (IDS[3], missing),
        (IDS[4], no_index),
    ]
    assert found["totals"]["loss"]["value"] == pytest.approx(expected("ctc_loss", items[2:3])["loss"], 1e-5)


def test_a_row_group_that_is_broken_costs_its_rows_alone(graphs: Any, tmp_path: Path) -> None:
    items = items_of("ctc_loss")
    path = write("parquet", tmp_path / "dev", items, IDS, group=4)
    where = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    start = where.dictionary_page_offset or where.data_page_offset
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    found = score_corpus(Scorer(graphs["ctc_loss"]), [path], tmp_path / "out")
    lost = aside(tmp_path / "out")
    assert [id_ for id_, _ in lost] == [f"dev.parquet#{row}" for row in range(4, 8)]
    assert all(reason.startswith("unreadable: ") for _, reason in lost)
    kept = [*items[:4], *items[8:]]
    assert found["totals"]["loss"]["value"] == pytest.approx(expected("ctc_loss", kept)["loss"], 1e-5)


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "npz", "tar"])
@pytest.mark.parametrize("content", [b"", b"hello, this is no such file"])
def test_a_shard_that_is_broken_is_one_that_is_lost(
    suffix: str, content: bytes, graphs: Any, tmp_path: Path
) -> None:
    good = write("npz", tmp_path / "good", items_of("ctc_loss"), IDS)
    bad = tmp_path / f"bad.{suffix}"
    bad.write_bytes(content)
    found = score_corpus(Scorer(graphs["ctc_loss"]), [bad, good], tmp_path / "out")
    ((id_, reason),) = aside(tmp_path / "out")
    assert (id_, reason[:12]) == (bad.name, "unreadable: ")
    assert (found["items"], [each["rows"] for each in found["data"]]) == (12, [0, 12])


@pytest.mark.parametrize("kind", ["stream", "tar"])
def test_a_shard_that_is_cut_off_gives_what_there_is(kind: str, graphs: Any, tmp_path: Path) -> None:
    path = write(kind, tmp_path / "dev", items_of("ctc_loss"), IDS)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    found = score_corpus(Scorer(graphs["ctc_loss"]), [path], tmp_path / "out")
    lost = dict(aside(tmp_path / "out"))
    assert 0 < found["items"] < 12
    assert lost["dev.tar" if kind == "tar" else "dev.arrow"].startswith("unreadable: ")


def test_nothing_to_score_is_an_error(graphs: Any, tmp_path: Path) -> None:
    pq.write_table(columns(items_of("ctc_loss", 1))[:0], tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match="data: got no items, expected one at least"):
        score_corpus(Scorer(graphs["ctc_loss"]), [tmp_path / "empty.parquet"], tmp_path / "out")
    write_tar(tmp_path / "wrong.tar", {"a.scores": np.ones(3)})
    with pytest.raises(ValueError, match=r"none of 1 items could be scored; a: inputs: log_probs, targets"):
        score_corpus(Scorer(graphs["ctc_loss"]), [tmp_path / "wrong.tar"], tmp_path / "out2")


def test_rows_without_an_id_are_counted(graphs: Any, tmp_path: Path) -> None:
    items = items_of("TokenErrorRate", 3)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        pq.write_table(columns(items), tmp_path / folder / "dev.parquet")
    scorer = Scorer(graphs["TokenErrorRate"])
    score_corpus(scorer, [tmp_path / "a"], tmp_path / "one")
    assert pq.read_table(tmp_path / "one" / "items.parquet")["id"].to_pylist() == [
        f"dev.parquet#{i}" for i in range(3)
    ]
    found = score_corpus(scorer, [tmp_path / "a", tmp_path / "b"], tmp_path / "two")
    assert (found["items"], found["set_aside"]) == (6, 0)  # two shards of one name: the ids have the paths


def test_slices_of_slices() -> None:
    np.testing.assert_array_equal(arrays_of("x", pa.array([1.0, 2.0, 3.0])[1:]), [2.0, 3.0])
    np.testing.assert_array_equal(arrays_of("x", pa.array([True, False, True])[1:]), [False, True])
    numbers = pa.array(np.arange(9, dtype=np.int32))[1:]
    pairs = pa.FixedSizeListArray.from_arrays(numbers, 2)[1:]
    np.testing.assert_array_equal(arrays_of("x", pairs), [[3, 4], [5, 6], [7, 8]])
    nested = pa.ListArray.from_arrays(pa.array([0, 1, 3], pa.int32()), pairs)
    for got, array in zip(arrays_of("x", nested), [[[3, 4]], [[5, 6], [7, 8]]], strict=True):
        np.testing.assert_array_equal(got, array)
    assert arrays_of("x", pa.array([None, 1.0])[:1]) == ["x: got a null, expected an array of numbers"]
