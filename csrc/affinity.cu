#include <cmath>
#include <utility>

#include "affinity.h"
#include "cuda.h"

namespace ssdml::cuda {
namespace {

// The iteration of affinity.h for kPanel columns at a time, one per lane of the warp that sweeps a row. All segments
// are swept together: column c of a panel is one unit vector per segment, which never meet, so the number of panels is
// that of the segment with the most unlabelled points. Whether the bound is met is decided on the host, which for that
// reads one double every kCheckEvery sweeps and so waits for its stream, and for no other.
constexpr int kPanel = kWarp;
constexpr std::int64_t kCheckEvery = 8;
constexpr std::int64_t kRun = 32;  // consecutive rows whose residuals one warp compares

struct Graph {
  const std::int64_t* indices;  // (n, k)
  std::int64_t n, k;
};

/// Right-hand sides: column c of the panel is 1 at the points tagged first + c, and 0 elsewhere.
struct Source {
  const std::int64_t* tag;  // (n): the label, or the number of an unlabelled point within its segment; else negative
  std::int64_t first;

  __device__ double operator()(std::int64_t i, int c) const { return tag[i] == first + c ? 1.0 : 0.0; }
};

/// Smallest and largest residual of each column (segments, kPanel), as ordered integers, and half the width of the
/// widest such interval divided by 1 - gamma.
struct Bounds {
  long long *low, *high;
  double* error;
};

struct Work {
  std::int64_t *segment, *number, *most;  // (n): segment; number of an unlabelled point in it, or -1; largest such + 1
  double *mass, *total;                   // (n, classes), (n)
  double* sum;                            // (n, k): W*[i, j] + W*[j, i] on every edge
  double *x, *swept;                      // (n, kPanel): current solution and the next
  Bounds bounds;

