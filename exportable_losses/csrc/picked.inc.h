// The log-probabilities of a few classes of each row, and their gradient, for one instruction set: a softmax of which
// nothing else is kept. The gradient reads the scores again.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "lattice.h"
#include "rows.inc.h"

namespace exportable_losses {
namespace ISA {

// Calls of(row) for every row, some of them at a time on one thread.
template <class Of>
inline void for_rows(std::int64_t rows, std::int64_t classes, const Parallel& parallel, const Of& of) {
  const std::int64_t some = std::max<std::int64_t>(1, (1 << 14) / std::max<std::int64_t>(classes, 1));
  parallel((rows + some - 1) / some, [&](std::int64_t i) {
    for (std::int64_t row = i * some; row < std::min((i + 1) * some, rows); ++row) of(row);
  });
}

template <class Real>
void pick(const Access<Real>& access, const char* scores, std::int64_t row_bytes, const Picks& of, Real* log_probs,
          const Parallel& parallel) {
  for_rows(of.rows, of.classes, parallel, [&](std::int64_t n) {
    const std::int64_t* classes = of.picked + n * of.kinds;
    Real* to = log_probs + n * of.kinds;
    std::fill_n(to, of.kinds, -std::numeric_limits<Real>::infinity());
    if (*std::max_element(classes, classes + of.kinds) < 0) return;
    const char* row = scores + n * row_bytes;
    if (n + 1 < of.rows) access.prefetch(row + row_bytes, of.classes);
    const Normaliser<Real> all = access.normaliser(row, of.classes, -1);
    const Real log_sum = std::log(all.sum);
    for (std::int64_t k = 0; k < of.kinds; ++k)
      if (classes[k] >= 0) to[k] = access.at(row, classes[k]) - all.top - log_sum;
  });
}

template <class Real>
void pick_grad(const Access<Real>& access, const char* scores, std::int64_t row_bytes, const Picks& of, const Real* grad,
               char* to, const Parallel& parallel) {
  for_rows(of.rows, of.classes, parallel, [&](std::int64_t n) {
    const std::int64_t* classes = of.picked + n * of.kinds;
    const Real* weights = grad + n * of.kinds;
    char* slopes_of = to + n * row_bytes;
    Real sum = 0;
    bool any = false;
    for (std::int64_t k = 0; k < of.kinds; ++k)
      if (classes[k] >= 0) sum += weights[k], any = any || weights[k] != 0;
    if (!any) {
      std::fill_n(slopes_of, of.classes * access.bytes, 0);
      return;
    }
    const char* row = scores + n * row_bytes;
    if (n + 1 < of.rows) access.prefetch(row + row_bytes, of.classes);
    thread_local std::vector<Real> wide;
    if (access.narrow) wide.resize(of.classes);
    Real* slopes = access.narrow ? wide.data() : reinterpret_cast<Real*>(slopes_of);
    const Normaliser<Real> all = access.normaliser(row, of.classes, -1);
    access.slopes(row, of.classes, all.top, -sum / all.sum, slopes);
    for (std::int64_t k = 0; k < of.kinds; ++k)
      if (classes[k] >= 0) slopes[classes[k]] += weights[k];
    if (access.narrow) access.narrow(slopes, of.classes, slopes_of);
  });
}

template <class Score>
void pick(const Score* scores, const Picks& of, Computed<Score>* log_probs, const Parallel& parallel) {
  ISA::pick(access_to<Score>(), reinterpret_cast<const char*>(scores), of.row_stride * std::int64_t(sizeof(Score)), of,
            log_probs, parallel);
}

template <class Score>
void pick_grad(const Score* scores, const Picks& of, const Computed<Score>* grad, Score* to, const Parallel& parallel) {
  ISA::pick_grad(access_to<Score>(), reinterpret_cast<const char*>(scores), of.row_stride * std::int64_t(sizeof(Score)),
                 of, grad, reinterpret_cast<char*>(to), parallel);
}

}  // namespace ISA
}  // namespace exportable_losses
