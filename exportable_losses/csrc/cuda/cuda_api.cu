#include "cuda_api.h"

#include <cuda_runtime.h>
#include <stdio.h>

#include "arcs.cuh"
#include "ctc.cuh"
#include "picked.cuh"
#include "transducer.cuh"

#ifndef EXPORTABLE_LOSSES_VERSION
#define EXPORTABLE_LOSSES_VERSION "unknown"
#endif
#ifndef EXPORTABLE_LOSSES_CUDA_ARCHITECTURES
#define EXPORTABLE_LOSSES_CUDA_ARCHITECTURES "unknown"
#endif

namespace {

using namespace exportable_losses;
using namespace exportable_losses::on_device;

using Message = const char*;  // null: all is well

constexpr int64_t most_rows = INT32_MAX - row_threads;  // of an item: the kernels count them in an int

Message got(const char* name, int64_t value, int64_t low, int64_t high) {
  static thread_local char message[160];
  snprintf(message, sizeof message, "%s: got %lld, expected a number in [%lld, %lld]", name,
           static_cast<long long>(value), static_cast<long long>(low), static_cast<long long>(high));
  return message;
}

// What is wrong with what the host can see of a batch.
template <class Score>
Message what_is_wrong(const Batch<Score>& x, bool rows_have_labels, const void* workspace) {
  if (x.batch < 0 || x.batch > INT32_MAX) return got("batch", x.batch, 0, INT32_MAX);
  if (x.classes < 1 || x.classes > INT32_MAX / 2) return got("classes", x.classes, 1, INT32_MAX / 2);
  if (x.labels < 0 || x.labels > most_rows) return got("labels", x.labels, 0, most_rows);
  const int64_t most_frames = most_rows / (rows_have_labels ? x.labels + 1 : 1);
  if (x.frames < 0 || x.frames > most_frames) return got("frames", x.frames, 0, most_frames);
  if (x.blank < 0 || x.blank >= x.classes) return got("blank_index", x.blank, 0, x.classes - 1);
  if (reinterpret_cast<uintptr_t>(workspace) % 16 != 0) return "workspace: expected an address aligned to 16 bytes";
  return nullptr;
}

Message said(cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();  // reported here, not to the next who asks
  return cudaGetErrorString(error);
}

template <class... Parameters, class... Arguments>
Message launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared, void* stream,
               Arguments... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = static_cast<cudaStream_t>(stream);
  return said(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

// A team of lanes for each row of each item.
template <class... Parameters, class... Arguments>
Message launch_rows(void (*kernel)(Parameters...), int64_t batch, int64_t rows, int lanes, void* stream,
                    Arguments... arguments) {
  if (batch == 0 || rows == 0) return nullptr;
  const int64_t teams = row_threads / lanes, most_items = 65535;
  const dim3 grid(static_cast<unsigned>((rows + teams - 1) / teams),
                  static_cast<unsigned>(batch < most_items ? batch : most_items));
  return launch(kernel, grid, row_threads, 0, stream, arguments..., lanes);
}

int threads_for(int64_t columns) {
  return columns < widest_strip ? static_cast<int>((columns + 31) / 32 * 32) : widest_strip;
}

// A block for each item and each of `parts`; its threads hand on `State`s.
template <class State, class... Parameters, class... Arguments>
Message launch_walk(void (*kernel)(Parameters...), int64_t batch, int64_t columns, int parts, void* stream,
                    Arguments... arguments) {
  if (batch == 0) return nullptr;
  const int threads = threads_for(columns);
  return launch(kernel, dim3(static_cast<unsigned>(batch), parts), threads, 2 * threads * sizeof(State), stream,
                arguments...);
}

// Hands out pieces of the workspace, or with none counts their bytes.
class Pieces {
 public:
  explicit Pieces(void* memory) : memory_(static_cast<char*>(memory)) {}

  template <class T>
  void take(T*& piece, int64_t count) {
    piece = memory_ && count > 0 ? reinterpret_cast<T*>(memory_ + used_) : nullptr;
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16;
  }
  int64_t used() const { return used_; }

 private:
  char* memory_;
  int64_t used_ = 0;
};

template <class Real>
Frames<Real> lay_out_ctc(int64_t batch, int64_t frames, int64_t labels, bool with_grad, Pieces& pieces) {
  Frames<Real> out;
  const int64_t width = labels + 1, cells = with_grad ? batch * frames * width : 0;
  out.width = static_cast<int>(width);
  pieces.take(out.alphas, cells);
  pieces.take(out.betas, cells);
  pieces.take(out.totals, with_grad ? batch : 0);
  pieces.take(out.repeats, with_grad ? batch * labels : 0);
  pieces.take(out.flow, width > widest_strip ? 2 * batch * (frames + 1) : 0);
  return out;
}

template <class Real>
Nodes<Real> lay_out_transducer(int64_t batch, int64_t frames, int64_t labels, bool with_grad, Pieces& pieces) {
  Nodes<Real> out;
  const int64_t rows = frames > labels ? frames : labels, width = labels + 1, nodes = batch * rows * width;
  out.rows = static_cast<int>(rows), out.width = static_cast<int>(width);
  pieces.take(out.arcs, nodes);
  pieces.take(out.norms, with_grad ? nodes : 0);
  pieces.take(out.alphas, with_grad ? nodes : 0);
  pieces.take(out.betas, with_grad ? nodes : 0);
  pieces.take(out.totals, with_grad ? batch : 0);
  pieces.take(out.flow, width > widest_strip ? 2 * batch * (frames + labels) : 0);
  return out;
}

template <class Score>
Batch<Score> batch_of(const exportable_losses_batch& given) {
  return {static_cast<const Score*>(given.scores),
          given.batch,
          given.frames,
          given.classes,
          given.labels,
          given.item_stride,
          given.frame_stride,
          given.targets,
          given.target_stride,
          given.input_lengths,
          given.target_lengths,
          given.blank};
}

template <class Score>
Message ctc(const exportable_losses_batch& given, const Computed<Score>* grad_costs, Computed<Score>* costs, void* slopes,
            void* workspace, void* stream) {
  using Real = Computed<Score>;
  const Batch<Score> x = batch_of<Score>(given);
  Score* grad = static_cast<Score*>(slopes);
  if (Message wrong = what_is_wrong(x, false, workspace)) return wrong;
  Pieces pieces(workspace);
  const auto frames = lay_out_ctc<Real>(x.batch, x.frames, x.labels, grad != nullptr, pieces);
  if (pieces.used() > 0 && !workspace) return "workspace: got null";
  const int parts = grad ? 3 : 1;  // forwards; backwards and repeated labels
  if (Message failed = launch_walk<States<Real>>(ctc_walk<Score>, x.batch, frames.width, parts, stream, x, frames, costs))
    return failed;
  if (!grad) return nullptr;
  const int lanes = 32;  // for the labels, also where classes are few
  return launch_rows(ctc_gradient<Score>, x.batch, x.frames, lanes, stream, x, frames, grad_costs, costs, grad);
}

template <class Score>
Message transducer(const exportable_losses_batch& given, const Computed<Score>* grad_costs, Computed<Score>* costs,
                   void* slopes, void* workspace, void* stream) {
  using Real = Computed<Score>;
  const Batch<Score> x = batch_of<Score>(given);
  Score* grad = static_cast<Score*>(slopes);
  if (Message wrong = what_is_wrong(x, true, workspace)) return wrong;
  Pieces pieces(workspace);
  const auto nodes = lay_out_transducer<Real>(x.batch, x.frames, x.labels, grad != nullptr, pieces);
  if (pieces.used() > 0 && !workspace) return "workspace: got null";
  const int lanes = lanes_for<Score>(x.classes), parts = grad ? 2 : 1;  // forwards; backwards
  const int64_t rows = x.frames * nodes.width;
  if (Message failed = launch_rows(transducer_norms<Score>, x.batch, rows, lanes, stream, x, nodes)) return failed;
  if (Message failed =
          launch_walk<Wide<Real>>(transducer_walk<Score>, x.batch, nodes.width, parts, stream, x, nodes, costs))
    return failed;
  if (!grad) return nullptr;
  return launch_rows(transducer_gradient<Score>, x.batch, rows, lanes, stream, x, nodes, grad_costs, costs, grad);
}

template <class Real>
struct Sweeps {
  Wide<Real>*alphas, *betas;

  Sweeps(int64_t batch, int64_t frames, int64_t labels, bool with_grad, Pieces& pieces) {
    const int64_t nodes = batch * (frames + labels + 1) * (labels + 1);
    pieces.take(alphas, nodes);
    pieces.take(betas, with_grad ? nodes : 0);
  }
};

template <class Real>
Message arcs(const exportable_losses_arcs& given, const Real* grad_costs, Real* costs, Real* grad, void* workspace,
             void* stream) {
  const auto& shape = given.shape;
  if (given.batch < 0 || given.batch > INT32_MAX) return got("batch", given.batch, 0, INT32_MAX);
  if (given.labels < 0 || given.labels > INT32_MAX / 4) return got("labels", given.labels, 0, INT32_MAX / 4);
  if (given.frames < 0 || given.frames > INT32_MAX / 4) return got("frames", given.frames, 0, INT32_MAX / 4);
  if (shape.kinds < 1 || shape.kinds > most_kinds) return got("kinds", shape.kinds, 1, most_kinds);
  if (shape.blanks < 1 || shape.blanks > shape.kinds) return got("blanks", shape.blanks, 1, shape.kinds);
  if (!shape.duration) return "duration: got null, expected an array";
  if (reinterpret_cast<uintptr_t>(workspace) % 16 != 0) return "workspace: expected an address aligned to 16 bytes";
  ArcsOfBatch<Real> x{static_cast<const Real*>(given.arcs), given.frames, given.labels, given.input_lengths,
                      given.target_lengths, static_cast<int>(shape.kinds), static_cast<int>(shape.blanks),
                      shape.label_ends != 0, {}};
  for (int k = 0; k < x.kinds; ++k) {
    const int64_t least = k < x.blanks;
    if (shape.duration[k] < least || shape.duration[k] > INT32_MAX / 4) return got("duration", shape.duration[k], least, INT32_MAX / 4);
    x.duration[k] = static_cast<int>(shape.duration[k]);
  }
  if (given.batch == 0) return nullptr;
  Pieces pieces(workspace);
  const Sweeps<Real> sweeps(given.batch, given.frames, given.labels, grad != nullptr, pieces);
  if (!workspace) return "workspace: got null";
  return launch(arcs_walk<Real>, dim3(static_cast<unsigned>(given.batch)), threads_for(given.labels + 1), 0, stream, x,
                sweeps.alphas, sweeps.betas, grad_costs, costs, grad);
}

// What is wrong with what the host can see of rows.
Message what_is_wrong(const Picks& x) {
  constexpr int64_t all = INT64_MAX / 8;  // bytes have 64 bits too
  if (x.classes < 0 || x.classes > INT32_MAX / 2) return got("classes", x.classes, 0, INT32_MAX / 2);
  if (x.row_stride < 0 || x.row_stride > all) return got("row_stride", x.row_stride, 0, all);
  if (x.kinds < 0 || x.kinds > all) return got("kinds", x.kinds, 0, all);
  const int64_t widest = x.row_stride > x.kinds ? x.row_stride : x.kinds;
  const int64_t most = all / (widest > 1 ? widest : 1);
  return x.rows < 0 || x.rows > most ? got("rows", x.rows, 0, most) : nullptr;
}

template <class Score>
Message pick(const exportable_losses_picks& given, const Computed<Score>* grad, void* out, void* workspace,
             void* stream) {
  const Picks x{given.rows, given.classes, given.row_stride, given.picked, given.kinds};
  const Score* scores = static_cast<const Score*>(given.scores);
  if (Message wrong = what_is_wrong(x)) return wrong;
  if (x.rows == 0 || (grad ? x.classes : x.kinds) == 0) return nullptr;
  if (!scores && x.classes > 0) return "scores: got null, expected an array";
  if (!x.picked && x.kinds > 0) return "picked: got null, expected an array";
  if (!out) return "out: got null, expected an array";
  const int lanes = lanes_for<Score>(x.classes);
  const int64_t rows = x.rows < most_rows ? x.rows : most_rows;
  auto* to = static_cast<Computed<Score>*>(grad ? workspace : out);
  if (!grad) return launch_rows(pick_log_probs<Score>, 1, rows, lanes, stream, scores, x, to);
  if (!to && x.kinds > 0) return "workspace: got null";
  return launch_rows(pick_gradient<Score>, 1, rows, lanes, stream, scores, x, grad, static_cast<Score*>(out), to);
}

template <class LayOut>
int64_t bytes(LayOut lay_out) {
  Pieces pieces(nullptr);
  lay_out(pieces);
  return pieces.used();
}

}  // namespace

extern "C" {

int64_t exportable_losses_cuda_ctc_workspace(int64_t batch, int64_t frames, int64_t labels, int64_t score_bytes,
                                             int with_grad) {
  return bytes([&](Pieces& pieces) {
    if (score_bytes <= int64_t(sizeof(float)))
      lay_out_ctc<float>(batch, frames, labels, with_grad, pieces);
    else
      lay_out_ctc<double>(batch, frames, labels, with_grad, pieces);
  });
}
int64_t exportable_losses_cuda_transducer_workspace(int64_t batch, int64_t frames, int64_t labels,
                                                    int64_t score_bytes, int with_grad) {
  return bytes([&](Pieces& pieces) {
    if (score_bytes <= int64_t(sizeof(float)))
      lay_out_transducer<float>(batch, frames, labels, with_grad, pieces);
    else
      lay_out_transducer<double>(batch, frames, labels, with_grad, pieces);
  });
}

int64_t exportable_losses_cuda_arcs_workspace(int64_t batch, int64_t frames, int64_t labels, int64_t arc_bytes,
                                              int with_grad) {
  return bytes([&](Pieces& pieces) {
    if (arc_bytes <= int64_t(sizeof(float)))
      Sweeps<float>(batch, frames, labels, with_grad, pieces);
    else
      Sweeps<double>(batch, frames, labels, with_grad, pieces);
  });
}
Message exportable_losses_cuda_arcs_float(const exportable_losses_arcs* given, const float* grad_costs, float* costs,
                                          float* grad, void* workspace, void* stream) {
  return arcs<float>(*given, grad_costs, costs, grad, workspace, stream);
}
Message exportable_losses_cuda_arcs_double(const exportable_losses_arcs* given, const double* grad_costs, double* costs,
                                           double* grad, void* workspace, void* stream) {
  return arcs<double>(*given, grad_costs, costs, grad, workspace, stream);
}

#define EXPORTABLE_LOSSES_DOORS(name, Score, Real, Grad)                                                             \
  Message exportable_losses_cuda_ctc_##name(const exportable_losses_batch* batch, const Real* grad_costs, Real* costs, \
                                            Grad* grad, void* workspace, void* stream) {                             \
    return ctc<Score>(*batch, grad_costs, costs, grad, workspace, stream);                                           \
  }                                                                                                                  \
  Message exportable_losses_cuda_transducer_##name(const exportable_losses_batch* batch, const Real* grad_costs,     \
                                                   Real* costs, Grad* grad, void* workspace, void* stream) {         \
    return transducer<Score>(*batch, grad_costs, costs, grad, workspace, stream);                                    \
  }                                                                                                                  \
  Message exportable_losses_cuda_pick_##name(const exportable_losses_picks* picks, const Real* grad, void* out,      \
                                             void* workspace, void* stream) {                                        \
    return pick<Score>(*picks, grad, out, workspace, stream);                                                        \
  }
EXPORTABLE_LOSSES_DOORS(float, float, float, float)
EXPORTABLE_LOSSES_DOORS(double, double, double, double)
EXPORTABLE_LOSSES_DOORS(bfloat16, bfloat16, float, uint16_t)
EXPORTABLE_LOSSES_DOORS(float16, float16, float, uint16_t)

Message exportable_losses_cuda_allocate(int64_t bytes, void* stream, void** memory) {
  return said(cudaMallocAsync(memory, static_cast<size_t>(bytes), static_cast<cudaStream_t>(stream)));
}
Message exportable_losses_cuda_free(void* memory, void* stream) {
  return said(cudaFreeAsync(memory, static_cast<cudaStream_t>(stream)));
}

const char* exportable_losses_cuda_version(void) { return EXPORTABLE_LOSSES_VERSION; }
const char* exportable_losses_cuda_architectures(void) { return EXPORTABLE_LOSSES_CUDA_ARCHITECTURES; }
}
