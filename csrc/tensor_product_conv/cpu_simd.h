// Blocks of channels: a few vectors, loaded and stored whole or in part. For cpu_body.h; internal linkage.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "common/api.h"
#if UQFORCE_VECTOR_BYTES > 16
#include <immintrin.h>
#endif

// Loops over components and constants are written out by the compiler; nothing of them is left at run time.
#define UQFORCE_UNROLL _Pragma("GCC unroll 128")

namespace uqforce::conv {
namespace {

template <typename T>
struct Simd {
  using Integer = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef Integer integers __attribute__((vector_size(UQFORCE_VECTOR_BYTES)));
  typedef T vector __attribute__((vector_size(UQFORCE_VECTOR_BYTES)));
  typedef T unaligned __attribute__((vector_size(UQFORCE_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
  static constexpr int lanes = UQFORCE_VECTOR_BYTES / sizeof(T);
};
template <typename T>
using Vector = typename Simd<T>::vector;

template <typename T>
UQFORCE_INLINE Vector<T> load(const T* p) {
  return *reinterpret_cast<const typename Simd<T>::unaligned*>(p);
}
template <typename T>
UQFORCE_INLINE void store(T* p, Vector<T> v) {
  *reinterpret_cast<typename Simd<T>::unaligned*>(p) = v;
}
template <typename T>
UQFORCE_INLINE Vector<T> broadcast(T value) {
  return value - Vector<T>{};  // folds, which + does not: -0 + 0 is 0
}

// Writes past the caches: they are left to what is read again, and the line is not read first.
template <typename T>
UQFORCE_INLINE void stream(T* p, Vector<T> v) {
#if UQFORCE_VECTOR_BYTES == 64
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), reinterpret_cast<__m512i>(v));
#elif UQFORCE_VECTOR_BYTES == 32
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(v));
#else
  store(p, v);
#endif
}
inline void stream_fence() {
#if UQFORCE_VECTOR_BYTES > 16
  _mm_sfence();
#endif
}

// The lanes of `count` <= lanes vectors added up, one sum a lane: half of the groups of lanes that are summed
// already change places between two vectors, which are then added.
template <typename T, int half, int... lane>
UQFORCE_INLINE Vector<T> merge(Vector<T> a, Vector<T> b, std::integer_sequence<int, lane...>) {
  constexpr int lanes = Simd<T>::lanes;
  return __builtin_shufflevector(a, b, (lane & half ? lane + lanes : lane)...) +
         __builtin_shufflevector(a, b, (lane & half ? lane - half + lanes : lane + half)...);
}
template <typename T, int half = Simd<T>::lanes / 2>
UQFORCE_INLINE Vector<T> lane_sums(const T* p, int64_t count) {
  constexpr int lanes = Simd<T>::lanes;
  if constexpr (half == 0) {
    return count > 0 ? load(p) : Vector<T>{};
  } else {
    return merge<T, half>(lane_sums<T, half / 2>(p, count),
                          lane_sums<T, half / 2>(p + half * lanes, count - half),
                          std::make_integer_sequence<int, lanes>{});
  }
}

// Fetches cache lines into the second-level cache and moves p on.
UQFORCE_INLINE void fetch_ahead(const char*& p, int64_t lines, int64_t step) {
  for (int64_t k = 0; k < lines; ++k, p += step) __builtin_prefetch(p, 0, 2);
}

// The first `channels` lanes of a vector.
#if UQFORCE_VECTOR_BYTES == 64
template <typename T>
struct Lanes;
template <>
struct Lanes<float> {
  __mmask16 mask;
  UQFORCE_INLINE explicit Lanes(int64_t channels) : mask((1u << channels) - 1) {}
  UQFORCE_INLINE Vector<float> load(const float* p) const { return _mm512_maskz_loadu_ps(mask, p); }
  UQFORCE_INLINE void store(float* p, Vector<float> v) const { _mm512_mask_storeu_ps(p, mask, v); }
};
template <>
struct Lanes<double> {
  __mmask8 mask;
  UQFORCE_INLINE explicit Lanes(int64_t channels) : mask((1u << channels) - 1) {}
  UQFORCE_INLINE Vector<double> load(const double* p) const { return _mm512_maskz_loadu_pd(mask, p); }
  UQFORCE_INLINE void store(double* p, Vector<double> v) const { _mm512_mask_storeu_pd(p, mask, v); }
};
#elif UQFORCE_VECTOR_BYTES == 32
// Masked stores are slow on some processors: whole vectors are stored without.
template <typename T>
struct Lanes;
template <>
struct Lanes<float> {
  bool whole;
  __m256i mask;
  UQFORCE_INLINE explicit Lanes(int64_t channels)
      : whole(channels == 8),
        mask(_mm256_cmpgt_epi32(_mm256_set1_epi32(channels), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))) {}
  UQFORCE_INLINE Vector<float> load(const float* p) const { return _mm256_maskload_ps(p, mask); }
  UQFORCE_INLINE void store(float* p, Vector<float> v) const {
    if (whole) return conv::store(p, v);
    _mm256_maskstore_ps(p, mask, v);
  }
};
template <>
struct Lanes<double> {
  bool whole;
  __m256i mask;
  UQFORCE_INLINE explicit Lanes(int64_t channels)
      : whole(channels == 4),
        mask(_mm256_cmpgt_epi64(_mm256_set1_epi64x(channels), _mm256_setr_epi64x(0, 1, 2, 3))) {}
  UQFORCE_INLINE Vector<double> load(const double* p) const { return _mm256_maskload_pd(p, mask); }
  UQFORCE_INLINE void store(double* p, Vector<double> v) const {
    if (whole) return conv::store(p, v);
    _mm256_maskstore_pd(p, mask, v);
  }
};
#else
template <typename T>
struct Lanes {
  int64_t channels;
  UQFORCE_INLINE explicit Lanes(int64_t channels) : channels(channels) {}
  UQFORCE_INLINE Vector<T> load(const T* p) const {
    if (channels == Simd<T>::lanes) return conv::load(p);
    Vector<T> v{};
    for (int64_t u = 0; u < channels; ++u) v[u] = p[u];
    return v;
  }
  UQFORCE_INLINE void store(T* p, Vector<T> v) const {
    if (channels == Simd<T>::lanes) return conv::store(p, v);
    for (int64_t u = 0; u < channels; ++u) p[u] = v[u];
  }
};
#endif

// n vectors of channels.
template <typename T, int n>
struct Block {
  Vector<T> v[n];

