// The log-probabilities of a few classes of each row, and their gradient, on the device. See ../picked.inc.h.
//
// A team of lanes has a row. Its scores are read once, and for the gradient once more where it is written.
#pragma once

#include "../lattice.h"
#include "rows.cuh"

namespace exportable_losses {
namespace on_device {

// Calls of(n) for every row. There may be more than a grid has teams.
template <class Of>
__device__ inline void for_rows(const Picks& x, const Team& team, Of of) {
  const int64_t teams = static_cast<int64_t>(gridDim.x) * (blockDim.x / team.lanes);
  for (int64_t n = team.row(); n < x.rows; n += teams) of(n);
}

// Whether there is such a class: -1 is none, and so is what nobody has checked and is out of range.
__device__ inline bool is_class(const Picks& x, int64_t c) { return c >= 0 && c < x.classes; }

template <class Score>
__global__ void __launch_bounds__(row_threads)
    pick_log_probs(const Score* scores, Picks x, Computed<Score>* log_probs, int lanes) {
  using Real = Computed<Score>;
  const Team team(lanes);
  for_rows(x, team, [&](int64_t n) {
    const Score* row = scores + n * x.row_stride;
    const int64_t* picked = x.picked + n * x.kinds;
    bool any = false;
    for (int64_t k = 0; k < x.kinds && !any; ++k) any = is_class(x, picked[k]);
    Real top = 0, sum = 1;
    if (any) top_and_sum(row, static_cast<int>(x.classes), team, top, sum);
    const Real log_sum = log(sum);
    for (int64_t k = team.lane; k < x.kinds; k += team.lanes)
      log_probs[n * x.kinds + k] =
          is_class(x, picked[k]) ? widened(row[picked[k]]) - top - log_sum : Real(-INFINITY);
  });
}

// `at_classes` [rows, kinds] has the slopes of the picked classes while the row is written, maybe in the scores' own
// place: each is rounded once. A class that is picked twice has the same there each time.
template <class Score>
__global__ void __launch_bounds__(row_threads)
    pick_gradient(const Score* scores, Picks x, const Computed<Score>* grad, Score* to, Computed<Score>* at_classes,
                  int lanes) {
  using Real = Computed<Score>;
  const Team team(lanes);
  const int classes = static_cast<int>(x.classes);
  for_rows(x, team, [&](int64_t n) {
    const Score* row = scores + n * x.row_stride;
    Score* grad_row = to + n * x.row_stride;
    const int64_t* picked = x.picked + n * x.kinds;
    const Real* weights = grad + n * x.kinds;
    Real* slopes = at_classes + n * x.kinds;
    Real weight = 0;
    bool any = false;
    for (int64_t k = 0; k < x.kinds; ++k)
      if (is_class(x, picked[k])) weight += weights[k], any = any || weights[k] != 0;
    if (!any) {
      fill_row(grad_row, classes, team, Real(0));
      return;
    }
    Real top, sum;
    top_and_sum(row, classes, team, top, sum);
    const Real scale = -weight / sum;
    auto slope = [&](int, Real score) { return scale * exp_of(score - top); };
    for (int64_t k = team.lane; k < x.kinds; k += team.lanes) {
      if (!is_class(x, picked[k])) continue;
      Real all = slope(0, widened(row[picked[k]]));
      for (int64_t j = 0; j < x.kinds; ++j)
        if (picked[j] == picked[k]) all += weights[j];
      slopes[k] = all;
    }
    team.sync();  // the row is read
    write_row(row, grad_row, classes, team, slope);
    team.sync();  // and written
    for (int64_t k = team.lane; k < x.kinds; k += team.lanes)
      if (is_class(x, picked[k])) narrow_to(grad_row[picked[k]], slopes[k]);
  });
}

}  // namespace on_device
}  // namespace exportable_losses
