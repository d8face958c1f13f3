// The kernels of cpu_kernels.h, compiled per instruction set by cpu_baseline.cpp, cpu_avx2.cpp and
// cpu_avx512.cpp, which define UQFORCE_KERNELS, the name of the table, and UQFORCE_LANES. (Not __AVX2__ and
// its like: a compiler that runs the preprocessor on its own, as ccache has it do, does not define them at
// the pragma.) Everything here has internal linkage.
#include <cstdint>

#include "neighbor_list/cpu_kernels.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace uqforce::neighbor_list {
namespace {

constexpr int64_t lanes = UQFORCE_LANES;

// `lanes` points against one centre: bit l is set where point l is certainly inside, and possibly inside.
struct Masks {
  uint32_t certain, possible;
};

#if UQFORCE_LANES == 16

typedef int32_t Ints __attribute__((vector_size(64), may_alias, aligned(4)));

struct Tester {
  __m512 cx, cy, cz, inside, outside;

  Tester(float x, float y, float z, Limits limits)
      : cx(_mm512_set1_ps(x)),
        cy(_mm512_set1_ps(y)),
        cz(_mm512_set1_ps(z)),
        inside(_mm512_set1_ps(limits.inside)),
        outside(_mm512_set1_ps(limits.outside)) {}

  Masks operator()(const Points& points, int64_t s) const {
    const __m512 dx = _mm512_loadu_ps(points.x + s) - cx, dy = _mm512_loadu_ps(points.y + s) - cy,
                 dz = _mm512_loadu_ps(points.z + s) - cz;
    const __m512 squared = dx * dx + dy * dy + dz * dz;
    return {_mm512_cmp_ps_mask(squared, inside, _CMP_LT_OQ),
            _mm512_cmp_ps_mask(squared, outside, _CMP_NGT_UQ)};
  }
};

// Appends the entries of `from` whose bit is set, in their order; may write `lanes` entries. Returns how
// many.
inline int64_t compress(const int32_t* from, uint32_t mask, int32_t* to) {
  const __m512i kept = _mm512_maskz_compress_epi32(__mmask16(mask), _mm512_loadu_si512(from));
  _mm512_storeu_si512(to, kept);
  return __builtin_popcount(mask);
}

#elif UQFORCE_LANES == 8

typedef int32_t Ints __attribute__((vector_size(32), may_alias, aligned(4)));

struct Tester {
  __m256 cx, cy, cz, inside, outside;

  Tester(float x, float y, float z, Limits limits)
      : cx(_mm256_set1_ps(x)),
        cy(_mm256_set1_ps(y)),
        cz(_mm256_set1_ps(z)),
        inside(_mm256_set1_ps(limits.inside)),
        outside(_mm256_set1_ps(limits.outside)) {}

  Masks operator()(const Points& points, int64_t s) const {
    const __m256 dx = _mm256_loadu_ps(points.x + s) - cx, dy = _mm256_loadu_ps(points.y + s) - cy,
                 dz = _mm256_loadu_ps(points.z + s) - cz;
    const __m256 squared = dx * dx + dy * dy + dz * dz;
    return {uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(squared, inside, _CMP_LT_OQ))),
            uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(squared, outside, _CMP_NGT_UQ)))};
  }
};

// For each mask, the lanes whose bit is set, one per byte.
struct CompressTable {
  uint64_t order[256];
  constexpr CompressTable() : order() {
    for (uint64_t mask = 0; mask < 256; ++mask) {
      for (uint64_t lane = 0, place = 0; lane < 8; ++lane) {
        if (mask >> lane & 1) order[mask] |= lane << (8 * place++);
      }
    }
  }
};
constexpr CompressTable compress_table;

inline int64_t compress(const int32_t* from, uint32_t mask, int32_t* to) {
  const __m256i order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(int64_t(compress_table.order[mask])));
  const __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(all, order));
  return __builtin_popcount(mask);
}

#else

typedef int32_t Ints __attribute__((vector_size(16), may_alias, aligned(4)));
typedef float Floats __attribute__((vector_size(16), may_alias, aligned(4)));

inline uint32_t bits(Ints mask) {
#ifdef __x86_64__
  return uint32_t(_mm_movemask_ps(__m128(mask)));
#else
  return (mask[0] & 1) | (mask[1] & 2) | (mask[2] & 4) | (mask[3] & 8);
#endif
}

