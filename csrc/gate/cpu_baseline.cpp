#define UQFORCE_VECTOR_BYTES 16
#define UQFORCE_KERNELS(type) kernels_baseline_##type
#include "gate/cpu_body.h"
