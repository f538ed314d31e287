"""Commands about this machine: bench, doctor."""

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .program import AsJson, app, example, rows_of, steps


@app.command("bench", epilog=example("bench --rows ctc_loss,nll_loss --threads 1"))
def bench_command(
    rows: Annotated[str, typer.Option(help="Rows, with commas between; all without it.")] = "",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of both; all cores without it.")] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long to measure each case.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Time every row in onnxruntime against torch.

    Both run in turns on the same inputs. A ratio above 1 says that onnxruntime is slower. Other
    programs disturb the numbers; one thread is steadier than many.
    """
    names = rows_of([name for name in rows.split(",") if name])
    from .. import bench

    cases = steps(bench.cases(names), "Timing")
    timings = [bench.measure(case, threads=threads, seconds=seconds) for case in cases]
    if as_json:
        typer.echo(json.dumps([{**asdict(timing), "ratio": timing.ratio} for timing in timings], indent=2))
        return
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.caption = "medians in milliseconds; ratio: onnxruntime in units of torch"
    for heading in ("row", "largest input", "torch"):
        table.add_column(heading, overflow="fold")
    for heading in ("ms", "onnxruntime", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    for timing in timings:
        ratio = f"{timing.ratio:.2f}" if timing.ratio <= 1 else f"[bold red]{timing.ratio:.2f}[/]"
        times = f"{timing.baseline_ms:.3f}", f"{timing.onnxruntime_ms:.3f}"
        table.add_row(timing.row, timing.largest, timing.baseline, *times, ratio)
    Console().print(table)


@app.command("doctor", epilog=example("doctor --json"))
def doctor_command(as_json: AsJson = False) -> None:
    """Show versions, libraries, instruction set and providers, and who computes."""
    from ..doctor import facts

    found = facts()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    computers, providers = found["computers"], found["onnxruntime providers"]
    sections = {
        "versions": found["versions"],
        "operator library": found["operator library"],
        "CUDA library": found["CUDA library"],
        "onnxruntime": providers if isinstance(providers, dict) else {"providers": ", ".join(providers)},
        "who computes": computers if "problem" in computers else _who_computes(computers),
    }
    for title, lines in sections.items():
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in lines.items():
            table.add_row(f"  {escape(name)}", escape(value))
        Console().print(f"[bold]{title}[/]", table)


def _who_computes(computers: dict[str, Any]) -> dict[str, str]:
    """The losses that each computer computes now, or why it does not: a line for it and each device."""
    lines = {"named": computers["named"]} if computers["named"] else {}
    for device, losses in computers["in use"].items():
        for loss, name in losses.items():
            lines[f"{loss} on {device}"] = name
    for name, devices in computers["available"].items():
        can = "can, where it is named" if name in computers["only named"] else "can"
        for device, why in devices.items():
            lines[f"{name} on {device}"] = why or can
    return lines
