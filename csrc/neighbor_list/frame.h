// The geometry of a structure's cell, and what rounding can do to a distance: for the CPU and CUDA.
#pragma once

#include <array>
#include <cmath>
#include <limits>

#include "common/api.h"

namespace uqforce::neighbor_list {

using Vec = std::array<double, 3>;

constexpr double kMinVolume = 1e-10;  // volume of the cell over the product of its edges
constexpr double kMaxImages = 1e9;    // of a structure's atoms
constexpr double kMaxWrap = 1e9;      // cells by which an atom may lie outside

UQFORCE_HOST_DEVICE inline double dot(const Vec& a, const Vec& b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}
UQFORCE_HOST_DEVICE inline double norm(const Vec& a) { return std::sqrt(dot(a, a)); }
UQFORCE_HOST_DEVICE inline Vec cross(const Vec& a, const Vec& b) {
  return {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
}
UQFORCE_HOST_DEVICE inline Vec scaled(const Vec& a, double factor) {
  return {a[0] * factor, a[1] * factor, a[2] * factor};
}

// The cell with its directions that are not periodic replaced by unit vectors at right angles to all others.
struct Frame {
  Vec rows[3];
  Vec inverse[3];    // fractional coordinate k is dot(inverse[k], r)
  double height[3];  // distance between the faces across direction k
  double volume;     // over the product of the edges: 1 for a box, 0 for a flat cell
};

template <typename T>
UQFORCE_HOST_DEVICE Frame make_frame(const T* cell, const bool* pbc) {
  Frame frame;
  Vec* rows = frame.rows;
  int missing[3] = {}, num_missing = 0;
  for (int k = 0; k < 3; ++k) {
    for (int c = 0; c < 3; ++c) rows[k][c] = double(cell[3 * k + c]);
    if (!pbc[k]) missing[num_missing++] = k;
  }
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
  for (int k = 0; k < 3; ++k) {
    frame.inverse[k] = scaled(cross(rows[(k + 1) % 3], rows[(k + 2) % 3]), 1 / determinant);
    frame.height[k] = 1 / norm(frame.inverse[k]);
  }
  return frame;
}

// The cutoff and what rounding can add to a distance; `size` is the largest coordinate plus the edges of the
// cell.
UQFORCE_HOST_DEVICE inline double with_rounding(double cutoff, double size, double volume) {
  return cutoff * (1 + 1e-5) + 1e-14 * size / volume;
}

// How far a squared distance of float32 coordinates can be from that of the edge vector in T, twice, to be
// safe: float32 rounding of both coordinates (relative to the middle of a region `half_size` to either side)
// and of the difference, float64 rounding on the way there, and the rounding of the edge vector, which grows
// with the shift (`moved`, A), not with the positions.
template <typename T>
UQFORCE_HOST_DEVICE double doubt(double cutoff, double half_size, double size, double volume, double moved) {
  constexpr double in_float = std::numeric_limits<float>::epsilon(),
                   in_double = std::numeric_limits<double>::epsilon(),
                   in_t = std::numeric_limits<T>::epsilon();
  const double component =
      2 * (in_float * (half_size + cutoff) + 8 * in_double * size / volume + 8 * in_t * moved);
  return 4 * cutoff * component + 4 * component * component + 8 * in_float * cutoff * cutoff;
}

}  // namespace uqforce::neighbor_list
