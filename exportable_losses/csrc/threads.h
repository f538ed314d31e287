// Threads for callers that bring none.
#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "lattice.h"

namespace exportable_losses {

// Runs each loop on up to `most` threads. They are started for a loop and gone after it: some ten
// microseconds each, and nothing that a fork could leave behind. An exception in one of them ends the loop
// and is thrown again here; where no more threads are to be had, fewer do the work.
inline Parallel on_threads(int most) {
  return [most](std::int64_t count, const std::function<void(std::int64_t)>& work) {
    std::atomic<std::int64_t> next{0};
    std::exception_ptr error;
    std::mutex mutex;
    auto run = [&] {
      try {
        for (std::int64_t i = next++; i < count; i = next++) work(i);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex);
        error = std::current_exception();
        next = count;
      }
    };
    std::vector<std::thread> helpers;
    try {
      for (std::int64_t i = 1; i < std::min<std::int64_t>(most, count); ++i) helpers.emplace_back(run);
    } catch (const std::exception&) {
    }
    run();
    for (auto& helper : helpers) helper.join();
    if (error) std::rethrow_exception(error);
  };
}

}  // namespace exportable_losses
