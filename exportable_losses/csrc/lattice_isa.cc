// Both losses and the edit distance for one instruction set. The build compiles this file once for each, with ISA set to
// its name and the compiler's flags for it.
#include <algorithm>

#include "ctc.inc.h"
#include "edits.inc.h"
#include "transducer.inc.h"

namespace exportable_losses {
namespace ISA {

template void ctc(const Batch<float>&, const float*, float*, float*, const Parallel&);
template void ctc(const Batch<double>&, const double*, double*, double*, const Parallel&);
template void ctc_forward(const Batch<float>&, const Walk<float>&, float*, const Parallel&);
template void ctc_forward(const Batch<double>&, const Walk<double>&, double*, const Parallel&);
template void transducer(const Batch<float>&, const float*, float*, float*, const Parallel&);
template void transducer(const Batch<double>&, const double*, double*, double*, const Parallel&);

}  // namespace ISA
}  // namespace exportable_losses
