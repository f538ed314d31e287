"""Pictures of items of a corpus: the right item, its own lattice, the names of its labels."""

import functools
from pathlib import Path
from typing import Any

import exports
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from corpora import KINDS, columns, items_of, write

import exportable_losses as el
from exportable_losses.runtime import LossSession, Scorer
from exportable_losses.runtime.corpus import lattices, reading
from exportable_losses.runtime.corpus.lattices import Lattices
from exportable_losses.runtime.corpus.reading import Places, Reader

ITEMS = items_of("ctc_loss")
IDS = [f"utt{i}" for i in range(len(ITEMS))]


@pytest.fixture(scope="module")
def drawing() -> list[LossSession]:
    """The posterior and the alignment."""
    return [LossSession(exports.onnx(module)) for module in (el.CTCPosterior(), el.CTCAlign())]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, np.ndarray], dict[str, Any]]]:
    """What is drawn."""
    calls: list[Any] = []
    plot = lattices.plot

    def watched(outputs: dict[str, np.ndarray], **settings: Any) -> Any:
        calls.append((outputs, settings))
        return plot(outputs, **settings)

    monkeypatch.setattr(lattices, "plot", watched)
    return calls


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [1, 256 << 20])
def test_items_are_found_again(
    kind: str, window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "windows", functools.partial(reading.windows, window_bytes=window))
    shards = [str(write(kind, tmp_path / f"{i}", ITEMS[i : i + 6], IDS[i : i + 6], group=2)) for i in (0, 6)]
    places, reader = Places(shards, list(ITEMS[0])), Reader(list(ITEMS[0]))
    for number in (7, 0, 11, 5):
        place = places.find(IDS[number])
        assert place is not None
        (row,) = reader.read(place)
        assert list(row.ids) == [IDS[number]]
        for name, array in ITEMS[number].items():
            (found,) = row.columns[name]
            np.testing.assert_array_equal(found, array)
    assert places.find("utt12") is None


def test_of_two_items_of_an_id_the_first_is_found(tmp_path: Path) -> None:
    shard = str(write("parquet", tmp_path / "a", ITEMS[:3], ["x", "y", "x"]))
    window = Places([shard], list(ITEMS[0])).find("x")
    assert window is not None
    assert (window.start, window.rows) == (0, 1)


def test_rows_without_ids_are_found(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{f"only.{name}": array for name, array in ITEMS[0].items()})
    pq.write_table(columns(ITEMS[:4]), tmp_path / "b.parquet")
    places = Places([str(tmp_path / "a.npz"), str(tmp_path / "b.parquet")], list(ITEMS[0]))
    window = places.find("b.parquet#2")
    assert window is not None
    assert (window.shard, window.start) == (1, 2)


def test_it_is_the_item_s_own_lattice(
    graphs: dict[str, Path], drawing: list[LossSession], drawn: Any, tmp_path: Path
) -> None:
    shard = str(write("parquet", tmp_path / "dev", ITEMS, IDS))
    picture = Lattices(Scorer(graphs["ctc_loss"]), [shard], drawing, [f"<{i}>" for i in range(9)])
    png = picture("utt4")
    assert png is not None
    assert png.startswith(b"\x89PNG")
    ((outputs, settings),) = drawn
    scores, labels = ITEMS[4]["log_probs"], ITEMS[4]["targets"]
    whole = torch.ones(1, dtype=torch.float64)
    batch = torch.from_numpy(scores)[None].double(), torch.from_numpy(labels)[None]
    posteriors, costs = el.CTCPosterior()(*batch, whole, whole)
    frames, states = posteriors.shape[1:]
    np.testing.assert_allclose(outputs["posteriors"][0, :frames, :states], posteriors[0], atol=1e-5)
    assert not outputs["posteriors"][0, frames:].any()
    np.testing.assert_allclose(outputs["costs"][0], costs[0], rtol=1e-5)
    assert settings["classes"] == [f"<{i}>" for i in range(9)]
    assert outputs["tokens"][0, : len(labels)].tolist() == labels.tolist()
    assert picture("utt4") == png
    assert picture("utt5") != png
    assert picture("nobody") is None


def test_a_posterior_alone_knows_the_labels_too(
    graphs: dict[str, Path], drawing: list[LossSession], drawn: Any, tmp_path: Path
) -> None:
    shard = str(write("npz", tmp_path / "dev", ITEMS, IDS))
    assert Lattices(Scorer(graphs["ctc_loss"]), [shard], drawing[:1], ["", "a", "b"])("utt3") is not None
    ((outputs, settings),) = drawn
    labels = ITEMS[3]["targets"]
    assert outputs["tokens"][0, : len(labels)].tolist() == labels.tolist()
    assert settings["classes"] == ["", "a", "b"]


def test_padding_of_labels_is_not_shown(
    graphs: dict[str, Path], drawing: list[LossSession], drawn: Any, tmp_path: Path
) -> None:
    item = ITEMS[3] | {"targets": np.array([1, 2, 0, 0]), "target_lens": np.array(2)}
    shard = str(write("npz", tmp_path / "dev", [item], ["padded"]))
    assert Lattices(Scorer(graphs["ctc_loss"]), [shard], drawing[:1])("padded") is not None
    ((outputs, _),) = drawn
    assert [label for label in outputs["tokens"][0].tolist() if label >= 0] == [1, 2]


@pytest.mark.parametrize(
    ("row", "which", "message"),
    [
        ("l1_loss", slice(0, 1), "takes log_probs, expected predictions, targets, length"),
        ("ctc_loss", slice(1, 2), "got no graph that gives posteriors, expected one"),
    ],
)
def test_graphs_that_do_not_fit(
    graphs: dict[str, Path], drawing: list[LossSession], row: str, which: slice, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Lattices(Scorer(graphs[row]), [], drawing[which])
