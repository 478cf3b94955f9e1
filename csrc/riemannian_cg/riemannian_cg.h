// Riemannian conjugate gradients for the angular loss of fixed points as a function of the metric L (d, l), L'L = I.
//
// Manopt's algorithm and defaults: embedded metric, gradient G - L sym(L'G), QR retraction with positive diagonal,
// transport by projection, the Hestenes-Stiefel rule cut at zero, and the adaptive line search: first step 1 / |D|,
// Armijo constant 1/2, halving, at most ten steps tried, next first step twice the last unless exactly two were. A
// direction that leads down by no more than rounding gives way to the gradient. Stops after `iterations`, at a gradient
// norm below 1e-6 or a step below 1e-10, and where a gradient or a gain is no more than rounding (parameters.h).
//
// The L that is returned is orthonormal up to rounding, whatever the points are: one that comes in slightly off is
// brought back first, and no step is taken whose retraction is not.
//
// Requires: z (n, d) row-major; triplets (n_triplets, 3) in [0, n); weight (n_triplets) or null for ones; 1 <= l <= d;
// 0 < tan2_alpha.
#pragma once

#include <cstdint>

#include "common/parallel.h"

namespace ssdml {

struct CgReport {
  double loss, grad_norm;  // at the L that is returned: sum of w loss, and the norm of its Riemannian gradient
  std::int64_t iterations, evaluations;
  double drift;  // the largest |L'L - I| of the L that came in
};

/// L (d, l) is read and overwritten. Between iterations `progress` may ask to stop.
template <typename T>
CgReport riemannian_cg(const T* z, std::int64_t n, std::int64_t d, std::int64_t l, const std::int64_t* triplets,
                       std::int64_t n_triplets, double tan2_alpha, const T* weight, std::int64_t iterations, T* L,
                       int num_threads, Progress& progress);

namespace cuda {

/// Bytes of `workspace` on the current device: O(d l + l^2 + n_triplets (l + 1)).
template <typename T>
std::int64_t riemannian_cg_workspace(std::int64_t n, std::int64_t d, std::int64_t l, std::int64_t n_triplets);

/// The same from device memory, up to rounding, on `stream`: a sort of the triplets by row and one kernel, which
/// decides everything on the device. L (d, l) is read and overwritten; `report`, five doubles on the device, receives
/// the members of CgReport in order. The workspace is aligned to 256 bytes.
template <typename T>
void riemannian_cg(const T* z, std::int64_t n, std::int64_t d, std::int64_t l, const std::int64_t* triplets,
                   std::int64_t n_triplets, double tan2_alpha, const T* weight, std::int64_t iterations, T* L,
                   double* report, void* workspace, void* stream);

}  // namespace cuda

}  // namespace ssdml
