// The check at the door: what the core may rely on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>

#include "edits.h"
#include "lattice.h"

namespace exportable_losses {

// Whether as many elements as the product of `sizes` could lie in memory, several times over. None is
// negative, and a zero counts as one, so that no partial product overflows either.
template <class Element>
bool fits(std::initializer_list<std::int64_t> sizes) {
  std::int64_t room = std::numeric_limits<std::ptrdiff_t>::max() / std::int64_t(8 * sizeof(Element));
  for (const std::int64_t size : sizes)
    if (size > 0) room /= size;
  return room > 0;
}

inline std::string got(const char* name, std::int64_t item, std::int64_t value, const std::string& expected) {
  return std::string(name) + ": got " + std::to_string(value) + " for item " + std::to_string(item) + ", expected " +
         expected;
}

inline std::string upto(std::int64_t low, std::int64_t high) {
  return "a number in [" + std::to_string(low) + ", " + std::to_string(high) + "]";
}

// What is wrong with a batch, or nothing. The core reads scores and targets within these bounds alone.
// Strides may be zero or smaller than a row: what is only read may overlap.
template <class Score>
std::string what_is_wrong(const Batch<Score>& x) {
  using Real = Computed<Score>;
  const struct {
    const char* name;
    std::int64_t value;
  } sizes[] = {{"batch", x.batch},
               {"frames", x.frames},
               {"classes", x.classes},
               {"labels", x.labels},
               {"item_stride", x.item_stride},
               {"frame_stride", x.frame_stride},
               {"target_stride", x.target_stride}};
  for (const auto& size : sizes)
    if (size.value < 0)
      return std::string(size.name) + ": got " + std::to_string(size.value) + ", expected a number of at least 0";
  if (x.blank < 0 || x.blank >= x.classes)
    return "blank_index: got " + std::to_string(x.blank) + ", expected " + upto(0, x.classes - 1);
  if (x.batch == 0) return {};

  // The transducer's, for CTC's are smaller: the gradient, the lattice with its checkpoints and padding,
  // and the last element of what is read.
  const bool all_fit = fits<Real>({x.labels, 2}) && fits<Real>({x.frames, 2}) &&
                       fits<Real>({x.batch, x.frames, x.labels + 1, x.classes}) &&
                       fits<Real>({x.frames + x.labels + 128, x.labels + 4, 16}) &&
                       fits<Real>({x.batch, x.item_stride}) && fits<Real>({x.frames, x.frame_stride}) &&
                       fits<std::int64_t>({x.batch, x.target_stride});
  if (!all_fit) {
    std::string all = "sizes: got ";
    for (const auto& size : sizes)
      all += std::string(&size == sizes ? "" : ", ") + size.name + " " + std::to_string(size.value);
    return all + ", expected what fits in memory";
  }

  const std::string needed = ": got null, expected an array";
  if (x.input_lengths == nullptr) return "input_lengths" + needed;
  if (x.target_lengths == nullptr) return "target_lengths" + needed;
  if (x.scores == nullptr && x.frames > 0) return "scores" + needed;
  if (x.targets == nullptr && x.labels > 0) return "targets" + needed;
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

// What is wrong with arcs, or nothing. No duration is so large that sums of two numbers of frames overflow.
inline std::string what_is_wrong(const ArcShape& x) {
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  if (x.kinds < 1 || x.kinds > 4096) return "kinds: got " + std::to_string(x.kinds) + ", expected " + upto(1, 4096);
  if (x.blanks < 1 || x.blanks > x.kinds)
    return "blanks: got " + std::to_string(x.blanks) + ", expected " + upto(1, x.kinds);
  if (x.duration == nullptr) return "duration: got null, expected an array";
  for (std::int64_t k = 0; k < x.kinds; ++k) {
    const std::int64_t least = k < x.blanks ? 1 : 0;
    if (x.duration[k] < least || x.duration[k] > most)
      return "duration: got " + std::to_string(x.duration[k]) + " for arc " + std::to_string(k) + ", expected " +
             upto(least, most);
  }
  return {};
}

// The lattice of arcs by diagonal, and the sweeps over it.
template <class Real>
bool lattice_fits(std::int64_t batch, std::int64_t frames, std::int64_t labels, std::int64_t kinds) {
  return fits<Real>({labels, 2}) && fits<Real>({frames, 2}) && fits<Real>({batch, frames + labels + 1, labels + 3, kinds, 4});
}

// What is wrong with the arcs that logits are said to have, or nothing; the batch itself is right.
template <class Score>
std::string what_is_wrong(const Batch<Score>& x, const Emissions& of) {
  std::string wrong = what_is_wrong(of.shape);
  if (!wrong.empty()) return wrong;
  if (!lattice_fits<Computed<Score>>(x.batch, x.frames, x.labels, of.shape.kinds))
    return "kinds: got " + std::to_string(of.shape.kinds) + ", expected arcs that fit in memory";
  if (of.durations < 0 || of.durations >= x.classes)
    return "durations: got " + std::to_string(of.durations) + ", expected " + upto(0, x.classes - 1);
  if (of.token == nullptr || of.logit == nullptr) return "token, logit: got null, expected arrays";
  const std::int64_t tokens = x.classes - of.durations;
  const auto outside = [](const char* name, std::int64_t k, std::int64_t value, std::int64_t low, std::int64_t below) {
    return std::string(name) + ": got " + std::to_string(value) + " for arc " + std::to_string(k) + ", expected " +
           upto(low, below - 1);
  };
  if (of.shape.blanks == of.shape.kinds) return "kinds: got blanks alone, expected a label behind them";
  if (of.hybrid != -1 && (of.hybrid != of.token[0] || tokens < 2))
    return "hybrid: got " + std::to_string(of.hybrid) + ", expected the first arc's token, one of several, or -1";
  for (std::int64_t k = 0; k < of.shape.kinds; ++k) {
    const bool label = k >= of.shape.blanks;
    if (label ? of.token[k] != -1 : of.token[k] < 0 || of.token[k] >= tokens)
      return outside("token", k, of.token[k], label ? -1 : 0, label ? 0 : tokens);
    if (of.logit[k] < -1 || of.logit[k] >= of.durations) return outside("logit", k, of.logit[k], -1, of.durations);
  }
  for (std::int64_t b = 0; b < x.batch; ++b)
    for (std::int64_t i = 0; i < x.target_lengths[b]; ++i)
      if (x.targets[b * x.target_stride + i] >= tokens)
        return got("targets", b, x.targets[b * x.target_stride + i], upto(0, tokens - 1));
  return {};
}

// What is wrong with lattices of given arcs, or nothing.
template <class Real>
std::string what_is_wrong(const ArcsBatch<Real>& x) {
  const std::string wrong = what_is_wrong(x.shape);
  if (!wrong.empty()) return wrong;
  const std::int64_t sizes[] = {x.batch, x.frames, x.labels};
  const char* const names[] = {"batch", "frames", "labels"};
  for (int i = 0; i < 3; ++i)
    if (sizes[i] < 0) return std::string(names[i]) + ": got " + std::to_string(sizes[i]) + ", expected a number of at least 0";
  if (!lattice_fits<Real>(x.batch, x.frames, x.labels, x.shape.kinds))
    return "sizes: got arcs [" + std::to_string(x.batch) + ", " + std::to_string(x.frames) + ", " +
           std::to_string(x.labels) + " + 1, " + std::to_string(x.shape.kinds) + "], expected what fits in memory";
  if (x.batch == 0) return {};
  const std::string needed = ": got null, expected an array";
  if (x.arcs == nullptr && x.frames > 0) return "arcs" + needed;
  if (x.input_lengths == nullptr) return "input_lengths" + needed;
  if (x.target_lengths == nullptr) return "target_lengths" + needed;
  for (std::int64_t b = 0; b < x.batch; ++b) {
    if (x.input_lengths[b] < 0 || x.input_lengths[b] > x.frames)
      return got("input_lengths", b, x.input_lengths[b], upto(0, x.frames));
    if (x.target_lengths[b] < 0 || x.target_lengths[b] > x.labels)
      return got("target_lengths", b, x.target_lengths[b], upto(0, x.labels));
  }
  return {};
}

// What is wrong with rows and the classes that are picked of them, or nothing.
template <class Score>
std::string what_is_wrong(const Score* scores, const Picks& x) {
  const std::int64_t sizes[] = {x.rows, x.classes, x.row_stride, x.kinds};
  const char* const names[] = {"rows", "classes", "row_stride", "kinds"};
  for (int i = 0; i < 4; ++i)
    if (sizes[i] < 0) return std::string(names[i]) + ": got " + std::to_string(sizes[i]) + ", expected a number of at least 0";
  if (x.rows == 0 || x.kinds == 0) return {};
  if (!fits<Computed<Score>>({x.rows, x.classes}) || !fits<Score>({x.rows, x.row_stride}) || !fits<std::int64_t>({x.rows, x.kinds}))
    return "sizes: got " + std::to_string(x.rows) + " rows of " + std::to_string(x.classes) + ", expected what fits in memory";
  if (scores == nullptr && x.classes > 0) return "scores: got null, expected an array";
  if (x.picked == nullptr) return "picked: got null, expected an array";
  for (std::int64_t i = 0; i < x.rows * x.kinds; ++i)
    if (x.picked[i] < -1 || x.picked[i] >= x.classes) return got("picked", i / x.kinds, x.picked[i], upto(-1, x.classes - 1));
  return {};
}

// What is wrong with sequences, or nothing.
inline std::string what_is_wrong(const Sequences& x) {
  const struct {
    const char *name, *lengths_name;
    const std::int64_t *tokens, *lengths, width;
  } sides[] = {{"predictions", "prediction_lengths", x.predictions, x.prediction_lengths, x.prediction_width},
               {"targets", "target_lengths", x.targets, x.target_lengths, x.target_width}};
  if (x.batch < 0) return "batch: got " + std::to_string(x.batch) + ", expected a number of at least 0";
  for (const auto& side : sides) {
    if (side.width < 0 || !fits<std::int64_t>({x.batch, side.width, 3}))
      return std::string(side.name) + ": got " + std::to_string(x.batch) + " items of width " +
             std::to_string(side.width) + ", expected what fits in memory";
  }
  if (x.batch == 0) return {};
  for (const auto& side : sides) {
    if (side.lengths == nullptr) return std::string(side.lengths_name) + ": got null, expected an array";
    if (side.tokens == nullptr && side.width > 0) return std::string(side.name) + ": got null, expected an array";
    for (std::int64_t b = 0; b < x.batch; ++b)
      if (side.lengths[b] < 0 || side.lengths[b] > side.width)
        return got(side.lengths_name, b, side.lengths[b], upto(0, side.width));
  }
  for (std::int64_t b = 0; b < x.batch; ++b)
    if (x.target_lengths[b] >= most_tokens)
      return got("target_lengths", b, x.target_lengths[b], "fewer than " + std::to_string(most_tokens));
  return {};
}

}  // namespace exportable_losses
