"""How good word boundaries are, of speech that says where its words are; and how fast alignment is.

    .venv/bin/python benchmarks/alignment.py [--speed]

espeak-ng speaks, two small CTC models learn to spell other sentences (some minutes), one of them with priors,
and each aligner places the words by the same scores. ctc-segmentation and torchaudio are measured where they
are installed. Without espeak-ng there is no quality to measure. ``--speed`` measures time and memory instead;
both sides of a ratio run in turn in this one process, and each figure is the median.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from alignment_speed import measure
from rich.console import Console
from rich.table import Table
from speech import HOP, LETTERS, Utterance, scores, spelled, train, utterances
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

import exportable_losses as el
from exportable_losses.drop_in.torchaudio import edit_distance
from exportable_losses.lattice.wildcard import WILDCARDS

TRAINED, TESTED, STEPS = 1000, 300, 1000
PART = 0.3  # of the priors, for the second model
PENALTY = (
    0.5  # of a wildcard, in nats a frame: CTCAlign has no such setting, but scores may have a class of it
)
MOST = 1.2  # of a complete transcript's error, with wildcards
Transcript = Sequence[str | None]  # None for what it lacks
Aligner = Callable[[Sequence[Tensor], Sequence[Transcript]], list[np.ndarray]]

# Mean or median, and of which words, its source does not say.
PUBLISHED = """
Other data, other models, not to be compared line by line: word boundary errors of Buckeye, conversational
American English, as published beside the Montreal Forced Aligner's models (MontrealCorpusTools/mfa-models,
docs/source/_static/benchmarks/word_alignment.csv): MFA 3.0 27 ms, wav2vec2 48, WhisperX 59, NeMo 96."""


@dataclass(frozen=True)
class Line:
    """Errors of some words' boundaries, in seconds, a positive one where it is too late.

    Args:
        what: who placed them, with what.
        errors: `[W, 2]`, of starts and ends.
        facing: `[W, 2]`, which of them a missing word follows or precedes.
        beside: the line that this one should be as good as.
    """

    what: str
    errors: np.ndarray
    facing: np.ndarray | None = None
    beside: "Line | None" = None

    @property
    def median(self) -> float:
        """Of all boundaries, without sign."""
        return float(np.median(np.abs(self.errors)))


# Aligners


def ours(
    wildcard: str = "none",
    free_ends: bool = False,
    priors: Tensor | None = None,
    penalty: float | None = None,
) -> Aligner:
    """`CTCAlign`, all sentences at once; with a penalty, the wildcard is a class that scores minus it."""
    if penalty is not None and priors is not None:
        priors = pad(priors, [0, 1])
    align = el.CTCAlign(0, wildcard, free_ends, priors)

    def words(log_probs: Sequence[Tensor], transcripts: Sequence[Transcript]) -> list[np.ndarray]:
        if penalty is not None:
            log_probs = [pad(x, [0, 1], value=-penalty) for x in log_probs]
        pieces = [
            [torch.tensor([len(LETTERS)]) if word is None else spelled([word]) for word in transcript]
            for transcript in transcripts
        ]
        targets = [torch.cat(words) for words in pieces]
        lengths = [torch.tensor([len(x) for x in xs]) for xs in (log_probs, targets)]
        batch = [pad_sequence(list(xs), batch_first=True) for xs in (log_probs, targets)]
        _, starts, ends, _, _ = align(*batch, *lengths)
        found = []
        for row, (parts, transcript) in enumerate(zip(pieces, transcripts, strict=True)):
            last = np.cumsum([len(part) for part in parts])
            first = np.concatenate([[0], last[:-1]])
            times = torch.stack([starts[row, first], ends[row, last - 1]], 1).numpy() * HOP
            found.append(times[[word is not None for word in transcript]])
        return found

    return words


def without_gaps(aligner: Aligner, most: float = 0.12) -> Aligner:
    """Words with less than `most` seconds between them meet in the middle."""

    def words(log_probs: Sequence[Tensor], transcripts: Sequence[Transcript]) -> list[np.ndarray]:
        found = aligner(log_probs, transcripts)
        for times in found:
            ends, starts = times[:-1, 1], times[1:, 0]
            middle = np.where(starts - ends < most, (starts + ends) / 2, np.nan)
            times[:-1, 1], times[1:, 0] = (np.where(np.isnan(middle), x, middle) for x in (ends, starts))
        return found

    return words


def torchaudios(log_probs: Sequence[Tensor], transcripts: Sequence[Transcript]) -> list[np.ndarray]:
    """torchaudio's `forced_align`, a sentence at a time, with its star for what is lacking."""
    from torchaudio.functional import forced_align, merge_tokens

    found = []
    for x, transcript in zip(log_probs, transcripts, strict=True):
        pieces = [torch.tensor([len(LETTERS)]) if word is None else spelled([word]) for word in transcript]
        starred = pad(x, [0, 1])
        path, along = forced_align(starred[None], torch.cat(pieces)[None], blank=0)
        spans, times, place = merge_tokens(path[0], along[0].exp()), [], 0
        for piece, word in zip(pieces, transcript, strict=True):
            if word is not None:
                times.append([spans[place].start * HOP, spans[place + len(piece) - 1].end * HOP])
            place += len(piece)
        found.append(np.array(times))
    return found


