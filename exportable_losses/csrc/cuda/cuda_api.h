/* The plain C door of the CUDA kernels: device pointers in, an error message or null out.
 *
 * Everything that a pointer below leads to is device memory, the workspace too. The losses allocate nothing,
 * and nothing waits: the kernels are queued on `stream` of the current device (a cudaStream_t; null is
 * the default stream), and what they read must stay as it is until that stream has run them.
 *
 * Sizes, strides and the blank are checked before anything is queued. Lengths and targets stand in
 * device memory and are not, for reading them would wait. Instead the kernels take a length outside of
 * [0, size] as the nearer end, and a target that is no class as a label of probability zero: its cost
 * is infinite and its gradient zero. Nothing is read or written outside of the arrays, whatever they hold. */
#pragma once

#include <stdint.h>

#include "../c_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The bytes of workspace for a call of these sizes; scores of 2, 4 or 8 bytes. The workspace is aligned to
 * 16 bytes and need not be cleared. */
EXPORTABLE_LOSSES_API int64_t exportable_losses_cuda_ctc_workspace(int64_t batch, int64_t frames, int64_t labels,
                                                                   int64_t score_bytes, int with_grad);
EXPORTABLE_LOSSES_API int64_t exportable_losses_cuda_transducer_workspace(int64_t batch, int64_t frames,
                                                                          int64_t labels, int64_t score_bytes,
                                                                          int with_grad);

/* Costs [B], and with grad the gradient of sum(grad_costs * costs), contiguous; grad_costs may be null
 * for ones, grad for costs alone. What scores of 16 bits, NaN and infinity mean is as in c_api.h. A message is valid until this thread's next call. */
EXPORTABLE_LOSSES_API const char* exportable_losses_cuda_ctc_float(const exportable_losses_batch*,
                                                                   const float* grad_costs, float* costs, float* grad,
                                                                   void* workspace, void* stream);
EXPORTABLE_LOSSES_API const char* exportable_losses_cuda_ctc_double(const exportable_losses_batch*,
                                                                    const double* grad_costs, double* costs,
                                                                    double* grad, void* workspace, void* stream);
EXPORTABLE_LOSSES_API const char* exportable_losses_cuda_transducer_float(const exportable_losses_batch*,
                                                                          const float* grad_costs, float* costs,
                                                                          float* grad, void* workspace, void* stream);
EXPORTABLE_LOSSES_API const char* exportable_losses_cuda_transducer_double(const exportable_losses_batch*,
                                                                           const double* grad_costs, double* costs,
                                                                           double* grad, void* workspace,
                                                                           void* stream);
EXPORTABLE_LOSSES_API const char* exportable_losses_cuda_ctc_bfloat16(const exportable_losses_batch*,
                                                                      const float* grad_costs, float* costs,
                                                                      uint16_t* grad, void* workspace,
                                                                      void* stream);
EXPORTABLE_LOSSES_API const char* exportable_losses_cuda_ctc_float16(const exportable_losses_batch*,
                                                                     const float* grad_costs, float* costs,
                                                                     uint16_t* grad, void* workspace,
                                                                     void* stream);
EXPORTABLE_LOSSES_API const char* exportable_losses_cuda_transducer_bfloat16(const exportable_losses_batch*,
                                                                             const float* grad_costs, float* costs,
                                                                             uint16_t* grad, void* workspace,
                                                                             void* stream);
EXPORTABLE_LOSSES_API const char* exportable_losses_cuda_transducer_float16(const exportable_losses_batch*,
                                                                            const float* grad_costs, float* costs,
                                                                            uint16_t* grad, void* workspace,
                                                                            void* stream);

/* Lattices whose arcs are given: as in c_api.h, with at most 64 kinds, and the durations in the host's memory. */
EXPORTABLE_LOSSES_API int64_t exportable_losses_cuda_arcs_workspace(int64_t batch, int64_t frames, int64_t labels,
                                                                    int64_t arc_bytes, int with_grad);
EXPORTABLE_LOSSES_API const char* exportable_losses_cuda_arcs_float(const exportable_losses_arcs*,
                                                                    const float* grad_costs, float* costs, float* grad,
                                                                    void* workspace, void* stream);
EXPORTABLE_LOSSES_API const char* exportable_losses_cuda_arcs_double(const exportable_losses_arcs*,
                                                                     const double* grad_costs, double* costs,
                                                                     double* grad, void* workspace, void* stream);

/* Some classes of each row of scores: as in c_api.h, but that a class out of range is none. With `grad` the workspace
 * has room for as many numbers of the same type; it is null without. */
EXPORTABLE_LOSSES_API const char* exportable_losses_cuda_pick_float(const exportable_losses_picks*, const float* grad,
                                                                    void* out, void* workspace, void* stream);
EXPORTABLE_LOSSES_API const char* exportable_losses_cuda_pick_double(const exportable_losses_picks*, const double* grad,
                                                                     void* out, void* workspace, void* stream);
EXPORTABLE_LOSSES_API const char* exportable_losses_cuda_pick_bfloat16(const exportable_losses_picks*, const float* grad,
                                                                       void* out, void* workspace, void* stream);
EXPORTABLE_LOSSES_API const char* exportable_losses_cuda_pick_float16(const exportable_losses_picks*, const float* grad,
                                                                      void* out, void* workspace, void* stream);

/* Memory for work on this stream, in the stream's order: it may be freed as soon as that work is queued. */
EXPORTABLE_LOSSES_API const char* exportable_losses_cuda_allocate(int64_t bytes, void* stream, void** memory);
EXPORTABLE_LOSSES_API const char* exportable_losses_cuda_free(void* memory, void* stream);

/* The package's version that it was built from. */
EXPORTABLE_LOSSES_API const char* exportable_losses_cuda_version(void);

/* The architectures it was built for, as CMake has them: "75-real 80-real …". */
EXPORTABLE_LOSSES_API const char* exportable_losses_cuda_architectures(void);

#ifdef __cplusplus
}
#endif
