// The transducer: Graves 2012, section 2.4, for one instruction set.
//
// Three passes. The first reads each row of logits once and keeps its maximum, its sum of
// exponentials and the probabilities of the two arcs that leave the node. The second walks the
// lattice by diagonals n = t + u: the nodes of one depend on the diagonal before it alone. The third
// reads the logits again and writes the gradient.
#pragma once

#include <algorithm>
#include <vector>

#include "lattice.h"
#include "rows.inc.h"
#include "wide.h"

namespace exportable_losses {
namespace ISA {

// What the passes share of one item. Arcs are stored by diagonal: (t, u) at (t + u) * (U + 1) + u.
template <class Real>
struct Grid {
  std::int64_t frames, labels;
  std::vector<Real> top, sum;                      // of each row of logits, by frame
  std::vector<Real> stay_m, stay_e, emit_m, emit_e;  // arcs to (t+1, u) and (t, u+1); later their occupation

  std::int64_t width() const { return labels + 1; }
  std::int64_t diagonals() const { return frames + labels; }
  std::int64_t at(std::int64_t t, std::int64_t u) const { return (t + u) * width() + u; }

  void shape(std::int64_t frames_, std::int64_t labels_, bool with_grad) {
    frames = frames_, labels = labels_;
    if (with_grad) top.resize(frames * width()), sum.resize(frames * width());
    const std::int64_t nodes = diagonals() * width();
    stay_m.assign(nodes, Real(0)), emit_m.assign(nodes, Real(0));
    stay_e.assign(nodes, lowest<Real>()), emit_e.assign(nodes, lowest<Real>());
  }
};

// The nodes (t, 0..U) of one frame.
template <class Score>
void normalise_frame(const Batch<Score>& batch, std::int64_t item, std::int64_t t, Grid<Computed<Score>>& grid) {
  using Real = Computed<Score>;
  const Score* row = batch.scores + item * batch.item_stride + t * batch.frame_stride;
  const std::int64_t* targets = batch.targets + item * batch.target_stride;
  for (std::int64_t u = 0; u <= grid.labels; ++u, row += batch.classes) {
    const Real top = row_max(row, batch.classes);
    if (u < grid.labels) prefetch_row(row + batch.classes, batch.classes);
    const Real sum = row_sum_exp(row, batch.classes, top);
    if (!grid.top.empty()) grid.top[t * grid.width() + u] = top, grid.sum[t * grid.width() + u] = sum;
    const std::int64_t n = grid.at(t, u);
    const Wide<Real> stay = exp_wide(widened(row[batch.blank]) - top);
    grid.stay_m[n] = stay.mantissa / sum, grid.stay_e[n] = stay.exponent;
    if (u < grid.labels) {
      const Wide<Real> emit = exp_wide(widened(row[targets[u]]) - top);
      grid.emit_m[n] = emit.mantissa / sum, grid.emit_e[n] = emit.exponent;
    }
  }
}

// One row of lattice nodes, with an impossible node on either side of u = 0..U.
template <class Real>
struct Diagonal {
  Real *m, *e;

