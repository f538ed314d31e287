// Rows of classes, each read and written once by a team of lanes, sixteen bytes a lane at a time.
#pragma once

#include "wide.cuh"

namespace exportable_losses {
namespace on_device {

constexpr int row_threads = 256;

// The lanes of a warp that share a row: a power of two.
struct Team {
  int lanes, lane;
  unsigned mask;

  __device__ explicit Team(int lanes_) : lanes(lanes_), lane(threadIdx.x % lanes_) {
    const unsigned first = threadIdx.x % 32 / lanes * lanes;
    mask = (lanes == 32 ? ~0u : (1u << lanes) - 1u) << first;
  }
  // The row of this team, of those that the blocks along x share.
  __device__ int row() const { return static_cast<int>(blockIdx.x * (blockDim.x / lanes) + threadIdx.x / lanes); }

  template <class Real>
  __device__ Real sum(Real x) const {
    for (int step = lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(mask, x, step);
    return x;
  }
  template <class Real>
  __device__ Real max(Real x) const {
    for (int step = lanes / 2; step > 0; step /= 2) x = fmax(x, __shfl_xor_sync(mask, x, step));
    return x;
  }
  __device__ void sync() const { __syncwarp(mask); }
};

// Vectors that a lane asks for before it waits for the first.
constexpr int in_flight = 4;

template <class Score>
struct alignas(16) Vector {
  static constexpr int size = 16 / sizeof(Score);
  Score x[size];
};

// As many lanes as a row keeps busy.
template <class Score>
inline int lanes_for(int64_t classes) {
  int lanes = 4;
  while (lanes < 32 && lanes * in_flight * Vector<Score>::size < classes) lanes *= 2;
  return lanes;
}

template <class Score>
__device__ inline int misaligned(const Score* row) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(row) / sizeof(Score) % Vector<Score>::size);
}

// Whether a row is made of whole vectors. The usual case, and the same for all rows of most tensors.
template <class Score>
__device__ inline bool is_whole(const Score* row, int classes) {
  return classes % Vector<Score>::size == 0 && misaligned(row) == 0;
}

template <class Score>
__device__ inline bool has_vector(const Score* row, int i, int classes) {
  return i >= 0 && i <= classes - Vector<Score>::size && misaligned(row + i) == 0;
}

// The classes from i on; what lies outside of the row is not read. In a whole row there is no branch
// between one load and the next: beyond its end the last vector is loaded again.
template <bool whole, class Score>
__device__ inline Vector<Score> load(const Score* row, int i, int classes) {
  constexpr int size = Vector<Score>::size;
  if (whole) return *reinterpret_cast<const Vector<Score>*>(row + (i < classes ? i : classes - size));
  if (has_vector(row, i, classes)) return *reinterpret_cast<const Vector<Score>*>(row + i);
  Vector<Score> v;
#pragma unroll
  for (int k = 0; k < size; ++k) v.x[k] = i + k >= 0 && i + k < classes ? row[i + k] : Score{};
  return v;
}

template <bool whole, class Score>
__device__ inline void store(Score* row, int i, int classes, const Vector<Score>& v) {
  if (whole || has_vector(row, i, classes)) {
    *reinterpret_cast<Vector<Score>*>(row + i) = v;
    return;
  }
#pragma unroll
  for (int k = 0; k < Vector<Score>::size; ++k)
    if (i + k >= 0 && i + k < classes) row[i + k] = v.x[k];
}

// The maximum of a row and the sum of exp(x - maximum), in one reading: each lane has a maximum of
// its own, which only grows.
template <bool whole, class Score>
__device__ inline void top_and_sum_of(const Score* row, int classes, const Team& team, Computed<Score>& top,
                                      Computed<Score>& sum) {
  using Real = Computed<Score>;
  constexpr int size = Vector<Score>::size;
  Real mine = Real(-INFINITY), total = 0;
  for (int first = team.lane * size - misaligned(row); first < classes; first += in_flight * team.lanes * size) {
    Vector<Score> v[in_flight];
#pragma unroll
    for (int j = 0; j < in_flight; ++j) v[j] = load<whole>(row, first + j * team.lanes * size, classes);
    Real x[in_flight * size], higher = mine;
#pragma unroll
    for (int j = 0; j < in_flight; ++j)
#pragma unroll
      for (int k = 0; k < size; ++k) {
        const int i = first + j * team.lanes * size + k;
        const bool outside = i >= classes || (!whole && i < 0);
        x[j * size + k] = outside ? Real(-INFINITY) : widened(v[j].x[k]);
        higher = fmax(higher, x[j * size + k]);
      }
    const Real base = higher == Real(-INFINITY) ? Real(0) : higher;
    total *= exp_of(mine - base);
    mine = higher;
#pragma unroll
    for (int k = 0; k < in_flight * size; ++k) total += exp_of(x[k] - base);
  }
  top = team.max(mine);
  sum = team.sum(mine == Real(-INFINITY) ? total : total * exp_of(mine - top));
}

template <class Score>
__device__ inline void top_and_sum(const Score* row, int classes, const Team& team, Computed<Score>& top,
                                   Computed<Score>& sum) {
  if (is_whole(row, classes))
    top_and_sum_of<true>(row, classes, team, top, sum);
  else
    top_and_sum_of<false>(row, classes, team, top, sum);
}

// Writes of(class, score) for each class of a row, rounded to its type.
template <bool whole, class Score, class Of>
__device__ inline void write_row_of(const Score* row, Score* grad, int classes, const Team& team, Of of) {
  constexpr int size = Vector<Score>::size;
  for (int first = team.lane * size - misaligned(grad); first < classes; first += in_flight * team.lanes * size) {
    Vector<Score> v[in_flight];
#pragma unroll
    for (int j = 0; j < in_flight; ++j) v[j] = load<whole>(row, first + j * team.lanes * size, classes);
#pragma unroll
    for (int j = 0; j < in_flight; ++j) {
      const int i = first + j * team.lanes * size;
#pragma unroll
      for (int k = 0; k < size; ++k) narrow_to(v[j].x[k], of(i + k, widened(v[j].x[k])));
      if (i < classes) store<whole>(grad, i, classes, v[j]);
    }
  }
}

template <class Score, class Of>
__device__ inline void write_row(const Score* row, Score* grad, int classes, const Team& team, Of of) {
  if (is_whole(row, classes) && is_whole(grad, classes))
    write_row_of<true>(row, grad, classes, team, of);
  else
    write_row_of<false>(row, grad, classes, team, of);
}

template <class Score>
__device__ inline void fill_row(Score* grad, int classes, const Team& team, Computed<Score> value) {
  constexpr int size = Vector<Score>::size;
  Vector<Score> all;
#pragma unroll
  for (int k = 0; k < size; ++k) narrow_to(all.x[k], value);
  for (int i = team.lane * size - misaligned(grad); i < classes; i += team.lanes * size)
    store<false>(grad, i, classes, all);
}

}  // namespace on_device
}  // namespace exportable_losses
