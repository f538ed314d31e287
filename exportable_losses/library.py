"""Where the native library is, and whether it is this package's. No torch here: the runtime asks too."""

import ctypes
import os
import struct
import sys

_VARIABLE = "EXPORTABLE_LOSSES_LIBRARY"
_NAME = {"win32": "exportable_losses.dll", "darwin": "libexportable_losses.dylib"}.get(
    sys.platform, "libexportable_losses.so"
)


def library_path() -> str | None:
    """The native library of this package, or nothing where the package was installed without one.

    The environment variable ``EXPORTABLE_LOSSES_LIBRARY`` names another one.

    Raises:
        FileNotFoundError: the variable names a file that is not there.
    """
    named = os.environ.get(_VARIABLE)
    if named:
        if not os.path.isfile(named):
            raise FileNotFoundError(f"{_VARIABLE}: got {named}, expected the native library")
        return os.path.abspath(named)
    import exportable_losses

    folders = (os.path.join(folder, "lib") for folder in exportable_losses.__path__)
    paths = (os.path.join(folder, _NAME) for folder in folders)
    return next((path for path in paths if os.path.isfile(path)), None)


def load(path: str, version: str = "exportable_losses_version") -> ctypes.CDLL:
    """The library at `path`, whole and of this package's version, which its function `version` tells.

    Raises:
        OSError: it is cut short, does not load, or is another library or one of another version.
    """
    import exportable_losses

    most = _end_of_segments(path)
    size = os.path.getsize(path)
    if size < most:  # to map it is no error, but to run it ends the process
        raise OSError(f"{path}: got {size} bytes, expected {most} or more: the file was cut short")
    library = ctypes.CDLL(path)
    tell = getattr(library, version, None)
    if tell is None:
        raise OSError(f"{path}: got a library without {version}, expected that of exportable_losses")
    tell.restype = ctypes.c_char_p
    found, expected = tell().decode(), exportable_losses.__version__
    if found != expected:
        raise OSError(f"{path}: got version {found}, expected {expected}, that of the package")
    return library


def about(path: str) -> dict[str, str]:
    """The library's path, its version, and the instruction set that it runs on.

    Raises:
        OSError: as of `load`.
    """
    library = load(path)
    ask = library.exportable_losses_instruction_set
    ask.restype = ctypes.c_char_p
    found = ask()
    return {
        "path": path,
        "version": library.exportable_losses_version().decode(),
        "instruction set": found.decode() if found else "none: EXPORTABLE_LOSSES_ISA names no known one",
    }


def _end_of_segments(path: str) -> int:
    """Where the last segment of an ELF file ends, and zero in a file of another kind."""
    with open(path, "rb") as file:
        ident = file.read(16)
        if ident[:4] != b"\x7fELF":
            return 0
        order = ">" if ident[5] == 2 else "<"
        wide = ident[4] == 2
        # e_type to e_phnum; of a segment p_offset and p_filesz
        header, segment = ("HHIQQQIHHH", "IIQQQQ") if wide else ("HHIIIIIHHH", "IIIII")
        rest = file.read(struct.calcsize(order + header))
        if len(rest) < struct.calcsize(order + header):
            return 64
        *_, start, _, _, _, size, count = struct.unpack(order + header, rest)
        ends = [start + size * count]
        for i in range(count):
            file.seek(start + size * i)
            given = file.read(struct.calcsize(order + segment))
            if len(given) == struct.calcsize(order + segment):
                fields = struct.unpack(order + segment, given)
                ends.append(fields[2] + fields[5] if wide else fields[1] + fields[4])
        return max(ends)
