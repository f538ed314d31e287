// Both losses and the edit distance for one instruction set. The build compiles this file once for each, with ISA set to
// its name and the compiler's flags for it.
#include <algorithm>

#include "ctc.inc.h"
#include "ctc_align.inc.h"
#include "edits.inc.h"
#include "picked.inc.h"
#include "transducer.inc.h"

// whether ISA is the baseline
#define EXPORTABLE_LOSSES_ONCE_IN_baseline 1
#define EXPORTABLE_LOSSES_JOINED(a, b) a##b
#define EXPORTABLE_LOSSES_JOIN(a, b) EXPORTABLE_LOSSES_JOINED(a, b)
#define EXPORTABLE_LOSSES_ONCE EXPORTABLE_LOSSES_JOIN(EXPORTABLE_LOSSES_ONCE_IN_, ISA)
#if EXPORTABLE_LOSSES_ONCE
#include "arcs_align.inc.h"
#include "forward.inc.h"
#endif

namespace exportable_losses {
namespace ISA {

EXPORTABLE_LOSSES_FOR_EVERY_TYPE
#if EXPORTABLE_LOSSES_ONCE
EXPORTABLE_LOSSES_ONCE_FOR_REALS
#endif

}  // namespace ISA
}  // namespace exportable_losses
