// CTC on the device: Graves et al. 2006, section 4.1. See ../ctc.inc.h for the two rows of states.
//
// Two kernels. The first walks the lattice frame by frame, forwards and backwards at once in two
// blocks; a third block looks for labels that come more than once. The second writes the gradient, a
// team of lanes a frame.
#pragma once

#include "lattice.cuh"
#include "rows.cuh"

namespace exportable_losses {
namespace on_device {

// Column i has the blank before label i, and label i.
template <class Real>
struct alignas(16) States {
  Wide<Real> blank, label;
};

// Where a label stands again: each class has one chain, from its first place to its last.
struct Repeat {
  bool first;
  int next;  // 0 behind the last: no label follows itself there
};

// The workspace.
template <class Real>
struct Frames {
  int width;
  States<Real>*alphas, *betas;  // of each frame; alphas is null without a gradient
  Wide<Real>* totals;           // of each item
  Repeat* repeats;              // of each label
  States<Real>* flow;           // between strips, for each item and direction; see flow_of
};

template <class Real>
struct Emission {
  Real blank, label;
};

// The log-probabilities of the blank and of column i's label at frame t.
template <class Score>
__device__ inline Emission<Computed<Score>> emission(const Batch<Score>& x, const Item<Score>& item, int t, int label) {
  using Real = Computed<Score>;
  if (t < 0 || t >= item.frames) return {Real(-INFINITY), Real(-INFINITY)};
  const Score* y = item.scores + t * x.frame_stride;
  return {widened(y[x.blank]), label < 0 ? Real(-INFINITY) : widened(y[label])};
}

// Whether a path may go from label i - 1 to label i and leave out the blank between them.
template <class Score>
__device__ inline bool may_skip(const Item<Score>& item, int i) {
  return i > 0 && i < item.labels && item.targets[i] != item.targets[i - 1];
}

template <class Real>
__device__ inline States<Real> nothing() {
  return {zero<Real>(), zero<Real>()};
}

// An item that reads a NaN or +inf, in whichever state and frame, costs a NaN.
template <class Score, class Real>
__device__ void ctc_forward(const Batch<Score>& x, const Item<Score>& item, States<Real>* alphas, Real* cost,
                            Wide<Real>* total, States<Real>* flow) {
  bool poisoned = false;
  for (int first = 0; first < item.width(); first += blockDim.x) {
    const int i = first + threadIdx.x, label = item.label(i);
    const bool skip = may_skip(item, i);
    Neighbour<States<Real>> before(-1, first, item.width(), flow);
    // before the first frame all probability is on a blank in front of everything
    States<Real> s = {one_if<Real>(i == 0), zero<Real>()};
    auto fetch = [&](int t) { return emission(x, item, t, label); };
    each_step<8>(item.frames, fetch, [&](int t, const Emission<Real>& y) {
      poisoned = poisoned || !(y.blank < Real(INFINITY)) || !(y.label < Real(INFINITY));
      const Wide<Real> on_blank = exp_wide(y.blank), on_label = exp_wide(y.label);
      const Wide<Real> entered = before.hand_on(t, s, nothing<Real>()).label;
      const Wide<Real> either = add(s.blank, entered);
      s.label = multiply(add(s.label, skip ? either : s.blank), on_label);
      s.blank = multiply(either, on_blank);
      if (alphas && i < item.width()) alphas[int64_t(t) * (x.labels + 1) + i] = s;
    });
    // behind the last frame an alignment is complete on the last blank or the last label
    const Wide<Real> last_label = before.hand_on(item.frames, s, nothing<Real>()).label;
    if (i == item.labels) {
      const Wide<Real> all = add(s.blank, last_label);
      *cost = minus_log(all);
      if (alphas) *total = all;
    }
    __syncthreads();  // the next strip begins with the first buffer again
  }
  if (poisoned) *cost = Real(NAN);  // whoever else writes it writes the same
}

// betas[t] is what follows frame t, given the state there.
template <class Score, class Real>
__device__ void ctc_backward(const Batch<Score>& x, const Item<Score>& item, States<Real>* betas, States<Real>* flow) {
  for (int first = (item.width() - 1) / blockDim.x * blockDim.x; first >= 0; first -= blockDim.x) {
    const int i = first + threadIdx.x, label = item.label(i);
    const bool skip = may_skip(item, i + 1);
    Neighbour<States<Real>> behind(1, first, item.width(), flow);
    States<Real> s = {one_if<Real>(i == item.labels), one_if<Real>(i == item.labels - 1)};
    auto fetch = [&](int step) { return emission(x, item, item.frames - 1 - step, label); };
    each_step<8>(item.frames, fetch, [&](int step, const Emission<Real>& y) {
      const int t = item.frames - 1 - step;
      if (i < item.width()) betas[int64_t(t) * (x.labels + 1) + i] = s;
      const States<Real> worth = {multiply(s.blank, exp_wide(y.blank)), multiply(s.label, exp_wide(y.label))};
      const States<Real> next = behind.hand_on(step, worth, nothing<Real>());
      s.blank = add(worth.blank, worth.label);
      s.label = add(worth.label, skip ? add(next.blank, next.label) : next.blank);
    });
    __syncthreads();
  }
}

template <class Score>
__device__ void ctc_repeats(const Item<Score>& item, Repeat* repeats) {
  for (int i = threadIdx.x; i < item.labels; i += blockDim.x) {
    Repeat found = {true, 0};
    for (int j = 0; j < i && found.first; ++j) found.first = item.targets[j] != item.targets[i];
    for (int j = i + 1; j < item.labels && found.next == 0; ++j)
      if (item.targets[j] == item.targets[i]) found.next = j;
    repeats[i] = found;
  }
}

template <class Score>
__global__ void __launch_bounds__(widest_strip)
    ctc_walk(Batch<Score> x, Frames<Computed<Score>> frames, Computed<Score>* costs) {
  using Real = Computed<Score>;
  const int64_t b = blockIdx.x, cells = x.frames * frames.width;
  const Item<Score> item(x, b);
  States<Real>* flow = flow_of(frames.flow, b, blockIdx.y, x.frames + 1);
  if (blockIdx.y == 0)
    ctc_forward(x, item, frames.alphas ? frames.alphas + b * cells : nullptr, costs + b, frames.totals + b, flow);
  else if (blockIdx.y == 1)
    ctc_backward(x, item, frames.betas + b * cells, flow);
  else
    ctc_repeats(item, frames.repeats + b * x.labels);
}

// exp(log_probs) minus the occupation of the states. A class's labels are summed along their chain, so
// that nobody else writes to it, the sum has one order, and it is rounded once.
template <class Score>
__global__ void __launch_bounds__(row_threads)
    ctc_gradient(Batch<Score> x, Frames<Computed<Score>> frames, const Computed<Score>* grad_costs,
                 const Computed<Score>* costs, Score* grad, int lanes) {
  using Real = Computed<Score>;
  const Team team(lanes);
  const int classes = static_cast<int>(x.classes);
  for (int64_t b = blockIdx.y; b < x.batch; b += gridDim.y) {
    const Item<Score> item(x, b);
    const int t = team.row();
    if (t >= x.frames) continue;
    Score* grad_row = grad + (b * x.frames + t) * x.classes;
    if (t >= item.frames || !isfinite(costs[b])) {
      fill_row(grad_row, classes, team, t < item.frames && isnan(costs[b]) ? costs[b] : Real(0));
      continue;
    }
    const Real weight = grad_costs ? grad_costs[b] : Real(1);
    const Score* row = item.scores + t * x.frame_stride;
    auto slope = [&](int, Real log_prob) { return weight * exp_of(log_prob); };
    write_row(row, grad_row, classes, team, slope);
    const States<Real>*alpha = frames.alphas + (b * x.frames + t) * frames.width,
          *beta = frames.betas + (b * x.frames + t) * frames.width;
    const Wide<Real> total = frames.totals[b];
    const Repeat* repeats = frames.repeats + b * x.labels;
    Real blank = 0;
    for (int i = team.lane; i <= item.labels; i += team.lanes) blank += share(alpha[i].blank, beta[i].blank, total);
    team.sync();  // the row is written
    for (int i = team.lane; i < item.labels; i += team.lanes) {
      const int label = item.label(i);
      if (label < 0 || !repeats[i].first) continue;
      Real occupied = 0;
      int j = i;
      do {
        occupied += share(alpha[j].label, beta[j].label, total);
        j = repeats[j].next;
      } while (j != 0);
      if (label == x.blank)
        blank += occupied;
      else
        narrow_to(grad_row[label], slope(label, widened(row[label])) - weight * occupied);
    }
    blank = team.sum(blank);
    if (team.lane == 0) narrow_to(grad_row[x.blank], slope(0, widened(row[x.blank])) - weight * blank);
  }
}

}  // namespace on_device
}  // namespace exportable_losses
