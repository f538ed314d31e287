"""The compiler, and ONNX Runtime's own C header, where this machine has them.

Debian has the header from trixie on (`libonnxruntime-dev`). It need not be installed: unpacked anywhere,
``CPATH=…/usr/include`` lets the compiler find it.
"""

import shutil
import subprocess

COMPILER = shutil.which("c++")
OFFICIAL = ("onnxruntime_c_api.h", "onnxruntime/onnxruntime_c_api.h")


def official_header() -> str | None:
    """The name under which the compiler finds ONNX Runtime's own header, if it does."""
    for name in OFFICIAL if COMPILER else ():
        probe = ["c++", "-std=c++17", "-E", "-x", "c++", "-", "-o", "/dev/null"]
        if subprocess.run(probe, input=f"#include <{name}>\n".encode(), capture_output=True).returncode == 0:
            return name
    return None
