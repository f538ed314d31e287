"""Our few lines of ONNX Runtime's C ABI stand where its own header says."""

import re
import subprocess
from pathlib import Path

import pytest
from ort_header import COMPILER, official_header

CSRC = Path(__file__).parents[2] / "exportable_losses" / "csrc"
ABI = (CSRC / "ort_abi.h").read_text()


def _struct(name: str) -> str:
    found = re.search(rf"struct {name} {{\n(.*?)\n}};", ABI, re.DOTALL)
    assert found is not None
    return found[1]


def _members(name: str) -> list[str]:
    """The members of a struct of our header, gaps left out."""
    body = _struct(name)
    pointers = re.findall(r"\(ORT_API_CALL\* ?(\w+)\)", body)
    plain = re.findall(r"^  (?:std::uint32_t|void\*) (\w+);", body, re.MULTILINE)
    return pointers + plain


API = [f"OrtApi.{m}" for m in _members("OrtApi")]
BASE = [f"OrtApiBase.{m}" for m in _members("OrtApiBase")]
CUSTOM_OP = [f"OrtCustomOp.{m}" for m in _members("OrtCustomOp")]
ENUMERATORS = re.findall(r"\b(\w+) = \d+", ABI)
HANDLES = ["ONNXTensorElementDataType", "OrtErrorCode", "OrtMemType", "OrtCustomOpInputOutputCharacteristic"]

# what each header says, one `name number` a line
_PROGRAM = """
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include {header}
int main() {{
{lines}
}}
"""


def _said_by(header: str, folder: Path, extra: list[str]) -> dict[str, int]:
    lines = [
        f'  std::printf("{m} %zu\\n", offsetof({m.partition(".")[0]}, {m.partition(".")[2]}));'
        for m in (*API, *BASE, *CUSTOM_OP)
    ]
    lines += [f'  std::printf("{e} %lld\\n", (long long){e});' for e in ENUMERATORS]
    lines += [f'  std::printf("sizeof {h} %zu\\n", sizeof({h}));' for h in HANDLES]
    lines += extra
    source, program = folder / "said.cc", folder / "said"
    source.write_text(_PROGRAM.format(header=header, lines="\n".join(lines)))
    subprocess.run(["c++", "-std=c++17", "-w", str(source), "-o", str(program)], check=True)
    text = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    return {name: int(number) for name, _, number in (line.rpartition(" ") for line in text.splitlines())}


def test_the_comparison_sees_every_member() -> None:
    assert len(API) == len(set(API)) == _struct("OrtApi").count("ORT_API_CALL")
    assert len(CUSTOM_OP) == 18  # the four fields of variadic operators apart
    assert "OrtCustomOp.version" in CUSTOM_OP
    assert len(ENUMERATORS) == 7


def test_gaps_are_as_long_as_their_names_say() -> None:
    place = 0
    for line in re.findall(r"[^;]+;", _struct("OrtApi")):
        gap = re.search(r"void\* before_(\d+)\[(\d+)\]", line)
        place += int(gap[2]) if gap else 1
        if gap:
            assert place == int(gap[1])


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_both_headers_say_the_same(tmp_path: Path) -> None:
    official = official_header()
    if official is None:
        pytest.skip("onnxruntime_c_api.h is not here (Debian trixie: libonnxruntime-dev; set CPATH)")
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    variadic = '  std::printf("variadic %zu\\n", offsetof(OrtCustomOp, {}));'
    size = '  std::printf("size %zu\\n", {});'
    ours = _said_by(
        f'"{CSRC / "ort_abi.h"}"',
        tmp_path / "ours",
        [variadic.format("variadic"), size.format("sizeof(OrtCustomOp)")],
    )
    # ours ends where version 1.18 goes on
    theirs = _said_by(
        f"<{official}>",
        tmp_path / "theirs",
        [variadic.format("GetVariadicInputMinArity"), size.format("offsetof(OrtCustomOp, GetMayInplace)")],
    )
    assert ours == theirs


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_the_functions_take_what_theirs_take(tmp_path: Path) -> None:
    """Arguments and results have the same types, by their mangled names."""
    official = official_header()
    if official is None:
        pytest.skip("onnxruntime_c_api.h is not here (Debian trixie: libonnxruntime-dev; set CPATH)")
    signatures = {}
    for name, header in (("ours", f'"{CSRC / "ort_abi.h"}"'), ("theirs", f"<{official}>")):
        lines = [
            f'  std::printf("%s\\n", typeid(decltype({m.replace(".", "::")})).name());'
            for m in (
                *API,
                *BASE,
                *(m for m in CUSTOM_OP if not m.endswith(("CreateKernel", "KernelCompute"))),
            )
        ]
        source, program = tmp_path / f"{name}.cc", tmp_path / name
        text = _PROGRAM.format(header=header, lines="\n".join(lines))
        source.write_text("#include <typeinfo>\n" + text)
        subprocess.run(["c++", "-std=c++17", "-w", str(source), "-o", str(program)], check=True)
        signatures[name] = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    assert signatures["ours"] == signatures["theirs"]
