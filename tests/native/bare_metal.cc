// The C door on a machine without an operating system: costs of uniform scores, which can be counted by hand.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "c_api.h"

namespace {

bool good = true;

void expect(const char* what, double got, double expected) {
  if (std::fabs(got - expected) < 1e-6) return;
  std::printf("%s: got %.9g, expected %.9g\n", what, got, expected);
  good = false;
}

void worked(const char* what, const char* error) {
  if (error == nullptr) return;
  std::printf("%s: %s\n", what, error);
  good = false;
}

}  // namespace

int main() {
  const int64_t targets[] = {1, 2}, four[] = {4}, one[] = {1}, two[] = {2}, wrong[] = {3, 1};
  float scores[12], cost = 0;

  // CTC: 15 of the 81 ways through four frames of three classes spell "1 2"
  for (float& score : scores) score = std::log(1.0f / 3);
  exportable_losses_batch batch = {scores, 1, 4, 3, 2, 12, 3, targets, 2, four, two, 0};
  worked("ctc", exportable_losses_ctc_float(&batch, nullptr, &cost, nullptr, 8));
  expect("ctc", cost, std::log(81.0 / 15));

  // the same, frame by frame
  float alpha[] = {0, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY}, offset[] = {0, 0};
  const exportable_losses_walk walk = {alpha, offset, alpha, offset};
  exportable_losses_batch frame = {scores, 1, 1, 3, 2, 3, 3, targets, 2, one, two, 0};
  for (int t = 0; t < 4; ++t, frame.scores = scores + 3 * t)
    worked("ctc_forward", exportable_losses_ctc_forward_float(&frame, &walk, &cost, 1));
  expect("ctc_forward", cost, std::log(81.0 / 15));

  // transducer: of two frames and one label, two paths of three arcs
  std::memset(scores, 0, sizeof scores);
  exportable_losses_batch lattice = {scores, 1, 2, 3, 1, 12, 6, targets, 1, two, one, 0};
  worked("transducer", exportable_losses_transducer_float(&lattice, nullptr, &cost, nullptr, 1));
  expect("transducer", cost, std::log(27.0 / 2));

  int64_t counts[3];
  const exportable_losses_sequences sequences = {targets, wrong, two, two, 1, 2, 2};
  worked("edit_counts", exportable_losses_edit_counts(&sequences, counts, 1));
  expect("edit_counts", counts[0] + counts[1] + counts[2], 2);

  batch.targets = wrong;
  const char* error = exportable_losses_ctc_float(&batch, nullptr, &cost, nullptr, 1);
  if (error == nullptr || std::strstr(error, "targets: got 3") == nullptr) {
    std::printf("a label that is no class: got %s\n", error ? error : "nothing");
    good = false;
  }
  if (good) std::printf("door: all good (%s)\n", exportable_losses_instruction_set());
  return good ? 0 : 1;
}
