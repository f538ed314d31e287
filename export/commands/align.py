"""The command `align`: where each word of a corpus is, in seconds."""

import contextlib
import functools
import tempfile
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from .corpora import BatchBytes, Feeds, Model, Ray, Strict, Workers, damaged, tell, watched
from .program import Report, app, example, fail, pairs, spare, wrong_call

_SHOWN = 8  # items with wildcards that are named


class Format(str, Enum):
    """How words are written."""

    ctm = "ctm"
    textgrid = "textgrid"
    srt = "srt"
    vtt = "vtt"
    audacity = "audacity"
    json = "json"
    parquet = "parquet"


class Wildcard(str, Enum):
    """What a wildcard emits; see `CTCAlign`."""

    max = "max"
    sum = "sum"
    mean = "mean"
    zero = "zero"
    none = "none"


@app.command("align", epilog=example("align dev.parquet --tokens tokens.txt --hop 0.02 --out aligned"))
def align_command(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA",
            help="A corpus: .parquet, .arrow, .npz or .tar files, folders, patterns or URLs. Each item has "
            "log_probs [T, C], or what the model takes.",
            show_default=False,
        ),
    ],
    tokens: Annotated[
        Path,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="The names of the classes: a list, one per line or with its number; SentencePiece's .model "
            "or .vocab; Hugging Face's tokenizer.json or vocab.json.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write to.")],
    transcripts: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="What was said: lines of an id and a text, JSON lines of id and text, or the text of the "
            "only item. Default: a column of DATA.",
        ),
    ] = None,
    text: Annotated[str, typer.Option(metavar="COLUMN", help="The column of the transcripts.")] = "text",
    formats: Annotated[
        list[Format] | None,
        typer.Option("--format", help="How to write the words. May be repeated. Default: json."),
    ] = None,
    hop: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="From one frame of the scores to the next.")
    ] = None,
    frame_rate: Annotated[
        float | None, typer.Option(metavar="N", help="Frames of the scores per second, instead of --hop.")
    ] = None,
    offset: Annotated[float, typer.Option(metavar="SECONDS", help="Where the first frame begins.")] = 0.0,
    blank: Annotated[int | None, typer.Option(min=0, help="The class of the blank. Default: 0.")] = None,
    wildcard: Annotated[
        Wildcard | None,
        typer.Option(
            help="What stands in for digits and whatever else the tokens cannot spell; none sets such items "
            "aside. Default: mean."
        ),
    ] = None,
    free_ends: Annotated[
        bool, typer.Option("--free-ends", help="The audio may begin before the transcript and end after it.")
    ] = False,
    priors: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npy",
            exists=True,
            dir_okay=False,
            help="How probable each class is in general, as natural logarithms: what score --priors writes.",
        ),
    ] = None,
    graph: Annotated[
        Path | None,
        typer.Option(
            metavar="CTCAlign.onnx",
            exists=True,
            dir_okay=False,
            help="An exported CTCAlign, instead of --blank, --wildcard, --free-ends and --priors. Default: "
            "exported on the fly.",
        ),
    ] = None,
    report: Report = None,
    audio: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|COLUMN",
            help="The recordings that the report plays: a folder of files named by id, or a column of paths.",
        ),
    ] = None,
    model: Model = None,
    feeds: Feeds = None,
    batch_bytes: BatchBytes = None,
    workers: Workers = 1,
    ray: Ray = None,
    strict: Strict = False,
) -> None:
    """Find where each word of a transcript is said: an alignment with the scores of a CTC model.

    The folder --out gets the words in seconds, and items.parquet, set_aside.parquet and totals.json as from
    `score`. To resume an interrupted run, give the same command again. Given again for a finished run, with
    another --format say, it writes the words and the report only.

    The exit code is 1 if the run could not finish, or if a damaged file may have more items than were found.
    """
    seconds = _hop(hop, frame_rate)
    names = None if feeds is None else pairs("--feed", feeds)
    given: dict[str, Any] = {
        "blank_index": blank,
        "wildcard": wildcard and wildcard.value,
        "free_ends": free_ends or None,
    }
    from exportable_losses.runtime import Aligner, align_corpus, read_tokens
    from exportable_losses.runtime.alignment.transcripts import read_transcripts
    from exportable_losses.runtime.corpus.priors import read_priors
    from exportable_losses.runtime.corpus.reading import shards

    from . import sessions

    with wrong_call("DATA"):
        paths = shards(data)
    read = (graph, model, tokens, transcripts, priors, *map(Path, paths))
    spare("--report", report, *(each for each in read if each is not None))
    if audio is not None and report is None:
        fail("--audio: got no --report, expected one")
    with wrong_call(""):  # before the graph is exported, which takes seconds
        said = transcripts and read_transcripts(transcripts)
        vocabulary = tokens if graph else read_tokens(tokens, blank or 0)
        given["log_priors"] = priors and read_priors(priors).tolist()
    make = functools.partial(Aligner, tokens=vocabulary, transcripts=said, text=text)
    how: dict[str, Any] = {"workers": workers, "ray": ray, "strict": strict, "offset": offset}
    how |= {"hop": seconds, "formats": [each.value for each in formats or [Format.json]]}
    how |= {"report": report, "audio": audio}
    settings = {name: value for name, value in given.items() if value is not None}
    with _graph(graph, settings) as path:
        with wrong_call("", (OSError, RuntimeError, TypeError, ValueError)):
            aligner = sessions.scorer(make, path, model, names, batch_bytes)
        run = functools.partial(align_corpus, aligner, data, out, **how)
        found = watched("Aligning", lambda progress: run(progress=progress))
    if found["wildcards"]:
        typer.echo(f"Note: {_unknown(found['wildcards'], found['words'])}.")
    if unmatched := found["unmatched"]:
        more = f" and {len(unmatched) - _SHOWN} more" if len(unmatched) > _SHOWN else ""
        typer.echo(f"Note: transcripts of no item: {', '.join(unmatched[:_SHOWN])}{more}.")
    tell(found, out, f"{found['items']} items aligned, {found['words']} words")
    if report is not None:
        typer.echo(f"Wrote {report}{'' if audio is None else _heard(found['heard'], found['items'])}.")
    if broken := damaged(found):
        fail("; ".join(broken), code=1)


