#define UQFORCE_VECTOR_BYTES 16
#define UQFORCE_REGISTERS 16
#define UQFORCE_KERNELS(type) kernels_baseline_##type
#include "tabulated_conv/cpu_body.h"
