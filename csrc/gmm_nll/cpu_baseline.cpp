#define UQFORCE_VECTOR_BYTES 16
#define UQFORCE_VECTORS 3
#define UQFORCE_KERNELS(type) kernels_baseline_##type
#include "gmm_nll/cpu_body.h"
