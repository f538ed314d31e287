// The core against textbook recursions, those of lattices in double-precision logarithms, on random shapes
// and hard values. Built and run by test_core.py, with sanitizers and for each instruction set.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "check.h"
#include "dispatch.h"
#include "edits.h"
#include "lattice.h"
#include "threads.h"

using namespace exportable_losses;
using std::int64_t;

namespace {

const double inf = std::numeric_limits<double>::infinity();

double log_add(double a, double b) {
  const double top = std::max(a, b);
  return top == -inf ? -inf : top + std::log(std::exp(a - top) + std::exp(b - top));
}

template <class Real>
struct Case {
  int64_t B, T, S, C, blank, rows;  // rows of classes in a frame: 1, or U+1
  std::vector<Real> scores;
  std::vector<int64_t> targets, input_lengths, target_lengths;

  Batch<Real> batch() const {
    return {scores.data(), B, T, C, S, T * rows * C, rows * C, targets.data(), S,
            input_lengths.data(), target_lengths.data(), blank};
  }
  double at(int64_t b, int64_t t, int64_t u, int64_t c) const { return scores[((b * T + t) * rows + u) * C + c]; }
  int64_t label(int64_t b, int64_t i) const { return targets[b * S + i]; }
};

template <class Real>
double ctc_cost(const Case<Real>& x, int64_t b) {
  const int64_t states = 2 * x.target_lengths[b] + 1;
  auto label = [&](int64_t s) { return s % 2 ? x.label(b, s / 2) : x.blank; };
  std::vector<double> alpha(states, -inf);
  alpha[0] = 0;
  for (int64_t t = 0; t < x.input_lengths[b]; ++t) {
    std::vector<double> next(states, -inf);
    for (int64_t s = 0; s < states; ++s) {
      double sum = alpha[s];
      if (s >= 1) sum = log_add(sum, alpha[s - 1]);
      if (s >= 2 && s % 2 && label(s) != label(s - 2)) sum = log_add(sum, alpha[s - 2]);
      next[s] = sum + x.at(b, t, 0, label(s));
    }
    alpha = next;
  }
  return -(states > 1 ? log_add(alpha[states - 1], alpha[states - 2]) : alpha[0]);
}

template <class Real>
double transducer_cost(const Case<Real>& x, int64_t b) {
  const int64_t T = x.input_lengths[b], U = x.target_lengths[b];
  if (T == 0) return U == 0 ? 0 : inf;
  auto log_prob = [&](int64_t t, int64_t u, int64_t c) {
    double sum = -inf;
    for (int64_t v = 0; v < x.C; ++v) sum = log_add(sum, x.at(b, t, u, v));
    return x.at(b, t, u, c) - sum;
  };
  std::vector<double> alpha((T + 1) * (U + 1), -inf);
  alpha[0] = 0;
  for (int64_t t = 0; t < T; ++t)
    for (int64_t u = 0; u <= U; ++u) {
      const double here = alpha[t * (U + 1) + u];
      double& below = alpha[(t + 1) * (U + 1) + u];
      below = log_add(below, here + log_prob(t, u, x.blank));
      if (u < U) {
        double& right = alpha[t * (U + 1) + u + 1];
        right = log_add(right, here + log_prob(t, u, x.label(b, u)));
      }
    }
  return -alpha[T * (U + 1) + U];
}

void demand(bool holds, const char* what, double got, double expected) {
  if (holds) return;
  std::printf("%s: got %.9g, expected %.9g\n", what, got, expected);
  std::exit(1);
}

template <class Real>
Case<Real> random_case(std::mt19937& random, bool transducer) {
  auto upto = [&](int64_t low, int64_t high) { return low + int64_t(random() % (high - low + 1)); };
  Case<Real> x{upto(1, 4), upto(1, 20), upto(0, 6), upto(2, 37), 0, 1, {}, {}, {}, {}};
  if (random() % 16 == 0) x.B = 2, x.T = upto(60, transducer ? 70 : 300), x.S = upto(10, 40);  // several blocks
  x.rows = transducer ? x.S + 1 : 1;
  x.blank = upto(0, x.C - 1);
  const double scale = std::vector<double>{1, 1, 10, 1e4}[random() % 4];
  std::normal_distribution<double> normal(0, scale);
  x.scores.resize(x.B * x.T * x.rows * x.C);
  for (auto& value : x.scores) value = Real(random() % 50 ? normal(random) : -inf);
  for (size_t i = x.blank; i < x.scores.size(); i += x.C)
    if (std::isinf(x.scores[i])) x.scores[i] = 0;  // a row of zeros alone has no softmax
  if (!transducer) {
    for (size_t row = 0; row < x.scores.size(); row += x.C) {
      double sum = -inf;
      for (int64_t c = 0; c < x.C; ++c) sum = log_add(sum, x.scores[row + c]);
      for (int64_t c = 0; c < x.C; ++c) x.scores[row + c] = Real(x.scores[row + c] - sum);
    }
  }
  for (int64_t i = 0; i < x.B * x.S; ++i) x.targets.push_back((x.blank + upto(1, x.C - 1)) % x.C);
  for (int64_t b = 0; b < x.B; ++b) {
    x.input_lengths.push_back(upto(0, x.T));
    x.target_lengths.push_back(upto(0, x.S));
  }
  return x;
}

template <class Real>
void check(std::mt19937& random, bool transducer, const Parallel& parallel) {
  Case<Real> x = random_case<Real>(random, transducer);
  const auto loss = transducer ? exportable_losses::transducer<Real> : ctc<Real>;
  const char* name = transducer ? "transducer cost" : "ctc cost";
  demand(what_is_wrong(x.batch()).empty(), "a legal batch is refused", 0, 0);
  std::vector<Real> costs(x.B), again(x.B), grad(x.scores.size(), Real(7));
  loss(x.batch(), nullptr, costs.data(), nullptr, parallel);
  loss(x.batch(), nullptr, again.data(), grad.data(), parallel);
  const double eps = sizeof(Real) == 4 ? 3e-6 : 1e-12;
  for (int64_t b = 0; b < x.B; ++b) {
    const double expected = transducer ? transducer_cost(x, b) : ctc_cost(x, b);
    const double allowed = eps * (10 + std::fabs(expected) + x.T);
    demand(costs[b] == expected || std::fabs(costs[b] - expected) <= allowed, name, costs[b], expected);
    demand(again[b] == costs[b] || std::fabs(again[b] - costs[b]) <= allowed, "cost with gradient", again[b], costs[b]);
  }
  // Logits only matter up to a constant, so a gradient in them sums to zero along each row; so does
  // torch's gradient of CTC, whose rows hold exp(log_probs) minus an occupation that is one in all.
  for (size_t row = 0; row < grad.size(); row += x.C) {
    double sum = 0;
    for (int64_t c = 0; c < x.C; ++c) {
      demand(std::isfinite(grad[row + c]) && std::fabs(grad[row + c]) <= 1 + 1e-4, "gradient", grad[row + c], 0);
      sum += grad[row + c];
    }
    demand(std::fabs(sum) < (sizeof(Real) == 4 ? 1e-4 : 1e-9), "sum of a row of the gradient", sum, 0);
  }
}

// Whatever one item holds, nothing undefined happens (the sanitizers see to that), the other items are
// computed as before, and a NaN that an item reads is in its cost.
template <class Real>
void check_spoiled(std::mt19937& random, bool transducer, const Parallel& parallel) {
  const Real bad[] = {std::numeric_limits<Real>::quiet_NaN(), Real(inf),
                      Real(-inf),                             std::numeric_limits<Real>::max(),
                      std::numeric_limits<Real>::lowest(),    std::numeric_limits<Real>::denorm_min()};
  const auto loss = transducer ? exportable_losses::transducer<Real> : ctc<Real>;
  Case<Real> x = random_case<Real>(random, transducer);
  std::vector<Real> weights(x.B, Real(1)), costs(x.B), grad(x.scores.size()), spoiled(x.B), ignored(x.scores.size());
  loss(x.batch(), weights.data(), costs.data(), grad.data(), parallel);
  const int64_t item = x.scores.size() / x.B;
  const bool nan_alone = random() % 2;
  for (int64_t i = 0; i < item; ++i)
    if (nan_alone || random() % 4 == 0) x.scores[i] = bad[nan_alone ? 0 : random() % 6];
  weights[0] = bad[random() % 6];
  loss(x.batch(), weights.data(), spoiled.data(), ignored.data(), parallel);
  for (int64_t b = 1; b < x.B; ++b) {
    demand(spoiled[b] == costs[b], "the cost of an item beside a spoiled one", spoiled[b], costs[b]);
    for (int64_t i = b * item; i < (b + 1) * item; ++i)
      demand(ignored[i] == grad[i], "the gradient of an item beside a spoiled one", ignored[i], grad[i]);
  }
  // more labels than frames have no alignment, whatever the scores
  if (nan_alone && x.input_lengths[0] > 2 * x.target_lengths[0])
    demand(std::isnan(spoiled[0]), "the cost of NaNs", spoiled[0], NAN);
}

double decoded(bfloat16 x) {
  const int exponent = x.bits >> 7 & 0xff, fraction = x.bits & 0x7f;
  if (exponent == 0xff) return fraction ? NAN : x.bits >> 15 ? -inf : inf;
  const double size = exponent ? std::ldexp(128 + fraction, exponent - 134) : std::ldexp(fraction, -133);
  return x.bits >> 15 ? -size : size;
}
double decoded(float16 x) {
  const int exponent = x.bits >> 10 & 0x1f, fraction = x.bits & 0x3ff;
  if (exponent == 0x1f) return fraction ? NAN : x.bits >> 15 ? -inf : inf;
  const double size = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
  return x.bits >> 15 ? -size : size;
}

// Scores of 16 bits, any that there are: float's costs of the same numbers, and its gradient rounded once.
template <class Half>
void check_halves(std::mt19937& random, bool transducer, const Parallel& parallel) {
  Case<float> x = random_case<float>(random, transducer);
  std::vector<Half> halves;
  const bool any = random() % 4 == 0;  // NaN and infinities among them; else below 8 by size, and negative for CTC
  const int most = std::is_same<Half, float16>::value ? 0x4800 : 0x4100;
  for (size_t i = 0; i < x.scores.size(); ++i) {
    const auto bits = any ? random() : random() % most | (transducer ? random() % 2 << 15 : 1 << 15);
    halves.push_back(Half{static_cast<std::uint16_t>(bits)});
    x.scores[i] = static_cast<float>(decoded(halves[i]));
  }
  const auto batch = x.batch();
  const Batch<Half> narrow{halves.data(),     batch.batch,  batch.frames,        batch.classes,
                           batch.labels,      batch.item_stride, batch.frame_stride, batch.targets,
                           batch.target_stride, batch.input_lengths, batch.target_lengths, batch.blank};
  std::vector<float> costs(x.B), expected(x.B), slopes(x.scores.size());
  std::vector<Half> grad(x.scores.size());
  const auto loss = transducer ? exportable_losses::transducer<float> : ctc<float>;
  const auto half_loss = transducer ? exportable_losses::transducer<Half> : ctc<Half>;
  loss(batch, nullptr, expected.data(), slopes.data(), parallel);
  half_loss(narrow, nullptr, costs.data(), grad.data(), parallel);
  auto near = [](double a, double b, double allowed) {
    return a == b || (std::isnan(a) && std::isnan(b)) || std::fabs(a - b) <= allowed;
  };
  for (int64_t b = 0; b < x.B; ++b)
    demand(near(costs[b], expected[b], 3e-6 * (10 + std::fabs(expected[b]) + x.T)), "cost of halves", costs[b], expected[b]);
  const double unit = std::is_same<Half, float16>::value ? 1.0 / 2048 : 1.0 / 256;
  if (any) return;  // what is no log-probability has no slope that means anything
  for (size_t i = 0; i < grad.size(); ++i)
    demand(near(decoded(grad[i]), slopes[i], unit * std::fabs(slopes[i]) + 1e-5), "gradient of halves", decoded(grad[i]),
           slopes[i]);
}

// The numbers of an item do not hang on how many threads there are.
template <class Real>
void check_threads(const Case<Real>& x, bool transducer) {
  const auto loss = transducer ? exportable_losses::transducer<Real> : ctc<Real>;
  std::vector<Real> costs(x.B), grad(x.scores.size()), costs_1(x.B), grad_1(x.scores.size());
  loss(x.batch(), nullptr, costs_1.data(), grad_1.data(), on_threads(1));
  for (int threads : {0, 2, 4, 9}) {
    loss(x.batch(), nullptr, costs.data(), grad.data(), on_threads(threads));
    demand(costs == costs_1 && grad == grad_1, "threads with the numbers of one", 0, threads);
  }
}

// A single item, large enough for threads of its own.
template <class Real>
Case<Real> one_long_item(std::mt19937& random) {
  Case<Real> x{1, 1100, 40, 7, 3, 1, {}, std::vector<int64_t>(40, 1), {1099}, {39}};
  for (int64_t i = 0; i < x.T * x.C; ++i) x.scores.push_back(Real(random() % 97) / -32);
  return x;
}

using Tokens = std::vector<int64_t>;

// Edits and gaps of the table's last cell: the fewest of the first, then of the second.
std::pair<int64_t, int64_t> edits_and_gaps(const Tokens& a, const Tokens& b) {
  std::vector<std::pair<int64_t, int64_t>> row;
  for (size_t j = 0; j <= b.size(); ++j) row.push_back({j, j});
  for (size_t i = 1; i <= a.size(); ++i) {
    auto diagonal = row[0];
    row[0] = {i, i};
    for (size_t j = 1; j <= b.size(); ++j) {
      const auto gap = std::min(row[j], row[j - 1]);
      diagonal.first += a[i - 1] != b[j - 1];
      const auto best = std::min(diagonal, {gap.first + 1, gap.second + 1});
      diagonal = row[j];
      row[j] = best;
    }
  }
  return row.back();
}

// Lengths from 0 to 400, over few tokens or many: those that stand anywhere in 64 bits too. Half of the
// predictions are independent, half the target some places on and with noise: gaps on both sides.
void check_edits(std::mt19937& random, const Parallel& parallel) {
  const int64_t longest = std::vector<int64_t>{3, 20, 130, 400}[random() % 4];
  const int64_t different = std::vector<int64_t>{2, 40, 999}[random() % 3];
  const bool wild = random() % 3 == 0, alike = random() % 2;
  const int64_t B = random() % 4, K = random() % (longest + 1), S = alike ? K : random() % (longest + 1);
  auto draw = [&] {
    const int64_t token = random() % different;
    return wild ? int64_t(token * 0x5851F42D4C957F2Du) : token;
  };
  Tokens predictions(B * K), targets(B * S), prediction_lengths(B), target_lengths(B), counts(3 * B, -1);
  for (auto& token : targets) token = draw();
  for (int64_t i = 0; i < B * K; ++i) predictions[i] = alike && random() % 9 ? targets[(i + i / K) % (B * S)] : draw();
  for (auto& length : prediction_lengths) length = random() % 4 ? K : random() % (K + 1);
  for (auto& length : target_lengths) length = random() % 4 ? S : random() % (S + 1);
  const Sequences sequences{predictions.data(),    targets.data(), prediction_lengths.data(),
                            target_lengths.data(), B,              K,
                            S};
  demand(what_is_wrong(sequences).empty(), "legal sequences are refused", 0, 0);
  edit_counts(sequences, counts.data(), parallel);
  for (int64_t b = 0; b < B; ++b) {
    const auto prediction = predictions.begin() + b * K, target = targets.begin() + b * S;
    const auto expected = edits_and_gaps({prediction, prediction + prediction_lengths[b]},
                                         {target, target + target_lengths[b]});
    const int64_t insertions = counts[3 * b], deletions = counts[3 * b + 1], substitutions = counts[3 * b + 2];
    demand(insertions + deletions + substitutions == expected.first, "edits",
           insertions + deletions + substitutions, expected.first);
    demand(insertions + deletions == expected.second, "gaps", insertions + deletions, expected.second);
    demand(insertions - deletions == prediction_lengths[b] - target_lengths[b], "insertions less deletions",
           insertions - deletions, prediction_lengths[b] - target_lengths[b]);
  }
}

// What one of the threads throws comes to the caller, whatever it is.
template <class Error>
void check_error(const Error& error) {
  for (const int threads : {1, 3}) {
    bool caught = false;
    try {
      on_threads(threads)(100, [&](int64_t i) {
        if (i == 57) throw error;
      });
    } catch (const Error& found) {
      caught = std::string(found.what()) == error.what();
    }
    demand(caught, "an error of a thread", threads, 0);
  }
}

void check_instruction_sets() {
  auto expect = [](const char* wanted, Isa most, Isa expected) {
    demand(chosen(wanted, most) == expected, "instruction set", double(chosen(wanted, most)), double(expected));
  };
  for (const Isa most : {Isa::baseline, Isa::avx2, Isa::avx512}) {
    expect("baseline", most, Isa::baseline);
    expect("avx2", most, std::min(most, Isa::avx2));
    for (const char* wanted : {static_cast<const char*>(nullptr), "", "avx512"}) expect(wanted, most, most);
    for (const char* wanted : {"AVX2", "sse9", " "}) {
      bool refused = false;
      try {
        chosen(wanted, most);
      } catch (const std::invalid_argument&) {
        refused = true;
      }
      demand(refused, "an instruction set that there is not", 0, 1);
    }
  }
}

}  // namespace

int main(int arguments, char** argument) {
  std::mt19937 random(20);
  const int rounds = arguments > 1 ? std::atoi(argument[1]) : 300;
  for (int round = 0; round < rounds; ++round) {
    const Parallel parallel = on_threads(1 + round % 3);
    check_edits(random, parallel);
    for (bool transducer : {false, true}) {
      check<float>(random, transducer, parallel);
      check<double>(random, transducer, parallel);
      check_spoiled<float>(random, transducer, parallel);
      check_spoiled<double>(random, transducer, parallel);
      check_halves<bfloat16>(random, transducer, parallel);
      check_halves<float16>(random, transducer, parallel);
      if (round % 10) continue;
      check_threads(random_case<float>(random, transducer), transducer);
      check_threads(random_case<double>(random, transducer), transducer);
    }
  }
  check_threads(one_long_item<float>(random), false);
  check_threads(one_long_item<double>(random), false);
  check_error(std::bad_alloc());
  check_error(std::runtime_error("it does not go on"));
  check_instruction_sets();
  std::printf("core: %d rounds agree (%s)\n", rounds, instruction_set());
}
