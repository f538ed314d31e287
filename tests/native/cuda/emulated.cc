// The CUDA kernels, run on the CPU (host_emulation/cuda_runtime.h), beside the CPU core.
//
//     emulated [cases] [seed]
//
// Every array is of its exact size and stands against a page that must not be touched, at its end or
// at its beginning, and every array that is written begins as NaN. float32 is held to the core's
// float64 on the same numbers.
#include "../../../exportable_losses/csrc/cuda/cuda_api.cu"

#include "guarded.h"
#include "picks.h"

namespace {

struct Shape {
  int64_t batch, frames, classes, labels, blank;
  bool ctc, with_grad, strided, at_end, weighted, full;
  int scores_lead, grad_lead;  // how far the arrays are from sixteen bytes
  int scores;  // 0: usual; 1: +-1e4; 2: some -inf; 3: few classes are likely; 4: some NaN
  int labels_kind;  // 0: any; 1: all the same; 2: one out of range; 3: lengths out of range; 4: some are the blank
};

Shape random_shape(Random& random) {
  Shape s;
  s.ctc = between(random, 0, 1), s.with_grad = between(random, 0, 5) > 0;
  s.strided = between(random, 0, 3) == 0, s.at_end = between(random, 0, 1), s.weighted = between(random, 0, 1);
  s.full = between(random, 0, 4) == 0;
  s.batch = between(random, 1, 3);
  s.scores_lead = between(random, 0, 2) ? 0 : between(random, 1, 3);
  s.grad_lead = between(random, 0, 2) ? 0 : between(random, 1, 3);
  s.frames = between(random, 0, 9) == 0 ? between(random, 0, 2) : between(random, 1, s.ctc ? 40 : 14);
  s.labels = between(random, 0, 7) == 0 ? 0 : between(random, 1, s.ctc ? 24 : 9);
  s.classes = between(random, 2, 12);
  if (between(random, 0, 2) == 0) s.classes = 4 * between(random, 1, 12);
  if (between(random, 0, 7) == 0) s.classes = between(random, 120, 1100);
  if (between(random, 0, 9) == 0) s.labels = between(random, 30, 100);  // several warps
  s.blank = between(random, 0, 2) ? 0 : between(random, 0, s.classes - 1);
  s.scores = between(random, 0, 4), s.labels_kind = between(random, 0, 4);
  return s;
}

double random_score(Random& random, const Shape& s) {
  const double x = std::normal_distribution<double>(0, 2)(random);
  if (s.scores == 1) return between(random, 0, 1) ? 1e4 : -1e4;
  if (s.scores == 2 && between(random, 0, 4) == 0) return -INFINITY;
  if (s.scores == 4 && between(random, 0, 99) == 0) return NAN;
  return s.scores == 3 ? 20 * x : x;
}

template <class Real>
struct Problem {
  Shape s;
  int64_t row, frame_stride, item_stride, target_stride;
  Guarded<Real> scores, grad_costs;
  Guarded<int64_t> targets, input_lengths, target_lengths;

  Problem(Random& random, const Shape& s)
      : s(s),
        row(s.ctc ? s.classes : (s.labels + 1) * s.classes),
        frame_stride(row + (s.strided ? between(random, 1, 5) : 0)),
        item_stride(s.frames * frame_stride + (s.strided ? between(random, 0, 3) : 0)),
        target_stride(s.labels + (s.strided ? 2 : 0)),
        scores(s.batch * item_stride, s.at_end, Real(NAN), s.scores_lead),
        grad_costs(s.batch, s.at_end, Real(1)),
        targets(s.batch * target_stride, s.at_end, -7),
        input_lengths(s.batch, s.at_end, 0),
        target_lengths(s.batch, s.at_end, 0) {
    for (int64_t b = 0; b < s.batch; ++b) {
      const bool full = s.full || between(random, 0, 3) == 0;
      const int64_t frames = full ? s.frames : between(random, 0, s.frames);
      int64_t labels = full ? s.labels : between(random, 0, s.labels);
      if (s.ctc && !s.full && labels > frames && between(random, 0, 3)) labels = frames / 2;  // or it is impossible
      input_lengths[b] = frames, target_lengths[b] = labels;
      if (s.weighted) grad_costs[b] = Real(between(random, -8, 8)) / 4;
      // what lies behind an item's lengths stays NaN, and its labels out of range
      for (int64_t t = 0; t < frames; ++t)
        for (int64_t u = 0; u < (s.ctc ? 1 : labels + 1); ++u) fill_row(random, b, t, u);
      int64_t same = any_label(random);
      for (int64_t i = 0; i < labels; ++i)
        targets[b * target_stride + i] = s.labels_kind == 1 ? same : any_label(random);
    }
    if (s.labels_kind == 3 && s.strided == 0 && s.labels > 0)
      for (int64_t b = 0; b < s.batch; ++b) out_of_range(random, b);
  }

