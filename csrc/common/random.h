// Random numbers by counter: the i-th number of a seed is computed from (seed, i) alone, so that threads need no state
// and results depend neither on their number nor on the machine.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace ssdml {

/// The output function of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
SSDML_HOST_DEVICE std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// Numbers `first`, `first` + 1, ... of the SplitMix64 sequence that starts at `key`.
struct Random {
  std::uint64_t key, first;

  /// An integer in [0, n) from number `first` + i; unequal in probability by n / 2^64 at most.
  SSDML_HOST_DEVICE std::int64_t below(std::uint64_t i, std::int64_t n) const {
    const std::uint64_t bits = mix(key + (first + i + 1) * 0x9e3779b97f4a7c15u);
#ifdef __CUDA_ARCH__
    return static_cast<std::int64_t>(__umul64hi(bits, static_cast<std::uint64_t>(n)));
#else
    return static_cast<std::int64_t>((static_cast<unsigned __int128>(bits) * static_cast<std::uint64_t>(n)) >> 64);
#endif
  }

  /// A multiple of 2^-23 in [-1, 1), by number `first` + i.
  SSDML_HOST_DEVICE double symmetric(std::uint64_t i) const {
    return static_cast<double>(below(i, 1 << 24)) * 0x1p-23 - 1;
  }
};

}  // namespace ssdml
