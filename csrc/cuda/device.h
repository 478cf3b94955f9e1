// Where memory lies.
#pragma once

#include <cstdint>

namespace ssdml::cuda {

/// Number of the device that this memory is of.
int device_of(std::uintptr_t address);

}  // namespace ssdml::cuda
