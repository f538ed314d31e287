/* The plain C door: data pointers in, an error message or null out. Every binding that is not ONNX
 * Runtime's calls these. */
#pragma once

#include <stdint.h>

#if defined(_WIN32)
#define EXPORTABLE_LOSSES_API __declspec(dllexport)
#else
#define EXPORTABLE_LOSSES_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Sizes and strides are in elements; a row of classes and the labels of an item are contiguous, and so
 * are a transducer's U+1 rows of a frame. No stride is negative. Arrays of no elements may be null. */
typedef struct {
  const void* scores; /* CTC: log-probabilities [B, T, C]; transducer: logits [B, T, U+1, V]; of the function's type */
  int64_t batch, frames, classes, labels;
  int64_t item_stride, frame_stride;
  const int64_t* targets; /* [B, S] or [B, U] */
  int64_t target_stride;
  const int64_t* input_lengths;  /* [B], in frames, from 0 to T */
  const int64_t* target_lengths; /* [B], in labels, from 0 to the width of targets */
  int64_t blank;
} exportable_losses_batch;

/* Costs [B], and with grad the gradient of sum(grad_costs * costs), contiguous; grad_costs may be null
 * for ones, grad for no gradient. Scores of 16 bits, a float's upper half (bfloat16) or IEEE's binary16 (float16),
 * are computed in float, and their gradient is rounded once to their type.
 *
 * Infinite costs, where no alignment exists, have a gradient of zero. A NaN or +inf within an item's frames, among
 * what its target reads, makes its cost a NaN, and its gradient. What lies behind a length is not read.
 *
 * Up to `threads` threads work, and no more than the machine has cores; below one counts as one, and where no
 * thread can be started the caller's does it all. A process that was forked has threads of its own,
 * and none of OpenMP's. Any number of threads may call at once.
 *
 * Returns null, or a message, which is valid until this thread's next call. A batch that is refused
 * leaves costs and grad as they were. When memory runs out ("out of memory: ..."), what they hold
 * means nothing; nothing else is lost, and the call may be made again. */
