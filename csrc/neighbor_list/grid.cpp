#include "neighbor_list/grid.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <mutex>
#include <numeric>
#include <utility>

#include "neighbor_list/frame.h"
#include "neighbor_list/refuse.h"

namespace uqforce::neighbor_list {
namespace {

// Fewer slots than this are searched one by one, without bins.
constexpr int64_t kBruteForce = 64;
// Bins along the last axis are this much shorter than the cutoff: less is searched in vain, for free, because
// bins along that axis stand side by side.
constexpr int64_t kSubdivision[3] = {1, 1, 4};
constexpr int64_t kMaxBinsPerSlot = 16;      // beyond, empty bins are not stored
constexpr double kMaxBinsPerAxis = 1 << 20;  // three axes fit in int64
constexpr double kEmptyPerAtom = 8;          // cutoffs of length per atom, beyond which gaps are closed
constexpr int64_t kAtoms = 2048;             // placed by a thread at a time

// The structure's frame; its cell must be finite and have a volume.
template <typename T>
Frame checked_frame(const T* cell, const bool* pbc, int64_t structure) {
  for (int k = 0; k < 9; ++k) {
    if (!std::isfinite(cell[k])) refuse_cell(structure, k / 3, cell[k]);
  }
  const Frame frame = make_frame(cell, pbc);
  if (!(frame.volume > kMinVolume)) refuse_volume(structure, pbc);
  return frame;
}

// floor() of a number whose floor fits in int32; std::floor is a function call without SSE 4.
inline int32_t floor_int(double value) {
  const int32_t towards_zero = int32_t(value);
  return towards_zero - (double(towards_zero) > value);
}

struct Span {
  double low, high;
};

// The steps of build_grid and what they hand on. Loops over atoms run on all threads, unless the caller gives
// every thread structures of its own.
template <typename T>
struct Builder {
  const T* positions;  // of the structure
  const int64_t first_atom, num_atoms;
  const bool* pbc;
  const double cutoff;
  const int64_t structure;
  const Frame frame;
  Arena& arena;

  std::span<Vec> fractional = arena.take<Vec>(num_atoms);  // of the wrapped atoms
  // Whole cells by which they were moved.
  std::span<std::array<int32_t, 3>> wrap = arena.take<std::array<int32_t, 3>>(num_atoms);
  std::vector<Vec> closed = {};  // A by which they were moved to close gaps; empty: not at all
  int32_t max_wrap[3] = {};
  double size = 0;    // largest coordinate plus the edges of the cell: the scale of rounding
  double reach = 0;   // the cutoff and what rounding can add to a distance
  Span span[3] = {};  // fractional bounds of the region searched
  Vec middle = {};    // and its middle and half its size, A
  double half_size = 0;
  double bins_per_unit[3] = {};

  void wrap_atoms() {
    const Span nothing = {std::numeric_limits<double>::max(), std::numeric_limits<double>::lowest()};
    for (Span& s : span) s = nothing;
    std::mutex merging;
    at::parallel_for(0, num_atoms, kAtoms, [&](int64_t begin, int64_t end) {
      double largest = 0;
      int32_t most_cells[3] = {};
      Span bounds[3] = {nothing, nothing, nothing};  // span may be changed by other threads now
      for (int64_t i = begin; i < end; ++i) {
        const T* given = positions + 3 * i;
        const Vec r = {double(given[0]), double(given[1]), double(given[2])};
        if (!std::isfinite(r[0]) || !std::isfinite(r[1]) || !std::isfinite(r[2])) {
          refuse_position(first_atom + i, r);
        }
        largest = std::max({largest, std::abs(r[0]), std::abs(r[1]), std::abs(r[2])});
        for (int k = 0; k < 3; ++k) {
          const double f = dot(frame.inverse[k], r);
          if (pbc[k] && !(std::abs(f) < kMaxWrap)) refuse_distance(first_atom + i, f);
          const int32_t cells = pbc[k] ? floor_int(f) : 0;
          wrap[i][k] = cells;
          most_cells[k] = std::max(most_cells[k], std::abs(cells));
          fractional[i][k] = f - cells;
          bounds[k] = {std::min(bounds[k].low, f - cells), std::max(bounds[k].high, f - cells)};
        }
      }
      const std::lock_guard lock(merging);
      size = std::max(size, largest);
      for (int k = 0; k < 3; ++k) {
        max_wrap[k] = std::max(max_wrap[k], most_cells[k]);
        span[k] = {std::min(span[k].low, bounds[k].low), std::max(span[k].high, bounds[k].high)};
      }
    });
    for (const Vec& row : frame.rows) size += norm(row);
  }