  int64_t any_label(Random& random) {
    const bool may_be_blank = s.labels_kind == 4;
    int64_t label;
    do label = between(random, 0, s.classes - 1);
    while (label == s.blank && !may_be_blank);
    return label;
  }
  void fill_row(Random& random, int64_t b, int64_t t, int64_t u) {
    Real* x = scores.get() + b * item_stride + t * frame_stride + u * s.classes;
    double top = -INFINITY, sum = 0;
    for (int64_t v = 0; v < s.classes; ++v) x[v] = Real(random_score(random, s)), top = fmax(top, double(x[v]));
    if (std::isinf(top)) x[0] = Real(top = 0);
    if (!s.ctc) return;
    for (int64_t v = 0; v < s.classes; ++v) sum += exp(double(x[v]) - top);
    for (int64_t v = 0; v < s.classes; ++v) x[v] = Real(double(x[v]) - top - log(sum));
  }
  // Lengths beyond their sizes mean the sizes: everything must be there then.
  void out_of_range(Random& random, int64_t b) {
    for (int64_t t = 0; t < s.frames; ++t)
      for (int64_t u = 0; u < (s.ctc ? 1 : s.labels + 1); ++u) fill_row(random, b, t, u);
    for (int64_t i = 0; i < s.labels; ++i) targets[b * target_stride + i] = any_label(random);
    input_lengths[b] = between(random, 0, 3) ? s.frames + between(random, 0, 5) : -between(random, 1, 5);
    target_lengths[b] = between(random, 0, 1) ? INT64_MAX - 3 : -between(random, 1, 5);
  }

  // A NaN that no path avoids. (With others too nothing is read or written outside of the arrays.)
  bool must_be_nan(int64_t b) {
    const int64_t frames = clamped(input_lengths[b], s.frames), labels = clamped(target_lengths[b], s.labels);
    for (int64_t t = 0; t < frames; ++t) {
      const Real* x = scores.get() + b * item_stride + t * frame_stride;
      if (s.ctc ? std::isnan(x[s.blank])
                : std::any_of(x, x + (labels + 1) * s.classes, [](Real y) { return std::isnan(y); }))
        return true;
    }
    return false;
  }

