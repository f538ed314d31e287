// ONNX Runtime's door: the operators of the domain `exportable_losses`; those of lattices for float and double.
//
//   CTCLoss(log_probs [B, T, C], targets [B, S], input_lengths [B], target_lengths [B]) -> costs [B]
//   TransducerLoss(logits [B, T, U+1, V], targets [B, U], input_lengths [B], target_lengths [B]) -> costs [B]
//   CTCLossGrad, TransducerLossGrad(the same four, grad_costs [B]) -> costs [B], grad in the shape of the scores
//   CTCForward(the four of CTCLoss, alpha [B, 2, S+1], offset [B, 2]) -> costs [B], alpha, offset
//   CTCPosterior(the four of CTCLoss) -> costs [B], posteriors [B, T, 2S+1]
//   CTCAlign(the four of CTCLoss) -> states [B, T], scores [B]
//   ArcsLoss(arcs [B, T, U+1, K], durations [K], input_lengths [B], target_lengths [B]) -> costs [B]
//   ArcsLossGrad(the same four, grad_costs [B]) -> costs [B], grad in the shape of the arcs
//   ArcsAlign(the four of ArcsLoss) -> starts [B, U], kinds [B, U], scores [B]
//   TransducerForward(arcs [B, T, U+1, 2], input_lengths, target_lengths, alpha [B, U+1], offset [B, 2])
//     -> costs [B], alpha, offset
//   EditCounts(predictions [B, K], targets [B, S], prediction_lengths [B], target_lengths [B]) -> counts [B, 3]
//
// Tokens, targets, durations, lengths and states are int64; the attributes are integers: `blank_index`, of the alignment
// `free_ends`, which older files lack, and of arcs `blanks`, how many of the K are, and `label_ends`. The gradient is
// that of sum(grad_costs * costs). What does not fit is refused with INVALID_ARGUMENT, by name.
//
// They are registered for the CPU, and those of lattices, where the library with the CUDA kernels lies beside
// this one, for CUDA too. There lengths and labels stay on the GPU and are not checked: cuda/cuda_api.h says what an
// impossible one counts as.
#include <cstdio>
#include <map>
#include <mutex>

#include "c_api.h"
#include "cuda_library.h"
#include "ort_host.h"
#include "shapes.h"

namespace exportable_losses {
namespace {

template <class Real>
constexpr ONNXTensorElementDataType element_type =
    sizeof(Real) == 4 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE;

// Where a kernel's tensors lie, and what computes there.
struct OnCpu {
  static constexpr const char* provider = "CPUExecutionProvider";

  template <class Loss, class Real, class... Inputs>
  static Batch<Real> batch_of(const Array<Real>& scores, const Inputs&... inputs) {
    return checked_batch<Loss>(scores, inputs...);
  }
  template <class Loss, class Real>
  static void compute(const Call& call, const Batch<Real>& batch, const Real* grad_costs, Real* costs, Real* grad) {
    Loss::compute(batch, grad_costs, costs, grad, call.threads());
  }
};

#ifndef EXPORTABLE_LOSSES_CUDA_PROVIDER  // a test without a GPU names another
#define EXPORTABLE_LOSSES_CUDA_PROVIDER "CUDAExecutionProvider"
#endif

struct OnCuda {
  static constexpr const char* provider = EXPORTABLE_LOSSES_CUDA_PROVIDER;

  template <class Loss, class Real, class... Inputs>
  static Batch<Real> batch_of(const Array<Real>& scores, const Inputs&... inputs) {
    return sized_batch<Loss>(scores, inputs...);
  }
  template <class Loss, class Real>
  static void compute(const Call& call, const Batch<Real>& x, const Real* grad_costs, Real* costs, Real* grad) {
    const CudaLibrary& cuda = *cuda_library();  // without it these kernels are not registered
    const CudaLoss& loss = of(cuda, Loss());
    const exportable_losses_batch batch{
        x.scores,  x.batch,         x.frames,        x.classes,        x.labels, x.item_stride, x.frame_stride,
        x.targets, x.target_stride, x.input_lengths, x.target_lengths, x.blank};
    void* stream = call.cuda_stream();
    const std::int64_t bytes = loss.workspace(x.batch, x.frames, x.labels, sizeof(Real), grad != nullptr);
    const Workspace workspace(cuda, bytes, stream);
    const char* failed = run(loss, batch, grad_costs, costs, grad, workspace.memory(), stream);
    if (failed != nullptr) throw std::runtime_error(failed);
  }

