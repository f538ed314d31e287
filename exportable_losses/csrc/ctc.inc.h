// CTC: Graves et al. 2006, section 4.1, for one instruction set.
//
// The states of the lattice are kept in two rows. Blank i stands before label i (and blank S behind
// the last), so that a frame reads
//
//     blank'(i) = [blank(i) + label(i-1)]                               * y(blank)
//     label'(i) = [label(i) + blank(i) + label(i-1) where it may skip]  * y(label i)
//
// and every sum is over neighbours in memory. From the last frame backwards it is the same with i+1
// for i-1, once blank i is the one behind label i. So there is one recursion, a `Sweep`. Two run from
// both ends and meet in the middle, on two threads where there are. For the gradient each goes on
// through the frames of the other: the alignments through a state have the probability of its sum in
// brackets times what the other sweep has there.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#include "lattice.h"
#include "rows.inc.h"
#include "wide.h"

namespace exportable_losses {
namespace ISA {

// Wide numbers for i from -1 to `width`. The width is a multiple of the longest vector, so that loops
// have no remainder; what lies behind the last label stays zero.
template <class Real>
struct Row {
  Real *m, *e;

  static std::int64_t size(std::int64_t width) { return 2 * (width + 2); }
  Row(Real* memory, std::int64_t width) : m(memory + 1), e(memory + width + 3) {}
  Wide<Real> operator[](std::int64_t i) const { return {m[i], e[i]}; }
  void set(std::int64_t i, Wide<Real> x) { m[i] = x.mantissa, e[i] = x.exponent; }
};

// What has led to each state by the end of a frame.
template <class Real>
struct States {
  Row<Real> blank, label;

  static std::int64_t size(std::int64_t width) { return 2 * Row<Real>::size(width); }
  States(Real* memory, std::int64_t width) : blank(memory, width), label(memory + Row<Real>::size(width), width) {}
};

template <class Real>
struct Item {
  const Access<Real>& access;
  const char* scores;
  const std::int64_t* targets;
  std::int64_t frames, labels, width, classes, stride, blank;

  template <class Score>
  Item(const Batch<Score>& batch, std::int64_t b)
      : access(access_to<Score>()),
        scores(reinterpret_cast<const char*>(batch.scores + b * batch.item_stride)),
        targets(batch.targets + b * batch.target_stride),
        frames(batch.input_lengths[b]),
        labels(batch.target_lengths[b]),
        width((labels + 1 + 15) & ~std::int64_t(15)),
        classes(batch.classes),
        stride(batch.frame_stride * std::int64_t(sizeof(Score))),
        blank(batch.blank) {}

  const void* row(std::int64_t t) const { return scores + t * stride; }
};

// States in a piece of memory, all impossible at first.
template <class Real>
class Tape {
 public:
  EXPORTABLE_LOSSES_ONE_COPY Tape(std::int64_t length, std::int64_t width) : width_(width), memory_(length * States<Real>::size(width)) {
    for (std::int64_t k = 0; k < length; ++k)
      for (Row<Real> row : {(*this)[k].blank, (*this)[k].label})
        for (std::int64_t i = -1; i <= width; ++i) row.set(i, {Real(0), lowest<Real>()});
  }
  States<Real> operator[](std::int64_t k) { return {memory_.data() + k * States<Real>::size(width_), width_}; }
  void copy(States<Real> from, std::int64_t k) {
    const Real* start = from.blank.m - 1;
    std::copy(start, start + States<Real>::size(width_), memory_.data() + k * States<Real>::size(width_));
  }

 private:
  std::int64_t width_;
  std::vector<Real> memory_;
};

// Sees the occupation of a frame's states: that of the labels [0, S) and of the blanks [0, S].
template <class Real>
using See = std::function<void(std::int64_t t, const Real* labels, const Real* blanks)>;

// The recursion from one end: `direction` is 1 from the first frame, -1 from the last.
template <class Real, int direction>
class Sweep {
 public:
  using Other = Sweep<Real, -direction>;

  // Step k reads frame(k). With `remember`, the states before every sixty-fourth of `steps` are kept: the
  // other sweep walks from there again, a block at a time, since the states of all frames fit no cache.
  Sweep(const Item<Real>& item, std::int64_t steps, bool remember)
      : item_(item),
        steps_(steps),
        remember_(remember),
        now_(1, item.width),
        next_(1, item.width),
        remembered_(remember ? (steps + block - 1) / block : 0, item.width),
        scores_(item.width + 2, -std::numeric_limits<Real>::infinity()),
        emitted_(Row<Real>::size(item.width)),
        may_skip_(item.width + 2) {
    for (std::int64_t i = 1; i < item.labels; ++i)
      may_skip_[direction > 0 ? i + 1 : i] = item.targets[i] != item.targets[i - 1];
    now_[0].blank.set(direction > 0 ? 0 : item.labels - 1, {Real(1), Real(0)});  // outside of everything
  }

