// Memory for large arrays.
#pragma once

#include <cstdint>
#include <memory>

namespace uqforce {

// Asks for huge pages where the block is large, before it is first written. A new page costs more than the
// 4 KB written to it: with huge pages the first pass over an array is several times faster. Only a hint.
void advise_huge_pages(void* data, int64_t bytes);

// An array that is not initialised.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size) : data_(std::make_unique_for_overwrite<T[]>(size)), size_(size) {
    advise_huge_pages(data_.get(), size * int64_t(sizeof(T)));
  }
  T* data() const { return data_.get(); }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  std::unique_ptr<T[]> data_;
  int64_t size_ = 0;
};

}  // namespace uqforce
