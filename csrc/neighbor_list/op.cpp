#include "neighbor_list/op.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>

#include "common/checks.h"

namespace uqforce {
namespace {

// One structure is meant where there is no batch.
void check_batch(const OptionalTensor& batch, const c10::SymInt& num_atoms, const c10::SymInt& num_structures,
                 const at::Tensor& other, const char* other_name) {
  if (batch) {
    check_shape(*batch, "batch", {num_atoms});
    check_dtype(*batch, "batch", at::kLong);
    check_same_device(*batch, "batch", other, other_name);
  } else {
    TORCH_CHECK_VALUE(num_structures == 1, "batch is None, which means one structure, but cell holds ",
                      num_structures, ": pass batch, the structure of each atom");
  }
}

void check_edges(const at::Tensor& edge_index, const at::Tensor& cell_shift, const at::Tensor& other,
                 const char* other_name) {
  check_shape(edge_index, "edge_index", {2, kAny});
  check_shape(cell_shift, "cell_shift", {edge_index.sym_size(1), 3});
  check_dtype(edge_index, "edge_index", at::kLong);
  check_dtype(cell_shift, "cell_shift", at::kLong);
  check_same_device(edge_index, "edge_index", other, other_name);
  check_same_device(cell_shift, "cell_shift", other, other_name);
}

void check_geometry(const at::Tensor& positions, const at::Tensor& cell) {
  check_shape(positions, "positions", {kAny, 3});
  check_shape(cell, "cell", {kAny, 3, 3});
  check_floating(positions, "positions");
  check_same_dtype(cell, "cell", positions, "positions");
  check_same_device(cell, "cell", positions, "positions");
}

at::Tensor edge_vectors_meta(const at::Tensor& positions, const at::Tensor& cell,
                             const at::Tensor& edge_index, const at::Tensor& cell_shift,
                             const OptionalTensor& batch) {
  check_edge_vectors(positions, cell, edge_index, cell_shift, batch);
  return at::empty_symint({edge_index.sym_size(1), 3}, positions.options());
}

std::tuple<at::Tensor, at::Tensor> edge_vectors_backward_meta(
    const at::Tensor& grad, const at::Tensor& edge_index, const at::Tensor& cell_shift,
    const OptionalTensor& batch, c10::SymInt num_atoms, c10::SymInt num_structures) {
  check_edge_vectors_backward(grad, edge_index, cell_shift, batch, num_atoms, num_structures);
  return {at::empty_symint({num_atoms, 3}, grad.options()),
          at::empty_symint({num_structures, 3, 3}, grad.options())};
}

}  // namespace

void check_neighbor_list(const at::Tensor& positions, const at::Tensor& cell, const at::Tensor& pbc,
                         double cutoff, const OptionalTensor& batch) {
  check_geometry(positions, cell);
  check_shape(pbc, "pbc", {cell.sym_size(0), 3});
  check_dtype(pbc, "pbc", at::kBool);
  check_same_device(pbc, "pbc", positions, "positions");
  check_batch(batch, positions.sym_size(0), cell.sym_size(0), positions, "positions");
  TORCH_CHECK_VALUE(std::isfinite(cutoff) && cutoff > 0, "cutoff is ", cutoff,
                    ", expected a finite length above 0 (in the unit of the positions)");
}

void check_edge_vectors(const at::Tensor& positions, const at::Tensor& cell, const at::Tensor& edge_index,
                        const at::Tensor& cell_shift, const OptionalTensor& batch) {
  check_geometry(positions, cell);
  check_edges(edge_index, cell_shift, positions, "positions");
  check_batch(batch, positions.sym_size(0), cell.sym_size(0), positions, "positions");
}

void check_edge_vectors_backward(const at::Tensor& grad, const at::Tensor& edge_index,
                                 const at::Tensor& cell_shift, const OptionalTensor& batch,
                                 const c10::SymInt& num_atoms, const c10::SymInt& num_structures) {
  check_floating(grad, "grad");
  check_edges(edge_index, cell_shift, grad, "grad");
  check_shape(grad, "grad", {edge_index.sym_size(1), 3});
  check_batch(batch, num_atoms, num_structures, grad, "grad");
}

}  // namespace uqforce

TORCH_LIBRARY_FRAGMENT(uqforce, m) {
  m.def(
      "neighbor_list(Tensor positions, Tensor cell, Tensor pbc, float cutoff, Tensor? batch) -> "
      "(Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag, at::Tag::dynamic_output_shape});
  m.def(
      "edge_vectors(Tensor positions, Tensor cell, Tensor edge_index, Tensor cell_shift, Tensor? batch) -> "
      "Tensor",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "edge_vectors_backward(Tensor grad, Tensor edge_index, Tensor cell_shift, Tensor? batch, "
      "SymInt num_atoms, SymInt num_structures) -> (Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(uqforce, Meta, m) {
  m.impl("edge_vectors", &uqforce::edge_vectors_meta);
  m.impl("edge_vectors_backward", &uqforce::edge_vectors_backward_meta);
}