  // Atoms that have flown far away would make bins and coordinates coarse. Along a direction that is not
  // periodic (fractional coordinates are lengths there) gaps hold no pair, as long as they remain wider than
  // the cutoff.
  void close_gaps(int k) {
    std::vector<double> sorted(num_atoms);
    for (int64_t i = 0; i < num_atoms; ++i) sorted[i] = fractional[i][k];
    std::sort(sorted.begin(), sorted.end());
    std::vector<double> first_beyond,
        total;  // of each gap: the first coordinate beyond it, what is closed so far
    for (int64_t i = 1; i < num_atoms; ++i) {
      const double excess = sorted[i] - sorted[i - 1] - 2 * reach;
      if (excess <= 0) continue;
      first_beyond.push_back(sorted[i]);
      total.push_back((total.empty() ? 0 : total.back()) + excess);
    }
    if (total.empty()) return;
    closed.resize(num_atoms);
    for (int64_t i = 0; i < num_atoms; ++i) {
      const auto gaps = std::upper_bound(first_beyond.begin(), first_beyond.end(), fractional[i][k]);
      if (gaps == first_beyond.begin()) continue;
      closed[i][k] = total[gaps - first_beyond.begin() - 1];
      fractional[i][k] -= closed[i][k];
    }
    span[k].high -= total.back();
  }

  void choose_region() {
    reach = with_rounding(cutoff, size, frame.volume);
    double num_images = double(num_atoms);
    for (int k = 0; k < 3; ++k) {
      if (pbc[k]) {
        span[k] = {-reach / frame.height[k], 1 + reach / frame.height[k]};
        num_images *= span[k].high - span[k].low;
      } else if (num_atoms == 0) {
        span[k] = {};
      } else if (span[k].high - span[k].low > reach * kEmptyPerAtom * double(num_atoms)) {
        close_gaps(k);
      }
      for (int c = 0; c < 3; ++c) middle[c] += (span[k].low + span[k].high) / 2 * frame.rows[k][c];
      half_size += (span[k].high - span[k].low) / 2 * norm(frame.rows[k]);
    }
    if (!(num_images < kMaxImages)) refuse_images(structure, num_images, num_atoms, cutoff);
  }

  struct Images {
    int32_t first[3] = {}, last[3] = {};
    int64_t count() const {
      return int64_t(last[0] - first[0] + 1) * (last[1] - first[1] + 1) * (last[2] - first[2] + 1);
    }
  };

  // The images of an atom that lie in the region.
  Images images_of(int64_t i) const {
    Images images;
    for (int k = 0; k < 3; ++k) {
      if (!pbc[k]) continue;
      images.first[k] = -floor_int(fractional[i][k] - span[k].low);
      images.last[k] = floor_int(span[k].high - fractional[i][k]);
    }
    return images;
  }

