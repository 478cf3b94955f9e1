#include <algorithm>
#include <cmath>

#include "common/peers.h"
#include "cuda/exchange.h"
#include "cuda/launch.h"
#include "propagate_labels/parameters.h"
#include "propagate_labels/propagate_labels.h"
#include "walk/cuda_graph.h"
#include "walk/rounding.h"

namespace ssdml::cuda {
namespace {

using walk::Edges;
using walk::Graph;

// The conjugate gradients of propagate_labels.cpp for up to kWarp classes at a time, one per lane of the warp that has
// a point, and for all components at once: M is block-diagonal, so that one step length serves them all, if not as
// well. Numbers of a step stay on the device; the host looks every kStepsPerLook steps whether it is done.
constexpr std::int64_t kChunk = 256;  // rows whose sums one block adds up
constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kStepsPerLook = 16;

struct Step {
  double square[kWarp], length[kWarp], keep[kWarp];
  int steps, unfinished;
};

/// M = I - gamma S, S = D^-1 (Q + Q'), in which <u, v> = u' D v.
struct Symmetrised {
  Graph graph;
  double gamma;
  double* degree;  // (n)

  template <typename X>
  __device__ double edges(std::int64_t p, X x) const {
    const double same = 1.0 / static_cast<double>(graph.k);
    const std::int64_t begin = graph.begin[p];
    double total = 0;
    for (const Edges& edges : {graph.edges_out(p), graph.edges_in(p)}) {
      double sum = 0;
      for (std::int64_t e = 0; e < edges.count; ++e)
        sum += (edges.share ? edges.share_of(e) : same) * x(begin + edges.at[e]);
      total += sum;
    }
    return total;
  }

