#include "neighbor_list/grid.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

namespace uqforce {
namespace {

using Vec = std::array<double, 3>;

// Fewer slots than this are searched one by one, without bins.
constexpr int64_t kBruteForce = 64;
// Bins along the last axis are this much shorter than the cutoff: less is searched in vain, for free, because
// bins along that axis stand side by side.
constexpr int64_t kSubdivision[3] = {1, 1, 4};
constexpr int64_t kMaxBinsPerSlot = 16;                // beyond, empty bins are not stored
constexpr int64_t kMaxBinsPerAxis = int64_t(1) << 20;  // three axes fit in int64
constexpr double kMinVolume = 1e-10;                   // volume of the cell over the product of its edges
constexpr double kMaxWrap = 1e9;                       // cells by which an atom may lie outside

double dot(const Vec& a, const Vec& b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }
double norm(const Vec& a) { return std::sqrt(dot(a, a)); }
Vec cross(const Vec& a, const Vec& b) {
  return {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
}
Vec scaled(const Vec& a, double factor) { return {a[0] * factor, a[1] * factor, a[2] * factor}; }

// The cell with its directions that are not periodic replaced by unit vectors at right angles to all others.
struct Frame {
  Vec rows[3];
  Vec inverse[3];    // fractional coordinate k is dot(inverse[k], r)
  double height[3];  // distance between the faces across direction k
  double volume;     // over the product of the edges: 1 for a box, 0 for a flat cell
};

template <typename T>
Frame make_frame(const T* cell, const bool* pbc, int64_t structure) {
  Frame frame;
  int missing[3], num_missing = 0;
  for (int k = 0; k < 3; ++k) {
    for (int c = 0; c < 3; ++c) {
      frame.rows[k][c] = double(cell[3 * k + c]);
      TORCH_CHECK_VALUE(std::isfinite(frame.rows[k][c]), "cell[", structure, "] has the value ",
                        cell[3 * k + c], " in row ", k, ": every number must be finite");
    }
    if (!pbc[k]) missing[num_missing++] = k;
  }
  Vec* rows = frame.rows;
  if (num_missing == 3) {
    rows[0] = {1, 0, 0}, rows[1] = {0, 1, 0}, rows[2] = {0, 0, 1};
  } else if (num_missing == 2) {
    const Vec& a = rows[3 - missing[0] - missing[1]];
    int least = 0;  // the axis that `a` points along least
    for (int c = 1; c < 3; ++c) least = std::abs(a[c]) < std::abs(a[least]) ? c : least;
    Vec axis{};
    axis[least] = 1;
    Vec& b = rows[missing[0]];
    b = cross(a, axis);
    b = scaled(b, 1 / norm(b));
    rows[missing[1]] = cross(a, b);
    rows[missing[1]] = scaled(rows[missing[1]], 1 / norm(rows[missing[1]]));
  } else if (num_missing == 1) {
    Vec& c = rows[missing[0]];
    c = cross(rows[(missing[0] + 1) % 3], rows[(missing[0] + 2) % 3]);
    c = scaled(c, 1 / norm(c));
  }
  const double determinant = dot(rows[0], cross(rows[1], rows[2]));
  frame.volume = std::abs(determinant) / (norm(rows[0]) * norm(rows[1]) * norm(rows[2]));
  TORCH_CHECK_VALUE(frame.volume > kMinVolume, "cell[", structure, "] with pbc (", pbc[0], ", ", pbc[1], ", ",
                    pbc[2],
                    ") has no volume: its periodic rows must be linearly independent; give the cell, or ",
                    "set pbc to False where the structure is not periodic");
  for (int k = 0; k < 3; ++k) {
    frame.inverse[k] = scaled(cross(rows[(k + 1) % 3], rows[(k + 2) % 3]), 1 / determinant);
    frame.height[k] = 1 / norm(frame.inverse[k]);
  }
  return frame;
}

int64_t bin_on_axis(double fractional, double low, double bins_per_unit, int64_t bins) {
  const double bin = (fractional - low) * bins_per_unit;
  return bin > 0 ? int64_t(std::min(bin, double(bins - 1))) : 0;
}

// Puts slots in the order of their bins, ranks ascending within a bin.
std::vector<int32_t> sort_into_bins(const std::vector<int64_t>& bin, bool dense, Grid& grid) {
  const int64_t n = bin.size();
  std::vector<int32_t> order(n);
  if (dense) {
    grid.start.assign(grid.bins[0] * grid.bins[1] * grid.bins[2] + 1, 0);
    for (int64_t b : bin) ++grid.start[b + 1];
    std::partial_sum(grid.start.begin(), grid.start.end(), grid.start.begin());
    std::vector<int64_t> next(grid.start.begin(), grid.start.end() - 1);
    for (int64_t r = 0; r < n; ++r) order[next[bin[r]]++] = r;
  } else {
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return bin[a] < bin[b]; });
    grid.bin_of.resize(n);
    for (int64_t s = 0; s < n; ++s) grid.bin_of[s] = bin[order[s]];
  }
  return order;
}

}  // namespace

