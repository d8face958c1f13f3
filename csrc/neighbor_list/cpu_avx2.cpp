#ifdef __x86_64__
#pragma GCC target("avx2,fma")
#define UQFORCE_KERNELS kernels_avx2
#define UQFORCE_LANES 8
#include "neighbor_list/cpu_body.h"
#endif
