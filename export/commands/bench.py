"""The command `bench`: every row in onnxruntime against torch."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from .program import AsJson, app, example, narrow_table, rows_of, steps

_BASELINES = {"eager": "eager module", "ctc_loss": "torch's ctc_loss", "log_softmax": "torch's log_softmax"}


@app.command("bench", epilog=example("bench --rows ctc_loss,nll_loss --threads 1"))
def bench_command(
    rows: Annotated[str, typer.Option(metavar="ROW,...", help="Rows to time. Default: all.")] = "",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each. Default: all cores.")] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long to measure each case.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Time every row in ONNX Runtime against torch.

    The baseline is this package's module in eager torch, or torch's own operator where that is named. The two
    run in turns on the same inputs. A ratio above 1 means that ONNX Runtime is slower. Other programs disturb
    the numbers; one thread is steadier than many.
    """
    names = rows_of([name for name in rows.split(",") if name])
    from .timing import cases, measure

    timings = [measure(case, threads=threads, seconds=seconds) for case in steps(cases(names), "Timing")]
    if as_json:
        typer.echo(json.dumps([{**asdict(timing), "ratio": timing.ratio} for timing in timings], indent=2))
        return
    table = narrow_table(
        ("row", "largest input", "baseline"),
        ("baseline ms", "onnxruntime ms", "ratio"),
        "medians in milliseconds; eager module: this package's module in eager torch; "
        "ratio: onnxruntime / baseline",
    )
    for timing in timings:
        ratio = f"{timing.ratio:.2f}" if timing.ratio <= 1 else f"[bold red]{timing.ratio:.2f}[/]"
        times = f"{timing.baseline_ms:.3f}", f"{timing.onnxruntime_ms:.3f}"
        table.add_row(timing.row, timing.largest, _BASELINES[timing.baseline], *times, ratio)
    Console().print(table)
