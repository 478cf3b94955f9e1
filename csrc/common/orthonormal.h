// When columns count as orthonormal, and the factor that makes them so as accurate.
#pragma once

#include <limits>

namespace ssdml {

/// The largest |L'L - I| that is no more than rounding.
template <typename T>
inline constexpr double kOrthonormal = 8 * std::numeric_limits<T>::epsilon();

/// The largest condition of Y'Y = R'R, as its largest diagonal entry over its smallest pivot, for which Y R^-1 is
/// orthonormal up to rounding. With a larger one, the same once more makes it so.
inline constexpr double kTrustedCondition = 16;

}  // namespace ssdml
