// The kernels of cpu_kernels.h, written once with GCC vector extensions and compiled per instruction set by
// cpu_baseline.cpp, cpu_avx2.cpp and cpu_avx512.cpp, which define UQFORCE_VECTOR_BYTES and UQFORCE_KERNELS
// (names of the tables). Everything here has internal linkage. One channel per lane.
#include "common/simd.h"
#include "gate/cpu_kernels.h"

namespace uqforce::gating {
namespace {

template <typename T>
inline Vector<T> exp_of_size(Vector<T> x, T factor) {
  return exp_negative<T>((x < 0 ? x : -x) * factor);
}

template <typename T>
struct Whole {
  inline Vector<T> load(const T* p) const { return uqforce::load(p); }
  inline void store(T* p, Vector<T> v) const { uqforce::store(p, v); }
};

// The `size` channels that fill no vector.
template <typename T>
struct Tail {
  int size;
  inline Vector<T> load(const T* p) const {
    Vector<T> v{};
    for (int k = 0; k < size; ++k) v[k] = p[k];
    return v;
  }
  inline void store(T* p, Vector<T> v) const {
    for (int k = 0; k < size; ++k) p[k] = v[k];
  }
};

// Calls walk(io, first channel) for vectors of `channels`.
template <typename T, typename Walk>
inline void for_channels(int channels, Walk walk) {
  constexpr int lanes = Simd<T>::lanes;
  const int whole = channels - channels % lanes;
  for (int u = 0; u < whole; u += lanes) walk(Whole<T>{}, u);
  if (whole < channels) walk(Tail<T>{channels - whole}, whole);
}

template <Order order, typename T>
void gate(const Arrays<T>& a, const Layout& layout, int64_t first, int64_t last) {
  for (int64_t k = first; k < last; ++k) {
    const Row<T> row(a, layout, k);
    const auto silu_at = [&](const auto& io, int column) {
      const Vector<T> x = io.load(row.x + column);
      return silu(x, exp_of_size(x, T(1)), a.silu_factor);
    };
    for_channels<T>(layout.odd, [&](const auto& io, int u) {
      const Vector<T> x = io.load(row.x + u);
      scalar<order>(io, row, tanh(x, exp_of_size(x, T(2)), a.tanh_factor), u, layout.scalars + u);
    });
    for_channels<T>(layout.scalars, [&](const auto& io, int u) {
      const int column = layout.odd + u;
      scalar<order>(io, row, silu_at(io, column), column, u);
    });
    for (int b = 0; b < layout.blocks; ++b) {
      const Block& block = layout.block[b];
      for_channels<T>(block.mul, [&](const auto& io, int u) {
        const int column = block.gate + u;
        gated<order>(io, row, silu_at(io, column), column, block, u);
      });
    }
  }
}

template <typename T>
constexpr Kernels<T> table_of_kernels = {gate<Order::forward, T>, gate<Order::backward, T>,
                                         gate<Order::double_backward, T>};

}  // namespace

extern const Kernels<float> UQFORCE_KERNELS(f32) = table_of_kernels<float>;
extern const Kernels<double> UQFORCE_KERNELS(f64) = table_of_kernels<double>;

}  // namespace uqforce::gating
