// The best path through CTC's lattice (Graves et al. 2006) by Viterbi's algorithm, for one instruction set.
//
// The states are kept in two rows, as in ctc.inc.h, here as logarithms:
//
//     blank'(i) = max(blank(i), label(i-1)) + y(blank)
//     label'(i) = max(label(i), blank(i), label(i-1) where it may skip) + y(label i)
//
// One walk keeps the states before every so many frames and no moves, so few that they take a certain memory at most.
// From the last frame backwards each span of frames is walked again: from a state no more labels are within reach than
// the span has frames, so that this takes little, and the comparisons of the trace are of the same numbers. Of a span
// whose states are too many, some are kept in the same way. A block of frames by a strip of labels is a tile; it needs
// what the tiles of the frames before and of the labels before have left, so those of an anti-diagonal are independent.
//
// Sums are of doubles: of a few thousand floats a float has lost the digits that tell one path from another.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#ifdef __STDCPP_THREADS__
#include <thread>
#endif
#include <vector>

#include "ctc.inc.h"

namespace exportable_losses {
namespace ISA {

constexpr double never = -std::numeric_limits<double>::infinity();

// The best that leads to each state of some labels, and the blank before each.
struct Best {
  double *blank, *label;

  Best operator+(std::int64_t n) const { return {blank + n, label + n}; }
};

// Rows of them, each with a label before the first.
class BestRows {
 public:
  BestRows(std::int64_t rows, std::int64_t width)
      : width_(width), pitch_(2 * width + 1), memory_(rows * pitch_, never) {}
  Best operator[](std::int64_t k) {
    double* row = memory_.data() + k * pitch_;
    return {row, row + width_ + 1};
  }

 private:
  std::int64_t width_, pitch_;
  std::vector<double> memory_;
};

// Frames [first, last), and labels [left, right).
struct Tile {
  std::int64_t first, last, left, right;

  std::int64_t frames() const { return last - first; }
};

template <class Real>
class BestPath {
 public:
  BestPath(const Item<Real>& item, bool free_ends)
      : item_(item),
        free_ends_(free_ends),
        strip_(std::min(most_of_strip, (item.labels + 1 + 15) & ~std::int64_t(15))),
        strips_(item.labels / strip_ + 1),
        span_(span_for(item.frames, item.labels)),
        block_(std::min(span_, most_of_block)),
        blocks_((item.frames + block_ - 1) / block_),
        may_skip_(strips_ * strip_, never),
        kept_((item.frames + span_ - 1) / span_, strips_ * strip_),
        last_(1, strips_ * strip_),
        edges_(2 * strips_ * block_, never) {
    for (std::int64_t i = 1; i < item.labels; ++i)
      if (item.targets[i] != item.targets[i - 1]) may_skip_[i] = 0;
    last_[0].blank[0] = 0;  // before the first frame
  }

  // The path's log-probability, and the state at each frame, or -1 in all where that is none.
  double operator()(std::int64_t* states, const Parallel& parallel) {
    walk(parallel);
    const std::int64_t last = item_.labels;
    const Best end = last_[0];
    const bool on_label = end.label[last - 1] > end.blank[last];
    const double score = (on_label ? end.label[last - 1] : end.blank[last]) + poison(parallel);
    if (std::isfinite(score))
      trace(2 * last - on_label, states);
    else
      std::fill_n(states, item_.frames, std::int64_t(-1));
    return score;
  }

 private:
  static constexpr std::int64_t most_of_strip = 256;  // labels whose states stay in the nearest cache

  static constexpr std::int64_t most_of_block = 2048;  // frames, of which the states that are within reach are kept

  // From how many frames to how many the states of so many labels are kept: as rarely as takes 64 MB.
  static std::int64_t span_for(std::int64_t frames, std::int64_t labels) {
    constexpr std::int64_t least = 64, states = std::int64_t(1) << 23;
    const double few = 2.0 * double(labels) * double(frames) / double(states), half = double(frames + 1) / 2;
    const std::int64_t span = std::max(least, std::int64_t(std::min(few, half)));
    return span < most_of_block ? span : (span + most_of_block - 1) / most_of_block * most_of_block;
  }