  // Walks all its steps.
  void walk() {
    for (std::int64_t k = 0; k < steps_; ++k) {
      if (remember_ && k % block == 0) remembered_.copy(now_[0], k / block);
      step(k, now_[0], next_[0]);
      std::swap(now_, next_);
    }
  }

  // Begins where an earlier walk from the first frame has ended, instead of outside of everything.
  void begin(const Real* blanks, const Real* labels) {
    now_[0].blank.set(0, {Real(0), lowest<Real>()});
    for (std::int64_t i = 0; i <= item_.labels; ++i) now_[0].blank.set(i, exp_wide(blanks[i]));
    for (std::int64_t i = 0; i < item_.labels; ++i) now_[0].label.set(i, exp_wide(labels[i]));
  }

  // The state it has come to.
  States<Real> reached() { return now_[0]; }

  // The probability of all alignments, once the two have met.
  Wide<Real> meet(Other& other) {
    std::fill(emitted_.begin(), emitted_.end(), Real(0));
    std::fill_n(emitted().m, item_.width, Real(1));
    sum<true, false>(now_[0], next_[0], {Real(1), Real(0)}, other.now_[0], nullptr);
    Wide<Real> total = {Real(0), lowest<Real>()};
    for (std::int64_t i = 0; i <= item_.labels; ++i) {
      total = add(total, multiply(next_[0].blank[i], other.now_[0].blank[i - direction]));
      total = add(total, multiply(next_[0].label[i], other.now_[0].label[i]));
    }
    return total;
  }

  // Goes on through the frames of the other, and shows the occupation of each frame's states.
  void cross(Other& other, Wide<Real> all, const See<Real>& see) {
    divide(now_[0], all);  // so that products with the other's states are shares of all
    Other again(item_, 0, false);
    Tape<Real> states(block, item_.width);
    std::vector<Real> occupied(2 * item_.width);
    std::int64_t mine = steps_;
    for (std::int64_t first = (other.steps_ - 1) / block * block; first >= 0; first -= block) {
      const std::int64_t last = std::min(other.steps_, first + block) - 1;
      for (std::int64_t k = first; k <= last; ++k)
        again.step(k, k == first ? other.remembered_[k / block] : states[k - first - 1], states[k - first]);
      for (std::int64_t k = last; k >= first; --k, ++mine) {
        step<true>(mine, now_[0], next_[0], states[k - first], occupied.data());
        std::swap(now_, next_);
        see(frame(mine), occupied.data() - first_label, occupied.data() + item_.width);
      }
    }
  }

 private:
  friend Other;
  static constexpr std::int64_t block = 64;
  static constexpr std::int64_t first_label = direction > 0 ? 0 : -1;  // and blank, where numbers begin

  std::int64_t frame(std::int64_t k) const { return direction > 0 ? k : item_.frames - 1 - k; }
  Row<Real> emitted() { return {emitted_.data(), item_.width}; }

  // Mantissas have room for sixteen factors before they must be normalised.
  template <bool meets = false>
  void step(std::int64_t k, States<Real> from, States<Real> to, States<Real> other, Real* occupied) {
    const Wide<Real> blank = emit(frame(k));
    k % 16 == 15 ? sum<true, meets>(from, to, blank, other, occupied)
                 : sum<false, meets>(from, to, blank, other, occupied);
  }
  void step(std::int64_t k, States<Real> from, States<Real> to) { step<false>(k, from, to, from, nullptr); }

  // The probability of each label at frame t, and of the blank.
  EXPORTABLE_LOSSES_ONE_COPY Wide<Real> emit(std::int64_t t) {
    const std::int64_t next = t + direction < 0 || t + direction == item_.frames ? t : t + direction;
    Real* scores = scores_.data() + 1;
    item_.access.pick(item_.row(t), item_.row(next), item_.targets, item_.labels, scores);
    const Row<Real> p = emitted();
    const std::int64_t width = item_.width & ~std::int64_t(15);
#pragma GCC ivdep
    for (std::int64_t i = first_label; i < width + first_label; ++i) {
      const Wide<Real> x = exp_wide(scores[i]);
      p.m[i] = x.mantissa, p.e[i] = x.exponent;
    }
    return exp_wide(item_.access.at(item_.row(t), item_.blank));
  }