 private:
  static const CudaLoss& of(const CudaLibrary& cuda, CTC) { return cuda.ctc; }
  static const CudaLoss& of(const CudaLibrary& cuda, Transducer) { return cuda.transducer; }

  static const char* run(const CudaLoss& loss, const exportable_losses_batch& batch, const float* grad_costs,
                         float* costs, float* grad, void* workspace, void* stream) {
    return loss.of_float(&batch, grad_costs, costs, grad, workspace, stream);
  }
  static const char* run(const CudaLoss& loss, const exportable_losses_batch& batch, const double* grad_costs,
                         double* costs, double* grad, void* workspace, void* stream) {
    return loss.of_double(&batch, grad_costs, costs, grad, workspace, stream);
  }
};

inline std::int64_t attribute(const OrtApi& api, const OrtKernelInfo* info, const char* name) {
  std::int64_t value = 0;
  if (OrtStatus* status = api.KernelInfoGetAttribute_int64(info, name, &value)) {
    api.ReleaseStatus(status);
    throw std::invalid_argument(std::string(name) + ": got no such attribute, expected an integer");
  }
  return value;
}

inline std::int64_t attribute(const OrtApi& api, const OrtKernelInfo* info, const char* name, std::int64_t without) {
  std::int64_t value = 0;
  OrtStatus* status = api.KernelInfoGetAttribute_int64(info, name, &value);
  if (status == nullptr) return value;
  api.ReleaseStatus(status);
  return without;
}

template <class Loss, class Real, bool with_grad, class Device>
class Lattice {
 public:
  static constexpr const char *name = with_grad ? Loss::name_grad : Loss::name, *provider = Device::provider;
  static constexpr std::size_t inputs = with_grad ? 5 : 4, outputs = with_grad ? 2 : 1;
  static constexpr auto output_type(std::size_t) { return element_type<Real>; }
  static constexpr auto input_type(std::size_t i) {
    return i == 0 || i == 4 ? element_type<Real> : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
  }

  Lattice(const OrtApi& api, const OrtKernelInfo* info) : api_(api), blank_(attribute(api, info, "blank_index")) {}

  const OrtApi& api() const { return api_; }

  void compute(const Call& call) const {
    const auto scores = call.input<Real>(0);
    const auto batch = Device::template batch_of<Loss>(scores, call.input<std::int64_t>(1),
                                                       call.input<std::int64_t>(2), call.input<std::int64_t>(3), blank_);
    const Shape per_item{batch.batch};
    const Real* grad_costs = nullptr;
    if (with_grad) {
      const auto given = call.input<Real>(4);
      expect(given.shape == per_item, "grad_costs", given.shape, text(per_item));
      grad_costs = given.data;
    }
    Real* costs = call.output<Real>(0, per_item);
    Real* grad = with_grad ? call.output<Real>(1, scores.shape) : static_cast<Real*>(nullptr);
    Device::template compute<Loss>(call, batch, grad_costs, costs, grad);
  }

 private:
  const OrtApi& api_;
  std::int64_t blank_;
};

// What the kernels of the CPU alone have in common.
class CpuKernel {
 public:
  static constexpr const char* provider = OnCpu::provider;

  explicit CpuKernel(const OrtApi& api) : api_(api) {}
  const OrtApi& api() const { return api_; }

 private:
  const OrtApi& api_;
};

template <class Real>
constexpr auto real_or_integer(bool real) {
  return real ? element_type<Real> : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
}

// The batch in the first four inputs of a kernel of CTC's, or the arcs in those of one of arcs.
template <class Real>
Batch<Real> ctc_batch(const Call& call, std::int64_t blank) {
  return checked_batch<CTC>(call.input<Real>(0), call.input<std::int64_t>(1), call.input<std::int64_t>(2),
                            call.input<std::int64_t>(3), blank);
}
template <class Real>
ArcsBatch<Real> arcs_batch(const Call& call, std::int64_t blanks, bool label_ends) {
  return checked_arcs(call.input<Real>(0), call.input<std::int64_t>(1), call.input<std::int64_t>(2),
                      call.input<std::int64_t>(3), blanks, label_ends);
}

template <class Real>
class Forward : public CpuKernel {
 public:
  static constexpr const char* name = "CTCForward";
  static constexpr std::size_t inputs = 6, outputs = 3;
  static constexpr auto output_type(std::size_t) { return element_type<Real>; }
  static constexpr auto input_type(std::size_t i) { return real_or_integer<Real>(i == 0 || i > 3); }

