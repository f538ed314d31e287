// The instruction sets that the core is compiled for, each a superset of the one before.
#pragma once

#include <cstring>

namespace exportable_losses {

enum class Isa { baseline, avx2, avx512 };

// Of a machine that has `most`, the set that EXPORTABLE_LOSSES_ISA asks for: less than the machine has,
// never more. Whatever is no name of one counts for nothing.
inline Isa chosen(const char* wanted, Isa most) {
  if (wanted == nullptr) return most;
  if (std::strcmp(wanted, "baseline") == 0) return Isa::baseline;
  if (std::strcmp(wanted, "avx2") == 0 && most != Isa::baseline) return Isa::avx2;
  return most;
}

}  // namespace exportable_losses
