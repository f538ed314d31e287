// The transducer on the device: Graves 2012, section 2.4. See ../transducer.inc.h.
//
// Three kernels. The first reads each row of logits once, a team of lanes a row, and keeps its
// maximum, its sum of exponentials and the two arcs that leave the node. The second walks the lattice
// by diagonals n = t + u, forwards and backwards at once in two blocks. The third reads the logits
// again and writes the gradient; of what the first read last, something is still in the cache, so
// it begins at the end.
#pragma once

#include "lattice.cuh"
#include "rows.cuh"

namespace exportable_losses {
namespace on_device {

// The arcs of a node, to (t+1, u) and to (t, u+1).
template <class Real>
struct alignas(16) Arcs {
  Wide<Real> stay, emit;
};

template <class Real>
struct Norm {
  Real top, sum;
};

// The workspace. Nodes of one diagonal stand side by side, for the walk takes them together. (t, u) is
// kept in row t + u, and rows beyond the last wrap around to those that short diagonals leave: u is
// another there, so no two nodes meet.
template <class Real>
struct Nodes {
  int rows, width;
  Arcs<Real>* arcs;
  Norm<Real>* norms;
  Wide<Real>*alphas, *betas;  // alphas is null without a gradient
  Wide<Real>* totals;         // of each item
  Wide<Real>* flow;           // between strips, for each item and direction; see flow_of

