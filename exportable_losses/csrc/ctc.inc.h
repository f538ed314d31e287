// CTC: Graves et al. 2006, section 4.1, for one instruction set.
//
// The states of the lattice are kept in two rows. Blank i stands before label i (and blank S behind
// the last), so that a frame reads
//
//     blank'(i) = [blank(i) + label(i-1)]                               * y(blank)
//     label'(i) = [label(i) + blank(i) + label(i-1) where it may skip]  * y(label i)
//
// and every sum is over neighbours in memory. Backwards it is the same with i+1 for i-1.
#pragma once

#include <algorithm>
#include <vector>

#include "lattice.h"
#include "wide.h"

namespace exportable_losses {
namespace ISA {

// The rows of one frame: mantissas and exponents of S+1 blanks and S labels, each with one
// impossible state on either side.
template <class Real>
struct States {
  Real *blank_m, *blank_e, *label_m, *label_e;

  static std::int64_t size(std::int64_t labels) { return 4 * (labels + 2); }

  States(Real* memory, std::int64_t labels)
      : blank_m(memory), blank_e(blank_m + labels + 2), label_m(blank_e + labels + 2), label_e(label_m + labels + 2) {}

  void clear(std::int64_t labels) {
    for (std::int64_t i = 0; i < labels + 2; ++i) {
      blank_m[i] = label_m[i] = Real(0);
      blank_e[i] = label_e[i] = lowest<Real>();
    }
  }
  Wide<Real> blank(std::int64_t i) const { return {blank_m[i], blank_e[i]}; }
  Wide<Real> label(std::int64_t i) const { return {label_m[i + 1], label_e[i + 1]}; }  // i from -1
  void set_blank(std::int64_t i, Wide<Real> x) { blank_m[i] = x.mantissa, blank_e[i] = x.exponent; }
  void set_label(std::int64_t i, Wide<Real> x) { label_m[i + 1] = x.mantissa, label_e[i + 1] = x.exponent; }
};

template <class Real>
class CTCItem {
 public:
  CTCItem(const Batch<Real>& batch, std::int64_t item)
      : scores_(batch.scores + item * batch.item_stride),
        targets_(batch.targets + item * batch.target_stride),
        frames_(batch.input_lengths[item]),
        labels_(batch.target_lengths[item]),
        classes_(batch.classes),
        stride_(batch.frame_stride),
        blank_(batch.blank),
        emitted_m_(labels_),
        emitted_e_(labels_),
        may_skip_(labels_ + 1) {
    for (std::int64_t i = 1; i < labels_; ++i) may_skip_[i] = targets_[i] != targets_[i - 1];
  }

  Real cost() {
    std::vector<Real> memory(2 * States<Real>::size(labels_));
    States<Real> now(memory.data(), labels_), next(memory.data() + States<Real>::size(labels_), labels_);
    begin(now), next.clear(labels_);
    for (std::int64_t t = 0; t < frames_; ++t) {
      forward(t, now, next);
      std::swap(now, next);
    }
    return minus_log(total(now));
  }

  // Writes the gradient of the item's frames [0, input_length) to grad.
  Real cost_and_grad(Real weight, Real* grad) {
    const std::int64_t size = States<Real>::size(labels_);
    std::vector<Real> memory((frames_ + 1) * size);
    auto alpha = [&](std::int64_t t) { return States<Real>(memory.data() + t * size, labels_); };
    for (std::int64_t t = 0; t <= frames_; ++t) alpha(t).clear(labels_);
    begin(alpha(0));
    for (std::int64_t t = 0; t < frames_; ++t) forward(t, alpha(t), alpha(t + 1));
    const Wide<Real> all = total(alpha(frames_));
    const Real cost = minus_log(all);
    if (std::isinf(cost)) {
      std::fill(grad, grad + frames_ * classes_, Real(0));
      return cost;
    }
    std::vector<Real> backward_memory(2 * size), occupied(2 * (labels_ + 1));
    States<Real> now(backward_memory.data(), labels_), next(backward_memory.data() + size, labels_);
    end(now), next.clear(labels_);
    for (std::int64_t t = frames_ - 1; t >= 0; --t) {
      gradient(t, alpha(t + 1), now, all, weight, occupied.data(), grad + t * classes_);
      backward(t, now, next);
      std::swap(now, next);
    }
    return cost;
  }

 private:
  // Before the first frame all probability is on a blank in front of everything.
  void begin(States<Real> s) {
    s.clear(labels_);
    s.set_blank(0, {Real(1), Real(0)});
  }
  // Behind the last frame an alignment is complete on the last blank or the last label.
  void end(States<Real> s) {
    s.clear(labels_);
    s.set_blank(labels_, {Real(1), Real(0)});
    if (labels_ > 0) s.set_label(labels_ - 1, {Real(1), Real(0)});
  }
  Wide<Real> total(States<Real> s) const { return add(s.blank(labels_), s.label(labels_ - 1)); }

