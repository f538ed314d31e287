// ONNX Runtime's C interface: its own header where there is one, else ours. The wheel of onnxruntime
// has none, and a build of this package needs nothing but a compiler. The two are interchangeable
// (tests/native/test_ort_header.py); EXPORTABLE_LOSSES_OWN_ORT_ABI takes ours in any case.
#pragma once

#if defined(EXPORTABLE_LOSSES_OWN_ORT_ABI)
#include "ort_abi.h"
#elif __has_include(<onnxruntime_c_api.h>)
#include <onnxruntime_c_api.h>
#elif __has_include(<onnxruntime/onnxruntime_c_api.h>)
#include <onnxruntime/onnxruntime_c_api.h>
#else
#include "ort_abi.h"
#endif

// The version of the interface that we ask a host for: the first with KernelContext_ParallelFor. All
// else here is older (KernelComputeV2 is of 1.16, the rest of 1.0 to 1.2). A host of any later version
// serves it too: entries are only ever appended.
#define EXPORTABLE_LOSSES_ORT_VERSION 17

#if ORT_API_VERSION < EXPORTABLE_LOSSES_ORT_VERSION
#error "onnxruntime_c_api.h is older than 1.17: define EXPORTABLE_LOSSES_OWN_ORT_ABI to build without it"
#endif
