#ifdef __x86_64__
#pragma GCC target("avx2,fma")
#define UQFORCE_VECTOR_BYTES 32
#define UQFORCE_KERNELS(type) kernels_avx2_##type
#include "gate/cpu_body.h"
#endif
