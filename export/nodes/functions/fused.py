"""A few classes of the scores of a joint network, which are never there all at once, as ONNX functions."""

from onnxscript import FLOAT, INT64, graph, script
from onnxscript import opset18 as op
from onnxscript.values import OnnxFunction, Opset

ours = Opset("exportable_losses", 1)


@script(ours, default_opset=op)
def JointTanh(x):
    return op.Tanh(x)


@script(ours, default_opset=op)
def JointTanhGrad(grad, _x, y):
    return grad - grad * y * y


@script(ours, default_opset=op)
def JointRelu(x):
    return op.Relu(x)


@script(ours, default_opset=op)
def JointReluGrad(grad, _x, y):
    nothing = op.CastLike(0.0, y)
    return op.Where(y > nothing, grad, nothing)


@script(ours, default_opset=op)
def JointSilu(x):
    return x * op.Sigmoid(x)


@script(ours, default_opset=op)
def JointSiluGrad(grad, x, _y):
    gate = op.Sigmoid(x)
    return grad * (gate + x * (gate - gate * gate))


@script(ours, default_opset=op)
def JointIdentity(x):
    return op.Identity(x)


@script(ours, default_opset=op)
def JointIdentityGrad(grad, _x, _y):
    return op.Identity(grad)


@script(ours, default_opset=op)
def JointBlocks(frames, rows):
    """The frames 0, 1, ... in blocks [steps, R], of about a thousand rows each where a frame has `rows`.

    The last block goes on behind the last frame; there is one, always.
    """
    frames = op.Max(frames, 1)
    size = op.Clip(op.Div(op.Constant(value_int=1024), op.Max(rows, 1)), 1, frames)
    steps = op.Div(frames + size - 1, size)
    shape = op.Concat(op.Unsqueeze(steps, [0]), op.Unsqueeze(size, [0]), axis=0)
    return op.Reshape(op.Range(0, steps * size, 1), shape)


@script(ours, default_opset=op)
def JointInBlocks(x, blocks):
    """`x` [B, T, ...] in blocks of frames [steps, B, R, ...], with zeros behind the last."""
    frames = op.Size(blocks)
    missing = op.Expand(
        op.CastLike(0.0, x),
        op.Concat(
            op.Shape(x, start=0, end=1),
            op.Unsqueeze(frames, [0]) - op.Shape(x, start=1, end=2),
            op.Shape(x, start=2),
            axis=0,
        ),
    )
    padded = op.Concat(x, missing, axis=1)
    # [B, steps, R, ...] -> [steps, B, R, ...]
    width = op.ReduceProd(op.Shape(x, start=2), keepdims=1)
    flat = op.Reshape(padded, op.Concat(op.Shape(x, start=0, end=1), op.Shape(blocks), width, axis=0))
    apart = op.Transpose(flat, perm=[1, 0, 2, 3])
    return op.Reshape(apart, op.Concat(op.Shape(apart, start=0, end=3), op.Shape(x, start=2), axis=0))


@script(ours, default_opset=op)
def JointFrames(blocked, frames):
    """Blocks [steps, B, R, N, K] back as [B, T, N, K]."""
    by_item = op.Transpose(blocked, perm=[1, 0, 2, 3, 4])
    joined = op.Reshape(
        by_item,
        op.Concat(
            op.Shape(blocked, start=1, end=2),
            op.Shape(blocked, start=0, end=1) * op.Shape(blocked, start=2, end=3),
            op.Shape(blocked, start=3),
            axis=0,
        ),
    )
    return op.Slice(joined, [0], op.Unsqueeze(frames, [0]), [1])


@script(ours, default_opset=op)
def JointRows(t, classes, input_lengths, node_lengths):
    """Which of the rows (item, frame, node) of a block lie within the lengths, and each one's frame and node.

    `t` [R] are the frames of the block. All three are [rows], indices into B · R · N, B · R and B · N.
    """
    nodes = op.Shape(classes, start=1, end=2)
    place = op.Range(0, op.Squeeze(nodes), 1)
    in_time = op.Unsqueeze(t, [0, 2]) < op.Unsqueeze(input_lengths, [1, 2])
    in_place = op.Unsqueeze(place, [0, 1]) < op.Unsqueeze(node_lengths, [1, 2])
    inside = op.And(in_time, in_place)
    at = op.Squeeze(op.NonZero(op.Reshape(inside, [-1])), [0])
    frame = op.Div(at, nodes)
    item = op.Div(frame, op.Shape(t))
    return at, frame, item * nodes + (at - frame * nodes)