  /// Entry (p, c) of M x for an (n, width) x.
  __device__ double operator()(std::int64_t p, std::int64_t c, std::int64_t width, const double* x) const {
    return x[p * width + c] - gamma / degree[p] * edges(p, [&](std::int64_t q) { return x[q * width + c]; });
  }
};

/// What one panel of classes is solved in, (n, width) each.
struct ClassPanel {
  std::int64_t n, width;
  double *b, *x, *residual, *direction, *product;
};

__global__ void find_degrees(Symmetrised matrix, double* most) {
  double largest = 0;
  for (std::int64_t p = thread_id(); p < matrix.graph.n; p += thread_count()) {
    matrix.degree[p] = matrix.edges(p, [](std::int64_t) { return 1.0; });
    largest = fmax(largest, static_cast<double>(matrix.graph.k + matrix.graph.edges_in(p).count));
  }
  raise_to(most, largest);
}

/// reached[c] of a component, at the place where it begins, is whether a label of class c lies in it.
__global__ void find_reached(Graph graph, std::int64_t classes, char* reached) {
  for (std::int64_t p = thread_id(); p < graph.n; p += thread_count())
    if (graph.label[p] >= 0) reached[graph.begin[p] * classes + graph.label[p]] = 1;
}

__global__ void start(Graph graph, ClassPanel panel, std::int64_t first, std::int64_t classes, double gamma,
                      const double* mass) {
  for (std::int64_t e = thread_id(); e < panel.n * panel.width; e += thread_count()) {
    const std::int64_t p = e / panel.width, c = first + e % panel.width;
    panel.b[e] = graph.label[p] == c ? 1 - gamma : 0;
    panel.x[e] = mass[p * classes + c];
  }
}

// ---- sums over all points that depend neither on the grid nor on the order of threads -------------------------------

/// chunk[q, c] = sum of f(p, c) over the rows of chunk q.
template <typename F>
__device__ void sum_chunks(std::int64_t n, std::int64_t width, double* chunk, F f) {
  __shared__ double partial[kWarps][kWarp];
  const int c = lane_id(), warp = static_cast<int>(threadIdx.x) / kWarp;
  for (std::int64_t q = blockIdx.x; q < ceil_div(n, kChunk); q += gridDim.x) {
    double sum = 0;
    for (std::int64_t p = q * kChunk + warp; p < n && p < (q + 1) * kChunk; p += kWarps)
      if (c < width) sum += f(p, c);
    partial[warp][c] = sum;
    __syncthreads();
    if (warp == 0) {
      for (int w = 1; w < kWarps; ++w) sum += partial[w][c];
      chunk[q * kWarp + c] = sum;
    }
    __syncthreads();
  }
}

/// Sum of column lane_id() over all chunks, in the first warp of the only block.
__device__ double sum_of_chunks(std::int64_t chunks, const double* chunk) {
  __shared__ double partial[kWarps][kWarp];
  const int c = lane_id(), warp = static_cast<int>(threadIdx.x) / kWarp;
  double sum = 0;
  for (std::int64_t q = warp; q < chunks; q += kWarps) sum += chunk[q * kWarp + c];
  partial[warp][c] = sum;
  __syncthreads();
  if (warp == 0)
    for (int w = 1; w < kWarps; ++w) sum += partial[w][c];
  return sum;
}

/// a / b, and 0 for columns that are solved.
__device__ double ratio(double a, double b) { return b > 0 ? a / b : 0; }

// ---- one step -------------------------------------------------------------------------------------------------------

__global__ void first_residual(Symmetrised matrix, ClassPanel panel, double* chunk) {
  sum_chunks(panel.n, panel.width, chunk, [&](std::int64_t p, int c) {
    const std::int64_t e = p * panel.width + c;
    const double residual = panel.b[e] - matrix(p, c, panel.width, panel.x);
    panel.direction[e] = panel.residual[e] = residual;
    return matrix.degree[p] * residual * residual;
  });
}

__global__ void first_square(std::int64_t chunks, const double* chunk, double target, Step* step) {
  const double square = sum_of_chunks(chunks, chunk);
  if (threadIdx.x >= kWarp) return;
  step->square[threadIdx.x] = square;
  const bool unfinished = __ballot_sync(kAllLanes, square > target * target) != 0;
  if (threadIdx.x == 0) step->steps = 0, step->unfinished = unfinished;
}

__global__ void multiply_direction(Symmetrised matrix, ClassPanel panel, double* chunk) {
  sum_chunks(panel.n, panel.width, chunk, [&](std::int64_t p, int c) {
    const std::int64_t e = p * panel.width + c;
    const double product = matrix(p, c, panel.width, panel.direction);
    panel.product[e] = product;
    return matrix.degree[p] * panel.direction[e] * product;
  });
}

__global__ void find_length(std::int64_t chunks, const double* chunk, Step* step) {
  const double curvature = sum_of_chunks(chunks, chunk);
  if (threadIdx.x < kWarp) step->length[threadIdx.x] = ratio(step->square[threadIdx.x], curvature);
}

__global__ void descend(Symmetrised matrix, ClassPanel panel, const Step* step, double* chunk) {
  sum_chunks(panel.n, panel.width, chunk, [&](std::int64_t p, int c) {
    const std::int64_t e = p * panel.width + c;
    panel.x[e] += step->length[c] * panel.direction[e];
    const double residual = panel.residual[e] -= step->length[c] * panel.product[e];
    return matrix.degree[p] * residual * residual;
  });
}

__global__ void find_keep(std::int64_t chunks, const double* chunk, double target, Step* step) {
  const double square = sum_of_chunks(chunks, chunk);
  if (threadIdx.x >= kWarp) return;
  step->keep[threadIdx.x] = ratio(square, step->square[threadIdx.x]);
  step->square[threadIdx.x] = square;
  const bool unfinished = __ballot_sync(kAllLanes, square > target * target) != 0;
  if (threadIdx.x == 0) step->steps += step->unfinished, step->unfinished = unfinished;
}

__global__ void turn(ClassPanel panel, const Step* step) {
  for (std::int64_t e = thread_id(); e < panel.n * panel.width; e += thread_count())
    panel.direction[e] = panel.residual[e] + step->keep[e % panel.width] * panel.direction[e];
}

/// Keeps x, and raises `error` to its largest: S is row-stochastic, so that the rest, M^-1 times the residual, is at
/// most the largest residual / (1 - gamma).
__global__ void keep_solution(Symmetrised matrix, ClassPanel panel, std::int64_t first, std::int64_t classes,
                              double rounding, const char* reached, double* mass, double* error) {
  double largest = 0;
  for (std::int64_t e = thread_id(); e < panel.n * panel.width; e += thread_count()) {
    const std::int64_t p = e / panel.width, c = e % panel.width;
    if (!reached[matrix.graph.begin[p] * classes + first + c]) continue;
    const double x = panel.x[e], residual = panel.b[e] - matrix(p, c, panel.width, panel.x);
    mass[p * classes + first + c] = fmin(fmax(x, 0.0), 1.0);
    const double around = matrix.edges(p, [&](std::int64_t q) { return fabs(panel.x[q * panel.width + c]); });
    const double size = fabs(x) + around / matrix.degree[p] + panel.b[e];
    largest = fmax(largest, fabs(residual) + rounding * size);
  }
  raise_to(error, largest / (1 - matrix.gamma));
}

/// Leaves a panel to another process, which will add it.
__global__ void leave(ClassPanel panel, std::int64_t first, std::int64_t classes, double* mass) {
  for (std::int64_t e = thread_id(); e < panel.n * panel.width; e += thread_count())
    mass[e / panel.width * classes + first + e % panel.width] = 0;
}

// ---- posteriors -----------------------------------------------------------------------------------------------------

/// total[s, c] = mass of class c over segment s; one block each.
__global__ void total_mass(Graph graph, const std::int64_t* ptr, std::int64_t segments, std::int64_t classes,
                           const double* mass, double* total) {
  __shared__ double partial[kThreads];
  for (std::int64_t b = blockIdx.x; b < segments * classes; b += gridDim.x) {
    const std::int64_t s = b / classes, c = b % classes, end = ptr[s + 1];
    double sum = 0;
    for (std::int64_t i = ptr[s] + threadIdx.x; i < end; i += kThreads) sum += mass[graph.place[i] * classes + c];
    partial[threadIdx.x] = sum;
    for (unsigned half = kThreads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    }
    if (threadIdx.x == 0) total[b] = partial[0];
    __syncthreads();
  }
}

/// Rows of sum 1, and a bound on the error of any entry.
template <typename T>
__global__ void normalise(Graph graph, const std::int64_t* ptr, std::int64_t segments, std::int64_t classes,
                          const double* mass, const double* total, const char* reached, const double* error,
                          T* posteriors, double* bound) {
  double largest = 0;
  for (std::int64_t p = thread_id(); p < graph.n; p += thread_count()) {
    const std::int64_t i = graph.point[p];
    std::int64_t s = 0, above = segments;  // the last segment that does not begin after i
    while (above - s > 1) (ptr[(s + above) / 2] <= i ? s : above) = (s + above) / 2;
    const double total_error = static_cast<double>(ptr[s + 1] - ptr[s]) * (*error + 0x1p-52);
    const auto share = [&](std::int64_t c) {
      return reached[graph.begin[p] * classes + c] ? mass[p * classes + c] / total[s * classes + c] : 0.0;
    };
    double sum = 0, sum_error = 0;
    for (std::int64_t c = 0; c < classes; ++c) {
      if (!reached[graph.begin[p] * classes + c]) continue;
      sum += share(c);
      sum_error += (*error + share(c) * total_error) / fmax(total[s * classes + c] - total_error, 0.0);
    }
    for (std::int64_t c = 0; c < classes; ++c)
      posteriors[i * classes + c] = static_cast<T>(sum > 0 ? share(c) / sum : 1.0 / static_cast<double>(classes));
    if (sum_error > 0) largest = fmax(largest, sum > 0 ? fmin(sum_error / sum, 1.0) : 1.0);
  }
  raise_to(bound, largest);
}

// ---- host -----------------------------------------------------------------------------------------------------------

constexpr std::int64_t kNoneLarge = std::int64_t{1} << 40;

struct PropagationWork {
  walk::Build build;
  Symmetrised matrix;
  double *mass, *total;  // (n, classes): F; (segments, classes)
  char* reached;         // (n, classes)
  ClassPanel panel;
  double *chunk, *number;  // (chunks, kWarp); most edges of a point, error of mass, bound
  Step* step;

