// ONNX Runtime as a kernel sees it: tensors, errors and threads. The plumbing stands here, once.
#pragma once

#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>

#include "first_error.h"
#include "ort_api.h"
#include "shapes.h"

namespace exportable_losses {

// An error that ONNX Runtime itself reported, on its way back to it.
struct HostError {
  OrtStatus* status;
};

inline void ask(OrtStatus* status) {
  if (status != nullptr) throw HostError{status};
}

// Runs what may throw and returns what ONNX Runtime wants instead: nothing crosses the boundary.
template <class Work>
OrtStatus* guarded(const OrtApi& api, const Work& work) noexcept {
  try {
    work();
    return nullptr;
  } catch (const HostError& error) {
    return error.status;
  } catch (const std::invalid_argument& error) {
    return api.CreateStatus(ORT_INVALID_ARGUMENT, error.what());
  } catch (const std::exception& error) {
    return api.CreateStatus(ORT_FAIL, error.what());
  } catch (...) {
    return api.CreateStatus(ORT_FAIL, "exportable_losses: an unknown error");
  }
}

// What a kernel may ask of the call it is in.
class Call {
 public:
  Call(const OrtApi& api, OrtKernelContext* context) : api_(api), context_(context) {}

  // The input at `index`; ONNX Runtime has checked its element type, and tensors are contiguous there.
  template <class Element>
  Array<Element> input(std::size_t index) const {
    const OrtValue* value = nullptr;
    ask(api_.KernelContext_GetInput(context_, index, &value));
    if (value == nullptr) throw std::invalid_argument("input " + std::to_string(index) + ": missing");
    void* data = nullptr;
    ask(api_.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
    return {static_cast<const Element*>(data), shape_of(value)};
  }

  // Memory for the output at `index`, in ONNX Runtime's hands.
  template <class Element>
  Element* output(std::size_t index, const Shape& shape) const {
    OrtValue* value = nullptr;
    void* data = nullptr;
    ask(api_.KernelContext_GetOutput(context_, index, shape.data(), shape.size(), &value));
    ask(api_.GetTensorMutableData(value, &data));
    return static_cast<Element*>(data);
  }

  // The stream of the GPU that this call is to work on.
  void* cuda_stream() const {
    void* stream = nullptr;
    ask(api_.KernelContext_GetGPUComputeStream(context_, &stream));
    return stream;
  }

  // The session's own threads. An exception in one of them is thrown again here, in the caller's.
  Parallel threads() const {
    return [this](std::int64_t count, const std::function<void(std::int64_t)>& work) {
      if (count <= 0) return;
      Loop loop{work, {}};
      const auto n = static_cast<std::size_t>(count);
      ask(api_.KernelContext_ParallelFor(context_, Loop::step, n, n, &loop));  // n batches: dealt out one by one
      loop.error.rethrow();
    };
  }

 private:
  struct Loop {
    const std::function<void(std::int64_t)>& work;
    FirstError error;

    static void step(void* data, std::size_t i) noexcept {
      Loop& loop = *static_cast<Loop*>(data);
      try {
        loop.work(static_cast<std::int64_t>(i));
      } catch (...) {
        loop.error.keep();
      }
    }
  };

  Shape shape_of(const OrtValue* value) const {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    ask(api_.GetTensorTypeAndShape(value, &info));
    std::size_t rank = 0;
    OrtStatus* status = api_.GetDimensionsCount(info, &rank);
    Shape shape(rank);
    if (status == nullptr) status = api_.GetDimensions(info, shape.data(), rank);
    api_.ReleaseTensorTypeAndShapeInfo(info);
    ask(status);
    return shape;
  }

  const OrtApi& api_;
  OrtKernelContext* context_;
};

}  // namespace exportable_losses
