// The operator library `uqforce`. Each kernel adds its own schemas in csrc/<op>/op.cpp.
#include <torch/library.h>
#include <torch/version.h>

#include <sstream>
#include <string>

#include "common/isa.h"

#ifdef UQFORCE_CUDA_ARCHS
#define UQFORCE_CUDA "\"" UQFORCE_CUDA_ARCHS "\""
#else
#define UQFORCE_CUDA "null"
#endif
#ifdef __clang__
#define UQFORCE_COMPILER "clang " __clang_version__
#else
#define UQFORCE_COMPILER "gcc " __VERSION__
#endif

// uqforce/_library.py finds this mark in the file and refuses another torch before the dynamic loader fails.
extern "C" __attribute__((visibility("default"), used)) const char uqforce_built_for[] =
    "uqforce built for torch " TORCH_VERSION;

namespace uqforce {
namespace {

// What the library was built from, what it can do and what is in use, as JSON.
std::string build_info() {
  std::ostringstream json;
  json << "{\"uqforce\": \"" UQFORCE_VERSION "\", \"torch\": \"" TORCH_VERSION
          "\", \"compiler\": \"" UQFORCE_COMPILER "\", \"cuda_archs\": " UQFORCE_CUDA
          ", \"instruction_sets\": [";
  for (Isa isa : compiled_isas()) json << (isa == Isa::baseline ? "\"" : ", \"") << isa_name(isa) << '"';
  json << "], \"instruction_set\": \"" << isa_name(active_isa()) << "\"}";
  return json.str();
}

}  // namespace

TORCH_LIBRARY(uqforce, m) { m.def("build_info() -> str", &build_info); }

}  // namespace uqforce