  exportable_losses_batch batch() {
    return {scores.get(), s.batch, s.frames, s.classes, s.labels, item_stride, frame_stride, targets.get(),
            target_stride, input_lengths.get(), target_lengths.get(), s.blank};
  }
};

// The core's answer in float64, for what it accepts: lengths are cut to their sizes for it.
template <class Real>
void reference(Problem<Real>& p, std::vector<double>& costs, std::vector<double>& grad) {
  const Shape& s = p.s;
  std::vector<double> scores(p.scores.get(), p.scores.get() + p.scores.size());
  std::vector<double> weights(p.grad_costs.get(), p.grad_costs.get() + s.batch);
  std::vector<int64_t> frames(s.batch), labels(s.batch);
  for (int64_t b = 0; b < s.batch; ++b) {
    frames[b] = std::max<int64_t>(0, std::min(p.input_lengths[b], s.frames));
    labels[b] = std::max<int64_t>(0, std::min(p.target_lengths[b], s.labels));
  }
  exportable_losses_batch batch = p.batch();
  batch.scores = scores.data(), batch.input_lengths = frames.data(), batch.target_lengths = labels.data();
  auto loss = s.ctc ? &exportable_losses_ctc_double : &exportable_losses_transducer_double;
  if (const char* wrong = loss(&batch, weights.data(), costs.data(), grad.data(), 1)) {
    printf("the core refused: %s\n", wrong);
    exit(1);
  }
}

int possible = 0, impossible = 0;
double worst_cost = 0, worst_grad = 0;  // of float32, relative to what is allowed

void report(const Shape& s, const char* type, const char* what, int64_t at, double got, double expected) {
  if (++failures > 10) return;
  printf("%s %s B=%ld T=%ld C=%ld U=%ld blank=%ld grad=%d strided=%d at_end=%d scores=%d labels=%d: %s[%ld] is %.9g, "
         "expected %.9g\n",
         s.ctc ? "ctc" : "transducer", type, long(s.batch), long(s.frames), long(s.classes), long(s.labels),
         long(s.blank), s.with_grad, s.strided, s.at_end, s.scores, s.labels_kind, what, long(at), got, expected);
}

bool differs(double got, double expected, double allowed, double& worst) {
  if (got == expected) return false;
  const double ratio = std::fabs(got - expected) / allowed;
  if (!(ratio <= 1)) return true;
  worst = std::max(worst, ratio);
  return false;
}

const char* door(const exportable_losses_batch* batch, bool ctc, const float* weights, float* costs, float* grad,
                 void* workspace) {
  auto loss = ctc ? &exportable_losses_cuda_ctc_float : &exportable_losses_cuda_transducer_float;
  return loss(batch, weights, costs, grad, workspace, nullptr);
}
const char* door(const exportable_losses_batch* batch, bool ctc, const double* weights, double* costs, double* grad,
                 void* workspace) {
  auto loss = ctc ? &exportable_losses_cuda_ctc_double : &exportable_losses_cuda_transducer_double;
  return loss(batch, weights, costs, grad, workspace, nullptr);
}

template <class Real>
void check(Random& random, const Shape& s, const char* type) {
  Problem<Real> p(random, s);
  std::vector<double> expected_costs(s.batch), expected_grad(s.batch * s.frames * p.row);
  if (s.scores != 4) reference(p, expected_costs, expected_grad);
  if (s.labels_kind == 2) {  // a label that is no class: a cost without end, and no gradient
    const int64_t b = between(random, 0, s.batch - 1), labels = p.target_lengths[b];
    if (labels > 0) {
      const int64_t wrong[] = {-1, s.classes, INT64_MAX, INT64_MIN, int64_t(1) << 32};
      p.targets[b * p.target_stride + between(random, 0, labels - 1)] = wrong[between(random, 0, 4)];
      expected_costs[b] = INFINITY;
      const int64_t item = s.frames * p.row;
      std::fill(expected_grad.begin() + b * item, expected_grad.begin() + (b + 1) * item, 0.0);
    }
  }
  auto bytes = s.ctc ? &exportable_losses_cuda_ctc_workspace : &exportable_losses_cuda_transducer_workspace;
  const int64_t size = bytes(s.batch, s.frames, s.labels, sizeof(Real), s.with_grad);
  Guarded<unsigned char> workspace(size, s.at_end, 0xff);
  Guarded<Real> costs(s.batch, s.at_end, Real(NAN));
  Guarded<Real> grad(s.with_grad ? s.batch * s.frames * p.row : 0, s.at_end, Real(NAN), s.grad_lead);
  const exportable_losses_batch batch = p.batch();
  if (const char* wrong = door(&batch, s.ctc, s.weighted ? p.grad_costs.get() : nullptr, costs.get(),
                               s.with_grad ? grad.get() : nullptr, workspace.get())) {
    report(s, type, wrong, 0, 0, 0);
    return;
  }
  const bool single = sizeof(Real) == 4;
  double unused = 0;
  if (s.scores == 4) {
    for (int64_t b = 0; b < s.batch; ++b)
      if (p.must_be_nan(b) && !std::isnan(costs[b])) report(s, type, "costs", b, costs[b], NAN);
    return;
  }
  for (int64_t b = 0; b < s.batch; ++b) {
    ++(std::isinf(expected_costs[b]) ? impossible : possible);
    const double steps = double(s.frames + s.labels + 1);
    const double allowed = single ? 1e-7 * std::fabs(expected_costs[b]) + 3e-7 * steps
                                  : 1e-15 * std::fabs(expected_costs[b]) + 1e-15 * steps;
    if (differs(costs[b], expected_costs[b], allowed, single ? worst_cost : unused))
      report(s, type, "costs", b, costs[b], expected_costs[b]);
  }
  for (size_t i = 0; i < grad.size(); ++i)
    if (differs(grad[i], expected_grad[i], (single ? 1e-7 : 1e-14) * (20 + 2 * s.frames), single ? worst_grad : unused))
      report(s, type, "grad", i, grad[i], expected_grad[i]);
}

void check_both(Random& random, const Shape& s) {
  check<float>(random, s, "float32");
  check<double>(random, s, "float64");
}

// Sizes that the door refuses, and a batch of nothing.
void check_door() {
  int64_t lengths[1] = {1};
  float scores[4] = {0, 0, 0, 0}, costs[1];
  alignas(16) char workspace[512];
  exportable_losses_batch good = {scores, 1, 1, 4, 0, 4, 4, nullptr, 0, lengths, lengths, 0};
  auto expect = [&](const exportable_losses_batch& batch, void* memory, const char* expected) {
    const char* got = exportable_losses_cuda_ctc_float(&batch, nullptr, costs, nullptr, memory, nullptr);
    if (std::string(got ? got : "") != expected) ++failures, printf("got \"%s\", expected \"%s\"\n", got, expected);
  };
  auto with = [&](int64_t exportable_losses_batch::*field, int64_t value) {
    exportable_losses_batch batch = good;
    batch.*field = value;
    return batch;
  };
  using B = exportable_losses_batch;
  expect(good, workspace, "");
  expect(with(&B::batch, 0), workspace, "");
  expect(with(&B::blank, 4), workspace, "blank_index: got 4, expected a number in [0, 3]");
  expect(with(&B::blank, -1), workspace, "blank_index: got -1, expected a number in [0, 3]");
  expect(with(&B::classes, 0), workspace, "classes: got 0, expected a number in [1, 1073741823]");
  expect(with(&B::frames, -1), workspace, "frames: got -1, expected a number in [0, 2147483391]");
  expect(with(&B::labels, -1), workspace, "labels: got -1, expected a number in [0, 2147483391]");
  expect(with(&B::batch, -1), workspace, "batch: got -1, expected a number in [0, 2147483647]");
  expect(good, workspace + 4, "workspace: expected an address aligned to 16 bytes");
  const char* got = exportable_losses_cuda_transducer_float(&good, nullptr, costs, nullptr, nullptr, nullptr);
  if (std::string(got ? got : "") != "workspace: got null") ++failures, puts("a null workspace was taken");
}

// Numbers at the ends of their range.
template <class Real>
void check_wide(double tolerance) {
  auto expect = [](bool holds, const char* what, double x) {
    if (!holds) ++failures, printf("%s does not hold for %g\n", what, x);
  };
  for (double x : {0.0, -1e-3, -1.0, -87.5, -110.0, -1e4, -1e7, -1e15, -1e30, 50.0, 700.0, 1e5}) {
    const Wide<Real> e = exp_wide(Real(x));
    expect(std::fabs(minus_log(e) + x) <= tolerance * (1 + std::fabs(x)), "-log(exp(x)) = -x", x);
    expect(multiply(e, zero<Real>()).mantissa == 0, "exp(x) * 0 = 0", x);
    expect(minus_log(add(e, zero<Real>())) == minus_log(e), "exp(x) + 0 = exp(x)", x);
    expect(normalised(Real(0), Real(x)).mantissa == 0, "0 * 2^x = 0", x);
  }
  expect(exp_wide(Real(-INFINITY)).mantissa == 0, "exp(x) = 0", -INFINITY);
  expect(minus_log(zero<Real>()) == Real(INFINITY), "-log(0) = inf", 0);
  expect(std::isnan(minus_log(multiply(exp_wide(Real(NAN)), one<Real>()))), "a NaN stays one", NAN);
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  const int cases = argc > 1 ? atoi(argv[1]) : 300;
  const uint64_t seed = argc > 2 ? strtoull(argv[2], nullptr, 10) : 1;
  check_door();
  check_pick_door();
  check_far_rows();
  check_rounds();
  check_wide<float>(1e-6);
  check_wide<double>(1e-14);
  // lattices of one strip that is full, of two, the second a single column, and of three
  for (int64_t labels : {int64_t(widest_strip) - 1, int64_t(widest_strip), 2 * int64_t(widest_strip) + 77})
    for (bool ctc : {false, true})
      for (bool full : {true, false}) {
        Random random(seed + labels);
        check_both(random, {full ? 1 : 2, ctc ? labels * 3 / 2 : 7, 5, labels, 0, ctc, true, false, true, true, full,
                            0, 0, 0, 0});
      }
  for (int i = 0; i < cases; ++i) {
    Random random(seed * 1000003 + i);
    emulation::machine.random.seed(seed + i);
    check_both(random, random_shape(random));
    check_pick<float>(seed + i, &exportable_losses_cuda_pick_float, "float32", 1e-7);
    check_pick<double>(seed + i, &exportable_losses_cuda_pick_double, "float64", 2.2e-16);
    check_pick<bfloat16>(seed + i, &exportable_losses_cuda_pick_bfloat16, "bfloat16", 1e-7);
    check_pick<float16>(seed + i, &exportable_losses_cuda_pick_float16, "float16", 1e-7);
  }
  printf("%d random cases in two types, %d failures; %d finite costs, %d infinite; float32 used %.2f of what is "
         "allowed for costs, %.2f for gradients\n",
         cases, failures, possible, impossible, worst_cost, worst_grad);
  return failures > 0;
}
