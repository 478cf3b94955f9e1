// What sums over edges lose to rounding, on the CPU and on CUDA devices.
#pragma once

#include "common/host_device.h"

namespace ssdml::walk {

template <typename T>
inline constexpr double unit_roundoff = sizeof(T) == 4 ? 0x1p-24 : 0x1p-53;

/// Error of a sum over k edges, in groups of four, of shares times entries, relative to the same sum of magnitudes: the
/// additions, the rounding of the shares to the type of that unit roundoff, and the product with them.
SSDML_HOST_DEVICE double gather_rounding(double unit_roundoff, double k, bool weighted) {
  return 1.01 * (unit_roundoff * (static_cast<double>(static_cast<long long>(k) / 4) + 5) +
                 (weighted ? 0x1p-53 * (k + 4) : 0.0));
}

}  // namespace ssdml::walk
