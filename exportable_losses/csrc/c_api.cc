#include "c_api.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstdint>
#include <cstdio>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include "check.h"
#include "edits.h"
#include "lattice.h"
#include "threads.h"

#ifndef EXPORTABLE_LOSSES_VERSION
#define EXPORTABLE_LOSSES_VERSION "unknown"
#endif

namespace {

using namespace exportable_losses;

template <class Score>
using Loss = void (*)(const Batch<Score>&, const Computed<Score>*, Computed<Score>*, Score*, const Parallel&);

// The last error of each thread. An array and no string: it is there when memory is not.
const char* say(const char* text) {
#ifdef __STDCPP_THREADS__
  thread_local
#endif
      static char message[512];
  std::snprintf(message, sizeof message, "%s", text);
  return message;
}

// Runs what may throw, and says what went wrong, or null.
template <class Work>
const char* guarded(const char* out_of_memory, const Work& work) noexcept {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return say(out_of_memory);
  } catch (const std::length_error&) {  // more than a vector holds
    return say(out_of_memory);
  } catch (const std::exception& error) {
    return say(error.what());
  } catch (...) {
    return say("an unknown error");
  }
}

// Runs `compute` on the batch, which is checked and has items.
template <class Score, class Compute>
const char* run(const exportable_losses_batch* given, const Computed<Score>* costs, const char* out_of_memory,
                const Compute& compute) noexcept {
  if (given == nullptr) return say("batch: got null, expected a batch");
  return guarded(out_of_memory, [&]() -> const char* {
    Batch<Score> batch{static_cast<const Score*>(given->scores),
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
    const std::string wrong = what_is_wrong(batch);
    if (!wrong.empty()) return say(wrong.c_str());
    if (batch.batch == 0) return nullptr;
    if (costs == nullptr) return say("costs: got null, expected an array");
    if (batch.frames == 0) batch.item_stride = 0;  // arrays of no elements may be null, and stay so
    if (batch.labels == 0) batch.target_stride = 0;
    return compute(batch);
  });
}

template <class Score>
const char* run(Loss<Score> loss, const exportable_losses_batch* given, const Computed<Score>* grad_costs,
                Computed<Score>* costs, void* grad, int threads) noexcept {
  constexpr auto out_of_memory = "out of memory: what costs and grad hold means nothing";
  return run<Score>(given, costs, out_of_memory, [&](const Batch<Score>& batch) {
    loss(batch, grad_costs, costs, static_cast<Score*>(grad), on_threads(threads));
    return static_cast<const char*>(nullptr);
  });
}

// Calls on(state), whose arrays are there.
template <class Real, class On>
const char* with_state(const exportable_losses_walk* walk, const On& on) {
  if (walk == nullptr) return say("walk: got null, expected a state to go on from");
  const Walk<Real> state{static_cast<const Real*>(walk->alpha), static_cast<const Real*>(walk->offset),
                         static_cast<Real*>(walk->alpha_out), static_cast<Real*>(walk->offset_out)};
  if (!state.alpha || !state.offset || !state.alpha_out || !state.offset_out)
    return say("walk: got null, expected four arrays");
  on(state);
  return nullptr;
}
constexpr auto no_state = "out of memory: what costs and the state hold means nothing";

template <class Score>
const char* run(const exportable_losses_batch* given, const exportable_losses_walk* walk, Computed<Score>* costs,
                int threads) noexcept {
  return run<Score>(given, costs, no_state, [&](const Batch<Score>& batch) {
    return with_state<Computed<Score>>(
        walk, [&](const Walk<Computed<Score>>& state) { ctc_forward(batch, state, costs, on_threads(threads)); });
  });
}

// Runs compute(batch, threads) where it has somewhere to write to.
template <class Score, class Compute>
const char* run_to(const exportable_losses_batch* given, const char* name, const void* to, const Computed<Score>* costs,
                   int threads, const Compute& compute) noexcept {
  constexpr auto out_of_memory = "out of memory: what was written means nothing";
  return run<Score>(given, costs, out_of_memory, [&](const Batch<Score>& batch) -> const char* {
    if (to == nullptr && batch.frames > 0) {
      const std::string wrong = std::string(name) + ": got null, expected an array";
      return say(wrong.c_str());
    }
    compute(batch, on_threads(threads));
    return nullptr;
  });
}

ArcShape shape_of(const exportable_losses_arc_shape& given) {
  return {given.kinds, given.blanks, given.duration, given.label_ends != 0};
}

template <class Score>
const char* run(const exportable_losses_batch* given, const exportable_losses_emissions* of,
                const Computed<Score>* grad_costs, Computed<Score>* costs, void* grad, int threads) noexcept {
  constexpr auto out_of_memory = "out of memory: what costs and grad hold means nothing";
  return run<Score>(given, costs, out_of_memory, [&](const Batch<Score>& batch) {
    if (of == nullptr) return say("emissions: got null, expected what the arcs are");
    const Emissions emitted{shape_of(of->shape), of->durations,        of->token, of->logit,           of->hybrid,
                            of->constrained != 0, of->sigma, of->fastemit_lambda, of->delay_penalty};
    const std::string wrong = what_is_wrong(batch, emitted);
    if (!wrong.empty()) return say(wrong.c_str());
    emissions(batch, emitted, grad_costs, costs, static_cast<Score*>(grad), on_threads(threads));
    return static_cast<const char*>(nullptr);
  });
}

template <class Real, class On>
const char* run(const exportable_losses_arcs* given, const Real* costs, const char* out_of_memory, const On& on) noexcept {
  if (given == nullptr) return say("arcs: got null, expected arcs");
  return guarded(out_of_memory, [&]() -> const char* {
    const ArcsBatch<Real> batch{static_cast<const Real*>(given->arcs), given->batch,          given->frames, given->labels,
                                given->input_lengths,                  given->target_lengths, shape_of(given->shape)};
    const std::string wrong = what_is_wrong(batch);
    if (!wrong.empty()) return say(wrong.c_str());
    if (batch.batch == 0) return nullptr;
    if (costs == nullptr) return say("costs: got null, expected an array");
    return on(batch);
  });
}

template <class Real>
const char* run(const exportable_losses_arcs* given, const Real* grad_costs, Real* costs, Real* grad,
                int threads) noexcept {
  constexpr auto out_of_memory = "out of memory: what costs and grad hold means nothing";
  return run<Real>(given, costs, out_of_memory, [&](const ArcsBatch<Real>& batch) {
    arcs(batch, grad_costs, costs, grad, on_threads(threads));
    return static_cast<const char*>(nullptr);
  });
}

template <class Real>
const char* run(const exportable_losses_arcs* given, const exportable_losses_walk* walk, Real* costs,
                int threads) noexcept {
  return run<Real>(given, costs, no_state, [&](const ArcsBatch<Real>& batch) {
    const ArcShape& shape = batch.shape;
    if (shape.kinds != 2 || shape.blanks != 1 || shape.duration[0] != 1 || shape.duration[1] != 0)
      return say("shape: got other arcs, expected a blank of duration 1 and a label of duration 0");
    return with_state<Real>(
        walk, [&](const Walk<Real>& state) { transducer_forward(batch, state, costs, on_threads(threads)); });
  });
}

template <class Score>
const char* run(const exportable_losses_picks* given, const Computed<Score>* grad, void* out, int threads) noexcept {
  if (given == nullptr) return say("picks: got null, expected rows");
  return guarded("out of memory: what was written means nothing", [&]() -> const char* {
    const auto* scores = static_cast<const Score*>(given->scores);
    const Picks picks{given->rows, given->classes, given->row_stride, given->picked, given->kinds};
    const std::string wrong = what_is_wrong(scores, picks);
    if (!wrong.empty()) return say(wrong.c_str());
    if (picks.rows == 0 || (grad == nullptr && picks.kinds == 0)) return nullptr;
    if (out == nullptr) return say("out: got null, expected an array");
    if (grad == nullptr)
      pick(scores, picks, static_cast<Computed<Score>*>(out), on_threads(threads));
    else
      pick_grad(scores, picks, grad, static_cast<Score*>(out), on_threads(threads));
    return nullptr;
  });
}

}  // namespace

