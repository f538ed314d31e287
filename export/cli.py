"""The console script `exportable-losses`."""

import sys

_EXTRA = {
    **dict.fromkeys(("typer", "rich", "torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime"), "export"),
    **dict.fromkeys(("pyarrow", "matplotlib", "jinja2"), "corpus"),
    **dict.fromkeys(("ray", "pandas"), "ray"),
}


def main() -> None:
    """Run the command line; where a package is missing, say what to install."""
    try:
        from .commands import app

        app(prog_name="exportable-losses")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        sys.exit(f"{missing} is not installed. Try: pip install 'exportable-losses[{_EXTRA[missing]}]'")


if __name__ == "__main__":
    main()
