// From logits to the factors of a transducer's arcs, and from their occupations to the gradient, for one instruction set.
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

template <class Real>
inline Wide<Real> times(Wide<Real> a, Wide<Real> b) {
  return multiply<Real, false>(a, b);
}

// Of what the arcs are made: tokens, the last of them the label, and behind them how long they last.
struct Factors {
  std::vector<std::int64_t> tokens;  // classes of blanks, and -1
  std::int64_t durations;
  std::vector<Arc> arcs;

  explicit Factors(const Emissions& of) : durations(of.durations) {
    for (std::int64_t k = 0; k < of.shape.kinds; ++k) {  // arcs of one token stand side by side
      if (k == 0 || of.token[k] != of.token[k - 1]) tokens.push_back(of.token[k]);
      const bool is_label = k >= of.shape.blanks;
      arcs.push_back({of.shape.duration[k] + is_label, is_label, label()});
    }
    for (std::int64_t k = 0; k < of.shape.kinds; ++k)
      if (of.logit[k] >= 0) arcs[k].second = label() + 1 + of.logit[k];
  }
  std::int64_t label() const { return static_cast<std::int64_t>(tokens.size()) - 1; }
  std::int64_t all() const { return label() + 1 + durations; }
};

// The nodes (t, 0..U) of a frame: the logits of each factor for all of them in a row, and what they are
// probabilities by.
template <class Real>
class Nodes {
 public:
  Nodes(const Emissions& of, const Factors& factors, std::int64_t width)
      : of_(of),
        factors_(factors),
        width_(width),
        logits_(width * factors.all()),
        top_(width),
        sum_(width),
        memory_(WideRows<Real>::size(factors.all(), width)),
        p_(memory_.data(), factors.all(), width) {}

  Real& logit(std::int64_t f, std::int64_t u) { return logits_[f * width_ + u]; }
  void normalise(std::int64_t u, Normaliser<Real> all) { top_[u] = all.top, sum_[u] = all.sum; }

  // The probabilities of the tokens of n nodes.
  EXPORTABLE_LOSSES_ONE_COPY void tokens(std::int64_t n) {
    for (std::int64_t f = 0; f <= factors_.label(); ++f) exponentials(f, n);
    if (of_.hybrid >= 0) decide(n);
  }

  // The probabilities of the durations.
  EXPORTABLE_LOSSES_ONE_COPY void durations(std::int64_t n) {
    const std::int64_t first = factors_.label() + 1;
    std::fill_n(top_.begin(), n, -std::numeric_limits<Real>::infinity());
    for (std::int64_t f = first; f < factors_.all(); ++f)
#pragma GCC ivdep
      for (std::int64_t u = 0; u < n; ++u) top_[u] = std::max(top_[u], logit(f, u));
    std::fill_n(sum_.begin(), n, Real(1));
    for (std::int64_t f = first; f < factors_.all(); ++f) exponentials(f, n);
    std::fill_n(sum_.begin(), n, Real(0));
    for (std::int64_t f = first; f < factors_.all(); ++f)
#pragma GCC ivdep
      for (std::int64_t u = 0; u < n; ++u) sum_[u] += p_[f].m[u] * scale(p_[f].e[u]);
    for (std::int64_t f = first; f < factors_.all(); ++f)
#pragma GCC ivdep
      for (std::int64_t u = 0; u < n; ++u) p_[f].m[u] /= sum_[u];
  }

  // Puts the factors of frame t where the walk finds them.
  EXPORTABLE_LOSSES_ONE_COPY void put(std::int64_t t, Lattice<Real>& lattice) {
    const double early = of_.delay_penalty * (double(lattice.frames - 1) / 2 - double(t));
    const Wide<Real> on_blank = exp_wide(Real(-of_.sigma)), on_label = exp_wide(Real(early - of_.sigma));
    for (std::int64_t f = 0; f < factors_.label(); ++f) times_all(f, on_blank, lattice.width());
    times_all(factors_.label(), on_label, lattice.width());
    if (of_.constrained)
      for (std::int64_t u = 0; u < lattice.labels; ++u)
        p_[factors_.label()].set(u, times(p_[factors_.label()][u], p_[0][u + 1]));
    const std::int64_t down = factors_.all() * lattice.rows.pitch() + 1;  // from (t, u) to (t, u + 1)
    for (std::int64_t f = 0; f < factors_.all(); ++f) {
      WideRow<Real> to = lattice.row(t, f);
      for (std::int64_t u = 0; u < lattice.width(); ++u, to = to + down) to.set(0, p_[f][u]);
    }
  }

