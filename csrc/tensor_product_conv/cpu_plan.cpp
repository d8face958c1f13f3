#include "tensor_product_conv/cpu_plan.h"

#include <ATen/ops/argsort.h>

#include <algorithm>

#include "common/isa.h"

namespace uqforce::conv {

EdgesByCentre::EdgesByCentre(const at::Tensor& edge_index, int64_t nodes)
    : index(edge_index.contiguous()), begin(nodes + 1), nodes(nodes), order(nullptr) {
  const int64_t edges = index.size(1);
  const int64_t* centre = index.const_data_ptr<int64_t>();
  neighbour = centre + edges;
  // Every call looks at every index, so without branches: bits or'ed are negative if one term is.
  const auto minus = [](int64_t a, int64_t b) {  // without overflow
    return static_cast<int64_t>(static_cast<uint64_t>(a) - static_cast<uint64_t>(b));
  };
  int64_t outside = 0, descents = 0;
  for (int64_t k = 0; k < 2 * edges; ++k) outside |= centre[k] | minus(nodes - 1, centre[k]);
  for (int64_t k = 0; outside < 0 && k < 2 * edges; ++k) {
    TORCH_CHECK_INDEX(centre[k] >= 0 && centre[k] < nodes, "edge_index has ", centre[k], " but x has ", nodes,
                      " nodes: indices must be in 0..", nodes - 1);
  }
  for (int64_t e = 1; e < edges; ++e) descents |= centre[e] - centre[e - 1];
  if (descents >= 0) {
    // The last edge of a centre writes the end of its edges; centres without any have that of the one before.
    for (int64_t e = 0; e < edges; ++e) begin[centre[e] + 1] = e + 1;
    for (int64_t i = 0; i < nodes; ++i) begin[i + 1] = std::max(begin[i], begin[i + 1]);
    return;
  }
  for (int64_t e = 0; e < edges; ++e) ++begin[centre[e] + 1];
  for (int64_t i = 0; i < nodes; ++i) begin[i + 1] += begin[i];
  sorted_order = at::argsort(index[0], /*stable=*/true, 0);
  order = sorted_order.const_data_ptr<int64_t>();
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

int64_t EdgesByCentre::most_edges(const std::vector<int64_t>& cuts) const {
  int64_t most = 0;
  for (size_t k = 1; k < cuts.size(); ++k) most = std::max(most, begin[cuts[k]] - begin[cuts[k - 1]]);
  return most;
}

namespace {

bool same_input(const ConvPath& a, const ConvPath& b) {
  return a.l1 == b.l1 && a.mul == b.mul && a.in_offset == b.in_offset && a.in_stride == b.in_stride;
}

// Paths that are walked together, and how.
template <typename T>
struct Walked {
  std::vector<ConvPath> paths;
  const CouplingKernels<T>* kernels;
};

// Takes the first of the paths out of the list, or a whole group of paths of its input.
template <typename T>
Walked<T> take(std::vector<ConvPath>& paths, const Kernels<T>& kernels, bool grouped) {
  const ConvPath head = paths.front();
  for (const GroupKernels<T>& group : kernels.group) {
    if (!grouped || group.l1 != head.l1) continue;
    Walked<T> walked{{}, &group.kernels};
    auto left = paths;
    for (int64_t k = 0; k < group.size; ++k) {
      const auto found = std::find_if(left.begin(), left.end(), [&](const ConvPath& path) {
        return same_input(path, head) && path.l2 == group.l2[k] && path.l3 == group.l3[k];
      });
      if (found == left.end()) break;
      walked.paths.push_back(*found);
      left.erase(found);
    }
    if (static_cast<int64_t>(walked.paths.size()) < group.size) continue;
    paths = left;
    return walked;
  }
  paths.erase(paths.begin());
  return {{head}, &kernels.coupling[head.l1][head.l2][head.l3]};
}

}  // namespace

template <typename T>
Plan<T>::Plan(const ConvSpec& spec, const Kernels<T>& kernels, Op CouplingKernels<T>::*op, bool grouped) {
  std::vector<bool> read(spec.dim_in), written(spec.dim_in);
  for (auto left = spec.paths; !left.empty();) {
    const auto [paths, together] = take(left, kernels, grouped);
    const ConvPath& head = paths.front();
    bool first = true;
    const auto for_columns = [&head](auto use) {
      for (int64_t m = 0; m <= 2 * head.l1; ++m)
        for (int64_t u = 0; u < head.mul; ++u) use(head.in_offset + m * head.in_stride + u);
    };
    for_columns([&](int64_t column) { first = first && !read[column]; });
    for_columns([&](int64_t column) { read[column] = true, written[column] = written[column] || first; });
    const Op& kernel = together->*op;
    for (int64_t u = 0; u < head.mul;) {
      const bool whole = u + kernel.block <= head.mul;
      Unit unit{};
      unit.channels = whole ? kernel.block : std::min(kernels.lanes, head.mul - u);
      unit.ahead_lines = together->pairs * unit.channels;  // the cost, for now
      unit.first = first;
      for (size_t k = paths.size(); k-- > 0;) {  // the head last, as it is linked to the others
        const ConvPath& path = paths[k];
        unit.in_offset = path.in_offset + u;
        unit.in_stride = path.in_stride;
        unit.out_offset = path.out_offset + u;
        unit.out_stride = path.out_stride;
        unit.weight_offset = path.weight_offset + u;
        unit.matrix = matrix_of(kernels.coupling[path.l1][path.l2][path.l3], path.l2);
        unit.sh_offset = path.l2 * path.l2;
        unit.whole_lines =
            unit.weight_offset * sizeof(T) % kLine == 0 && unit.channels * sizeof(T) % kLine == 0;
        if (k > 0) unit.next = &linked.emplace_back(unit);
      }
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

template <typename T>
int64_t Plan<T>::matrix_of(const CouplingKernels<T>& coupling, int64_t l2) {
  for (const Coupling& known : couplings)
    if (known.kernels == &coupling) return known.matrix;
  couplings.push_back({&coupling, l2 * l2, matrix_size});
  matrix_size += coupling.pairs * kChunk;
  return couplings.back().matrix;
}

template <typename T>
const Kernels<T>& active_kernels() {
  return UQFORCE_ACTIVE_OF(T, conv::kernels);
}

template const Kernels<float>& active_kernels();
template const Kernels<double>& active_kernels();
template struct Plan<float>;
template struct Plan<double>;

}  // namespace uqforce::conv
