"""Packages of npm: where they are, and onnxruntime-web from the registry."""

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

VERSION = "1.30.0"
LIBRARY = "ort.wasm.bundle.min.mjs"
WASM = "ort-wasm-simd-threaded.wasm"  # with LIBRARY all that a browser needs
_OF_NODE = "ort-wasm-simd-threaded.mjs"  # and Node this; in LIBRARY it stands too


def find(package: str) -> Path | None:
    """The folder of a package: in ``NODE_PATH``, in ``node_modules`` here or above, or what `fetch` got."""
    here = Path.cwd()
    above = [folder / "node_modules" for folder in (here, *here.parents)]
    named = [Path(folder) for folder in os.environ.get("NODE_PATH", "").split(os.pathsep) if folder]
    found = (folder / package for folder in (*named, *above, _cache()))
    return next((folder for folder in found if (folder / "package.json").is_file()), None)


def version(package: Path) -> str:
    """Its version."""
    return str(json.loads((package / "package.json").read_text(encoding="utf-8"))["version"])


def fetch() -> Path:
    """Get onnxruntime-web through npm and keep what is needed of it, 14 of 140 MB, in the user's cache.

    Raises:
        OSError: npm is not here, or could not.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise OSError("npm is not here")
    target = _cache() / "onnxruntime-web"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        command = [npm, "pack", f"onnxruntime-web@{VERSION}", "--pack-destination", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
            raise OSError(f"npm pack ended with {done.returncode}: {(said or ['no word'])[0]}")
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as tar:
            for name in ("package.json", *(f"dist/{name}" for name in (LIBRARY, WASM, _OF_NODE))):
                _extract(tar, f"package/{name}", Path(folder) / "new" / name)
        shutil.rmtree(target, ignore_errors=True)
        (Path(folder) / "new").replace(target)
    return target


def _extract(tar: tarfile.TarFile, name: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    member = tar.extractfile(name)
    assert member is not None
    path.write_bytes(member.read())


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "exportable-losses" / f"npm-{VERSION}"
