"""What the commands share that go through a corpus: options, progress, and what is said in the end."""

import contextlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .program import fail

Model = Annotated[
    Path | None,
    typer.Option(metavar="MODEL.onnx", exists=True, dir_okay=False, help="A model to run before the loss."),
]
Feeds = Annotated[
    list[str] | None,
    typer.Option(
        "--feed",
        metavar="INPUT=OUTPUT",
        help="An input of the loss and the model's output that feeds it. May be repeated.",
    ),
]
BatchBytes = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="The size of a batch in bytes. Default: 8 MiB.")
]
Workers = Annotated[int, typer.Option(min=1, help="The number of processes.")]
Ray = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS|local", help="Run the workers as actors of a Ray cluster."),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="Stop at the first item that cannot be scored, instead of setting it aside."
    ),
]


def watched(what: str, run: Callable[[Callable[..., None]], dict[str, Any]]) -> dict[str, Any]:
    """What `run` gives, with its progress on stderr; what ends it ends the program."""
    # Ray prints what befalls its workers
    with contextlib.redirect_stdout(sys.stderr), Console(stderr=True).status(what) as status:

        def show(items: int, aside: int, rate: float, means: Mapping[str, float]) -> None:
            so_far = "".join(f", {name} {value:.5g}" for name, value in means.items())
            status.update(f"{items} items ({aside} set aside), {rate:.0f} per second{so_far}")

        try:
            return run(show)
        except (OSError, RuntimeError, ValueError) as error:
            fail(str(error), code=1)


def tell(found: Mapping[str, Any], out: Path, done: str) -> None:
    """Say what was done, and what of the data was not taken as it is."""
    from exportable_losses.runtime.corpus.names import as_text

    for name, (came, taken) in found.get("rounded", {}).items():
        typer.echo(f"Note: {name} is {came} in the data and was rounded to {taken}, as the graph takes it.")
    if unused := found.get("unused"):
        typer.echo(f"Note: columns not used: {as_text(unused)}.")
    lost = found["set_aside"]
    why = f"; {out / 'set_aside.parquet'} says why" if lost else ""
    typer.echo(f"{done}, {lost or 'none'} set aside{why}. Wrote {out}.")


def damaged(found: Mapping[str, Any]) -> list[str]:
    """Which files are damaged, and how."""
    return [
        f"{each['path']} may have more items: {each['damaged']}"
        for each in found["data"]
        if "damaged" in each
    ]
