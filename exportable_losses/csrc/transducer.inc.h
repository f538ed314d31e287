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

// What the passes share of one item: its lattice, and what normalises the tokens of each row, by frame.
template <class Real>
struct Grid {
  Lattice<Real> lattice;
  std::vector<Normaliser<Real>> tokens;
};

// Logits of any type, a row of classes for each node; strides are in bytes.
template <class Real>
struct Logits {
  const Access<Real>& access;
  Batch<char> batch;
  const Emissions& of;
  const Factors& factors;

  template <class Score>
  Logits(const Batch<Score>& x, const Emissions& of_, const Factors& factors_)
      : access(access_to<Score>()),
        batch{reinterpret_cast<const char*>(x.scores), x.batch, x.frames, x.classes, x.labels,
              x.item_stride * std::int64_t(sizeof(Score)), x.frame_stride * std::int64_t(sizeof(Score)),
              x.targets, x.target_stride, x.input_lengths, x.target_lengths, x.blank},
        of(of_),
        factors(factors_) {}
  std::int64_t width() const { return batch.labels + 1; }
  std::int64_t tokens() const { return batch.classes - of.durations; }
  std::int64_t row_bytes() const { return batch.classes * access.bytes; }
  const char* rows(std::int64_t item, std::int64_t t) const {
    return batch.scores + item * batch.item_stride + t * batch.frame_stride;
  }
  const std::int64_t* targets(std::int64_t item) const { return batch.targets + item * batch.target_stride; }

  // The logits of the factors of n nodes, whose labels are `targets`, one fewer.
  void pick(const char* row, const std::int64_t* targets, std::int64_t n, Nodes<Real>& to) const {
    std::vector<std::int64_t> classes = factors.tokens;
    for (std::int64_t c = tokens(); c < batch.classes; ++c) classes.push_back(c);
    std::vector<Real> picked(factors.all());
    for (std::int64_t u = 0; u < n; ++u, row += row_bytes()) {
      const bool has_label = u + 1 < n;
      classes[factors.label()] = has_label ? targets[u] : 0;
      access.pick(row, row, classes.data(), factors.all(), picked.data());
      if (!has_label) picked[factors.label()] = -std::numeric_limits<Real>::infinity();
      for (std::int64_t f = 0; f < factors.all(); ++f) to.logit(f, u) = picked[f];
    }
  }
};

// The factors of the nodes (t, 0..U) of one frame.
template <class Real>
void read_frame(const Logits<Real>& logits, std::int64_t item, std::int64_t t, Nodes<Real>& nodes, Grid<Real>& grid) {
  const std::int64_t width = grid.lattice.width();
  const char* row = logits.rows(item, t);
  for (std::int64_t u = 0; u < width; ++u, row += logits.row_bytes()) {
    if (u + 1 < width) logits.access.prefetch(row + logits.row_bytes(), logits.batch.classes);
    const Normaliser<Real> all = logits.access.normaliser(row, logits.tokens(), logits.of.hybrid);
    nodes.normalise(u, all);
    if (!grid.tokens.empty()) grid.tokens[t * width + u] = all;
  }
  logits.pick(logits.rows(item, t), logits.targets(item), width, nodes);
  nodes.tokens(width);
  nodes.durations(width);
  nodes.put(t, grid.lattice);
}

// The gradient of the nodes (t, 0..U) of one frame.
template <class Real>
void gradient_frame(const Logits<Real>& logits, std::int64_t item, std::int64_t t, const Grid<Real>& grid, Real weight,
                    Nodes<Real>& nodes, char* grad) {
  const Lattice<Real>& lattice = grid.lattice;
  const Access<Real>& access = logits.access;
  const std::int64_t width = lattice.width(), classes = logits.batch.classes, *targets = logits.targets(item);
  std::vector<Real> wide(access.narrow ? classes : 0);
  const char* row = logits.rows(item, t);
  logits.pick(row, targets, width, nodes);
  nodes.durations(width);
  for (std::int64_t u = 0; u < width; ++u, row += logits.row_bytes(), grad += logits.row_bytes()) {
    Real* slopes = access.narrow ? wide.data() : reinterpret_cast<Real*>(grad);
    const Normaliser<Real> all = grid.tokens[t * width + u];
    access.slopes(row, logits.tokens(), all.top, weight * nodes.tokens_taken(lattice, t, u) / all.sum, slopes);
    nodes.add_gradient(lattice, t, u, targets, classes, weight, slopes);
    if (access.narrow) access.narrow(slopes, classes, grad);
  }
}

template <class Real>
void emissions(const Logits<Real>& logits, const Real* grad_costs, Real* costs, char* grad, const Parallel& parallel) {
  const Batch<char>& batch = logits.batch;
  std::vector<Grid<Real>> grids(batch.batch);
  for (std::int64_t b = 0; b < batch.batch; ++b) {
    Lattice<Real>& lattice = grids[b].lattice;
    lattice.arcs = logits.factors.arcs;
    lattice.shape(batch.input_lengths[b], batch.target_lengths[b], logits.factors.all(), logits.of.shape.label_ends);
    if (grad != nullptr) grids[b].tokens.resize(lattice.frames * lattice.width());
  }
  const std::int64_t chunk = 4, chunks = (batch.frames + chunk - 1) / chunk;
  auto for_frames = [&](const auto& work) {  // over items and frames alike, so that one item is enough
    parallel(batch.batch * chunks, [&](std::int64_t i) {
      const std::int64_t b = i / chunks, first = i % chunks * chunk;
      Nodes<Real> nodes(logits.of, logits.factors, logits.width());
      for (std::int64_t t = first; t < std::min(first + chunk, batch.frames); ++t) work(b, t, nodes);
    });
  };
  for_frames([&](std::int64_t b, std::int64_t t, Nodes<Real>& nodes) {
    if (t < grids[b].lattice.frames) read_frame(logits, b, t, nodes, grids[b]);
  });
  parallel(batch.batch, [&](std::int64_t b) { costs[b] = Sweeps<Real>(grids[b].lattice)(grad != nullptr); });
  if (grad == nullptr) return;
  for_frames([&](std::int64_t b, std::int64_t t, Nodes<Real>& nodes) {
    const std::int64_t frame_bytes = logits.width() * logits.row_bytes();
    const bool own = t < grids[b].lattice.frames;
    const std::int64_t bytes = own ? grids[b].lattice.width() * logits.row_bytes() : 0;
    char* to = grad + (b * batch.frames + t) * frame_bytes;
    if (own) gradient_frame(logits, b, t, grids[b], grad_costs ? grad_costs[b] : Real(1), nodes, to);
    std::fill(to + bytes, to + frame_bytes, 0);  // the nodes that the item does not have
  });
}

template <class Score>
void emissions(const Batch<Score>& batch, const Emissions& of, const Computed<Score>* grad_costs,
               Computed<Score>* costs, Score* grad, const Parallel& parallel) {
  const Factors factors(of);
  ISA::emissions(Logits<Computed<Score>>(batch, of, factors), grad_costs, costs, reinterpret_cast<char*>(grad), parallel);
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
