// Threads, progress and interruption, the same for every kernel.
#pragma once

#include <algorithm>
#include <atomic>
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

/// Threads of the innermost parallel region, which may be fewer than it asked for.
inline int team_size() {
#ifdef _OPENMP
  return omp_get_num_threads();
#else
  return 1;
#endif
}

/// Threads for `work` elementary operations: no more than `num_threads`, nor than are faster than one. Below some 20
/// microseconds a kernel is over before a second thread has woken up.
inline int threads_for(std::int64_t work, int num_threads) {
  constexpr std::int64_t worth_a_thread = 1 << 15;
  return static_cast<int>(std::clamp<std::int64_t>(work / worth_a_thread, 1, num_threads));
}

/// How a long kernel says how far it is, and learns that it should stop.
class Progress {
 public:
  virtual ~Progress() = default;
  /// Called now and then, between pieces of work, by the thread that called the kernel only. `share` in [0, 1] is done.
  /// A false answer asks the kernel to return soon; its results are then incomplete.
  virtual bool update(double share) = 0;
};

/// The progress of a part of some work, from the share `before` of the whole to `after`.
class PartialProgress : public Progress {
 public:
  PartialProgress(Progress& whole, double before, double after) : whole_(whole), before_(before), after_(after) {}
  bool update(double share) override { return whole_.update(before_ + share * (after_ - before_)); }

 private:
  Progress& whole_;
  double before_, after_;
};

/// Threads that work on one thing and stop together.
class Team {
 public:
  Team(int threads, Progress& progress) : threads(threads), progress_(progress) {}

  const int threads;

  bool stopped() const { return stop_.load(std::memory_order_relaxed); }

  /// To be called between pieces of work; only the first thread of the team's parallel region reports.
  void poll(double share) {
    if (thread_index() != 0) return;
    share_ = share;
    poll_here();
  }

  /// The same by a thread that is known to be the first.
  void poll_here() {
    if (!progress_.update(share_)) stop_ = true;
  }

  /// Calls f(first, last) for pieces of [0, n) of at most `piece` each, until all are done or the team is stopped.
  template <typename F>
  void each(std::int64_t n, std::int64_t piece, F f) {
    const std::int64_t pieces = (n + piece - 1) / piece;
    const int workers = static_cast<int>(std::clamp<std::int64_t>(pieces, 1, threads));
#pragma omp parallel for num_threads(workers) schedule(dynamic)
    for (std::int64_t p = 0; p < pieces; ++p) {
      if (stopped()) continue;
      f(p * piece, std::min(n, (p + 1) * piece));
      if (thread_index() == 0) poll_here();
    }
  }

 private:
  Progress& progress_;
  std::atomic<bool> stop_{false};
  double share_ = 0;
};

/// The progress of a team of one within each thread of another: it stops with the other, and polls for it.
class PolledWithin : public Progress {
 public:
  explicit PolledWithin(Team& team) : team_(team), first_(thread_index() == 0) {}
  bool update(double) override {
    if (first_) team_.poll_here();
    return !team_.stopped();
  }

 private:
  Team& team_;
  const bool first_;
};

}  // namespace ssdml
