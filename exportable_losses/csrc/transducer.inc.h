// The transducer: Graves 2012, section 2.4, and those of other arcs, for one instruction set.
//
// Three passes. The first reads each row of logits once and keeps what normalises it and the
// probabilities of the arcs that leave the node (emissions.inc.h). The second walks the lattice
// (arcs.inc.h). The third reads the logits again and writes the gradient.
#pragma once

#include <algorithm>
#include <vector>

#include "arcs.inc.h"
#include "emissions.inc.h"
#include "lattice.h"
#include "rows.inc.h"
#include "wide.h"

namespace exportable_losses {
namespace ISA {

// What the passes share of one item: its arcs, and what normalises the tokens of each row, by frame.
template <class Real>
struct Grid {
  Arcs<Real> arcs;
  std::vector<Normaliser<Real>> tokens;

  void shape(std::int64_t frames, std::int64_t labels, const ArcShape& of, bool with_grad) {
    arcs.shape(frames, labels, of);
    if (with_grad) tokens.resize(frames * (labels + 1));
  }
};

// The arcs of the nodes (t, 0..U) of one frame.
template <class Score>
void read_frame(const Batch<Score>& batch, const Emissions& of, std::int64_t item, std::int64_t t,
                Frame<Score>& frame, Grid<Computed<Score>>& grid) {
  using Real = Computed<Score>;
  Arcs<Real>& arcs = grid.arcs;
  const Score* row = batch.scores + item * batch.item_stride + t * batch.frame_stride;
  const std::int64_t* targets = batch.targets + item * batch.target_stride;
  const double early = of.delay_penalty * (double(arcs.frames - 1) / 2 - double(t));
  const Wide<Real> on_blank = exp_wide(Real(-of.sigma)), on_label = exp_wide(Real(early - of.sigma));
  frame.read(row, targets, arcs.labels);
  if (!grid.tokens.empty())
    for (std::int64_t u = 0; u <= arcs.labels; ++u) grid.tokens[t * arcs.width() + u] = frame.tokens(u);
  for (std::int64_t k = 0; k < arcs.kinds(); ++k) {
    const std::int64_t d = of.shape.duration[k];
    if (!arcs.leads(t, 0, k, d, of.shape.label_ends)) continue;
    const Wide<Real> factor = arcs.is_label(k) ? on_label : on_blank;
    for (std::int64_t u = 0; u < arcs.width() - arcs.is_label(k); ++u) {
      const Wide<Real> arc = times(frame.arc(k, u), factor);
      const bool takes_blank = of.constrained && arcs.is_label(k);
      arcs.set(t, u, k, takes_blank ? times(arc, times(frame.blank(u + 1), on_blank)) : arc);
    }
  }
}

// The gradient of the nodes (t, 0..U) of one frame, and zero for those the item does not have.
template <class Score>
void gradient_frame(const Batch<Score>& batch, const Emissions& of, std::int64_t item, std::int64_t t,
                    const Grid<Computed<Score>>& grid, Computed<Score> weight, Frame<Score>& frame, Score* grad) {
  using Real = Computed<Score>;
  constexpr bool narrower = !std::is_same<Score, Real>::value;
  std::vector<Real> wide_slopes(narrower ? batch.classes : 0);
  const Arcs<Real>& arcs = grid.arcs;
  const std::int64_t classes = batch.classes;
  const std::int64_t* targets = batch.targets + item * batch.target_stride;
  const Score* row = batch.scores + item * batch.item_stride + t * batch.frame_stride;
  if (t < arcs.frames) frame.read_durations(row, arcs.width());
  for (std::int64_t u = 0; u <= batch.labels; ++u, row += classes, grad += classes) {
    if (t >= arcs.frames || u > arcs.labels) {
      std::fill(grad, grad + classes, Score{});
      continue;
    }
    Real before = 0;  // the labels' arcs that have taken this node's blank
    if (of.constrained && u > 0)
      for (std::int64_t k = arcs.blanks; k < arcs.kinds(); ++k) before += weight * arcs.occupation(t, u - 1, k);
    Real* slopes = wide_slopes.data();
    if constexpr (!narrower) slopes = grad;
    const auto taken = [&](std::int64_t k) { return weight * arcs.occupation(t, u, k); };
    frame.gradient(row, grid.tokens[t * arcs.width() + u], u < arcs.labels ? targets[u] : -1, u, taken, before, slopes);
    if constexpr (narrower) narrow(slopes, classes, grad);
  }
}

template <class Score>
void emissions(const Batch<Score>& batch, const Emissions& of, const Computed<Score>* grad_costs,
               Computed<Score>* costs, Score* grad, const Parallel& parallel) {
  using Real = Computed<Score>;
  std::vector<Grid<Real>> grids(batch.batch);
  for (std::int64_t b = 0; b < batch.batch; ++b)
    grids[b].shape(batch.input_lengths[b], batch.target_lengths[b], of.shape, grad != nullptr);
  const std::int64_t chunk = 4, chunks = (batch.frames + chunk - 1) / chunk;
  auto for_frames = [&](const auto& work) {  // over items and frames alike, so that one item is enough
    parallel(batch.batch * chunks, [&](std::int64_t i) {
      const std::int64_t b = i / chunks, first = i % chunks * chunk;
      Frame<Score> frame(batch.classes, batch.labels + 1, of);
      for (std::int64_t t = first; t < std::min(first + chunk, batch.frames); ++t) work(b, t, frame);
    });
  };
  for_frames([&](std::int64_t b, std::int64_t t, Frame<Score>& frame) {
    if (t < grids[b].arcs.frames) read_frame(batch, of, b, t, frame, grids[b]);
  });
  parallel(batch.batch, [&](std::int64_t b) { costs[b] = walk(grids[b].arcs, grad != nullptr); });
  if (grad == nullptr) return;
  const std::int64_t frame_size = (batch.labels + 1) * batch.classes;
  for_frames([&](std::int64_t b, std::int64_t t, Frame<Score>& frame) {
    const Real weight = grad_costs ? grad_costs[b] : Real(1);
    gradient_frame(batch, of, b, t, grids[b], weight, frame, grad + (b * batch.frames + t) * frame_size);
  });
}

template <class Score>
void transducer(const Batch<Score>& batch, const Computed<Score>* grad_costs, Computed<Score>* costs, Score* grad,
                const Parallel& parallel) {
  const std::int64_t durations[] = {1, 0}, tokens[] = {batch.blank, -1}, no_logit[] = {-1, -1};
  const Emissions of{{2, 1, durations, false}, 0, tokens, no_logit, -1, false, 0, 0, 0};
  ISA::emissions(batch, of, grad_costs, costs, grad, parallel);
}

}  // namespace ISA
}  // namespace exportable_losses
