// The CUDA ops of the convolution's inference form: checks, memory, the stream; the kernels are in cuda_*.cu.
#include "common/cuda_op.h"

#ifdef UQFORCE_HAS_CUDA

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tabulated_conv/cuda.h"
#include "tabulated_conv/op.h"
#include "tensor_product_conv/cuda_edges.h"
#include "tensor_product_conv/cuda_plan.h"

namespace uqforce::tabulated {
namespace {

using at::Tensor;

// The block of the linear map that takes a path's columns; null where none does.
const ColumnBlock* block_of(const BlockSpec& map, const ConvPath& path) {
  for (const ColumnBlock& b : map.blocks) {
    const int64_t begin = b.in_offset, end = begin + b.components * b.mul_in;
    const int64_t last = path.out_offset + 2 * path.l3 * path.out_stride + path.mul;
    if (last <= begin || path.out_offset >= end) continue;
    TORCH_CHECK_VALUE(b.components == 2 * path.l3 + 1 && (path.l3 == 0 || b.mul_in == path.out_stride) &&
                          begin <= path.out_offset && path.out_offset + path.mul <= begin + b.mul_in,
                      "linear_spec: a block of ", b.components, " x ", b.mul_in,
                      " columns is no irrep of the convolution: give BlockSpec(spec.irreps_out, ...)");
    return &b;
  }
  return nullptr;
}

std::vector<CudaUnit> units_of(const TabulatedConv& conv, const conv::CudaPlan& plan, bool transposed) {
  std::vector<CudaUnit> units;
  for (const conv::CudaUnits& launch : plan.launches) {
    for (int n = 0; n < launch.count; ++n) {
      CudaUnit unit{launch.family, 0, launch.unit[n], {}};
      for (int k = 0; k < conv::kMostCouplings; ++k) {
        const int weight = unit.conv.path[k].weight_offset;
        if (weight < 0) continue;
        const auto path = std::find_if(
            conv.conv.paths.begin(), conv.conv.paths.end(),
            [&](const ConvPath& p) { return p.weight_offset <= weight && weight < p.weight_offset + p.mul; });
        const int64_t u = weight - path->weight_offset;
        unit.mul = int(path->mul);
        unit.path[k].table = path->weight_offset * (conv.intervals + 5) + u;
        const ColumnBlock* b = block_of(conv.map, *path);
        if (!b) continue;
        const int64_t row = path->out_offset + u - b->in_offset;
        unit.path[k].weight = int(b->weight_offset + row * (transposed ? 1 : b->mul_out));
        unit.path[k].out = int(b->out_offset);
        unit.path[k].mul_in = int(b->mul_in);
        unit.path[k].mul_out = int(b->mul_out);
      }
      units.push_back(unit);
    }
  }
  return units;
}

// What value and derivative have in common, in memory of torch.
struct Inputs {
  Tensor x, edge_vec, types, cutoffs, table, linear;
  conv::Edges edges;

  Inputs(const TabulatedConv& conv, bool wants_neighbours, void* stream)
      : x(conv.x.contiguous()),
        edge_vec(conv.edge_vec.contiguous()),
        types(conv.atom_types.contiguous()),
        cutoffs(conv.cutoffs.contiguous()),
        table(conv.table.contiguous()),
        linear(conv.linear.contiguous()),
        edges(conv.edge_index, x.size(0), wants_neighbours, stream) {}

