// Edit distance by Wagner and Fischer's programme (1974), for one instruction set.
//
// A substitution and a gap cost W each, a gap in the longer sequence W + 1: a token of the shorter that
// stands alone. W is more than the shorter has tokens, so the least cost has the fewest edits, and among
// those the fewest gaps.
//
// The numbers of the table grow with the square of the lengths; how far neighbours differ does not. So it
// is the differences that are kept (Suzuki and Kasahara 2018, "Introducing difference recurrence relations
// for faster semi-global alignment of long sequences", equation 3), in the fewest bits that hold 2 W + 1.
// With H the table, i in the longer and j in the shorter sequence,
//
//     down(i, j)   = H(i, j) - H(i-1, j) + W + 1     from 0 to 2 W + 1
//     across(i, j) = H(i, j) - H(i, j-1) + W         from 0 to 2 W + 1
//     z(i, j)      = H(i, j) - H(i-1, j-1) = 0 where the tokens are equal, else
//                    min(W, across(i-1, j), down(i, j-1))
//
// and a cell is a handful of additions. It needs those of the anti-diagonal before alone, so that all
// cells of one are computed at once.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "edits.h"

namespace exportable_losses {
namespace ISA {

struct Tokens {
  const std::int64_t* data;
  std::int64_t length;
};

// Each token of a sequence as the place, from 1, where it stands first; 0 for a token that it has not.
template <class Number>
class Places {
 public:
  explicit Places(Tokens of) : of_(of) {
    while ((std::int64_t(1) << bits_) < 2 * of.length) ++bits_;
    first_.resize(std::size_t(1) << bits_);
    for (std::int64_t i = 0; i < of.length; ++i) {
      Number& place = slot(of.data[i]);
      if (place == 0) place = static_cast<Number>(i + 1);
    }
  }
  Number operator[](std::int64_t token) { return slot(token); }

 private:
  // Where the token is, or would be: at its hash (Knuth's, by multiplication) or behind it.
  Number& slot(std::int64_t token) {
    std::size_t at = (static_cast<std::uint64_t>(token) * 0x9E3779B97F4A7C15u) >> (64 - bits_);
    while (first_[at] != 0 && of_.data[first_[at] - 1] != token) at = (at + 1) & (first_.size() - 1);
    return first_[at];
  }

  Tokens of_;
  int bits_ = 1;
  std::vector<Number> first_;
};

// Tokens of each that stand alone, and pairs that differ.
struct Edits {
  std::int64_t of_longer, of_shorter, substitutions;
};

template <class Number>
Edits edits(Tokens longer, Tokens shorter) {
  constexpr std::int64_t lanes = 64 / sizeof(Number);
  const Number weight = static_cast<Number>(shorter.length + 1), most = static_cast<Number>(2 * weight + 1);
  // The longer sequence stands backwards, so that an anti-diagonal is a piece of each, taken in whole vectors.
  // What those reach too far is harmless: before the longer begins, z and down stay zero and across what it
  // is; behind the end of the shorter, nothing is read again.
  std::vector<Number> down(longer.length + lanes), across(shorter.length + lanes, most);
  std::vector<Number> backwards(longer.length + lanes), forwards(shorter.length + lanes);
  std::fill_n(down.begin(), longer.length, most);
  Places<Number> places(shorter);
  for (std::int64_t i = 0; i < longer.length; ++i) backwards[longer.length - 1 - i] = places[longer.data[i]];
  for (std::int64_t j = 0; j < shorter.length; ++j) forwards[j] = places[shorter.data[j]];
  for (std::int64_t step = 1; step < longer.length + shorter.length; ++step) {
    const std::int64_t i = std::max<std::int64_t>(longer.length - step, 0);  // where the pieces begin
    const std::int64_t j = std::max<std::int64_t>(step - longer.length, 0);
    const std::int64_t size = std::min(step, shorter.length) - j;
    const Number* a = backwards.data() + i;
    const Number* b = forwards.data() + j;
    Number* __restrict d = down.data() + i;
    Number* __restrict r = across.data() + j;
    for (std::int64_t from = 0; from < size; from += lanes) {
#pragma omp simd
      for (std::int64_t k = from; k < from + lanes; ++k) {
        const Number least = std::min(weight, std::min(d[k], r[k]));
        const Number z = a[k] == b[k] ? Number(0) : least;
        const Number below = static_cast<Number>(z - r[k] + most), right = static_cast<Number>(z - d[k] + most);
        d[k] = below, r[k] = right;
      }
    }
  }
  std::int64_t sum = 0;  // H of the last cell, less W for each token that the longer has more
  for (std::int64_t j = 0; j < shorter.length; ++j) sum += across[j];
  const std::int64_t alone = sum % weight;
  return {longer.length - shorter.length + alone, alone, sum / weight - 2 * alone};
}

inline Edits edits(Tokens longer, Tokens shorter) {
  auto holds = [&](auto number) { return shorter.length < std::numeric_limits<decltype(number)>::max() / 2; };
  if (holds(std::uint8_t())) return edits<std::uint8_t>(longer, shorter);
  if (holds(std::uint16_t())) return edits<std::uint16_t>(longer, shorter);
  return edits<std::uint32_t>(longer, shorter);
}

void edit_counts(const Sequences& x, std::int64_t* counts, const Parallel& parallel) {
  parallel(x.batch, [&](std::int64_t b) {
    const Tokens prediction{x.predictions + b * x.prediction_width, x.prediction_lengths[b]};
    const Tokens target{x.targets + b * x.target_width, x.target_lengths[b]};
    const bool more = prediction.length > target.length;
    const Edits found = more ? edits(prediction, target) : edits(target, prediction);
    counts[3 * b] = more ? found.of_longer : found.of_shorter;
    counts[3 * b + 1] = more ? found.of_shorter : found.of_longer;
    counts[3 * b + 2] = found.substitutions;
  });
}

}  // namespace ISA
}  // namespace exportable_losses
