#ifdef __x86_64__
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")
#define UQFORCE_KERNELS kernels_avx512
#define UQFORCE_LANES 16
#include "neighbor_list/cpu_body.h"
#endif
