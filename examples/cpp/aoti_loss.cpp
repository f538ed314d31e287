// Runs a loss that AOTInductor has compiled in libtorch on test data, prints each output and how far it is off, and
// exits with 1 where one is. In Python the package is made of what `to_pt2` writes:
//
//     program = torch.export.load("losses/ctc_loss/ctc_loss.pt2")
//     torch._inductor.aoti_compile_and_package(program, package_path="package.pt2")
//
//     aoti_loss package.pt2 losses/ctc_loss/test_data_set_0 [--write FOLDER]
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <filesystem>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "torch_data.h"

namespace {

int run(const std::string& file, const std::filesystem::path& folder, const std::filesystem::path& written) {
  if (!std::filesystem::exists(file)) throw std::runtime_error(file + ": there is no such file");
  const c10::InferenceMode mode;
  torch::inductor::AOTIModelPackageLoader loss(file);

  auto inputs = test_data::read(folder, "input");
  const auto expected = test_data::read(folder, "output");
  std::vector<at::Tensor> arguments;  // by their order, which is that of the test data
  for (auto& input : inputs) arguments.push_back(torch_data::tensor_of(input));
  return torch_data::report(expected, loss.run(arguments), written) ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
  const auto written = test_data::folder_to_write(count, arguments);
  if (count != 3) {
    std::cerr << "usage: aoti_loss PACKAGE.pt2 TEST_DATA [--write FOLDER]\n";
    return 2;
  }
  try {
    return run(arguments[1], arguments[2], written);
  } catch (const c10::Error& error) {
    std::cerr << error.what_without_backtrace() << "\n";
    return 2;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 2;
  }
}
