#include "tensor_product_conv/cpu_plan.h"

#include <ATen/ops/argsort.h>

#include <algorithm>

namespace uqforce::conv {

EdgesByCentre::EdgesByCentre(const at::Tensor& edge_index, int64_t nodes)
    : index(edge_index.contiguous()), begin(nodes + 1), nodes(nodes), order(nullptr) {
  const int64_t edges = index.size(1);
  const int64_t* centre = index.const_data_ptr<int64_t>();
  neighbour = centre + edges;
  for (int64_t k = 0; k < 2 * edges; ++k) {
    TORCH_CHECK_INDEX(centre[k] >= 0 && centre[k] < nodes, "edge_index has ", centre[k], " but x has ", nodes,
                      " nodes: indices must be in 0..", nodes - 1);
  }
  bool sorted = true;
  for (int64_t e = 0; e < edges; ++e) {
    ++begin[centre[e] + 1];
    sorted &= e == 0 || centre[e - 1] <= centre[e];
  }
  for (int64_t i = 0; i < nodes; ++i) begin[i + 1] += begin[i];
  if (!sorted) {
    sorted_order = at::argsort(index[0], /*stable=*/true, 0);
    order = sorted_order.const_data_ptr<int64_t>();
  }
}

std::vector<int64_t> EdgesByCentre::cuts(int64_t size) const {
  std::vector<int64_t> cuts{0};
  while (cuts.back() < nodes) {
    const auto next = begin.begin() + cuts.back() + 1;
    const auto cut = std::upper_bound(next, begin.end(), begin[cuts.back()] + size) - begin.begin() - 1;
    cuts.push_back(std::max(cut, cuts.back() + 1));
  }
  return cuts;
}

template <typename T>
Plan<T>::Plan(const ConvSpec& spec, const Kernels<T>& kernels, Op CouplingKernels<T>::*op) {
  std::vector<bool> read(spec.dim_in), written(spec.dim_in);
  for (const ConvPath& path : spec.paths) {
    const auto for_columns = [&path](auto use) {
      for (int64_t m = 0; m <= 2 * path.l1; ++m)
        for (int64_t u = 0; u < path.mul; ++u) use(path.in_offset + m * path.in_stride + u);
    };
    bool first = true;
    for_columns([&](int64_t column) { first &= !read[column]; });
    for_columns([&](int64_t column) { read[column] = true, written[column] = written[column] || first; });
    const CouplingKernels<T>& of_path = kernels.coupling[path.l1][path.l2][path.l3];
    auto coupling =
        std::find_if(couplings.begin(), couplings.end(), [&](auto& c) { return c.kernels == &of_path; });
    if (coupling == couplings.end()) {
      coupling = couplings.insert(couplings.end(), {&of_path, path.l2 * path.l2, matrix_size});
      matrix_size += of_path.pairs * kChunk;
    }
    const Op& kernel = of_path.*op;
    for (int64_t u = 0; u < path.mul;) {
      const bool whole = u + kernel.block <= path.mul;
      Unit unit{};
      unit.in_offset = path.in_offset + u;
      unit.in_stride = path.in_stride;
      unit.out_offset = path.out_offset + u;
      unit.out_stride = path.out_stride;
      unit.weight_offset = path.weight_offset + u;
      unit.channels = whole ? kernel.block : std::min(kernels.lanes, path.mul - u);
      unit.matrix = coupling->matrix;
      unit.sh_offset = coupling->sh_offset;
      unit.whole_lines =
          unit.weight_offset * sizeof(T) % kLine == 0 && unit.channels * sizeof(T) % kLine == 0;
      unit.ahead_lines = of_path.pairs;  // the cost, for now
      unit.first = first;
      steps.push_back({whole ? kernel.whole : kernel.part, unit});
      u += unit.channels;
    }
  }
  for (int64_t column = 0; column < spec.dim_in; ++column)
    if (!written[column]) unwritten.push_back(column);
  // A row of weights is fetched ahead by all units together, each its share by cost.
  double total = 0, done = 0;
  for (const Step& step : steps) total += step.unit.ahead_lines;
  const int64_t lines = (spec.weight_numel * sizeof(T) + kLine - 1) / kLine;
  int64_t fetched = 0;
  for (Step& step : steps) {
    done += step.unit.ahead_lines;
    step.unit.ahead_lines = static_cast<int64_t>(lines * done / total) - fetched;
    fetched += step.unit.ahead_lines;
  }
}

template struct Plan<float>;
template struct Plan<double>;

}  // namespace uqforce::conv