@script(ours, default_opset=op)
def JointPicked(scores, wanted, others):
    """What is wanted of rows of scores [rows, V + D]: log-probabilities of classes, and the last D.

    `others` [1] is D, as a tensor: onnx's reference evaluator takes no attribute of a function into a scan.
    """
    tokens = op.Shape(scores, start=1, end=2) - others
    of_tokens = op.Slice(scores, [0], tokens, [1])
    behind = op.Slice(scores, tokens, [9223372036854775807], [1])
    log_probs = op.GatherElements(op.LogSoftmax(of_tokens, axis=1), op.Max(wanted, 0), axis=1)
    never = op.CastLike(op.Constant(value_float=float("-inf")), scores)
    return op.Concat(op.Where(wanted > -1, log_probs, never), behind, axis=1)


@script(ours, default_opset=op)
def JointSlopes(scores, wanted, grad, others):
    """The gradient [rows, V + D] in the scores, of that of what `JointPicked` gives [rows, K + D]."""
    tokens = op.Shape(scores, start=1, end=2) - others
    of_tokens = op.Slice(scores, [0], tokens, [1])
    kinds = op.Shape(wanted, start=1, end=2)
    nothing = op.CastLike(0.0, scores)
    picked = op.Where(wanted > -1, op.Slice(grad, [0], kinds, [1]), nothing)
    behind = op.Slice(grad, kinds, [9223372036854775807], [1])
    slopes = op.Softmax(of_tokens, axis=1) * op.Neg(op.ReduceSum(picked, [1], keepdims=1))
    slopes = op.ScatterElements(slopes, op.Max(wanted, 0), picked, axis=1, reduction="add")
    return op.Concat(slopes, behind, axis=1)


def _fused_joint(activated: OnnxFunction) -> OnnxFunction:
    @script(ours, default_opset=op)
    def FusedJoint(encoder, predictor, weight, bias, classes, input_lengths, node_lengths, others: int):
        """The log-probabilities of `classes` [B, N, K] at each node, and the `others` scores behind them.

        scores(t, u) = activation(encoder(t) + predictor(u)) · weightᵀ + bias, of encoder [B, T, H], predictor
        [B, N, H], weight [V + D, H] and bias [V + D]. [B, T, N, K + D], zero behind the lengths.
        """
        frames = op.Squeeze(op.Shape(encoder, start=1, end=2))
        rows = op.Size(op.ReduceMax(classes, [2], keepdims=0))
        blocks = JointBlocks(frames, rows)

        @graph()
        def step(
            predictor: FLOAT["B", "N", "H"],
            weight: FLOAT["V", "H"],
            bias: FLOAT["V"],
            classes: INT64["B", "N", "K"],
            input_lengths: INT64["B"],
            node_lengths: INT64["B"],
            behind: INT64[1],
            encoder: FLOAT["B", "R", "H"],
            t: INT64["R"],
        ):
            at, frame, node = JointRows(t, classes, input_lengths, node_lengths)
            of_frames = op.Gather(op.Flatten(encoder, axis=2), frame)
            of_nodes = op.Gather(op.Flatten(predictor, axis=2), node)
            scores = op.Gemm(activated(of_frames + of_nodes), weight, bias, transB=1)
            found = JointPicked(scores, op.Gather(op.Flatten(classes, axis=2), node), behind)
            shape = op.Concat(
                op.Shape(encoder, start=0, end=2),
                op.Shape(predictor, start=1, end=2),
                op.Shape(found, start=1),
                axis=0,
            )
            nothing = op.Flatten(op.Expand(op.CastLike(0.0, encoder), shape), axis=3)
            placed = op.Reshape(op.ScatterND(nothing, op.Unsqueeze(at, [1]), found), shape)
            return (
                op.Identity(predictor),
                op.Identity(weight),
                op.Identity(bias),
                op.Identity(classes),
                op.Identity(input_lengths),
                op.Identity(node_lengths),
                op.Identity(behind),
                placed,
            )

        _p, _w, _b, _c, _i, _n, _o, blocked = op.Scan(
            predictor,
            weight,
            bias,
            classes,
            input_lengths,
            node_lengths,
            op.Unsqueeze(op.Constant(value_int=others), [0]),
            JointInBlocks(encoder, blocks),
            blocks,
            body=step,
            num_scan_inputs=2,
        )
        return JointFrames(blocked, frames)

    return FusedJoint