  UQFORCE_INLINE void operator+=(const Block& b) {
    UQFORCE_UNROLL
    for (int k = 0; k < n; ++k) v[k] += b.v[k];
  }
  UQFORCE_INLINE Block operator*(const Block& b) const {
    Block c;
    UQFORCE_UNROLL
    for (int k = 0; k < n; ++k) c.v[k] = v[k] * b.v[k];
    return c;
  }
  UQFORCE_INLINE Block operator*(Vector<T> s) const {
    Block c;
    UQFORCE_UNROLL
    for (int k = 0; k < n; ++k) c.v[k] = v[k] * s;
    return c;
  }
  UQFORCE_INLINE Block operator+(const Block& b) const {
    Block c;
    UQFORCE_UNROLL
    for (int k = 0; k < n; ++k) c.v[k] = v[k] + b.v[k];
    return c;
  }
};
template <typename T, int n>
UQFORCE_INLINE void stream(T* p, const Block<T, n>& b) {
  UQFORCE_UNROLL
  for (int k = 0; k < n; ++k) stream(p + k * Simd<T>::lanes, b.v[k]);
}
template <typename T, int n>
UQFORCE_INLINE Vector<T> dot(const Block<T, n>& a, const Block<T, n>& b, Vector<T> sum) {
  UQFORCE_UNROLL
  for (int k = 0; k < n; ++k) sum += a.v[k] * b.v[k];
  return sum;
}
template <typename T, int n>
UQFORCE_INLINE Vector<T> dot(const Block<T, n>& a, const Block<T, n>& b) {
  Vector<T> sum = a.v[0] * b.v[0];
  UQFORCE_UNROLL
  for (int k = 1; k < n; ++k) sum += a.v[k] * b.v[k];
  return sum;
}

// Reads and writes blocks: whole ones if n > 1, else the first `channels` of a vector.
template <typename T, int n>
struct Access {
  UQFORCE_INLINE explicit Access(int64_t /*channels*/) {}
  UQFORCE_INLINE Block<T, n> load(const T* p) const {
    Block<T, n> b;
    UQFORCE_UNROLL
    for (int k = 0; k < n; ++k) b.v[k] = conv::load(p + k * Simd<T>::lanes);
    return b;
  }
  UQFORCE_INLINE void store(T* p, const Block<T, n>& b) const {
    UQFORCE_UNROLL
    for (int k = 0; k < n; ++k) conv::store(p + k * Simd<T>::lanes, b.v[k]);
  }
};
template <typename T>
struct Access<T, 1> {
  Lanes<T> lanes;
  UQFORCE_INLINE explicit Access(int64_t channels) : lanes(channels) {}
  UQFORCE_INLINE Block<T, 1> load(const T* p) const { return {lanes.load(p)}; }
  UQFORCE_INLINE void store(T* p, const Block<T, 1>& b) const { lanes.store(p, b.v[0]); }
};

}  // namespace
}  // namespace uqforce::conv
