// The lattice losses: CTC (Graves et al. 2006) and the transducer (Graves 2012).
//
// The core knows memory, sizes and threads; neither torch nor ONNX Runtime. Its doors check what
// they are given before they call it (see check.h); it reads and writes nothing outside.
#pragma once

#include <cstdint>
#include <functional>

namespace exportable_losses {

// Runs work(i) for every i in [0, count), in any order, on as many threads as the caller has.
using Parallel = std::function<void(std::int64_t count, const std::function<void(std::int64_t)>& work)>;

// Numbers of 16 bits as they lie in memory.
struct bfloat16 {
  std::uint16_t bits;
};
struct float16 {
  std::uint16_t bits;
};

// The type in which scores are computed, and of their costs.
template <class Score>
struct ComputedAs {
  using type = Score;
};
template <>
struct ComputedAs<bfloat16> {
  using type = float;
};
template <>
struct ComputedAs<float16> {
  using type = float;
};
template <class Score>
using Computed = typename ComputedAs<Score>::type;

// What both losses are given. Lengths are absolute; all sizes are in elements.
template <class Score>
struct Batch {
  const Score* scores;  // CTC: log-probabilities [B, T, C]; transducer: logits [B, T, U+1, V]
  std::int64_t batch, frames, classes;
  std::int64_t labels;  // S or U: the width of targets
  std::int64_t item_stride, frame_stride;  // of scores; a row of classes is contiguous
  const std::int64_t* targets;
  std::int64_t target_stride;  // between items; an item's labels are contiguous
  const std::int64_t* input_lengths;
  const std::int64_t* target_lengths;
  std::int64_t blank;
};

// Costs [B] in nats, infinite where no alignment exists, and a NaN where the frames of an item have a NaN or
// +inf among what its target reads. With grad, also the gradient of sum(grad_costs * costs) in the scores,
// contiguous in their shape and rounded once to their type; grad_costs may be null for ones. The gradient of an
// infinite cost is zero, that of a NaN is one. CTC's gradient is torch's: exp(log_probs) minus the occupation
// of the lattice.
template <class Score>
void ctc(const Batch<Score>& batch, const Computed<Score>* grad_costs, Computed<Score>* costs, Score* grad,
         const Parallel& parallel);

// Where a forward recursion stands between two frames, for a batch: log-probabilities (of CTC's blanks and labels, or of
// a transducer's u) without what all of an item's have in common, and that, as the sum of a number and its rounding.
template <class Real>
struct Walk {
  const Real *alpha, *offset;    // before the frames of the batch: [B, 2, S+1] or [B, U+1], and [B, 2]
  Real *alpha_out, *offset_out;  // behind them
};

// Costs [B] if no more frames come.
template <class Score>
void ctc_forward(const Batch<Score>& batch, const Walk<Computed<Score>>& walk, Computed<Score>* costs,
                 const Parallel& parallel);

// Costs [B] and the probability of each state at each frame [B, T, 2S+1], blanks at the even ones; zero behind an item's
// frames and states, and of an infinite cost.
template <class Score>
void ctc_posterior(const Batch<Score>& batch, Computed<Score>* costs, Computed<Score>* posteriors,
                   const Parallel& parallel);

// The state of the best path at each frame [B, T], and the path's log-probability [B]. States are -1 behind an item's
// frames, and where the log-probability is no number. Of equals, from the end, a path that stayed goes before one that
// stepped, and that before one that skipped. With free_ends the frames before the first label and behind the last one
// emit anything, of probability one.
template <class Score>
void ctc_align(const Batch<Score>& batch, bool free_ends, std::int64_t* states, Computed<Score>* scores,
               const Parallel& parallel);

template <class Score>
void transducer(const Batch<Score>& batch, const Computed<Score>* grad_costs, Computed<Score>* costs, Score* grad,
                const Parallel& parallel);

// The arcs that leave each node (t, u) of a transducer's lattice: the first of them, blanks, lead to
// (t + duration, u), the others, labels, to (t + duration, u + 1).
struct ArcShape {
  std::int64_t kinds, blanks;
  const std::int64_t* duration;  // [kinds], in frames; of blanks above 0
  bool label_ends;               // whether a label may lead to the last frame's end, and so end a path
};

// Lattices whose arcs are given by their log-probabilities [B, T, U+1, kinds], contiguous.
template <class Real>
struct ArcsBatch {
  const Real* arcs;
  std::int64_t batch, frames, labels;
  const std::int64_t* input_lengths;
  const std::int64_t* target_lengths;
  ArcShape shape;
};

// Costs [B] and the gradient in the arcs, as above; that of an arc is minus its occupation.
template <class Real>
void arcs(const ArcsBatch<Real>& batch, const Real* grad_costs, Real* costs, Real* grad, const Parallel& parallel);

// The best path: the frame that each label's arc leaves and which of the labels' arcs it is [B, U], zero behind an item's
// labels and where there is no path, and the path's log-probability [B]. Of equals, from the end, the first in the order
// of the arcs.
template <class Real>
void arcs_align(const ArcsBatch<Real>& batch, std::int64_t* starts, std::int64_t* kinds, Real* scores,
                const Parallel& parallel);

// Costs [B] if no more frames come, of arcs {blank, label} of durations 1 and 0.
template <class Real>
void transducer_forward(const ArcsBatch<Real>& batch, const Walk<Real>& walk, Real* costs, const Parallel& parallel);

// What the arcs are of logits [B, T, U+1, V + D], whose last D are of durations.
struct Emissions {
  ArcShape shape;
  std::int64_t durations;     // D
  const std::int64_t* token;  // [kinds]: a blank, or -1 for the node's next label
  const std::int64_t* logit;  // [kinds]: which of the D says how long the arc lasts, or -1
  std::int64_t hybrid;        // the blank whose logit is of a sigmoid, the labels' being of a softmax; or -1
  bool constrained;           // a label's arc takes the blank behind it, of (t, u + 1), too
  double sigma;               // off the logarithm of each token's probability
  double fastemit_lambda;     // by how much more a label's token counts in the gradient
  double delay_penalty;       // times how many frames an arc of a label comes before the middle of its item: on it
};

// The transducer of any arcs; `transducer` has {blank, label} of durations 1 and 0.
template <class Score>
void emissions(const Batch<Score>& batch, const Emissions& of, const Computed<Score>* grad_costs,
               Computed<Score>* costs, Score* grad, const Parallel& parallel);

// Some classes of each row of scores, or -1 for none; a row of classes is contiguous.
struct Picks {
  std::int64_t rows, classes, row_stride;
  const std::int64_t* picked;  // [rows, kinds]
  std::int64_t kinds;
};

// The log-probabilities [rows, kinds] of the picked classes, -inf of none. A row of none is not read.
template <class Score>
void pick(const Score* scores, const Picks& of, Computed<Score>* log_probs, const Parallel& parallel);

// The gradient [rows, classes] in the scores, of that in the log-probabilities [rows, kinds]; its rows lie as far apart
// as those of the scores, whose place it may take.
template <class Score>
void pick_grad(const Score* scores, const Picks& of, const Computed<Score>* grad, Score* to, const Parallel& parallel);

// The instruction set in use: "avx512", "avx2", "neon" or "baseline". EXPORTABLE_LOSSES_ISA names a lower one; where
// it names none, this and every loss throws std::invalid_argument.
const char* instruction_set();

}  // namespace exportable_losses

