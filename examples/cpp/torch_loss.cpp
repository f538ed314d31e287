// Runs an exported loss in libtorch on test data, prints each output and how far it is off, and exits with
// 1 where one is. A file of `to_torchscript(custom_ops=True)` needs libexportable_losses_torch, any other libtorch alone.
//
//     torch_loss losses/ctc_loss/ctc_loss.pt losses/ctc_loss/test_data_set_0 [LIBRARY] [--write FOLDER]
#include <ATen/DynamicLibrary.h>
#include <torch/script.h>

#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "torch_data.h"

namespace {

int run(const std::string& file, const std::filesystem::path& folder, const char* library,
        const std::filesystem::path& written) {
  if (library != nullptr) at::DynamicLibrary(library, nullptr, true);  // it stays; or link it instead
  torch::jit::Module loss = torch::jit::load(file);

  auto inputs = test_data::read(folder, "input");
  const auto expected = test_data::read(folder, "output");
  torch::jit::Kwargs arguments;
  for (auto& input : inputs) arguments[input.name] = torch_data::tensor_of(input);
  const torch::jit::IValue output = loss.forward({}, arguments);

  std::vector<torch::Tensor> outputs;
  if (output.isTuple())
    for (const auto& value : output.toTupleRef().elements()) outputs.push_back(value.toTensor());
  else
    outputs.push_back(output.toTensor());
  return torch_data::report(expected, outputs, written) ? 0 : 1;
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
