// Paths -> groups of one input and family -> units of a block of channels -> launches.
#include "tensor_product_conv/cuda_plan.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

namespace uqforce::conv {
namespace {

struct FamilyTable {
  int l1, size, l2[kMostCouplings], l3[kMostCouplings];
};

template <class F>
constexpr FamilyTable table_of() {
  static_assert(F::size <= kMostCouplings);
  FamilyTable table{F::l1, F::size, {}, {}};
  for (int k = 0; k < F::size; ++k) table.l2[k] = F::l2(k), table.l3[k] = F::l3(k);
  return table;
}

template <class... F>
std::vector<FamilyTable> tables_of(FamilyList<F...>) {
  return {table_of<F>()...};
}

// Paths of one input and one family, each in the place of its coupling.
struct Group {
  int family;
  const ConvPath* path[kMostCouplings];
  const ConvPath* input;  // any of them
};

bool same_input(const ConvPath& a, const ConvPath& b) {
  return a.l1 == b.l1 && a.mul == b.mul && a.in_offset == b.in_offset && a.in_stride == b.in_stride;
}

std::vector<Group> groups_of(const ConvSpec& spec) {
  const auto families = tables_of(Families{});
  std::vector<Group> groups;
  for (const ConvPath& path : spec.paths) {
    int family = 0, place = 0;
    for (int f = 0; f < int(families.size()); ++f) {
      for (int k = 0; k < families[f].size; ++k) {
        if (families[f].l1 == path.l1 && families[f].l2[k] == path.l2 && families[f].l3[k] == path.l3) {
          family = f, place = k;
        }
      }
    }
    const auto fits = [&](const Group& group) {
      return group.family == family && !group.path[place] && same_input(*group.input, path);
    };
    auto found = std::find_if(groups.begin(), groups.end(), fits);
    if (found == groups.end()) found = groups.insert(groups.end(), {family, {}, &path});
    found->path[place] = &path;
  }
  return groups;
}

// Calls use(column) for each column of the unit's input.
template <class Use>
void for_columns(const CudaUnit& unit, int64_t l1, const Use& use) {
  for (int64_t m = 0; m <= 2 * l1; ++m) {
    for (int64_t u = 0; u < unit.channels; ++u) use(unit.in_offset + m * unit.in_stride + u);
  }
}

CudaPlan make_plan(const ConvSpec& spec, int channels) {
  TORCH_CHECK_VALUE(
      std::max({spec.dim_in, spec.dim_out, spec.weight_numel}) <= std::numeric_limits<int>::max(),
      "spec has more than 2^31 - 1 columns or weights");
  CudaPlan plan{};
  const auto families = tables_of(Families{});
  std::vector<std::vector<bool>> read;  // columns of x, by each launch
  for (const Group& group : groups_of(spec)) {
    const FamilyTable& family = families[group.family];
    for (int64_t u = 0; u < group.input->mul; u += channels) {
      CudaUnit unit{};
      unit.in_offset = int(group.input->in_offset + u);
      unit.in_stride = int(group.input->in_stride);
      unit.channels = int(std::min<int64_t>(channels, group.input->mul - u));
      unit.index = plan.degrees.count;
      int64_t sizes = 4 | spec.weight_numel | unit.channels;
      for (int k = 0; k < kMostCouplings; ++k) {
        const ConvPath* path = group.path[k];
        unit.path[k] = path ? CudaUnit::Path{int(path->out_offset + u), int(path->out_stride),
                                             int(path->weight_offset + u)}
                            : CudaUnit::Path{0, 0, -1};
        if (!path) continue;
        unit.degrees |= 1u << path->l2;
        sizes |= path->weight_offset + u;
      }
      unit.alignment = uint8_t(sizes & -sizes);
      TORCH_CHECK_VALUE(plan.degrees.count < CudaDegrees::kMost, "spec has more than ", CudaDegrees::kMost,
                        " blocks of channels: too many for the CUDA kernels");
      plan.degrees.of[plan.degrees.count++] = uint8_t(unit.degrees);
      // The units of a launch write to columns of dx of their own.
      size_t k = 0;
      for (; k < plan.launches.size(); ++k) {
        bool free = plan.launches[k].family == group.family && plan.launches[k].count < CudaUnits::kMost;
        for_columns(unit, family.l1, [&](int64_t column) { free = free && !read[k][column]; });
        if (free) break;
      }
      if (k == plan.launches.size()) {
        plan.launches.push_back({group.family, 0, {}});
        read.emplace_back(spec.dim_in);
      }
      plan.launches[k].unit[plan.launches[k].count++] = unit;
      for_columns(unit, family.l1, [&](int64_t column) { read[k][column] = true; });
    }
  }
  std::vector<bool> written(spec.dim_in);
  for (size_t k = 0; k < plan.launches.size(); ++k) {
    for (int n = 0; n < plan.launches[k].count; ++n) {
      CudaUnit& unit = plan.launches[k].unit[n];
      bool all = true, none = true;
      for_columns(unit, families[plan.launches[k].family].l1, [&](int64_t column) {
        all = all && written[column];
        none = none && !written[column];
      });
      unit.first = none;
      plan.zero_rows = plan.zero_rows || (!all && !none);
    }
    for (int64_t column = 0; column < spec.dim_in; ++column) {
      if (read[k][column]) written[column] = true;
    }
  }
  plan.zero_rows = plan.zero_rows || std::find(written.begin(), written.end(), false) != written.end();
  for (CudaUnits& launch : plan.launches) {
    for (int n = 0; plan.zero_rows && n < launch.count; ++n) launch.unit[n].first = false;
  }
  return plan;
}

}  // namespace

const CudaPlan& CudaPlan::of(const ConvSpec& spec, int channels) {
  static std::mutex mutex;
  static std::map<std::pair<const ConvSpec*, int>, std::unique_ptr<const CudaPlan>> known;
  std::lock_guard<std::mutex> lock(mutex);
  auto& plan = known[{&spec, channels}];
  if (!plan) plan = std::make_unique<const CudaPlan>(make_plan(spec, channels));
  return *plan;
}

}  // namespace uqforce::conv