  Forward(const OrtApi& api, const OrtKernelInfo* info) : CpuKernel(api), blank_(attribute(api, info, "blank_index")) {}

  void compute(const Call& call) const {
    const auto batch = ctc_batch<Real>(call, blank_);
    const auto alpha = call.input<Real>(4), offset = call.input<Real>(5);
    const Shape states{batch.batch, 2, batch.labels + 1}, pairs{batch.batch, 2};
    expect(alpha.shape == states, "alpha", alpha.shape, text(states));
    expect(offset.shape == pairs, "offset", offset.shape, text(pairs));
    Real* costs = call.output<Real>(0, {batch.batch});
    const Walk<Real> walk{alpha.data, offset.data, call.output<Real>(1, states), call.output<Real>(2, pairs)};
    ctc_forward(batch, walk, costs, call.threads());
  }

 private:
  std::int64_t blank_;
};

template <class Real>
class Posterior : public CpuKernel {
 public:
  static constexpr const char* name = "CTCPosterior";
  static constexpr std::size_t inputs = 4, outputs = 2;
  static constexpr auto output_type(std::size_t) { return element_type<Real>; }
  static constexpr auto input_type(std::size_t i) { return real_or_integer<Real>(i == 0); }

  Posterior(const OrtApi& api, const OrtKernelInfo* info) : CpuKernel(api), blank_(attribute(api, info, "blank_index")) {}

  void compute(const Call& call) const {
    const auto batch = ctc_batch<Real>(call, blank_);
    Real* costs = call.output<Real>(0, {batch.batch});
    ctc_posterior(batch, costs, call.output<Real>(1, {batch.batch, batch.frames, 2 * batch.labels + 1}), call.threads());
  }

 private:
  std::int64_t blank_;
};

template <class Real>
class Align : public CpuKernel {
 public:
  static constexpr const char* name = "CTCAlign";
  static constexpr std::size_t inputs = 4, outputs = 2;
  static constexpr auto output_type(std::size_t i) { return real_or_integer<Real>(i != 0); }
  static constexpr auto input_type(std::size_t i) { return real_or_integer<Real>(i == 0); }

  Align(const OrtApi& api, const OrtKernelInfo* info)
      : CpuKernel(api), blank_(attribute(api, info, "blank_index")), free_ends_(attribute(api, info, "free_ends", 0) != 0) {}

  void compute(const Call& call) const {
    const auto batch = ctc_batch<Real>(call, blank_);
    auto* states = call.output<std::int64_t>(0, {batch.batch, batch.frames});
    ctc_align(batch, free_ends_, states, call.output<Real>(1, {batch.batch}), call.threads());
  }

 private:
  std::int64_t blank_;
  bool free_ends_;
};

template <class Real>
class TransducerForward : public CpuKernel {
 public:
  static constexpr const char* name = "TransducerForward";
  static constexpr std::size_t inputs = 5, outputs = 3;
  static constexpr auto output_type(std::size_t) { return element_type<Real>; }
  static constexpr auto input_type(std::size_t i) { return real_or_integer<Real>(i == 0 || i > 2); }

  TransducerForward(const OrtApi& api, const OrtKernelInfo*) : CpuKernel(api) {}

