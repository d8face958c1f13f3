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

typedef int32_t Ints __attribute__((vector_size(4 * UQFORCE_LANES), may_alias, aligned(4)));
typedef float Floats __attribute__((vector_size(4 * UQFORCE_LANES), may_alias, aligned(4)));
typedef double Doubles __attribute__((vector_size(4 * UQFORCE_LANES), may_alias, aligned(8)));
typedef int64_t Longs __attribute__((vector_size(4 * UQFORCE_LANES), may_alias, aligned(8)));

// bits(comparison): bit l is set where lane l is true.
// compress(from, mask, to) appends the entries of `from` whose bit is set, in their order; may write `lanes`
// entries. Returns how many.
#if UQFORCE_LANES == 16

inline uint32_t bits(Ints comparison) { return _mm512_movepi32_mask((__m512i)comparison); }
inline uint64_t bits(Longs comparison) { return _mm512_movepi64_mask((__m512i)comparison); }

inline int64_t compress(const int32_t* from, uint32_t mask, int32_t* to) {
  const __m512i kept = _mm512_maskz_compress_epi32(__mmask16(mask), _mm512_loadu_si512(from));
  _mm512_storeu_si512(to, kept);
  return __builtin_popcount(mask);
}

#elif UQFORCE_LANES == 8

inline uint32_t bits(Ints comparison) { return uint32_t(_mm256_movemask_ps((__m256)comparison)); }
inline uint64_t bits(Longs comparison) { return uint64_t(_mm256_movemask_pd((__m256d)comparison)); }

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

inline uint32_t bits(Ints comparison) {
#ifdef __x86_64__
  return uint32_t(_mm_movemask_ps((__m128)comparison));
#else
  return (comparison[0] & 1) | (comparison[1] & 2) | (comparison[2] & 4) | (comparison[3] & 8);
#endif
}

inline uint64_t bits(Longs comparison) {
#ifdef __x86_64__
  return uint64_t(_mm_movemask_pd((__m128d)comparison));
#else
  return (comparison[0] & 1) | (comparison[1] & 2);
#endif
}

inline int64_t compress(const int32_t* from, uint32_t mask, int32_t* to) {
  int64_t n = 0;
  for (int64_t l = 0; l < lanes; ++l) {
    to[n] = from[l];
    n += mask >> l & 1;
  }
  return n;
}

#endif

// `lanes` points against one centre: bit l is set where point l is certainly inside, and possibly inside.
struct Masks {
  uint32_t certain, possible;
};

inline Masks test(const Points& points, int64_t s, const float (&centre)[3], Limits limits) {
  const auto load = [s](const float* p) { return *reinterpret_cast<const Floats*>(p + s); };
  const Floats dx = load(points.x) - centre[0], dy = load(points.y) - centre[1],
               dz = load(points.z) - centre[2];
  const Floats squared = dx * dx + dy * dy + dz * dz;
  return {bits(squared < limits.inside), ~bits(squared > limits.outside)};
}

constexpr int32_t first_integers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// Appends the slots from s whose bit is set.
inline int64_t compress_slots(int64_t s, uint32_t mask, int32_t* to) {
  const Ints slots = *reinterpret_cast<const Ints*>(first_integers) + int32_t(s);
  return compress(reinterpret_cast<const int32_t*>(&slots), mask, to);
}

int64_t find(const Points& points, const Range* ranges, int64_t num_ranges, int64_t centre, Limits limits,
             Matches found, int32_t* doubtful, int64_t* num_doubtful) {
  const float at[3] = {points.x[centre], points.y[centre], points.z[centre]};
  int64_t n = 0, doubts = 0;
  for (const Range* range = ranges; range != ranges + num_ranges; ++range) {
    for (int64_t s = range->begin; s < range->end; s += lanes) {
      Masks masks = test(points, s, at, limits);
      const int64_t left = range->end - s;
      uint32_t valid = left < lanes ? (1u << left) - 1 : (1u << lanes) - 1;
      if (uint64_t(centre - s) < uint64_t(lanes)) valid &= ~(1u << (centre - s));
      masks.certain &= valid;
      masks.possible &= valid;
      compress_slots(s, masks.certain, found.slot + n);
      n += compress(points.rank + s, masks.certain, found.rank + n);
      if (masks.certain != masks.possible) [[unlikely]] {
        doubts += compress_slots(s, masks.possible & ~masks.certain, doubtful + doubts);
      }
    }
  }
  *num_doubtful = doubts;
  return n;
}

// A neighbour's place is the number of ranks below its own. `vectors` of ranks at a time meet every rank.
template <int vectors>
inline void place(Matches found, int64_t n, int64_t first, int32_t* sorted) {
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

void sort(Matches found, int64_t n, int32_t* sorted) {
  constexpr int block = 32 / lanes < 4 ? 4 : 32 / lanes;
  int64_t first = 0;
  for (; first + block * lanes <= n; first += block * lanes) place<block>(found, n, first, sorted);
  for (; first < n; first += lanes) place<1>(found, n, first, sorted);
}

int64_t find_in_molecule(const Molecule& molecule, int64_t i, double inside, double outside, uint64_t* near) {
  const auto at = [](const double* p) -> const Doubles& { return *reinterpret_cast<const Doubles*>(p); };
  int64_t count = 0;
  uint64_t doubtful = 0;
  for (int64_t first = 0; first < molecule.num_atoms; first += 64) {
    uint64_t certain = 0, possible = 0;
    const int64_t end = molecule.num_atoms < first + 64 ? molecule.num_atoms : first + 64;
    for (int64_t j = first; j < end; j += lanes / 2) {
      const Doubles dx = at(molecule.x + j) - molecule.x[i], dy = at(molecule.y + j) - molecule.y[i],
                    dz = at(molecule.z + j) - molecule.z[i];
      const Doubles squared = dx * dx + dy * dy + dz * dz;
      certain |= bits(squared < inside) << (j - first);
      possible |= bits(squared <= outside) << (j - first);
    }
    if (i / 64 == first / 64) certain &= ~(uint64_t(1) << i % 64), possible &= ~(uint64_t(1) << i % 64);
    doubtful |= certain ^ possible;
    near[first / 64] = certain;
    count += __builtin_popcountll(certain);
  }
  return doubtful == 0 ? count : -1;
}

}  // namespace

const Kernels UQFORCE_KERNELS = {&find, &sort, &find_in_molecule};

}  // namespace uqforce::neighbor_list
