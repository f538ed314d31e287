from .alignment.aligner import Aligner as Aligner
from .alignment.corpus import align_corpus as align_corpus
from .alignment.vocabularies import read_tokens as read_tokens
from .alignment.words import Word as Word
from .alignment.words import words as words
from .corpus.running import score_corpus as score_corpus
from .corpus.scorer import Scorer as Scorer
from .parity import compare as compare
from .plot import plot as plot
from .session import LossSession as LossSession

__all__ = [
    "Aligner",
    "LossSession",
    "Scorer",
    "Word",
    "align_corpus",
    "compare",
    "plot",
    "read_tokens",
    "score_corpus",
    "words",
]
