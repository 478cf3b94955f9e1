// What Python asks of arrays before it hands them to a kernel; one read of each.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

namespace ssdml {

/// The largest |x| of the entries; infinite or NaN where any of them is, 0 for none. The bits of a magnitude, read as
/// an integer, are ordered as magnitudes are, infinity and then NaN the greatest.
template <typename T>
T largest_magnitude(const T* x, std::int64_t count) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
  constexpr Bits no_sign = ~(Bits{1} << (8 * sizeof(T) - 1));
  Bits largest = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const Bits magnitude = std::bit_cast<Bits>(x[i]) & no_sign;
    largest = magnitude > largest ? magnitude : largest;
  }
  return std::bit_cast<T>(largest);
}

/// Whether all entries lie in [0, n). Negative ones are large as unsigned integers.
inline bool all_indices(const std::int64_t* x, std::int64_t count, std::int64_t n) {
  std::uint64_t largest = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto entry = static_cast<std::uint64_t>(x[i]);
    largest = entry > largest ? entry : largest;
  }
  return count == 0 || largest < static_cast<std::uint64_t>(n);
}

}  // namespace ssdml
