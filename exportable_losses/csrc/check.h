// The check at the door: what the core may rely on.
#pragma once

#include <string>

#include "lattice.h"

namespace exportable_losses {

// What is wrong with a batch, or nothing. The core reads scores and targets within these bounds alone.
template <class Real>
std::string what_is_wrong(const Batch<Real>& x) {
  auto got = [](const char* name, std::int64_t item, std::int64_t value, const std::string& expected) {
    return std::string(name) + ": got " + std::to_string(value) + " for item " + std::to_string(item) +
           ", expected " + expected;
  };
  auto upto = [](std::int64_t low, std::int64_t high) {
    return "a number in [" + std::to_string(low) + ", " + std::to_string(high) + "]";
  };
  if (x.blank < 0 || x.blank >= x.classes)
    return "blank_index: got " + std::to_string(x.blank) + ", expected " + upto(0, x.classes - 1);
  for (std::int64_t b = 0; b < x.batch; ++b) {
    if (x.input_lengths[b] < 0 || x.input_lengths[b] > x.frames)
      return got("input_lengths", b, x.input_lengths[b], upto(0, x.frames));
    if (x.target_lengths[b] < 0 || x.target_lengths[b] > x.labels)
      return got("target_lengths", b, x.target_lengths[b], upto(0, x.labels));
    for (std::int64_t i = 0; i < x.target_lengths[b]; ++i) {
      const std::int64_t label = x.targets[b * x.target_stride + i];
      if (label < 0 || label >= x.classes) return got("targets", b, label, upto(0, x.classes - 1));
    }
  }
  return {};
}

}  // namespace exportable_losses
