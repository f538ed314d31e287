"""The operators of our domain as onnxscript calls them."""

import onnx
from onnxscript.values import Op, Opset

from .functions import DOMAIN, VERSION

_FLOATS = ["tensor(float)", "tensor(double)"]
_LATTICE_INPUTS = ("targets", "input_lengths", "target_lengths")


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


def lattice(name: str, scores: str) -> tuple[Op, Op]:
    """The operator of a lattice and that of its gradient."""
    inputs = {scores: "T", **dict.fromkeys(_LATTICE_INPUTS, "tensor(int64)")}
    weighted, both = {**inputs, "grad_costs": "T"}, {"costs": "T", "grad": "T"}
    return (
        node(name, inputs, {"costs": "T"}, ("blank_index",)),
        node(f"{name}Grad", weighted, both, ("blank_index",)),
    )