  // The probability of each label at frame t.
  Wide<Real> emit(std::int64_t t) {
    const Real* y = scores_ + t * stride_;
    for (std::int64_t i = 0; i < labels_; ++i) emitted_m_[i] = y[targets_[i]];
    Real* m = emitted_m_.data();
    Real* e = emitted_e_.data();
#pragma GCC ivdep
    for (std::int64_t i = 0; i < labels_; ++i) {
      const Wide<Real> p = exp_wide(m[i]);
      m[i] = p.mantissa, e[i] = p.exponent;
    }
    return exp_wide(y[blank_]);
  }

  void forward(std::int64_t t, States<Real> from, States<Real> to) {
    const Wide<Real> blank = emit(t);
    const std::int64_t labels = labels_;
    const Real *em = emitted_m_.data(), *ee = emitted_e_.data();
    const unsigned char* skip = may_skip_.data();
#pragma GCC ivdep
    for (std::int64_t i = 0; i < labels; ++i) {
      const Wide<Real> stayed = from.blank(i), entered = from.label(i - 1);
      const Wide<Real> either = add(stayed, entered);
      to.set_blank(i, multiply(either, blank));
      const bool s = skip[i];
      const Wide<Real> moved = {s ? either.mantissa : stayed.mantissa, s ? either.exponent : stayed.exponent};
      to.set_label(i, multiply(add(from.label(i), moved), {em[i], ee[i]}));
    }
    to.set_blank(labels, multiply(add(from.blank(labels), from.label(labels - 1)), blank));
  }

  // From what follows frame t, given its state, to what follows the frame before. Uses up `from`.
  void backward(std::int64_t t, States<Real> from, States<Real> to) {
    const Wide<Real> blank = emit(t);
    const std::int64_t labels = labels_;
    const Real *em = emitted_m_.data(), *ee = emitted_e_.data();
    const unsigned char* skip = may_skip_.data();
    // what each state at t is worth with its own emission
#pragma GCC ivdep
    for (std::int64_t i = 0; i < labels; ++i) from.set_label(i, multiply(from.label(i), {em[i], ee[i]}));
#pragma GCC ivdep
    for (std::int64_t i = 0; i <= labels; ++i) from.set_blank(i, multiply(from.blank(i), blank));
#pragma GCC ivdep
    for (std::int64_t i = 0; i < labels; ++i) {
      const Wide<Real> onward = from.label(i + 1), blank_next = from.blank(i + 1);
      const Wide<Real> either = add(blank_next, onward);
      const bool s = skip[i + 1];
      const Wide<Real> left = {s ? either.mantissa : blank_next.mantissa, s ? either.exponent : blank_next.exponent};
      to.set_label(i, add(from.label(i), left));
      to.set_blank(i, add(from.blank(i), from.label(i)));
    }
    to.set_blank(labels, from.blank(labels));
  }

  void gradient(std::int64_t t, States<Real> alpha, States<Real> beta, Wide<Real> all, Real weight, Real* occupied,
                Real* grad) {
    const Real* y = scores_ + t * stride_;
    const std::int64_t labels = labels_, classes = classes_;
    Real on_blank = 0;
    Real* on_label = occupied;
#pragma GCC ivdep
    for (std::int64_t i = 0; i < labels; ++i) on_label[i] = share(alpha.label(i), beta.label(i), all);
    for (std::int64_t i = 0; i <= labels; ++i) on_blank += share(alpha.blank(i), beta.blank(i), all);
#pragma GCC ivdep
    for (std::int64_t c = 0; c < classes; ++c) grad[c] = weight * exp_negative(y[c]);
    grad[blank_] -= weight * on_blank;
    for (std::int64_t i = 0; i < labels; ++i) grad[targets_[i]] -= weight * on_label[i];
  }

  const Real* scores_;
  const std::int64_t* targets_;
  std::int64_t frames_, labels_, classes_, stride_, blank_;
  std::vector<Real> emitted_m_, emitted_e_;
  std::vector<unsigned char> may_skip_;
};

template <class Real>
void ctc(const Batch<Real>& batch, const Real* grad_costs, Real* costs, Real* grad, const Parallel& parallel) {
  parallel(batch.batch, [&](std::int64_t b) {
    CTCItem<Real> item(batch, b);
    if (grad == nullptr) {
      costs[b] = item.cost();
      return;
    }
    Real* rows = grad + b * batch.frames * batch.classes;
    costs[b] = item.cost_and_grad(grad_costs ? grad_costs[b] : Real(1), rows);
    std::fill(rows + batch.input_lengths[b] * batch.classes, rows + batch.frames * batch.classes, Real(0));
  });
}

}  // namespace ISA
}  // namespace exportable_losses