  // One frame. Where it meets the other's states behind that frame, also the occupation of the labels, and
  // that of the blanks behind it.
  template <bool normalise, bool meets>
  EXPORTABLE_LOSSES_ONE_COPY void sum(States<Real> from, States<Real> to, Wide<Real> y_blank, States<Real> other, Real* occupied) {
    const Row<Real> y = emitted();
    const auto* may_skip = may_skip_.data() + 1;
    const std::int64_t width = item_.width & ~std::int64_t(15);
#pragma GCC ivdep
    for (std::int64_t n = 0; n < width; ++n) {
      const std::int64_t i = n + first_label;
      const Wide<Real> stayed = from.blank[i], entered = from.label[i - direction];
      const Wide<Real> blank = add(stayed, entered);
      const bool skip = may_skip[i];
      const Wide<Real> moved = {skip ? blank.mantissa : stayed.mantissa, skip ? blank.exponent : stayed.exponent};
      const Wide<Real> label = add(from.label[i], moved);
      if (meets) {
        occupied[n] = share(label, other.label[i]);
        occupied[n + width] = share(blank, other.blank[i - direction]);
      }
      to.blank.set(i, multiply<Real, normalise>(blank, y_blank));
      to.label.set(i, multiply<Real, normalise>(label, y[i]));
    }
  }

  void divide(States<Real> s, Wide<Real> by) {
    for (Row<Real> row : {s.blank, s.label})
      for (std::int64_t i = -1; i <= item_.width; ++i) row.set(i, multiply(row[i], inverse(by)));
  }

