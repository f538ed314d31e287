// The lattice of every transducer, walked by diagonals n = t + u, for one instruction set.
//
// A blank of duration d > 0 leads from (t, u) to (t + d, u), d diagonals on, a label of duration d >= 0 to
// (t + d, u + 1), d + 1 diagonals on; every path leads from (0, 0) to (T, U). So the nodes of a diagonal depend
// on those before it alone. Graves 2012 has one blank of duration 1 and labels of duration 0.
#pragma once

#include <algorithm>
#include <vector>

#include "lattice.h"
#include "wide.h"

namespace exportable_losses {
namespace ISA {

// The arcs of one item: arc k of node (t, u) stands at row(t + u, k) + u, and the walk puts its occupation there.
template <class Real>
struct Arcs {
  std::int64_t frames, labels, blanks;
  std::vector<std::int64_t> steps;  // how many diagonals arc k leads on; blanks come first
  std::vector<Real> m, e;

  std::int64_t width() const { return labels + 1; }
  std::int64_t diagonals() const { return frames + labels; }
  std::int64_t kinds() const { return static_cast<std::int64_t>(steps.size()); }
  std::int64_t row(std::int64_t n, std::int64_t k) const { return (n * kinds() + k) * width(); }
  std::int64_t longest() const { return *std::max_element(steps.begin(), steps.end()); }
  bool is_label(std::int64_t k) const { return k >= blanks; }

  void shape(std::int64_t frames_, std::int64_t labels_, const ArcShape& of) {
    frames = frames_, labels = labels_, blanks = of.blanks;
    steps.assign(of.duration, of.duration + of.kinds);
    for (std::int64_t k = blanks; k < of.kinds; ++k) ++steps[k];
    m.assign(row(diagonals(), 0), Real(0)), e.assign(row(diagonals(), 0), lowest<Real>());
  }
  void set(std::int64_t t, std::int64_t u, std::int64_t k, Wide<Real> arc) {
    const std::int64_t at = row(t + u, k) + u;
    m[at] = arc.mantissa, e[at] = arc.exponent;
  }
  Wide<Real> get(std::int64_t t, std::int64_t u, std::int64_t k) const {
    const std::int64_t at = row(t + u, k) + u;
    return {m[at], e[at]};
  }
  // Whether arc k, which lasts d frames, leads from (t, u) to a node of the item.
  bool leads(std::int64_t t, std::int64_t u, std::int64_t k, std::int64_t d, bool label_ends) const {
    return is_label(k) ? u < labels && t + d < frames + label_ends : t + d <= frames;
  }
  Real occupation(std::int64_t t, std::int64_t u, std::int64_t k) const { return m[row(t + u, k) + u]; }
};

// The nodes u = 0..U of a diagonal, with an impossible one on either side.
template <class Real>
struct Diagonal {
  Real *m, *e;

  static std::int64_t size(std::int64_t width) { return 2 * (width + 2); }
  Diagonal(Real* memory, std::int64_t width) : m(memory + 1), e(memory + width + 3) {}
  void clear(std::int64_t width) const {
    for (std::int64_t u = -1; u <= width; ++u) m[u] = Real(0), e[u] = lowest<Real>();
  }
  Wide<Real> operator[](std::int64_t u) const { return {m[u], e[u]}; }
  void set(std::int64_t u, Wide<Real> x) const { m[u] = x.mantissa, e[u] = x.exponent; }
};

// The last few diagonals, or all of them.
template <class Real>
class Diagonals {
 public:
  Diagonals(std::int64_t kept, std::int64_t width) : kept_(kept), width_(width), memory_(kept * size()) {}
  Diagonal<Real> operator[](std::int64_t n) { return {memory_.data() + n % kept_ * size(), width_}; }
  Diagonal<Real> cleared(std::int64_t n) {
    (*this)[n].clear(width_);
    return (*this)[n];
  }

