"""The console script `exportable-losses`."""

import sys

from exportable_losses.missing import remedy


def main() -> None:
    """Run the command line; where a package is missing, say what to install."""
    try:
        from .commands import app

        app(prog_name="exportable-losses")
    except ModuleNotFoundError as error:
        package, command = remedy(error, "export")
        if command is None:
            raise
        sys.exit(f"{package} is not installed. Try: {command}")


if __name__ == "__main__":
    main()