  __device__ int64_t at(int64_t b, int n, int u) const {
    const int row = n < rows ? n : n - rows;
    return (b * rows + row) * width + u;
  }
};

template <class Score>
__global__ void __launch_bounds__(row_threads)
    transducer_norms(Batch<Score> x, Nodes<Computed<Score>> nodes, int lanes) {
  using Real = Computed<Score>;
  const Team team(lanes);
  for (int64_t b = blockIdx.y; b < x.batch; b += gridDim.y) {
    const Item<Score> item(x, b);
    const int t = team.row() / nodes.width, u = team.row() % nodes.width;
    if (t >= item.frames || u > item.labels) continue;
    const Score* logits = item.scores + t * x.frame_stride + u * x.classes;
    Real top, sum;
    top_and_sum(logits, static_cast<int>(x.classes), team, top, sum);
    if (team.lane != 0) continue;
    const int label = item.label(u);
    Arcs<Real> arcs{exp_wide(widened(logits[x.blank]) - top),
                    label < 0 ? zero<Real>() : exp_wide(widened(logits[label]) - top)};
    arcs.stay.mantissa /= sum, arcs.emit.mantissa /= sum;
    const int64_t node = nodes.at(b, t + u, u);
    nodes.arcs[node] = arcs;
    if (nodes.alphas) nodes.norms[node] = {top, sum};
  }
}

// alpha(t, u) = alpha(t-1, u) blank(t-1, u) + alpha(t, u-1) label(t, u-1), from diagonal n to n + 1.
template <class Score, class Real>
__device__ void transducer_forward(const Item<Score>& item, int64_t b, const Nodes<Real>& nodes, Real* cost,
                                   Wide<Real>* flow) {
  const int diagonals = item.frames + item.labels;
  for (int first = 0; first < item.width(); first += blockDim.x) {
    const int u = first + threadIdx.x;
    Neighbour<Wide<Real>> before(-1, first, item.width(), flow);
    auto is_node = [&](int n) { return u < item.width() && n >= u && n - u < item.frames; };
    auto arcs = [&](int n) {
      return is_node(n) ? nodes.arcs[nodes.at(b, n, u)] : Arcs<Real>{zero<Real>(), zero<Real>()};
    };
    Wide<Real> alpha = one_if<Real>(u == 0);
    each_step<4>(diagonals, arcs, [&](int n, const Arcs<Real>& leave) {
      if (nodes.alphas && is_node(n)) nodes.alphas[nodes.at(b, n, u)] = alpha;
      const Wide<Real> emitted = multiply(alpha, leave.emit), stayed = multiply(alpha, leave.stay);
      alpha = add(stayed, before.hand_on(n, emitted, zero<Real>()));
    });
    if (u == item.labels) {
      *cost = minus_log(alpha);
      if (nodes.alphas) nodes.totals[b] = alpha;
    }
    __syncthreads();  // the next strip begins with the first buffer again
  }
}

// beta(t, u) = blank(t, u) beta(t+1, u) + label(t, u) beta(t, u+1), from diagonal n + 1 to n.
template <class Score, class Real>
__device__ void transducer_backward(const Item<Score>& item, int64_t b, const Nodes<Real>& nodes, Wide<Real>* flow) {
  const int diagonals = item.frames + item.labels;
  for (int first = (item.width() - 1) / blockDim.x * blockDim.x; first >= 0; first -= blockDim.x) {
    const int u = first + threadIdx.x;
    Neighbour<Wide<Real>> behind(1, first, item.width(), flow);
    auto is_node = [&](int n) { return u < item.width() && n >= u && n - u < item.frames; };
    auto arcs = [&](int step) {
      const int n = diagonals - 1 - step;
      return is_node(n) ? nodes.arcs[nodes.at(b, n, u)] : Arcs<Real>{zero<Real>(), zero<Real>()};
    };
    Wide<Real> beta = one_if<Real>(u == item.labels);
    each_step<4>(diagonals, arcs, [&](int step, const Arcs<Real>& leave) {
      const int n = diagonals - 1 - step;
      const Wide<Real> next = behind.hand_on(step, beta, zero<Real>());
      beta = add(multiply(leave.stay, beta), multiply(leave.emit, next));
      if (is_node(n)) nodes.betas[nodes.at(b, n, u)] = beta;
    });
    __syncthreads();
  }
}

template <class Score>
__global__ void __launch_bounds__(widest_strip)
    transducer_walk(Batch<Score> x, Nodes<Computed<Score>> nodes, Computed<Score>* costs) {
  using Real = Computed<Score>;
  const int64_t b = blockIdx.x;
  const Item<Score> item(x, b);
  Wide<Real>* flow = flow_of(nodes.flow, b, blockIdx.y, x.frames + x.labels);
  if (blockIdx.y == 0)
    transducer_forward(item, b, nodes, costs + b, flow);
  else
    transducer_backward(item, b, nodes, flow);
}

// The occupation of the arcs of a node times the weight of its item.
template <class Score, class Real>
__device__ inline void occupation(const Item<Score>& item, const Nodes<Real>& nodes, int64_t b, int t, int u,
                                  Real weight, Real& stay, Real& emit) {
  const int64_t node = nodes.at(b, t + u, u);
  const Arcs<Real> arcs = nodes.arcs[node];
  const Wide<Real> alpha = nodes.alphas[node], total = nodes.totals[b];
  const bool last_frame = t == item.frames - 1;
  const Wide<Real> above = last_frame ? one_if<Real>(u == item.labels) : nodes.betas[nodes.at(b, t + u + 1, u)];
  const Wide<Real> right = u < item.labels ? nodes.betas[nodes.at(b, t + u + 1, u + 1)] : zero<Real>();
  stay = weight * share(alpha, multiply(arcs.stay, above), total);
  emit = weight * share(alpha, multiply(arcs.emit, right), total);
}

// softmax * occupation of the node - occupation of the arc.
template <class Score>
__global__ void __launch_bounds__(row_threads)
    transducer_gradient(Batch<Score> x, Nodes<Computed<Score>> nodes, const Computed<Score>* grad_costs,
                        const Computed<Score>* costs, Score* grad, int lanes) {
  using Real = Computed<Score>;
  const Team team(lanes);
  const int classes = static_cast<int>(x.classes);
  const int rows = static_cast<int>(x.frames) * nodes.width;
  for (int64_t b = x.batch - 1 - blockIdx.y; b >= 0; b -= gridDim.y) {
    const Item<Score> item(x, b);
    const int row = rows - 1 - team.row();
    if (row < 0) continue;
    const int t = row / nodes.width, u = row % nodes.width;
    Score* grad_row = grad + (b * rows + row) * x.classes;
    if (t >= item.frames || u > item.labels || isinf(costs[b])) {
      fill_row(grad_row, classes, team, Real(0));
      continue;
    }
    Real stay, emit;
    occupation(item, nodes, b, t, u, grad_costs ? grad_costs[b] : Real(1), stay, emit);
    const Norm<Real> norm = nodes.norms[nodes.at(b, t + u, u)];
    const Real scale = (stay + emit) / norm.sum;
    const int blank = static_cast<int>(x.blank), label = item.label(u);
    write_row(item.scores + t * x.frame_stride + u * x.classes, grad_row, classes, team, [&](int v, Real logit) {
      const Real occupied = (v == blank ? stay : Real(0)) + (v == label ? emit : Real(0));
      return scale * exp_of(logit - norm.top) - occupied;
    });
  }
}

}  // namespace on_device
}  // namespace exportable_losses
