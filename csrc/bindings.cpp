// pybind11 module uqforce._C: the ops for direct calls from Python, without torch.ops' argument parsing.
//
// Calls go through the dispatcher's handles, so autograd works as in torch.ops, and this module and
// libuqforce.so need not be linked. The schemas are in csrc/<op>/op.cpp.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>

#include <optional>
#include <string>
#include <tuple>

namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using py::arg;

// Binds the op uqforce::<name>; the GIL is released during a call.
template <typename Signature>
struct Bind;
template <typename Result, typename... Args>
struct Bind<Result(Args...)> {
  template <typename... Names>
  static void to(py::module_& m, const std::string& name, const Names&... names) {
    overload(m, name, "", names...);
  }
  template <typename... Names>
  static void overload(py::module_& m, const std::string& name, const char* which, const Names&... names) {
    const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(("uqforce::" + name).c_str(), which);
    const auto call = [op = op.typed<Result(Args...)>()](Args... args) { return op.call(args...); };
    m.def(name.c_str(), torch::wrap_pybind_function_no_gil(call), names...);
  }
};

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "The ops of uqforce for direct calls; uqforce.ops documents them.";

  Bind<std::string()>::to(m, "build_info");
  Bind<std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, double,
                                          const OptionalTensor&)>::to(m, "neighbor_list", arg("positions"),
                                                                      arg("cell"), arg("pbc"), arg("cutoff"),
                                                                      arg("batch") = py::none());
  Bind<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&)>::to(
      m, "edge_vectors", arg("positions"), arg("cell"), arg("edge_index"), arg("cell_shift"),
      arg("batch") = py::none());
  Bind<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, int64_t)>::to(
      m, "edge_embedding", arg("edge_vec"), arg("inverse_cutoff"), arg("l_max"));
  Bind<Tensor(const Tensor&, at::IntArrayRef, double, double)>::to(m, "gate", arg("x"), arg("spec"),
                                                                   arg("silu_factor"), arg("tanh_factor"));
  Bind<Tensor(const Tensor&, const Tensor&, const OptionalTensor&, at::IntArrayRef, bool)>::to(
      m, "block_linear", arg("x"), arg("weight"), arg("types"), arg("spec"), arg("transposed") = false);
  Bind<Tensor(const Tensor&, const Tensor&, at::IntArrayRef)>::to(m, "type_weights", arg("features"),
                                                                  arg("weight"), arg("spec"));
  Bind<Tensor(const Tensor&, const Tensor&, const Tensor&)>::to(m, "radial_interpolation", arg("table"),
                                                                arg("slope"), arg("x"));
  Bind<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, at::IntArrayRef)>::to(
      m, "tensor_product_conv", arg("x"), arg("edge_sh"), arg("edge_weight"), arg("edge_index"), arg("spec"));
  Bind<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
              const Tensor&, at::IntArrayRef, at::IntArrayRef)>::to(m, "tabulated_conv", arg("x"),
                                                                    arg("edge_vec"), arg("edge_index"),
                                                                    arg("atom_types"), arg("cutoffs"),
                                                                    arg("table"), arg("linear"),
                                                                    arg("conv_spec"), arg("linear_spec"));
  Bind<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                  const Tensor&, const Tensor&, const Tensor&, at::IntArrayRef,
                                  at::IntArrayRef, bool)>::to(m, "tabulated_conv_vjp", arg("cotangents"),
                                                              arg("x"), arg("edge_vec"), arg("edge_index"),
                                                              arg("atom_types"), arg("cutoffs"), arg("table"),
                                                              arg("linear_transposed"), arg("conv_spec"),
                                                              arg("linear_spec"), arg("needs_x") = true);
  Bind<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&)>::to(
      m, "gmm_nll", arg("features"), arg("means"), arg("precisions_cholesky"), arg("log_weights"));
  Bind<std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>(
      const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, c10::SymInt, bool, int64_t,
      int64_t)>::overload(m, "force_variance", "members", arg("edge_index"), arg("edge_vec"),
                          arg("grad_energy"), arg("grad_sigma"), arg("batch"), arg("num_structures"),
                          arg("local"), arg("ddof"), arg("members"));
}
