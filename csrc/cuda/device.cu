#include "cuda/device.h"
#include "cuda/launch.h"

namespace ssdml::cuda {

int device_of(std::uintptr_t address) {
  cudaPointerAttributes attributes;
  check(cudaPointerGetAttributes(&attributes, reinterpret_cast<const void*>(address)), "device_of");
  return attributes.device;
}

}  // namespace ssdml::cuda