  // What the gradient of a node needs again: what normalises its tokens, a hybrid's blank, and the durations.
  static std::int64_t kept(const Emissions& of) { return 3 + of.durations; }
  void keep_tokens(std::int64_t n, Real* to) const {
    for (std::int64_t u = 0; u < n; ++u, to += kept(of_))
      to[0] = top_[u], to[1] = sum_[u], to[2] = plain(p_[0][u]);
  }
  void keep_durations(std::int64_t n, Real* to) const {
    for (std::int64_t u = 0; u < n; ++u, to += kept(of_))
      for (std::int64_t i = 0; i < factors_.durations; ++i) to[3 + i] = plain(p_[factors_.label() + 1 + i][u]);
  }
  Normaliser<Real> kept_normaliser(std::int64_t u, const Real* from) const {
    return {from[u * kept(of_)], from[u * kept(of_) + 1]};
  }

  // How much of the row's softmax of tokens the node (t, u) takes. FastEmit (Yu et al. 2021) has more of labels.
  Real tokens_taken(const Lattice<Real>& lattice, std::int64_t t, std::int64_t u) const {
    return of_.hybrid < 0 ? blanks_taken(lattice, t, u) + label_taken(lattice, t, u) : label_taken(lattice, t, u);
  }

  // The rest of the gradient of a row of logits, times `weight`, where `slopes` has that of its tokens' normaliser.
  EXPORTABLE_LOSSES_ONE_COPY void add_gradient(const Lattice<Real>& lattice, std::int64_t t, std::int64_t u,
                                               const Real* kept_of_all, const std::int64_t* targets,
                                               std::int64_t classes, Real weight, Real* slopes) const {
    const Real* p = kept_of_all + u * kept(of_) + 2;
    if (of_.hybrid >= 0)
      slopes[of_.hybrid] = weight * (blanks_taken(lattice, t, u) + label_taken(lattice, t, u)) * *p;
    for (std::int64_t f = 0; f < factors_.label(); ++f)
      slopes[factors_.tokens[f]] -= weight * lattice.occupation(t, u, f);
    slopes[factors_.tokens[0]] -= weight * taken_before(lattice, t, u);
    if (u < lattice.labels) slopes[targets[u]] -= weight * label_taken(lattice, t, u);
    Real lasting = 0;
    for (std::int64_t f = factors_.label() + 1; f < factors_.all(); ++f) lasting += lattice.occupation(t, u, f);
    Real* to = slopes + classes - factors_.durations;
    for (std::int64_t f = factors_.label() + 1; f < factors_.all(); ++f)
      *to++ = weight * (lasting * *++p - lattice.occupation(t, u, f));
  }

 private:
  void exponentials(std::int64_t f, std::int64_t n) {
    const Real* x = &logit(f, 0);
    const WideRow<Real> to = p_[f];
#pragma GCC ivdep
    for (std::int64_t u = 0; u < n; ++u) {
      const Wide<Real> p = exp_wide(x[u] - top_[u]);
      to.m[u] = p.mantissa / sum_[u], to.e[u] = p.exponent;
    }
  }

  // Whether a node emits is its blank's own decision, a sigmoid's.
  void decide(std::int64_t n) {
    const WideRow<Real> blank = p_[0], label = p_[factors_.label()];
#pragma GCC ivdep
    for (std::int64_t u = 0; u < n; ++u) {
      const Real x = logits_[u], top = x > 0 ? x : Real(0);
      const Wide<Real> stay = exp_wide(x - top), emit = exp_wide(-top);
      const Real sum = stay.mantissa * scale(stay.exponent) + emit.mantissa * scale(emit.exponent);
      blank.set(u, {stay.mantissa / sum, stay.exponent});
      label.set(u, times(label[u], {emit.mantissa / sum, emit.exponent}));
    }
  }
  static Real plain(Wide<Real> x) { return share(x, {Real(1), Real(0)}); }

  void times_all(std::int64_t f, Wide<Real> by, std::int64_t n) {
    const WideRow<Real> row = p_[f];
#pragma GCC ivdep
    for (std::int64_t u = 0; u < n; ++u) row.set(u, times(row[u], by));
  }

  // Occupations of the node's blanks, that of the label before it taking one if arcs are constrained, and of its label.
  Real blanks_taken(const Lattice<Real>& lattice, std::int64_t t, std::int64_t u) const {
    Real taken = taken_before(lattice, t, u);
    for (std::int64_t f = 0; f < factors_.label(); ++f) taken += lattice.occupation(t, u, f);
    return taken;
  }
  Real taken_before(const Lattice<Real>& lattice, std::int64_t t, std::int64_t u) const {
    return of_.constrained && u > 0 ? lattice.occupation(t, u - 1, factors_.label()) : Real(0);
  }
  Real label_taken(const Lattice<Real>& lattice, std::int64_t t, std::int64_t u) const {
    return Real(1 + of_.fastemit_lambda) * lattice.occupation(t, u, factors_.label());
  }

  const Emissions& of_;
  const Factors& factors_;
  std::int64_t width_;
  std::vector<Real> logits_, top_, sum_, memory_;
  WideRows<Real> p_;
};

}  // namespace ISA
}  // namespace exportable_losses
