// Which compiled copy of the core runs.
#include "dispatch.h"

#include <cstdlib>

#include "edits.h"
#include "lattice.h"

#define EXPORTABLE_LOSSES_DECLARE(isa)                                                                              \
  namespace isa {                                                                                                   \
  template <class Score>                                                                                            \
  void ctc(const Batch<Score>&, const Computed<Score>*, Computed<Score>*, Score*, const Parallel&);                 \
  template <class Score>                                                                                            \
  void ctc_forward(const Batch<Score>&, const Walk<Computed<Score>>&, Computed<Score>*, const Parallel&);           \
  template <class Score>                                                                                            \
  void ctc_posterior(const Batch<Score>&, Computed<Score>*, Computed<Score>*, const Parallel&);                     \
  template <class Score>                                                                                            \
  void ctc_align(const Batch<Score>&, bool, std::int64_t*, Computed<Score>*, const Parallel&);                      \
  template <class Score>                                                                                            \
  void transducer(const Batch<Score>&, const Computed<Score>*, Computed<Score>*, Score*, const Parallel&);          \
  template <class Score>                                                                                            \
  void emissions(const Batch<Score>&, const Emissions&, const Computed<Score>*, Computed<Score>*, Score*,           \
                 const Parallel&);                                                                                  \
  template <class Score>                                                                                            \
  void pick(const Score*, const Picks&, Computed<Score>*, const Parallel&);                                         \
  template <class Score>                                                                                            \
  void pick_grad(const Score*, const Picks&, const Computed<Score>*, Score*, const Parallel&);                      \
  template <class Real>                                                                                             \
  void arcs(const ArcsBatch<Real>&, const Real*, Real*, Real*, const Parallel&);                                    \
  void edit_counts(const Sequences&, std::int64_t*, const Parallel&);                                               \
  }

namespace exportable_losses {

EXPORTABLE_LOSSES_DECLARE(baseline)
namespace baseline {
template <class Real>
void transducer_forward(const ArcsBatch<Real>&, const Walk<Real>&, Real*, const Parallel&);
template <class Real>
void arcs_align(const ArcsBatch<Real>&, std::int64_t*, std::int64_t*, Real*, const Parallel&);
}
#ifdef EXPORTABLE_LOSSES_X86
EXPORTABLE_LOSSES_DECLARE(avx2)
EXPORTABLE_LOSSES_DECLARE(avx512)
#endif

namespace {

Isa best() {
#ifdef EXPORTABLE_LOSSES_X86
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c"))
    return Isa::baseline;
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
    default: return baseline_name;
  }
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

template <class Score>
void ctc(const Batch<Score>& batch, const Computed<Score>* grad_costs, Computed<Score>* costs, Score* grad,
         const Parallel& parallel) {
  EXPORTABLE_LOSSES_CALL(ctc(batch, grad_costs, costs, grad, parallel))
}

template <class Score>
void ctc_forward(const Batch<Score>& batch, const Walk<Computed<Score>>& walk, Computed<Score>* costs,
                 const Parallel& parallel) {
  EXPORTABLE_LOSSES_CALL(ctc_forward(batch, walk, costs, parallel))
}

template <class Score>
void ctc_posterior(const Batch<Score>& batch, Computed<Score>* costs, Computed<Score>* posteriors,
                   const Parallel& parallel) {
  EXPORTABLE_LOSSES_CALL(ctc_posterior(batch, costs, posteriors, parallel))
}

template <class Score>
void ctc_align(const Batch<Score>& batch, bool free_ends, std::int64_t* states, Computed<Score>* scores,
               const Parallel& parallel) {
  EXPORTABLE_LOSSES_CALL(ctc_align(batch, free_ends, states, scores, parallel))
}

template <class Score>
void transducer(const Batch<Score>& batch, const Computed<Score>* grad_costs, Computed<Score>* costs, Score* grad,
                const Parallel& parallel) {
  EXPORTABLE_LOSSES_CALL(transducer(batch, grad_costs, costs, grad, parallel))
}

template <class Score>
void emissions(const Batch<Score>& batch, const Emissions& of, const Computed<Score>* grad_costs,
               Computed<Score>* costs, Score* grad, const Parallel& parallel) {
  EXPORTABLE_LOSSES_CALL(emissions(batch, of, grad_costs, costs, grad, parallel))
}

template <class Real>
void arcs(const ArcsBatch<Real>& batch, const Real* grad_costs, Real* costs, Real* grad, const Parallel& parallel) {
  EXPORTABLE_LOSSES_CALL(arcs(batch, grad_costs, costs, grad, parallel))
}

template <class Real>
void arcs_align(const ArcsBatch<Real>& batch, std::int64_t* starts, std::int64_t* kinds, Real* scores,
                const Parallel& parallel) {
  baseline::arcs_align(batch, starts, kinds, scores, parallel);
}

template <class Real>
void transducer_forward(const ArcsBatch<Real>& batch, const Walk<Real>& walk, Real* costs, const Parallel& parallel) {
  baseline::transducer_forward(batch, walk, costs, parallel);
}

template <class Score>
void pick(const Score* scores, const Picks& of, Computed<Score>* log_probs, const Parallel& parallel) {
  EXPORTABLE_LOSSES_CALL(pick(scores, of, log_probs, parallel))
}

template <class Score>
void pick_grad(const Score* scores, const Picks& of, const Computed<Score>* grad, Score* to, const Parallel& parallel) {
  EXPORTABLE_LOSSES_CALL(pick_grad(scores, of, grad, to, parallel))
}

void edit_counts(const Sequences& sequences, std::int64_t* counts, const Parallel& parallel) {
  EXPORTABLE_LOSSES_CALL(edit_counts(sequences, counts, parallel))
}

EXPORTABLE_LOSSES_FOR_EVERY_TYPE
EXPORTABLE_LOSSES_ONCE_FOR_REALS

}  // namespace exportable_losses
