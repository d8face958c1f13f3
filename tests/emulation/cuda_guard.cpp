// A CUDA device that does nothing, for a torch that was built without CUDA: with it, tensors without values can
// be on "cuda" (tests/model/test_no_waits.py).
#include <c10/core/impl/DeviceGuardImplInterface.h>

C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>)
