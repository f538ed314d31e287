// The lattice of any transducer on the device, whose arcs are given. See ../arcs.inc.h.
//
// A block walks the lattice of one item by diagonals n = t + u, its threads the nodes of a diagonal: forwards, and
// for the gradient backwards as well. Alphas and betas of all diagonals are in the workspace, for an arc may lead over
// several; one barrier a diagonal is enough, since no two nodes of one have an arc between them.
#pragma once

#include "../lattice.h"
#include "lattice.cuh"
#include "wide.cuh"

namespace exportable_losses {
namespace on_device {

constexpr int most_kinds = 64;

// What a kernel takes by value; the durations of a batch lie with the host.
template <class Real>
struct ArcsOfBatch {
  const Real* arcs;
  int64_t frames, labels;
  const int64_t *input_lengths, *target_lengths;
  int kinds, blanks;
  bool label_ends;
  int duration[most_kinds];
};

// The lattice of one item.
template <class Real>
struct ArcsOfItem {
  const ArcsOfBatch<Real>& x;
  const Real* arcs;
  int frames, labels;
  Wide<Real>*alphas, *betas;  // [T + U + 1, U + 1] of the batch's sizes; betas is null without a gradient

  __device__ ArcsOfItem(const ArcsOfBatch<Real>& of, int64_t b, Wide<Real>* alpha, Wide<Real>* beta)
      : x(of),
        arcs(of.arcs + b * of.frames * (of.labels + 1) * of.kinds),
        frames(clamped(of.input_lengths[b], of.frames)),
        labels(clamped(of.target_lengths[b], of.labels)),
        alphas(alpha + b * (of.frames + of.labels + 1) * (of.labels + 1)),
        betas(beta ? beta + b * (of.frames + of.labels + 1) * (of.labels + 1) : nullptr) {}

  __device__ int64_t node(int t, int u) const { return static_cast<int64_t>(t) * (x.labels + 1) + u; }
  __device__ int64_t at(int t, int u) const { return static_cast<int64_t>(t + u) * (x.labels + 1) + u; }
  // Whether arc k leads from (t, u) to a node of the item.
  __device__ bool leads(int t, int u, int k) const {
    if (t < 0 || t >= frames || u < 0 || u > labels) return false;
    const int to = t + x.duration[k];
    return k < x.blanks ? to <= frames : u < labels && to < frames + x.label_ends;
  }
  __device__ Wide<Real> arc(int t, int u, int k) const { return exp_wide(arcs[node(t, u) * x.kinds + k]); }

  // alpha(t, u) = sum over d of alpha(t-d, u) blank(t-d, u, d) + alpha(t-d, u-1) label(t-d, u-1, d).
  __device__ Wide<Real> alpha(int t, int u) const {
    Wide<Real> sum = one_if<Real>(t == 0 && u == 0);
    for (int k = 0; k < x.kinds; ++k) {
      const int from = t - x.duration[k], below = u - (k >= x.blanks);
      if (leads(from, below, k)) sum = add(sum, multiply(alphas[at(from, below)], arc(from, below, k)));
    }
    return normalised(sum.mantissa, sum.exponent);
  }
};

template <class Real>
__global__ void __launch_bounds__(widest_strip)
    arcs_walk(ArcsOfBatch<Real> x, Wide<Real>* alphas, Wide<Real>* betas, const Real* grad_costs, Real* costs, Real* grad) {
  const int64_t b = blockIdx.x;
  const ArcsOfItem<Real> item(x, b, alphas, betas);
  const int last = item.frames + item.labels;
  for (int n = 0; n <= last; ++n) {
    for (int u = threadIdx.x; u <= item.labels; u += blockDim.x)
      if (n - u >= 0 && n - u <= item.frames) item.alphas[item.at(n - u, u)] = item.alpha(n - u, u);
    __syncthreads();
  }
  const Wide<Real> total = item.alphas[item.at(item.frames, item.labels)];
  const Real cost = minus_log(total);
  if (threadIdx.x == 0) costs[b] = cost;
  if (grad == nullptr) return;
  const int64_t arcs = x.frames * (x.labels + 1) * x.kinds;
  Real* to = grad + b * arcs;
  for (int64_t i = threadIdx.x; i < arcs; i += blockDim.x) to[i] = Real(0);
  __syncthreads();
  if (isinf(cost)) return;
  const Real weight = grad_costs ? grad_costs[b] : Real(1);
  for (int n = last; n >= 0; --n) {
    for (int u = threadIdx.x; u <= item.labels; u += blockDim.x) {
      const int t = n - u;
      if (t < 0 || t > item.frames) continue;
      Wide<Real> sum = one_if<Real>(t == item.frames && u == item.labels);
      for (int k = 0; k < x.kinds; ++k) {
        if (!item.leads(t, u, k)) continue;
        const Wide<Real> through =
            multiply(item.arc(t, u, k), item.betas[item.at(t + x.duration[k], u + (k >= x.blanks))]);
        sum = add(sum, through);
        to[item.node(t, u) * x.kinds + k] = -weight * share(item.alphas[item.at(t, u)], through, total);
      }
      item.betas[item.at(t, u)] = normalised(sum.mantissa, sum.exponent);
    }
    __syncthreads();
  }
}

}  // namespace on_device
}  // namespace exportable_losses
