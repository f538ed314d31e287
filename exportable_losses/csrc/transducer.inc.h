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
    std::vector<std::int64_t> classes(factors.tokens.begin(), factors.tokens.end());
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

// The factors of the nodes (t, 0..U) of one frame, and, unless null, what their gradient needs.
template <class Real>
void read_frame(const Logits<Real>& logits, std::int64_t item, std::int64_t t, Nodes<Real>& nodes, Lattice<Real>& lattice,
                Real* kept) {
  const std::int64_t width = lattice.width();
  const char* row = logits.rows(item, t);
  for (std::int64_t u = 0; u < width; ++u, row += logits.row_bytes()) {
    if (u + 1 < width) logits.access.prefetch(row + logits.row_bytes(), logits.batch.classes);
    nodes.normalise(u, logits.access.normaliser(row, logits.tokens(), logits.of.hybrid));
  }
  logits.pick(logits.rows(item, t), logits.targets(item), width, nodes);
  nodes.tokens(width);
  if (kept != nullptr) nodes.keep_tokens(width, kept);
  nodes.durations(width);
  if (kept != nullptr) nodes.keep_durations(width, kept);
  nodes.put(t, lattice);
}

// The gradient of the nodes (t, 0..U) of one frame.
template <class Real>
void gradient_frame(const Logits<Real>& logits, std::int64_t item, std::int64_t t, const Nodes<Real>& nodes,
                    const Lattice<Real>& lattice, const Real* kept, Real weight, char* grad) {
  const Access<Real>& access = logits.access;
  const std::int64_t classes = logits.batch.classes, *targets = logits.targets(item);
  std::vector<Real> wide(access.narrow ? classes : 0);
  const char* row = logits.rows(item, t);
  for (std::int64_t u = 0; u < lattice.width(); ++u, row += logits.row_bytes(), grad += logits.row_bytes()) {
    Real* slopes = access.narrow ? wide.data() : reinterpret_cast<Real*>(grad);
    const Normaliser<Real> all = nodes.kept_normaliser(u, kept);
    access.slopes(row, logits.tokens(), all.top, weight * nodes.tokens_taken(lattice, t, u) / all.sum, slopes);
    nodes.add_gradient(lattice, t, u, kept, targets, classes, weight, slopes);
    if (access.narrow) access.narrow(slopes, classes, grad);
  }
}

template <class Real>
void emissions(const Logits<Real>& logits, const Real* grad_costs, Real* costs, char* grad, const Parallel& parallel) {
  const Batch<char>& batch = logits.batch;
  const Factors& factors = logits.factors;
  Lattices<Real> lattices(factors.arcs, factors.all(), logits.of.shape.label_ends, batch.batch, batch.input_lengths,
                          batch.target_lengths, grad != nullptr);
  const std::int64_t width = logits.width();
  const std::int64_t chunk = lanes<Real>, chunks = (batch.frames + chunk - 1) / chunk;  // threads share few lines of a diagonal
  const std::int64_t size = width * Nodes<Real>::kept(logits.of);
  std::vector<Real> kept(grad != nullptr ? batch.batch * batch.frames * size : 0);
  auto for_frames = [&](const auto& work) {  // over items and frames alike, so that one item is enough
    parallel(batch.batch * chunks, [&](std::int64_t i) {
      const std::int64_t b = i / chunks, first = i % chunks * chunk;
      Nodes<Real> nodes(logits.of, factors, width);
      for (std::int64_t t = first; t < std::min(first + chunk, batch.frames); ++t)
        work(b, t, nodes, kept.empty() ? nullptr : &kept[(b * batch.frames + t) * size]);
    });
  };
  parallel(batch.batch, [&](std::int64_t b) { lattices.begin(b); });
  for_frames([&](std::int64_t b, std::int64_t t, Nodes<Real>& nodes, Real* keep) {
    if (t < lattices[b].frames) read_frame(logits, b, t, nodes, lattices[b], keep);
  });
  parallel(batch.batch, [&](std::int64_t b) { costs[b] = Sweeps<Real>(lattices[b])(grad != nullptr); });
  if (grad == nullptr) return;
  for_frames([&](std::int64_t b, std::int64_t t, const Nodes<Real>& nodes, const Real* keep) {
    const bool own = t < lattices[b].frames && !std::isinf(costs[b]);
    char *to = grad + (b * batch.frames + t) * width * logits.row_bytes(), *end = to + width * logits.row_bytes();
    if (own) gradient_frame(logits, b, t, nodes, lattices[b], keep, grad_costs ? grad_costs[b] : Real(1), to);
    std::fill(own ? to + lattices[b].width() * logits.row_bytes() : to, end, 0);  // of nodes that it does not have
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
