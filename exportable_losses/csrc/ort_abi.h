// What this library needs of ONNX Runtime's C ABI, under its own names.
//
// `OrtApi` is a table of function pointers to which versions append and from which nothing is ever
// taken; an entry is found at its place, and the number behind each gap here is the place of the
// entry that follows. `OrtCustomOp` is a table that we fill in, read up to the version it states.
#pragma once

#include <cstddef>
#include <cstdint>

#define ORT_API_VERSION 17

#if defined(_WIN32)
#define ORT_API_CALL __stdcall
#else
#define ORT_API_CALL
#endif

extern "C" {

struct OrtCustomOpDomain;
struct OrtKernelContext;
struct OrtKernelInfo;
struct OrtSessionOptions;
struct OrtShapeInferContext;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtValue;
struct OrtApi;

typedef OrtStatus* OrtStatusPtr;  // null is success

enum ONNXTensorElementDataType {
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 = 7,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE = 11,
};
enum OrtErrorCode {
  ORT_FAIL = 1,
  ORT_INVALID_ARGUMENT = 2,
};
enum OrtMemType { OrtMemTypeDefault = 0 };
enum OrtCustomOpInputOutputCharacteristic { INPUT_OUTPUT_REQUIRED = 0 };

struct OrtApiBase {
  const OrtApi*(ORT_API_CALL* GetApi)(std::uint32_t version) noexcept;  // null where the host is older
  const char*(ORT_API_CALL* GetVersionString)() noexcept;
};

struct OrtApi {
  OrtStatus*(ORT_API_CALL* CreateStatus)(OrtErrorCode code, const char* message) noexcept;  // 0, the message is copied
  void* before_26[25];
  OrtStatusPtr(ORT_API_CALL* CreateCustomOpDomain)(const char* name, OrtCustomOpDomain** out) noexcept;
  OrtStatusPtr(ORT_API_CALL* CustomOpDomain_Add)(OrtCustomOpDomain*, const struct OrtCustomOp*) noexcept;
  OrtStatusPtr(ORT_API_CALL* AddCustomOpDomain)(OrtSessionOptions*, OrtCustomOpDomain*) noexcept;
  void* before_51[22];
  OrtStatusPtr(ORT_API_CALL* GetTensorMutableData)(OrtValue*, void** out) noexcept;
  void* before_61[9];
  OrtStatusPtr(ORT_API_CALL* GetDimensionsCount)(const OrtTensorTypeAndShapeInfo*, std::size_t* out) noexcept;
  OrtStatusPtr(ORT_API_CALL* GetDimensions)(const OrtTensorTypeAndShapeInfo*, std::int64_t* out, std::size_t) noexcept;
  void* before_65[2];
  OrtStatusPtr(ORT_API_CALL* GetTensorTypeAndShape)(const OrtValue*, OrtTensorTypeAndShapeInfo** out) noexcept;
  void* before_86[20];
  OrtStatusPtr(ORT_API_CALL* KernelInfoGetAttribute_int64)(const OrtKernelInfo*, const char* name,
                                                           std::int64_t* out) noexcept;
  void* before_90[3];
  OrtStatusPtr(ORT_API_CALL* KernelContext_GetInput)(const OrtKernelContext*, std::size_t, const OrtValue** out) noexcept;
  OrtStatusPtr(ORT_API_CALL* KernelContext_GetOutput)(OrtKernelContext*, std::size_t, const std::int64_t* shape,
                                                      std::size_t rank, OrtValue** out) noexcept;
  void* before_93[1];
  void(ORT_API_CALL* ReleaseStatus)(OrtStatus*);
  void* before_99[5];
  void(ORT_API_CALL* ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo*);
  void* before_101[1];
  void(ORT_API_CALL* ReleaseCustomOpDomain)(OrtCustomOpDomain*);
  void* before_193[91];
  OrtStatusPtr(ORT_API_CALL* KernelContext_GetGPUComputeStream)(const OrtKernelContext*, void** out) noexcept;
  void* before_274[80];
  OrtStatusPtr(ORT_API_CALL* KernelContext_ParallelFor)(const OrtKernelContext*, void (*work)(void* data, std::size_t i),
                                                        std::size_t count, std::size_t batches, void* data) noexcept;
};

// As version 1.17 has it; of what we leave empty the arguments do not matter.
struct OrtCustomOp {
  std::uint32_t version;
  void* CreateKernel;
  const char*(ORT_API_CALL* GetName)(const OrtCustomOp*);
  const char*(ORT_API_CALL* GetExecutionProviderType)(const OrtCustomOp*);
  ONNXTensorElementDataType(ORT_API_CALL* GetInputType)(const OrtCustomOp*, std::size_t);
  std::size_t(ORT_API_CALL* GetInputTypeCount)(const OrtCustomOp*);
  ONNXTensorElementDataType(ORT_API_CALL* GetOutputType)(const OrtCustomOp*, std::size_t);
  std::size_t(ORT_API_CALL* GetOutputTypeCount)(const OrtCustomOp*);
  void* KernelCompute;
  void(ORT_API_CALL* KernelDestroy)(void* kernel);
  OrtCustomOpInputOutputCharacteristic(ORT_API_CALL* GetInputCharacteristic)(const OrtCustomOp*, std::size_t);
  OrtCustomOpInputOutputCharacteristic(ORT_API_CALL* GetOutputCharacteristic)(const OrtCustomOp*, std::size_t);
  OrtMemType(ORT_API_CALL* GetInputMemoryType)(const OrtCustomOp*, std::size_t);
  void* variadic[4];
  OrtStatusPtr(ORT_API_CALL* CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void** kernel);
  OrtStatusPtr(ORT_API_CALL* KernelComputeV2)(void* kernel, OrtKernelContext*);
  OrtStatusPtr(ORT_API_CALL* InferOutputShapeFn)(const OrtCustomOp*, OrtShapeInferContext*);
  int(ORT_API_CALL* GetStartVersion)(const OrtCustomOp*);
  int(ORT_API_CALL* GetEndVersion)(const OrtCustomOp*);
};

}  // extern "C"
