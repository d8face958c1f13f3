// The one place that finds a stream. No CUDA header: works against the CPU build of torch as well.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace uqforce {

// The current stream of `device`, to be cast to cudaStream_t by the launcher. Make the device current first
// with c10::DeviceGuard, and launch everything on this stream.
inline void* current_stream(c10::Device device) {
  if (device.is_cpu()) return nullptr;  // the emulation of the tests
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device).native_handle();
}

}  // namespace uqforce
