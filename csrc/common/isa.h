// Run-time choice of the instruction set. The only place that asks the processor.
#pragma once

#include <type_traits>
#include <vector>

namespace uqforce {

enum class Isa : int { baseline = 0, avx2 = 1, avx512 = 2 };

// The instruction set in use: the best this processor has, or the one named by the environment variable
// UQFORCE_ISA (baseline, avx2, avx512), read once. Naming one the processor lacks is an error.
Isa active_isa();

// The instruction sets that code was compiled for, from the least to the best.
std::vector<Isa> compiled_isas();

const char* isa_name(Isa isa);

// Of name_baseline_suffix, name_avx2_suffix and name_avx512_suffix, tables of one type, the one to use.
#ifdef __x86_64__
#define UQFORCE_ACTIVE(name, suffix)                                      \
  (uqforce::active_isa() == uqforce::Isa::avx512 ? name##_avx512_##suffix \
   : uqforce::active_isa() == uqforce::Isa::avx2 ? name##_avx2_##suffix   \
                                                 : name##_baseline_##suffix)
#else
#define UQFORCE_ACTIVE(name, suffix) name##_baseline_##suffix
#endif

// The same of the tables with suffix f32 for T = float, f64 for double.
#define UQFORCE_ACTIVE_OF(T, name)            \
  [&]() -> const auto& {                      \
    if constexpr (std::is_same_v<T, float>) { \
      return UQFORCE_ACTIVE(name, f32);       \
    } else {                                  \
      return UQFORCE_ACTIVE(name, f64);       \
    }                                         \
  }                                           \
  ()

}  // namespace uqforce
