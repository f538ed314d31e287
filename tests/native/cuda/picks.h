// A few classes of rows: the kernels of picked.cuh, emulated, beside the CPU core. Part of emulated.cc.
#pragma once

#include "guarded.h"

namespace {

// Rows of any alignment; some classes are out of range, and some rows want none. The core's answer is in float64.
template <class Score>
struct Picking {
  int64_t rows, classes, stride, kinds;
  Guarded<Score> scores;
  Guarded<int64_t> picked;
  Guarded<Computed<Score>> grad;
  std::vector<double> log_probs, slopes;

  Picking(Random& random, bool at_end, int64_t gap)
      : rows(between(random, 1, 70)),
        classes(between(random, 0, 3) ? between(random, 1, 40) : between(random, 400, 1100)),
        stride(classes + gap),
        kinds(between(random, 0, 5) ? between(random, 1, 3) : between(random, 30, 70)),
        scores((rows - 1) * stride + classes, at_end, Score{}, between(random, 0, 3)),
        picked(rows * kinds, at_end, -1),
        grad(rows * kinds, at_end, Computed<Score>(0)),
        log_probs(rows * kinds),
        slopes(scores.size()) {
    std::vector<double> wide(scores.size()), weights(rows * kinds);
    std::vector<int64_t> known(rows * kinds, -1);
    for (size_t i = 0; i < wide.size(); ++i) {
      narrow_to(scores[i], Computed<Score>(std::normal_distribution<double>(0, 3)(random)));
      slopes[i] = wide[i] = widened(scores[i]);
    }
    for (int64_t n = 0; n < rows; ++n) {
      const bool nothing = between(random, 0, 5) == 0, weightless = between(random, 0, 5) == 0;
      for (int64_t i = n * kinds; i < (n + 1) * kinds; ++i) {
        if (!weightless) weights[i] = grad[i] = Computed<Score>(between(random, -8, 8)) / 4;
        const int64_t illegal[] = {-1, -2, classes, INT64_MAX, INT64_MIN, int64_t(1) << 32};
        if (nothing || between(random, 0, 5) == 0)
          picked[i] = illegal[between(random, 0, 5)];
        else
          known[i] = picked[i] = between(random, 0, classes - 1);
      }
      if (nothing)  // it is not read
        for (int64_t v = 0; v < classes; ++v) narrow_to(scores[n * stride + v], Computed<Score>(NAN));
    }
    const exportable_losses_picks given = {wide.data(), rows, classes, stride, known.data(), kinds};
    const char* wrong = exportable_losses_pick_double(&given, nullptr, log_probs.data(), 1);
    if (!wrong) wrong = exportable_losses_pick_double(&given, weights.data(), slopes.data(), 1);
    if (wrong) printf("the core refused: %s\n", wrong), exit(1);
  }
};

template <class Score, class Door>
void check_pick(uint64_t seed, Door door, const char* type, double close) {
  using Real = Computed<Score>;
  Random random(seed);
  const bool at_end = between(random, 0, 1), in_place = between(random, 0, 1);
  Picking<Score> p(random, at_end, between(random, 0, 1) ? 0 : between(random, 1, 5));
  const exportable_losses_picks given = {p.scores.get(), p.rows, p.classes, p.stride, p.picked.get(), p.kinds};
  auto expect = [&](const char* what, double got, double expected, double allowed) {
    if (got == expected || std::fabs(got - expected) <= allowed) return;
    if (++failures <= 10)
      printf("pick %s N=%ld V=%ld K=%ld stride=%ld at_end=%d in_place=%d: %s is %.9g, expected %.9g\n", type,
             long(p.rows), long(p.classes), long(p.kinds), long(p.stride), at_end, in_place, what, got, expected);
  };
  Guarded<Real> found(p.rows * p.kinds, at_end, Real(NAN)), workspace(p.rows * p.kinds, at_end, Real(NAN));
  if (const char* wrong = door(&given, nullptr, found.get(), nullptr, nullptr)) expect(wrong, NAN, 0, 0);
  for (size_t i = 0; i < found.size(); ++i) expect("log_probs", found[i], p.log_probs[i], 30 * close);
  Guarded<Score> apart(p.scores.size(), at_end, Score{}, between(random, 0, 3));
  const std::vector<Score> before(p.scores.get(), p.scores.get() + p.scores.size());
  Score* out = in_place ? p.scores.get() : apart.get();
  if (const char* wrong = door(&given, p.grad.get(), out, workspace.get(), nullptr)) expect(wrong, NAN, 0, 0);
  const double rounding = std::is_same<Score, Real>::value ? 0 : std::is_same<Score, float16>::value ? 0x1p-11 : 0x1p-8;
  for (size_t i = 0; i < before.size(); ++i) {
    const bool between_rows = int64_t(i) % p.stride >= p.classes;
    const double expected = !between_rows ? p.slopes[i] : in_place ? widened(before[i]) : 0;
    expect("grad", widened(out[i]), expected, 30 * p.kinds * close + rounding * std::fabs(expected));
  }
}

// Rows whose places need more than 32 bits. The pages between them are never touched.
void check_far_rows() {
  const int64_t stride = (int64_t(1) << 31) + 3, bytes = (2 * stride + 2) * sizeof(float);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) abort();
  float *scores = static_cast<float*>(memory), grad[3] = {1, 1, 1}, log_probs[3], workspace[3];
  int64_t picked[3] = {0, 1, 0};
  const exportable_losses_picks given = {scores, 3, 2, stride, picked, 1};
  scores[2 * stride] = 50;
  exportable_losses_cuda_pick_float(&given, nullptr, log_probs, nullptr, nullptr);
  if (log_probs[2] != 0 || std::fabs(log_probs[1] + 0.693147f) > 1e-6f) ++failures, puts("a far row has other scores");
  exportable_losses_cuda_pick_float(&given, grad, scores, workspace, nullptr);
  if (scores[stride] != -0.5f || scores[stride + 1] != 0.5f || scores[2 * stride] != 0)
    ++failures, puts("a far row has another gradient");
  munmap(memory, bytes);
}

