"""`export` writes what it says, replaces what was there, and refuses nonsense before it writes."""

import warnings

import onnx
import pytest
import torch

import exportable_losses as el
from exportable_losses.export.formats import files


def test_writes_a_graph_a_script_and_test_data_for_each_row(exported):
    found = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    assert found == {
        *(f"ctc_loss/{name}" for name in ("ctc_loss.onnx", "ctc_loss.pt")),
        *(f"ctc_loss/test_data_set_0/input_{i}.pb" for i in range(4)),
        "ctc_loss/test_data_set_0/output_0.pb",
        *(f"PitWrapper/{name}" for name in ("PitWrapper.onnx", "PitWrapper.pt")),
        *(f"PitWrapper/test_data_set_0/{kind}_{i}.pb" for kind in ("input", "output") for i in range(2)),
    }


def test_settings_reach_the_file_and_old_files_are_replaced(cli, losses):
    words = ("export", "ctc_loss", "--out", losses, "--format", "torchscript", "--reduction", "none")
    settings = ("--set", "blank_index=8", "--set", "zero_infinity=false", "--size", "B=2", "--size", "C=9")
    (losses / "ctc_loss" / "ctc_loss.pt").write_bytes(b"old")
    (losses / "ctc_loss" / "test_data_set_0" / "input_9.pb").write_bytes(b"old")
    result = cli(*words, *settings)
    assert result.exit_code == 0, result.output
    module = torch.jit.load(losses / "ctc_loss" / "ctc_loss.pt")
    assert (module.blank_index, module.zero_infinity, module.reduction) == (8, False, "none")
    data = losses / "ctc_loss" / "test_data_set_0"
    assert not (data / "input_9.pb").exists()
    log_probs = onnx.load_tensor(data / "input_0.pb")
    assert (log_probs.dims[0], log_probs.dims[2]) == (2, 9)


def test_a_list_of_numbers_is_a_weight(cli, tmp_path):
    words = ("--set", "weight=[1, 2, 3]", "--size", "C=3", "--format", "torchscript", "--out", tmp_path)
    result = cli("export", "nll_loss", *words)
    assert result.exit_code == 0, result.output
    module = torch.jit.load(tmp_path / "nll_loss" / "nll_loss.pt")
    assert module.weight.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("words", "names"),
    # those that are named are in the next test, too
    [(("all",), ["log_probs"]), pytest.param(("log_probs",), ["log_probs"], marks=pytest.mark.thorough)],
)
def test_gradients_are_outputs_of_the_graph(cli, tmp_path, words, names):
    options = [option for word in words for option in ("--gradients", word)]
    result = cli("export", "ctc_loss", *options, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    graph = onnx.load(tmp_path / "ctc_loss" / "ctc_loss.onnx").graph
    assert [value.name for value in graph.output] == ["loss", *(f"grad_{name}" for name in names)]
    result = cli("validate", tmp_path)  # the script beside it has the loss alone
    assert result.exit_code == 0, result.output
    assert "3 outputs checked, none off." in result.stdout


def test_several_gradients_and_rows_that_have_none(cli, tmp_path):
    words = ("--format", "onnx", "--out", tmp_path)
    named = cli("export", "mse_loss", "--gradients", "targets", "--gradients", "predictions", *words)
    assert named.exit_code == 0, named.output
    every = cli("export", "l1_loss", "classification_error", "--gradients", "all", *words)
    assert every.exit_code == 0, every.output
    outputs = {
        row: [value.name for value in onnx.load(tmp_path / row / f"{row}.onnx").graph.output]
        for row in ("mse_loss", "l1_loss", "classification_error")
    }
    assert outputs == {
        "mse_loss": ["loss", "grad_targets", "grad_predictions"],
        "l1_loss": ["loss", "grad_predictions", "grad_targets"],
        "classification_error": ["loss"],
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "ROW: expected rows to export, or --all."),
        (["l1_loss", "--all"], "ROW: expected rows to export, or --all."),
        (["ctc_los"], "there is no row ctc_los. Close to it: ctc_loss, "),
        (["pitwraper"], "Close to it: PitWrapper. "),
        (
            ["l1_loss", "--format", "tflite"],
            "--format: got 'tflite', expected one or more of onnx,torchscript,pt2,executorch",
        ),
        (
            ["l1_loss", "--reduction", "median"],
            "l1_loss: reduction: got 'median', expected one of mean, sum,",
        ),
        (
            ["cal_snr", "--reduction", "sum"],
            "cal_snr: got the setting 'reduction', expected one of its",
        ),
        (["l1_loss", "--set", "beta=1"], "'beta', expected one of its settings: allowed_len_diff, reduction"),
        (
            ["ctc_loss", "--set", "blank=1"],
            "ctc_loss: got the setting 'blank', expected one of its settings: blank_index, reduction, "
            "zero_infinity, wildcard, log_priors (close to it: blank_index)",
        ),
        (["l1_loss", "--set", "allowed_len_diff"], "got the setting 'allowed_len_diff', expected name=value"),
        (["l1_loss", "--set", "allowed_len_diff=many"], "allowed_len_diff: got 'many', expected int"),
        (["PitWrapper", "--set", "base_loss=l1"], "PitWrapper: base_loss: can be set in Python only"),
        (["l1_loss", "--size", "B=two"], "got the size 'B=two', expected something like B=4"),
        (["l1_loss", "--size", "Q=2"], "Error: l1_loss: sizes: got one for Q, expected some of"),
        (["nll_loss", "--set", "weight=[1, 2]"], "nll_loss: "),
        (
            ["ctc_loss", "--gradients", "targets"],
            "ctc_loss: gradients: got targets, expected some of log_probs",
        ),
        (["classification_error", "--gradients", "targets"], "gradients: got targets, expected none"),
        (
            ["l1_loss", "--gradients", "all", "--format", "torchscript"],
            "--gradients: got --format torchscript, expected onnx in it",
        ),
    ],
)
def test_mistakes_are_one_plain_line(cli, tmp_path, words, message):
    result = cli("export", *words, "--out", tmp_path / "losses")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not (tmp_path / "losses").exists()