def _heard(heard: int, items: int) -> str:
    """For how many items there are recordings, if it is not for all."""
    return "" if heard == items else f", with recordings of {heard} of {items} items"


def _hop(hop: float | None, frame_rate: float | None) -> float:
    """The seconds of a frame."""
    if (hop is None) == (frame_rate is None):
        got = "got neither" if hop is None else "got both"
        fail(f"--hop, --frame-rate: {got}, expected one: the seconds of a frame, or the frames of a second")
    name, value = ("--hop", hop) if hop is not None else ("--frame-rate", frame_rate)
    if value is None or not 0 < value < float("inf"):
        fail(f"{name}: got {value}, expected a positive number")
    return value if hop is not None else 1 / value


def _unknown(wildcards: Mapping[str, int], words: int) -> str:
    """How many words have wildcards, and where."""
    shown = ", ".join(f"{id_} ({count})" for id_, count in list(wildcards.items())[:_SHOWN])
    more = f" and {len(wildcards) - _SHOWN} more items" if len(wildcards) > _SHOWN else ""
    what = f"wildcards, for what the tokens cannot spell, in {sum(wildcards.values())} of {words} words"
    return f"{what}: {shown}{more}"


@contextlib.contextmanager
def _graph(path: Path | None, settings: Mapping[str, Any]) -> Iterator[Path]:
    """An exported `CTCAlign`: the given one, or one with these settings."""
    if path is not None:
        if settings:
            fail(f"--graph: got {', '.join(settings)} as well, expected a graph that was exported with them")
        yield path
        return
    try:
        from exportable_losses import catalog

        from ..formats.onnx import to_onnx
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed, so CTCAlign cannot be exported: give a file as --graph", code=1)
    module = catalog.get("CTCAlign").module(**{"wildcard": "mean", **settings})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "CTCAlign.onnx")
        with wrong_call(""):
            to_onnx(module, file)
        yield file