  template <typename T>
  CudaCall<T> call(const TabulatedConv& conv) const {
    const EdgeLists& lists = edges.lists;
    CudaCall<T> call{};
    call.conv.dim_in = conv.conv.dim_in, call.conv.dim_out = conv.conv.dim_out;
    call.conv.sh_dim = conv.conv.sh_dim, call.conv.nodes = call.conv.pass_nodes = lists.nodes;
    call.conv.last = call.conv.edges = int(lists.edges);
    call.conv.centre = edges.index.const_data_ptr<int64_t>();
    call.conv.begin = lists.by_centre.begin, call.conv.edge = lists.by_centre.order;
    call.conv.neighbour = lists.neighbour, call.conv.bad = lists.bad;
    call.conv.x = x.const_data_ptr<T>();
    call.edge_vec = edge_vec.const_data_ptr<T>(), call.cutoffs = cutoffs.const_data_ptr<T>();
    call.table = table.const_data_ptr<T>(), call.linear = linear.const_data_ptr<T>();
    call.types = types.const_data_ptr<int64_t>(), call.num_types = int(cutoffs.size(0));
    call.l_max = int(std::lround(std::sqrt(conv.conv.sh_dim))) - 1, call.intervals = int(conv.intervals);
    call.dim_out = conv.map.dim_out;
    return call;
  }
};

// Returns whether there are nodes.
bool check_sizes(const TabulatedConv& conv) {
  TORCH_CHECK_VALUE(std::max(conv.map.weight_numel, conv.map.dim_out) < std::numeric_limits<int>::max() / 4,
                    "linear_spec has more than 2^29 columns or weights");
  return conv::check_sizes(conv.x, conv.edge_index);
}

Tensor value_cuda(const Tensor& x, const Tensor& edge_vec, const Tensor& edge_index, const Tensor& atom_types,
                  const Tensor& cutoffs, const Tensor& table, const Tensor& linear, at::IntArrayRef conv_spec,
                  at::IntArrayRef linear_spec) {
  const TabulatedConv conv(x, edge_vec, edge_index, atom_types, cutoffs, table, linear, conv_spec,
                           linear_spec);
  const bool any = check_sizes(conv);
  const c10::DeviceGuard guard(x.device());
  const Tensor out = at::zeros({x.size(0), conv.map.dim_out}, x.options());
  if (!any) return out;
  void* const stream = current_stream(x.device());
  const Inputs inputs(conv, false, stream);
  const auto with_type = [&]<typename T>(T) {
    CudaCall<T> call = inputs.call<T>(conv);
    call.out = out.mutable_data_ptr<T>();
    const auto& plan = conv::CudaPlan::of(conv.conv, conv::kForwardChannels<T>);
    for (const CudaUnit& unit : units_of(conv, plan, false)) value<T>(call, unit, stream);
  };
  x.scalar_type() == at::kFloat ? with_type(float{}) : with_type(double{});
  return out;
}

// As many cotangents as a launch takes: dx [cotangents, N, dim_in] or null, dvec [cotangents, E, 3], in
// passes of as many edges as the workspace holds.
template <typename T>
void run_vjp(CudaCall<T> call, const std::vector<CudaUnit>& units, const conv::CudaPlan& plan,
             const conv::Edges& lists, const Tensor& x, T* dx, T* dvec, void* stream) {
  const int64_t edges = call.conv.last, row = dx ? call.conv.dim_in : 0, partial = 3 * plan.degrees.count;
  const conv::Passes passes = lists.passes(call.cotangents * (row + partial) * int64_t(sizeof(T)));
  const int64_t step = passes.step;
  call.conv.pass_nodes = passes.nodes(call.conv.nodes);
  const Tensor left = at::empty({call.cotangents * step * (row + partial)}, x.options());
  T* const rows = dx ? left.mutable_data_ptr<T>() : nullptr;
  T* const partials = left.mutable_data_ptr<T>() + call.cotangents * step * row;
  call.rows_stride = step * row, call.partial_stride = step * partial;
  conv::CudaDegrees degrees{};
  degrees.count = plan.degrees.count;
  std::fill_n(degrees.of, degrees.count, uint8_t(0xff));  // of 3 columns in place of spherical harmonics
  for (int64_t first = 0; first == 0 || first < edges; first += step) {
    call.conv.first = int(first), call.conv.last = int(std::min(first + step, edges));
    call.conv.rows = rows, call.conv.partial = partials;
    if (dx && plan.zero_rows) left.slice(0, 0, call.cotangents * call.rows_stride).zero_();
    for (const CudaUnit& unit : units) vjp<T>(call, unit, stream);
    conv::CudaCall<T> sums = call.conv;
    sums.sh_dim = 3;
    if (dx) conv::add_rows(sums, lists.by_neighbour, call.cotangents, call.rows_stride, dx, stream);
    for (int k = 0; k < call.cotangents; ++k) {
      sums.partial = partials + k * call.partial_stride;
      conv::add_partial(sums, degrees, dvec + k * edges * 3, stream);
    }
  }
}

std::tuple<Tensor, Tensor> vjp_cuda(const Tensor& cotangents, const Tensor& x, const Tensor& edge_vec,
                                    const Tensor& edge_index, const Tensor& atom_types, const Tensor& cutoffs,
                                    const Tensor& table, const Tensor& linear_transposed,
                                    at::IntArrayRef conv_spec, at::IntArrayRef linear_spec, bool needs_x) {
  const TabulatedConv conv(x, edge_vec, edge_index, atom_types, cutoffs, table, linear_transposed, conv_spec,
                           linear_spec);
  conv.check_cotangents(cotangents);
  const bool any = check_sizes(conv);
  const c10::DeviceGuard guard(x.device());
  const int64_t K = cotangents.size(0), nodes = x.size(0), edges = edge_vec.size(0);
  const Tensor dx = at::empty({needs_x ? K : 0, nodes, x.size(1)}, x.options()),
               dvec = at::empty({K, edges, 3}, x.options());
  if (K == 0 || !any) return {dx, dvec};
  void* const stream = current_stream(x.device());
  const Inputs inputs(conv, needs_x, stream);
  const Tensor given = cotangents.contiguous();
  const auto with_type = [&]<typename T>(T) {
    CudaCall<T> call = inputs.call<T>(conv);
    const auto& plan = conv::CudaPlan::of(conv.conv, conv::kForwardChannels<T>);
    const std::vector<CudaUnit> units = units_of(conv, plan, true);
    const int at_once = most_cotangents<T>(conv.conv.sh_dim);
    for (int64_t k = 0; k < K; k += at_once) {
      call.cotangents = int(std::min<int64_t>(at_once, K - k));
      call.cotangent = given.const_data_ptr<T>() + k * nodes * conv.map.dim_out;
      T* const to_x = needs_x ? dx.mutable_data_ptr<T>() + k * nodes * conv.conv.dim_in : nullptr;
      run_vjp<T>(call, units, plan, inputs.edges, x, to_x, dvec.mutable_data_ptr<T>() + k * edges * 3,
                 stream);
    }
  };
  x.scalar_type() == at::kFloat ? with_type(float{}) : with_type(double{});
  return {dx, dvec};
}

}  // namespace

UQFORCE_CUDA_KERNELS(m) {
  m.impl("tabulated_conv", &value_cuda);
  m.impl("tabulated_conv_vjp", &vjp_cuda);
}

}  // namespace uqforce::tabulated

#else

UQFORCE_WITHOUT_CUDA("tabulated_conv", "tabulated_conv_vjp")

#endif
