// Edit distance: insertions, deletions and substitutions by Wagner and Fischer's programme (1974).
#pragma once

#include <cstdint>

#include "lattice.h"

namespace exportable_losses {

// Sequences of tokens without gaps between them: any integers, of which those behind an item's length are
// not read. A target has fewer than `most_tokens`.
struct Sequences {
  const std::int64_t* predictions;  // [B, K]
  const std::int64_t* targets;      // [B, S]
  const std::int64_t* prediction_lengths;
  const std::int64_t* target_lengths;
  std::int64_t batch, prediction_width, target_width;  // B, K, S
};

constexpr std::int64_t most_tokens = INT32_MAX;

// Counts [B, 3]: insertions (tokens of the prediction alone), deletions (of the target alone) and
// substitutions, as few in all as can be, and among those ways with the most substitutions.
void edit_counts(const Sequences& sequences, std::int64_t* counts, const Parallel& parallel);

}  // namespace exportable_losses
