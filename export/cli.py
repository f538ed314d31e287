"""The console script `exportable-losses`."""

import sys

from exportable_losses.missing import remedy

_EXPORTING = {"attach", "bench", "export"}  # the others need no torch


def main() -> None:
    """Run the command line; where a package is missing, say what to install."""
    try:
        from .commands import app

        app(prog_name="exportable-losses")
    except ModuleNotFoundError as error:
        package, how = remedy(error, "export" if _EXPORTING & {*sys.argv[1:2]} else "corpus")
        if how is None:
            raise
        sys.exit(f"{package} is not installed. Try: {how}")


if __name__ == "__main__":
    main()
