// Vectors of three numbers in SIMD registers, and how the CPU reads and writes them.
#pragma once

#include <cstdint>
#include <cstring>

#include "force_variance/body.h"

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

}  // namespace uqforce::force_variance
