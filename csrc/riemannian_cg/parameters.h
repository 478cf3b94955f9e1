// What every implementation of the conjugate gradients decides by: Manopt's adaptive line search and stops, and what
// tells descent from rounding. Where the loss is constant on the manifold, as for d = l, all of a gradient is rounding,
// its direction is arbitrary, and what a step along it seems to gain is an error.
#pragma once

#include <limits>

#include "common/host_device.h"

namespace ssdml::line_search {

inline constexpr int kMostTrials = 10;              // steps that are tried, the first and what it is halved to
inline constexpr double kSufficientDecrease = 0.5;  // Armijo's constant
inline constexpr double kContraction = 0.5;
inline constexpr double kLeastGradNorm = 1e-6;
inline constexpr double kLeastStep = 1e-10;
inline constexpr double kRounding = 64;  // epsilons that a gradient, or its product with a direction, may be off by

template <typename T>
inline constexpr double kEpsilon = std::numeric_limits<T>::epsilon();

/// The longest step, the power of two below the fourth root of 1 / epsilon: the Gram matrix of L + step D, whose
/// condition is up to 1 + length^2, loses half of its digits at most, and L is not lost in the rounding of step D.
template <typename T>
inline constexpr double kLongestStep = sizeof(T) == 4 ? 0x1p5 : 0x1p13;

/// Whether a Riemannian gradient is more than the rounding of the part of the Euclidean one that is normal to the
/// manifold, of norm `normal`. Where all of it is, for d = l <= 300, that leaves 1 to 5 epsilon, and up to 60 where its
/// terms cancel.
template <typename T>
SSDML_HOST_DEVICE bool descends(double norm, double normal) {
  return norm >= kLeastGradNorm && norm > kRounding * kEpsilon<T> * normal;
}

/// Whether a direction of that slope leads down by more than the rounding of a gradient, which is as descends() has it.
/// On a manifold of one dimension no conjugate direction does: what is carried along cancels the gradient.
template <typename T>
SSDML_HOST_DEVICE bool leads_down(double slope, double norm, double normal) {
  return slope < -kRounding * kEpsilon<T> * norm * (norm + normal);
}

/// Whether `reached` is below `loss` by more than their rounding.
template <typename T>
SSDML_HOST_DEVICE bool gains(double loss, double reached) {
  return reached < loss - kEpsilon<T> * (loss < 0 ? -loss : loss);
}

/// What the next search tries first.
SSDML_HOST_DEVICE double next_first_step(int trials, double step) { return trials == 2 ? step : 2 * step; }

}  // namespace ssdml::line_search
