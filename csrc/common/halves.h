// The 16-bit floats that arrays may hold: stored as they are, read as float64.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/host_device.h"

namespace ssdml {

namespace detail {
/// std::bit_cast, which device code may not call.
template <typename To, typename From>
SSDML_HOST_DEVICE To bit_cast(From from) {
  To to;
  static_assert(sizeof to == sizeof from);
  std::memcpy(&to, &from, sizeof to);
  return to;
}
}  // namespace detail

/// IEEE binary16.
struct float16 {
  std::uint16_t bits;

  /// Exact. Without branches, so that loops become vectors, and without meeting a subnormal float32, which processors
  /// may be told to flush to zero.
  SSDML_HOST_DEVICE explicit operator double() const {
    const std::uint32_t exponent = bits & 0x7c00u;
    const std::uint32_t shift = exponent == 0 ? 113 : exponent == 0x7c00u ? 224 : 112;  // subnormal, infinite or NaN
    const std::uint32_t offset = exponent == 0 ? 113u << 23 : 0;                        // 2^-14
    const float magnitude =
        detail::bit_cast<float>(((bits & 0x7fffu) << 13) + (shift << 23)) - detail::bit_cast<float>(offset);
    return detail::bit_cast<float>(detail::bit_cast<std::uint32_t>(magnitude) | ((bits & 0x8000u) << 16));
  }
};

/// The upper half of a float32.
struct bfloat16 {
  std::uint16_t bits;

  SSDML_HOST_DEVICE explicit operator double() const {
    return detail::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
};

}  // namespace ssdml
