// pybind11 module uqforce._C: the ops for direct calls from Python, without torch.ops' argument parsing.
//
// Calls go through the dispatcher's handles, so autograd works as in torch.ops, and this module and
// libuqforce.so need not be linked. The schemas are in csrc/<op>/op.cpp.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>

#include <string>

namespace {

// Binds the op uqforce::<name> as a function with the argument names given. The GIL is released during the
// call.
template <typename Result, typename... Args, typename... Names>
void bind(py::module_& m, const char* name, Result (*)(Args...), const Names&... names) {
  const auto op = c10::Dispatcher::singleton()
                      .findSchemaOrThrow((std::string("uqforce::") + name).c_str(), "")
                      .template typed<Result(Args...)>();
  m.def(name, torch::wrap_pybind_function_no_gil([op](Args... args) { return op.call(args...); }), names...);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "The ops of uqforce for direct calls; see uqforce.ops for their meaning.";
  using Result = std::string (*)();
  bind(m, "build_info", Result{});
}
