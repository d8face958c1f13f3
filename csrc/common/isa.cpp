#include "common/isa.h"

#include <c10/util/Exception.h>

#include <cstdlib>
#include <string>

namespace uqforce {
namespace {

Isa best_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
    return Isa::avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::avx2;
#endif
  return Isa::baseline;
}

Isa choose_isa() {
  const Isa best = best_isa();
  const char* wanted = std::getenv("UQFORCE_ISA");
  if (wanted == nullptr || *wanted == '\0') return best;
  for (Isa isa : compiled_isas()) {
    if (std::string(wanted) != isa_name(isa)) continue;
    TORCH_CHECK(isa <= best, "UQFORCE_ISA=", wanted, " but this processor offers ", isa_name(best),
                " at most: unset UQFORCE_ISA or choose that");
    return isa;
  }
  TORCH_CHECK(false, "UQFORCE_ISA=", wanted, " is not an instruction set: use baseline, avx2 or avx512");
}

}  // namespace

Isa active_isa() {
  static const Isa isa = choose_isa();
  return isa;
}

std::vector<Isa> compiled_isas() {
#if defined(__x86_64__)
  return {Isa::baseline, Isa::avx2, Isa::avx512};
#else
  return {Isa::baseline};
#endif
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    default:
      return "baseline";
  }
}

}  // namespace uqforce
