// The instruction sets that the core is compiled for, each a superset of the one before.
#pragma once

#include <stdexcept>
#include <string>

namespace exportable_losses {

enum class Isa { baseline, avx2, avx512 };

// The set without any of the extensions, by the name that a user knows it by.
#if defined(__aarch64__)
constexpr const char* baseline_name = "neon";
#else
constexpr const char* baseline_name = "baseline";
#endif

// Of a machine that has `most`, the set that EXPORTABLE_LOSSES_ISA asks for: less than the machine has, never more;
// none asks for the most.
inline Isa chosen(const char* wanted, Isa most) {
  const std::string name = wanted ? wanted : "";
  if (name.empty() || name == "avx512") return most;
  if (name == "avx2") return most == Isa::baseline ? most : Isa::avx2;
  if (name == "baseline" || name == baseline_name) return Isa::baseline;
  throw std::invalid_argument("EXPORTABLE_LOSSES_ISA: got " + name + ", expected avx512, avx2 or " + baseline_name);
}

}  // namespace exportable_losses