  PropagationWork(Workspace& workspace, std::int64_t n, std::int64_t k, bool weighted, std::int64_t segments,
                  std::int64_t classes)
      : build(workspace, n, k, weighted, kNoneLarge) {
    matrix = {build.graph, 0, workspace.take<double>(n)};
    mass = workspace.take<double>(n * classes);
    total = workspace.take<double>(segments * classes);
    reached = workspace.take<char>(n * classes);
    const std::int64_t width = std::min<std::int64_t>(classes, kWarp);
    panel = {n, width, nullptr, nullptr, nullptr, nullptr, nullptr};
    for (double** each : {&panel.b, &panel.x, &panel.residual, &panel.direction, &panel.product})
      *each = workspace.take<double>(n * width);
    chunk = workspace.take<double>(ceil_div(n, kChunk) * kWarp);
    number = workspace.take<double>(3);
    step = workspace.take<Step>(1);
  }
};

class Propagation {
 public:
  Propagation(PropagationWork& work, std::int64_t classes, Progress& progress, Peers& peers, cudaStream_t stream)
      : work_(work),
        classes_(classes),
        chunks_(ceil_div(work.panel.n, kChunk)),
        progress_(progress),
        peers_(peers),
        stream_(stream) {
    launch("labels: find_degrees", stream, grid_of_threads(work.panel.n), find_degrees, work.matrix, &work.number[0]);
    launch("labels: find_reached", stream, grid_of_threads(work.panel.n), find_reached, work.build.graph, classes,
           work.reached);
    rounding_ = entry_rounding(read("labels: read", &work.number[0], 1, stream)[0]);
  }

