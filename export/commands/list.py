"""The command `list`: every row, what it takes and gives."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .program import AsJson, app, example


@app.command("list", epilog=example("list --json"))
def list_command(
    as_json: AsJson = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a Markdown table, that of docs/rows.md.")
    ] = False,
) -> None:
    """List every loss and metric with its inputs, outputs and reductions."""
    from .listing import markdown_table, written

    rows = written()
    if as_json or markdown:
        typer.echo(markdown_table(rows) if markdown else json.dumps(rows, indent=2))
        return
    table = Table(caption="∂ a gradient flows to it   ? optional   * any dimensions", show_lines=True)
    # names are what one types: at 80 columns, too, each is on one line
    longest = max(len(row[name]) for row in rows for name in ("row", "module"))
    table.add_column("row, module", overflow="fold", min_width=longest)
    table.add_column("inputs → outputs", no_wrap=True)
    table.add_column("reductions", overflow="fold", max_width=len("reductions"))
    for row in rows:
        what = f"[bold]{row['row']}[/]\n{row['module']}\n[dim]{escape(row['summary'])}[/]"
        table.add_row(what, _signature(row), ", ".join(row["reductions"]) or "-")
    Console().print(table)


def _signature(row: dict[str, Any]) -> str:
    """The inputs with their dimensions and the outputs, a line each."""
    lines = [
        f"{'∂' if each['name'] in row['differentiable'] else ' '} {each['name']}{'?' * each['optional']} "
        f"\\[{each['dims']}]"
        for each in row["inputs"]
    ]
    return "\n".join([*lines, *(f"→ {name}" for name in row["outputs"])])
