// The CUDA ops of the neighbour list: checks, memory, the stream, the one wait for the number of edges; the
// kernels are in cuda.cu and cuda_edge_vectors.cu.
#include "common/cuda_op.h"

#ifdef UQFORCE_HAS_CUDA

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include "neighbor_list/cuda.h"
#include "neighbor_list/frame.h"
#include "neighbor_list/op.h"
#include "neighbor_list/refuse.h"

namespace uqforce::neighbor_list {
namespace {

using at::Tensor;

const int64_t* pointer(const Tensor& indices) {
  return indices.defined() ? indices.const_data_ptr<int64_t>() : nullptr;
}

Tensor bytes(int64_t size, const Tensor& like) { return at::empty({size}, like.options().dtype(at::kByte)); }

// Raises the error of a fault; only now the values are looked at.
template <typename T>
[[noreturn]] void refuse(Fault fault, int64_t where, const Problem<T>& problem, const Tensor& positions,
                         const Tensor& cell, const Tensor& pbc, const Tensor& batch, const Tensor& images) {
  const Tensor cells = cell.cpu(), periodic = pbc.cpu(), of_atom = batch.defined() ? batch.cpu() : batch;
  const int64_t* structures = pointer(of_atom);
  if (fault == Fault::structure) refuse_structure(where, structures[where], problem.structures);
  if (fault == Fault::order) refuse_order(where, structures[where], structures[where - 1]);
  if (fault == Fault::cell) {
    const T* box = cells.const_data_ptr<T>() + 9 * where;
    int k = 0;
    while (std::isfinite(box[k])) ++k;
    refuse_cell(where, k / 3, box[k]);
  }
  if (fault == Fault::volume) refuse_volume(where, periodic.const_data_ptr<bool>() + 3 * where);
  if (fault == Fault::images) {
    const int64_t atoms = batch.defined() ? of_atom.eq(where).sum().item<int64_t>() : problem.atoms;
    refuse_images(where, images[where].item<double>(), atoms, problem.cutoff);
  }
  const Tensor row = positions[where].cpu();
  const T* r = row.const_data_ptr<T>();
  const Vec at = {double(r[0]), double(r[1]), double(r[2])};
  if (fault == Fault::position) refuse_position(where, at);
  const int64_t b = batch.defined() ? structures[where] : 0;
  const bool* directions = periodic.const_data_ptr<bool>() + 3 * b;
  const Frame frame = make_frame(cells.const_data_ptr<T>() + 9 * b, directions);
  double farthest = 0;
  for (int k = 0; k < 3; ++k) {
    const double f = directions[k] ? dot(frame.inverse[k], at) : 0;
    if (!(std::abs(f) < std::abs(farthest))) farthest = f;
  }
  refuse_distance(where, farthest);
}

std::tuple<Tensor, Tensor, Tensor> neighbor_list_cuda(const Tensor& positions, const Tensor& cell,
                                                      const Tensor& pbc, double cutoff,
                                                      const OptionalTensor& batch) {
  check_neighbor_list(positions, cell, pbc, cutoff, batch);
  const c10::DeviceGuard guard(positions.device());
  void* const stream = current_stream(positions.device());
  const Tensor r = positions.contiguous(), box = cell.contiguous(), periodic = pbc.contiguous(),
               of_atom = batch ? batch->contiguous() : Tensor();
  const int64_t atoms = r.size(0), structures = box.size(0);
  const auto indices = r.options().dtype(at::kLong);
  const Tensor workspace = bytes(workspace_bytes(atoms, structures), r),
               first = at::empty({atoms + 2}, indices),
               images = at::empty({structures}, r.options().dtype(at::kDouble));
  return AT_DISPATCH_FLOATING_TYPES(r.scalar_type(), "neighbor_list", [&] {
    const Problem<scalar_t> problem = {atoms,
                                       structures,
                                       cutoff,
                                       r.const_data_ptr<scalar_t>(),
                                       box.const_data_ptr<scalar_t>(),
                                       periodic.const_data_ptr<bool>(),
                                       pointer(of_atom),
                                       workspace.mutable_data_ptr(),
                                       first.mutable_data_ptr<int64_t>(),
                                       images.mutable_data_ptr<double>()};
    count(problem, stream);
    const Tensor found = first.narrow(0, atoms, 2).cpu();  // the host waits here
    const int64_t edges = found.const_data_ptr<int64_t>()[0];
    const auto fault = uint64_t(found.const_data_ptr<int64_t>()[1]);
    if (fault != kNoFault) {
      refuse(Fault(fault >> kFaultBits), int64_t(fault & ((uint64_t(1) << kFaultBits) - 1)), problem, r, box,
             periodic, of_atom, images);
    }
    const Tensor edge_index = at::empty({2, edges}, indices), cell_shift = at::empty({edges, 3}, indices),
                 edge_vec = at::empty({edges, 3}, r.options());
    int64_t* const index = edge_index.mutable_data_ptr<int64_t>();
    write(
        problem,
        {index, index + edges, cell_shift.mutable_data_ptr<int64_t>(), edge_vec.mutable_data_ptr<scalar_t>()},
        stream);
    return std::tuple(edge_index, cell_shift, edge_vec);
  });
}

// The edges' arrays, contiguous.
struct Edges {
  Tensor index, shift, batch;