extern "C" {

#define EXPORTABLE_LOSSES_DOORS(name, Score, Real, Grad)                                                           \
  const char* exportable_losses_ctc_##name(const exportable_losses_batch* batch, const Real* grad_costs, Real* costs, \
                                           Grad* grad, int threads) {                                              \
    return run<Score>(&ctc<Score>, batch, grad_costs, costs, grad, threads);                                       \
  }                                                                                                                \
  const char* exportable_losses_ctc_forward_##name(const exportable_losses_batch* batch,                           \
                                                   const exportable_losses_walk* walk, Real* costs, int threads) { \
    return run<Score>(batch, walk, costs, threads);                                                                \
  }                                                                                                                \
  const char* exportable_losses_ctc_posterior_##name(const exportable_losses_batch* given, Real* costs, Real* posteriors, \
                                                     int threads) {                                                \
    return run_to<Score>(given, "posteriors", posteriors, costs, threads, [&](const auto& batch, const auto& parallel) { \
      ctc_posterior(batch, costs, posteriors, parallel);                                                           \
    });                                                                                                            \
  }                                                                                                                \
  const char* exportable_losses_ctc_align_##name(const exportable_losses_batch* given, int free_ends, int64_t* states, \
                                                 Real* scores, int threads) {                                      \
    return run_to<Score>(given, "states", states, scores, threads, [&](const auto& batch, const auto& parallel) {  \
      ctc_align(batch, free_ends != 0, states, scores, parallel);                                                  \
    });                                                                                                            \
  }                                                                                                                \
  const char* exportable_losses_emissions_##name(const exportable_losses_batch* batch,                             \
                                                 const exportable_losses_emissions* of, const Real* grad_costs,    \
                                                 Real* costs, Grad* grad, int threads) {                           \
    return run<Score>(batch, of, grad_costs, costs, grad, threads);                                                \
  }                                                                                                                \
  const char* exportable_losses_transducer_##name(const exportable_losses_batch* batch, const Real* grad_costs,    \
                                                  Real* costs, Grad* grad, int threads) {                          \
    return run<Score>(&transducer<Score>, batch, grad_costs, costs, grad, threads);                                \
  }
