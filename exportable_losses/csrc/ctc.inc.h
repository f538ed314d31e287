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
      step_forward(t, now, next);
      std::swap(now, next);
    }
    return minus_log(total(now));
  }

  // Writes the gradient of the item's frames [0, input_length) to grad.
  //
  // The forward states are kept at every sixty-fourth frame only, and computed again a block at a time
  // when the backward pass gets there: a third more arithmetic, but all of it stays in the cache.
  Real cost_and_grad(Real weight, Real* grad) {
    const std::int64_t size = States<Real>::size(labels_), blocks = (frames_ + block - 1) / block;
    std::vector<Real> memory((blocks + block + 4) * size);
    auto row = [&](std::int64_t i) { return States<Real>(memory.data() + i * size, labels_); };
    auto checkpoint = [&](std::int64_t i) { return row(i); };
    auto alpha = [&](std::int64_t t) { return row(blocks + 1 + t % block); };  // behind frame t
    for (std::int64_t i = 0; i < blocks + block + 4; ++i) row(i).clear(labels_);

    begin(checkpoint(0));
    for (std::int64_t b = 0; b < blocks; ++b) forward_block(b, checkpoint(b), alpha, checkpoint(b + 1));
    const Wide<Real> all = total(checkpoint(blocks));
    const Real cost = minus_log(all);
    if (std::isinf(cost)) {
      std::fill(grad, grad + frames_ * classes_, Real(0));
      return cost;
    }
    const Wide<Real> normaliser = inverse(all);
    std::vector<Real> occupied(labels_);
    States<Real> beta = row(blocks + block + 1), next = row(blocks + block + 2);
    end(beta);
    for (std::int64_t b = blocks - 1; b >= 0; --b) {
      forward_block(b, checkpoint(b), alpha, row(blocks + block + 3));
      for (std::int64_t t = std::min(frames_, (b + 1) * block) - 1; t >= b * block; --t) {
        gradient(t, alpha(t), beta, normaliser, weight, occupied.data(), grad + t * classes_);
        t % 16 == 0 ? backward<true>(t, beta, next) : backward<false>(t, beta, next);
        std::swap(beta, next);
      }
    }
    return cost;
  }

 private:
  static constexpr std::int64_t block = 64;

  // From the states before block b to the states behind each of its frames, the last copied to `to`.
  template <class Alpha>
  void forward_block(std::int64_t b, States<Real> from, const Alpha& alpha, States<Real> to) {
    const std::int64_t last = std::min(frames_, (b + 1) * block) - 1;
    for (std::int64_t t = b * block; t <= last; ++t) {
      const States<Real> behind = alpha(t);
      step_forward(t, from, behind);
      from = behind;
    }
    std::copy(from.blank_m, from.blank_m + States<Real>::size(labels_), to.blank_m);
  }

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

  void step_forward(std::int64_t t, States<Real> from, States<Real> to) {
    t % 16 == 15 ? forward<true>(t, from, to) : forward<false>(t, from, to);
  }

  template <bool normalise>
  void forward(std::int64_t t, States<Real> from, States<Real> to) {
    const Wide<Real> blank = emit(t);
    const std::int64_t labels = labels_;
    const Real *em = emitted_m_.data(), *ee = emitted_e_.data();
    const unsigned char* skip = may_skip_.data();
#pragma GCC ivdep
    for (std::int64_t i = 0; i < labels; ++i) {
      const Wide<Real> stayed = from.blank(i), entered = from.label(i - 1);
      const Wide<Real> either = add(stayed, entered);
      to.set_blank(i, multiply<Real, normalise>(either, blank));
      const bool s = skip[i];
      const Wide<Real> moved = {s ? either.mantissa : stayed.mantissa, s ? either.exponent : stayed.exponent};
      to.set_label(i, multiply<Real, normalise>(add(from.label(i), moved), {em[i], ee[i]}));
    }
    to.set_blank(labels, multiply<Real, normalise>(add(from.blank(labels), from.label(labels - 1)), blank));
  }

  // From what follows frame t, given its state, to what follows the frame before. Uses up `from`.
  template <bool normalise>
  void backward(std::int64_t t, States<Real> from, States<Real> to) {
    const Wide<Real> blank = emit(t);
    const std::int64_t labels = labels_;
    const Real *em = emitted_m_.data(), *ee = emitted_e_.data();
    const unsigned char* skip = may_skip_.data();
    // what each state at t is worth with its own emission
#pragma GCC ivdep
    for (std::int64_t i = 0; i < labels; ++i) from.set_label(i, multiply<Real, normalise>(from.label(i), {em[i], ee[i]}));
#pragma GCC ivdep
    for (std::int64_t i = 0; i <= labels; ++i) from.set_blank(i, multiply<Real, normalise>(from.blank(i), blank));
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

  void gradient(std::int64_t t, States<Real> alpha, States<Real> beta, Wide<Real> normaliser, Real weight,
                Real* occupied, Real* grad) {
    const Real* y = scores_ + t * stride_;
    const std::int64_t labels = labels_, classes = classes_;
    Real on_blank = 0;
    Real* on_label = occupied;
#pragma GCC ivdep
    for (std::int64_t i = 0; i < labels; ++i) on_label[i] = share(alpha.label(i), beta.label(i), normaliser);
#pragma omp simd reduction(+ : on_blank)
    for (std::int64_t i = 0; i <= labels; ++i) on_blank += share(alpha.blank(i), beta.blank(i), normaliser);
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