def test_a_place_that_cannot_be_written_is_a_wrong_call(cli, tmp_path):
    (tmp_path / "file").write_text("")
    result = cli("export", "l1_loss", "--format", "torchscript", "--out", tmp_path / "file" / "losses")
    assert (result.exit_code, result.stderr.startswith("Error: --out: ")) == (2, True)


def test_a_row_that_an_exporter_does_not_take_leaves_the_others(cli, losses, monkeypatch):
    def refuses_ctc(module, path, inputs, verify):
        assert verify
        if path.stem == "ctc_loss":
            raise RuntimeError("module: CTCLoss does not export: no such kernel")
        path.write_bytes(b"new")

    monkeypatch.setattr(files, "to_pt2", refuses_ctc)
    (losses / "ctc_loss" / "ctc_loss.pt2").write_bytes(b"old")
    (losses / "ctc_loss" / "ctc_loss.pt").unlink()
    rows = ("ctc_loss", "PitWrapper")
    result = cli("export", *rows, "--format", "torchscript,pt2", "--out", losses)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"Error: these could not be written to {losses}; the rest is there:",
        "ctc_loss (pt2): module: CTCLoss does not export: no such kernel",
    ]
    assert (losses / "ctc_loss" / "ctc_loss.pt").exists()
    assert not (losses / "ctc_loss" / "ctc_loss.pt2").exists()
    assert (losses / "PitWrapper" / "PitWrapper.pt2").read_bytes() == b"new"


def test_what_is_off_is_not_written_but_without_a_check(cli, tmp_path, monkeypatch):
    other = torch.jit.script(el.MSELoss().eval())
    monkeypatch.setattr("exportable_losses.export.formats.torchscript.torch.jit.script", lambda module: other)
    words = ("export", "l1_loss", "--format", "torchscript", "--out", tmp_path)
    result = cli(*words)
    assert result.exit_code == 1
    assert "l1_loss (torchscript): loss is off by" in result.stderr
    assert not (tmp_path / "l1_loss" / "l1_loss.pt").exists()
    assert cli(*words, "--no-verify").exit_code == 0
    assert (tmp_path / "l1_loss" / "l1_loss.pt").exists()


def test_opset_and_standard_operators_alone(cli, tmp_path):
    words = ("--format", "onnx", "--opset", "21", "--inline", "--out", tmp_path)
    assert cli("export", "EditDistance", *words).exit_code == 0
    model = onnx.load(tmp_path / "EditDistance" / "EditDistance.onnx")
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 21)]
    assert not model.functions


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--opset", "17"), "--opset: got 17, expected 18 to "),
        (
            ("--inline", "--format", "torchscript"),
            "--opset, --inline: got --format torchscript, expected onnx in it.",
        ),
    ],
)
def test_opsets_that_there_are_not(cli, tmp_path, words, message):
    result = cli("export", "l1_loss", *words, "--out", tmp_path / "losses")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "losses").exists()


