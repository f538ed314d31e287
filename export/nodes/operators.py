"""The operators of our domain as onnxscript calls them."""

import onnx
from onnxscript.values import Op, Opset

from .functions import DOMAIN, VERSION

_FLOATS = ["tensor(float)", "tensor(double)"]
_LATTICE_INPUTS = ("targets", "input_lengths", "target_lengths")


def arcs() -> tuple[Op, Op, Op]:
    """The operators of a lattice whose arcs are given: of the costs, their gradient, and the best path."""
    inputs = {"arcs": "T", **dict.fromkeys(("durations", "input_lengths", "target_lengths"), "tensor(int64)")}
    attributes = ("blanks", "label_ends")
    return (
        node("ArcsLoss", inputs, {"costs": "T"}, attributes),
        node("ArcsLossGrad", {**inputs, "grad_costs": "T"}, {"costs": "T", "grad": "T"}, attributes),
        node(
            "ArcsAlign",
            inputs,
            {"starts": "tensor(int64)", "kinds": "tensor(int64)", "scores": "T"},
            attributes,
        ),
    )


def fused_joint(activation: str) -> tuple[Op, Op]:
    """The operator of a few classes of a joint network's scores, and that of its gradients."""
    name = f"Fused{activation.capitalize()}Joint"
    layer = dict.fromkeys(("encoder", "predictor", "weight", "bias"), "T")
    inputs = {**layer, **dict.fromkeys(("classes", "input_lengths", "node_lengths"), "tensor(int64)")}
    gradients = {f"of_{name}": "T" for name in layer}
    return (
        node(name, inputs, {"found": "T"}, ("others",)),
        node(f"{name}Grad", {**inputs, "grad": "T"}, gradients, ("others",)),
    )


def node(name: str, inputs: dict[str, str], outputs: dict[str, str], attributes: tuple[str, ...] = ()) -> Op:
    """An operator of our domain; types are ``T`` for floats or an ONNX type."""
    schema = onnx.defs.OpSchema(
        name,
        DOMAIN,
        VERSION,
        inputs=[onnx.defs.OpSchema.FormalParameter(n, t) for n, t in inputs.items()],
        outputs=[onnx.defs.OpSchema.FormalParameter(n, t) for n, t in outputs.items()],
        type_constraints=[("T", _FLOATS, "")],
        attributes=[onnx.defs.OpSchema.Attribute(a, onnx.defs.OpSchema.AttrType.INT, "") for a in attributes],
    )
    return Op(Opset(DOMAIN, VERSION), name, schema)


def on_lattice(
    name: str,
    scores: str,
    outputs: dict[str, str],
    more: dict[str, str] | None = None,
    attributes: tuple[str, ...] = (),
) -> Op:
    """An operator on a lattice: what takes `scores`, targets, lengths and the blank."""
    inputs = {scores: "T", **dict.fromkeys(_LATTICE_INPUTS, "tensor(int64)"), **(more or {})}
    return node(name, inputs, outputs, ("blank_index", *attributes))


def lattice(name: str, scores: str) -> tuple[Op, Op]:
    """The operator of a lattice's costs and that of their gradient."""
    both = {"costs": "T", "grad": "T"}
    return (
        on_lattice(name, scores, {"costs": "T"}),
        on_lattice(f"{name}Grad", scores, both, {"grad_costs": "T"}),
    )