// What is compiled of the losses, in the namespace that has their templates: each type of scores.
#define EXPORTABLE_LOSSES_FOR(Score)                                                                             \
  template void ctc(const Batch<Score>&, const Computed<Score>*, Computed<Score>*, Score*, const Parallel&);     \
  template void ctc_forward(const Batch<Score>&, const Walk<Computed<Score>>&, Computed<Score>*, const Parallel&); \
  template void ctc_posterior(const Batch<Score>&, Computed<Score>*, Computed<Score>*, const Parallel&);         \
  template void ctc_align(const Batch<Score>&, bool, std::int64_t*, Computed<Score>*, const Parallel&);          \
  template void transducer(const Batch<Score>&, const Computed<Score>*, Computed<Score>*, Score*, const Parallel&); \
  template void emissions(const Batch<Score>&, const Emissions&, const Computed<Score>*, Computed<Score>*, Score*, \
                          const Parallel&);                                                                      \
  template void pick(const Score*, const Picks&, Computed<Score>*, const Parallel&);                             \
  template void pick_grad(const Score*, const Picks&, const Computed<Score>*, Score*, const Parallel&);
#define EXPORTABLE_LOSSES_FOR_REALS                                                                    \
  template void arcs(const ArcsBatch<double>&, const double*, double*, double*, const Parallel&);      \
  template void arcs(const ArcsBatch<float>&, const float*, float*, float*, const Parallel&);
// What gains nothing by wider vectors is compiled once, for the baseline.
#define EXPORTABLE_LOSSES_ONCE_FOR_REALS                                                                        \
  template void arcs_align(const ArcsBatch<double>&, std::int64_t*, std::int64_t*, double*, const Parallel&);   \
  template void arcs_align(const ArcsBatch<float>&, std::int64_t*, std::int64_t*, float*, const Parallel&);     \
  template void transducer_forward(const ArcsBatch<double>&, const Walk<double>&, double*, const Parallel&);    \
  template void transducer_forward(const ArcsBatch<float>&, const Walk<float>&, float*, const Parallel&);
#define EXPORTABLE_LOSSES_FOR_EVERY_TYPE                                                \
  EXPORTABLE_LOSSES_FOR_REALS                                                           \
  EXPORTABLE_LOSSES_FOR(double)                                                         \
  EXPORTABLE_LOSSES_FOR(float)                                                          \
  EXPORTABLE_LOSSES_FOR(bfloat16)                                                       \
  EXPORTABLE_LOSSES_FOR(float16)
