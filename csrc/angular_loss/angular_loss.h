// Angular triplet loss of projected points y = z L, with its gradient, in one pass over the triplets.
//
// For a triplet (i, p, q) of rows of y, with t = tan^2(alpha), a = y_i - y_p and b = y_q - (y_i + y_p) / 2:
//
//   m = |a|^2 - 4 t |b|^2,   loss = log(1 + exp m),   s = w / (1 + exp -m)
//   grad_y[i] += s (2 a + 4 t b),   grad_y[p] += s (-2 a + 4 t b),   grad_y[q] += -8 t s b
//
// so grad_y is the gradient of the sum of w loss. Each row sums its parts in the order of the triplets, in T, so that
// the result does not depend on the number of threads.
//
// Requires: y (n, l) row-major; triplets (t, 3) in [0, n); weight (t) or null for ones.
#pragma once

#include <cstdint>

namespace ssdml {

/// losses (n_triplets), or null; grad_y (n, l), overwritten, or null. Returns the sum of w loss, 0 without losses.
template <typename T>
double projected_loss(const T* y, std::int64_t n, std::int64_t l, const std::int64_t* triplets, std::int64_t n_triplets,
                      double tan2_alpha, const T* weight, T* losses, T* grad_y, int num_threads);

/// Writes the `used` rows of n that occur in triplets to `rows`, ascending, each once, and the triplets in terms of
/// positions there to `positions` (n_triplets, 3); `rows` has room for min(n, 3 n_triplets). Returns `used`.
std::int64_t used_rows(const std::int64_t* triplets, std::int64_t n_triplets, std::int64_t n, std::int64_t* rows,
                       std::int64_t* positions);

struct AngularLossReport {
  double loss;               // sum of w loss
  std::int64_t used;         // points that took part
  bool in_range, is_finite;  // all triplets in [0, n); all of z, L and the projections. If either fails, nothing else
};  // holds.

/// The loss of points z (n, d) under the metric L (d, l): that of the projections y = z L, for triplets that need not
/// lie in [0, n).
///
/// Where few points occur in triplets, the others need not be projected: with x and rows, neither null and with room
/// for min(n, 3 n_triplets) points, those that do are copied to x (used, d), their indices to rows, ascending, and
/// grad_y (used, l) is theirs. Otherwise all take part.
template <typename T>
AngularLossReport angular_loss(const T* z, std::int64_t n, std::int64_t d, const T* L, std::int64_t l,
                               const std::int64_t* triplets, std::int64_t n_triplets, double tan2_alpha,
                               const T* weight, T* losses, T* grad_y, T* x, std::int64_t* rows, int num_threads);

/// The gradients that follow from grad_y (used, l) of points x (used, d), times `scale`; each is overwritten, or null:
/// grad_z (n, d) = scale grad_y L', its rows at rows[0] < rows[1] < ... and the others 0, or, where rows is null and
/// used = n, in order;   grad_L (d, l) = scale x' grad_y.
template <typename T>
void angular_loss_backward(const T* x, std::int64_t used, std::int64_t d, const T* L, std::int64_t l, const T* grad_y,
                           T scale, const std::int64_t* rows, std::int64_t n, T* grad_z, T* grad_L, int num_threads);

namespace cuda {

/// Bytes of `workspace` on the current device, for a call that asks for grad_y; one that does not needs none.
std::int64_t projected_loss_workspace(std::int64_t n, std::int64_t n_triplets);

/// projected_loss from device memory, on `stream`, up to the last bits of exp. The workspace is aligned to 256 bytes.
template <typename T>
void projected_loss(const T* y, std::int64_t n, std::int64_t l, const std::int64_t* triplets, std::int64_t n_triplets,
                    double tan2_alpha, const T* weight, T* losses, T* grad_y, void* workspace, void* stream);

}  // namespace cuda

}  // namespace ssdml
