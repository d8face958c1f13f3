#ifdef __x86_64__
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")
#define UQFORCE_VECTOR_BYTES 64
#define UQFORCE_KERNELS(type) kernels_avx512_##type
#include "gate/cpu_body.h"
#endif
