from .corpus.running import score_corpus as score_corpus
from .corpus.scorer import Scorer as Scorer
from .parity import compare as compare
from .plot import plot as plot
from .session import LossSession as LossSession

__all__ = ["LossSession", "Scorer", "compare", "plot", "score_corpus"]
