// Both losses and the edit distance for one instruction set. The build compiles this file once for each, with ISA set to
// its name and the compiler's flags for it.
#include <algorithm>

#include "ctc.inc.h"
#include "edits.inc.h"
#include "picked.inc.h"
#include "transducer.inc.h"

namespace exportable_losses {
namespace ISA {

EXPORTABLE_LOSSES_FOR_EVERY_TYPE

}  // namespace ISA
}  // namespace exportable_losses
