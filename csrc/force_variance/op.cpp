// Schemas, argument checks and shapes (Meta) of force_variance.
#include "force_variance/op.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <string>

#include "common/checks.h"

namespace uqforce::force_variance {
namespace {

void check_like(const Tensor& tensor, const char* name, const Tensor& other, const char* other_name,
                std::initializer_list<c10::SymInt> shape) {
  check_shape(tensor, name, shape);
  check_same_dtype(tensor, name, other, other_name);
  check_same_device(tensor, name, other, other_name);
}

}  // namespace

void check_inputs(UQFORCE_INPUTS) {
  check_dtype(edge_index, "edge_index", at::kLong);
  check_shape(edge_index, "edge_index", {2, kAny});
  const c10::SymInt edges = edge_index.sym_size(1);
  check_floating(grad_energy, "grad_energy");
  check_shape(grad_energy, "grad_energy", {kAny, edges, 3});
  check_like(grad_sigma, "grad_sigma", grad_energy, "grad_energy", {kAny, edges, 3});
  check_like(edge_vec, "edge_vec", grad_energy, "grad_energy", {edges, 3});
  check_dtype(batch, "batch", at::kLong);
  check_shape(batch, "batch", {kAny});
  check_same_device(edge_index, "edge_index", grad_energy, "grad_energy");
  check_same_device(batch, "batch", grad_energy, "grad_energy");
  TORCH_CHECK_VALUE(ddof == 0 || ddof == 1, "ddof is ", ddof, ", expected 0 or 1");
  TORCH_CHECK_VALUE(members > ddof, "grad_energy has ", members, " members, but ddof = ", ddof,
                    " needs at least ", ddof + 1);
  TORCH_CHECK_VALUE(grad_energy.sym_size(0) >= members, "members is ", members, ", but grad_energy has ",
                    grad_energy.sym_size(0), " rows");
  TORCH_CHECK_VALUE(num_structures >= 0, "num_structures is ", num_structures, ", expected 0 or more");
}

void check_cotangents(UQFORCE_INPUTS, UQFORCE_COTANGENTS) {
  const c10::SymInt atoms = batch.sym_size(0);
  check_like(c_forces, "the gradient of forces", grad_energy, "grad_energy", {atoms, 3});
  check_like(c_aleatoric, "the gradient of aleatoric", grad_energy, "grad_energy", {atoms, 6});
  check_like(c_epistemic, "the gradient of epistemic", grad_energy, "grad_energy", {atoms, 6});
  check_like(c_virial, "the gradient of virial", grad_energy, "grad_energy", {num_structures, 3, 3});
  check_like(c_virial_variance, "the gradient of virial_variance", grad_energy, "grad_energy",
             {num_structures, 3, 3});
  check_like(c_member_forces, "the gradient of member_forces", grad_energy, "grad_energy",
             {grad_energy.sym_size(0), atoms, 3});
  check_like(c_member_virials, "the gradient of member_virials", grad_energy, "grad_energy",
             {grad_energy.sym_size(0), num_structures, 3, 3});
  check_like(c_sigma_virials, "the gradient of sigma_virials", grad_energy, "grad_energy",
             {grad_sigma.sym_size(0), local ? atoms : num_structures, 3, 3});
}

void check_directions(UQFORCE_INPUTS, UQFORCE_DIRECTIONS) {
  const c10::SymInt edges = edge_index.sym_size(1);
  check_like(u_edge_vec, "the direction of edge_vec", grad_energy, "grad_energy", {edges, 3});
  check_like(u_grad_energy, "the direction of grad_energy", grad_energy, "grad_energy",
             {grad_energy.sym_size(0), edges, 3});
  check_like(u_grad_sigma, "the direction of grad_sigma", grad_energy, "grad_energy",
             {grad_sigma.sym_size(0), edges, 3});
}

namespace {

Tensor contiguous_like(const Tensor& tensor) { return at::empty_like(tensor, at::MemoryFormat::Contiguous); }

Results forward_meta(UQFORCE_INPUTS) {
  check_inputs(UQFORCE_INPUT_NAMES);
  const c10::SymInt atoms = batch.sym_size(0);
  return {grad_energy.new_empty_symint({atoms, 3}),
          grad_energy.new_empty_symint({atoms, 6}),
          grad_energy.new_empty_symint({atoms, 6}),
          grad_energy.new_empty_symint({num_structures, 3, 3}),
          grad_energy.new_empty_symint({num_structures, 3, 3}),
          grad_energy.new_empty_symint({grad_energy.sym_size(0), atoms, 3}),
          grad_energy.new_empty_symint({grad_energy.sym_size(0), num_structures, 3, 3}),
          grad_energy.new_empty_symint({grad_sigma.sym_size(0), local ? atoms : num_structures, 3, 3})};
}

Gradients backward_meta(UQFORCE_INPUTS, UQFORCE_COTANGENTS) {
  check_inputs(UQFORCE_INPUT_NAMES);
  check_cotangents(UQFORCE_INPUT_NAMES, UQFORCE_COTANGENT_NAMES);
  return {contiguous_like(edge_vec), contiguous_like(grad_energy), contiguous_like(grad_sigma)};
}

Directional double_backward_meta(UQFORCE_INPUTS, UQFORCE_COTANGENTS, UQFORCE_DIRECTIONS) {
  check_directions(UQFORCE_INPUT_NAMES, UQFORCE_DIRECTION_NAMES);
  return std::tuple_cat(forward_meta(UQFORCE_INPUT_NAMES),
                        backward_meta(UQFORCE_INPUT_NAMES, UQFORCE_COTANGENT_NAMES));
}

template <typename Signature>
auto find_op(const char* name, const char* overload = "") {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload).typed<Signature>();
}

}  // namespace

