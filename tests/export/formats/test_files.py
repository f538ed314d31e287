"""What is in an exported file: what it promises of itself, and nothing it should not carry."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.defs
import onnxruntime
import pytest
import torch
from export_cases import BY_NAME, CASES, Case
from onnx import numpy_helper
from onnx.inliner import inline_local_functions
from onnx_runs import as_arrays

import exportable_losses
from exportable_losses import catalog, checks
from exportable_losses.contract import Contract

OURS = "exportable_losses"
OPSET, IR_VERSION = 18, 8
# The first graph of each row, and those of all settings, ranks and dtypes. What another reduction alone
# changes is no matter of the file.
FIRST = {case.row: str(case) for case in reversed(CASES)}
NAMES = [
    pytest.param(name, marks=() if name in FIRST.values() else pytest.mark.thorough)
    for name, case in BY_NAME.items()
    if not case.without and case.name not in checks.REDUCTIONS[1:]
]
TRANSDUCERS = ("Transducer", "TDT", "MultiBlankTransducer", "HAT", "SimpleTransducer", "PrunedTransducer")
LATTICES = {
    "ctc_loss": "CTCLoss",
    "ctc_loss_kd": "CTCLoss",
    "transducer_loss": "TransducerLoss",
    "TDTLoss": "ArcsLoss",
    "MultiBlankTransducerLoss": "ArcsLoss",
    "HATLoss": "ArcsLoss",
    "SimpleTransducerLoss": "ArcsLoss",
    "PruneRanges": "ArcsLossGrad",
    "PrunedTransducerLoss": "ArcsLoss",
    **{f"{kind}Posterior": "ArcsLossGrad" for kind in TRANSDUCERS},
    **{f"{kind}Align": "ArcsAlign" for kind in TRANSDUCERS},
    "FusedTransducerLoss": "FusedTanhJoint ArcsLoss",
    "LinearCTCLoss": "FusedIdentityJoint CTCLoss",
    "LinearCTCAlign": "FusedIdentityJoint CTCAlign",
    "LinearCTCGreedyDecode": "FusedBest",
    "PitWrapper": "BestPermutation",
    "get_si_snr_with_pitwrapper": "BestPermutation",
    "get_snr_with_pitwrapper": "BestPermutation",
    "SDR": "BestPermutation",
    "SISNRImprovement": "BestPermutation",
    "CTCPosterior": "CTCPosterior",
    "CTCForwardChunk": "CTCForward",
    "CTCAlign": "CTCAlign",
    "CTCKeywordScore": "CTCAlign",
    "TransducerForwardChunk": "FusedTanhJoint TransducerForward",
    "EditDistance": "EditCounts",
    "TokenErrorRate": "EditCounts",
}
# what the bodies of others call, outside of their scans: a scan's body holds all of its own
CALLED = {
    "CTCLoss": {"CTCBothWays", "CTCLattice", "CTCReversed", "CTCTransition"},
    "CTCPosterior": {"CTCBothWays", "CTCJoin", "CTCLattice", "CTCReversed", "CTCTransition"},
    "CTCForward": {"CTCLattice", "CTCTransition"},
    "CTCAlign": {"CTCLattice"},
    "TransducerLoss": {"TransducerArcs"},
    "TransducerLossGrad": {"TransducerArcs"},
    "ArcsLoss": {"ArcsCosts", "ArcsEnds", "ArcsEntering", "ArcsForward", "ArcsOf", "ArcsSteps"},
    "ArcsLossGrad": {"ArcsCosts", "ArcsEnds", "ArcsEntering", "ArcsForward", "ArcsOf", "ArcsSteps"},
    **{
        f"Fused{kind}": {"JointBlocks", "JointFrames", "JointInBlocks"}
        for kind in ("Best", "TanhJoint", "ReluJoint", "SiluJoint", "IdentityJoint")
    },
    "ArcsAlign": {"ArcsCosts", "ArcsEnds", "ArcsEntering", "ArcsOf", "ArcsSteps"},
}


def operator_of(case: Case) -> set[str]:
    """The operators of ours in a case's graph, one as a rule, or none."""
    if case.row not in LATTICES or not case.settings.get("pit", True):
        return set()
    shaped = case.row == "transducer_loss" and "topology" in case.settings
    kind = case.settings.get("activation", "tanh").capitalize()
    return {"ArcsLoss"} if shaped else set(LATTICES[case.row].replace("Tanh", kind).split())


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest) -> Case:
    return BY_NAME[request.param]


