// The lattice of every transducer, walked by diagonals n = t + u, for one instruction set.
//
// A blank of duration d > 0 leads from (t, u) to (t + d, u), d diagonals on, a label of duration d >= 0 to
// (t + d, u + 1), d + 1 diagonals on; every path leads from (0, 0) to (T, U). So the nodes of a diagonal depend
// on those before it alone. Graves 2012 has one blank of duration 1 and labels of duration 0.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "lattice.h"
#include "wide.h"

namespace exportable_losses {
namespace ISA {

// As many nodes as are computed at once: a vector of the widest instruction set.
template <class Real>
constexpr std::int64_t lanes = 64 / sizeof(Real);

template <class Real>
struct WideRow {
  Real *m, *e;

  WideRow operator-(std::int64_t n) const { return {m - n, e - n}; }
  WideRow operator+(std::int64_t n) const { return {m + n, e + n}; }
  Wide<Real> operator[](std::int64_t u) const { return {m[u], e[u]}; }
  void set(std::int64_t u, Wide<Real> x) const { m[u] = x.mantissa, e[u] = x.exponent; }
};

// Rows of numbers for the nodes u = 0..width-1, in whole vectors, in a piece of memory. Behind each row, and so before
// the next, at least one is zero.
template <class Real>
class WideRows {
 public:
  static std::int64_t pitch_of(std::int64_t width) { return (width / lanes<Real> + 1) * lanes<Real>; }
  static std::int64_t size(std::int64_t rows, std::int64_t width) {
    return 2 * ((rows + 1) * pitch_of(width) + lanes<Real>);
  }
  WideRows() = default;
  WideRows(Real* memory, std::int64_t rows, std::int64_t width)
      : pitch_(pitch_of(width)), m_(memory + lanes<Real>), e_(memory + size(rows, width) / 2 + lanes<Real>) {
    clear(0, -lanes<Real>, 0);
    clear(rows, 0, pitch_);
  }
  // Makes the nodes [first, last) of a row impossible.
  EXPORTABLE_LOSSES_ONE_COPY void clear(std::int64_t row, std::int64_t first, std::int64_t last) const {
    const WideRow<Real> to = (*this)[row];
    for (std::int64_t u = first; u < last; ++u) to.set(u, {Real(0), lowest<Real>()});
  }
  WideRow<Real> operator[](std::int64_t row) const { return {m_ + row * pitch_, e_ + row * pitch_}; }
  std::int64_t pitch() const { return pitch_; }

 private:
  std::int64_t pitch_ = 0;
  Real *m_ = nullptr, *e_ = nullptr;
};

// An arc that each node has: one of the node's factors, or the product of two.
struct Arc {
  std::int64_t step;  // how many diagonals it leads on
  bool label;
  std::int64_t first, second = -1;
};

// Alpha or beta of the last few diagonals, or of all.
template <class Real>
struct Diagonals {
  std::int64_t kept;
  WideRows<Real> rows;

  WideRow<Real> operator[](std::int64_t n) const { return rows[n % kept]; }
};

// The lattice of an item. The factors of its arcs are probabilities: of a token and, where there is a choice, of how
// long it lasts. The walk replaces each by its occupation: how probable it is that a path takes an arc of it.
template <class Real>
struct Lattice {
  std::int64_t frames, labels, factors;
  bool label_ends;
  const std::vector<Arc>* arcs;
  WideRows<Real> rows;
  Diagonals<Real> alpha, beta;

  std::int64_t width() const { return labels + 1; }
  std::int64_t diagonals() const { return frames + labels; }
  WideRow<Real> row(std::int64_t n, std::int64_t factor) const { return rows[n * factors + factor]; }
  Real occupation(std::int64_t t, std::int64_t u, std::int64_t factor) const { return row(t + u, factor).m[u]; }
  // Whether an arc leads from diagonal n to another; of the last one, the end of all paths is what counts.
  bool leads(const Arc& arc, std::int64_t n) const {
    const std::int64_t to = n + arc.step, last = diagonals();
    return n >= 0 && (to < last || (to == last && (!arc.label || label_ends)));
  }
};

// The lattices of a batch in one piece of memory: allocators keep a piece for the next call, and return many.
template <class Real>
class Lattices {
 public:
  Lattices(const std::vector<Arc>& arcs, std::int64_t factors, bool label_ends, std::int64_t batch,
           const std::int64_t* input_lengths, const std::int64_t* target_lengths, bool with_grad)
      : with_grad_(with_grad), starts_(batch + 1) {
    for (const Arc& arc : arcs) reach_ = std::max(reach_, arc.step);
    for (std::int64_t b = 0; b < batch; ++b) {
      items_.push_back({input_lengths[b], target_lengths[b], factors, label_ends, &arcs, {}, {}, {}});
      const Lattice<Real>& item = items_.back();
      starts_[b + 1] = starts_[b];
      for (const std::int64_t rows : {item.diagonals() * factors, kept_alpha(item), kept_beta(item)})
        starts_[b + 1] += WideRows<Real>::size(rows, item.width());
    }
    memory_.reset(new Real[starts_[batch]]);
  }
  Lattice<Real>& operator[](std::int64_t b) { return items_[b]; }