def segmented(log_probs: Sequence[Tensor], transcripts: Sequence[Transcript]) -> list[np.ndarray]:
    """ctc-segmentation, each word a segment, with its default settings."""
    from ctc_segmentation import (
        CtcSegmentationParameters,
        ctc_segmentation,
        determine_utterance_segments,
        prepare_token_list,
    )

    settings = CtcSegmentationParameters(char_list=LETTERS, index_duration=HOP)
    found = []
    for x, transcript in zip(log_probs, transcripts, strict=True):
        words = [spelled([word]).numpy() for word in transcript if word is not None]
        labels, begins = prepare_token_list(settings, words)
        times, probabilities, _ = ctc_segmentation(settings, x.numpy(), labels)
        segments = determine_utterance_segments(settings, begins, probabilities, times, words)
        found.append(np.array([[start, end] for start, end, _ in segments]))
    return found


def peers() -> Iterator[tuple[str, Aligner]]:
    """Those that are installed; why another is not there is printed."""
    if importlib.util.find_spec("ctc_segmentation"):
        yield "ctc-segmentation", segmented
    else:
        print("ctc-segmentation is not installed")
    try:
        import torchaudio.functional  # noqa: F401

        yield "torchaudio, forced_align", torchaudios
    except (ImportError, OSError) as error:
        print(f"torchaudio does not load: {str(error).splitlines()[0]}")


# Transcripts


def without_words(items: Sequence[Utterance], at_ends: bool, seed: int = 3) -> list[list[str | None]]:
    """One or two words of each are missing: at its ends, or not there."""
    random = np.random.default_rng(seed)
    found: list[list[str | None]] = []
    for item in items:
        words: list[str | None] = list(item.words)
        number = int(random.integers(1, 3))
        if at_ends:
            missing = [[0], [-1], [0, 1], [-2, -1], [0, -1]][int(random.integers(0, 2) + 2 * (number > 1))]
        else:
            missing = random.choice(np.arange(1, len(words) - 1), number, replace=False).tolist()
        for place in missing:
            words[place] = None
        found.append(words)
    return found


def lacking(transcripts: Sequence[Transcript]) -> list[list[str]]:
    """Without a trace of what they lack."""
    return [[word for word in transcript if word is not None] for transcript in transcripts]


def errors(found: Sequence[np.ndarray], items: Sequence[Utterance], kept: Sequence[Transcript]) -> np.ndarray:
    """Of the words that `kept` has: found, less true."""
    true = [item.times[[word is not None for word in words]] for item, words in zip(items, kept, strict=True)]
    return np.concatenate(found) - np.concatenate(true)


def facing_gaps(transcripts: Sequence[Transcript]) -> np.ndarray:
    """Which starts and ends of the words that are left are beside a missing one: `[W, 2]`."""
    return np.array(
        [
            [place > 0 and words[place - 1] is None, words[place + 1 : place + 2] == [None]]
            for words in transcripts
            for place, word in enumerate(words)
            if word is not None
        ]
    )


# Lines


def complete(items: Sequence[Utterance], log_probs: Sequence[Tensor], priors: Tensor) -> Iterator[Line]:
    """Every aligner on whole transcripts."""
    words = [item.words for item in items]
    aligners: dict[str, Aligner] = {"CTCAlign": ours()}
    aligners |= {f"CTCAlign, {part:g} of priors": ours(priors=part * priors) for part in (0.5, 1.0)}
    for name, aligner in [*aligners.items(), *peers()]:
        yield Line(name, errors(aligner(log_probs, words), items, words))
    for name, given in (("CTCAlign, short gaps halved", None), ("with priors, too", priors)):
        yield Line(name, errors(without_gaps(ours(priors=given))(log_probs, words), items, words))


