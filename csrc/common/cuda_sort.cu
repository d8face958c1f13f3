#include "common/cuda.h"
#include "common/cuda_sort.h"

#ifdef __CUDACC__

#include <algorithm>
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

namespace uqforce {

namespace {

template <typename T>
size_t bytes_to_sum(int64_t size) {
  size_t bytes = 0;
  T* none = nullptr;
  check_cuda(cub::DeviceScan::ExclusiveSum(nullptr, bytes, none, none, size), "exclusive_sum");
  return bytes;
}

template <typename T>
void sum(T* values, int64_t size, void* workspace, void* stream) {
  if (size == 0) return;
  size_t bytes = bytes_to_sum<T>(size);
  check_cuda(cub::DeviceScan::ExclusiveSum(workspace, bytes, values, values, size,
                                           static_cast<cudaStream_t>(stream)),
             "exclusive_sum");
}

}  // namespace

int64_t sum_bytes(int64_t size) {
  return int64_t(std::max(bytes_to_sum<int64_t>(size), bytes_to_sum<int>(size)));
}

void exclusive_sum(int64_t* values, int64_t size, void* workspace, void* stream) {
  sum(values, size, workspace, stream);
}

void exclusive_sum(int* values, int64_t size, void* workspace, void* stream) {
  sum(values, size, workspace, stream);
}

int64_t sort_bytes(int64_t size) {
  size_t bytes = 0;
  uint32_t* none = nullptr;
  check_cuda(cub::DeviceRadixSort::SortPairs(nullptr, bytes, none, none, none, none, size), "sort_by_key");
  return int64_t(bytes);
}

void sort_by_key(const uint32_t* keys, uint32_t* sorted_keys, const uint32_t* values, uint32_t* sorted_values,
                 int64_t size, int bits, void* workspace, void* stream) {
  if (size == 0) return;
  size_t bytes = size_t(sort_bytes(size));
  check_cuda(cub::DeviceRadixSort::SortPairs(workspace, bytes, keys, sorted_keys, values, sorted_values, size,
                                             0, bits, static_cast<cudaStream_t>(stream)),
             "sort_by_key");
}

}  // namespace uqforce

#else

#include <algorithm>
#include <numeric>
#include <vector>

namespace uqforce {

int64_t sum_bytes(int64_t) { return 0; }
int64_t sort_bytes(int64_t) { return 0; }

void exclusive_sum(int64_t* values, int64_t size, void*, void*) {
  std::exclusive_scan(values, values + size, values, int64_t(0));
}
void exclusive_sum(int* values, int64_t size, void*, void*) {
  std::exclusive_scan(values, values + size, values, 0);
}

void sort_by_key(const uint32_t* keys, uint32_t* sorted_keys, const uint32_t* values, uint32_t* sorted_values,
                 int64_t size, int bits, void*, void*) {
  std::vector<int64_t> order(size);
  std::iota(order.begin(), order.end(), 0);
  const uint32_t mask = bits < 32 ? (1u << bits) - 1 : ~0u;  // as cub does, look at these bits alone
  std::stable_sort(order.begin(), order.end(),
                   [=](int64_t a, int64_t b) { return (keys[a] & mask) < (keys[b] & mask); });
  for (int64_t k = 0; k < size; ++k) {
    sorted_keys[k] = keys[order[k]];
    sorted_values[k] = values[order[k]];
  }
}

}  // namespace uqforce

#endif