EXPORTABLE_LOSSES_API const char* exportable_losses_ctc_float(const exportable_losses_batch*, const float* grad_costs,
                                                              float* costs, float* grad, int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_ctc_double(const exportable_losses_batch*,
                                                               const double* grad_costs, double* costs, double* grad,
                                                               int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_transducer_float(const exportable_losses_batch*,
                                                                     const float* grad_costs, float* costs,
                                                                     float* grad, int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_transducer_double(const exportable_losses_batch*,
                                                                      const double* grad_costs, double* costs,
                                                                      double* grad, int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_ctc_bfloat16(const exportable_losses_batch*,
                                                                 const float* grad_costs, float* costs,
                                                                 uint16_t* grad, int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_ctc_float16(const exportable_losses_batch*,
                                                                const float* grad_costs, float* costs,
                                                                uint16_t* grad, int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_transducer_bfloat16(const exportable_losses_batch*,
                                                                        const float* grad_costs, float* costs,
                                                                        uint16_t* grad, int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_transducer_float16(const exportable_losses_batch*,
                                                                       const float* grad_costs, float* costs,
                                                                       uint16_t* grad, int threads);

/* The arcs that leave each node (t, u) of a transducer's lattice: the first `blanks` of `kinds` lead to
 * (t + duration, u), the others to (t + duration, u + 1). Paths lead from (0, 0) to (T, U). */
typedef struct {
  int64_t kinds, blanks;
  const int64_t* duration; /* [kinds], in frames: of blanks above 0, of labels at least 0 */
  int64_t label_ends;      /* not 0 where a label may lead to the end of the last frame, and so end a path */
} exportable_losses_arc_shape;

/* Lattices whose arcs are given, all contiguous. */
typedef struct {
  const void* arcs; /* log-probabilities [B, T, U+1, kinds], of the function's type */
  int64_t batch, frames, labels;
  const int64_t* input_lengths;  /* [B], in frames, from 0 to T */
  const int64_t* target_lengths; /* [B], in labels, from 0 to U */
  exportable_losses_arc_shape shape;
} exportable_losses_arcs;

/* Costs [B], and with grad the gradient in the arcs, as above. */
EXPORTABLE_LOSSES_API const char* exportable_losses_arcs_float(const exportable_losses_arcs*, const float* grad_costs,
                                                               float* costs, float* grad, int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_arcs_double(const exportable_losses_arcs*,
                                                                const double* grad_costs, double* costs,
                                                                double* grad, int threads);

/* The best path: the frame that each label's arc leaves, and which of the labels' arcs it is [B, U], both zero behind an
 * item's labels and where there is no path, and the path's log-probability [B]. Of equals, from the end, the first in
 * the order of the arcs. */
EXPORTABLE_LOSSES_API const char* exportable_losses_arcs_align_float(const exportable_losses_arcs*, int64_t* starts,
                                                                     int64_t* kinds, float* scores, int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_arcs_align_double(const exportable_losses_arcs*, int64_t* starts,
                                                                      int64_t* kinds, double* scores, int threads);

/* Where a forward recursion stands between two frames, for frames that come in pieces. `alpha`: log-probabilities,
 * [B, 2, S+1] of CTC's blanks and labels (the last of these is none) or [B, U+1] of a transducer, without what all of
 * an item's have in common; that is `offset` [B, 2], as the sum of a number and its rounding. All contiguous; before
 * the first frame the first of each item's alpha is zero, the others -inf, and offset zero. What goes out may be what
 * came in. */
typedef struct {
  const void *alpha, *offset;   /* before the frames of the batch */
  void *alpha_out, *offset_out; /* behind them */
} exportable_losses_walk;

/* Costs [B] if no more frames come, of arcs {blank, label} of durations 1 and 0. */
EXPORTABLE_LOSSES_API const char* exportable_losses_transducer_forward_float(const exportable_losses_arcs*,
                                                                             const exportable_losses_walk*,
                                                                             float* costs, int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_transducer_forward_double(const exportable_losses_arcs*,
                                                                              const exportable_losses_walk*,
                                                                              double* costs, int threads);

/* What the arcs are of logits [B, T, U+1, classes], the last `durations` of which are of durations. */
typedef struct {
  exportable_losses_arc_shape shape;
  int64_t durations;
  const int64_t* token;   /* [kinds]: the class of a blank, or -1 for a node's next label */
  const int64_t* logit;   /* [kinds]: which of the durations' logits says how long the arc lasts, or -1 */
  int64_t hybrid;         /* the blank whose logit is of a sigmoid, the labels' being of a softmax; or -1 */
  int64_t constrained;    /* not 0 where a label's arc takes the blank of (t, u + 1), too */
  double sigma;           /* off the log-probability of each token */
  double fastemit_lambda; /* by how much more a label's token counts in the gradient */
  double delay_penalty;   /* on a label's arc, times how many frames it comes before the middle of its item */
} exportable_losses_emissions;

/* Costs [B], and with grad the gradient in the logits, as above; the batch's own blank is not read. */
EXPORTABLE_LOSSES_API const char* exportable_losses_emissions_float(const exportable_losses_batch*,
                                                                    const exportable_losses_emissions*,
                                                                    const float* grad_costs, float* costs,
                                                                    float* grad, int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_emissions_double(const exportable_losses_batch*,
                                                                     const exportable_losses_emissions*,
                                                                     const double* grad_costs, double* costs,
                                                                     double* grad, int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_emissions_bfloat16(const exportable_losses_batch*,
                                                                       const exportable_losses_emissions*,
                                                                       const float* grad_costs, float* costs,
                                                                       uint16_t* grad, int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_emissions_float16(const exportable_losses_batch*,
                                                                      const exportable_losses_emissions*,
                                                                      const float* grad_costs, float* costs,
                                                                      uint16_t* grad, int threads);

/* Some classes of each row of scores; a row is contiguous. */
typedef struct {
  const void* scores; /* of the function's type */
  int64_t rows, classes, row_stride;
  const int64_t* picked; /* [rows, kinds], contiguous: classes, or -1 for none */
  int64_t kinds;
} exportable_losses_picks;

/* The log-probabilities [rows, kinds] of the picked classes, -inf of none; a row of none is not read. With `grad`
 * [rows, kinds], which may else be null, the gradient [rows, classes] in the scores instead, whose rows lie as far
 * apart as those of the scores: `out` may be the scores. */
EXPORTABLE_LOSSES_API const char* exportable_losses_pick_float(const exportable_losses_picks*, const float* grad,
                                                               void* out, int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_pick_double(const exportable_losses_picks*, const double* grad,
                                                                void* out, int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_pick_bfloat16(const exportable_losses_picks*, const float* grad,
                                                                  void* out, int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_pick_float16(const exportable_losses_picks*, const float* grad,
                                                                 void* out, int threads);

/* Costs [B] of CTC if no more frames come; the state of scores of 16 bits is of floats. Otherwise as above. */
EXPORTABLE_LOSSES_API const char* exportable_losses_ctc_forward_float(const exportable_losses_batch*,
                                                                      const exportable_losses_walk*, float* costs,
                                                                      int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_ctc_forward_double(const exportable_losses_batch*,
                                                                       const exportable_losses_walk*, double* costs,
                                                                       int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_ctc_forward_bfloat16(const exportable_losses_batch*,
                                                                         const exportable_losses_walk*, float* costs,
                                                                         int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_ctc_forward_float16(const exportable_losses_batch*,
                                                                        const exportable_losses_walk*, float* costs,
                                                                        int threads);

/* Costs [B] of CTC, and the probability of each state at each frame [B, T, 2S+1]: blanks at the even states, label
 * (s - 1) / 2 at the odd ones. Zero behind an item's frames and states, and of an infinite cost. */
EXPORTABLE_LOSSES_API const char* exportable_losses_ctc_posterior_float(const exportable_losses_batch*, float* costs,
                                                                        float* posteriors, int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_ctc_posterior_double(const exportable_losses_batch*, double* costs,
                                                                        double* posteriors, int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_ctc_posterior_bfloat16(const exportable_losses_batch*, float* costs,
                                                                        float* posteriors, int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_ctc_posterior_float16(const exportable_losses_batch*, float* costs,
                                                                        float* posteriors, int threads);

/* CTC's best path: its state at each frame [B, T], -1 behind an item's frames and where there is no path, and its
 * log-probability [B]. Of equals, from the end, a path that stayed goes before one that stepped, and that before one
 * that skipped. With free_ends the frames before the first label and behind the last one cost nothing. */
EXPORTABLE_LOSSES_API const char* exportable_losses_ctc_align_float(const exportable_losses_batch*, int free_ends,
                                                                    int64_t* states, float* scores, int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_ctc_align_double(const exportable_losses_batch*, int free_ends,
                                                                    int64_t* states, double* scores, int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_ctc_align_bfloat16(const exportable_losses_batch*, int free_ends,
                                                                    int64_t* states, float* scores, int threads);
EXPORTABLE_LOSSES_API const char* exportable_losses_ctc_align_float16(const exportable_losses_batch*, int free_ends,
                                                                    int64_t* states, float* scores, int threads);

/* Sequences of tokens, contiguous: any integers, of which those behind an item's length are not read. */
typedef struct {
  const int64_t* predictions; /* [B, K] */
  const int64_t* targets;     /* [B, S] */
  const int64_t* prediction_lengths; /* [B], from 0 to K */
  const int64_t* target_lengths;     /* [B], from 0 to S, and below 2^31 - 1 */
  int64_t batch, prediction_width, target_width; /* B, K, S */
} exportable_losses_sequences;

/* The fewest edits that make each target its prediction, and among those ways the most substitutions: counts
 * [B, 3] of insertions (tokens of the prediction alone), deletions (of the target alone) and substitutions.
 * Threads, the message and what is left when sequences are refused or memory runs out are as above. */
EXPORTABLE_LOSSES_API const char* exportable_losses_edit_counts(const exportable_losses_sequences*, int64_t* counts,
                                                                int threads);

/* Asks the system for huge pages under memory that is fresh and about to be written whole: the first touch of
 * each small page takes longer than the losses do. It does nothing where there are none to be had. */
EXPORTABLE_LOSSES_API void exportable_losses_huge_pages(void* memory, int64_t bytes);

/* The instruction set in use, or null where the environment variable EXPORTABLE_LOSSES_ISA names none that this
 * library knows: every loss is refused then, with a message that says which there are. */
EXPORTABLE_LOSSES_API const char* exportable_losses_instruction_set(void);
EXPORTABLE_LOSSES_API const char* exportable_losses_version(void);

#ifdef __cplusplus
}
#endif
