// Per-atom mathematics of force_variance, on numbers or on dual numbers.
//
// Symmetric blocks are stored xx yy zz yz xz xy. With x a sum of edge derivatives, a block collects weight *
// x x^T, and the adjoint of x under a cotangent c of the block is weight * 2 C x, where C has the
// off-diagonal cotangents halved, since each stands for two entries of the matrix.
#pragma once

#include <cstdint>
#include <cstring>

namespace uqforce::force_variance {

// A vector and a fourth number that means nothing, in SIMD registers that every processor has.
template <typename T>
struct Four {
  typedef T Register __attribute__((vector_size(16)));
  static constexpr int lanes = 16 / sizeof(T), registers = 4 / lanes;

  Register r[registers] = {};

  Four() = default;
  explicit Four(T x) {
    for (Register& part : r) {
      if constexpr (lanes == 4) {
        part = Register{x, x, x, x};
      } else {
        part = Register{x, x};
      }
    }
  }
  Four(T x, T y, T z) {
    if constexpr (registers == 1) {
      r[0] = Register{x, y, z, T(0)};
    } else {
      r[0] = Register{x, y};
      r[1] = Register{z, T(0)};
    }
  }
  T operator[](int i) const { return r[i / lanes][i % lanes]; }

  friend Four operator+(Four a, const Four& b) { return a += b; }
  friend Four operator-(Four a, const Four& b) { return a -= b; }
  friend Four operator*(Four a, const Four& b) {
    for (int i = 0; i < registers; ++i) a.r[i] *= b.r[i];
    return a;
  }
  Four& operator+=(const Four& b) {
    for (int i = 0; i < registers; ++i) r[i] += b.r[i];
    return *this;
  }
  Four& operator-=(const Four& b) {
    for (int i = 0; i < registers; ++i) r[i] -= b.r[i];
    return *this;
  }
};

// value + slope t, t^2 = 0: arithmetic carries the derivative along a direction.
template <typename T>
struct Dual {
  T value, slope;

  Dual() = default;
  Dual(T value, T slope = T(0)) : value(value), slope(slope) {}
  template <typename Other>
  explicit Dual(const Dual<Other>& other) : value(T(other.value)), slope(T(other.slope)) {}

  friend Dual operator+(Dual a, Dual b) { return {a.value + b.value, a.slope + b.slope}; }
  friend Dual operator-(Dual a, Dual b) { return {a.value - b.value, a.slope - b.slope}; }
  friend Dual operator*(Dual a, Dual b) { return {a.value * b.value, a.value * b.slope + a.slope * b.value}; }
  friend Dual operator*(T a, Dual b) { return {a * b.value, a * b.slope}; }
  Dual& operator+=(Dual b) { return *this = *this + b; }
  Dual& operator-=(Dual b) { return *this = *this - b; }
};

// What is written to memory: the number, or the derivative along the direction.
template <typename T>
T stored(T x) {
  return x;
}
template <typename T>
T stored(Dual<T> x) {
  return x.slope;
}

// Inputs [rows, 3].
template <typename T>
struct Rows {
  const T* values;

  Four<T> operator[](int64_t row) const {
    const T* p = values + 3 * row;
    return {p[0], p[1], p[2]};
  }
};

// Types belonging to S = T or Dual<T>: the plain number T, the accumulator of long sums (virials), a vector,
// and how inputs are read.
template <typename S>
struct Types {
  using Plain = S;
  using Wide = double;
  using Vector = Four<S>;
  using View = Rows<S>;
};
template <typename T>
struct Types<Dual<T>> {
  using Plain = T;
  using Wide = Dual<double>;
  using Vector = Dual<Four<T>>;
  struct View {
    Rows<T> values, slopes;
    Vector operator[](int64_t row) const { return {values[row], slopes[row]}; }
  };
};

// One component of a vector.
template <typename T>
T at(const Four<T>& a, int i) {
  return a[i];
}
template <typename T>
Dual<T> at(const Dual<Four<T>>& a, int i) {
  return {a.value[i], a.slope[i]};
}

// The same number in all components.
template <typename T>
Four<T> broadcast(T x) {
  return Four<T>(x);
}
template <typename T>
Dual<Four<T>> broadcast(Dual<T> x) {
  return {Four<T>(x.value), Four<T>(x.slope)};
}

template <typename T>
Four<T> vector(const T* x) {
  return Four<T>(x[0], x[1], x[2]);
}
template <typename T>
Dual<Four<T>> vector(const Dual<T>* x) {
  return {Four<T>(x[0].value, x[1].value, x[2].value), Four<T>(x[0].slope, x[1].slope, x[2].slope)};
}

// Writes the three components.
template <typename T>
void store(const Four<T>& a, T* row) {
  std::memcpy(row, a.r, 3 * sizeof(T));
}

// block += weight x x^T
template <typename S, typename T>
void add_outer(S* block, T weight, const S* x) {
  block[0] += weight * (x[0] * x[0]);
  block[1] += weight * (x[1] * x[1]);
  block[2] += weight * (x[2] * x[2]);
  block[3] += weight * (x[1] * x[2]);
  block[4] += weight * (x[0] * x[2]);
  block[5] += weight * (x[0] * x[1]);
}

// adjoint += weight * d(c : x x^T)/dx
template <typename S, typename T>
void add_outer_adjoint(S* adjoint, T weight, const T* c, const S* x) {
  adjoint[0] += weight * (T(2) * c[0] * x[0] + c[5] * x[1] + c[4] * x[2]);
  adjoint[1] += weight * (c[5] * x[0] + T(2) * c[1] * x[1] + c[3] * x[2]);
  adjoint[2] += weight * (c[4] * x[0] + c[3] * x[1] + T(2) * c[2] * x[2]);
}

}  // namespace uqforce::force_variance
