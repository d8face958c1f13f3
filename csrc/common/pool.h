// Memory of large arrays, kept for the next call.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Allocator.h>

#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace uqforce {

// Fresh memory is cleared page by page as it is first written, which costs several times what is written (1
// to 5 GB/s against 20 where it was measured), and malloc returns large blocks to the system as soon as they
// are freed. So blocks of 256 KB and more are kept when they are freed, up to an eighth of the machine's
// memory, and given to whoever next asks for about as much, first what was used last and may still be in the
// caches. Smaller ones come from torch's allocator.
c10::Allocator& pool();

// An uninitialised tensor with memory of the pool.
at::Tensor empty_from_pool(at::IntArrayRef sizes, const at::TensorOptions& options);

// Uninitialised arrays, freed all at once.
class Arena {
 public:
  template <typename T>
  std::span<T> take(int64_t size) {
    static_assert(std::is_trivially_destructible_v<T>);
    constexpr int64_t kLine = 64;
    const int64_t bytes = (size * int64_t(sizeof(T)) + kLine - 1) / kLine * kLine;
    if (end_ - next_ < bytes) grow(bytes);
    return {reinterpret_cast<T*>(std::exchange(next_, next_ + bytes)), size_t(size)};
  }

 private:
  void grow(int64_t bytes);

  std::vector<c10::DataPtr> blocks_;
  char *next_ = nullptr, *end_ = nullptr;
};

}  // namespace uqforce