  // Each of some workers takes the next tile and waits for those that it needs, which others have taken before: so the
  // first of all that are taken waits for none. Nothing in a tile can fail.
  void walk(const Parallel& parallel) {
    const std::int64_t diagonals = blocks_ + strips_ - 1, workers = std::min(blocks_, strips_);
    std::vector<Place> order;
    for (std::int64_t n = 0; n < diagonals; ++n)
      for (std::int64_t column = std::max(std::int64_t(0), n - blocks_ + 1); column <= std::min(n, strips_ - 1); ++column)
        order.push_back({n - column, column});
    using Counter = std::atomic<std::ptrdiff_t>;  // a word, which small processors count in too
    Counter next{0};
    const std::unique_ptr<Counter[]> passed(new Counter[strips_]);
    for (std::int64_t column = 0; column < strips_; ++column) passed[column] = 0;
    const auto wait = [&](std::int64_t column, std::int64_t blocks) {
      if (column < 0 || column == strips_) return;
      for (std::int64_t looked = 0; passed[column].load(std::memory_order_acquire) < blocks; ++looked) pause(looked);
    };
    parallel(workers, [&](std::int64_t) {
      BestRows rows(2, strip_);
      std::vector<Real> scores(strip_);
      for (std::size_t i = next++; i < order.size(); i = next++) {
        const auto [block, column] = order[i];
        wait(column, block);
        wait(column - 1, block + 1);
        wait(column + 1, block - 1);  // which has read where this tile writes
        pass(order[i], rows, scores);
        passed[column].store(static_cast<std::ptrdiff_t>(block + 1), std::memory_order_release);
      }
    });
  }

  struct Place {
    std::int64_t block, column;
  };

  // A tile takes some twenty microseconds. To give the processor away at once would be to wait for other programs, each
  // time; never to, for one that has no processor.
  static void pause(std::int64_t looked) {
#ifdef __STDCPP_THREADS__
    if (looked > 1 << 14) std::this_thread::yield();
#else
    (void)looked;
#endif
  }

  // One tile of the walk, unless no path leads there from the first frame, or on to the last.
  void pass(Place at, BestRows& rows, std::vector<Real>& scores) {
    const std::int64_t first = at.block * block_, left = at.column * strip_;
    const Tile tile{first, std::min(first + block_, item_.frames), left, left + strip_};
    double* edge = edges_.data() + (at.block % 2 * strips_ + at.column) * block_;
    const auto next = [&](std::int64_t k, double label) {  // where the tile to the right reads
      if (at.column + 1 < strips_) edge[block_ + k] = label;
    };
    const bool leads = tile.left <= tile.last && item_.frames - tile.first >= item_.labels - tile.right;
    if (!leads) {
      for (std::int64_t k = 0; k < tile.frames(); ++k) next(k, never);
      return;  // no path that ends reads what is left of others
    }
    if (first % span_ == 0) copy(last_[0] + left, strip_, kept_[first / span_] + left);
    copy(last_[0] + left, strip_, rows[0]);
    forward(tile, scores, [&](std::int64_t k) {
      const Best now = rows[k % 2];
      next(k, now.label[strip_ - 1]);
      now.label[-1] = edge[k];
      return Step{now, rows[(k + 1) % 2]};
    });
    copy(rows[tile.frames() % 2], strip_, last_[0] + left);
  }

  static void copy(Best from, std::int64_t n, Best to) {
    std::copy_n(from.blank, n, to.blank);
    std::copy_n(from.label, n, to.label);
  }

  struct Step {
    Best from, to;
  };

  // The recursion through a tile; steps(k) has the rows before and behind its k-th frame. What labels emit goes to `y`.
  template <class Steps>
  void forward(const Tile& tile, std::vector<Real>& y, const Steps& steps) {
    const std::int64_t width = tile.right - tile.left, labels = std::min(tile.right, item_.labels) - tile.left;
    std::fill(y.begin(), y.end(), -std::numeric_limits<Real>::infinity());
    for (std::int64_t t = tile.first; t < tile.last; ++t) {
      const void* row = item_.row(t);
      item_.access.pick(row, item_.row(std::min(t + 1, item_.frames - 1)), item_.targets + tile.left, labels, y.data());
      const Step step = steps(t - tile.first);
      sum(step, double(item_.access.at(row, item_.blank)), y.data(), may_skip_.data() + tile.left, width);
      if (!free_ends_) continue;
      const std::int64_t last = item_.labels - tile.left;  // the frames outside of the labels emit anything
      if (tile.left == 0) step.to.blank[0] = step.from.blank[0];
      if (last >= 0 && last < width) step.to.blank[last] = std::max(step.from.blank[last], step.from.label[last - 1]);
    }
  }

  EXPORTABLE_LOSSES_ONE_COPY static void sum(const Step& step, double y_blank, const Real* y, const double* may_skip,
                                             std::int64_t width) {
    const double *blank = step.from.blank, *label = step.from.label;
    double *to_blank = step.to.blank, *to_label = step.to.label;
#pragma GCC ivdep
    for (std::int64_t i = 0; i < width; ++i) {
      const double stayed = label[i], entered = label[i - 1], skipped = entered + may_skip[i], before = blank[i];
      const double nearer = stayed < before ? before : stayed;
      to_blank[i] = (before < entered ? entered : before) + y_blank;
      to_label[i] = (nearer < skipped ? skipped : nearer) + double(y[i]);
    }
  }

