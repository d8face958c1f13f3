#include "common/pool.h"

#include <ATen/EmptyTensor.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <mutex>

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace uqforce {
namespace {

constexpr size_t kKept = size_t(1) << 18;  // from here on memory is kept, and still in the caches when reused
constexpr size_t kLarge = size_t(4) << 20;  // holds at least one whole huge page of 2 MB

// How many bytes may wait for their next use: an eighth of the machine's memory.
size_t max_kept() {
#ifdef __linux__
  return size_t(sysconf(_SC_PHYS_PAGES)) * size_t(sysconf(_SC_PAGESIZE)) / 8;
#else
  return size_t(1) << 30;
#endif
}

// With huge pages the first pass over a block is faster too. Only a hint.
void advise_huge_pages(void* data, size_t bytes) {
#ifdef __linux__
  const uintptr_t page = sysconf(_SC_PAGESIZE);
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / page * page;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // refused: ordinary pages, as before
#endif
}

class Pool final : public c10::Allocator {
  struct Block {
    size_t bytes;
    c10::DataPtr memory;
  };

 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes < kKept) return c10::GetCPUAllocator()->allocate(bytes);
    auto block = std::make_unique<Block>(take(bytes));
    void* data = block->memory.get();
    return {data, block.release(), &Pool::free, c10::DeviceType::CPU};
  }

  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

  static Pool& instance() {
    static Pool& pool = *new Pool;  // never destroyed: tensors may live longer than static objects
    return pool;
  }

 private:
  static void free(void* context) {
    const std::unique_ptr<Block> block(static_cast<Block*>(context));
    instance().keep(std::move(*block));
  }

  // The smallest kept block of the size wanted to twice that, of several the one used last, or a new one.
  Block take(size_t bytes) {
    {
      const std::lock_guard lock(mutex_);
      auto best = kept_.end();
      for (auto block = kept_.begin(); block != kept_.end(); ++block) {
        const bool fits = block->bytes >= bytes && block->bytes <= 2 * bytes;
        if (fits && (best == kept_.end() || block->bytes <= best->bytes)) best = block;
      }
      if (best != kept_.end()) {
        Block block = std::move(*best);
        kept_.erase(best);
        return block;
      }
    }
    Block block{bytes, c10::GetCPUAllocator()->allocate(bytes)};
    if (bytes >= kLarge) advise_huge_pages(block.memory.get(), bytes);
    return block;
  }

  void keep(Block block) {
    std::vector<Block> dropped;  // freed after the lock is
    const std::lock_guard lock(mutex_);
    kept_.push_back(std::move(block));
    size_t sum = 0;
    auto first = kept_.end();  // of the latest that fit
    while (first != kept_.begin() && sum + std::prev(first)->bytes <= max_kept_) sum += (--first)->bytes;
    dropped.assign(std::move_iterator(kept_.begin()), std::move_iterator(first));
    kept_.erase(kept_.begin(), first);
  }

  const size_t max_kept_ = max_kept();
  std::mutex mutex_;
  std::vector<Block> kept_;  // the one that has waited longest first
};

}  // namespace

c10::Allocator& pool() { return Pool::instance(); }

at::Tensor empty_from_pool(at::IntArrayRef sizes, const at::TensorOptions& options) {
  return at::Tensor(at::detail::empty_generic(sizes, &pool(), c10::DispatchKeySet(c10::DispatchKey::CPU),
                                              c10::typeMetaToScalarType(options.dtype()), std::nullopt));
}

void Arena::grow(int64_t bytes) {
  const size_t size = std::max(size_t(bytes), kLarge);
  blocks_.push_back(pool().allocate(size));
  next_ = static_cast<char*>(blocks_.back().get());
  end_ = next_ + size;
}

}  // namespace uqforce
