// Edit distance by Wagner and Fischer's programme (1974), for one instruction set.
//
// An insertion and a substitution cost W, a deletion W + 1, where W is more than the target has tokens. The
// least cost then has the fewest edits, and among those the fewest deletions; insertions are as many, but
// for the difference of the lengths.
//
// The numbers of the table grow with the square of the lengths; how far neighbours differ does not. So it
// is the differences that are kept (Suzuki and Kasahara 2018, "Introducing difference recurrence relations
// for faster semi-global alignment of long sequences"), in the fewest bits that hold 2 W + 1. With H the
// table, i in the prediction and j in the target,
//
//     down(i, j)   = H(i, j) - H(i-1, j) + W + 1     from 0 to 2 W + 1
//     across(i, j) = H(i, j) - H(i, j-1) + W         from 0 to 2 W + 1
//     z(i, j)      = H(i, j) - H(i-1, j-1) = 0 where the tokens are equal, else
//                    min(W, across(i-1, j), down(i, j-1))
//
// and a cell is a handful of additions. It needs the anti-diagonal before alone, so all cells of one are
// computed at once.
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

// Each token of a sequence as the place, from 1, where it stands last; 0 for a token that it has not.
template <class Number>
class Places {
 public:
  explicit Places(Tokens of) : of_(of) {
    while ((std::int64_t(1) << bits_) < 2 * of.length) ++bits_;
    places_.resize(std::size_t(1) << bits_);
    for (std::int64_t i = 0; i < of.length; ++i) slot(of.data[i]) = static_cast<Number>(i + 1);
  }
  Number operator[](std::int64_t token) { return slot(token); }

 private:
  // Where the token is, or would be: at its hash (Knuth's, by multiplication) or behind it.
  Number& slot(std::int64_t token) {
    std::size_t at = (static_cast<std::uint64_t>(token) * 0x9E3779B97F4A7C15u) >> (64 - bits_);
    while (places_[at] != 0 && of_.data[places_[at] - 1] != token) at = (at + 1) & (places_.size() - 1);
    return places_[at];
  }

  Tokens of_;
  int bits_ = 1;
  std::vector<Number> places_;
};

// Insertions, deletions and substitutions to counts[0] to counts[2].
template <class Number>
void count_edits(Tokens prediction, Tokens target, std::int64_t* counts) {
  constexpr std::int64_t lanes = 64 / sizeof(Number);
  const Number weight = static_cast<Number>(target.length + 1), most = static_cast<Number>(2 * weight + 1);
  // The prediction stands backwards, so that an anti-diagonal is a piece of each sequence, taken in whole
  // vectors. What those reach too far is harmless: before the prediction begins, z and down stay zero and
  // across what it is; behind the end of the target, nothing is read again.
  std::vector<Number> down(prediction.length + lanes), across(target.length + lanes, most);
  std::vector<Number> backwards(prediction.length + lanes), forwards(target.length + lanes);
  std::fill_n(down.begin(), prediction.length, most);
  Places<Number> places(target);
  for (std::int64_t i = 0; i < prediction.length; ++i)
    backwards[prediction.length - 1 - i] = places[prediction.data[i]];
  for (std::int64_t j = 0; j < target.length; ++j) forwards[j] = places[target.data[j]];
  for (std::int64_t step = 1; step < prediction.length + target.length; ++step) {
    const std::int64_t i = std::max<std::int64_t>(prediction.length - step, 0);  // where the pieces begin
    const std::int64_t j = std::max<std::int64_t>(step - prediction.length, 0);
    const std::int64_t size = std::min(step, target.length) - j;
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
  std::int64_t cost = 0;  // of all, less W for each token that the prediction has more
  for (std::int64_t j = 0; j < target.length; ++j) cost += across[j];
  const std::int64_t deletions = cost % weight;
  counts[0] = prediction.length - target.length + deletions;
  counts[1] = deletions;
  counts[2] = cost / weight - 2 * deletions;
}

void edit_counts(const Sequences& x, std::int64_t* counts, const Parallel& parallel) {
  parallel(x.batch, [&](std::int64_t b) {
    const Tokens prediction{x.predictions + b * x.prediction_width, x.prediction_lengths[b]};
    const Tokens target{x.targets + b * x.target_width, x.target_lengths[b]};
    auto fits = [&](auto number) { return target.length < std::numeric_limits<decltype(number)>::max() / 2; };
    const auto count = fits(std::uint8_t())    ? &count_edits<std::uint8_t>
                       : fits(std::uint16_t()) ? &count_edits<std::uint16_t>
                                               : &count_edits<std::uint32_t>;
    count(prediction, target, counts + 3 * b);
  });
}

}  // namespace ISA
}  // namespace exportable_losses
