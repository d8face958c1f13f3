#define UQFORCE_VECTOR_BYTES 16
#define UQFORCE_KERNELS(type) kernels_baseline_##type
#include "edge_embedding/cpu_body.h"
