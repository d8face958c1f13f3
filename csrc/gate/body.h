// The gate's mathematics for one column of scalars or of gates, on the CPU and CUDA. V is a number or a
// vector of numbers, one per channel. Everything here has internal linkage: files for an instruction set
// include it.
#pragma once

#include <cstdint>

#include "common/api.h"

namespace uqforce::gating {

inline constexpr int kMaxBlocks = 16;

// Columns of a row of x: odd scalars, scalars, gates, blocks [dim, mul]; of the result: scalars, odd scalars,
// blocks. The channels of the blocks, in order, are those of the gates; `gate` is the column of a block's
// first.
struct Block {
  int start, out_start, dim, mul, gate;
};
struct Layout {
  int dim_in, dim_out, scalars, gates, odd, blocks;
  Block block[kMaxBlocks];
};

// Rows of the arrays, those that a call does not have are null. grad and what follows from it have `batch`
// rows for each row of x.
template <typename T>
struct Arrays {
  int64_t rows, batch;
  T silu_factor, tanh_factor;
  const T *x, *grad, *ddx;
  T *out, *dgrad, *dx;
};

enum class Order { forward, backward, double_backward };

namespace {

// A function of one variable with two derivatives.
template <typename V>
struct Curve {
  V value, slope, curvature;
};

// factor * x / (1 + exp(-x)), from e = exp(-|x|)
template <typename V, typename T>
UQFORCE_INLINE Curve<V> silu(V x, V e, T factor) {
  const V larger = 1 / (1 + e), smaller = e * larger;
  const V s = x < 0 ? smaller : larger, rest = x < 0 ? larger : smaller;  // a NaN stays one
  return {factor * (x * s), factor * (s * (1 + x * rest)), factor * (s * rest * (2 + x * (rest - s)))};
}

// factor * tanh(x), from e = exp(-2 |x|)
template <typename V, typename T>
UQFORCE_INLINE Curve<V> tanh(V x, V e, T factor) {
  const V inverse = 1 / (1 + e), size = (1 - e) * inverse, t = x < 0 ? -size : size;
  const V slope = 4 * e * inverse * inverse;
  return {factor * t, factor * slope, -2 * factor * (t * slope)};
}

// An array's row. `Io` loads and stores V at an address.
template <typename T>
struct Row {
  const T *x, *grad, *ddx;
  T *out, *dgrad, *dx;
  UQFORCE_INLINE Row(const Arrays<T>& a, const Layout& l, int64_t row)
      : x(a.x + row % a.rows * l.dim_in),
        grad(a.grad ? a.grad + row * l.dim_out : nullptr),
        ddx(a.ddx ? a.ddx + row * l.dim_in : nullptr),
        out(a.out ? a.out + row * l.dim_out : nullptr),
        dgrad(a.dgrad ? a.dgrad + row * l.dim_out : nullptr),
        dx(a.dx ? a.dx + row * l.dim_in : nullptr) {}
};

// Column `in` of x becomes column `out` of the result.
template <Order order, typename V, typename T, typename Io>
UQFORCE_INLINE void scalar(const Io& io, const Row<T>& row, const Curve<V>& f, int in, int out) {
  if constexpr (order == Order::forward) {
    io.store(row.out + out, f.value);
  } else if constexpr (order == Order::backward) {
    io.store(row.dx + in, io.load(row.grad + out) * f.slope);
  } else {
    const V v = io.load(row.ddx + in);
    if (row.dgrad) io.store(row.dgrad + out, v * f.slope);
    if (row.dx) io.store(row.dx + in, v * io.load(row.grad + out) * f.curvature);
  }
}

// Channel u of a block and its gate, column `gate` of x, of which f is the function.
template <Order order, typename V, typename T, typename Io>
UQFORCE_INLINE void gated(const Io& io, const Row<T>& row, const Curve<V>& f, int gate, const Block& block,
                          int u) {
  V by_grad{}, by_ddx{};
  const V v_gate = order == Order::double_backward ? io.load(row.ddx + gate) : V{};
  const V scale = v_gate * f.slope;
  for (int m = 0; m < block.dim; ++m) {
    const int in = block.start + m * block.mul + u, out = block.out_start + m * block.mul + u;
    const V x = io.load(row.x + in);
    if constexpr (order == Order::forward) {
      io.store(row.out + out, x * f.value);
    } else {
      const V g = io.load(row.grad + out);
      by_grad += g * x;
      if constexpr (order == Order::backward) {
        io.store(row.dx + in, g * f.value);
      } else {
        const V v = io.load(row.ddx + in);
        by_ddx += v * g;
        if (row.dgrad) io.store(row.dgrad + out, v * f.value + scale * x);
        if (row.dx) io.store(row.dx + in, scale * g);
      }
    }
  }
  if constexpr (order == Order::backward) io.store(row.dx + gate, f.slope * by_grad);
  if constexpr (order == Order::double_backward) {
    if (row.dx) io.store(row.dx + gate, f.slope * by_ddx + v_gate * f.curvature * by_grad);
  }
}

}  // namespace
}  // namespace uqforce::gating