  void compute(const Call& call) const {
    constexpr std::int64_t durations[] = {1, 0};
    const auto batch = checked_arcs<Real>(call.input<Real>(0), {durations, {2}}, call.input<std::int64_t>(1),
                                          call.input<std::int64_t>(2), 1, true);
    const auto alpha = call.input<Real>(3), offset = call.input<Real>(4);
    const Shape states{batch.batch, batch.labels + 1}, pairs{batch.batch, 2};
    expect(alpha.shape == states, "alpha", alpha.shape, text(states));
    expect(offset.shape == pairs, "offset", offset.shape, text(pairs));
    Real* costs = call.output<Real>(0, {batch.batch});
    const Walk<Real> walk{alpha.data, offset.data, call.output<Real>(1, states), call.output<Real>(2, pairs)};
    transducer_forward(batch, walk, costs, call.threads());
  }
};

template <class Real, bool with_grad>
class ArcsLoss : public CpuKernel {
 public:
  static constexpr const char* name = with_grad ? "ArcsLossGrad" : "ArcsLoss";
  static constexpr std::size_t inputs = with_grad ? 5 : 4, outputs = with_grad ? 2 : 1;
  static constexpr auto output_type(std::size_t) { return element_type<Real>; }
  static constexpr auto input_type(std::size_t i) { return real_or_integer<Real>(i == 0 || i == 4); }

  ArcsLoss(const OrtApi& api, const OrtKernelInfo* info)
      : CpuKernel(api), blanks_(attribute(api, info, "blanks")), label_ends_(attribute(api, info, "label_ends") != 0) {}

  void compute(const Call& call) const {
    const auto batch = arcs_batch<Real>(call, blanks_, label_ends_);
    const Shape per_item{batch.batch};
    const Real* grad_costs = nullptr;
    if (with_grad) {
      const auto weights = call.input<Real>(4);
      expect(weights.shape == per_item, "grad_costs", weights.shape, text(per_item));
      grad_costs = weights.data;
    }
    Real* costs = call.output<Real>(0, per_item);
    Real* grad = with_grad ? call.output<Real>(1, call.input<Real>(0).shape) : static_cast<Real*>(nullptr);
    arcs(batch, grad_costs, costs, grad, call.threads());
  }

 private:
  std::int64_t blanks_;
  bool label_ends_;
};

template <class Real>
class ArcsAlign : public CpuKernel {
 public:
  static constexpr const char* name = "ArcsAlign";
  static constexpr std::size_t inputs = 4, outputs = 3;
  static constexpr auto output_type(std::size_t i) { return real_or_integer<Real>(i == 2); }
  static constexpr auto input_type(std::size_t i) { return real_or_integer<Real>(i == 0); }

  ArcsAlign(const OrtApi& api, const OrtKernelInfo* info)
      : CpuKernel(api), blanks_(attribute(api, info, "blanks")), label_ends_(attribute(api, info, "label_ends") != 0) {}

  void compute(const Call& call) const {
    const auto batch = arcs_batch<Real>(call, blanks_, label_ends_);
    const Shape per_label{batch.batch, batch.labels};
    auto* starts = call.output<std::int64_t>(0, per_label);
    auto* kinds = call.output<std::int64_t>(1, per_label);
    arcs_align(batch, starts, kinds, call.output<Real>(2, {batch.batch}), call.threads());
  }

 private:
  std::int64_t blanks_;
  bool label_ends_;
};

class EditCounts : public CpuKernel {
 public:
  static constexpr const char* name = "EditCounts";
  static constexpr std::size_t inputs = 4, outputs = 1;
  static constexpr auto output_type(std::size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64; }
  static constexpr auto input_type(std::size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64; }

  EditCounts(const OrtApi& api, const OrtKernelInfo*) : CpuKernel(api) {}

