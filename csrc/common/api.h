// Marks what other libraries may call: those of C++ users, and the tests' emulation of CUDA.
#pragma once

#define UQFORCE_API __attribute__((visibility("default")))

// Marks the mathematics that the CPU and CUDA share.
#ifdef __CUDACC__
#define UQFORCE_HOST_DEVICE __host__ __device__
#else
#define UQFORCE_HOST_DEVICE
#endif

// What must stay in registers, or it is slow.
#define UQFORCE_INLINE UQFORCE_HOST_DEVICE inline __attribute__((always_inline))
