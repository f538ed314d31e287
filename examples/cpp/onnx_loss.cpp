// Runs an exported loss in ONNX Runtime on the test data beside it, prints each output and how far it is
// off, and exits with 1 where one is. With the library our kernels compute; without, the graph itself.
//
//     onnx_loss losses/ctc_loss/ctc_loss.onnx [libexportable_losses.so] [TEST_DATA] [--write FOLDER]
#include <onnxruntime_cxx_api.h>

#include <filesystem>
#include <iostream>
#include <vector>

#include "test_data.h"

namespace {

// A view of the test data's own bytes.
Ort::Value value_of(test_data::Tensor& tensor) {
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto type = static_cast<ONNXTensorElementDataType>(tensor.type);  // the numbers are ONNX's
  return Ort::Value::CreateTensor(memory, tensor.bytes.data(), tensor.bytes.size(), tensor.sizes.data(),
                                  tensor.sizes.size(), type);
}

int run(const std::filesystem::path& graph, const std::filesystem::path& folder, const char* library,
        const std::filesystem::path& written) {
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "onnx_loss");
  Ort::SessionOptions options;
  if (library != nullptr) options.RegisterCustomOpsLibrary(std::filesystem::path(library).c_str());
  Ort::Session loss(env, graph.c_str(), options);

  auto inputs = test_data::read(folder, "input");
  const auto expected = test_data::read(folder, "output");
  std::vector<const char*> input_names, output_names;
  std::vector<Ort::Value> values;
  for (auto& input : inputs) {
    input_names.push_back(input.name.c_str());
    values.push_back(value_of(input));
  }
  for (const auto& output : expected) output_names.push_back(output.name.c_str());
  const auto outputs = loss.Run(Ort::RunOptions(), input_names.data(), values.data(), values.size(),
                                output_names.data(), output_names.size());

  bool good = true;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const auto info = outputs[i].GetTensorTypeAndShapeInfo();
    good &= test_data::report(expected[i], info.GetShape(), info.GetElementType(), outputs[i].GetTensorRawData());
    test_data::write(written, i, expected[i], outputs[i].GetTensorRawData());
  }
  return good ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
  const auto written = test_data::folder_to_write(count, arguments);
  if (count < 2 || count > 4) {
    std::cerr << "usage: onnx_loss GRAPH.onnx [LIBRARY] [TEST_DATA] [--write FOLDER]\n";
    return 2;
  }
  try {
    auto folder = test_data::beside(arguments[1]);
    const char* library = nullptr;
    for (int i = 2; i < count; ++i)
      if (std::filesystem::is_directory(arguments[i])) folder = arguments[i];
      else library = arguments[i];
    return run(arguments[1], folder, library, written);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 2;
  }
}