@pytest.fixture
def path(case: Case) -> Path:
    return case.graph()


@pytest.fixture
def model(path: Path) -> onnx.ModelProto:
    return onnx.load(path)


def dims(value: onnx.ValueInfoProto) -> list[str]:
    return [dim.dim_param or str(dim.dim_value) for dim in value.type.tensor_type.shape.dim]


def nodes(holder: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of subgraphs too."""
    for node in holder.node:
        yield node
        for graph in subgraphs(node):
            yield from nodes(graph)


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]


def captured(graph: onnx.GraphProto) -> set[str]:
    """The names that a graph, or one inside it, takes from outside."""
    known = {value.name for value in (*graph.input, *graph.initializer)}
    free: set[str] = set()
    for node in graph.node:
        inside = {name for sub in subgraphs(node) for name in captured(sub)}
        free |= ({name for name in node.input if name} | inside) - known
        known |= set(node.output)
    return free | ({value.name for value in graph.output} - known)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_the_checker_accepts_it(path: Path) -> None:
    onnx.checker.check_model(str(path), full_check=True)


def test_versions_that_other_runtimes_read(model: onnx.ModelProto) -> None:
    assert model.ir_version == IR_VERSION
    opsets = [model.opset_import, *(function.opset_import for function in model.functions)]
    for domain, version in ((o.domain, o.version) for opset in opsets for o in opset):
        assert (domain, version) in {("", OPSET), (OURS, 1)}


def test_inputs_and_outputs_are_the_catalog_s(case: Case, model: onnx.ModelProto) -> None:
    expected = [value.name for value in case.entry.inputs if value.name in case.inputs()]
    assert [value.name for value in model.graph.input] == expected
    assert [value.name for value in model.graph.output] == list(case.entry.outputs)


def test_every_size_is_dynamic_under_its_letter(case: Case, model: onnx.ModelProto) -> None:
    inputs = case.inputs()
    letters = case.entry.contract.letters({name: tensor.dim() for name, tensor in inputs.items()})
    fixed = {str(size) for size in case.sizes.values()}
    named: set[str] = set()
    for value in model.graph.input:
        for dim, letter in zip(dims(value), letters[value.name], strict=True):
            assert dim == letter or dim in fixed, f"{value.name}: {dim} where {letter} was expected"
            named.add(dim)
    # an output's size is that of an input, a one, or worked out from letters
    for value in model.graph.output:
        for dim in dims(value):
            assert dim.isdigit() or named & set(
                dim.replace("(", " ").replace(")", " ").replace(",", " ").replace("*", " ").split()
            )


@pytest.mark.parametrize("row", catalog.names())
def test_letters_are_written_as_in_the_catalog(row: str) -> None:
    case = next(case for case in BY_NAME.values() if case.row == row)
    graph = onnx.load(case.graph()).graph
    for value, entry in zip(graph.input, case.entry.inputs, strict=True):
        assert " ".join(dims(value)) == entry.dims.replace("?", "").replace("*", "X0")


def test_metadata_say_what_it_is(case: Case, model: onnx.ModelProto) -> None:
    [about] = [json.loads(prop.value) for prop in model.metadata_props if prop.key == OURS]
    assert about["row"] == case.row
    assert about["version"] == exportable_losses.__version__
    assert Contract.from_json(about["contract"]) == case.entry.contract
    assert set(about["settings"]) == set(case.entry.settings)
    for name, value in case.settings.items():
        plain = value.tolist() if isinstance(value, torch.Tensor) else value
        plain = list(plain) if isinstance(plain, tuple) else plain
        assert about["settings"][name] == (plain if not callable(plain) else str(plain))


def test_operators_are_standard_or_ours_with_a_body(case: Case, model: onnx.ModelProto) -> None:
    functions = {function.name: function for function in model.functions}
    for holder in (model.graph, *functions.values()):
        for node in nodes(holder):
            if node.domain == OURS:
                assert node.op_type in functions
            else:
                assert node.domain == ""
                assert onnx.defs.get_schema(node.op_type, OPSET).since_version <= OPSET
    called = {name for operator in operator_of(case) for name in CALLED.get(operator, ())}
    assert set(functions) == operator_of(case) | called


def test_scan_bodies_capture_nothing(case: Case, model: onnx.ModelProto) -> None:
    scans = [node for holder in (model.graph, *model.functions) for node in nodes(holder) if subgraphs(node)]
    assert {node.op_type for node in scans} == ({"Scan"} if operator_of(case) else set())
    # ONNX Runtime up to 1.22 loses the shapes of these in a loop, and then does not run it
    inside = {inner.op_type for node in scans for graph in subgraphs(node) for inner in nodes(graph)}
    assert not inside & {"LessOrEqual", "GreaterOrEqual"}
    for node in scans:
        for graph in subgraphs(node):
            assert not captured(graph)
            assert {inner.domain for inner in nodes(graph)} == {""}


def test_inlined_it_is_the_same_in_standard_operators(case: Case, model: onnx.ModelProto) -> None:
    inlined = inline_local_functions(model)
    onnx.checker.check_model(inlined, full_check=True)
    assert not inlined.functions
    assert {node.domain for node in nodes(inlined.graph)} == {""}
    feed = as_arrays(case.inputs("short", seed=2))
    for ours, theirs in zip(session(model).run(None, feed), session(inlined).run(None, feed), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_it_is_small_and_tells_nothing_of_the_machine(path: Path) -> None:
    data = path.read_bytes()
    assert len(data) < 100_000
    here = [
        str(Path(__file__).parents[3]),
        str(Path(torch.__file__).parent),
        str(Path.home()),
        str(path.parent),
    ]
    for trace in (*here, "site-packages", ".py", "Traceback", "pkg.torch", "torch.fx", "namespace"):
        assert trace.encode() not in data, trace


def test_data_beside_it_are_what_eager_gives(case: Case, path: Path, model: onnx.ModelProto) -> None:
    folder = path.parent / "test_data_set_0"
    expected = {"input": case.inputs(), "output": case.outputs(case.module()(**case.inputs()))}
    values = {"input": model.graph.input, "output": model.graph.output}
    for kind, tensors in expected.items():
        assert len(list(folder.glob(f"{kind}_*.pb"))) == len(values[kind])
        for i, (value, (name, tensor)) in enumerate(zip(values[kind], tensors.items(), strict=True)):
            proto = onnx.TensorProto()
            proto.ParseFromString((folder / f"{kind}_{i}.pb").read_bytes())
            assert proto.name == value.name == name
            assert proto.data_type == value.type.tensor_type.elem_type
            np.testing.assert_array_equal(numpy_helper.to_array(proto), tensor.numpy())
    assert len(list(folder.iterdir())) == sum(map(len, values.values()))


def test_a_torchscript_file_says_what_it_is(case: Case, path: Path) -> None:
    extra = {f"{OURS}.json": ""}
    torch.jit.load(case.script(), _extra_files=extra)
    [about] = [prop.value for prop in onnx.load(path).metadata_props]
    assert json.loads(extra[f"{OURS}.json"]) == json.loads(about)
