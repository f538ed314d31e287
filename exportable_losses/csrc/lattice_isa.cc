// Both losses and the edit distance for one instruction set. The build compiles this file once for each, with ISA set to
// its name and the compiler's flags for it.
#include <algorithm>

#include "ctc.inc.h"
#include "edits.inc.h"
#include "transducer.inc.h"

namespace exportable_losses {
namespace ISA {

#define EXPORTABLE_LOSSES_FOR(Score)                                                                             \
  template void ctc(const Batch<Score>&, const Computed<Score>*, Computed<Score>*, Score*, const Parallel&);     \
  template void ctc_forward(const Batch<Score>&, const Walk<Computed<Score>>&, Computed<Score>*, const Parallel&); \
  template void transducer(const Batch<Score>&, const Computed<Score>*, Computed<Score>*, Score*, const Parallel&);
EXPORTABLE_LOSSES_FOR(double)
EXPORTABLE_LOSSES_FOR(float)
EXPORTABLE_LOSSES_FOR(bfloat16)
EXPORTABLE_LOSSES_FOR(float16)

}  // namespace ISA
}  // namespace exportable_losses