  int steps = 0;
  bool proceeding = true;

  /// Brings every entry within `target`, or as close as rounding allows: this process its panels, and the others
  /// theirs. Returns the error.
  double improve(double target) {
    check(cudaMemsetAsync(&work_.number[1], 0, sizeof(double), stream_), "labels: error");
    for (std::int64_t first = 0; first < classes_ && proceeding; first += kWarp) {
      ClassPanel panel = work_.panel;
      panel.width = std::min<std::int64_t>(classes_ - first, kWarp);
      if (first / kWarp % peers_.size != peers_.rank) {
        launch("labels: leave", stream_, grid_of_threads(panel.n * panel.width), leave, panel, first, classes_,
               work_.mass);
        continue;
      }
      const double gamma = work_.matrix.gamma;
      launch("labels: start", stream_, grid_of_threads(panel.n * panel.width), start, work_.build.graph, panel, first,
             classes_, gamma, work_.mass);
      solve(panel, target * (1 - gamma), static_cast<double>(first) / static_cast<double>(classes_));
      launch("labels: keep_solution", stream_, grid_of_threads(panel.n * panel.width), keep_solution, work_.matrix,
             panel, first, classes_, rounding_, work_.reached, work_.mass, &work_.number[1]);
    }
    sum_on_device("labels: exchange", peers_, work_.mass, work_.panel.n * classes_, stream_);
    max_on_device("labels: exchange", peers_, &work_.number[1], 1, stream_);
    double most = steps;
    peers_.max(&most, 1);
    steps = static_cast<int>(most);
    return read("labels: read", &work_.number[1], 1, stream_)[0];
  }