struct Tester {
  float cx, cy, cz;
  Limits limits;

  Tester(float x, float y, float z, Limits l) : cx(x), cy(y), cz(z), limits(l) {}

  Masks operator()(const Points& points, int64_t s) const {
    const auto load = [s](const float* p) { return *reinterpret_cast<const Floats*>(p + s); };
    const Floats dx = load(points.x) - cx, dy = load(points.y) - cy, dz = load(points.z) - cz;
    const Floats squared = dx * dx + dy * dy + dz * dz;
    return {bits(squared < limits.inside), 15u & ~bits(squared > limits.outside)};
  }
};

inline int64_t compress(const int32_t* from, uint32_t mask, int32_t* to) {
  int64_t n = 0;
  for (int64_t l = 0; l < lanes; ++l) {
    to[n] = from[l];
    n += mask >> l & 1;
  }
  return n;
}

#endif

constexpr int32_t first_integers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// Appends the slots from s whose bit is set.
inline int64_t compress_slots(int64_t s, uint32_t mask, int32_t* to) {
  const Ints slots = *reinterpret_cast<const Ints*>(first_integers) + int32_t(s);
  return compress(reinterpret_cast<const int32_t*>(&slots), mask, to);
}

template <bool keep>
inline int64_t search(const Points& points, const Range* ranges, int64_t num_ranges, int64_t centre,
                      Limits limits, Found found, int32_t* doubtful, int64_t* num_doubtful) {
  const Tester test(points.x[centre], points.y[centre], points.z[centre], limits);
  int64_t n = 0, doubts = 0;
  for (const Range* range = ranges; range != ranges + num_ranges; ++range) {
    for (int64_t s = range->begin; s < range->end; s += lanes) {
      Masks masks = test(points, s);
      const int64_t left = range->end - s;
      const uint32_t valid = left < lanes ? (1u << left) - 1 : (1u << lanes) - 1;
      masks.certain &= valid;
      masks.possible &= valid;
      if (keep) {
        compress_slots(s, masks.certain, found.slot + n);
        n += compress(points.rank + s, masks.certain, found.rank + n);
      } else {
        n += __builtin_popcount(masks.certain);
      }
      if (masks.certain != masks.possible) [[unlikely]] {
        doubts += compress_slots(s, masks.possible & ~masks.certain, doubtful + doubts);
      }
    }
  }
  *num_doubtful = doubts;
  return n;
}

int64_t count(const Points& points, const Range* ranges, int64_t num_ranges, int64_t centre, Limits limits,
              int32_t* doubtful, int64_t* num_doubtful) {
  return search<false>(points, ranges, num_ranges, centre, limits, {}, doubtful, num_doubtful);
}

int64_t find(const Points& points, const Range* ranges, int64_t num_ranges, int64_t centre, Limits limits,
             Found found, int32_t* doubtful, int64_t* num_doubtful) {
  return search<true>(points, ranges, num_ranges, centre, limits, found, doubtful, num_doubtful);
}

// A neighbour's place is the number of ranks below its own. `vectors` of ranks at a time meet every rank.
template <int vectors>
inline void place(Found found, int64_t n, int64_t first, int32_t* sorted) {
  Ints mine[vectors], below[vectors] = {};
  for (int v = 0; v < vectors; ++v) {
    mine[v] = *reinterpret_cast<const Ints*>(found.rank + first + v * lanes);
  }
  for (int64_t k = 0; k < n; ++k) {
    for (int v = 0; v < vectors; ++v) below[v] -= mine[v] > found.rank[k];
  }
  const int64_t last = n - first < vectors * lanes ? n - first : vectors * lanes;
  for (int64_t l = 0; l < last; ++l) sorted[below[l / lanes][l % lanes]] = found.slot[first + l];
}

void sort(Found found, int64_t n, int32_t* sorted) {
  constexpr int block = 32 / lanes < 4 ? 4 : 32 / lanes;
  int64_t first = 0;
  for (; first + block * lanes <= n; first += block * lanes) place<block>(found, n, first, sorted);
  for (; first < n; first += lanes) place<1>(found, n, first, sorted);
}

}  // namespace

const Kernels UQFORCE_KERNELS = {&count, &find, &sort};

}  // namespace uqforce::neighbor_list
