// Threads for callers that bring none.
#pragma once

#ifdef __linux__
#include <dlfcn.h>
#include <pthread.h>
#endif

#include <algorithm>
#ifdef __STDCPP_THREADS__
#include <atomic>
#include <thread>
#include <vector>

#include "first_error.h"
#endif

#include "lattice.h"

namespace exportable_losses {

#ifndef __STDCPP_THREADS__  // a machine without an operating system

inline Parallel on_threads(int) {
  return [](std::int64_t count, const std::function<void(std::int64_t)>& work) {
    for (std::int64_t i = 0; i < count; ++i) work(i);
  };
}

#else

#ifdef __linux__
// Whether this process was forked from one that had this library: its pool of OpenMP's threads may have been left
// behind, and to wait for them would be for ever.
inline bool is_forked = false;
inline const int watches_forks = pthread_atfork(nullptr, nullptr, [] { is_forked = true; });
#endif

// The OpenMP runtime of this process, if it has one: runs body(data) on each of `threads` threads. torch brings
// one, whose threads keep the cores busy for a while after each operator, waiting for more. To start others
// beside them would double the time that a loss takes.
using OpenMP = void (*)(void (*body)(void*), void* data, unsigned threads, unsigned flags);
inline OpenMP openmp() {
#ifdef __linux__
  if (is_forked) return nullptr;
  return reinterpret_cast<OpenMP>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
#else
  return nullptr;
#endif
}

// As many threads as may work at once.
inline int cores() {
  static const int found = static_cast<int>(std::thread::hardware_concurrency());  // 0 where it is not known
  return std::max(1, found);
}

// Runs each loop on up to `most` threads, and no more than there are cores: those of OpenMP, else some that are
// started for the loop and gone after it, which takes ten microseconds each and leaves nothing behind for a
// fork. The first exception ends the loop and is thrown again in the caller's thread. Where no thread can be
// started, the caller's does the work.
inline Parallel on_threads(int most) {
  return [most](std::int64_t count, const std::function<void(std::int64_t)>& work) {
    std::atomic<std::int64_t> next{0};
    FirstError error;
    auto run = [&] {
      try {
        for (std::int64_t i = next++; i < count; i = next++) work(i);
      } catch (...) {
        error.keep();
        next = count;
      }
    };
    const std::int64_t threads = std::min<std::int64_t>(std::min(most, cores()), count);
    const OpenMP parallel = threads > 1 ? openmp() : nullptr;
    if (parallel != nullptr) {
      parallel([](void* body) { (*static_cast<decltype(run)*>(body))(); }, &run, static_cast<unsigned>(threads), 0);
    } else {
      std::vector<std::thread> helpers;
      try {
        for (std::int64_t i = 1; i < threads && next < count; ++i) helpers.emplace_back(run);
      } catch (const std::exception&) {  // no more threads, or no memory for one: those there are will do
      }
      run();
      for (auto& helper : helpers) helper.join();
    }
    error.rethrow();
  };
}

#endif

}  // namespace exportable_losses
