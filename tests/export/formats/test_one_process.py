"""Exports after each other in one process, and torch's own work before and behind them."""

from pathlib import Path

import torch
from torch import Tensor, nn

import exportable_losses as el
from exportable_losses.export import to_onnx, to_pt2


class Head(nn.Module):
    """One whose parts an ONNX export writes out otherwise than torch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 5, 3))
        self.rnn = nn.GRU(5, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(self.conv(x.transpose(1, 2)).transpose(1, 2))[0].mean()


def decomposed() -> list[str]:
    program = torch.export.export(Head(), (torch.randn(2, 9, 4),)).run_decompositions()
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def test_no_export_depends_on_what_was_exported_before(tmp_path: Path) -> None:
    torch._export.utils._collect_all_valid_cia_ops_for_aten_namespace.cache_clear()
    before = decomposed()
    inputs = {"x": torch.randn(2, 9, 4)}
    first = to_onnx(Head(), tmp_path / "first.onnx", inputs, gradients="all")
    to_pt2(el.L1Loss(), tmp_path / "l1.pt2")
    to_onnx(el.L1Loss(), tmp_path / "l1.onnx")
    again = to_onnx(Head(), tmp_path / "again.onnx", inputs, gradients="all")
    assert [node.op_type for node in first.graph.node] == [node.op_type for node in again.graph.node]
    torch._export.utils._collect_all_valid_cia_ops_for_aten_namespace.cache_clear()
    to_onnx(el.L1Loss(), tmp_path / "l1.onnx")
    assert decomposed() == before
