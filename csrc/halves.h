// The 16-bit floats that arrays may hold: stored as they are, read as float64.
#pragma once

#include <bit>
#include <cstdint>

namespace ssdml {

/// IEEE binary16.
struct float16 {
  std::uint16_t bits;

  /// Exact. Without a branch, and without meeting a subnormal float32, which processors may be told to flush to zero.
  explicit operator double() const {
    const std::uint32_t subnormal = (bits & 0x7c00u) == 0, special = (bits & 0x7c00u) == 0x7c00u;
    const std::uint32_t exponent = 112 + subnormal + 112 * special;
    const float magnitude = std::bit_cast<float>(((bits & 0x7fffu) << 13) + (exponent << 23));
    const float value = magnitude - (subnormal ? 0x1p-14f : 0.0f);
    return bits & 0x8000u ? -value : value;
  }
};

/// The upper half of a float32.
struct bfloat16 {
  std::uint16_t bits;

  explicit operator double() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
};

}  // namespace ssdml