  Edges(const Tensor& edge_index, const Tensor& cell_shift, const OptionalTensor& of_atom)
      : index(edge_index.contiguous()),
        shift(cell_shift.contiguous()),
        batch(of_atom ? of_atom->contiguous() : Tensor()) {}

  template <typename T>
  EdgeVectors<T> pointers(int64_t atoms, int64_t structures) const {
    const int64_t edges = index.size(1);
    return {atoms, structures, edges, pointer(index), pointer(index) + edges, pointer(shift), pointer(batch)};
  }
};

Tensor edge_vectors_cuda(const Tensor& positions, const Tensor& cell, const Tensor& edge_index,
                         const Tensor& cell_shift, const OptionalTensor& batch) {
  check_edge_vectors(positions, cell, edge_index, cell_shift, batch);
  const c10::DeviceGuard guard(positions.device());
  const Edges edges(edge_index, cell_shift, batch);
  const Tensor r = positions.contiguous(), box = cell.contiguous(),
               vec = at::empty({edge_index.size(1), 3}, r.options());
  AT_DISPATCH_FLOATING_TYPES(r.scalar_type(), "edge_vectors", [&] {
    edge_vectors(edges.pointers<scalar_t>(r.size(0), box.size(0)), r.const_data_ptr<scalar_t>(),
                 box.const_data_ptr<scalar_t>(), vec.mutable_data_ptr<scalar_t>(),
                 current_stream(r.device()));
  });
  return vec;
}

std::tuple<Tensor, Tensor> edge_vectors_backward_cuda(const Tensor& grad, const Tensor& edge_index,
                                                      const Tensor& cell_shift, const OptionalTensor& batch,
                                                      int64_t num_atoms, int64_t num_structures) {
  check_edge_vectors_backward(grad, edge_index, cell_shift, batch, num_atoms, num_structures);
  const c10::DeviceGuard guard(grad.device());
  const Edges edges(edge_index, cell_shift, batch);
  const Tensor g = grad.contiguous(), grad_positions = at::empty({num_atoms, 3}, g.options()),
               grad_cell = at::empty({num_structures, 3, 3}, g.options()),
               workspace = bytes(backward_bytes(num_atoms, num_structures, edge_index.size(1)), g);
  AT_DISPATCH_FLOATING_TYPES(g.scalar_type(), "edge_vectors_backward", [&] {
    edge_vectors_backward(edges.pointers<scalar_t>(num_atoms, num_structures), g.const_data_ptr<scalar_t>(),
                          grad_positions.mutable_data_ptr<scalar_t>(), grad_cell.mutable_data_ptr<scalar_t>(),
                          workspace.mutable_data_ptr(), current_stream(g.device()));
  });
  return {grad_positions, grad_cell};
}

}  // namespace

UQFORCE_CUDA_KERNELS(m) {
  m.impl("neighbor_list", neighbor_list_cuda);
  m.impl("edge_vectors", edge_vectors_cuda);
  m.impl("edge_vectors_backward", edge_vectors_backward_cuda);
}

}  // namespace uqforce::neighbor_list

#else

UQFORCE_WITHOUT_CUDA("neighbor_list", "edge_vectors", "edge_vectors_backward")

#endif
