// Enough of CUDA to run the kernels on a CPU: a test's stand-in for <cuda_runtime.h>.
//
// The sources of the kernels compile with g++ as they are. A block's threads are fibers of one thread:
// one runs until it waits, for its block or its warp, and then another, in an order that changes with
// every wait. So a missing barrier shows, and nothing depends on luck: the same seed gives the same run.
// Blocks come in random order. What a GPU would do silently stops the program here: lanes that
// shuffle with nobody, threads that wait while others have gone, writes beyond a block's shared memory.
#pragma once

#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(n)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
using cudaStream_t = struct Stream*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidConfiguration };
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  void* attrs;
  unsigned numAttrs;
};
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t) {
  *memory = aligned_alloc(16, (bytes + 15) / 16 * 16);
  return cudaSuccess;
}
inline cudaError_t cudaFreeAsync(void* memory, cudaStream_t) {
  free(memory);
  return cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t) { return "invalid configuration argument"; }

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

constexpr size_t most_shared = 48 * 1024;
alignas(16) inline unsigned char exportable_losses_shared[most_shared];

namespace emulation {

[[noreturn]] inline void stop(const char* why) {
  fprintf(stderr, "emulation: %s (block %u %u, thread %u)\n", why, blockIdx.x, blockIdx.y, threadIdx.x);
  exit(3);
}

struct Fiber {
  static constexpr size_t stack_bytes = 128 * 1024;
  std::unique_ptr<char[]> stack{new char[stack_bytes]};
  ucontext_t start;
  jmp_buf here;
  bool begun = false;
  enum { ready, waits_for_block, waits_for_warp, gone } state;
  unsigned mask;                     // of the lanes that it waits for
  alignas(16) unsigned char lane[16];  // what it shows to the other lanes
};

class Machine {
 public:
  std::mt19937 random{1};

  void run_block(unsigned threads, const std::function<void()>& body) {
    while (fibers_.size() < threads) fibers_.emplace_back(new Fiber);
    body_ = &body, threads_ = threads;
    for (unsigned i = 0; i < threads; ++i) fibers_[i]->state = Fiber::ready;
    while (turn() || release()) {
    }
    for (unsigned i = 0; i < threads; ++i)
      if (fibers_[i]->state != Fiber::gone) stop("threads wait for others that never come");
  }
  Fiber& current() { return *fibers_[current_]; }
  Fiber& lane(unsigned i) { return *fibers_[current_ / 32 * 32 + i]; }
  void wait() {
    if (_setjmp(current().here) == 0) _longjmp(scheduler_, 1);
    threadIdx = dim3(current_);
  }

 private:
  // Runs every fiber that is ready until it waits.
  bool turn() {
    std::vector<unsigned> order;
    for (unsigned i = 0; i < threads_; ++i)
      if (fibers_[i]->state == Fiber::ready) order.push_back(i);
    std::shuffle(order.begin(), order.end(), random);
    for (unsigned i : order) resume(i);
    return !order.empty();
  }
  void resume(unsigned i) {
    current_ = i, threadIdx = dim3(i);
    Fiber& fiber = *fibers_[i];
    if (_setjmp(scheduler_) != 0) return;
    if (fiber.begun) _longjmp(fiber.here, 1);
    fiber.begun = true;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get(), fiber.start.uc_stack.ss_size = Fiber::stack_bytes;
    makecontext(&fiber.start, reinterpret_cast<void (*)()>(&Machine::live), 0);
    setcontext(&fiber.start);
  }
  static void live();
  // Lets a warp or the block go on, where all have come.
  bool release() {
    bool any = false, all = true;
    for (unsigned i = 0; i < threads_; ++i) {
      if (fibers_[i]->state == Fiber::waits_for_warp && all_of_warp_wait(i)) {
        const unsigned mask = fibers_[i]->mask;
        for (unsigned k = 0; k < 32; ++k)
          if (mask >> k & 1) fibers_[i / 32 * 32 + k]->state = Fiber::ready;
        any = true;
      }
      all = all && fibers_[i]->state == Fiber::waits_for_block;
    }
    if (all)
      for (unsigned i = 0; i < threads_; ++i) fibers_[i]->state = Fiber::ready;
    return any || all;
  }
  bool all_of_warp_wait(unsigned i) {
    const unsigned mask = fibers_[i]->mask;
    if (!(mask >> i % 32 & 1)) stop("a lane waits for a warp without itself");
    for (unsigned k = 0; k < 32; ++k) {
      if (!(mask >> k & 1)) continue;
      const unsigned other = i / 32 * 32 + k;
      if (other >= threads_) stop("a mask names lanes that do not exist");
      if (fibers_[other]->state != Fiber::waits_for_warp || fibers_[other]->mask != mask) return false;
    }
    return true;
  }

  std::vector<std::unique_ptr<Fiber>> fibers_;
  const std::function<void()>* body_ = nullptr;
  unsigned threads_ = 0, current_ = 0;
  jmp_buf scheduler_;
};

inline Machine machine;

inline void Machine::live() {
  for (;;) {
    (*machine.body_)();
    machine.current().state = Fiber::gone;
    machine.wait();
  }
}

inline void run_grid(const cudaLaunchConfig_t& config, const std::function<void()>& body) {
  gridDim = config.gridDim, blockDim = config.blockDim;
  std::vector<uint64_t> blocks(uint64_t(gridDim.x) * gridDim.y);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::shuffle(blocks.begin(), blocks.end(), machine.random);
  for (uint64_t block : blocks) {
    blockIdx = dim3(block % gridDim.x, block / gridDim.x);
    memset(exportable_losses_shared, 0xff, most_shared);  // NaN
    machine.run_block(blockDim.x, body);
    for (size_t i = config.dynamicSmemBytes; i < most_shared; ++i)
      if (exportable_losses_shared[i] != 0xff) stop("wrote beyond the block's shared memory");
  }
}

}  // namespace emulation

template <class... Parameters>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Parameters... arguments) {
  const dim3 grid = config->gridDim, block = config->blockDim;
  if (grid.x < 1 || grid.x > INT_MAX || grid.y < 1 || grid.y > 65535 || block.x < 1 || block.x > 1024 ||
      config->dynamicSmemBytes > most_shared)
    return cudaErrorInvalidConfiguration;
  emulation::run_grid(*config, [=] { kernel(arguments...); });
  return cudaSuccess;
}

inline void __syncthreads() {
  emulation::machine.current().state = emulation::Fiber::waits_for_block;
  emulation::machine.wait();
}
inline void __syncwarp(unsigned mask) {
  emulation::Fiber& fiber = emulation::machine.current();
  fiber.state = emulation::Fiber::waits_for_warp, fiber.mask = mask;
  emulation::machine.wait();
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int step) {
  memcpy(emulation::machine.current().lane, &value, sizeof value);
  __syncwarp(mask);
  const unsigned other = (threadIdx.x % 32) ^ unsigned(step);
  if (!(mask >> other & 1)) emulation::stop("a lane shuffles with one that is not in its mask");
  memcpy(&value, emulation::machine.lane(other).lane, sizeof value);
  __syncwarp(mask);
  return value;
}