  void compute(const Call& call) const {
    const auto sequences = checked_sequences(call.input<std::int64_t>(0), call.input<std::int64_t>(1),
                                             call.input<std::int64_t>(2), call.input<std::int64_t>(3));
    edit_counts(sequences, call.output<std::int64_t>(0, {sequences.batch, 3}), call.threads());
  }
};

// The table by which ONNX Runtime knows a kernel. Operators of one name differ in types or provider.
template <class Kernel>
struct Operator : OrtCustomOp {
  Operator() : OrtCustomOp{} {
    version = EXPORTABLE_LOSSES_ORT_VERSION;
    GetName = [](const OrtCustomOp*) { return Kernel::name; };
    GetExecutionProviderType = [](const OrtCustomOp*) { return Kernel::provider; };
    GetInputTypeCount = [](const OrtCustomOp*) { return Kernel::inputs; };
    GetInputType = [](const OrtCustomOp*, std::size_t i) { return Kernel::input_type(i); };
    GetOutputTypeCount = [](const OrtCustomOp*) { return Kernel::outputs; };
    GetOutputType = [](const OrtCustomOp*, std::size_t i) { return Kernel::output_type(i); };
    GetInputCharacteristic = GetOutputCharacteristic = [](const OrtCustomOp*, std::size_t) {
      return INPUT_OUTPUT_REQUIRED;
    };
    GetInputMemoryType = [](const OrtCustomOp*, std::size_t) { return OrtMemTypeDefault; };
    CreateKernelV2 = [](const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
      return guarded(*api, [&] { *kernel = new Kernel(*api, info); });
    };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      const auto& self = *static_cast<Kernel*>(kernel);
      return guarded(self.api(), [&] { self.compute(Call(self.api(), context)); });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
    GetStartVersion = [](const OrtCustomOp*) { return 1; };
    GetEndVersion = [](const OrtCustomOp*) { return 1; };
  }
};

template <class Kernel>
void add(const OrtApi& api, OrtCustomOpDomain* domain) {
  static const Operator<Kernel> of_kernel;
  ask(api.CustomOpDomain_Add(domain, &of_kernel));
}

template <class Loss, class Device>
void add_lattice(const OrtApi& api, OrtCustomOpDomain* domain) {
  add<Lattice<Loss, float, false, Device>>(api, domain), add<Lattice<Loss, double, false, Device>>(api, domain);
  add<Lattice<Loss, float, true, Device>>(api, domain), add<Lattice<Loss, double, true, Device>>(api, domain);
}

template <class Device>
void add_lattices(const OrtApi& api, OrtCustomOpDomain* domain) {
  add_lattice<CTC, Device>(api, domain), add_lattice<Transducer, Device>(api, domain);
}

// The domain with its operators, once for each ONNX Runtime in the process. Sessions point at it and
// it is never released: nobody tells us when the last of them has gone.
OrtCustomOpDomain* domain_for(const OrtApi& api) {
  static std::mutex mutex;
  static auto& domains = *new std::map<const OrtApi*, OrtCustomOpDomain*>;
  const std::lock_guard<std::mutex> lock(mutex);
  OrtCustomOpDomain*& domain = domains[&api];
  if (domain == nullptr) {
    OrtCustomOpDomain* made = nullptr;
    ask(api.CreateCustomOpDomain("exportable_losses", &made));
    try {
      if (OnCuda::provider != std::string(OnCpu::provider)) add_lattices<OnCpu>(api, made);
      if (cuda_library() != nullptr) add_lattices<OnCuda>(api, made);
      add<Forward<float>>(api, made), add<Forward<double>>(api, made);
      add<Posterior<float>>(api, made), add<Posterior<double>>(api, made);
      add<Align<float>>(api, made), add<Align<double>>(api, made);
      add<TransducerForward<float>>(api, made), add<TransducerForward<double>>(api, made);
      add<ArcsLoss<float, false>>(api, made), add<ArcsLoss<double, false>>(api, made);
      add<ArcsLoss<float, true>>(api, made), add<ArcsLoss<double, true>>(api, made);
      add<ArcsAlign<float>>(api, made), add<ArcsAlign<double>>(api, made);
      add<EditCounts>(api, made);
    } catch (...) {
      api.ReleaseCustomOpDomain(made);
      throw;
    }
    domain = made;
  }
  return domain;
}

}  // namespace
}  // namespace exportable_losses

extern "C" EXPORTABLE_LOSSES_API OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                           const OrtApiBase* host) {
  using namespace exportable_losses;
  const OrtApi* api = host->GetApi(EXPORTABLE_LOSSES_ORT_VERSION);
  if (api == nullptr) {  // CreateStatus is as old as the interface
    char message[128];
    std::snprintf(message, sizeof message, "exportable_losses: got ONNX Runtime %s, expected 1.%d or later",
                  host->GetVersionString(), int(EXPORTABLE_LOSSES_ORT_VERSION));
    return host->GetApi(1)->CreateStatus(ORT_FAIL, message);
  }
  return guarded(*api, [&] {
    instruction_set();  // throws where the environment asks for one that is none
    ask(api->AddCustomOpDomain(options, domain_for(*api)));
  });
}
