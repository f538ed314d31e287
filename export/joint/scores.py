"""Whether a model's class scores are what `scores` says: a wrong word gives wrong numbers, and no error."""

import numpy as np

_FAR = 0.1  # of the logarithm of a row's sum from zero: 16 bits, or 8, are nearer
_BEYOND = 1e-2  # of a probability from 0 and 1
_SUM = 1e-3


class WrongScores(ValueError):
    """The model's scores are of another kind."""


def check_scores(scores: str, output: str, array: np.ndarray) -> None:
    """Refuse class scores ``[..., C]`` of a model that cannot be of the kind that `scores` says.

    Rows with a NaN or plus infinity say nothing, nor do those whose numbers are all the same: padding has
    such. A few others may be anything.

    Args:
        scores: ``logits``, ``probs`` or ``log_probs``.
        output: what the model calls them.
        array: what it gave.

    Raises:
        WrongScores: the message says what they look like.
    """
    rows = array.astype(np.float64).reshape(-1, array.shape[-1]) if array.ndim and array.size else None
    if rows is None or rows.shape[1] < 2:
        return
    padding = rows.max(1) == rows.min(1)
    rows = rows[~(np.isnan(rows) | (rows == np.inf)).any(1) & ~padding]
    if not len(rows):
        return
    kind = _kind(rows)
    wrong = {
        "probs": bool((rows < -_BEYOND).any() or (rows > 1 + _BEYOND).any()),
        "log_probs": _median(np.abs(_log_sum(rows))) > _FAR,
        "logits": kind == "probs",
    }
    if wrong[scores]:
        finite = rows[np.isfinite(rows)]
        raise WrongScores(
            f"scores: got {scores!r}, but the model's {output} has numbers from {finite.min():.4g} to "
            f"{finite.max():.4g}, and rows that add up to {_median(rows.sum(1)):.4g}, which look like "
            f"{kind!r}. Is scores (--scores) right? verify=False (--no-verify) takes them as they are"
        )


def _kind(rows: np.ndarray) -> str:
    within = ((rows >= -_BEYOND) & (rows <= 1 + _BEYOND)).all()
    if within and _median(np.abs(rows.sum(1) - 1)) < _SUM:
        return "probs"
    return "log_probs" if _median(np.abs(_log_sum(rows))) < _FAR else "logits"


def _log_sum(rows: np.ndarray) -> np.ndarray:
    """The logarithm of the sum of the exponentials of each row."""
    most = rows.max(1, keepdims=True)
    most = np.where(np.isfinite(most), most, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(rows - most).sum(1)) + most[:, 0]


def _median(numbers: np.ndarray) -> float:
    return float(np.median(numbers))
