// From a row of logits to the arcs that leave a node of a transducer's lattice, and from their occupations to the
// gradient of the row, for one instruction set.
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
  Wide<Real> operator()(Real x) const {
    const Wide<Real> p = exp_wide(x - top);
    return {p.mantissa / sum, p.exponent};
  }
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

// exp(x) / (1 + exp(x)) and its complement are the two of {x, 0}.
template <class Real>
inline Normaliser<Real> of_sigmoid(Real x) {
  const Real top = std::max(x, Real(0));
  return {top, exp_negative(x - top) + exp_negative(-top)};
}

template <class Real>
inline Wide<Real> times(Wide<Real> a, Wide<Real> b) {
  return multiply<Real, false>(a, b);
}

// The probabilities of a node's durations. There are a handful, so that all are computed as one vector.
template <class Real>
class Durations {
 public:
  explicit Durations(std::int64_t n)
      : n_(n), padded_((n + lanes - 1) / lanes * lanes), x_(padded_, -std::numeric_limits<Real>::infinity()),
        m_(padded_), e_(padded_) {}

  template <class Score>
  void read(const Score* row) {
    Real top = -std::numeric_limits<Real>::infinity(), sum = 0;
    for (std::int64_t i = 0; i < n_; ++i) x_[i] = widened(row[i]), top = x_[i] > top ? x_[i] : top;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = 0; i < padded_; ++i) {
      const Wide<Real> p = exp_wide(x_[i] - top);
      m_[i] = p.mantissa, e_[i] = p.exponent;
      sum += p.mantissa * scale(p.exponent);
    }
    for (std::int64_t i = 0; i < padded_; ++i) m_[i] /= sum;
  }
  Wide<Real> operator[](std::int64_t i) const { return {m_[i], e_[i]}; }

  // Their gradients, times how often the node is left.
  void slopes(Real times, Real* to) {
    for (std::int64_t i = 0; i < padded_; ++i) x_[i] = times * m_[i] * scale(e_[i]);
    std::copy_n(x_.data(), n_, to);
    std::fill_n(x_.data() + n_, padded_ - n_, -std::numeric_limits<Real>::infinity());
  }

 private:
  static constexpr std::int64_t lanes = 64 / sizeof(Real);
  std::int64_t n_, padded_;
  std::vector<Real> x_, m_, e_;
};

// The row of one node: V logits of tokens, and D of durations behind them.
template <class Score>
class LogitRow {
 public:
  using Real = Computed<Score>;

  LogitRow(const Score* row, std::int64_t classes, const Emissions& of, Normaliser<Real> tokens)
      : row_(row), of_(of), number_(classes - of.durations), tokens_(tokens) {}
  LogitRow(const Score* row, std::int64_t classes, const Emissions& of)
      : LogitRow(row, classes, of,
            of.hybrid < 0 ? normaliser(row, classes - of.durations)
                          : normaliser_without(row, classes - of.durations, of.hybrid)) {}

  const Normaliser<Real>& tokens() const { return tokens_; }

  // A token's probability: of all tokens, or, hybrid (Variani et al. 2020), of a sigmoid for the blank and among the
  // others for a label.
  Wide<Real> token(std::int64_t c) const {
    if (of_.hybrid < 0) return tokens_(at(c));
    const Real blank = at(of_.hybrid);
    const Normaliser<Real> sigmoid = of_sigmoid(blank);
    return c == of_.hybrid ? sigmoid(blank) : times(sigmoid(Real(0)), tokens_(at(c)));
  }

  // Calls set(k, arc) for each of the node's arcs, without a label for none of one.
  template <class Set>
  void arcs(std::int64_t label, Durations<Real>& durations, const Set& set) const {
    if (of_.durations) durations.read(row_ + number_);
    Wide<Real> token_of{};
    for (std::int64_t k = 0; k < of_.shape.kinds; ++k) {
      const std::int64_t c = of_.token[k] < 0 ? label : of_.token[k], d = of_.logit[k];
      if (c < 0) return;  // labels come last
      if (k == 0 || of_.token[k] != of_.token[k - 1]) token_of = token(c);
      set(k, d < 0 ? token_of : times(token_of, durations[d]));
    }
  }

  // The gradient, where taken(k) is the weighted occupation of arc k. FastEmit (Yu et al. 2021) gives labels more of it,
  // and their durations none.
  template <class Taken>
  void gradient(std::int64_t label, Durations<Real>& durations, const Taken& taken, Real extra_blank, Real* to) const {
    Real on_blanks = extra_blank, on_label = 0, on_durations = 0;
    for (std::int64_t k = 0; k < of_.shape.kinds; ++k) {
      (of_.token[k] < 0 ? on_label : on_blanks) += taken(k);
      if (of_.logit[k] >= 0) on_durations += taken(k);
    }
    on_label *= Real(1 + of_.fastemit_lambda);
    row_slopes(row_, number_, tokens_.top, (of_.hybrid < 0 ? on_blanks + on_label : on_label) / tokens_.sum, to);
    if (of_.hybrid >= 0) {
      const Real blank = at(of_.hybrid);
      to[of_.hybrid] = (on_blanks + on_label) * share(of_sigmoid(blank)(blank), {Real(1), Real(0)});
    }
    Real* to_durations = to + number_;
    if (of_.durations) {
      durations.read(row_ + number_);
      durations.slopes(on_durations, to_durations);
    }
    for (std::int64_t k = 0; k < of_.shape.kinds; ++k) {
      if (of_.token[k] >= 0) to[of_.token[k]] -= taken(k);
      if (of_.logit[k] >= 0) to_durations[of_.logit[k]] -= taken(k);
    }
    to[of_.token[0]] -= extra_blank;
    if (label >= 0) to[label] -= on_label;
  }

 private:
  Real at(std::int64_t c) const { return widened(row_[c]); }

  const Score* row_;
  const Emissions& of_;
  std::int64_t number_;
  Normaliser<Real> tokens_;
};

}  // namespace ISA
}  // namespace exportable_losses
