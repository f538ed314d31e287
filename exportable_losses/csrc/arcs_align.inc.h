// The best path through a lattice of given arcs by Viterbi's algorithm, for one instruction set.
//
//     best(t, u) = max over d of  best(t-d, u) + blank(t-d, u, d),  best(t-d, u-1) + label(t-d, u-1, d)
//
// The path goes back from (T, U) along the first arc, in their order, by which each node is reached that well. Sums are
// of doubles: of a few thousand floats a float has lost the digits that tell one path from another.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "lattice.h"

namespace exportable_losses {
namespace ISA {

template <class Real>
class BestArcs {
 public:
  BestArcs(const ArcsBatch<Real>& batch, std::int64_t b)
      : shape_(batch.shape),
        arcs_(batch.arcs + b * batch.frames * (batch.labels + 1) * batch.shape.kinds),
        width_(batch.labels + 1),
        frames_(batch.input_lengths[b]),
        labels_(batch.target_lengths[b]),
        best_((frames_ + 1) * width_, -std::numeric_limits<double>::infinity()) {}

  // The path's log-probability, and where each label's arc begins and which of the labels' arcs it is, unless that is
  // no number.
  double operator()(std::int64_t* starts, std::int64_t* kinds) {
    at(0, 0) = 0;
    for (std::int64_t t = 0; t <= frames_; ++t) {
      for (std::int64_t k = 0; k < shape_.kinds; ++k)
        if (shape_.duration[k] > 0) reach(t, k, 0, width_);
      for (std::int64_t u = 0; u < labels_; ++u)  // a label that takes no time comes from the node before
        for (std::int64_t k = shape_.blanks; k < shape_.kinds; ++k)
          if (shape_.duration[k] == 0) reach(t, k, u, u + 1);
    }
    if (wrong_) return std::numeric_limits<double>::quiet_NaN();
    const double score = at(frames_, labels_);
    if (!(score > impossible)) return -std::numeric_limits<double>::infinity();
    trace(starts, kinds);
    return score;
  }

 private:
  static constexpr double impossible = -1e29;  // as in plain torch, where what is impossible is a number too

  double& at(std::int64_t t, std::int64_t u) { return best_[t * width_ + u]; }
  double arc(std::int64_t t, std::int64_t u, std::int64_t k) const {
    return double(arcs_[(t * width_ + u) * shape_.kinds + k]);
  }
  bool is_label(std::int64_t k) const { return k >= shape_.blanks; }
  // Whether an arc may lead from frame t, to a node.
  bool leads(std::int64_t t, std::int64_t k) const {
    return t >= 0 && t < frames_ && t + shape_.duration[k] < frames_ + (is_label(k) ? shape_.label_ends : 1);
  }

  // What comes to frame t by an arc from the nodes [first, last).
  void reach(std::int64_t t, std::int64_t k, std::int64_t first, std::int64_t last) {
    const std::int64_t from = t - shape_.duration[k], right = is_label(k);
    if (!leads(from, k)) return;
    for (std::int64_t u = first; u < std::min(last, labels_ + 1 - right); ++u) {
      const double x = arc(from, u, k), reached = at(from, u) + x;
      wrong_ |= !(x < std::numeric_limits<double>::infinity());
      if (reached > at(t, u + right)) at(t, u + right) = reached;
    }
  }

  void trace(std::int64_t* starts, std::int64_t* kinds) {
    for (std::int64_t t = frames_, u = labels_; t > 0 || u > 0;) {
      std::int64_t k = 0;
      while (!(from(t, u, k) && at(t - shape_.duration[k], u - is_label(k)) +
                                        arc(t - shape_.duration[k], u - is_label(k), k) == at(t, u)))
        ++k;
      t -= shape_.duration[k];
      if (!is_label(k)) continue;
      --u;
      starts[u] = t, kinds[u] = k - shape_.blanks;
    }
  }
  bool from(std::int64_t t, std::int64_t u, std::int64_t k) const {
    return leads(t - shape_.duration[k], k) && (u > 0 || !is_label(k));
  }

  ArcShape shape_;
  const Real* arcs_;
  std::int64_t width_, frames_, labels_;
  std::vector<double> best_;
  bool wrong_ = false;  // a NaN or +inf among the arcs
};

template <class Real>
void arcs_align(const ArcsBatch<Real>& batch, std::int64_t* starts, std::int64_t* kinds, Real* scores,
                const Parallel& parallel) {
  std::fill_n(starts, batch.batch * batch.labels, std::int64_t(0));
  std::fill_n(kinds, batch.batch * batch.labels, std::int64_t(0));
  parallel(batch.batch, [&](std::int64_t b) {
    scores[b] = Real(BestArcs<Real>(batch, b)(starts + b * batch.labels, kinds + b * batch.labels));
  });
}

}  // namespace ISA
}  // namespace exportable_losses
