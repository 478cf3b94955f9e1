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

/// y (n, l) = z (n, d) L (d, l); whether all of y is finite, which it is not where z or L is not.
template <typename T>
bool project(const T* z, std::int64_t n, std::int64_t d, const T* L, std::int64_t l, T* y, int num_threads);

/// The gradients that follow from grad_y (n, l), times `scale`; each is overwritten, or null:
/// grad_z (n, d) = scale grad_y L',   grad_L (d, l) = scale z' grad_y.
template <typename T>
void project_backward(const T* z, std::int64_t n, std::int64_t d, const T* L, std::int64_t l, const T* grad_y, T scale,
                      T* grad_z, T* grad_L, int num_threads);

/// losses (n_triplets), or null; grad_y (n, l), overwritten, or null.
template <typename T>
void angular_loss(const T* y, std::int64_t n, std::int64_t l, const std::int64_t* triplets, std::int64_t n_triplets,
                  double tan2_alpha, const T* weight, T* losses, T* grad_y, int num_threads);

namespace cuda {

/// Bytes of `workspace` on the current device, for a call that asks for grad_y; one that does not needs none.
std::int64_t angular_loss_workspace(std::int64_t n, std::int64_t n_triplets);

/// The same from device memory, on `stream`, up to the last bits of exp. The workspace is aligned to 256 bytes.
template <typename T>
void angular_loss(const T* y, std::int64_t n, std::int64_t l, const std::int64_t* triplets, std::int64_t n_triplets,
                  double tan2_alpha, const T* weight, T* losses, T* grad_y, void* workspace, void* stream);

}  // namespace cuda

}  // namespace ssdml