  // The first rank of each block of kAtoms atoms, and the number of images at the end.
  std::vector<int64_t> rank_blocks() const {
    const int64_t blocks = (num_atoms + kAtoms - 1) / kAtoms;
    std::vector<int64_t> first(blocks + 1);
    at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * kAtoms; i < std::min(num_atoms, end * kAtoms); ++i) {
        first[i / kAtoms + 1] += images_of(i).count();
      }
    });
    std::partial_sum(first.begin(), first.end(), first.begin());
    return first;
  }

  // Calls f(rank, atom, a, b, c) for all images in the region.
  template <typename F>
  void for_each_image(const std::vector<int64_t>& first_rank, F f) const {
    at::parallel_for(0, int64_t(first_rank.size()) - 1, 1, [&](int64_t begin, int64_t end) {
      int64_t rank = first_rank[begin];
      for (int64_t i = begin * kAtoms; i < std::min(num_atoms, end * kAtoms); ++i) {
        const auto [first, last] = images_of(i);
        for (int32_t a = first[0]; a <= last[0]; ++a) {
          for (int32_t b = first[1]; b <= last[1]; ++b) {
            for (int32_t c = first[2]; c <= last[2]; ++c) f(rank++, i, a, b, c);
          }
        }
      }
    });
  }

  // Returns whether so few bins are empty that all are stored.
  bool choose_bins(Grid<T>& grid, int64_t num_images) {
    for (const bool subdivide : {true, false}) {
      for (int k = 0; k < 3; ++k) {
        const double length = span[k].high - span[k].low;
        const double bins = length * frame.height[k] / reach * (subdivide ? kSubdivision[k] : 1);
        grid.bins[k] = num_images <= kBruteForce ? 1 : int64_t(std::clamp(bins, 1.0, kMaxBinsPerAxis));
        bins_per_unit[k] = grid.bins[k] == 1 ? 0 : grid.bins[k] / length;
        grid.reach[k] = int64_t(std::ceil(reach / frame.height[k] * bins_per_unit[k]));
      }
      if (grid.bins[0] * grid.bins[1] * grid.bins[2] <= kMaxBinsPerSlot * (num_images + 1)) return true;
    }
    return false;
  }

  int64_t bin_at(const Grid<T>& grid, const Vec& f) const {
    int64_t at[3];
    for (int k = 0; k < 3; ++k) {
      const double bin = (f[k] - span[k].low) * bins_per_unit[k];
      at[k] = bin > 0 ? int64_t(std::min(bin, double(grid.bins[k] - 1))) : 0;
    }
    return (at[0] * grid.bins[1] + at[1]) * grid.bins[2] + at[2];
  }

  // Slots of the images, both by rank, from their bins; within a bin, ranks ascend.
  std::span<int32_t> sort_into_bins(std::span<const int64_t> bin, bool dense, Grid<T>& grid) {
    const int64_t n = bin.size();
    const auto slot = arena.take<int32_t>(n);
    if (dense) {
      const int64_t num_bins = grid.bins[0] * grid.bins[1] * grid.bins[2];
      grid.start = arena.take<int32_t>(num_bins + 2);
      std::fill(grid.start.begin(), grid.start.end(), 0);
      int32_t* next = grid.start.data() + 1;  // ends up as the end of each bin, the start of the following
      for (int64_t r = 0; r < n; ++r) ++next[bin[r] + 1];
      for (int64_t b = 0; b < num_bins; ++b) next[b + 1] += next[b];
      for (int64_t r = 0; r < n; ++r) slot[r] = next[bin[r]]++;
    } else {
      std::vector<std::pair<int64_t, int32_t>> order(n);
      for (int64_t r = 0; r < n; ++r) order[r] = {bin[r], int32_t(r)};
      std::sort(order.begin(), order.end());
      for (int64_t s = 0; s < n; ++s) slot[order[s].second] = int32_t(s);
    }
    return slot;
  }

  void place_images(Grid<T>& grid) {
    const std::vector<int64_t> first_rank = rank_blocks();
    const int64_t n = first_rank.back();
    const bool dense = choose_bins(grid, n);
    const auto bin = arena.take<int64_t>(n);
    for_each_image(first_rank, [&](int64_t rank, int64_t i, int32_t a, int32_t b, int32_t c) {
      bin[rank] = bin_at(grid, {fractional[i][0] + a, fractional[i][1] + b, fractional[i][2] + c});
    });
    const std::span<int32_t> slot = sort_into_bins(bin, dense, grid);

    grid.images = arena.take<End<T>>(n);
    grid.bin = arena.take<int64_t>(n);
    for (auto* axis : {&grid.x, &grid.y, &grid.z}) {
      *axis = arena.take<float>(n + kPadding);
      std::fill_n(axis->data() + n, kPadding, 0.0f);
    }
    grid.rank = arena.take<int32_t>(n + kPadding);
    std::fill_n(grid.rank.data() + n, kPadding, 0);
    const auto is_centre = arena.take<bool>(n);
    const Vec* rows = frame.rows;
    for_each_image(first_rank, [&](int64_t rank, int64_t i, int32_t a, int32_t b, int32_t c) {
      const int32_t s = slot[rank];
      const T* r = positions + 3 * i;
      const int32_t shift[3] = {a - wrap[i][0], b - wrap[i][1], c - wrap[i][2]};
      float at[3];
      for (int k = 0; k < 3; ++k) {
        double x = double(r[k]) + shift[0] * rows[0][k] + shift[1] * rows[1][k] + shift[2] * rows[2][k];
        if (!closed.empty()) {
          x -= closed[i][0] * rows[0][k] + closed[i][1] * rows[1][k] + closed[i][2] * rows[2][k];
        }
        at[k] = float(x - middle[k]);
      }
      grid.images[s] = {{r[0], r[1], r[2], 0}, {shift[0], shift[1], shift[2]}, first_atom + i};
      grid.x[s] = at[0];
      grid.y[s] = at[1];
      grid.z[s] = at[2];
      grid.rank[s] = int32_t(rank);
      grid.bin[s] = bin[rank];
      is_centre[s] = (a | b | c) == 0;
    });
    grid.centres = arena.take<int32_t>(num_atoms);
    int64_t num_centres = 0;
    for (int64_t s = 0; s < n; ++s) {
      if (is_centre[s]) grid.centres[num_centres++] = int32_t(s);
    }
  }

  Limits limits() const {
    double moved = cutoff;
    for (int k = 0; k < 3; ++k) {
      if (pbc[k]) moved += 2 * (max_wrap[k] + 1 + reach / frame.height[k]) * norm(frame.rows[k]);
    }
    const double squared = doubt<T>(cutoff, half_size, size, frame.volume, moved);
    return {float(cutoff * cutoff - squared), float(cutoff * cutoff + squared)};
  }
};

}  // namespace