  Item<Real> item_;
  std::int64_t steps_;
  bool remember_;
  Tape<Real> now_, next_, remembered_;
  std::vector<Real> scores_, emitted_;
  std::vector<typename Format<Real>::Bits> may_skip_;  // as wide as a number, so that a vector has as many
};

// The cost of an item. Every frame's occupation is shown, unless the cost is no number or nothing sees it.
template <class Real>
EXPORTABLE_LOSSES_ONE_COPY Real ctc_item(const Item<Real>& item, const Parallel& parallel, const See<Real>& see) {
  const bool sees = bool(see);
  const std::int64_t half = item.frames / 2;
  Sweep<Real, 1> front(item, half, sees);
  Sweep<Real, -1> back(item, item.frames - half, sees);
  parallel(2, [&](std::int64_t side) { side == 0 ? front.walk() : back.walk(); });
  const Wide<Real> all = front.meet(back);
  const Real cost = minus_log(all);
  if (sees && std::isfinite(cost))
    parallel(2, [&](std::int64_t side) { side == 0 ? front.cross(back, all, see) : back.cross(front, all, see); });
  return cost;
}

// A gradient's row, of the occupation of its frame's states. That of scores that are no Real is narrowed.
template <class Real>
EXPORTABLE_LOSSES_ONE_COPY void write_slopes(const Item<Real>& item, std::int64_t t, Real weight, const Real* labels,
                                             const Real* blanks, char* grad) {
  const Access<Real>& access = item.access;
  grad += t * item.classes * access.bytes;
  const std::unique_ptr<Real[]> wide(access.narrow ? new Real[item.classes] : nullptr);  // all of it is written
  Real* slopes = access.narrow ? wide.get() : reinterpret_cast<Real*>(grad);
  access.slopes(item.row(t), item.classes, Real(0), weight, slopes);
  Real on_blank = 0;
#pragma omp simd reduction(+ : on_blank)
  for (std::int64_t i = 0; i <= item.labels; ++i) on_blank += blanks[i];
  slopes[item.blank] -= weight * on_blank;
  for (std::int64_t i = 0; i < item.labels; ++i) slopes[item.targets[i]] -= weight * labels[i];
  if (access.narrow != nullptr) access.narrow(slopes, item.classes, grad);
}

// A posterior's row. Every frame's states add up to the same; divided by their sum they have the rounding of that frame
// alone.
template <class Real>
EXPORTABLE_LOSSES_ONE_COPY void write_states(std::int64_t count, const Real* labels, const Real* blanks, Real* to) {
  Real all = blanks[count];
#pragma omp simd reduction(+ : all)
  for (std::int64_t i = 0; i < count; ++i) all += labels[i] + blanks[i];
  const Real share = Real(1) / all;
  for (std::int64_t i = 0; i < count; ++i) to[2 * i] = blanks[i] * share, to[2 * i + 1] = labels[i] * share;
  to[2 * count] = blanks[count] * share;
}

inline void alone(std::int64_t count, const std::function<void(std::int64_t)>& work) {
  for (std::int64_t i = 0; i < count; ++i) work(i);
}

// Runs work(b, inside) on each item, a thread an item; of a single one that is worth it, the threads are inside.
template <class Score, class Work>
void over_items(const Batch<Score>& batch, const Parallel& parallel, const Work& work) {
  constexpr std::int64_t worth_a_thread = 1 << 15;  // states of all frames: some twenty microseconds
  if (batch.batch == 1)
    work(0, batch.frames * batch.labels > worth_a_thread ? parallel : Parallel(alone));
  else
    parallel(batch.batch, [&](std::int64_t b) { work(b, alone); });
}

template <class Score>
void ctc(const Batch<Score>& batch, const Computed<Score>* grad_costs, Computed<Score>* costs, Score* grad,
         const Parallel& parallel) {
  using Real = Computed<Score>;
  const std::int64_t size = batch.frames * batch.classes;
  over_items(batch, parallel, [&](std::int64_t b, const Parallel& inside) {
    const Item<Real> item(batch, b);
    Score* of_item = grad ? grad + b * size : nullptr;
    char* rows = reinterpret_cast<char*>(of_item);
    const Real weight = grad_costs ? grad_costs[b] : Real(1);
    const See<Real> see = [&](std::int64_t t, const Real* labels, const Real* blanks) {
      write_slopes(item, t, weight, labels, blanks, rows);
    };
    costs[b] = ctc_item(item, inside, grad ? see : See<Real>());
    if (grad == nullptr) return;
    if (!std::isfinite(costs[b]))
      item.access.fill(rows, item.frames * item.classes, std::isnan(costs[b]) ? costs[b] : Real(0));
    std::fill(of_item + item.frames * item.classes, of_item + size, Score{});
  });
}

template <class Score>
void ctc_posterior(const Batch<Score>& batch, Computed<Score>* costs, Computed<Score>* posteriors,
                   const Parallel& parallel) {
  using Real = Computed<Score>;
  const std::int64_t states = 2 * batch.labels + 1;
  over_items(batch, parallel, [&](std::int64_t b, const Parallel& inside) {
    const Item<Real> item(batch, b);
    Real* rows = posteriors + b * batch.frames * states;
    costs[b] = ctc_item<Real>(item, inside, [&](std::int64_t t, const Real* labels, const Real* blanks) {
      Real* row = rows + t * states;
      write_states(item.labels, labels, blanks, row);
      std::fill(row + 2 * item.labels + 1, row + states, Real(0));
    });
    if (!std::isfinite(costs[b]))
      std::fill_n(rows, item.frames * states, std::isnan(costs[b]) ? costs[b] : Real(0));
    std::fill(rows + item.frames * states, rows + batch.frames * states, Real(0));
  });
}

// An item's frames, and the state that they lead to, whose largest log-probability is zero.
template <class Real>
Real walk_on(const Item<Real>& item, std::int64_t labels, const Real* alpha, const Real* offset, Real* alpha_out,
             Real* offset_out) {
  Sweep<Real, 1> sweep(item, item.frames, false);
  sweep.begin(alpha, alpha + labels + 1);
  sweep.walk();
  const States<Real> state = sweep.reached();
  const Wide<Real> one{Real(1), Real(0)};
  Wide<Real> most{Real(0), lowest<Real>()};
  auto see = [&](Wide<Real> x) { most = larger(most, normalised(x.mantissa, x.exponent)); };
  for (std::int64_t i = 0; i <= item.labels; ++i) see(state.blank[i]);
  for (std::int64_t i = 0; i < item.labels; ++i) see(state.label[i]);
  if (item.frames == 0 || most.mantissa == 0) most = one;  // a state that is kept, or none that is possible

  add_exactly(offset, log_ratio(most, one), offset_out);

  constexpr Real never = -std::numeric_limits<Real>::infinity();
  const std::int64_t width = labels + 1;
  auto relative = [&](Wide<Real> x, std::int64_t at) { return item.frames ? Real(log_ratio(x, most)) : alpha[at]; };
  for (std::int64_t i = 0; i < width; ++i) {  // alpha_out may be alpha
    alpha_out[i] = i <= item.labels ? relative(state.blank[i], i) : never;
    alpha_out[i + width] = i < item.labels ? relative(state.label[i], i + width) : never;
  }
  Wide<Real> all = state.blank[item.labels];
  if (item.labels > 0) all = add(all, state.label[item.labels - 1]);
  return Real(-(double(offset_out[0]) + (double(offset_out[1]) + log_ratio(all, most))));
}

template <class Score>
void ctc_forward(const Batch<Score>& batch, const Walk<Computed<Score>>& walk, Computed<Score>* costs,
                 const Parallel& parallel) {
  const std::int64_t states = 2 * (batch.labels + 1);
  parallel(batch.batch, [&](std::int64_t b) {
    costs[b] = walk_on(Item<Computed<Score>>(batch, b), batch.labels, walk.alpha + b * states, walk.offset + 2 * b,
                       walk.alpha_out + b * states, walk.offset_out + 2 * b);
  });
}

}  // namespace ISA
}  // namespace exportable_losses
