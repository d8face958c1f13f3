// Large results without the cost of page faults.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace uqforce {

// Asks the system to back the tensor's memory with huge pages (2 MiB) if it is large. Fresh memory is given
// page by page when it is first written, and with pages of 4 KiB that can cost more than what is written.
inline at::Tensor with_huge_pages(at::Tensor tensor) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = 2 << 20;
  const auto begin = reinterpret_cast<uintptr_t>(tensor.data_ptr());
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage,
                  last = (begin + tensor.nbytes()) / kPage * kPage;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return tensor;
}

}  // namespace uqforce
