#include "common/without_cuda.h"

#include <c10/util/Exception.h>

namespace uqforce {
namespace {

void without_cuda(const c10::OperatorHandle& op, torch::jit::Stack* /*stack*/) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      false, "uqforce was built without CUDA kernels for ", op.operator_name().name,
      ": move the tensors to the CPU with .cpu(), or rebuild uqforce where nvcc is found");
}

}  // namespace

void register_without_cuda(torch::Library& library, std::initializer_list<const char*> ops) {
  for (const char* op : ops) library.impl(op, torch::CppFunction::makeFromBoxedFunction<&without_cuda>());
}

}  // namespace uqforce
