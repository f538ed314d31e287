"""The command `doctor`: what is installed, and who computes."""

import json
from typing import Any

import typer

from .program import AsJson, app, example


@app.command("doctor", epilog=example("doctor --json"))
def doctor_command(as_json: AsJson = False) -> None:
    """Show what is installed, whether ONNX Runtime loads the library, and which kernels compute.

    Any part may be missing: the output says which.
    """
    from .environment import facts

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
        typer.secho(title, bold=True)
        width = max(map(len, lines))
        for name, value in lines.items():  # no table: it would break paths over lines
            typer.echo(f"  {name:{width}}  {value}")


def _who_computes(computers: dict[str, Any]) -> dict[str, str]:
    """What computes each loss now, and which computers are available or why not: a line for each device."""
    lines = {"named": computers["named"]} if computers["named"] else {}
    for device, losses in computers["in use"].items():
        for loss, name in losses.items():
            lines[f"{loss} on {device}"] = name
    for name, devices in computers["available"].items():
        can = "available, if named" if name in computers["only named"] else "available"
        for device, why in devices.items():
            lines[f"{name} on {device}"] = why or can
    return lines
