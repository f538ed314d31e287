// Threads for callers that bring none.
#pragma once

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "lattice.h"

namespace exportable_losses {

// Runs each loop on up to `most` threads. They are started for a loop and gone after it: some ten
// microseconds each, and nothing that a fork could leave behind.
inline Parallel on_threads(int most) {
  return [most](std::int64_t count, const std::function<void(std::int64_t)>& work) {
    std::atomic<std::int64_t> next{0};
    auto run = [&] {
      for (std::int64_t i = next++; i < count; i = next++) work(i);
    };
    std::vector<std::thread> helpers;
    for (std::int64_t i = 1; i < std::min<std::int64_t>(most, count); ++i) helpers.emplace_back(run);
    run();
    for (auto& helper : helpers) helper.join();
  };
}

}  // namespace exportable_losses