EXPORTABLE_LOSSES_DOORS(float, float, float, float)
EXPORTABLE_LOSSES_DOORS(double, double, double, double)
EXPORTABLE_LOSSES_DOORS(bfloat16, bfloat16, float, uint16_t)
EXPORTABLE_LOSSES_DOORS(float16, float16, float, uint16_t)

#define EXPORTABLE_LOSSES_PICK(name, Score, Real)                                                                  \
  const char* exportable_losses_pick_##name(const exportable_losses_picks* picks, const Real* grad, void* out,     \
                                            int threads) {                                                         \
    return run<Score>(picks, grad, out, threads);                                                                  \
  }
EXPORTABLE_LOSSES_PICK(float, float, float)
EXPORTABLE_LOSSES_PICK(double, double, double)
EXPORTABLE_LOSSES_PICK(bfloat16, bfloat16, float)
EXPORTABLE_LOSSES_PICK(float16, float16, float)

#define EXPORTABLE_LOSSES_ARCS(Real)                                                                             \
  const char* exportable_losses_arcs_##Real(const exportable_losses_arcs* given, const Real* grad_costs, Real* costs, \
                                            Real* grad, int threads) {                                           \
    return run<Real>(given, grad_costs, costs, grad, threads);                                                   \
  }                                                                                                              \
  const char* exportable_losses_arcs_align_##Real(const exportable_losses_arcs* given, int64_t* starts, int64_t* kinds, \
                                                  Real* scores, int threads) {                                   \
    constexpr auto out_of_memory = "out of memory: what was written means nothing";                              \
    return run<Real>(given, scores, out_of_memory, [&](const ArcsBatch<Real>& batch) {                           \
      if (batch.labels > 0 && (starts == nullptr || kinds == nullptr))                                           \
        return say("starts, kinds: got null, expected arrays");                                                  \
      arcs_align(batch, starts, kinds, scores, on_threads(threads));                                             \
      return static_cast<const char*>(nullptr);                                                                  \
    });                                                                                                          \
  }                                                                                                              \
  const char* exportable_losses_transducer_forward_##Real(const exportable_losses_arcs* given,                   \
                                                          const exportable_losses_walk* walk, Real* costs, int threads) { \
    return run<Real>(given, walk, costs, threads);                                                               \
  }
EXPORTABLE_LOSSES_ARCS(float)
EXPORTABLE_LOSSES_ARCS(double)

const char* exportable_losses_edit_counts(const exportable_losses_sequences* given, int64_t* counts, int threads) {
  if (given == nullptr) return say("sequences: got null, expected sequences");
  return guarded("out of memory: what counts hold means nothing", [&]() -> const char* {
    const Sequences sequences{given->predictions,    given->targets, given->prediction_lengths,
                              given->target_lengths, given->batch,   given->prediction_width,
                              given->target_width};
    const std::string wrong = what_is_wrong(sequences);
    if (!wrong.empty()) return say(wrong.c_str());
    if (sequences.batch == 0) return nullptr;
    if (counts == nullptr) return say("counts: got null, expected an array");
    edit_counts(sequences, counts, on_threads(threads));
    return nullptr;
  });
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

const char* exportable_losses_instruction_set(void) {
  try {
    return instruction_set();
  } catch (const std::exception&) {
    return nullptr;
  }
}
const char* exportable_losses_version(void) { return EXPORTABLE_LOSSES_VERSION; }
}
