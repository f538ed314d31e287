// Runs an exported loss in libtorch on test data, prints each output and how far it is off, and exits with
// 1 where one is. A file of `to_torchscript(custom_ops=True)` needs libexportable_losses_torch, any other libtorch alone.
//
//     torch_loss losses/ctc_loss/ctc_loss.pt losses/ctc_loss/test_data_set_0 [LIBRARY] [--write FOLDER]
#include <ATen/DynamicLibrary.h>
#include <torch/script.h>

#include <filesystem>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "test_data.h"

namespace {

const struct {
  int onnx;
  at::ScalarType torch;
} types[] = {{test_data::FLOAT, at::kFloat},
             {test_data::DOUBLE, at::kDouble},
             {test_data::INT32, at::kInt},
             {test_data::INT64, at::kLong},
             {test_data::BOOL, at::kBool}};

// A view of the test data's own bytes.
torch::Tensor tensor_of(test_data::Tensor& tensor) {
  for (const auto& type : types)
    if (type.onnx == tensor.type) return torch::from_blob(tensor.bytes.data(), tensor.sizes, type.torch);
  throw std::runtime_error(tensor.name + ": got a type that is not known here");
}

bool report(const test_data::Tensor& expected, const torch::Tensor& output, std::size_t i,
            const std::filesystem::path& written) {
  const torch::Tensor got = output.contiguous();
  for (const auto& type : types) {
    if (type.torch != got.scalar_type()) continue;
    const bool good = test_data::report(expected, got.sizes().vec(), type.onnx, got.const_data_ptr());
    test_data::write(written, i, expected, got.const_data_ptr());
    return good;
  }
  throw std::runtime_error(expected.name + ": got a type that is not known here");
}

int run(const std::string& file, const std::filesystem::path& folder, const char* library,
        const std::filesystem::path& written) {
  if (library != nullptr) at::DynamicLibrary(library, nullptr, true);  // it stays; or link it instead
  torch::jit::Module loss = torch::jit::load(file);

  auto inputs = test_data::read(folder, "input");
  const auto expected = test_data::read(folder, "output");
  torch::jit::Kwargs arguments;
  for (auto& input : inputs) arguments[input.name] = tensor_of(input);
  const torch::jit::IValue output = loss.forward({}, arguments);

  const std::vector<torch::jit::IValue> outputs =
      output.isTuple() ? output.toTuple()->elements().vec() : std::vector<torch::jit::IValue>{output};
  if (outputs.size() != expected.size())
    throw std::runtime_error("got " + std::to_string(outputs.size()) + " outputs, expected " +
                             std::to_string(expected.size()));
  bool good = true;
  for (std::size_t i = 0; i < outputs.size(); ++i) good &= report(expected[i], outputs[i].toTensor(), i, written);
  return good ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
  const auto written = test_data::folder_to_write(count, arguments);
  if (count < 3 || count > 4) {
    std::cerr << "usage: torch_loss FILE.pt TEST_DATA [LIBRARY] [--write FOLDER]\n";
    return 2;
  }
  try {
    return run(arguments[1], arguments[2], count > 3 ? arguments[3] : nullptr, written);
  } catch (const c10::Error& error) {
    std::cerr << error.what_without_backtrace() << "\n";
    return 2;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 2;
  }
}