  static std::int64_t size(std::int64_t width) { return 2 * (width + 2); }
  Diagonal(Real* memory, std::int64_t width) : m(memory + 1), e(memory + width + 3) {
    for (std::int64_t u = -1; u <= width; ++u) m[u] = Real(0), e[u] = lowest<Real>();
  }
  Wide<Real> operator[](std::int64_t u) const { return {m[u], e[u]}; }
  void set(std::int64_t u, Wide<Real> x) { m[u] = x.mantissa, e[u] = x.exponent; }
};

// alpha(t, u) = alpha(t-1, u) blank(t-1, u) + alpha(t, u-1) label(t, u-1), from diagonal n to n + 1.
template <class Real>
inline void forward(const Grid<Real>& grid, std::int64_t n, Diagonal<Real> from, Diagonal<Real> to) {
  const std::int64_t width = grid.width(), row = n * width;
  const Real *stay_m = &grid.stay_m[row], *stay_e = &grid.stay_e[row];
  const Real *emit_m = &grid.emit_m[row], *emit_e = &grid.emit_e[row];
  to.set(0, multiply(from[0], Wide<Real>{stay_m[0], stay_e[0]}));
#pragma GCC ivdep
  for (std::int64_t u = 1; u < width; ++u) {
    const Wide<Real> stayed = {from.m[u] * stay_m[u], from.e[u] + stay_e[u]};
    const Wide<Real> emitted = {from.m[u - 1] * emit_m[u - 1], from.e[u - 1] + emit_e[u - 1]};
    const Wide<Real> sum = add(stayed, emitted);
    to.set(u, normalised(sum.mantissa, sum.exponent));
  }
}

// beta(t, u) = blank(t, u) beta(t+1, u) + label(t, u) beta(t, u+1), from diagonal n + 1 to n. The arcs
// of diagonal n are replaced by their occupation, a probability each.
template <class Real>
inline void backward(Grid<Real>& grid, std::int64_t n, Diagonal<Real> alpha, Diagonal<Real> from,
                     Diagonal<Real> to) {
  const std::int64_t width = grid.width(), row = n * width;
  Real *stay_m = &grid.stay_m[row], *stay_e = &grid.stay_e[row];
  Real *emit_m = &grid.emit_m[row], *emit_e = &grid.emit_e[row];
#pragma GCC ivdep
  for (std::int64_t u = 0; u < width; ++u) {
    const Wide<Real> stay = multiply(Wide<Real>{stay_m[u], stay_e[u]}, from[u]);
    const Wide<Real> emit = multiply(Wide<Real>{emit_m[u], emit_e[u]}, from[u + 1]);
    const Wide<Real> sum = add(stay, emit);
    to.set(u, normalised(sum.mantissa, sum.exponent));
    stay_m[u] = share(alpha[u], stay);
    emit_m[u] = share(alpha[u], emit);
  }
}

template <class Real>
Real walk(Grid<Real>& grid, bool with_grad) {
  const std::int64_t width = grid.width(), size = Diagonal<Real>::size(width), diagonals = grid.diagonals();
  std::vector<Real> memory((with_grad ? diagonals + 1 : 2) * size), back(with_grad ? 2 * size : 0);
  auto alpha = [&](std::int64_t n) { return memory.data() + (with_grad ? n : n % 2) * size; };
  Diagonal<Real> now(alpha(0), width);
  now.set(0, {Real(1), Real(0)});
  for (std::int64_t n = 0; n < diagonals; ++n) {
    Diagonal<Real> next(alpha(n + 1), width);
    forward(grid, n, now, next);
    now = next;
  }
  const Wide<Real> total = now[grid.labels], normaliser = inverse(total);
  const Real cost = minus_log(total);
  if (!with_grad) return cost;
  if (std::isinf(cost)) {
    std::fill(grid.stay_m.begin(), grid.stay_m.end(), Real(0));
    std::fill(grid.emit_m.begin(), grid.emit_m.end(), Real(0));
    return cost;
  }
  Diagonal<Real> beta(back.data(), width), before(back.data() + size, width);
  beta.set(grid.labels, normaliser);
  for (std::int64_t n = diagonals - 1; n >= 0; --n) {
    Diagonal<Real> forward_n = now;
    forward_n.m = alpha(n) + 1, forward_n.e = alpha(n) + width + 3;
    backward(grid, n, forward_n, beta, before);
    std::swap(beta, before);
  }
  return cost;
}

// The gradient of the nodes (t, 0..U) of one frame, and zero for those the item does not have.
template <class Score>
void gradient_frame(const Batch<Score>& batch, std::int64_t item, std::int64_t t, const Grid<Computed<Score>>& grid,
                    Computed<Score> weight, Score* grad) {
  using Real = Computed<Score>;
  constexpr bool narrower = !std::is_same<Score, Real>::value;
  std::vector<Real> wide_slopes(narrower ? batch.classes : 0);
  const std::int64_t classes = batch.classes;
  const std::int64_t* targets = batch.targets + item * batch.target_stride;
  const Score* row = batch.scores + item * batch.item_stride + t * batch.frame_stride;
  for (std::int64_t u = 0; u <= batch.labels; ++u, row += classes, grad += classes) {
    if (t >= grid.frames || u > grid.labels) {
      std::fill(grad, grad + classes, Score{});
      continue;
    }
    const std::int64_t n = grid.at(t, u);
    const Real stay = weight * grid.stay_m[n], emit = weight * grid.emit_m[n];
    const Real top = grid.top[t * grid.width() + u], scale = (stay + emit) / grid.sum[t * grid.width() + u];
    Real* slopes = wide_slopes.data();
    if constexpr (!narrower) slopes = grad;
    row_slopes(row, classes, top, scale, slopes);
    slopes[batch.blank] -= stay;
    if (u < grid.labels) slopes[targets[u]] -= emit;
    if constexpr (narrower) narrow(slopes, classes, grad);
  }
}

template <class Score>
void transducer(const Batch<Score>& batch, const Computed<Score>* grad_costs, Computed<Score>* costs, Score* grad,
                const Parallel& parallel) {
  using Real = Computed<Score>;
  std::vector<Grid<Real>> grids(batch.batch);
  for (std::int64_t b = 0; b < batch.batch; ++b)
    grids[b].shape(batch.input_lengths[b], batch.target_lengths[b], grad != nullptr);
  const std::int64_t chunk = 4, chunks = (batch.frames + chunk - 1) / chunk;
  auto for_frames = [&](const auto& work) {  // over items and frames alike, so that one item is enough
    parallel(batch.batch * chunks, [&](std::int64_t i) {
      const std::int64_t b = i / chunks, first = i % chunks * chunk;
      for (std::int64_t t = first; t < std::min(first + chunk, batch.frames); ++t) work(b, t);
    });
  };
  for_frames([&](std::int64_t b, std::int64_t t) {
    if (t < grids[b].frames) normalise_frame(batch, b, t, grids[b]);
  });
  parallel(batch.batch, [&](std::int64_t b) { costs[b] = walk(grids[b], grad != nullptr); });
  if (grad == nullptr) return;
  const std::int64_t frame_size = (batch.labels + 1) * batch.classes;
  for_frames([&](std::int64_t b, std::int64_t t) {
    const Real weight = grad_costs ? grad_costs[b] : Real(1);
    gradient_frame(batch, b, t, grids[b], weight, grad + (b * batch.frames + t) * frame_size);
  });
}

}  // namespace ISA
}  // namespace exportable_losses
