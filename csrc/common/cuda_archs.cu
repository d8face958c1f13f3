// What nvcc compiled the kernels for, and the card they meet. The build gives UQFORCE_CUDA_ARCHS to nvcc
// alone.
#include "common/cuda_archs.h"

#ifdef __CUDACC__  // not in the emulation of the tests
#include "common/cuda.h"

namespace uqforce {

const char* cuda_archs() { return UQFORCE_CUDA_ARCHS; }

int64_t cuda_capability(int64_t device) {
  int major = 0, minor = 0;
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, int(device)), "capability");
  check_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, int(device)), "capability");
  return 10 * major + minor;
}

}  // namespace uqforce
#endif
