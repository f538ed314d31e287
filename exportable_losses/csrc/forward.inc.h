// A transducer's forward recursion for frames that come in pieces, for one instruction set.
//
// Where the paths stand between two frames is one number for each u: alpha(t, u) of those that have come to frame t by
// a blank. Within a frame they emit labels, and leave it by another blank.
#pragma once

#include <vector>

#include "lattice.h"
#include "wide.h"

namespace exportable_losses {
namespace ISA {

// An item's arcs (blank, label) of each node, and the state that they lead to, whose largest log-probability is zero.
template <class Real>
Real walk_on(const Real* arcs, std::int64_t frames, std::int64_t labels, std::int64_t width, const Real* alpha,
             const Real* offset, Real* alpha_out, Real* offset_out) {
  std::vector<Wide<Real>> state(labels + 1);
  for (std::int64_t u = 0; u <= labels; ++u) state[u] = exp_wide(alpha[u]);
  const Wide<Real> none{Real(0), lowest<Real>()}, one{Real(1), Real(0)};
  for (std::int64_t t = 0; t < frames; ++t, arcs += 2 * width) {
    Wide<Real> emitted = none;  // what comes from (t, u - 1)
    for (std::int64_t u = 0; u <= labels; ++u) {
      const Wide<Real> here = add(state[u], emitted);
      state[u] = multiply(here, exp_wide(arcs[2 * u]));
      if (u < labels) emitted = multiply(here, exp_wide(arcs[2 * u + 1]));
    }
  }
  Wide<Real> most = none;
  for (const Wide<Real> x : state) most = larger(most, normalised(x.mantissa, x.exponent));
  if (frames == 0 || most.mantissa == 0) most = one;  // a state that is kept, or none that is possible
  add_exactly(offset, log_ratio(most, one), offset_out);
  const double ended = frames ? log_ratio(state[labels], most) : double(alpha[labels]);
  for (std::int64_t u = 0; u < width; ++u)  // alpha_out may be alpha
    alpha_out[u] = u > labels ? -std::numeric_limits<Real>::infinity()
                   : frames   ? Real(log_ratio(state[u], most))
                              : alpha[u];
  return Real(-(double(offset_out[0]) + (double(offset_out[1]) + ended)));
}

template <class Real>
void transducer_forward(const ArcsBatch<Real>& batch, const Walk<Real>& walk, Real* costs, const Parallel& parallel) {
  const std::int64_t width = batch.labels + 1;
  parallel(batch.batch, [&](std::int64_t b) {
    costs[b] = walk_on(batch.arcs + b * batch.frames * width * 2, batch.input_lengths[b], batch.target_lengths[b], width,
                       walk.alpha + b * width, walk.offset + 2 * b, walk.alpha_out + b * width, walk.offset_out + 2 * b);
  });
}

}  // namespace ISA
}  // namespace exportable_losses
