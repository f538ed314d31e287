// The core against a textbook recursion in double-precision logarithms, on random shapes and hard
// values. Built with sanitizers by test_core.py.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
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
    const double allowed = eps * (10 + std::fabs(expected) + x.T * (sizeof(Real) == 4 ? 1 : 1));
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

void check_refusals() {
  std::mt19937 random(1);
  auto refused = [&](auto spoil, const char* name) {
    Case<float> x = random_case<float>(random, false);
    while (x.S == 0) x = random_case<float>(random, false);
    x.target_lengths[0] = x.S;
    spoil(x);
    const std::string message = what_is_wrong(x.batch());
    demand(message.rfind(name, 0) == 0, name, 0, 0);
  };
  refused([](Case<float>& x) { x.blank = x.C; }, "blank_index");
  refused([](Case<float>& x) { x.input_lengths[0] = x.T + 1; }, "input_lengths");
  refused([](Case<float>& x) { x.target_lengths[0] = -1; }, "target_lengths");
  refused([](Case<float>& x) { x.targets[0] = x.C; }, "targets");
}

void check_exceptions() {
  for (int threads : {1, 3}) {
    std::int64_t caught = -1;
    try {
      on_threads(threads)(100, [](std::int64_t i) {
        if (i == 7) throw i;
      });
    } catch (std::int64_t i) {
      caught = i;
    }
    demand(caught == 7, "what a thread throws", caught, 7);
  }
}

}  // namespace

int main() {
  std::mt19937 random(20);
  for (int round = 0; round < 300; ++round) {
    const Parallel parallel = on_threads(1 + round % 3);
    for (bool transducer : {false, true}) {
      check<float>(random, transducer, parallel);
      check<double>(random, transducer, parallel);
    }
  }
  check_refusals();
  check_exceptions();
  std::printf("core: 1200 batches agree (%s)\n", instruction_set());
}