// More rows than a grid has teams: one block takes all.
void check_rounds() {
  constexpr int rows = 3 * row_threads;
  std::vector<float> scores(2 * rows), grad(rows, 1), found(rows, NAN), workspace(rows, NAN);
  const std::vector<int64_t> picked(rows, 0);
  for (int n = 0; n < rows; ++n) scores[2 * n] = 30 * (n % 2);
  const Picks x{rows, 2, 2, picked.data(), 1};
  launch_rows(pick_log_probs<float>, 1, 1, 4, nullptr, scores.data(), x, found.data());
  launch_rows(pick_gradient<float>, 1, 1, 4, nullptr, scores.data(), x, grad.data(), scores.data(), workspace.data());
  for (int n = 0; n < rows; ++n)
    if (std::fabs(found[n] + (n % 2 ? 0 : 0.693147f)) > 1e-6f || std::fabs(scores[2 * n] - (n % 2 ? 0 : 0.5f)) > 1e-6f)
      ++failures, printf("row %d of one block is not computed\n", n);
}

// What the door refuses, and rows of nothing.
void check_pick_door() {
  float scores[4] = {0, 0, 0, 0}, out[4], grad[1] = {1}, workspace[1];
  int64_t picked[1] = {0};
  const exportable_losses_picks good = {scores, 1, 4, 4, picked, 1};
  auto expect = [&](const exportable_losses_picks& picks, const char* expected, const float* weights = nullptr,
                    float* to = nullptr, float* room = nullptr) {
    const char* got = exportable_losses_cuda_pick_float(&picks, weights, to, room, nullptr);
    if (std::string(got ? got : "") != expected) ++failures, printf("got \"%s\", expected \"%s\"\n", got, expected);
  };
  using P = exportable_losses_picks;
  auto with = [&](int64_t P::*field, int64_t value) {
    P picks = good;
    picks.*field = value;
    return picks;
  };
  expect(good, "", nullptr, out);
  expect(good, "", grad, out, workspace);
  expect(with(&P::rows, 0), "");
  expect(with(&P::kinds, 0), "");
  expect(with(&P::classes, 0), "", grad);
  expect(good, "out: got null, expected an array");
  expect(good, "workspace: got null", grad, out);
  expect({nullptr, 1, 4, 4, picked, 1}, "scores: got null, expected an array", nullptr, out);
  expect({scores, 1, 4, 4, nullptr, 1}, "picked: got null, expected an array", nullptr, out);
  expect(with(&P::rows, -1), "rows: got -1, expected a number in [0, 288230376151711743]");
  expect(with(&P::classes, -1), "classes: got -1, expected a number in [0, 1073741823]");
  expect(with(&P::row_stride, -1), "row_stride: got -1, expected a number in [0, 1152921504606846975]");
  expect(with(&P::kinds, -1), "kinds: got -1, expected a number in [0, 1152921504606846975]");
}

}  // namespace
