"""Models as files: reading one, and writing one beside its external data."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import onnx
from onnx import TensorProto

from exportable_losses.runtime.files import check_regular
from exportable_losses.runtime.testdata import own

from ..formats.testdata import place_of, write_test_data
from ..formats.verify import Arrays
from ..nodes.protos import all_tensors


def load(argument: str, path: str | os.PathLike[str]) -> onnx.ModelProto:
    """The model at `path`, external data not loaded; `argument` is what errors call it."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{argument}: got {os.fspath(path)}, expected an .onnx file")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # a type of protobuf's
        raise ValueError(f"{argument}: {os.fspath(path)} is not an ONNX model") from error
    if not model.graph.output:
        raise ValueError(f"{argument}: {os.fspath(path)} is not an ONNX model, or has no outputs")
    return model


def write(
    joint: onnx.ModelProto,
    model: str | os.PathLike[str],
    path: str | os.PathLike[str],
    proven: Callable[[Path], tuple[Arrays, Arrays] | None],
) -> None:
    """Put the file at `path`, with its test data, and with a copy of external data that lies elsewhere.

    Before that it is given to `proven`, which gives the test data, or raises an error where the file should
    not be there.
    """
    source, target = Path(model).parent, Path(path)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".attach") as folder:
        copies = _move(joint, source, target)
        for name, data in copies.items():
            shutil.copyfile(data, Path(folder) / name)
        # the checker wants external data beside the file: copies are here, others where it will be
        beside = not copies and any(map(_external, all_tensors(joint)))
        new = (target.parent if beside else Path(folder)) / f"{Path(folder).name}.onnx"
        try:
            new.write_bytes(joint.SerializeToString())
            _check(new, model)
            test_data = proven(new)
            for name in copies:
                os.replace(Path(folder) / name, target.parent / name)
            if test_data is None:  # what an earlier file had is of another graph
                for place in (f"{own(target)}0", place_of(target, {}, {})):
                    shutil.rmtree(target.parent / place, ignore_errors=True)
            else:
                write_test_data(target.parent / place_of(target, *test_data), *test_data)
            os.replace(new, target)
        finally:
            new.unlink(missing_ok=True)


def _check(new: Path, model: str | os.PathLike[str]) -> None:
    """Let ONNX's checker read the file. What it has against the model alone is not ours to refuse."""
    try:
        onnx.checker.check_model(str(new))
    except onnx.checker.ValidationError:
        try:
            onnx.checker.check_model(os.fspath(model))
        except onnx.checker.ValidationError:
            return
        raise


def _external(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL


def _move(joint: onnx.ModelProto, source: Path, target: Path) -> dict[str, Path]:
    """Name external data as they will be beside `target`; which files to copy for it, by their new name."""
    names: dict[str, str] = {}
    for tensor in filter(_external, all_tensors(joint)):
        places = [entry for entry in tensor.external_data if entry.key == "location"]
        if len(places) != 1:
            raise ValueError(
                f"model: got {len(places)} files of external data for {tensor.name}, expected one"
            )
        place = places[0]
        _check_inside(place.value, source)
        if not source.samefile(target.parent):
            number = f".{len(names)}" if names else ""
            place.value = names.setdefault(place.value, f"{target.name}{number}.data")
    return {new: source / old for old, new in names.items()}


def _check_inside(place: str, folder: Path) -> None:
    """Refuse external data outside the model's folder: a model may not have others' files copied."""
    got, inner = f"model: got external data in {place!r}", PurePosixPath(place)
    expected = "expected a file in its own folder"
    if inner.is_absolute() or ".." in inner.parts or "\0" in place:
        raise ValueError(f"{got}, {expected}")
    if not (folder / inner).exists():
        raise FileNotFoundError(f"model: there is no file {folder / inner}, which has its external data")
    whole = (folder / inner).resolve()
    if not whole.is_relative_to(folder.resolve()):
        raise ValueError(f"{got}, which is a link to {whole}, {expected}; copy it there")
    check_regular("model", whole)
