// Threads, progress and interruption, the same for every kernel. No other file opens a parallel region.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>

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

/// Threads for `work` elementary operations: no more than `num_threads`, nor than are faster than one. Below some 20
/// microseconds a kernel is over before a second thread has woken up; the smallest shapes of
/// benchmarks/bench_angular_loss.py on one thread and on two measure it.
inline int threads_for(std::int64_t work, int num_threads) {
  constexpr std::int64_t worth_a_thread = 1 << 15;
  return static_cast<int>(std::clamp<std::int64_t>(work / worth_a_thread, 1, num_threads));
}

/// Calls f(thread, team) on `num_threads` threads, or as many fewer as there are, of which thread 0 is the caller. What
/// one of them throws, the first if several do, is thrown here when all are done: an exception that left a parallel
/// region would end the process. (So does, in the runtime itself, a thread that the system refuses to start.) One
/// thread is spared the cost of a region, which little work would feel.
template <typename F>
void on_threads([[maybe_unused]] int num_threads, const F& f) {
#ifdef _OPENMP
  if (num_threads != 1) {
    std::exception_ptr thrown;
#pragma omp parallel num_threads(num_threads)
    try {
      f(omp_get_thread_num(), omp_get_num_threads());
    } catch (...) {
#pragma omp critical
      if (!thrown) thrown = std::current_exception();
    }
    if (thrown) std::rethrow_exception(thrown);
    return;
  }
#endif
  f(0, 1);
}

/// Calls f(first, last, thread) for shares of [0, n), one for each of at most `num_threads` threads.
template <typename F>
void in_shares(std::int64_t n, int num_threads, const F& f) {
  on_threads(static_cast<int>(std::clamp<std::int64_t>(n, 1, num_threads)),
             [&](int thread, int team) { f(n * thread / team, n * (thread + 1) / team, thread); });
}

/// Calls f(i, thread) for i = 0 .. n - 1, each on the thread that is free next, until one says false or throws.
template <typename F>
void in_turn(std::int64_t n, int num_threads, const F& f) {
  std::atomic<std::int64_t> next{0};
  on_threads(static_cast<int>(std::clamp<std::int64_t>(n, 1, num_threads)), [&](int thread, int) {
    try {
      for (std::int64_t i; (i = next++) < n;)
        if (!f(i, thread)) next = n;
    } catch (...) {
      next = n;
      throw;
    }
  });
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

  /// To be called by each thread between pieces of work; only thread 0 reports.
  void poll(int thread, double share) {
    if (thread != 0) return;
    share_ = share;
    poll(thread);
  }

  /// The same where no more is known to be done than before.
  void poll(int thread) {
    if (thread == 0 && !progress_.update(share_)) stop_ = true;
  }

  /// Calls f(first, last, thread) for pieces of [0, n) of at most `piece` each, until all are done or the team is
  /// stopped.
  template <typename F>
  void each(std::int64_t n, std::int64_t piece, const F& f) {
    if (stopped()) return;
    in_turn((n + piece - 1) / piece, threads, [&](std::int64_t p, int thread) {
      f(p * piece, std::min(n, (p + 1) * piece), thread);
      poll(thread);
      return !stopped();
    });
  }

 private:
  Progress& progress_;
  std::atomic<bool> stop_{false};
  double share_ = 0;
};

/// The progress of a team of one within each thread of another: it stops with the other, and polls for it.
class PolledWithin : public Progress {
 public:
  PolledWithin(Team& team, int thread) : team_(team), thread_(thread) {}
  bool update(double) override {
    team_.poll(thread_);
    return !team_.stopped();
  }

 private:
  Team& team_;
  const int thread_;
};

}  // namespace ssdml