  // Makes impossible what no frame of the item sets.
  EXPORTABLE_LOSSES_ONE_COPY Lattice<Real>& begin(std::int64_t b) {
    Lattice<Real>& item = items_[b];
    Real* memory = memory_.get() + starts_[b];
    const auto take = [&](std::int64_t rows) {
      const WideRows<Real> taken(memory, rows, item.width());
      memory += WideRows<Real>::size(rows, item.width());
      return taken;
    };
    item.rows = take(item.diagonals() * item.factors);
    for (std::int64_t n = 0; n < item.diagonals(); ++n)
      for (std::int64_t row = n * item.factors; row < (n + 1) * item.factors; ++row) {
        item.rows.clear(row, 0, n - item.frames + 1);
        item.rows.clear(row, std::min(n, item.labels) + 1, item.rows.pitch());
      }
    item.alpha = {kept_alpha(item), take(kept_alpha(item))};
    item.beta = {kept_beta(item), take(kept_beta(item))};
    item.alpha.rows.clear(0, 0, item.rows.pitch());
    item.beta.rows.clear(0, 0, item.beta.kept * item.rows.pitch());
    return item;
  }

 private:
  std::int64_t kept_alpha(const Lattice<Real>& item) const { return with_grad_ ? item.diagonals() + 1 : kept_beta(item); }
  std::int64_t kept_beta(const Lattice<Real>& item) const { return std::min(reach_, item.diagonals()) + 1; }

  bool with_grad_;
  std::int64_t reach_ = 1;
  std::vector<std::int64_t> starts_;
  std::vector<Lattice<Real>> items_;
  std::unique_ptr<Real[]> memory_;
};

template <class Real>
class Sweeps {
 public:
  EXPORTABLE_LOSSES_ONE_COPY explicit Sweeps(const Lattice<Real>& lattice)
      : lattice_(lattice),
        pitch_(lattice.rows.pitch()),
        ones_(pitch_ + 1, Real(1)),
        zeros_(pitch_ + 1, Real(0)),
        taken_(lattice.factors * lanes<Real>) {}

  // The cost; with_grad, the factors become their occupations.
  EXPORTABLE_LOSSES_ONE_COPY Real operator()(bool with_grad) {
    const std::int64_t last = lattice_.diagonals();
    lattice_.alpha[0].set(0, {Real(1), Real(0)});
    for (std::int64_t n = 1; n <= last; ++n) forward(n);
    const Wide<Real> total = lattice_.alpha[last][lattice_.labels];
    const Real cost = minus_log(total);
    if (!with_grad) return cost;
    if (!std::isinf(cost)) lattice_.beta[last].set(lattice_.labels, inverse(total));  // else no arc is taken
    for (std::int64_t n = last - 1; n >= 0; --n) backward(n);
    return cost;
  }

 private:
  // What leads to a node, or on from it: the node at the other end of an arc, and the arc's factors.
  struct Through {
    WideRow<Real> node, first, second;
    const Arc* arc;
  };

  // alpha(t, u) = sum over d of alpha(t-d, u) blank(t-d, u, d) + alpha(t-d, u-1) label(t-d, u-1, d), of diagonal n.
  void forward(std::int64_t n) {
    const Diagonals<Real>& alpha = lattice_.alpha;
    through_.clear();
    for (const Arc& arc : *lattice_.arcs)
      if (const std::int64_t from = n - arc.step; lattice_.leads(arc, from))
        through_.push_back({alpha[from] - arc.label, factor(from, arc.first) - arc.label,
                            factor(from, arc.second) - arc.label, &arc});
    const WideRow<Real> to = alpha[n];
    for (std::int64_t u = 0; u < pitch_; u += lanes<Real>) sum_up(u, to + u, [](const Arc&, const Real*) {});
  }

  // beta(t, u) = sum over d of blank(t, u, d) beta(t+d, u) + label(t, u, d) beta(t+d, u+1), of diagonal n.
  void backward(std::int64_t n) {
    const WideRow<Real> alpha = lattice_.alpha[n];
    const Diagonals<Real>& beta = lattice_.beta;
    through_.clear();
    for (const Arc& arc : *lattice_.arcs)
      if (lattice_.leads(arc, n))
        through_.push_back({beta[n + arc.step] + arc.label, factor(n, arc.first), factor(n, arc.second), &arc});
    const WideRow<Real> to = beta[n];
    for (std::int64_t u = 0; u < pitch_; u += lanes<Real>) {
      std::fill(taken_.begin(), taken_.end(), Real(0));
      const auto top = sum_up(u, to + u, [&](const Arc& arc, const Real* term) {
        for (const std::int64_t f : {arc.first, arc.second})
          for (std::int64_t i = 0; f >= 0 && i < lanes<Real>; ++i) taken_[f * lanes<Real> + i] += term[i];
      });
      for (std::int64_t f = 0; f < lattice_.factors; ++f) {
        const WideRow<Real> row = lattice_.row(n, f) + u;
        for (std::int64_t i = 0; i < lanes<Real>; ++i)
          row.m[i] = share(alpha[u + i], {taken_[f * lanes<Real> + i], top[i]});
      }
    }
  }