def incomplete(
    items: Sequence[Utterance],
    log_probs: Sequence[Tensor],
    priors: dict[str, Tensor | None],
    at_ends: bool,
) -> Iterator[Line]:
    """The words that are left, of transcripts that lack others; with each of some priors, by name."""
    transcripts = without_words(items, at_ends)
    whole, left, facing = [item.words for item in items], lacking(transcripts), facing_gaps(transcripts)
    for name, given in priors.items():
        found = ours(priors=given)(log_probs, whole)
        kept = [
            times[[word is not None for word in transcript]]
            for times, transcript in zip(found, transcripts, strict=True)
        ]
        first = Line(f"complete transcript{name}", errors(kept, items, transcripts), facing)
        yield first
        cases: list[tuple[str, Aligner, Sequence[Transcript]]] = [("no wildcard", ours(priors=given), left)]
        cases += [(f'wildcard="{kind}"', ours(kind, priors=given), transcripts) for kind in WILDCARDS[1:]]
        penalised = f"zero less {PENALTY}", ours(priors=given, penalty=PENALTY), transcripts
        cases.append(penalised)
        if at_ends:
            cases += [("free_ends", ours(free_ends=True, priors=given), left)]
        for what, aligner, transcript in cases:
            yield Line(what + name, errors(aligner(log_probs, transcript), items, transcripts), facing, first)


def show(title: str, lines: Sequence[Line]) -> None:
    """Print a table of lines, those red that are not as good as they should be."""
    names = ["aligner", "median, ms", "mean", "late, starts", "ends", "≤ 20 ms", "50", "100"]
    if lines[0].facing is not None:
        names += ["facing", "95 %", "ratio"]
    table = Table(*names, title=f"{title}, {len(lines[0].errors)} words")
    for line in lines:
        size = np.abs(line.errors)
        late = [f"{1e3 * x:+.0f}" for x in np.median(line.errors, axis=0)]
        within = [f"{100 * np.mean(size <= most + 1e-6):.0f} %" for most in (0.02, 0.05, 0.1)]
        numbers = [f"{1e3 * line.median:.1f}", f"{1e3 * size.mean():.1f}", *late, *within]
        if line.facing is not None:
            numbers += [f"{1e3 * x:.1f}" for x in np.percentile(size[line.facing], (50, 95))]
        if line.beside is not None:
            ratio = line.median / line.beside.median
            numbers.append(f"{'' if ratio <= MOST else '[bold red]'}{ratio:.2f}")
        table.add_row(line.what, *numbers)
    Console(width=132).print(table)


def log_priors(log_probs: Sequence[Tensor]) -> Tensor:
    """How probable each class is over all frames."""
    return torch.cat(list(log_probs)).exp().mean(0).log()


def letter_error(log_probs: Sequence[Tensor], items: Sequence[Utterance]) -> float:
    """Edits of what is most probable at each frame, of the letters."""
    edits = letters = 0
    for x, item in zip(log_probs, items, strict=True):
        path, said = x.argmax(-1).unique_consecutive(), spelled(item.words)
        edits += edit_distance(path[path > 0].tolist(), said.tolist())
        letters += len(said)
    return edits / letters


def quality() -> None:
    """Print the tables."""
    try:
        learned, items = utterances(TRAINED, seed=1), utterances(TESTED, seed=2)
    except OSError as error:
        print(f"quality is not measured: {error}")
        return
    print(f"{TRAINED} sentences to learn from, {TESTED} others to align; {HOP * 1e3:.1f} ms a frame")
    for title, part in (("CTC", 0.0), (f"CTC less {PART} of priors", PART)):
        model = train(learned, STEPS, part)
        priors, log_probs = log_priors(scores(model, learned)), scores(model, items)
        print(f"a model of {title}: {letter_error(log_probs, items):.1%} of letters wrong")
        show(f"{title}, complete transcripts", list(complete(items, log_probs, priors)))
        settings: dict[str, Tensor | None] = {"": None}
        settings |= {f", {part} of priors": part * priors} if part else {", priors": priors}
        for at_ends, where in ((False, "inside"), (True, "at the ends")):
            lines = list(incomplete(items, log_probs, settings, at_ends))
            show(f"{title}, one or two words missing {where}", lines)
    print(PUBLISHED)


def main() -> None:
    """Print the tables of quality, or of speed."""
    torch.manual_seed(0)
    if "--speed" in sys.argv:
        measure()
    else:
        quality()


if __name__ == "__main__":
    main()
