"""The posterior of a lattice as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from exportable_losses.legal import whole
from exportable_losses.missing import install

if TYPE_CHECKING:  # matplotlib is loaded when something is drawn
    from matplotlib.figure import Figure

    from .session import LossSession

SUFFIXES = (".png", ".svg", ".pdf")
_PATH = "#c44e52"
_MOST_NAMES = 60  # that stand one above the other and can still be read


def plot(
    outputs: Mapping[str, np.ndarray],
    *,
    item: int = 0,
    tokens: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    lattice: Literal["ctc", "transducer", "durations"] | None = None,
    durations: tuple[Sequence[int], Sequence[int]] | None = None,
) -> Figure:
    """Draw the posterior of one item: time to the right, tokens upwards, darker if more probable.

    Args:
        outputs: arrays by name, as `CTCPosterior` or `TransducerPosterior` returns them: `posteriors`
            `[B, T, 2S+1]` (blanks at even states, label (s - 1) / 2 at odd ones) or `[B, T, S+1]` (the number
            of emitted labels), and the `costs` `[B]` in nats for the title. If `tokens`, `starts` and `ends`
            `[B, S]` of `CTCAlign`, `TransducerAlign` or another alignment are there too, the best path is
            drawn on top. Other names are ignored. Instead of posteriors there may be the `occupation`
            `[B, T, S+1, K]` of the arcs that leave each node: then these are drawn.
        item: the index in the batch.
        tokens: the names of its labels, in order; by default the numbers in `outputs`, or their positions.
        classes: instead of `tokens`, the names of all classes from class 0; the numbers in `outputs` select
            those of the labels. A class without a name is shown by its number.
        lattice: ``"ctc"``, ``"transducer"`` or ``"durations"``, of which a label leads from its start to its
            end, as in `TDTAlign`; by default a transducer's if there are `emissions`, which
            `TransducerPosterior` returns.
        durations: of the arcs of an `occupation`, in frames: of its blanks, and of its labels behind them.

    Returns:
        The figure; ``savefig`` writes it. Of posteriors, it ends with the item's frames and labels. An item
        whose labels are impossible has no posterior and no path.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: an array is missing or does not fit, there is no such item, or the number of names
            differs from that of its labels.

    Examples:
        >>> import numpy as np
        >>> posteriors = np.array([[[1.0, 0.5], [0.5, 1.0]]])  # a label at either of two frames
        >>> figure = plot({"posteriors": posteriors}, tokens=["a"], lattice="transducer")
        >>> figure.axes[0].get_xlabel()
        'time (frames)'
    """
    if "posteriors" not in outputs and "occupation" in outputs:
        if durations is None:
            raise ValueError("durations: got none, expected those of the arcs of an occupation")
        return _draw_arcs(np.asarray(outputs["occupation"]), item, *durations)
    if lattice not in (None, "ctc", "transducer", "durations"):
        raise ValueError(f"lattice: got {lattice!r}, expected 'ctc', 'transducer' or 'durations'")
    states = 2 if lattice == "ctc" or (lattice is None and "emissions" not in outputs) else 1
    given = _item(outputs, item, states)
    posterior, tokens_of = given["posteriors"], given.get("tokens")
    if posterior.any():
        frames = int(np.flatnonzero(posterior.any(axis=1))[-1]) + 1
        labels = -(-int(np.flatnonzero(posterior.any(axis=0))[-1]) // states)
    else:  # impossible: the posterior does not say where the item ends
        frames, labels = len(posterior), (posterior.shape[1] - 1) // states
        labels = labels if tokens_of is None else int((tokens_of >= 0).sum())
    if classes is not None and (tokens is not None or tokens_of is None):
        why = "beside tokens" if tokens is not None else "without tokens among the outputs"
        raise ValueError(f"classes: got {len(classes)} names {why}, expected none")
    if tokens is None:
        numbers = np.arange(labels) + 1 if tokens_of is None else tokens_of[:labels]
        tokens = [_name(int(number), classes or ()) for number in numbers]
    elif len(tokens) != labels:
        expected = f"expected {labels}, one for each label of item {item}"
        raise ValueError(f"tokens: got {len(tokens)} names, {expected}")
    path = None
    if posterior.any() and "starts" in given and "ends" in given:
        nodes = (
            _through_states if states == 2 else _through_arcs if lattice == "durations" else _through_labels
        )
        path = nodes(given["starts"][:labels], given["ends"][:labels], frames)
    names = [name if name.strip() else "␣" for name in tokens]
    return _draw(posterior[:frames, : states * labels + 1], names, states, path, given.get("costs"))


def labels_of(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The targets of a lattice's `inputs` for `plot`: -1 where there is padding, which may be anything."""
    targets = inputs["targets"]
    if "target_lens" not in inputs:
        return targets
    labels = whole(inputs["target_lens"], targets.shape[1])
    return np.where(np.arange(targets.shape[1]) < labels[:, None], targets, -1)


def lattice_of(graphs: Sequence[LossSession]) -> Literal["durations"] | None:
    """The `lattice` of `plot` for what these graphs give, where the outputs do not say it themselves."""
    settings = [loss.settings for graph in graphs for loss in graph.losses]
    lasting = any("durations" in each or each.get("topology", "regular") != "regular" for each in settings)
    return "durations" if lasting else None


def _name(number: int, classes: Sequence[str]) -> str:
    return classes[number] if 0 <= number < len(classes) else str(number)


