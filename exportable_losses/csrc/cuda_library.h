// The library with the CUDA kernels, where it lies beside this one and loads.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "cuda/cuda_api.h"

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

namespace exportable_losses {

// The functions of one loss; see cuda/cuda_api.h.
struct CudaLoss {
  decltype(&exportable_losses_cuda_ctc_workspace) workspace;
  decltype(&exportable_losses_cuda_ctc_float) of_float;
  decltype(&exportable_losses_cuda_ctc_double) of_double;
};

struct CudaLibrary {
  CudaLoss ctc, transducer;
  decltype(&exportable_losses_cuda_allocate) allocate;
  decltype(&exportable_losses_cuda_free) free;
};

#if defined(_WIN32)

inline const CudaLibrary* cuda_library() { return nullptr; }  // nobody has built it there yet

#else

// "libexportable_losses.so" has "libexportable_losses_cuda.so" beside it. EXPORTABLE_LOSSES_CUDA_LIBRARY
// names another; empty, it says that there is none.
inline std::string cuda_library_path() {
  if (const char* given = std::getenv("EXPORTABLE_LOSSES_CUDA_LIBRARY")) return given;
  Dl_info here;
  if (dladdr(reinterpret_cast<void*>(&exportable_losses_version), &here) == 0) return "";
  const std::string path = here.dli_fname;
  const auto suffix = path.rfind('.');
  return suffix == std::string::npos ? "" : path.substr(0, suffix) + "_cuda" + path.substr(suffix);
}

// It is loaded once and stays. Null where it is missing, does not load, or is of another version.
inline const CudaLibrary* cuda_library() {
  static const CudaLibrary* const loaded = []() -> const CudaLibrary* {
    const std::string path = cuda_library_path();
    void* library = path.empty() ? nullptr : dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return nullptr;
    static CudaLibrary found;
    bool all = true;
    auto take = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
      all = all && function != nullptr;
    };
    take(found.ctc.workspace, "exportable_losses_cuda_ctc_workspace");
    take(found.ctc.of_float, "exportable_losses_cuda_ctc_float");
    take(found.ctc.of_double, "exportable_losses_cuda_ctc_double");
    take(found.transducer.workspace, "exportable_losses_cuda_transducer_workspace");
    take(found.transducer.of_float, "exportable_losses_cuda_transducer_float");
    take(found.transducer.of_double, "exportable_losses_cuda_transducer_double");
    decltype(&exportable_losses_cuda_version) version = nullptr;
    take(version, "exportable_losses_cuda_version");
    all = all && std::string(version()) == exportable_losses_version();
    take(found.allocate, "exportable_losses_cuda_allocate");
    take(found.free, "exportable_losses_cuda_free");
    return all ? &found : nullptr;
  }();
  return loaded;
}

#endif

// Memory of a stream's device for work that is queued on that stream: a later user of it comes after.
class Workspace {
 public:
  Workspace(const CudaLibrary& cuda, std::int64_t bytes, void* stream) : cuda_(cuda), stream_(stream) {
    const char* failed = bytes > 0 ? cuda.allocate(bytes, stream, &memory_) : nullptr;
    if (failed != nullptr) throw std::runtime_error(std::string("workspace on the GPU: ") + failed);
  }
  ~Workspace() {
    if (memory_ != nullptr) cuda_.free(memory_, stream_);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  void* memory() const { return memory_; }

 private:
  const CudaLibrary& cuda_;
  void* stream_;
  void* memory_ = nullptr;
};

}  // namespace exportable_losses