  // A factor of diagonal n, or ones.
  WideRow<Real> factor(std::int64_t n, std::int64_t f) {
    return f < 0 ? WideRow<Real>{ones_.data() + 1, zeros_.data() + 1} : lattice_.row(n, f);
  }

  struct Lanes {
    Real x[lanes<Real>];
    Real operator[](std::int64_t i) const { return x[i]; }
  };

  // The sum of all that leads through the nodes u.. of a vector. Each term of it is seen, without the power of two that
  // is returned.
  template <class See>
  Lanes sum_up(std::int64_t u, WideRow<Real> to, const See& see) {
    Lanes top, sum, term;
    std::fill_n(top.x, lanes<Real>, lowest<Real>());
    std::fill_n(sum.x, lanes<Real>, Real(0));
    for (const Through& by : through_) {
#pragma omp simd
      for (std::int64_t i = 0; i < lanes<Real>; ++i) {
        const Real exponent = by.node.e[u + i] + (by.first.e[u + i] + by.second.e[u + i]);
        top.x[i] = exponent > top.x[i] ? exponent : top.x[i];
      }
    }
    for (const Through& by : through_) {
#pragma omp simd
      for (std::int64_t i = 0; i < lanes<Real>; ++i) {
        const Real exponent = by.node.e[u + i] + (by.first.e[u + i] + by.second.e[u + i]);
        term.x[i] = by.node.m[u + i] * (by.first.m[u + i] * by.second.m[u + i]) * scale(exponent - top.x[i]);
        sum.x[i] += term.x[i];
      }
      see(*by.arc, term.x);
    }
#pragma omp simd
    for (std::int64_t i = 0; i < lanes<Real>; ++i) {
      const Wide<Real> whole = normalised(sum.x[i], top.x[i]);
      to.m[i] = whole.mantissa, to.e[i] = whole.exponent;
    }
    return top;
  }

  const Lattice<Real>& lattice_;
  std::int64_t pitch_;
  std::vector<Through> through_;
  std::vector<Real> ones_, zeros_, taken_;
};

// The arcs of the nodes (t, 0..U) of one frame, a factor each; those that lead nowhere are not read.
template <class Real>
void read_frame(const ArcsBatch<Real>& batch, std::int64_t item, std::int64_t t, Lattice<Real>& lattice) {
  const std::int64_t kinds = batch.shape.kinds;
  const Real* node = batch.arcs + (item * batch.frames + t) * (batch.labels + 1) * kinds;
  for (std::int64_t u = 0; u <= lattice.labels; ++u, node += kinds)
    for (std::int64_t k = 0; k < kinds; ++k) {
      const std::int64_t to = t + batch.shape.duration[k];
      const bool leads = k < batch.shape.blanks ? to <= lattice.frames
                                                : u < lattice.labels && to < lattice.frames + batch.shape.label_ends;
      lattice.row(t + u, k).set(u, leads ? exp_wide(node[k]) : Wide<Real>{Real(0), lowest<Real>()});
    }
}

template <class Real>
void arcs(const ArcsBatch<Real>& batch, const Real* grad_costs, Real* costs, Real* grad, const Parallel& parallel) {
  const std::int64_t kinds = batch.shape.kinds, frame = (batch.labels + 1) * kinds;
  std::vector<Arc> all;
  for (std::int64_t k = 0; k < kinds; ++k) {
    const bool label = k >= batch.shape.blanks;
    all.push_back({batch.shape.duration[k] + label, label, k});
  }
  Lattices<Real> lattices(all, kinds, batch.shape.label_ends, batch.batch, batch.input_lengths, batch.target_lengths,
                          grad != nullptr);
  parallel(batch.batch, [&](std::int64_t b) {
    Lattice<Real>& item = lattices.begin(b);
    for (std::int64_t t = 0; t < item.frames; ++t) read_frame(batch, b, t, item);
    costs[b] = Sweeps<Real>(item)(grad != nullptr);
    if (grad == nullptr) return;
    const Real weight = grad_costs ? grad_costs[b] : Real(1);
    Real* to = grad + b * batch.frames * frame;
    std::fill_n(to, batch.frames * frame, Real(0));
    for (std::int64_t t = 0; t < item.frames; ++t)
      for (std::int64_t u = 0; u <= item.labels; ++u)
        for (std::int64_t k = 0; k < kinds; ++k) to[t * frame + u * kinds + k] = -weight * item.occupation(t, u, k);
  });
}

}  // namespace ISA
}  // namespace exportable_losses
