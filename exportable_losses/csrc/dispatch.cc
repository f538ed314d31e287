// Which compiled copy of the core runs.
#include "dispatch.h"

#include <cstdlib>

#include "edits.h"
#include "lattice.h"

#define EXPORTABLE_LOSSES_DECLARE(isa)                                                             \
  namespace isa {                                                                                  \
  template <class Real>                                                                            \
  void ctc(const Batch<Real>&, const Real*, Real*, Real*, const Parallel&);                        \
  template <class Real>                                                                            \
  void ctc_forward(const Batch<Real>&, const Walk<Real>&, Real*, const Parallel&);                 \
  template <class Real>                                                                            \
  void transducer(const Batch<Real>&, const Real*, Real*, Real*, const Parallel&);                 \
  void edit_counts(const Sequences&, std::int64_t*, const Parallel&);                              \
  }

namespace exportable_losses {

EXPORTABLE_LOSSES_DECLARE(baseline)
#ifdef EXPORTABLE_LOSSES_X86
EXPORTABLE_LOSSES_DECLARE(avx2)
EXPORTABLE_LOSSES_DECLARE(avx512)
#endif

namespace {

Isa best() {
#ifdef EXPORTABLE_LOSSES_X86
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::baseline;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    return Isa::avx512;
  return Isa::avx2;
#endif
  return Isa::baseline;
}

Isa in_use() {
  static const Isa isa = chosen(std::getenv("EXPORTABLE_LOSSES_ISA"), best());
  return isa;
}

}  // namespace

const char* instruction_set() {
  switch (in_use()) {
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    default: break;
  }
#if defined(__aarch64__)
  return "neon";
#else
  return "baseline";
#endif
}

#ifdef EXPORTABLE_LOSSES_X86
#define EXPORTABLE_LOSSES_CALL(call)            \
  switch (in_use()) {                           \
    case Isa::avx512: return avx512::call;      \
    case Isa::avx2: return avx2::call;          \
    default: return baseline::call;             \
  }
#else
#define EXPORTABLE_LOSSES_CALL(call) return baseline::call;
#endif

template <class Real>
void ctc(const Batch<Real>& batch, const Real* grad_costs, Real* costs, Real* grad, const Parallel& parallel) {
  EXPORTABLE_LOSSES_CALL(ctc(batch, grad_costs, costs, grad, parallel))
}

template <class Real>
void ctc_forward(const Batch<Real>& batch, const Walk<Real>& walk, Real* costs, const Parallel& parallel) {
  EXPORTABLE_LOSSES_CALL(ctc_forward(batch, walk, costs, parallel))
}

template <class Real>
void transducer(const Batch<Real>& batch, const Real* grad_costs, Real* costs, Real* grad, const Parallel& parallel) {
  EXPORTABLE_LOSSES_CALL(transducer(batch, grad_costs, costs, grad, parallel))
}

void edit_counts(const Sequences& sequences, std::int64_t* counts, const Parallel& parallel) {
  EXPORTABLE_LOSSES_CALL(edit_counts(sequences, counts, parallel))
}

template void ctc(const Batch<float>&, const float*, float*, float*, const Parallel&);
template void ctc(const Batch<double>&, const double*, double*, double*, const Parallel&);
template void ctc_forward(const Batch<float>&, const Walk<float>&, float*, const Parallel&);
template void ctc_forward(const Batch<double>&, const Walk<double>&, double*, const Parallel&);
template void transducer(const Batch<float>&, const float*, float*, float*, const Parallel&);
template void transducer(const Batch<double>&, const double*, double*, double*, const Parallel&);

}  // namespace exportable_losses
