#include "common/without_cuda.h"

#include <c10/util/Exception.h>

#include <set>

namespace uqforce {
namespace {

void without_cuda(const c10::OperatorHandle& op, torch::jit::Stack* /*stack*/) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      false, "uqforce was built without CUDA kernels for ", op.operator_name().name,
      ": move the tensors to the CPU with .cpu(), or rebuild uqforce where nvcc is found");
}

std::set<std::string>& names() {
  static std::set<std::string> names;
  return names;
}

}  // namespace

void register_without_cuda(torch::Library& library, std::initializer_list<const char*> ops) {
  for (const char* op : ops) {
    library.impl(op, torch::CppFunction::makeFromBoxedFunction<&without_cuda>());
    const std::string name = op;
    names().insert(name.substr(0, name.find('.')));  // without the overload's
  }
}

std::vector<std::string> ops_without_cuda() { return {names().begin(), names().end()}; }

}  // namespace uqforce