def _item(outputs: Mapping[str, np.ndarray], item: int, states: int) -> dict[str, np.ndarray]:
    """What is drawn of the item, with its padding: `posteriors` `[T, states * S + 1]`, and the rest."""
    if "posteriors" not in outputs:
        raise ValueError(f"outputs: got {', '.join(outputs) or 'none'}, expected posteriors among them")
    shape = np.shape(outputs["posteriors"])
    if len(shape) != 3 or 0 in shape[1:] or (shape[2] - 1) % states:
        expected = "[B, T, 2S+1]" if states == 2 else "[B, T, S+1]"
        raise ValueError(f"posteriors: got shape {list(shape)}, expected {expected}")
    if not 0 <= item < shape[0]:
        raise ValueError(f"item: got {item}, expected one of the {shape[0]} from 0")
    per_label = (shape[0], (shape[2] - 1) // states)
    shapes = {"costs": shape[:1], "tokens": per_label, "starts": per_label, "ends": per_label}
    for name, wanted in shapes.items():
        if name in outputs and np.shape(outputs[name]) != wanted:
            got = list(np.shape(outputs[name]))
            raise ValueError(f"{name}: got shape {got}, expected {list(wanted)}")
    return {n: np.asarray(outputs[n])[item] for n in ("posteriors", *shapes) if n in outputs}


def _through_states(starts: np.ndarray, ends: np.ndarray, frames: int) -> np.ndarray:
    """The path through CTC's states `[T, 2]`: frame and state, which is odd between start and end."""
    t = np.arange(frames)
    begun, ended = ((edges[:, None] <= t).sum(0) for edges in (starts, ends))
    return np.stack([t, begun + ended], 1)


def _through_labels(starts: np.ndarray, ends: np.ndarray, frames: int) -> np.ndarray:
    """The path through a transducer's nodes `[T+S, 2]`: frame and labels so far, up before across."""
    emitted = np.searchsorted(starts, np.arange(frames), side="right")
    before = np.concatenate([[0], emitted[:-1]])
    pairs = zip(before, emitted, strict=True)
    return np.array([(t, u) for t, (low, high) in enumerate(pairs) for u in range(low, high + 1)])


def _through_arcs(starts: np.ndarray, ends: np.ndarray, frames: int) -> np.ndarray:
    """The path through the nodes of a lattice with durations `[2S+2, 2]`: a label from its start to its
    end.
    """
    labels = [((start, u), (end, u + 1)) for u, (start, end) in enumerate(zip(starts, ends, strict=True))]
    ends_of_path = ((0, 0),), ((frames - 1, len(starts)),)
    return np.array([node for arc in (ends_of_path[0], *labels, ends_of_path[1]) for node in arc])


def _draw_arcs(occupation: np.ndarray, item: int, blanks: Sequence[int], labels: Sequence[int]) -> Figure:
    """The nodes of a lattice and the arcs between them, darker if more probable."""
    kinds = len(blanks) + len(labels)
    if occupation.ndim != 4 or occupation.shape[3] != kinds or not 0 <= item < len(occupation):
        got = f"shape {list(occupation.shape)} and item {item}"
        raise ValueError(f"occupation: got {got}, expected [B, T, S+1, {kinds}] and an item of it")
    taken = occupation[item]
    frames, nodes = taken.shape[:2]
    figure = _figure((0.55 * frames + 1.2, 0.55 * nodes + 0.7))
    axes = figure.add_subplot()
    along = np.linspace(0, 1, 21)
    for t, u, k in np.argwhere(taken > 0):
        duration, right = (*blanks, *labels)[k], k >= len(blanks)
        bow = (
            0 if right else 0.3 * (duration - 1) * along * (1 - along)
        )  # over the nodes that a long blank skips
        shade = float(0.25 + 0.75 * min(taken[t, u, k], 1))
        axes.plot(t + duration * along, u + right * along + bow, color=_PATH, alpha=shade, zorder=1)
    t, u = np.meshgrid(np.arange(frames + 1), np.arange(nodes))
    used = np.zeros((frames + 1, nodes), bool)
    used[:-1] = taken.sum(2) > 0
    used[frames, nodes - 1] = True
    axes.scatter(t, u, s=14, c=np.where(used.T, "#343a40", "#dee2e6").ravel(), zorder=2)
    axes.set_yticks(range(nodes))
    axes.set_xticks(range(frames + 1))
    axes.set(xlabel="time (frames)", ylabel="labels")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw(
    posterior: np.ndarray,
    names: Sequence[str],
    states: int,
    path: np.ndarray | None,
    cost: np.ndarray | None,
) -> Figure:
    frames = len(posterior)
    figure = _figure((np.clip(0.11 * frames + 2, 6, 12), np.clip(0.17 * len(names) + 1.4, 3.2, 11)))
    from matplotlib.ticker import MaxNLocator

    axes = figure.add_subplot()
    image = axes.imshow(
        posterior.T, origin="lower", aspect="auto", cmap="Greys", vmin=0, vmax=1, interpolation="nearest"
    )
    bar = figure.colorbar(image, pad=0.02, fraction=0.05, aspect=30)
    bar.set_label("posterior probability")
    bar.outline.set_visible(False)
    if path is not None:
        axes.plot(*path.T, color=_PATH, linewidth=1.2, label="best path")
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, frameon=False)
    every = max(-(-len(names) // _MOST_NAMES), 1)
    ticks = [states * i + 1 for i in range(0, len(names), every)]
    axes.set_yticks(ticks, list(names)[::every], parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set(xlabel="time (frames)", ylabel="tokens")
    axes.spines[["top", "right"]].set_visible(False)
    if cost is not None:
        axes.set_title(f"cost: {cost:.2f} nats", loc="left", fontsize="medium")
    return figure


def _figure(size: tuple[float, float]) -> Figure:
    """An empty figure of this many inches."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        missing = f"matplotlib is not installed: {install('plot')}"
        raise ModuleNotFoundError(missing, name=error.name) from error
    return Figure(figsize=size, layout="constrained")