  Work(Workspace& workspace, std::int64_t n, std::int64_t k, std::int64_t segments, std::int64_t classes)
      : segment(workspace.take<std::int64_t>(n)),
        number(workspace.take<std::int64_t>(n)),
        most(workspace.take<std::int64_t>(1)),
        mass(workspace.take<double>(n * classes)),
        total(workspace.take<double>(n)),
        sum(workspace.take<double>(n * k)),
        x(workspace.take<double>(n * kPanel)),
        swept(workspace.take<double>(n * kPanel)),
        bounds{workspace.take<long long>(segments * kPanel), workspace.take<long long>(segments * kPanel),
               workspace.take<double>(1)} {}
};

/// One warp per segment numbers its unlabelled points 0, 1, 2, ...
__global__ void number_unlabelled(const std::int64_t* ptr, std::int64_t segments, const std::int64_t* labels,
                                  std::int64_t* segment, std::int64_t* number, std::int64_t* most) {
  for (std::int64_t s = warp_id(); s < segments; s += warp_count()) {
    const std::int64_t end = ptr[s + 1];
    std::int64_t count = 0;
    for (std::int64_t begin = ptr[s]; begin < end; begin += kWarp) {
      const std::int64_t i = begin + lane_id();
      const bool unlabelled = i < end && labels[i] < 0;
      const unsigned those = __ballot_sync(kAllLanes, unlabelled);
      if (i < end) {
        segment[i] = s;
        number[i] = unlabelled ? count + __popc(those & ((1u << lane_id()) - 1)) : -1;
      }
      count += __popc(those);
    }
    if (lane_id() == 0) atomicMax(reinterpret_cast<unsigned long long*>(most), static_cast<unsigned long long>(count));
  }
}

// ---- solving a panel ------------------------------------------------------------------------------------------------

__global__ void start(std::int64_t n, Source source, double* x) {
  for (std::int64_t e = thread_id(); e < n * kPanel; e += thread_count())
    x[e] = source(e / kPanel, static_cast<int>(e % kPanel));
}

/// swept = gamma Q x + (1 - gamma) source, with scale = gamma / k and restart = 1 - gamma. One warp per row.
__global__ void sweep(Graph graph, double scale, double restart, Source source, const double* x, double* swept) {
  const int c = lane_id();
  for (std::int64_t i = warp_id(); i < graph.n; i += warp_count()) {
    double sum = 0;
    for (std::int64_t r = 0; r < graph.k; ++r) sum += x[graph.indices[i * graph.k + r] * kPanel + c];
    swept[i * kPanel + c] = scale * sum + restart * source(i, c);
  }
}

__global__ void reset_bounds(std::int64_t segments, Bounds bounds) {
  for (std::int64_t e = thread_id(); e < segments * kPanel; e += thread_count()) {
    bounds.low[e] = to_ordered(kInfinity);
    bounds.high[e] = to_ordered(-kInfinity);
    if (e == 0) *bounds.error = 0;
  }
}

/// Extremes of the residual swept - x. One warp per kRun rows; it reports once per segment that it meets.
__global__ void compare(std::int64_t n, const std::int64_t* segment, const double* x, const double* swept,
                        Bounds bounds) {
  const int c = lane_id();
  for (std::int64_t run = warp_id(); run < ceil_div(n, kRun); run += warp_count()) {
    const std::int64_t end = min(static_cast<long long>((run + 1) * kRun), static_cast<long long>(n));
    for (std::int64_t i = run * kRun; i < end;) {
      const std::int64_t s = segment[i];
      double low = kInfinity, high = -kInfinity;
      for (; i < end && segment[i] == s; ++i) {
        const double residual = swept[i * kPanel + c] - x[i * kPanel + c];
        low = fmin(low, residual);
        high = fmax(high, residual);
      }
      atomicMin(&bounds.low[s * kPanel + c], to_ordered(low));
      atomicMax(&bounds.high[s * kPanel + c], to_ordered(high));
    }
  }
}

__global__ void widest(std::int64_t segments, double restart, Bounds bounds) {
  double largest = 0;  // an empty segment's interval is upside down and does not count
  for (std::int64_t e = thread_id(); e < segments * kPanel; e += thread_count())
    largest = fmax(largest, (from_ordered(bounds.high[e]) - from_ordered(bounds.low[e])) / 2 / restart);
  raise_to(bounds.error, largest);
}

/// Adds the middle of the interval that x is off by.
__global__ void correct(std::int64_t n, const std::int64_t* segment, double restart, Bounds bounds, double* x) {
  for (std::int64_t e = thread_id(); e < n * kPanel; e += thread_count()) {
    const std::int64_t b = segment[e / kPanel] * kPanel + e % kPanel;
    x[e] += (from_ordered(bounds.low[b]) + from_ordered(bounds.high[b])) / 2 / restart;
  }
}

// ---- from columns to edges ------------------------------------------------------------------------------------------

__global__ void keep_mass(std::int64_t n, std::int64_t classes, std::int64_t first, const double* x, double* mass) {
  for (std::int64_t e = thread_id(); e < n * kPanel; e += thread_count()) {
    const std::int64_t i = e / kPanel, c = first + e % kPanel;
    if (c < classes) mass[i * classes + c] = x[e];
  }
}

template <typename T>
__global__ void total_mass(std::int64_t n, std::int64_t classes, const double* mass, double* total, T* class_mass) {
  for (std::int64_t i = thread_id(); i < n; i += thread_count()) {
    double sum = 0;
    for (std::int64_t c = 0; c < classes; ++c) {
      sum += mass[i * classes + c];
      class_mass[i * classes + c] = static_cast<T>(mass[i * classes + c]);
    }
    total[i] = sum;
  }
}

/// Starts the sum of every edge with the entries that lie in labelled columns.
__global__ void add_labelled(Graph graph, const std::int64_t* labels, std::int64_t classes, const double* mass,
                             const double* total, double* sum) {
  const auto entry = [&](std::int64_t i, std::int64_t j) {
    return labels[j] < 0 ? 0.0 : 2 * mass[i * classes + labels[j]] - total[i];
  };
  for (std::int64_t e = thread_id(); e < graph.n * graph.k; e += thread_count()) {
    const std::int64_t i = e / graph.k, j = graph.indices[e];
    sum[e] = entry(i, j) + entry(j, i);
  }
}

/// Adds the entries that lie in the panel of the unlabelled columns first .. first + kPanel - 1.
__global__ void add_unlabelled(Graph graph, const std::int64_t* number, std::int64_t first, const double* x,
                               double* sum) {
  for (std::int64_t e = thread_id(); e < graph.n * graph.k; e += thread_count()) {
    const std::int64_t i = e / graph.k, j = graph.indices[e];
    const std::int64_t of_i = number[i] - first, of_j = number[j] - first;
    if (of_j >= 0 && of_j < kPanel) sum[e] += x[i * kPanel + of_j];
    if (of_i >= 0 && of_i < kPanel) sum[e] += x[j * kPanel + of_i];
  }
}

template <typename T>
__global__ void halve(std::int64_t count, const double* sum, T* values) {
  for (std::int64_t e = thread_id(); e < count; e += thread_count()) values[e] = static_cast<T>(sum[e] / 2);
}

// ---- host -----------------------------------------------------------------------------------------------------------

/// Brings one number to the host once the stream has computed it.
template <typename T>
T read(const T* device, cudaStream_t stream) {
  T value;
  check(cudaMemcpyAsync(&value, device, sizeof value, cudaMemcpyDeviceToHost, stream), "affinity: read");
  check(cudaStreamSynchronize(stream), "affinity: read");
  return value;
}

struct Solver {
  Graph graph;
  std::int64_t segments;
  double gamma;
  Work& work;
  cudaStream_t stream;

  std::int64_t iterations = 0;  // of the slowest panel so far

