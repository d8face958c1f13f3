#define UQFORCE_VECTOR_BYTES 16
#define UQFORCE_REGISTERS 16
#define UQFORCE_KERNELS(type) kernels_baseline_##type
#include "block_linear/cpu_body.h"
