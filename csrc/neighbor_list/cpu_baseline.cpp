#define UQFORCE_KERNELS kernels_baseline
#define UQFORCE_LANES 4
#include "neighbor_list/cpu_body.h"