  // The states from the last frame back.
  void trace(std::int64_t state, std::int64_t* states) {
    for (std::int64_t n = (item_.frames + span_ - 1) / span_ - 1; n >= 0; --n)
      state = trace(n * span_, std::min((n + 1) * span_, item_.frames), kept_[n], state, states);
  }

  // Those of frames [first, last), of the states before them and the one behind: the state that leads there. What comes
  // in from the left of the labels that are walked is behind the path by then.
  std::int64_t trace(std::int64_t first, std::int64_t last, Best before, std::int64_t state, std::int64_t* states) {
    const std::int64_t right = state / 2 + 1, left = std::max(std::int64_t(0), right - (last - first) - 2);
    const bool all = last - first <= most_of_block;
    const std::int64_t span = all ? 1 : span_for(last - first, right - left), spans = (last - first - 1) / span + 1;
    BestRows kept(spans, right - left), between(2, right - left);
    copy(before + left, right - left, kept[0]);
    const auto row = [&](std::int64_t k) { return k % span == 0 ? kept[k / span] : between[k % 2]; };
    std::vector<Real> scores(right - left);
    forward({first, last - 1, left, right}, scores, [&](std::int64_t k) { return Step{row(k), row(k + 1)}; });
    for (std::int64_t n = spans - 1; n >= 0; --n) {
      const std::int64_t t = first + n * span;
      const Best from = kept[n] + -left;
      state = all ? step(t, from, state, states) : trace(t, std::min(t + span, last), from, state, states);
    }
    return state;
  }

  // The state before frame t's, of those that might be. Of equals the path stayed, else stepped, else skipped.
  std::int64_t step(std::int64_t t, Best from, std::int64_t state, std::int64_t* states) const {
    states[t] = state;
    const std::int64_t i = state / 2;
    const double one = state % 2 ? from.blank[i] : from.label[i - 1];
    const double stayed = state % 2 ? from.label[i] : from.blank[i];
    const double two = state % 2 ? from.label[i - 1] + may_skip_[i] : never;
    return state - (two > std::max(stayed, one) ? 2 : one > stayed);
  }

  // A NaN if the target reads a NaN or +inf anywhere, whichever path would take it, else zero.
  double poison(const Parallel& parallel) const {
    std::vector<std::int64_t> classes(item_.targets, item_.targets + item_.labels);
    classes.push_back(item_.blank);
    std::sort(classes.begin(), classes.end());
    classes.erase(std::unique(classes.begin(), classes.end()), classes.end());
    const std::int64_t read = classes.size();
    const bool whole_rows = item_.classes < 8 * read;  // which is quicker, but has more than is read
    std::vector<char> wrong(blocks_);
    parallel(blocks_, [&](std::int64_t block) {
      std::vector<Real> scores(read);
      const std::int64_t last = std::min((block + 1) * block_, item_.frames);
      for (std::int64_t t = block * block_; t < last && !wrong[block]; ++t) {
        if (whole_rows && item_.access.bounded(item_.row(t), item_.classes)) continue;
        item_.access.pick(item_.row(t), item_.row(std::min(t + 1, last - 1)), classes.data(), read, scores.data());
        for (const Real x : scores) wrong[block] |= !(x < std::numeric_limits<Real>::infinity());
      }
    });
    return std::find(wrong.begin(), wrong.end(), 1) == wrong.end() ? 0 : std::numeric_limits<double>::quiet_NaN();
  }

  Item<Real> item_;
  bool free_ends_;
  std::int64_t strip_, strips_, span_, block_, blocks_;
  std::vector<double> may_skip_;
  BestRows kept_;               // before each span of frames
  BestRows last_;               // behind the last frame of each strip that has been walked
  std::vector<double> edges_;   // of each strip, the label before it at each frame of an even block, and of an odd one
};

template <class Score>
void ctc_align(const Batch<Score>& batch, bool free_ends, std::int64_t* states, Computed<Score>* scores,
               const Parallel& parallel) {
  using Real = Computed<Score>;
  const auto run = [&](std::int64_t b, const Parallel& inside) {
    const Item<Real> item(batch, b);
    std::int64_t* of_item = states + b * batch.frames;
    scores[b] = Real(BestPath<Real>(item, free_ends)(of_item, inside));
    std::fill(of_item + item.frames, of_item + batch.frames, std::int64_t(-1));
  };
  over_items(batch, parallel, run);
}

}  // namespace ISA
}  // namespace exportable_losses
