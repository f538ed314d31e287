// The test data as libtorch's tensors.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>

#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "test_data.h"

namespace torch_data {

const struct {
  int onnx;
  at::ScalarType torch;
} types[] = {{test_data::FLOAT, at::kFloat},
             {test_data::DOUBLE, at::kDouble},
             {test_data::INT32, at::kInt},
             {test_data::INT64, at::kLong},
             {test_data::BOOL, at::kBool}};

// A view of the test data's own bytes.
inline at::Tensor tensor_of(test_data::Tensor& tensor) {
  for (const auto& type : types)
    if (type.onnx == tensor.type) return at::from_blob(tensor.bytes.data(), tensor.sizes, type.torch);
  throw std::runtime_error(tensor.name + ": got a type that is not known here");
}

inline bool report(const test_data::Tensor& expected, const at::Tensor& output, std::size_t i,
                   const std::filesystem::path& written) {
  const at::Tensor got = output.contiguous();
  for (const auto& type : types) {
    if (type.torch != got.scalar_type()) continue;
    const bool good = test_data::report(expected, got.sizes().vec(), type.onnx, got.const_data_ptr());
    test_data::write(written, i, expected, got.const_data_ptr());
    return good;
  }
  throw std::runtime_error(expected.name + ": got a type that is not known here");
}

// Whether every output is right; each is printed, and written where there is a folder.
inline bool report(const std::vector<test_data::Tensor>& expected, const std::vector<at::Tensor>& outputs,
                   const std::filesystem::path& written) {
  if (outputs.size() != expected.size())
    throw std::runtime_error("got " + std::to_string(outputs.size()) + " outputs, expected " +
                             std::to_string(expected.size()));
  bool good = true;
  for (std::size_t i = 0; i < outputs.size(); ++i) good &= report(expected[i], outputs[i], i, written);
  return good;
}

}  // namespace torch_data
