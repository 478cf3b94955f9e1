// Threads, progress and interruption, the same for every kernel.
#pragma once

#include <algorithm>
#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace ssdml {

/// Threads a parallel region would use by default: OMP_NUM_THREADS, threadpoolctl or the processor's cores.
inline int default_threads() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

/// Index of the calling thread within its parallel region.
inline int thread_index() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

/// How a long kernel says how far it is, and learns that it should stop.
class Progress {
 public:
  virtual ~Progress() = default;
  /// Called now and then, between pieces of work, by the thread that called the kernel only. `share` in [0, 1] is done.
  /// A false answer asks the kernel to return soon; its results are then incomplete.
  virtual bool update(double share) = 0;
};

}  // namespace ssdml
