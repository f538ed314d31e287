// From the rows of logits of a frame to the arcs that leave the nodes (t, 0..U) of a transducer's lattice, and from
// their occupations to the gradient of a row, for one instruction set.
//
// What is computed of each node is a handful of exponentials, so that the nodes of a frame are computed side by side.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "arcs.inc.h"
#include "lattice.h"
#include "rows.inc.h"
#include "wide.h"

namespace exportable_losses {
namespace ISA {

// The largest of some logits, and the sum of their exponentials without it.
template <class Real>
struct Normaliser {
  Real top, sum;
};

template <class Score>
inline Normaliser<Computed<Score>> normaliser(const Score* row, std::int64_t n) {
  const Computed<Score> top = row_max(row, n);
  return {top, row_sum_exp(row, n, top)};
}

// All but one.
template <class Score>
inline Normaliser<Computed<Score>> normaliser_without(const Score* row, std::int64_t n, std::int64_t c) {
  if (c == 0) return normaliser(row + 1, n - 1);
  if (c == n - 1) return normaliser(row, c);
  const Score* behind = row + c + 1;
  const Computed<Score> top = std::max(row_max(row, c), row_max(behind, n - c - 1));
  return {top, row_sum_exp(row, c, top) + row_sum_exp(behind, n - c - 1, top)};
}

// The tokens of a row, or, hybrid (Variani et al. 2020), those of them that are no blank.
template <class Score>
inline Normaliser<Computed<Score>> tokens_of(const Score* row, std::int64_t number, const Emissions& of) {
  return of.hybrid < 0 ? normaliser(row, number) : normaliser_without(row, number, of.hybrid);
}

// Numbers of unbounded range for the nodes of a frame.
template <class Real>
struct Wides {
  std::vector<Real> m, e;

  explicit Wides(std::int64_t n = 0) : m(n), e(n) {}
  void set(std::int64_t i, Wide<Real> x) { m[i] = x.mantissa, e[i] = x.exponent; }
  Wide<Real> operator[](std::int64_t i) const { return {m[i], e[i]}; }
};

template <class Real>
inline Wide<Real> times(Wide<Real> a, Wide<Real> b) {
  return multiply<Real, false>(a, b);
}

// to = exp(x - top) / sum, for n nodes.
template <class Real>
inline void exponentials(const Real* x, const Real* top, const Real* sum, std::int64_t n, Real* m, Real* e) {
#pragma GCC ivdep
  for (std::int64_t u = 0; u < n; ++u) {
    const Wide<Real> p = exp_wide(x[u] - top[u]);
    m[u] = p.mantissa / sum[u], e[u] = p.exponent;
  }
}

// The probabilities of the tokens and of the durations of the nodes of one frame, each of them for all nodes in a row.
template <class Score>
class Frame {
 public:
  using Real = Computed<Score>;

  Frame(std::int64_t classes, std::int64_t width, const Emissions& of)
      : of_(of), number_(classes - of.durations), classes_(classes), width_(width) {
    for (std::int64_t k = 0; k < of.shape.kinds; ++k) {  // arcs of one token stand side by side
      if (k == 0 || of.token[k] != of.token[k - 1]) tokens_.push_back(of.token[k]);
      token_of_.push_back(static_cast<std::int64_t>(tokens_.size()) - 1);
    }
    top_.resize(width), sum_.resize(width);
    const auto tokens = static_cast<std::int64_t>(tokens_.size());
    x_.resize(width * std::max(tokens, of.durations));
    token_ = Wides<Real>(width * tokens), lasting_ = Wides<Real>(width * of.durations);
  }

  Normaliser<Real> tokens(std::int64_t u) const { return {top_[u], sum_[u]}; }

  // Reads the rows of u = 0..labels.
  void read(const Score* rows, const std::int64_t* targets, std::int64_t labels) {
    const std::int64_t n = labels + 1;
    for (std::int64_t u = 0; u < n; ++u) {
      const Score* row = rows + u * classes_;
      if (u < labels) prefetch_row(row + classes_, classes_);
      const Normaliser<Real> all = tokens_of(row, number_, of_);
      top_[u] = all.top, sum_[u] = all.sum;
      for (std::size_t i = 0; i < tokens_.size(); ++i) {
        const std::int64_t c = tokens_[i] >= 0 ? tokens_[i] : u < labels ? targets[u] : -1;
        x_[i * width_ + u] = c < 0 ? -std::numeric_limits<Real>::infinity() : widened(row[c]);
      }
    }
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      const std::int64_t at = static_cast<std::int64_t>(i) * width_;
      exponentials(&x_[at], top_.data(), sum_.data(), n, &token_.m[at], &token_.e[at]);
    }
    if (of_.hybrid >= 0) decide(n);
    read_durations(rows, n);
  }