  /// Leaves the solution of (I - gamma Q) x = (1 - gamma) source in work.x and returns a bound on its error: at most
  /// `tol`, or what rounding allows. The steps and constants are those of solve() in affinity.cpp.
  double solve(Source source, double tol) {
    const double restart = 1 - gamma;
    const double rounding = static_cast<double>(graph.k + 4) * 0x1p-53 / restart;
    const auto limit = static_cast<std::int64_t>(std::ceil(std::log(1e-17) / std::log(gamma))) + 1;
    const Grid entries = threads_for(graph.n * kPanel);
    launch("affinity: start", stream, entries, start, graph.n, source, work.x);
    for (std::int64_t iteration = 1;; ++iteration) {
      launch("affinity: sweep", stream, warps_for(graph.n), sweep, graph, gamma / static_cast<double>(graph.k), restart,
             source, work.x, work.swept);
      const bool last = iteration >= limit;
      if (iteration % kCheckEvery == 0 || last) {
        const double error = width(restart) + rounding;
        if (error <= tol || last) {
          launch("affinity: correct", stream, entries, correct, graph.n, work.segment, restart, work.bounds, work.x);
          iterations = std::max(iterations, iteration);
          return error;
        }
      }
      std::swap(work.x, work.swept);
    }
  }

 private:
  double width(double restart) {
    const Grid intervals = threads_for(segments * kPanel);
    launch("affinity: reset_bounds", stream, intervals, reset_bounds, segments, work.bounds);
    launch("affinity: compare", stream, warps_for(ceil_div(graph.n, kRun)), compare, graph.n, work.segment, work.x,
           work.swept, work.bounds);
    launch("affinity: widest", stream, intervals, widest, segments, restart, work.bounds);
    return read(work.bounds.error, stream);
  }
};

}  // namespace

std::int64_t propagate_affinity_workspace(std::int64_t n, std::int64_t k, std::int64_t segments, std::int64_t classes) {
  Workspace workspace(nullptr);
  Work(workspace, n, k, segments, classes);
  return workspace.bytes();
}

template <typename T>
AffinityReport propagate_affinity(const std::int64_t* indices, std::int64_t n, std::int64_t k, const std::int64_t* ptr,
                                  std::int64_t segments, const std::int64_t* labels, std::int64_t classes, double gamma,
                                  double tol, T* values, T* class_mass, Progress& progress, void* workspace,
                                  void* stream) {
  if (n == 0) return {0, 0.0, true};
  const auto on = static_cast<cudaStream_t>(stream);
  const Graph graph{indices, n, k};
  Workspace memory(workspace);
  Work work(memory, n, k, segments, classes);
  Solver solver{graph, segments, gamma, work, on};

  check(cudaMemsetAsync(work.most, 0, sizeof *work.most, on), "affinity: number_unlabelled");
  launch("affinity: number_unlabelled", on, warps_for(segments), number_unlabelled, ptr, segments, labels, work.segment,
         work.number, work.most);
  const std::int64_t unlabelled = read(work.most, on);
  const std::int64_t class_panels = ceil_div(classes, kPanel), panels = ceil_div(unlabelled, kPanel);

  // Class mass, and from it every labelled column. One that adds up all classes is as far off as all of them.
  double mass_error = 0;
  const double mass_tol = tol / 4 / static_cast<double>(std::max<std::int64_t>(classes, 1));
  for (std::int64_t p = 0; p < class_panels; ++p) {
    mass_error = std::max(mass_error, solver.solve({labels, p * kPanel}, mass_tol));
    launch("affinity: keep_mass", on, threads_for(n * kPanel), keep_mass, n, classes, p * kPanel, work.x, work.mass);
  }
  launch("affinity: total_mass", on, threads_for(n), total_mass<T>, n, classes, work.mass, work.total, class_mass);
  launch("affinity: add_labelled", on, threads_for(n * k), add_labelled, graph, labels, classes, work.mass, work.total,
         work.sum);

  double edge_error = mass_error * static_cast<double>(classes + 2);
  for (std::int64_t p = 0; p < panels; ++p) {
    if (!progress.update(static_cast<double>(p) / static_cast<double>(panels)))
      return {solver.iterations, edge_error, false};
    edge_error = std::max(edge_error, solver.solve({work.number, p * kPanel}, tol / 2));
    launch("affinity: add_unlabelled", on, threads_for(n * k), add_unlabelled, graph, work.number, p * kPanel, work.x,
           work.sum);
  }
  launch("affinity: halve", on, threads_for(n * k), halve<T>, n * k, work.sum, values);
  const double rounded = sizeof(T) == 4 ? 0x1p-24 : 0x1p-53;  // values are at most 1
  return {solver.iterations, edge_error + rounded, true};
}

template AffinityReport propagate_affinity(const std::int64_t*, std::int64_t, std::int64_t, const std::int64_t*,
                                           std::int64_t, const std::int64_t*, std::int64_t, double, double, float*,
                                           float*, Progress&, void*, void*);
template AffinityReport propagate_affinity(const std::int64_t*, std::int64_t, std::int64_t, const std::int64_t*,
                                           std::int64_t, const std::int64_t*, std::int64_t, double, double, double*,
                                           double*, Progress&, void*, void*);

}  // namespace ssdml::cuda