template <typename T>
int64_t Grid<T>::first_slot(int64_t bin) const {
  if (start.size() > 0) return start[bin];
  return std::lower_bound(this->bin.data(), this->bin.data() + this->bin.size(), bin) - this->bin.data();
}

template <typename T>
int64_t Grid<T>::ranges(int64_t bin, std::vector<Range>& out) const {
  out.clear();
  const int64_t at[3] = {bin / (bins[1] * bins[2]), bin / bins[2] % bins[1], bin % bins[2]};
  int64_t low[3], high[3];
  for (int k = 0; k < 3; ++k) {
    low[k] = std::max<int64_t>(at[k] - reach[k], 0);
    high[k] = std::min(at[k] + reach[k], bins[k] - 1);
  }
  int64_t slots = 0;
  for (int64_t a = low[0]; a <= high[0]; ++a) {
    for (int64_t b = low[1]; b <= high[1]; ++b) {
      const int64_t row = (a * bins[1] + b) * bins[2];
      const Range range{first_slot(row + low[2]), first_slot(row + high[2] + 1)};
      if (range.begin == range.end) continue;
      slots += range.end - range.begin;
      out.push_back(range);
    }
  }
  return slots;
}

template <typename T>
Grid<T> build_grid(const T* positions, int64_t first_atom, int64_t num_atoms, const T* cell, const bool* pbc,
                   double cutoff, int64_t structure, Arena& arena) {
  Builder<T> builder{positions + 3 * first_atom,          first_atom, num_atoms, pbc, cutoff, structure,
                     checked_frame(cell, pbc, structure), arena};
  Grid<T> grid;
  builder.wrap_atoms();
  builder.choose_region();
  builder.place_images(grid);
  grid.limits = builder.limits();
  grid.cell = Cell<T>(cell);
  return grid;
}

template struct Grid<float>;
template struct Grid<double>;
template Grid<float> build_grid(const float*, int64_t, int64_t, const float*, const bool*, double, int64_t,
                                Arena&);
template Grid<double> build_grid(const double*, int64_t, int64_t, const double*, const bool*, double, int64_t,
                                 Arena&);

}  // namespace uqforce::neighbor_list
