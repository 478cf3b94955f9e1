// The sort that CUDA kernels share. Only .cu files include it.
#pragma once

#include "cuda/launch.h"

namespace ssdml::cuda {

/// A stable sort of `count` pairs of numbers by the first of them, the key, which lies in [0, keys_below). The
/// memory that it works in depends on both, and on the current device.
class PairSort {
 public:
  PairSort(Workspace& workspace, std::int64_t count, std::int64_t keys_below);

  /// Queues it. The four arrays, `count` entries each, must not overlap.
  void run(const char* name, const std::int64_t* keys, std::int64_t* sorted_keys, const std::int64_t* values,
           std::int64_t* sorted_values, cudaStream_t stream) const;

 private:
  std::int64_t count_;
  int bits_;
  std::size_t bytes_ = 0;
  unsigned char* memory_;
};

}  // namespace ssdml::cuda