def test_without_executorch_there_is_no_such_format(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("EXPORTABLE_LOSSES_EXECUTORCH", "/nowhere/python")
    result = cli("export", "l1_loss", "--format", "executorch", "--out", tmp_path)
    assert result.exit_code == 2
    assert "--format: EXPORTABLE_LOSSES_EXECUTORCH is no Python" in result.stderr


_ALONE = "but only ONNX graphs take 16 bits: "


@pytest.mark.parametrize(
    ("dtype", "formats", "message"),
    [
        ("float8", "onnx", "got float8, expected float16 or bfloat16."),
        ("float16", "pt2", f"got --format pt2, {_ALONE}expected --format onnx."),
        ("float16", "pt2,onnx", f"got --format pt2,onnx, {_ALONE}drop pt2 from --format."),
    ],
)
def test_sixteen_bits_are_for_graphs(cli, tmp_path, dtype, formats, message):
    result = cli("export", "l1_loss", "--dtype", dtype, "--format", formats, "--out", tmp_path / "losses")
    assert (result.exit_code, result.stderr) == (2, f"Error: --dtype: {message}\n")
    assert not (tmp_path / "losses").exists()


def test_lengths_are_integers_where_they_are_asked_for(cli, tmp_path):
    result = cli(
        "export", "ctc_loss", "l1_loss", "--lengths", "absolute", "--format", "onnx", "--out", tmp_path
    )
    assert result.exit_code == 0, result.output
    for row, names in (("ctc_loss", ("input_lens", "target_lens")), ("l1_loss", ("length",))):
        inputs = {value.name: value for value in onnx.load(tmp_path / row / f"{row}.onnx").graph.input}
        assert {inputs[name].type.tensor_type.elem_type for name in names} == {onnx.TensorProto.INT64}
    assert cli("validate", tmp_path).exit_code == 0
    result = cli("export", "ctc_loss", "--lengths", "frames", "--out", tmp_path / "no")
    assert (result.exit_code, "--lengths: got frames" in result.stderr) == (2, True)


def test_a_row_has_the_name_of_its_module_too(cli, tmp_path):
    result = cli("export", "L1Loss", "l1_loss", "MSELoss", "--format", "torchscript", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {"l1_loss", "mse_loss"}


def test_a_row_that_is_named_twice_is_written_once(cli, tmp_path):
    result = cli("export", "l1_loss", "l1_loss", "--format", "torchscript", "--out", tmp_path)
    assert (result.exit_code, result.stdout) == (0, f"Wrote {tmp_path / 'l1_loss' / 'l1_loss.pt'}.\n")


def test_settings_are_of_the_types_of_their_defaults():
    given = files.parse_settings("AngularMargin", ["margin=1", "scale=0.5"])
    assert given == {"margin": 1.0, "scale": 0.5}
    assert type(given["margin"]) is float
    assert files.parse_settings("AdditiveAngularMargin", ["easy_margin=true"]) == {"easy_margin": True}
    for setting in ("margin=true", "margin=wide", 'margin="1"', "margin=[1]"):
        with pytest.raises(ValueError, match=r"^margin: got .*, expected float$"):
            files.parse_settings("AngularMargin", [setting])
    with pytest.raises(ValueError, match=r"^easy_margin: got '1', expected bool$"):
        files.parse_settings("AdditiveAngularMargin", ["easy_margin=1"])


def test_few_files_are_named_and_many_are_counted(cli, tmp_path):
    words = ("--format", "torchscript", "--no-verify", "--out", tmp_path)
    files = [tmp_path / row / f"{row}.pt" for row in ("l1_loss", "mse_loss")]
    result = cli("export", "l1_loss", "mse_loss", *words)
    assert result.stdout == f"Wrote {', '.join(map(str, files))}.\n"
    result = cli("export", "l1_loss", "mse_loss", "bce_loss", "nll_loss", "ce_kd", *words)
    assert result.stdout == f"Wrote 5 rows to {tmp_path}.\n"


def test_with_a_dtype_graphs_are_written_by_default(cli, tmp_path):
    result = cli("export", "l1_loss", "--dtype", "float16", "--out", tmp_path)
    assert (result.exit_code, result.stdout) == (0, f"Wrote {tmp_path / 'l1_loss' / 'l1_loss.onnx'}.\n")


def test_what_torch_says_of_torchscript_is_not_said_again(cli, tmp_path, monkeypatch):
    """Its warnings are about TorchScript as a whole, and not about what is exported."""
    script, kinds = torch.jit.script, (FutureWarning, DeprecationWarning)

    def warns(*args, **settings):
        for kind in kinds:
            for message in ("`torch.jit.script` is deprecated.", "TorchScript is no longer developed."):
                warnings.warn(message, kind, stacklevel=2)
        warnings.warn("something else", FutureWarning, stacklevel=2)
        return script(*args, **settings)

    monkeypatch.setattr(torch.jit, "script", warns)
    with pytest.warns(FutureWarning) as said:
        result = cli("export", "l1_loss", "--format", "torchscript", "--no-verify", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    found = [str(each.message) for each in said]  # of the first export of a process torch has more to say
    assert "something else" in found
    assert not [message for message in found if "is deprecated." in message or "no longer" in message]


def test_rows_whose_lengths_count_no_one_size_are_named(cli, tmp_path):
    words = ("l1_loss", "LogSoftmaxWrapper", "--lengths", "absolute", "--format", "onnx", "--out", tmp_path)
    result = cli("export", *words)
    assert result.exit_code == 0, result.output
    assert result.stderr == "Note: lengths stay relative, for they count no one size: LogSoftmaxWrapper.\n"