 private:
  std::int64_t size() const { return Diagonal<Real>::size(width_); }
  std::int64_t kept_, width_;
  std::vector<Real> memory_;
};

// to += from * arc for `n` nodes.
template <class Real>
inline void follow(const Real* from_m, const Real* from_e, const Real* arc_m, const Real* arc_e, std::int64_t n, Real* to_m,
                   Real* to_e) {
#pragma GCC ivdep
  for (std::int64_t u = 0; u < n; ++u) {
    const Wide<Real> sum = add(Wide<Real>{to_m[u], to_e[u]}, Wide<Real>{from_m[u] * arc_m[u], from_e[u] + arc_e[u]});
    to_m[u] = sum.mantissa, to_e[u] = sum.exponent;
  }
}

// alpha(t, u) = sum over d of alpha(t-d, u) blank(t-d, u, d) + alpha(t-d, u-1) label(t-d, u-1, d), of diagonal n.
template <class Real>
inline void forward(const Arcs<Real>& arcs, std::int64_t n, Diagonals<Real>& alpha) {
  const std::int64_t width = arcs.width();
  const Diagonal<Real> to = alpha.cleared(n);
  for (std::int64_t k = 0; k < arcs.kinds(); ++k) {
    const std::int64_t before = n - arcs.steps[k], right = arcs.is_label(k), row = arcs.row(before, k);
    if (before < 0) continue;
    const Diagonal<Real> from = alpha[before];
    follow(from.m, from.e, &arcs.m[row], &arcs.e[row], width - right, to.m + right, to.e + right);
  }
#pragma GCC ivdep
  for (std::int64_t u = 0; u < width; ++u) to.set(u, normalised(to.m[u], to.e[u]));
}

// beta(t, u) = sum over d of blank(t, u, d) beta(t+d, u) + label(t, u, d) beta(t+d, u+1), of diagonal n, whose arcs
// are replaced by their occupation, a probability each.
template <class Real>
inline void backward(Arcs<Real>& arcs, std::int64_t n, Diagonal<Real> alpha, Diagonals<Real>& beta) {
  const std::int64_t width = arcs.width();
  const Diagonal<Real> to = beta.cleared(n);
  for (std::int64_t k = 0; k < arcs.kinds(); ++k) {
    const std::int64_t behind = n + arcs.steps[k], right = arcs.is_label(k);
    Real *arc_m = &arcs.m[arcs.row(n, k)], *arc_e = &arcs.e[arcs.row(n, k)];
    if (behind > arcs.diagonals()) {
      std::fill_n(arc_m, width, Real(0));
      continue;
    }
    const Diagonal<Real> from = beta[behind];
#pragma GCC ivdep
    for (std::int64_t u = 0; u < width; ++u) {
      const Wide<Real> through = {arc_m[u] * from.m[u + right], arc_e[u] + from.e[u + right]};
      to.set(u, add(to[u], through));
      arc_m[u] = share(alpha[u], through);
    }
  }
#pragma GCC ivdep
  for (std::int64_t u = 0; u < width; ++u) to.set(u, normalised(to.m[u], to.e[u]));
}

// The cost of an item; with_grad, its arcs become their occupations.
template <class Real>
Real walk(Arcs<Real>& arcs, bool with_grad) {
  const std::int64_t last = arcs.diagonals(), reach = arcs.longest() + 1;
  Diagonals<Real> alpha(with_grad ? last + 1 : std::min(reach, last + 1), arcs.width());
  alpha.cleared(0).set(0, {Real(1), Real(0)});
  for (std::int64_t n = 1; n <= last; ++n) forward(arcs, n, alpha);
  const Wide<Real> total = alpha[last][arcs.labels];
  const Real cost = minus_log(total);
  if (!with_grad) return cost;
  if (std::isinf(cost)) {
    std::fill(arcs.m.begin(), arcs.m.end(), Real(0));
    return cost;
  }
  Diagonals<Real> beta(std::min(reach, last + 1), arcs.width());
  beta.cleared(last).set(arcs.labels, inverse(total));
  for (std::int64_t n = last - 1; n >= 0; --n) backward(arcs, n, alpha[n], beta);
  return cost;
}

// The arcs of the nodes (t, 0..U) of one frame; those that lead nowhere stay impossible.
template <class Real>
void read_frame(const ArcsBatch<Real>& batch, std::int64_t item, std::int64_t t, Arcs<Real>& arcs) {
  const std::int64_t kinds = arcs.kinds(), nodes = batch.labels + 1;
  const Real* node = batch.arcs + (item * batch.frames + t) * nodes * kinds;
  for (std::int64_t u = 0; u <= arcs.labels; ++u, node += kinds)
    for (std::int64_t k = 0; k < kinds; ++k)
      if (arcs.leads(t, u, k, batch.shape.duration[k], batch.shape.label_ends)) arcs.set(t, u, k, exp_wide(node[k]));
}

template <class Real>
void arcs(const ArcsBatch<Real>& batch, const Real* grad_costs, Real* costs, Real* grad, const Parallel& parallel) {
  const std::int64_t kinds = batch.shape.kinds, frame = (batch.labels + 1) * kinds;
  parallel(batch.batch, [&](std::int64_t b) {
    Arcs<Real> item;
    item.shape(batch.input_lengths[b], batch.target_lengths[b], batch.shape);
    for (std::int64_t t = 0; t < item.frames; ++t) read_frame(batch, b, t, item);
    costs[b] = walk(item, grad != nullptr);
    if (grad == nullptr) return;
    const Real weight = grad_costs ? grad_costs[b] : Real(1);
    Real* to = grad + b * batch.frames * frame;
    std::fill_n(to, batch.frames * frame, Real(0));
    for (std::int64_t t = 0; t < item.frames; ++t)
      for (std::int64_t u = 0; u <= item.labels; ++u)
        for (std::int64_t k = 0; k < kinds; ++k)
          to[t * frame + u * kinds + k] = -weight * item.occupation(t, u, k);
  });
}

}  // namespace ISA
}  // namespace exportable_losses
