// Updates of matrices with orthonormal columns.
//
// Cayley retraction of L (d, l) along a Euclidean gradient G with step tau (Wen & Yin 2013):
//
//   A = G L' - L G',   L(tau) = (I + tau/2 A)^-1 (I - tau/2 A) L
//
// A has rank 2 l, so with U = [G, L], V = [L, -G]:  L(tau) = L - tau U (I + tau/2 V'U)^-1 V'L, a 2l x 2l solve that
// collapses to l x l (see stiefel.cpp). Rounding lets L'L drift from I; an update begins, where that has happened, with
// one Newton-Schulz step L (3 I - L'L) / 2, which brings L back to within the square of its drift.
#pragma once

#include <cstdint>

namespace ssdml {

/// The largest |L'L - I| of the matrices that came in, by which the caller judges whether they were Stiefel matrices at
/// all; and of those that go out, where the step was so long that it mattered (0 otherwise, NaN on overflow).
struct CayleyReport {
  double drift, updated_drift;
};

/// updated (batch, d, l) = the retraction of L (batch, d, l) along grad, row-major, none overlapping, 1 <= l <= d.
template <typename T>
CayleyReport cayley_update(const T* L, const T* grad, std::int64_t batch, std::int64_t d, std::int64_t l, double step,
                           T* updated, int num_threads);

/// What came in: the largest |L'L - I|, and whether the answer is good to a few units in the last place. It is for
/// steps of moderate length that are tangent at L; others want a QR decomposition that does not square them.
struct RetractionReport {
  double drift;
  bool is_accurate;
};

/// q (batch, d, l) = Q of L + direction = QR with positive diagonal of R, row-major, none overlapping.
template <typename T>
RetractionReport qr_retraction(const T* L, const T* direction, std::int64_t batch, std::int64_t d, std::int64_t l, T* q,
                               int num_threads);

namespace cuda {

/// Bytes of `workspace`: O(batch * l^2).
template <typename T>
std::int64_t cayley_update_workspace(std::int64_t batch, std::int64_t l);

/// The same from device memory, up to rounding, on `stream`. `drift`, two doubles on the device, receives what
/// CayleyReport holds, with infinity for NaN. The workspace is aligned to 256 bytes.
template <typename T>
void cayley_update(const T* L, const T* grad, std::int64_t batch, std::int64_t d, std::int64_t l, double step,
                   T* updated, double* drift, void* workspace, void* stream);

}  // namespace cuda

}  // namespace ssdml
