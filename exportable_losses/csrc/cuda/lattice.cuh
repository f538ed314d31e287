// What the walks through both lattices share: an item, reading ahead, and a thread's neighbour.
//
// One block walks the lattice of one item in one direction, a thread for each column. A step is short
// and waits for the step before it, so what counts is the time from one to the next: the state of a
// column stays in registers, what the lattice reads is asked for some steps ahead, and one barrier a
// step is enough. Lattices wider than a block are walked in strips, one behind the other; what crosses
// from strip to strip is kept in the workspace.
#pragma once

#include "../lattice.h"
#include "wide.cuh"

// Twice what a block's threads hand on; see Neighbour.
extern __shared__ __align__(16) unsigned char exportable_losses_shared[];

namespace exportable_losses {
namespace on_device {

constexpr int widest_strip = 512;  // columns; leaves each thread 128 registers

__device__ inline int clamped(int64_t length, int64_t size) {
  return static_cast<int>(length < 0 ? 0 : length > size ? size : length);
}

// One item, and what of it may be read.
template <class Score>
struct Item {
  const Score* scores;
  const int64_t* targets;
  int frames, labels;
  int64_t classes;

  __device__ Item(const Batch<Score>& x, int64_t b)
      : scores(x.scores + b * x.item_stride),
        targets(x.targets + b * x.target_stride),
        frames(clamped(x.input_lengths[b], x.frames)),
        labels(clamped(x.target_lengths[b], x.labels)),
        classes(x.classes) {}

  __device__ int width() const { return labels + 1; }
  // The class of label i; -1 where there is no label or it is no class.
  __device__ int label(int i) const {
    if (i < 0 || i >= labels) return -1;
    const int64_t c = targets[i];
    return c >= 0 && c < classes ? static_cast<int>(c) : -1;
  }
};

// step(n, fetch(n)) for n from 0 to count, where fetch runs some steps ahead: its reads are on their
// way while the steps before them are taken. fetch is asked beyond the end too.
template <int ahead, class Fetch, class Step>
__device__ inline void each_step(int count, Fetch fetch, Step step) {
  decltype(fetch(0)) fetched[ahead];
#pragma unroll
  for (int k = 0; k < ahead; ++k) fetched[k] = fetch(k);
  for (int n = 0; n < count; n += ahead) {
#pragma unroll
    for (int k = 0; k < ahead; ++k) {
      if (n + k < count) {
        const auto now = fetched[k];
        fetched[k] = fetch(n + k + ahead);
        step(n + k, now);
      }
    }
  }
}

// The neighbour of a thread, to the left (side -1) or to the right (1) of it.
template <class State>
class Neighbour {
 public:
  // For the strip of columns from `first` on, of `width` in all. `flow` has a place for each step; it
  // is null where one strip is enough.
  __device__ Neighbour(int side, int first, int width, State* flow)
      : threads_(blockDim.x), beside_(static_cast<int>(threadIdx.x) + side), flow_(flow) {
    const bool more_left = first > 0, more_right = first + threads_ < width;
    const bool is_inside = beside_ >= 0 && beside_ < threads_;
    takes_flow_ = !is_inside && (side < 0 ? more_left : more_right);
    gives_flow_ = side < 0 ? more_right && beside_ == threads_ - 2 : more_left && beside_ == 1;
  }

  // What the neighbour hands on in step n, or `nothing` where there is none. Two buffers take turns:
  // nobody writes to the one that a slower thread still reads.
  __device__ State hand_on(int n, State mine, State nothing) const {
    State* buffer = reinterpret_cast<State*>(exportable_losses_shared) + n % 2 * threads_;
    State given = nothing;
    if (takes_flow_) given = flow_[n];  // before the barrier: behind it the place is used again
    buffer[threadIdx.x] = mine;
    __syncthreads();
    if (beside_ >= 0 && beside_ < threads_) given = buffer[beside_];
    if (gives_flow_) flow_[n] = mine;
    return given;
  }

 private:
  int threads_, beside_;
  State* flow_;
  bool takes_flow_, gives_flow_;
};

// The place of an item's walk in the flow between strips.
template <class State>
__device__ inline State* flow_of(State* flow, int64_t b, int direction, int64_t steps) {
  return flow ? flow + (2 * b + direction) * steps : nullptr;
}

}  // namespace on_device
}  // namespace exportable_losses
