// The plain C door: sizes, null pointers, and memory that runs out. Built and run by test_core.py.
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <mutex>
#include <new>
#include <set>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/resource.h>
#include <unistd.h>
#endif

#include "c_api.h"
#include "threads.h"

namespace {

std::atomic<long> allocations{0};  // since the last arming
std::atomic<long> fail_from{-1}, fail_upto{-1};

void fail(long from, long upto) { allocations = 0, fail_from = from, fail_upto = upto; }
void* allocate(std::size_t size) {
  const long n = allocations++;
  if (n >= fail_from && n < fail_upto) return nullptr;
  return std::malloc(size ? size : 1);
}

}  // namespace

__attribute__((noinline)) void* operator new(std::size_t size) {
  void* memory = allocate(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void* operator new[](std::size_t size) { return operator new(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return allocate(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return allocate(size); }
__attribute__((noinline)) void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { operator delete(memory); }
void operator delete(void* memory, std::size_t) noexcept { operator delete(memory); }
void operator delete[](void* memory, std::size_t) noexcept { operator delete(memory); }

namespace {

constexpr std::int64_t most = INT64_MAX, B = 3, T = 9, C = 5, S = 2;
const float untouched = 77;

void demand(bool holds, const std::string& what, const char* message) {
  if (holds) return;
  std::printf("%s: got %s\n", what.c_str(), message ? message : "no error");
  std::exit(1);
}

using Door = const char* (*)(const exportable_losses_batch*, const float*, float*, float*, int);

// A legal call of one of the two losses.
struct Legal {
  bool transducer;
  std::int64_t rows = transducer ? S + 1 : 1;
  std::vector<float> scores = std::vector<float>(B * T * rows * C, std::log(1.0f / C));
  std::vector<std::int64_t> targets = std::vector<std::int64_t>(B * S, 1), input_lengths{T, T - 1, T},
                            target_lengths{S, S, 1};
  std::vector<float> weights = std::vector<float>(B, 1), costs = std::vector<float>(B, untouched),
                     grad = std::vector<float>(scores.size(), untouched);
  Door door = transducer ? exportable_losses_transducer_float : exportable_losses_ctc_float;
  const char* name = transducer ? "transducer" : "ctc";

  explicit Legal(bool transducer_) : transducer(transducer_) {}
  exportable_losses_batch batch() const {
    return {scores.data(), B, T, C, S, T * rows * C, rows * C, targets.data(), S, input_lengths.data(),
            target_lengths.data(), 0};
  }
  const char* call(const exportable_losses_batch& given, int threads = 1) {
    return door(&given, weights.data(), costs.data(), grad.data(), threads);
  }
  bool is_untouched() const {
    for (float value : costs) if (value != untouched) return false;
    for (float value : grad) if (value != untouched) return false;
    return true;
  }
};

// Each with the beginning of its message.
void check_refusals(bool transducer) {
  using Batch = exportable_losses_batch;
  const struct {
    const char* says;
    std::function<void(Batch&)> spoil;
  } table[] = {
      {"batch: got -1", [](Batch& x) { x.batch = -1; }},
      {"batch: got -9223372036854775808", [](Batch& x) { x.batch = INT64_MIN; }},
      {"frames: got -1", [](Batch& x) { x.frames = -1; }},
      {"classes: got -1", [](Batch& x) { x.classes = -1; }},
      {"labels: got -1", [](Batch& x) { x.labels = -1; }},
      {"item_stride: got -5", [](Batch& x) { x.item_stride = -5; }},
      {"frame_stride: got -5", [](Batch& x) { x.frame_stride = -5; }},
      {"target_stride: got -2", [](Batch& x) { x.target_stride = -2; }},
      {"blank_index: got 0", [](Batch& x) { x.classes = 0; }},
      {"blank_index: got 0", [](Batch& x) { x.classes = x.batch = 0; }},
      {"blank_index: got 5", [](Batch& x) { x.blank = C; }},
      {"blank_index: got -1", [](Batch& x) { x.blank = -1; }},
      {"sizes: got batch 3, frames 9223372036854775807", [](Batch& x) { x.frames = most; }},
      {"sizes: got batch 9223372036854775807", [](Batch& x) { x.batch = most; }},
      {"sizes: got", [](Batch& x) { x.labels = most; }},
      {"sizes: got", [](Batch& x) { x.labels = std::int64_t(1) << 32, x.frames = 0; }},
      {"sizes: got", [](Batch& x) { x.classes = most; }},
      {"sizes: got", [](Batch& x) { x.item_stride = most; }},
      {"sizes: got", [](Batch& x) { x.frame_stride = most / 4; }},
      {"sizes: got", [](Batch& x) { x.target_stride = most / 8; }},
      {"sizes: got", [](Batch& x) { x.frames = x.classes = std::int64_t(1) << 31; }},
      {"sizes: got", [](Batch& x) { x.batch = x.frames = x.classes = std::int64_t(1) << 22; }},
      {"scores: got null", [](Batch& x) { x.scores = nullptr; }},
      {"targets: got null", [](Batch& x) { x.targets = nullptr; }},
      {"input_lengths: got null", [](Batch& x) { x.input_lengths = nullptr; }},
      {"target_lengths: got null", [](Batch& x) { x.target_lengths = nullptr; }},
      {"input_lengths: got 9 for item 0, expected a number in [0, 8]", [](Batch& x) { x.frames = T - 1; }},
      {"target_lengths: got 2 for item 0, expected a number in [0, 1]", [](Batch& x) { x.labels = S - 1; }},
      {"targets: got 1 for item 0, expected a number in [0, 0]", [](Batch& x) { x.classes = 1; }},
  };
  Legal legal(transducer);
  for (const auto& row : table) {
    Batch batch = legal.batch();
    row.spoil(batch);
    const char* message = legal.call(batch);
    demand(message != nullptr && std::string(message).rfind(row.says, 0) == 0, row.says, message);
    demand(legal.is_untouched(), std::string(row.says) + ": something was written", message);
  }
  auto value = [&](std::vector<std::int64_t>& of, std::size_t at, std::int64_t bad, const char* says) {
    const std::int64_t before = of[at];
    of[at] = bad;
    const char* message = legal.call(legal.batch());
    demand(message != nullptr && std::string(message).rfind(says, 0) == 0, says, message);
    demand(legal.is_untouched(), std::string(says) + ": something was written", message);
    of[at] = before;
  };
  for (const std::int64_t bad : {std::int64_t(-1), std::int64_t(INT64_MIN), most}) {
    value(legal.input_lengths, 2, bad, "input_lengths: got");
    value(legal.target_lengths, 2, bad, "target_lengths: got");
    value(legal.targets, 2 * S, bad, "targets: got");  // the last item's one label
  }
  value(legal.input_lengths, 0, T + 1, "input_lengths: got 10 for item 0, expected a number in [0, 9]");
  value(legal.target_lengths, 0, S + 1, "target_lengths: got 3 for item 0, expected a number in [0, 2]");
  value(legal.targets, 0, C, "targets: got 5 for item 0, expected a number in [0, 4]");

  const Batch batch = legal.batch();
  const char* message = legal.door(nullptr, nullptr, legal.costs.data(), nullptr, 1);
  demand(message != nullptr && std::string(message).rfind("batch: got null", 0) == 0, "no batch", message);
  message = legal.door(&batch, nullptr, nullptr, nullptr, 1);
  demand(message != nullptr && std::string(message).rfind("costs: got null", 0) == 0, "no costs", message);
}

void check_legal_edges(bool transducer) {
  Legal legal(transducer);
  demand(legal.call(legal.batch(), -3) == nullptr, "fewer than no threads", legal.call(legal.batch(), -3));
  const std::vector<float> costs = legal.costs, grad = legal.grad;

  exportable_losses_batch none{};
  none.classes = C;
  demand(legal.door(&none, nullptr, nullptr, nullptr, 4) == nullptr, "no items", "an error");

  // no frames and no labels, and so nothing to point at; strides as for an array of some
  exportable_losses_batch empty = legal.batch();
  const std::vector<std::int64_t> zeros(B, 0);
  empty.scores = nullptr, empty.targets = nullptr, empty.frames = empty.labels = 0;
  empty.input_lengths = empty.target_lengths = zeros.data();
  demand(legal.door(&empty, nullptr, legal.costs.data(), nullptr, 2) == nullptr, "no frames", "an error");
  for (const float cost : legal.costs) demand(cost == 0, "no frames, no labels: a cost", "not zero");

  // one item seen three times: a stride of zero
  exportable_losses_batch repeated = legal.batch();
  repeated.item_stride = repeated.target_stride = 0;
  demand(legal.call(repeated) == nullptr, "a stride of zero", "an error");
  demand(legal.costs == costs && legal.grad == grad, "a stride of zero", "other numbers");

  // a label that is the blank is legal in a lattice
  legal.targets[0] = 0;
  demand(legal.call(legal.batch()) == nullptr, "a blank among the labels", "an error");
}

// Lets the n-th allocation of a call fail, for every n, and from the n-th on all. `one`: of a single item,
// large enough for threads of its own.
void check_out_of_memory(bool transducer, int threads, bool with_grad, bool one) {
  Legal legal(transducer);
  exportable_losses_batch batch = legal.batch();
  if (one) {
    batch.batch = 1, batch.frames = 1100, batch.labels = 40, batch.frame_stride = 0;
    legal.targets.assign(40, 1), legal.input_lengths[0] = 1100, legal.target_lengths[0] = 40;
    batch.targets = legal.targets.data();
    legal.grad.assign(1100 * 41 * C, untouched);
    legal.scores.assign(41 * C, -1.0f);
    batch.scores = legal.scores.data();
  }
  auto call = [&] {
    return legal.door(&batch, legal.weights.data(), legal.costs.data(), with_grad ? legal.grad.data() : nullptr, threads);
  };
  demand(call() == nullptr, legal.name, "an error");
  const std::vector<float> costs = legal.costs, grad = legal.grad;
  for (const bool all : {false, true}) {
    long failures = 0, errors = 0;
    for (long n = 0;; ++n) {
      fail(n, all ? std::numeric_limits<long>::max() : n + 1);
      const char* message = call();
      const bool failed = allocations > n;
      fail(-1, -1);
      failures += failed, errors += message != nullptr;
      if (message != nullptr) demand(failed && std::string(message).rfind("out of memory", 0) == 0, "a failure", message);
      if (message == nullptr) demand(legal.costs == costs && legal.grad == grad, "after a failure", "other numbers");
      if (threads == 1) demand(failed == (message != nullptr), "one thread: a failure that nobody told", message);
      if (!failed) break;
    }
    demand(errors > 0 && failures >= errors, std::string(legal.name) + ": memory never ran out", nullptr);
  }
  std::fill(legal.costs.begin(), legal.costs.end(), untouched);
  demand(call() == nullptr && legal.costs == costs && legal.grad == grad, "the call after a failure", "an error");
}

// A legal call of the edit distance.
struct LegalEdits {
  std::vector<std::int64_t> predictions{1, 2, 3, 4, 4, 4}, targets{1, 5, 3, 4}, prediction_lengths{3, 2},
      target_lengths{2, 2}, counts = std::vector<std::int64_t>(6, -7);

  exportable_losses_sequences sequences() const {
    return {predictions.data(), targets.data(), prediction_lengths.data(), target_lengths.data(), 2, 3, 2};
  }
  const char* call(const exportable_losses_sequences& given, int threads = 1) {
    return exportable_losses_edit_counts(&given, counts.data(), threads);
  }
  bool is_untouched() const { return counts == std::vector<std::int64_t>(6, -7); }
  bool is_right() const { return counts == std::vector<std::int64_t>{1, 0, 1, 0, 0, 1}; }
};

void check_refusals_of_edits() {
  using Sequences = exportable_losses_sequences;
  const std::vector<std::int64_t> endless(2, most / 2), longest(2, INT32_MAX);
  const struct {
    const char* says;
    std::function<void(Sequences&)> spoil;
  } table[] = {
      {"batch: got -1, expected a number of at least 0", [](Sequences& x) { x.batch = -1; }},
      {"predictions: got 2 items of width -1, expected what fits", [](Sequences& x) { x.prediction_width = -1; }},
      {"targets: got 2 items of width -9223372036854775808", [](Sequences& x) { x.target_width = INT64_MIN; }},
      {"predictions: got 2 items of width 9223372036854775807", [](Sequences& x) { x.prediction_width = most; }},
      {"targets: got 2 items of width 1152921504606846976", [](Sequences& x) { x.target_width = most / 8 + 1; }},
      {"predictions: got 9223372036854775807 items of width 3", [](Sequences& x) { x.batch = most; }},
      {"predictions: got null, expected an array", [](Sequences& x) { x.predictions = nullptr; }},
      {"targets: got null", [](Sequences& x) { x.targets = nullptr; }},
      {"prediction_lengths: got null", [](Sequences& x) { x.prediction_lengths = nullptr; }},
      {"target_lengths: got null", [](Sequences& x) { x.target_lengths = nullptr; }},
      {"prediction_lengths: got 3 for item 0, expected a number in [0, 2]", [](Sequences& x) { x.prediction_width = 2; }},
      {"target_lengths: got 2 for item 0, expected a number in [0, 1]", [](Sequences& x) { x.target_width = 1; }},
      {"target_lengths: got 4611686018427387903 for item 0", [&](Sequences& x) { x.target_lengths = endless.data(); }},
      {"target_lengths: got 2147483647 for item 0, expected fewer than 2147483647",
       [&](Sequences& x) {  // refused before a token is read, or this would crash
         x.target_lengths = longest.data();
         x.target_width = INT32_MAX;
       }},
  };
  LegalEdits legal;
  for (const auto& row : table) {
    Sequences sequences = legal.sequences();
    row.spoil(sequences);
    const char* message = legal.call(sequences);
    demand(message != nullptr && std::string(message).rfind(row.says, 0) == 0, row.says, message);
    demand(legal.is_untouched(), std::string(row.says) + ": something was written", message);
  }
  for (auto* lengths : {&legal.prediction_lengths, &legal.target_lengths})
    for (const std::int64_t bad : {std::int64_t(-1), std::int64_t(INT64_MIN), std::int64_t(4), most}) {
      const std::int64_t before = (*lengths)[1];
      (*lengths)[1] = bad;
      const char* message = legal.call(legal.sequences());
      const std::string says = "got " + std::to_string(bad) + " for item 1, expected a number in [0, ";
      demand(message != nullptr && std::string(message).find(says) != std::string::npos, says, message);
      demand(legal.is_untouched(), says + ": something was written", message);
      (*lengths)[1] = before;
    }
  const Sequences sequences = legal.sequences();
  const char* message = exportable_losses_edit_counts(nullptr, legal.counts.data(), 1);
  demand(message != nullptr && std::string(message) == "sequences: got null, expected sequences", "nothing", message);
  message = exportable_losses_edit_counts(&sequences, nullptr, 1);
  demand(message != nullptr && std::string(message) == "counts: got null, expected an array", "no counts", message);
}

void check_legal_edges_of_edits() {
  LegalEdits legal;
  demand(legal.call(legal.sequences(), -3) == nullptr && legal.is_right(), "fewer than no threads", "other counts");
  const exportable_losses_sequences none{};
  demand(exportable_losses_edit_counts(&none, nullptr, 4) == nullptr, "no items", "an error");
  const std::vector<std::int64_t> zeros(2, 0);
  for (const bool targets_too : {false, true}) {  // no tokens, and so nothing to point at
    exportable_losses_sequences empty = legal.sequences();
    empty.predictions = nullptr, empty.prediction_width = 0, empty.prediction_lengths = zeros.data();
    if (targets_too) empty.targets = nullptr, empty.target_width = 0, empty.target_lengths = zeros.data();
    demand(legal.call(empty, 2) == nullptr, "no tokens", "an error");
    const std::int64_t all = targets_too ? 0 : 2;
    demand(legal.counts == std::vector<std::int64_t>{0, all, 0, 0, all, 0}, "no tokens", "other counts");
  }
}

// Lets the n-th allocation of a call fail, for every n.
void check_edits_out_of_memory(int threads) {
  LegalEdits legal;
  long errors = 0;
  for (long n = 0;; ++n) {
    fail(n, n + 1);
    const char* message = legal.call(legal.sequences(), threads);
    const bool failed = allocations > n;
    fail(-1, -1);
    errors += message != nullptr;
    if (message != nullptr)
      demand(failed && std::string(message) == "out of memory: what counts hold means nothing", "a failure", message);
    if (message == nullptr) demand(legal.is_right(), "after a failure", "other counts");
    if (threads == 1) demand(failed == (message != nullptr), "one thread: a failure that nobody told", message);
    if (!failed) break;
  }
  demand(errors > 0, "edits: memory never ran out", nullptr);
}

// Memory that runs out while an error is told does not end the process either.
void check_refusal_out_of_memory() {
  Legal legal(false);
  exportable_losses_batch batch = legal.batch();
  batch.frames = most;  // the longest message
  for (long n = 0;; ++n) {
    fail(n, n + 1);
    const char* message = legal.call(batch);
    const bool failed = allocations > n;
    fail(-1, -1);
    demand(message != nullptr && legal.is_untouched(), "a refusal without memory", message);
    if (!failed) break;
  }
}

void check_exceptions_of_threads() {
  for (const int threads : {1, 4}) {
    std::atomic<int> done{0};
    try {
      exportable_losses::on_threads(threads)(1000, [&](std::int64_t i) {
        if (i == 10) throw std::runtime_error("the tenth");
        ++done;
        std::this_thread::yield();
      });
      demand(false, "an exception of a thread", nullptr);
    } catch (const std::runtime_error& error) {
      demand(std::string(error.what()) == "the tenth", "an exception of a thread", error.what());
    }
    demand(done >= 10 && done < 1000, "work after an exception", "all of it");
  }
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__linux__)
void check_no_threads() {}  // sanitizers want more memory than this leaves
#else
// Where no thread can be started, the caller's does it all.
void check_no_threads() {
  rlimit before;
  getrlimit(RLIMIT_AS, &before);
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  long pages = 0;
  demand(file != nullptr && std::fscanf(file, "%ld", &pages) == 1, "/proc/self/statm", "nothing");
  std::fclose(file);
  const rlimit little{rlim_t(pages) * sysconf(_SC_PAGESIZE) + (1 << 20), before.rlim_max};  // a stack needs more
  Legal legal(true);
  std::mutex mutex;
  std::set<std::thread::id> workers;
  setrlimit(RLIMIT_AS, &little);
  exportable_losses::on_threads(4)(100, [&](std::int64_t) {
    const std::lock_guard<std::mutex> lock(mutex);
    workers.insert(std::this_thread::get_id());
  });
  const char* message = legal.call(legal.batch(), 4);
  setrlimit(RLIMIT_AS, &before);
  demand(workers == std::set<std::thread::id>{std::this_thread::get_id()}, "no threads to be had", "some");
  demand(message == nullptr, "no threads to be had", message);
}
#endif

}  // namespace

int main() {
  check_no_threads();  // first: a thread that is gone leaves its stack to the next
  for (const bool transducer : {false, true}) {
    check_refusals(transducer);
    check_legal_edges(transducer);
    for (const int threads : {1, 3})
      for (const bool with_grad : {false, true})
        for (const bool one : {false, true})
          if (!one || !transducer) check_out_of_memory(transducer, threads, with_grad, one);
  }
  check_refusals_of_edits();
  check_legal_edges_of_edits();
  for (const int threads : {1, 3}) check_edits_out_of_memory(threads);
  check_refusal_out_of_memory();
  check_exceptions_of_threads();
  std::printf("door: all is well (%s)\n", exportable_losses_instruction_set());
}