def _fused_joint_grad(activated: OnnxFunction, activated_grad: OnnxFunction) -> OnnxFunction:
    @script(ours, default_opset=op)
    def FusedJointGrad(
        encoder, predictor, weight, bias, classes, input_lengths, node_lengths, grad, others: int
    ):
        """The gradients in the first four, of that of what `FusedJoint` gives [B, T, N, K + D]."""
        frames = op.Squeeze(op.Shape(encoder, start=1, end=2))
        rows = op.Size(op.ReduceMax(classes, [2], keepdims=0))
        blocks = JointBlocks(frames, rows)

        @graph()
        def step(
            of_predictor: FLOAT["B", "N", "H"],
            of_weight: FLOAT["V", "H"],
            of_bias: FLOAT["V"],
            predictor: FLOAT["B", "N", "H"],
            weight: FLOAT["V", "H"],
            bias: FLOAT["V"],
            classes: INT64["B", "N", "K"],
            input_lengths: INT64["B"],
            node_lengths: INT64["B"],
            behind: INT64[1],
            encoder: FLOAT["B", "R", "H"],
            grad: FLOAT["B", "R", "N", "F"],
            t: INT64["R"],
        ):
            at, frame, node = JointRows(t, classes, input_lengths, node_lengths)
            of_frames = op.Gather(op.Flatten(encoder, axis=2), frame)
            of_nodes = op.Gather(op.Flatten(predictor, axis=2), node)
            sums = of_frames + of_nodes
            hidden = activated(sums)
            slopes = JointSlopes(
                op.Gemm(hidden, weight, bias, transB=1),
                op.Gather(op.Flatten(classes, axis=2), node),
                op.Gather(op.Flatten(grad, axis=3), at),
                behind,
            )
            through = activated_grad(op.MatMul(slopes, weight), sums, hidden)
            shape = op.Concat(op.Shape(grad, start=0, end=3), op.Shape(weight, start=1), axis=0)
            nothing = op.Flatten(op.Expand(op.CastLike(0.0, encoder), shape), axis=3)
            placed = op.Reshape(op.ScatterND(nothing, op.Unsqueeze(at, [1]), through), shape)
            return (
                of_predictor + op.ReduceSum(placed, [1], keepdims=0),
                op.Gemm(slopes, hidden, of_weight, transA=1),
                of_bias + op.ReduceSum(slopes, [0], keepdims=0),
                op.Identity(predictor),
                op.Identity(weight),
                op.Identity(bias),
                op.Identity(classes),
                op.Identity(input_lengths),
                op.Identity(node_lengths),
                op.Identity(behind),
                op.ReduceSum(placed, [2], keepdims=0),
            )

        of_predictor, of_weight, of_bias, _p, _w, _b, _c, _i, _n, _o, blocked = op.Scan(
            op.Expand(op.CastLike(0.0, predictor), op.Shape(predictor)),
            op.Expand(op.CastLike(0.0, weight), op.Shape(weight)),
            op.Expand(op.CastLike(0.0, bias), op.Shape(bias)),
            predictor,
            weight,
            bias,
            classes,
            input_lengths,
            node_lengths,
            op.Unsqueeze(op.Constant(value_int=others), [0]),
            JointInBlocks(encoder, blocks),
            JointInBlocks(grad, blocks),
            blocks,
            body=step,
            num_scan_inputs=3,
        )
        of_encoder = op.Squeeze(JointFrames(op.Unsqueeze(blocked, [3]), frames), [2])
        return of_encoder, of_predictor, of_weight, of_bias

    return FusedJointGrad


@script(ours, default_opset=op)
def FusedBest(hidden, weight, bias, input_lengths):
    """The class of the best score hidden(t) · weightᵀ + bias, the first of equals: [B, T], zero behind."""
    frames = op.Squeeze(op.Shape(hidden, start=1, end=2))
    blocks = JointBlocks(frames, op.Size(input_lengths))

    @graph()
    def step(weight: FLOAT["C", "H"], bias: FLOAT["C"], hidden: FLOAT["B", "R", "H"]):
        scores = op.Gemm(op.Flatten(hidden, axis=2), weight, bias, transB=1)
        best = op.Reshape(op.ArgMax(scores, axis=1, keepdims=0), op.Shape(hidden, start=0, end=2))
        return op.Identity(weight), op.Identity(bias), best

    _w, _b, blocked = op.Scan(weight, bias, JointInBlocks(hidden, blocks), body=step, num_scan_inputs=1)
    best = op.Squeeze(JointFrames(op.Unsqueeze(blocked, [3, 4]), frames), [2, 3])
    t = op.Unsqueeze(op.Range(0, frames, 1), [0])
    return op.Where(t < op.Unsqueeze(input_lengths, [1]), best, 0)


def _by_activation() -> dict[str, OnnxFunction]:
    """The operators of joint networks: the name says the activation, since a function takes none."""
    found = {}
    for activated, activated_grad in (
        (JointTanh, JointTanhGrad),
        (JointRelu, JointReluGrad),
        (JointSilu, JointSiluGrad),
        (JointIdentity, JointIdentityGrad),
    ):
        kind = activated.name.removeprefix("Joint")
        found[f"Fused{kind}Joint"] = _fused_joint(activated)
        found[f"Fused{kind}JointGrad"] = _fused_joint_grad(activated, activated_grad)
    return found


FUSED = _by_activation()
