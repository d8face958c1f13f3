// Arrays side by side in one piece of memory, with gaps that nobody writes: what reads beyond an array reads
// memory that was never set, which compute-sanitizer's initcheck reports.
#pragma once

#include <cstdint>

namespace uqforce {

class Layout {
 public:
  explicit Layout(void* memory) : memory_(static_cast<char*>(memory)) {}

  // Room for `size` values of T; with memory that is null, only bytes() counts.
  template <typename T>
  T* take(int64_t size) {
    char* const begin = memory_ + bytes_;
    bytes_ += (size * int64_t(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment + kGap;
    return reinterpret_cast<T*>(begin);
  }
  int64_t bytes() const { return bytes_; }

 private:
  static constexpr int64_t kAlignment = 256, kGap = 256;
  char* memory_;
  int64_t bytes_ = 0;
};

}  // namespace uqforce
