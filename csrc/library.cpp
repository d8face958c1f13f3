// The operator library `uqforce`. Each kernel adds its own schemas in csrc/<op>/op.cpp.
#include <torch/library.h>
#include <torch/version.h>

#include <sstream>
#include <string>
#include <vector>

#include "common/isa.h"
#include "common/without_cuda.h"

#ifndef UQFORCE_CUDA_ARCHS
#define UQFORCE_CUDA_ARCHS ""
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

std::vector<std::string> cuda_archs() {
  std::vector<std::string> archs;
  std::istringstream list(UQFORCE_CUDA_ARCHS);
  for (std::string arch; std::getline(list, arch, ',');) archs.push_back("sm_" + arch);
  return archs;
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
       << json_list(cuda_archs()) << ", \"without_cuda\": " << json_list(ops_without_cuda())
       << ", \"instruction_sets\": " << json_list(instruction_sets()) << ", \"instruction_set\": \""
       << isa_name(active_isa()) << "\"}";
  return json.str();
}

}  // namespace

TORCH_LIBRARY(uqforce, m) { m.def("build_info() -> str", &build_info); }

}  // namespace uqforce