Results call_forward(UQFORCE_INPUTS) {
  static const auto op = find_op<decltype(forward_meta)>("uqforce::force_variance", "members");
  return op.call(UQFORCE_INPUT_NAMES);
}

Gradients call_backward(UQFORCE_INPUTS, UQFORCE_COTANGENTS) {
  static const auto op = find_op<decltype(backward_meta)>("uqforce::force_variance_backward");
  return op.call(UQFORCE_INPUT_NAMES, UQFORCE_COTANGENT_NAMES);
}

Directional call_double_backward(UQFORCE_INPUTS, UQFORCE_COTANGENTS, UQFORCE_DIRECTIONS) {
  static const auto op = find_op<decltype(double_backward_meta)>("uqforce::force_variance_double_backward");
  return op.call(UQFORCE_INPUT_NAMES, UQFORCE_COTANGENT_NAMES, UQFORCE_DIRECTION_NAMES);
}

TORCH_LIBRARY_FRAGMENT(uqforce, m) {
  const std::string means =
      "Tensor edge_index, Tensor edge_vec, Tensor grad_energy, Tensor grad_sigma, Tensor batch, "
      "SymInt num_structures, bool local, int ddof";
  const std::string inputs = means + ", int members";
  const std::string cotangents =
      ", Tensor c_forces, Tensor c_aleatoric, Tensor c_epistemic, Tensor c_virial, Tensor c_virial_variance, "
      "Tensor c_member_forces, Tensor c_member_virials, Tensor c_sigma_virials";
  const std::string directions = ", Tensor u_edge_vec, Tensor u_grad_energy, Tensor u_grad_sigma";
  const std::string results =
      "Tensor forces, Tensor aleatoric, Tensor epistemic, Tensor virial, Tensor virial_variance";
  m.def(("force_variance(" + means + ") -> (" + results + ")").c_str());
  m.def(("force_variance.members(" + inputs + ") -> (" + results +
         ", Tensor member_forces, Tensor member_virials, Tensor sigma_virials)")
            .c_str());
  m.def(("force_variance_backward(" + inputs + cotangents + ") -> (Tensor, Tensor, Tensor)").c_str());
  m.def(("force_variance_double_backward(" + inputs + cotangents + directions +
         ") -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)")
            .c_str());
}

// All gradients are members', and their own forces and virials are left out: what files call that were
// exported before there were these.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> means(const Tensor& edge_index, const Tensor& edge_vec,
                                                         const Tensor& grad_energy, const Tensor& grad_sigma,
                                                         const Tensor& batch, c10::SymInt num_structures,
                                                         bool local, int64_t ddof) {
  auto [forces, aleatoric, epistemic, virial, virial_variance, member_forces, member_virials, sigma_virials] =
      call_forward(edge_index, edge_vec, grad_energy, grad_sigma, batch, std::move(num_structures), local,
                   ddof, grad_energy.size(0));
  return {forces, aleatoric, epistemic, virial, virial_variance};
}

TORCH_LIBRARY_IMPL(uqforce, CompositeImplicitAutograd, m) { m.impl("force_variance", means); }

TORCH_LIBRARY_IMPL(uqforce, Meta, m) {
  m.impl("force_variance.members", forward_meta);
  m.impl("force_variance_backward", backward_meta);
  m.impl("force_variance_double_backward", double_backward_meta);
}

}  // namespace uqforce::force_variance