  // Reads the durations of n rows.
  void read_durations(const Score* rows, std::int64_t n) {
    if (of_.durations == 0) return;
    std::vector<Real> top(n, -std::numeric_limits<Real>::infinity()), sum(n, Real(0));
    for (std::int64_t u = 0; u < n; ++u)
      for (std::int64_t i = 0; i < of_.durations; ++i) x_[i * width_ + u] = widened(rows[u * classes_ + number_ + i]);
    for (std::int64_t i = 0; i < of_.durations; ++i)
      for (std::int64_t u = 0; u < n; ++u) top[u] = x_[i * width_ + u] > top[u] ? x_[i * width_ + u] : top[u];
    const std::vector<Real> ones(n, Real(1));
    for (std::int64_t i = 0; i < of_.durations; ++i) {
      Real *m = &lasting_.m[i * width_], *e = &lasting_.e[i * width_];
      exponentials(&x_[i * width_], top.data(), ones.data(), n, m, e);
#pragma GCC ivdep
      for (std::int64_t u = 0; u < n; ++u) sum[u] += m[u] * scale(e[u]);
    }
    for (std::int64_t i = 0; i < of_.durations; ++i)
      for (std::int64_t u = 0; u < n; ++u) lasting_.m[i * width_ + u] /= sum[u];
  }

  // The arc k of node u.
  Wide<Real> arc(std::int64_t k, std::int64_t u) const {
    const Wide<Real> token = token_[token_of_[k] * width_ + u];
    return of_.logit[k] < 0 ? token : times(token, lasting_[of_.logit[k] * width_ + u]);
  }
  // The blank that every shape has, the first.
  Wide<Real> blank(std::int64_t u) const { return token_[u]; }

  // The gradient of the row of node u, of which the durations have been read, where taken(k) is the weighted occupation
  // of arc k, and `extra` that of the blank by other nodes' arcs. FastEmit (Yu et al. 2021) gives labels more of it, and
  // their durations none.
  template <class Taken>
  void gradient(const Score* row, Normaliser<Real> all, std::int64_t label, std::int64_t u, const Taken& taken,
                Real extra, Real* to) const {
    Real on_blanks = extra, on_label = 0, on_durations = 0;
    for (std::int64_t k = 0; k < of_.shape.kinds; ++k) {
      (of_.token[k] < 0 ? on_label : on_blanks) += taken(k);
      if (of_.logit[k] >= 0) on_durations += taken(k);
    }
    on_label *= Real(1 + of_.fastemit_lambda);
    row_slopes(row, number_, all.top, (of_.hybrid < 0 ? on_blanks + on_label : on_label) / all.sum, to);
    if (of_.hybrid >= 0) {  // of a sigmoid
      const Real blank = widened(row[of_.hybrid]), top = std::max(blank, Real(0));
      const Real kept = exp_negative(blank - top), left = exp_negative(-top);
      to[of_.hybrid] = (on_blanks + on_label) * (kept / (kept + left));
    }
    for (std::int64_t i = 0; i < of_.durations; ++i)
      to[number_ + i] = on_durations * share(lasting_[i * width_ + u], {Real(1), Real(0)});
    for (std::int64_t k = 0; k < of_.shape.kinds; ++k) {
      if (of_.token[k] >= 0) to[of_.token[k]] -= taken(k);
      if (of_.logit[k] >= 0) to[number_ + of_.logit[k]] -= taken(k);
    }
    to[of_.token[0]] -= extra;
    if (label >= 0) to[label] -= on_label;
  }

 private:
  // Whether a node emits is its blank's own decision, a sigmoid's.
  void decide(std::int64_t n) {
    const auto last = static_cast<std::int64_t>(tokens_.size()) - 1;
#pragma GCC ivdep
    for (std::int64_t u = 0; u < n; ++u) {
      const Real blank = x_[u], top = blank > 0 ? blank : Real(0);
      const Wide<Real> stay = exp_wide(blank - top), emit = exp_wide(-top);
      const Real sum = stay.mantissa * scale(stay.exponent) + emit.mantissa * scale(emit.exponent);
      token_.set(u, {stay.mantissa / sum, stay.exponent});
      token_.set(last * width_ + u, times(token_[last * width_ + u], {emit.mantissa / sum, emit.exponent}));
    }
  }

  const Emissions& of_;
  std::int64_t number_, classes_, width_;
  std::vector<std::int64_t> tokens_, token_of_;  // the tokens, and which of them each arc has
  std::vector<Real> x_, top_, sum_;
  Wides<Real> token_, lasting_;
};

}  // namespace ISA
}  // namespace exportable_losses
