// What the solvers for the CPU and for CUDA devices agree upon: how slow modes are found, and what is solved in which
// precision. Figures were chosen on graphs of MNIST pixels, k = 10, gamma = 0.99, on two cores with AVX-512 (Zen 4), by
// benchmarks/bench_affinity.py with both builds in turn; docs/notes/affinity.md says what else was tried.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "walk/rounding.h"

namespace ssdml {

inline constexpr int kSweepsBeforeModes = 4;  // until the columns of popular points are smooth enough for float32
inline constexpr double kOmega = 1.3;         // best where few modes are slow; adapted where many are
inline constexpr double kFloatTol = 2e-7;     // float32 seldom reaches less

/// Sweeps of the iterations for Z and U. More do not pay; fewer leave columns that need hundreds of sweeps.
inline constexpr int kSweepsForZ = 24, kSweepsForU = 30;
/// Of these, how many between two orthonormalisations: fewer where more make columns dependent.
inline constexpr int kSweepsBetween[] = {6, 3, 1};

/// Directions in which the spans of U and V are more nearly orthogonal than this are left alone: the coefficients there
/// would be large, and with them rounding.
inline constexpr double kLeastOverlap = 0.05;

/// How many slow modes to take out of a large component of n points, a multiple of 16. More leave fewer sweeps, but
/// finding and removing them costs more than it saves.
inline std::int64_t modes_wanted(std::int64_t n) {
  return 16 * static_cast<std::int64_t>(std::ceil(0.45 / 16 * std::sqrt(static_cast<double>(n))));
}

/// The part of `tol` for errors of columns: the rest is for rounding values to T.
template <typename T>
double columns_tol(double tol) {
  return std::max(tol - 1.02 * walk::unit_roundoff<T>, tol / 2);
}

}  // namespace ssdml