int64_t Grid::first_slot(int64_t bin) const {
  if (!start.empty()) return start[bin];
  return std::lower_bound(bin_of.begin(), bin_of.end(), bin) - bin_of.begin();
}

void Grid::ranges(int64_t bin, std::vector<Range>& out) const {
  out.clear();
  const int64_t at[3] = {bin / (bins[1] * bins[2]), bin / bins[2] % bins[1], bin % bins[2]};
  int64_t low[3], high[3];
  for (int k = 0; k < 3; ++k) {
    low[k] = std::max<int64_t>(at[k] - reach[k], 0);
    high[k] = std::min(at[k] + reach[k], bins[k] - 1);
  }
  for (int64_t a = low[0]; a <= high[0]; ++a) {
    for (int64_t b = low[1]; b <= high[1]; ++b) {
      const int64_t row = (a * bins[1] + b) * bins[2];
      const Range range{first_slot(row + low[2]), first_slot(row + high[2] + 1)};
      if (range.begin < range.end) out.push_back(range);
    }
  }
}

template <typename T>
Grid build_grid(const T* positions, int64_t num_atoms, const T* cell, const bool* pbc, double cutoff,
                int32_t* wrap, int64_t first_atom, int64_t structure) {
  const Frame frame = make_frame(cell, pbc, structure);
  std::vector<Vec> wrapped(num_atoms), fractional(num_atoms);
  double max_coordinate = 0;
  for (int64_t i = 0; i < num_atoms; ++i) {
    const T* given = positions + 3 * i;
    TORCH_CHECK_VALUE(std::isfinite(given[0]) && std::isfinite(given[1]) && std::isfinite(given[2]),
                      "positions[", first_atom + i, "] is (", given[0], ", ", given[1], ", ", given[2],
                      "): every coordinate must be finite; correct or remove this atom");
    Vec r = {double(given[0]), double(given[1]), double(given[2])};
    for (int k = 0; k < 3; ++k) max_coordinate = std::max(max_coordinate, std::abs(r[k]));
    for (int k = 0; k < 3; ++k) fractional[i][k] = dot(frame.inverse[k], r);
    for (int k = 0; k < 3; ++k) {
      const double cells = pbc[k] ? std::floor(fractional[i][k]) : 0;
      TORCH_CHECK_VALUE(std::abs(cells) < kMaxWrap, "positions[", first_atom + i, "] lies ", cells,
                        " cells away from the cell: wrap the positions into the cell");
      wrap[3 * i + k] = int32_t(cells);
      fractional[i][k] -= cells;
      for (int c = 0; c < 3; ++c) r[c] -= cells * frame.rows[k][c];
    }
    wrapped[i] = r;
  }

  // What rounding can do to a distance, generously; bins are larger by this, so that it cannot hide a pair.
  const double size = max_coordinate + norm(frame.rows[0]) + norm(frame.rows[1]) + norm(frame.rows[2]);
  const double slack = 1e-5 * cutoff + 1e-14 * size / frame.volume;
  const double reach = cutoff + slack;
  Vec low{}, high{};
  double num_images = double(num_atoms);
  for (int k = 0; k < 3; ++k) {
    if (pbc[k]) {
      low[k] = -reach / frame.height[k];
      high[k] = 1 + reach / frame.height[k];
      num_images *= high[k] - low[k];
    } else {
      const auto by_axis = [k](const Vec& a, const Vec& b) { return a[k] < b[k]; };
      const auto [first, last] = std::minmax_element(fractional.begin(), fractional.end(), by_axis);
      if (num_atoms > 0) low[k] = (*first)[k], high[k] = (*last)[k];
    }
  }
  TORCH_CHECK_VALUE(num_images < double(std::numeric_limits<int32_t>::max()) / 2, "structure ", structure,
                    " has about ", num_images, " periodic images of its ", num_atoms,
                    " atoms within the cutoff ", cutoff,
                    ": more than a neighbour list can hold; use a smaller cutoff or a larger cell");

  Grid grid;
  std::vector<Vec> image_at, image_fractional;
  grid.images.reserve(size_t(num_images * 1.05) + 16);
  image_at.reserve(grid.images.capacity());
  image_fractional.reserve(grid.images.capacity());
  for (int64_t i = 0; i < num_atoms; ++i) {
    int32_t first[3], last[3];
    for (int k = 0; k < 3; ++k) {
      first[k] = pbc[k] ? int32_t(std::ceil(low[k] - fractional[i][k])) : 0;
      last[k] = pbc[k] ? int32_t(std::floor(high[k] - fractional[i][k])) : 0;
    }
    for (int32_t a = first[0]; a <= last[0]; ++a) {
      for (int32_t b = first[1]; b <= last[1]; ++b) {
        for (int32_t c = first[2]; c <= last[2]; ++c) {
          const int32_t* w = wrap + 3 * i;
          grid.images.push_back({int32_t(i), {a - w[0], b - w[1], c - w[2]}});
          Vec r = wrapped[i];
          for (int k = 0; k < 3; ++k)
            r[k] += a * frame.rows[0][k] + b * frame.rows[1][k] + c * frame.rows[2][k];
          image_at.push_back(r);
          image_fractional.push_back({fractional[i][0] + a, fractional[i][1] + b, fractional[i][2] + c});
        }
      }
    }
  }

  const int64_t n = grid.images.size();
  TORCH_CHECK_VALUE(n < std::numeric_limits<int32_t>::max(), "structure ", structure, " has ", n,
                    " periodic images within the cutoff ", cutoff, ": use a smaller cutoff or a larger cell");
  double bins_per_unit[3];
  const auto choose_bins = [&](bool subdivide) {
    for (int k = 0; k < 3; ++k) {
      const double length = (high[k] - low[k]) * frame.height[k] * (subdivide ? kSubdivision[k] : 1);
      const double bins = n <= kBruteForce ? 1 : std::floor(length / reach);
      grid.bins[k] = int64_t(std::clamp(bins, 1.0, double(kMaxBinsPerAxis)));
      bins_per_unit[k] = grid.bins[k] == 1 ? 0 : grid.bins[k] / (high[k] - low[k]);
      grid.reach[k] = int64_t(std::ceil(reach / frame.height[k] * bins_per_unit[k]));
    }
    return grid.bins[0] * grid.bins[1] * grid.bins[2] <= kMaxBinsPerSlot * std::max<int64_t>(n, 1);
  };
  const bool dense = choose_bins(true) || choose_bins(false);
  std::vector<int64_t> bin(n);
  for (int64_t r = 0; r < n; ++r) {
    int64_t at[3];
    for (int k = 0; k < 3; ++k) {
      at[k] = bin_on_axis(image_fractional[r][k], low[k], bins_per_unit[k], grid.bins[k]);
    }
    bin[r] = (at[0] * grid.bins[1] + at[1]) * grid.bins[2] + at[2];
  }
  grid.rank = sort_into_bins(bin, dense, grid);

  // float32 coordinates, relative to the middle of the images so that they are small.
  Vec least, most;
  least.fill(std::numeric_limits<double>::infinity());
  most.fill(-std::numeric_limits<double>::infinity());
  for (const Vec& r : image_at) {
    for (int k = 0; k < 3; ++k) least[k] = std::min(least[k], r[k]), most[k] = std::max(most[k], r[k]);
  }
  double half_size = 0;
  for (int k = 0; k < 3; ++k) half_size = std::max(half_size, (most[k] - least[k]) / 2);
  for (auto* axis : {&grid.x, &grid.y, &grid.z}) axis->resize(n);
  grid.centres.reserve(num_atoms);
  for (int64_t s = 0; s < n; ++s) {
    const int32_t rank = grid.rank[s];
    const Vec& r = image_at[rank];
    grid.x[s] = float(r[0] - (least[0] + most[0]) / 2);
    grid.y[s] = float(r[1] - (least[1] + most[1]) / 2);
    grid.z[s] = float(r[2] - (least[2] + most[2]) / 2);
    const Image& image = grid.images[rank];
    const int32_t* w = wrap + 3 * image.atom;
    if (image.shift[0] + w[0] == 0 && image.shift[1] + w[1] == 0 && image.shift[2] + w[2] == 0) {
      grid.centres.push_back({bin[rank], int32_t(s)});
    }
  }
  // Error of one component of a difference: float32 rounding of both coordinates and of the difference, the
  // wrapping in float64, and the rounding of the edge vector itself in T. Twice the sum, to be safe.
  const double component =
      2 * (std::numeric_limits<float>::epsilon() * (half_size + cutoff) +
           8 * double(std::numeric_limits<T>::epsilon()) * (size + cutoff) / frame.volume);
  const double squared = 4 * cutoff * component + 4 * component * component +
                         8 * std::numeric_limits<float>::epsilon() * cutoff * cutoff;
  grid.inside = float(cutoff * cutoff - squared);
  grid.outside = float(cutoff * cutoff + squared);
  return grid;
}

template Grid build_grid(const float*, int64_t, const float*, const bool*, double, int32_t*, int64_t,
                         int64_t);
template Grid build_grid(const double*, int64_t, const double*, const bool*, double, int32_t*, int64_t,
                         int64_t);

}  // namespace uqforce
