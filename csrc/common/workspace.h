// Memory that a call works in.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>

namespace uqforce {

// Aligned to cache lines; zeroed unless it is said not to be.
template <typename T>
class Workspace {
 public:
  explicit Workspace(int64_t size, bool zeroed = true)
      : size_(size), data_(static_cast<T*>(::operator new(std::max<int64_t>(size, 1) * sizeof(T), kLine))) {
    if (zeroed) std::memset(static_cast<void*>(data_), 0, size * sizeof(T));
  }
  ~Workspace() { ::operator delete(data_, kLine); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  T* data() { return data_; }
  T& operator[](int64_t k) { return data_[k]; }
  int64_t size() const { return size_; }

 private:
  static constexpr std::align_val_t kLine{64};
  int64_t size_;
  T* data_;
};

}  // namespace uqforce
