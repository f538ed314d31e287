// Tensors at the door: from arrays with shapes to a batch whose every size and value is checked.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "edits.h"
#include "lattice.h"

namespace exportable_losses {

using Shape = std::vector<std::int64_t>;

inline std::string text(const Shape& shape) {
  std::string all;
  for (const std::int64_t size : shape) all += (all.empty() ? "" : ", ") + std::to_string(size);
  return "[" + all + "]";
}

// A tensor without gaps.
template <class Element>
struct Array {
  const Element* data;
  Shape shape;
};

inline void expect(bool fits, const char* name, const Shape& got, const std::string& expected) {
  if (!fits) throw std::invalid_argument(std::string(name) + ": got shape " + text(got) + ", expected " + expected);
}

struct CTC {
  static constexpr const char *name = "CTCLoss", *name_grad = "CTCLossGrad", *scores = "log_probs";
  static constexpr std::size_t rank = 3;
  static constexpr const char *dimensions = "[B, T, C]", *labels = "S";

  static std::int64_t label_count(const Shape&, const Shape& targets) { return targets[1]; }
  template <class Score, class... Rest>
  static void compute(const Batch<Score>& batch, Rest... rest) {
    ctc(batch, rest...);
  }
};

struct Transducer {
  static constexpr const char *name = "TransducerLoss", *name_grad = "TransducerLossGrad", *scores = "logits";
  static constexpr std::size_t rank = 4;
  static constexpr const char *dimensions = "[B, T, U+1, V] with U+1 at least 1", *labels = "U";

  static std::int64_t label_count(const Shape& logits, const Shape&) { return logits[2] - 1; }
  template <class Score, class... Rest>
  static void compute(const Batch<Score>& batch, Rest... rest) {
    transducer(batch, rest...);
  }
};

// The batch behind the first four inputs, every size of it checked and no value: those may lie on a device.
template <class Loss, class Score>
Batch<Score> sized_batch(const Array<Score>& scores, const Array<std::int64_t>& targets,
                          const Array<std::int64_t>& input_lengths, const Array<std::int64_t>& target_lengths,
                          std::int64_t blank) {
  const Shape& sizes = scores.shape;
  expect(sizes.size() == Loss::rank, Loss::scores, sizes, Loss::dimensions);
  expect(targets.shape.size() == 2, "targets", targets.shape, std::string("[B, ") + Loss::labels + "]");
  const std::int64_t labels = Loss::label_count(sizes, targets.shape);
  expect(labels >= 0, Loss::scores, sizes, Loss::dimensions);
  const std::string because = std::string(", for ") + Loss::scores + " of shape " + text(sizes);
  const Shape per_item{sizes[0]}, per_label{sizes[0], labels};
  expect(targets.shape == per_label, "targets", targets.shape, text(per_label) + because);
  expect(input_lengths.shape == per_item, "input_lengths", input_lengths.shape, text(per_item) + because);
  expect(target_lengths.shape == per_item, "target_lengths", target_lengths.shape, text(per_item) + because);
  expect(fits<Computed<Score>>({sizes[0], sizes[1], labels + 1, sizes.back()}), Loss::scores, sizes, "what fits in memory");

  Batch<Score> batch{};
  batch.scores = scores.data;
  batch.batch = sizes[0], batch.frames = sizes[1], batch.classes = sizes.back();
  batch.labels = labels;
  batch.frame_stride = batch.classes * (Loss::rank == 4 ? sizes[2] : 1);
  batch.item_stride = batch.frames * batch.frame_stride;
  batch.targets = targets.data;
  batch.target_stride = labels;
  batch.input_lengths = input_lengths.data;
  batch.target_lengths = target_lengths.data;
  batch.blank = blank;
  return batch;
}

// The same, every value checked too.
template <class Loss, class Score, class... Rest>
Batch<Score> checked_batch(const Array<Score>& scores, const Rest&... rest) {
  const Batch<Score> batch = sized_batch<Loss>(scores, rest...);
  const std::string wrong = what_is_wrong(batch);
  if (!wrong.empty()) throw std::invalid_argument(wrong);
  return batch;
}

// Lattices of given arcs, every size and value of them checked.
template <class Real>
ArcsBatch<Real> checked_arcs(const Array<Real>& arcs, const Array<std::int64_t>& durations,
                             const Array<std::int64_t>& input_lengths, const Array<std::int64_t>& target_lengths,
                             std::int64_t blanks, bool label_ends) {
  const Shape& sizes = arcs.shape;
  expect(sizes.size() == 4 && sizes[2] > 0, "arcs", sizes, "[B, T, U+1, K] with U+1 at least 1");
  const Shape per_item{sizes[0]}, per_arc{sizes[3]};
  const std::string because = ", for arcs of shape " + text(sizes);
  expect(durations.shape == per_arc, "durations", durations.shape, text(per_arc) + because);
  expect(input_lengths.shape == per_item, "input_lengths", input_lengths.shape, text(per_item) + because);
  expect(target_lengths.shape == per_item, "target_lengths", target_lengths.shape, text(per_item) + because);
  const ArcsBatch<Real> batch{arcs.data,           sizes[0],           sizes[1], sizes[2] - 1,
                              input_lengths.data,  target_lengths.data, {sizes[3], blanks, durations.data, label_ends}};
  const std::string wrong = what_is_wrong(batch);
  if (!wrong.empty()) throw std::invalid_argument(wrong);
  return batch;
}

// Sequences of which every size and length is checked.
inline Sequences checked_sequences(const Array<std::int64_t>& predictions, const Array<std::int64_t>& targets,
                                   const Array<std::int64_t>& prediction_lengths,
                                   const Array<std::int64_t>& target_lengths) {
  expect(predictions.shape.size() == 2, "predictions", predictions.shape, "[B, K]");
  const Shape per_item{predictions.shape[0]};
  const std::string because = ", for predictions of shape " + text(predictions.shape);
  const bool rows = targets.shape.size() == 2 && targets.shape[0] == per_item[0];
  expect(rows, "targets", targets.shape, "[" + std::to_string(per_item[0]) + ", S]" + because);
  expect(prediction_lengths.shape == per_item, "prediction_lengths", prediction_lengths.shape, text(per_item) + because);
  expect(target_lengths.shape == per_item, "target_lengths", target_lengths.shape, text(per_item) + because);
  const Sequences sequences{predictions.data,    targets.data, prediction_lengths.data,
                            target_lengths.data, per_item[0],  predictions.shape[1],
                            targets.shape[1]};
  const std::string wrong = what_is_wrong(sequences);
  if (!wrong.empty()) throw std::invalid_argument(wrong);
  return sequences;
}

}  // namespace exportable_losses
