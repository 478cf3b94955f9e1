// What the solvers for the CPU and for CUDA devices agree upon.
#pragma once

#include <algorithm>
#include <cmath>

namespace ssdml {

/// Steps after which conjugate gradients are given up: at their worst they gain a digit in log(10) / 2 sqrt(condition)
/// of them.
inline int most_steps(double gamma) { return static_cast<int>(20 * std::sqrt((1 + gamma) / (1 - gamma))) + 20; }

/// Rounding of an entry of M x, relative to the largest of x, where a point has so many edges at most.
inline double entry_rounding(double most_edges) { return 0x1p-52 * (most_edges + 8); }

/// Rounding of posteriors in float64.
inline double posterior_rounding(double classes) { return 0x1p-52 * (classes + 4); }

/// The error of F to aim at next, where one of `error`, after `target` was aimed at, bounds that of the posteriors by
/// `bound` instead of `tol`.
inline double next_target(double error, double target, double tol, double bound) {
  return std::min(error, target) * std::max(tol / bound, 1e-6) / 4;
}

}  // namespace ssdml
