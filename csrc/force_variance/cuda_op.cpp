// The CUDA ops of force_variance: checks, memory, the stream; the kernels are in cuda.cu.
#include "common/cuda_op.h"

#ifdef UQFORCE_HAS_CUDA

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "force_variance/cuda.h"
#include "force_variance/op.h"

namespace uqforce::force_variance {
namespace {

// What the ops are given, and what they want.
struct Call {
  bool local;
  int64_t ddof, members, structures;
  std::vector<Tensor> inputs;      // edge_index, edge_vec, grad_energy, grad_sigma, batch
  std::vector<Tensor> cotangents;  // of the eight results, or none
  std::vector<Tensor> directions;  // of edge_vec, grad_energy, grad_sigma, or none
  std::vector<Tensor> results, gradients;
};

std::vector<Tensor> contiguous(std::initializer_list<Tensor> tensors) {
  std::vector<Tensor> result;
  for (const Tensor& tensor : tensors) result.push_back(tensor.contiguous());
  return result;
}

void run(const Call& call) {
  const Tensor &edge_index = call.inputs[0], &grad_energy = call.inputs[2], &batch = call.inputs[4];
  AT_DISPATCH_FLOATING_TYPES(grad_energy.scalar_type(), "force_variance", [&] {
    using T = scalar_t;
    const auto in = [](const std::vector<Tensor>& tensors, size_t k) -> const T* {
      return tensors.empty() ? nullptr : tensors[k].const_data_ptr<T>();
    };
    const auto out = [](const std::vector<Tensor>& tensors, size_t k) -> T* {
      return tensors.empty() ? nullptr : tensors[k].mutable_data_ptr<T>();
    };
    const int64_t edges = edge_index.size(1);
    const int64_t* const index = edge_index.const_data_ptr<int64_t>();
    const auto &u = call.directions, &c = call.cotangents, &r = call.results, &g = call.gradients;
    const Problem<T> problem = {batch.size(0),      edges,
                                call.structures,    grad_energy.size(0),
                                call.members,       call.inputs[3].size(0),
                                call.local,         call.ddof,
                                !r.empty(),         !g.empty(),
                                !u.empty(),         index,
                                index + edges,      batch.const_data_ptr<int64_t>(),
                                in(call.inputs, 1), in(call.inputs, 2),
                                in(call.inputs, 3), in(u, 0),
                                in(u, 1),           in(u, 2)};
    const Tensor workspace = at::empty({workspace_bytes(problem)}, grad_energy.options().dtype(at::kByte));
    evaluate<T>(problem,
                {out(r, 0), out(r, 1), out(r, 2), out(r, 3), out(r, 4), out(r, 5), out(r, 6), out(r, 7)},
                {in(c, 0), in(c, 1), in(c, 2), in(c, 3), in(c, 4), in(c, 5), in(c, 6), in(c, 7)},
                {out(g, 0), out(g, 1), out(g, 2)}, workspace.mutable_data_ptr(),
                current_stream(grad_energy.device()));
  });
}

Call call_of(UQFORCE_INPUTS) {
  return {.local = local,
          .ddof = ddof,
          .members = members,
          .structures = num_structures.expect_int(),
          .inputs = contiguous({edge_index, edge_vec, grad_energy, grad_sigma, batch})};
}

std::vector<Tensor> empty_results(const Call& call) {
  const Tensor& like = call.inputs[2];
  const int64_t atoms = call.inputs[4].size(0), structures = call.structures;
  return {like.new_empty({atoms, 3}),
          like.new_empty({atoms, 6}),
          like.new_empty({atoms, 6}),
          like.new_empty({structures, 3, 3}),
          like.new_empty({structures, 3, 3}),
          like.new_empty({like.size(0), atoms, 3}),
          like.new_empty({like.size(0), structures, 3, 3}),
          like.new_empty({call.inputs[3].size(0), call.local ? atoms : structures, 3, 3})};
}

std::vector<Tensor> empty_gradients(const Call& call) {
  return {at::empty_like(call.inputs[1]), at::empty_like(call.inputs[2]), at::empty_like(call.inputs[3])};
}

Results forward_cuda(UQFORCE_INPUTS) {
  check_inputs(UQFORCE_INPUT_NAMES);
  const c10::DeviceGuard guard(grad_energy.device());
  Call call = call_of(UQFORCE_INPUT_NAMES);
  call.results = empty_results(call);
  run(call);
  const auto& r = call.results;
  return {r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7]};
}

Gradients backward_cuda(UQFORCE_INPUTS, UQFORCE_COTANGENTS) {
  check_inputs(UQFORCE_INPUT_NAMES);
  check_cotangents(UQFORCE_INPUT_NAMES, UQFORCE_COTANGENT_NAMES);
  const c10::DeviceGuard guard(grad_energy.device());
  Call call = call_of(UQFORCE_INPUT_NAMES);
  call.cotangents = contiguous({UQFORCE_COTANGENT_NAMES});
  call.gradients = empty_gradients(call);
  run(call);
  const auto& g = call.gradients;
  return {g[0], g[1], g[2]};
}

Directional double_backward_cuda(UQFORCE_INPUTS, UQFORCE_COTANGENTS, UQFORCE_DIRECTIONS) {
  check_inputs(UQFORCE_INPUT_NAMES);
  check_cotangents(UQFORCE_INPUT_NAMES, UQFORCE_COTANGENT_NAMES);
  check_directions(UQFORCE_INPUT_NAMES, UQFORCE_DIRECTION_NAMES);
  const c10::DeviceGuard guard(grad_energy.device());
  Call call = call_of(UQFORCE_INPUT_NAMES);
  call.cotangents = contiguous({UQFORCE_COTANGENT_NAMES});
  call.directions = contiguous({UQFORCE_DIRECTION_NAMES});
  call.results = empty_results(call);
  call.gradients = empty_gradients(call);
  run(call);
  const auto &r = call.results, &g = call.gradients;
  return {r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], g[0], g[1], g[2]};
}

}  // namespace

UQFORCE_CUDA_KERNELS(m) {
  m.impl("force_variance.members", forward_cuda);
  m.impl("force_variance_backward", backward_cuda);
  m.impl("force_variance_double_backward", double_backward_cuda);
}

}  // namespace uqforce::force_variance

#else

UQFORCE_WITHOUT_CUDA("force_variance.members", "force_variance_backward", "force_variance_double_backward")

#endif
