// The emulation's part of CUDA's asynchronous copies, see cuda_runtime.h.
#pragma once

#include <cuda_runtime.h>

inline void __pipeline_memcpy_async(void* to, const void* from, size_t bytes) {
  emulation::copy_later(to, from, bytes);
}
inline void __pipeline_commit() { emulation::commit_copies(); }
inline void __pipeline_wait_prior(size_t but_groups) { emulation::wait_for_copies(but_groups); }