 private:
  void solve(const ClassPanel& panel, double target, double share) {
    const int most = most_steps(work_.matrix.gamma);
    const Grid rows{chunks_, kThreads}, one{1, kThreads};
    launch("labels: first_residual", stream_, rows, first_residual, work_.matrix, panel, work_.chunk);
    launch("labels: first_square", stream_, one, first_square, chunks_, work_.chunk, target, work_.step);
    for (int taken = 0; taken < most; taken += kStepsPerLook) {
      const Step now = read("labels: read", work_.step, 1, stream_)[0];
      steps = std::max(steps, now.steps);
      if (!now.unfinished) return;
      if (!(proceeding = progress_.update(share))) return;
      for (int s = 0; s < kStepsPerLook; ++s) {
        launch("labels: multiply_direction", stream_, rows, multiply_direction, work_.matrix, panel, work_.chunk);
        launch("labels: find_length", stream_, one, find_length, chunks_, work_.chunk, work_.step);
        launch("labels: descend", stream_, rows, descend, work_.matrix, panel, work_.step, work_.chunk);
        launch("labels: find_keep", stream_, one, find_keep, chunks_, work_.chunk, target, work_.step);
        launch("labels: turn", stream_, grid_of_threads(panel.n * panel.width), turn, panel, work_.step);
      }
    }
    steps = std::max(steps, read("labels: read", work_.step, 1, stream_)[0].steps);
  }

  PropagationWork& work_;
  std::int64_t classes_, chunks_;
  Progress& progress_;
  Peers& peers_;
  cudaStream_t stream_;
  double rounding_ = 0;  // of an entry of the residual, relative to the magnitudes it is the sum of
};

}  // namespace

std::int64_t propagate_labels_workspace(std::int64_t n, std::int64_t k, bool weighted, std::int64_t segments,
                                        std::int64_t classes) {
  Workspace workspace(nullptr);
  PropagationWork(workspace, n, k, weighted, segments, classes);
  return workspace.bytes();
}

template <typename T>
WalkReport propagate_labels(const std::int64_t* indices, const double* weights, std::int64_t n, std::int64_t k,
                            const std::int64_t* ptr, std::int64_t segments, const std::int64_t* labels,
                            std::int64_t classes, double gamma, double tol, T* posteriors, Progress& progress,
                            Peers& peers, void* workspace, void* stream) {
  if (n == 0 || classes == 0) return {0, 0.0, true};
  const auto on = static_cast<cudaStream_t>(stream);
  Workspace memory(workspace);
  PropagationWork work(memory, n, k, weights != nullptr, segments, classes);
  work.matrix.gamma = gamma;
  check(cudaMemsetAsync(work.mass, 0, n * classes * sizeof(double), on), "labels: mass");
  check(cudaMemsetAsync(work.reached, 0, n * classes, on), "labels: mass");
  check(cudaMemsetAsync(work.number, 0, 3 * sizeof(double), on), "labels: mass");
  work.build.run(indices, weights, labels, on);
  Propagation propagation(work, classes, progress, peers, on);

  double target = tol / static_cast<double>(n), bound = 1;
  for (double before = 2;;) {
    const double error = propagation.improve(target);
    if (!propagation.proceeding) return {propagation.steps, 1.0, false};
    launch("labels: total_mass", on, {segments * classes, kThreads}, total_mass, work.build.graph, ptr, segments,
           classes, work.mass, work.total);
    check(cudaMemsetAsync(&work.number[2], 0, sizeof(double), on), "labels: bound");
    launch("labels: normalise", on, grid_of_threads(n), normalise<T>, work.build.graph, ptr, segments, classes,
           work.mass, work.total, work.reached, &work.number[1], posteriors, &work.number[2]);
    bound = read("labels: read", &work.number[2], 1, on)[0] + ssdml::walk::unit_roundoff<T> +
            posterior_rounding(static_cast<double>(classes));
    bound = std::min(bound, 1.0);
    if (bound <= tol || !(error < before / 2)) break;  // rounding of T alone may exceed tol
    before = error;
    target = next_target(error, target, tol, bound);
  }
  return {propagation.steps, bound, true};
}

template WalkReport propagate_labels(const std::int64_t*, const double*, std::int64_t, std::int64_t,
                                     const std::int64_t*, std::int64_t, const std::int64_t*, std::int64_t, double,
                                     double, float*, Progress&, Peers&, void*, void*);
template WalkReport propagate_labels(const std::int64_t*, const double*, std::int64_t, std::int64_t,
                                     const std::int64_t*, std::int64_t, const std::int64_t*, std::int64_t, double,
                                     double, double*, Progress&, Peers&, void*, void*);

}  // namespace ssdml::cuda
