// Device-wide sums and sorts. By cub; by the standard library where the tests run CUDA kernels on the host.
#pragma once

#include <cstdint>

namespace uqforce {

// Bytes of workspace that the functions below need for `size` numbers.
int64_t sum_bytes(int64_t size);
int64_t sort_bytes(int64_t size);

// values[k] becomes values[0] + .. + values[k - 1].
void exclusive_sum(int64_t* values, int64_t size, void* workspace, void* stream);
void exclusive_sum(int* values, int64_t size, void* workspace, void* stream);

// The values in the order of their keys; those with equal keys stay in order. Keys are below 2^bits.
void sort_by_key(const uint32_t* keys, uint32_t* sorted_keys, const uint32_t* values, uint32_t* sorted_values,
                 int64_t size, int bits, void* workspace, void* stream);

// Bits of the numbers up to `largest`.
inline int bits_of(uint64_t largest) {
  int bits = 1;
  while (largest >> bits) ++bits;
  return bits;
}

}  // namespace uqforce
