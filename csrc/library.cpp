// The operator library `uqforce`. Each kernel adds its own schemas in csrc/<op>/op.cpp.
#include <torch/library.h>
#include <torch/version.h>

#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "common/cuda_archs.h"
#include "common/isa.h"
#include "common/without_cuda.h"

#ifdef __clang__
#define UQFORCE_COMPILER "clang " __clang_version__
#else
#define UQFORCE_COMPILER "gcc " __VERSION__
#endif

// uqforce/_library.py finds this mark in the file and refuses another torch before the dynamic loader fails.
extern "C" __attribute__((visibility("default"), used)) const char uqforce_built_for[] =
    "uqforce built for torch " TORCH_VERSION;

namespace uqforce {

#ifndef UQFORCE_CUDA
const char* cuda_archs() { return ""; }
int64_t cuda_capability(int64_t /*device*/) {
  TORCH_CHECK(false, "uqforce was built without CUDA kernels: rebuild it where nvcc is found");
}
#endif

namespace {

std::vector<std::string> cuda_arch_list() {
  std::istringstream words(cuda_archs());
  return {std::istream_iterator<std::string>(words), {}};
}

// Which of `archs` a card of that compute capability (90 for 9.0) runs: machine code of its generation
// ("sm_86" and "sm_80" on 8.9, but not on 9.0), the newest of it, else PTX ("compute_80" on all from 8.0),
// else "".
std::string cuda_arch_for(int64_t capability, const std::vector<std::string>& archs) {
  std::string best;
  int64_t newest = -1;
  for (const std::string& arch : archs) {
    const bool machine_code = arch.rfind("sm_", 0) == 0;
    const int64_t number = std::stoll(arch.substr(arch.find('_') + 1));
    const bool runs = number <= capability && (!machine_code || number / 10 == capability / 10);
    const int64_t rank = number + (machine_code ? 1000000 : 0);  // PTX only where there is nothing else
    if (runs && rank > newest) best = arch, newest = rank;
  }
  return best;
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (Isa isa : compiled_isas()) names.emplace_back(isa_name(isa));
  return names;
}

// null where there is none.
std::string json_list(const std::vector<std::string>& items) {
  if (items.empty()) return "null";
  std::string list = "[";
  for (const auto& item : items) list += (list.size() > 1 ? ", \"" : "\"") + item + "\"";
  return list + "]";
}

// What the library was built from, what it can do and what is in use, as JSON.
std::string build_info() {
  std::ostringstream json;
  json << "{\"uqforce\": \"" UQFORCE_VERSION "\", \"torch\": \"" TORCH_VERSION
          "\", \"compiler\": \"" UQFORCE_COMPILER "\", \"cuda_archs\": "
       << json_list(cuda_arch_list()) << ", \"without_cuda\": " << json_list(ops_without_cuda())
       << ", \"instruction_sets\": " << json_list(instruction_sets()) << ", \"instruction_set\": \""
       << isa_name(active_isa()) << "\"}";
  return json.str();
}

}  // namespace

TORCH_LIBRARY(uqforce, m) {
  m.def("build_info() -> str", &build_info);
  m.def("cuda_arch_for(int capability, str[] archs) -> str", &cuda_arch_for);
  m.def("cuda_capability(int device) -> int", &cuda_capability);
}

}  // namespace uqforce
