"""What all commands share: the program, its errors, its words."""

import contextlib
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import exportable_losses

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Losses and metrics for speech models that compute the same number everywhere.",
)


def example(line: str) -> str:
    """What stands under the help of a command."""
    return f"Example: exportable-losses {line}"


def fail(message: str, code: int = 2) -> NoReturn:
    """Say what is wrong and stop: 2 for a wrong call, 1 for a file that is off."""
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(code)


@contextlib.contextmanager
def wrong_call(
    where: str, kinds: tuple[type[Exception], ...] = (OSError, TypeError, ValueError)
) -> Iterator[None]:
    """Let a library's complaint about what the user passed end the program without a traceback."""
    try:
        yield
    except kinds as error:
        said = str(error).strip().splitlines()[0]
        fail(f"{where}: {said}" if where else said)


def spare(option: str, path: Path | None, *inputs: Path) -> None:
    """End the program where a file that an option writes is one that is read."""
    if path is not None:
        from exportable_losses.runtime.files import refuse_overwriting

        with wrong_call("", (ValueError,)):
            refuse_overwriting(option, path, *inputs)


def rows_of(names: Sequence[str]) -> list[str]:
    """The rows of these names, or of these modules, each once; else an error that names what is close."""
    from exportable_losses import catalog

    rows = {each: row for row in catalog.names() for each in (catalog.get(row).type.__name__, row)}
    known = {name.lower(): name for name in rows}
    for name in names:
        if name not in rows:
            close = [known[c] for c in difflib.get_close_matches(name.lower(), known)]
            hint = f"Close to it: {', '.join(close)}. " if close else ""
            fail(f"there is no row {name}. {hint}`exportable-losses list` shows all.")
    return list(dict.fromkeys(rows[name] for name in names))


def steps(items: Sequence[Any], what: str) -> Iterator[Any]:
    """`items` with a progress bar, where somebody watches; stdout is for results alone."""
    watcher = Console(stderr=True)
    yield from track(items, what, console=watcher, transient=True, disable=not watcher.is_terminal)


def pairs(option: str, items: Sequence[str]) -> dict[str, str]:
    """``NAME=OUTPUT`` words as a dict."""
    named = {}
    for item in items:
        name, _, output = item.partition("=")
        if not output:
            fail(f"{option}: got {item!r}, expected something like log_probs=logits.")
        named[name] = output
    return named


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(exportable_losses.__version__)
        raise typer.Exit


@app.callback(epilog=example("export ctc_loss --out losses"))
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def names_in(path: Path) -> list[str]:
    """The names in a file, one per line; names may hold what else Python would end a line at."""
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def narrow_table(words: Sequence[str], numbers: Sequence[str], caption: str) -> Table:
    """A table without lines that cuts no name: columns of words may take several lines, numbers one."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, caption=caption)
    for heading in words:
        table.add_column(heading, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")]
Pictures = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        metavar="DIR",
        help="Pictures of items for the page, named ID.svg or ID.png. The ID is written as in a URL.",
    ),
]
Tokens = Annotated[
    Path | None,
    typer.Option(
        metavar="TOKENS.txt",
        exists=True,
        dir_okay=False,
        help="The names of the classes, one per line. The first line names class 0.",
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(metavar="PAGE.html", dir_okay=False, help="Also write a report as one HTML page."),
]
