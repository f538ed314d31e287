#include "c_api.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstdint>
#include <exception>
#include <string>

#include "check.h"
#include "lattice.h"
#include "threads.h"

#ifndef EXPORTABLE_LOSSES_VERSION
#define EXPORTABLE_LOSSES_VERSION "unknown"
#endif

namespace {

using namespace exportable_losses;

template <class Real>
using Loss = void (*)(const Batch<Real>&, const Real*, Real*, Real*, const Parallel&);

template <class Real>
const char* run(Loss<Real> loss, const exportable_losses_batch* given, const Real* grad_costs, Real* costs,
                Real* grad, int threads) noexcept {
  static thread_local std::string message;
  try {
    const Batch<Real> batch{static_cast<const Real*>(given->scores),
                            given->batch,
                            given->frames,
                            given->classes,
                            given->labels,
                            given->item_stride,
                            given->frame_stride,
                            given->targets,
                            given->target_stride,
                            given->input_lengths,
                            given->target_lengths,
                            given->blank};
    message = what_is_wrong(batch);
    if (message.empty()) loss(batch, grad_costs, costs, grad, on_threads(threads));
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.empty() ? nullptr : message.c_str();
}

}  // namespace

extern "C" {

const char* exportable_losses_ctc_float(const exportable_losses_batch* batch, const float* grad_costs, float* costs,
                                        float* grad, int threads) {
  return run<float>(&ctc<float>, batch, grad_costs, costs, grad, threads);
}
const char* exportable_losses_ctc_double(const exportable_losses_batch* batch, const double* grad_costs,
                                         double* costs, double* grad, int threads) {
  return run<double>(&ctc<double>, batch, grad_costs, costs, grad, threads);
}
const char* exportable_losses_transducer_float(const exportable_losses_batch* batch, const float* grad_costs,
                                               float* costs, float* grad, int threads) {
  return run<float>(&transducer<float>, batch, grad_costs, costs, grad, threads);
}
const char* exportable_losses_transducer_double(const exportable_losses_batch* batch, const double* grad_costs,
                                                double* costs, double* grad, int threads) {
  return run<double>(&transducer<double>, batch, grad_costs, costs, grad, threads);
}

void exportable_losses_huge_pages(void* memory, int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr std::uintptr_t page = std::uintptr_t(1) << 21;
  const auto start = reinterpret_cast<std::uintptr_t>(memory);
  const std::uintptr_t first = (start + page - 1) & ~(page - 1), last = (start + bytes) & ~(page - 1);
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

const char* exportable_losses_instruction_set(void) { return instruction_set(); }
const char* exportable_losses_version(void) { return EXPORTABLE_LOSSES_VERSION; }
}
