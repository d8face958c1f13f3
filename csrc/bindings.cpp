// pybind11 module uqforce._C: build information.
#include <pybind11/pybind11.h>

#ifdef UQFORCE_WITH_CUDA
constexpr bool kWithCuda = true;
#else
constexpr bool kWithCuda = false;
#endif

PYBIND11_MODULE(_C, m) {
  m.doc() = "Build information of uqforce";
  m.attr("torch_version") = UQFORCE_TORCH_VERSION;
  m.attr("with_cuda") = kWithCuda;
}
