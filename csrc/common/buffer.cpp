#include "common/buffer.h"

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace uqforce {

void advise_huge_pages(void* data, int64_t bytes) {
#ifdef __linux__
  constexpr int64_t kLarge = int64_t(4) << 20;  // at least one whole huge page of 2 MB lies inside
  if (bytes < kLarge) return;
  const uintptr_t page = sysconf(_SC_PAGESIZE);
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / page * page;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // refused: ordinary pages, as before
#endif
}

}  // namespace uqforce
