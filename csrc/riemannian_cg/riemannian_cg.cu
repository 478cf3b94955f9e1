#include "angular_loss/cuda_shared.h"
#include "common/orthonormal.h"
#include "cuda/launch.h"
#include "riemannian_cg/parameters.h"
#include "riemannian_cg/riemannian_cg.h"

namespace ssdml::cuda {
namespace {

// One kernel runs the whole minimisation: its blocks are all on the device at once and meet at grid barriers between
// the phases of an evaluation. Every scalar (a step, a loss, whether a step is accepted) is computed by every thread
// from the same partial sums in the same order, so that all of them take the same way, and the host decides nothing.
// How sums are split depends on sizes alone: results do not depend on the number of blocks.

constexpr int kThreads = 256;
constexpr int kRows = 4;             // a warp computes kRows x kWarp entries of a product
constexpr int kMostPartials = 1024;  // parts of a sum
constexpr int kQuantities = 5;       // sums that are found together

template <typename T>
struct Work {
  T *next, *grad, *next_grad, *direction;  // (d, l) each
  T *y, *grad_y;                           // projections of the rows that occur in triplets, and the gradient there
  double *slope, *small, *reciprocal, *partials;  // (n_triplets); (l, 2 l); (l + 1); two places
  std::int64_t *slot, *used, *first, *n_used;     // see number_rows()
  SortedParts parts;

  Work(Workspace& workspace, std::int64_t n, std::int64_t d, std::int64_t l, std::int64_t n_triplets)
      : parts(workspace, n, n_triplets) {
    const std::int64_t rows = std::min(n, 3 * n_triplets);
    for (T** each : {&next, &grad, &next_grad, &direction}) *each = workspace.take<T>(d * l);
    for (T** each : {&y, &grad_y}) *each = workspace.take<T>(rows * l);
    slope = workspace.take<double>(n_triplets);
    small = workspace.take<double>(2 * l * l);
    reciprocal = workspace.take<double>(l + 1);
    partials = workspace.take<double>(2 * kQuantities * kMostPartials);
    slot = workspace.take<std::int64_t>(3 * n_triplets);
    used = workspace.take<std::int64_t>(rows);
    first = workspace.take<std::int64_t>(rows + 1);
    n_used = workspace.take<std::int64_t>(1);
  }
};

// ---- products and sums ----------------------------------------------------------------------------------------------

/// out(i, j, sum of a(i, q) b(q, j) over q < p) for i < m and j < n, in arithmetic of type S. Grids share the entries.
template <typename S, typename A, typename B, typename Out>
__device__ void product(std::int64_t m, std::int64_t n, std::int64_t p, A a, B b, Out out) {
  const std::int64_t across = ceil_div(n, kWarp), units = ceil_div(m, kRows) * across;
  for (std::int64_t u = warp_id(); u < units; u += warp_count()) {
    const std::int64_t i0 = u / across * kRows, j = u % across * kWarp + lane_id(), column = j < n ? j : n - 1;
    S sum[kRows] = {};
#pragma unroll 4
    for (std::int64_t q = 0; q < p; ++q) {
      const S right = b(q, column);
#pragma unroll
      for (int r = 0; r < kRows; ++r) sum[r] = fma(static_cast<S>(a(i0 + r < m ? i0 + r : m - 1, q)), right, sum[r]);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r)
      if (j < n && i0 + r < m) out(i0 + r, j, sum[r]);
  }
}

/// Sums over `count` terms in at most kMostPartials parts, for which each warp writes partials of its own.
class Sums {
 public:
  __device__ explicit Sums(double* partials) : place_(partials) {}

  /// For each part, `add(begin, end, sums)` adds its terms, which the lanes share, to `quantities` sums. Returns the
  /// totals, the same in all threads, which must all call it; what was written before is seen afterwards.
  template <int quantities, typename Add>
  __device__ void operator()(double (&totals)[quantities], std::int64_t count, std::int64_t parts, Add add) {
    static_assert(quantities <= kQuantities);
    parts = parts < kMostPartials ? parts : kMostPartials;
    for (std::int64_t s = warp_id(); s < parts; s += warp_count()) {
      double sums[quantities] = {};
      add(count * s / parts, count * (s + 1) / parts, sums);
#pragma unroll
      for (int i = 0; i < quantities; ++i) {
        const double sum = sum_of_warp(sums[i]);
        if (lane_id() == 0) place_[i * kMostPartials + s] = sum;
      }
    }
    grid_barrier();
#pragma unroll
    for (int i = 0; i < quantities; ++i) {
      double sum = 0;
      for (std::int64_t s = lane_id(); s < parts; s += kWarp) sum += place_[i * kMostPartials + s];
      totals[i] = sum_of_warp(sum);
    }
    // The other place is free: all threads have read it before they came to the barrier.
    place_ += other_;
    other_ = -other_;
  }

 private:
  double* place_;
  std::int64_t other_ = kQuantities * kMostPartials;
};

// ---- objective ------------------------------------------------------------------------------------------------------

/// Numbers the rows that occur in triplets: used[u] is the u-th of them, its parts are first[u] .. first[u + 1] - 1 of
/// the sorted ones, and slot[e] is the number of entry e's row. For one block.
__device__ void number_rows(const SortedParts& parts, std::int64_t entries, std::int64_t* slot, std::int64_t* used,
                            std::int64_t* first, std::int64_t* n_used) {
  __shared__ int heads[kThreads / kWarp];
  const int warp = threadIdx.x / kWarp, lane = lane_id();
  std::int64_t before = 0;
  for (std::int64_t e0 = 0; e0 < entries; e0 += kThreads) {
    const std::int64_t e = e0 + threadIdx.x;
    const bool is_head = e < entries && (e == 0 || parts.row[e] != parts.row[e - 1]);
    const unsigned votes = __ballot_sync(kAllLanes, is_head);
    if (lane == 0) heads[warp] = __popc(votes);
    __syncthreads();
    std::int64_t u = before + __popc(votes & ((2u << lane) - 1)) - 1;
    for (int w = 0; w < kThreads / kWarp; ++w) {
      if (w < warp) u += heads[w];
      before += heads[w];
    }
    if (e < entries) slot[parts.part[e]] = u;
    if (is_head) {
      used[u] = parts.row[e];
      first[u] = e;
    }
    __syncthreads();  // before the next heads are counted
  }
  if (threadIdx.x == 0) {
    first[before] = entries;
    *n_used = before;
  }
}

template <typename T>
struct Objective {
  const T* z;
  std::int64_t d, l, n_triplets;
  double four_t;
  const T* weight;
  Work<T> work;

  /// The loss at L; all threads must call it.
  __device__ double cost(const T* L, Sums& sums) const {
    const Work<T>& w = work;
    product<T>(
        *w.n_used, l, d, [&](std::int64_t u, std::int64_t q) { return z[w.used[u] * d + q]; },
        [&](std::int64_t q, std::int64_t j) { return L[q * l + j]; },
        [&](std::int64_t u, std::int64_t j, T sum) { w.y[u * l + j] = sum; });
    grid_barrier();
    double total[1];
    sums(total, n_triplets, n_triplets, [&](std::int64_t begin, std::int64_t end, double (&loss)[1]) {
      for (std::int64_t t = begin; t < end; ++t) {
        const double m = Triplet<T>(w.y, l, w.slot + 3 * t).margin(l, four_t);
        if (lane_id() != 0) continue;
        const double factor = weight ? static_cast<double>(weight[t]) : 1.0;
        loss[0] += factor * scalar_softplus(m);
        w.slope[t] = factor * sigmoid(m);
      }
    });
    return total[0];
  }

  /// Euclidean gradient where cost() was last called, seen after the next barrier.
  __device__ void gradient(T* grad) const {
    const Work<T>& w = work;
    const std::int64_t groups = ceil_div(l, kWarp);
    for (std::int64_t unit = warp_id(); unit < *w.n_used * groups; unit += warp_count()) {
      const std::int64_t u = unit / groups, p = unit % groups * kWarp + lane_id();
      if (p >= l) continue;
      T sum = 0;
      for (std::int64_t q = w.first[u]; q < w.first[u + 1]; ++q) {
        const std::int64_t t = w.parts.part[q] / 3, role = w.parts.part[q] % 3;
        const Triplet<T> triplet(w.y, l, w.slot + 3 * t);
        sum += gradient_term(triplet.anchor[p], triplet.positive[p], triplet.negative[p], on_a<T>(role, w.slope[t]),
                             on_b<T>(role, w.slope[t], four_t));
      }
      w.grad_y[u * l + p] = sum;
    }
    grid_barrier();
    product<T>(
        d, l, *w.n_used, [&](std::int64_t i, std::int64_t u) { return z[w.used[u] * d + i]; },
        [&](std::int64_t u, std::int64_t j) { return w.grad_y[u * l + j]; },
        [&](std::int64_t i, std::int64_t j, T sum) { grad[i * l + j] = sum; });
  }

  // ---- the manifold

  /// `tangents` matrices U, of which there are one or two, become tangent at L: U - L sym(L'U). What is written is seen
  /// after the next barrier, sym(L'U) in work.small among it.
  __device__ void project(const T* L, int tangents, T* U0, T* U1) const {
    const std::int64_t columns = tangents * l;
    double* const symmetric = work.small;
    const auto of = [&](std::int64_t i, std::int64_t j) -> T& {
      return (j < l ? U0 : U1)[i * l + (j < l ? j : j - l)];
    };
    // Entry (i, j) is half the sum of L'U at (i, j) and (j, i).
    const std::int64_t across = ceil_div(columns, kWarp);
    for (std::int64_t unit = warp_id(); unit < l * across; unit += warp_count()) {
      const std::int64_t i = unit / across, j = unit % across * kWarp + lane_id();
      if (j >= columns) continue;
      const std::int64_t own = j < l ? j : j - l;
      const T* const U = j < l ? U0 : U1;
      double sum = 0;
#pragma unroll 4
      for (std::int64_t q = 0; q < d; ++q) {
        sum = fma(static_cast<double>(L[q * l + i]), static_cast<double>(U[q * l + own]), sum);
        sum = fma(static_cast<double>(U[q * l + i]), static_cast<double>(L[q * l + own]), sum);
      }
      symmetric[i * columns + j] = sum / 2;
    }
    grid_barrier();
    product<T>(
        d, columns, l, [&](std::int64_t i, std::int64_t q) { return L[i * l + q]; },
        [&](std::int64_t q, std::int64_t j) { return static_cast<T>(symmetric[q * columns + j]); },
        [&](std::int64_t i, std::int64_t j, T sum) { of(i, j) -= sum; });
  }

  /// to, which may be L and D, becomes Q of L + step D = QR, seen after a barrier that follows; false, and `to`
  /// unspecified, where its columns would not be orthonormal. All threads must call it.
  __device__ bool retract(const T* L, T step, const T* D, T* to) const {
    double condition = orthonormalise(L, step, D, to);
    if (condition > kTrustedCondition && condition < kInfinity) {
      grid_barrier();
      condition = orthonormalise(to, T(0), to, to);
    }
    return condition <= kTrustedCondition;
  }

  /// to = Y R^-1 for Y = L + step D and Y'Y = R'R, seen after a barrier that follows, and unchanged where Y'Y is not
  /// positive definite. Returns its condition, the same in all threads, which must all call it.
  __device__ double orthonormalise(const T* L, T step, const T* D, T* to) const {
    double* const gram = work.small;
    const auto moved = [&](std::int64_t i, std::int64_t j) { return L[i * l + j] + step * D[i * l + j]; };
    product<double>(
        l, l, d, [&](std::int64_t i, std::int64_t q) { return moved(q, i); },
        [&](std::int64_t q, std::int64_t j) { return static_cast<double>(moved(q, j)); },
        [&](std::int64_t i, std::int64_t j, double sum) { gram[i * l + j] = sum; });
    grid_barrier();
    if (blockIdx.x == 0) eliminate(gram);
    grid_barrier();
    double largest_reciprocal = 0;
    for (std::int64_t p = lane_id(); p < l; p += kWarp) {
      const double pivot = gram[p * l + p];
      const bool is_usable = pivot > 0 && pivot < kInfinity;
      largest_reciprocal = fmax(largest_reciprocal, is_usable ? work.reciprocal[p] : kInfinity);
    }
    largest_reciprocal = largest_of_warp(largest_reciprocal);
    if (!(largest_reciprocal < kInfinity)) return kInfinity;
    // Y'Y = R'R, where row p of R is row p of gram over the square root of its pivot. One warp solves q R = y for a
    // row.
    for (std::int64_t i = warp_id(); i < d; i += warp_count()) {
      T* const row = to + i * l;
      for (std::int64_t j = lane_id(); j < l; j += kWarp) row[j] = moved(i, j);
      __syncwarp();
      for (std::int64_t p = 0; p + 1 < l; ++p) {
        const double factor = static_cast<double>(row[p]) * work.reciprocal[p];
        for (std::int64_t j = p + 1 + lane_id(); j < l; j += kWarp)
          row[j] = static_cast<T>(static_cast<double>(row[j]) - factor * gram[p * l + j]);
        __syncwarp();
      }
      for (std::int64_t j = lane_id(); j < l; j += kWarp)
        row[j] = static_cast<T>(static_cast<double>(row[j]) * sqrt(work.reciprocal[j]));
    }
    return work.reciprocal[l] * largest_reciprocal;
  }

  /// Gaussian elimination below the diagonal of a positive definite matrix, of which only the upper triangle is used:
  /// row p stays as it is once rows above have been subtracted, so that one barrier per pivot is enough. Leaves the
  /// reciprocals of the pivots, and behind them the largest entry of the diagonal. For one block.
  __device__ void eliminate(double* gram) const {
    const int warp = threadIdx.x / kWarp;
    if (warp == 0) {
      double largest = 0;
      for (std::int64_t p = lane_id(); p < l; p += kWarp) largest = fmax(largest, gram[p * l + p]);
      largest = largest_of_warp(largest);
      if (lane_id() == 0) work.reciprocal[l] = largest;
    }
    __syncthreads();
    for (std::int64_t p = 0; p < l; ++p) {
      const double* const row = gram + p * l;
      const double inverse = 1 / row[p];
      if (threadIdx.x == 0) work.reciprocal[p] = inverse;
      for (std::int64_t i = p + 1 + warp; i < l; i += kThreads / kWarp) {
        const double factor = row[i] * inverse;
        for (std::int64_t j = i + lane_id(); j < l; j += kWarp) gram[i * l + j] -= factor * row[j];
      }
      __syncthreads();
    }
  }

  /// The largest |L'L - I|, added to what `largest` holds.
  __device__ void drift(const T* L, double* largest) const {
    double off = 0;
    product<double>(
        l, l, d, [&](std::int64_t i, std::int64_t q) { return L[q * l + i]; },
        [&](std::int64_t q, std::int64_t j) { return static_cast<double>(L[q * l + j]); },
        [&](std::int64_t i, std::int64_t j, double sum) { off = fmax(off, off_identity(sum, i == j ? 1 : 0)); });
    raise_to(largest, off);
  }
};

// ---- the method -----------------------------------------------------------------------------------------------------

template <typename T>
__device__ void exchange(T*& u, T*& v) {
  T* const former = u;
  u = v;
  v = former;
}

/// See riemannian_cg.cpp, whose steps these are.
template <typename T>
__global__ void __launch_bounds__(kThreads, 2)
    minimise(Objective<T> objective, std::int64_t iterations, T* L, double* report) {
  using namespace line_search;
  const Work<T>& work = objective.work;
  const std::int64_t l = objective.l, size = objective.d * l, parts = ceil_div(size, kWarp);
  T *at = L, *next = work.next, *grad = work.grad, *next_grad = work.next_grad, *const direction = work.direction;
  Sums sums(work.partials);
  const auto over_entries = [&](auto& totals, auto term) {
    sums(totals, size, parts, [&](std::int64_t begin, std::int64_t end, auto& partial) {
      for (std::int64_t e = begin + lane_id(); e < end; e += kWarp) term(e, partial);
    });
  };
  const auto product_of = [](T u, T v) { return static_cast<double>(u) * v; };
  // Term e of the squared norm of what project() has taken from the first of `tangents` matrices.
  const auto normal_square = [&](std::int64_t e, int tangents) {
    const double entry = e < l * l ? work.small[e / l * tangents * l + e % l] : 0.0;
    return entry * entry;
  };

  if (blockIdx.x == 0) number_rows(work.parts, 3 * objective.n_triplets, work.slot, work.used, work.first, work.n_used);
  grid_barrier();
  objective.drift(at, report + 4);
  grid_barrier();
  if (report[4] > kOrthonormal<T>) {
    if (objective.retract(at, T(0), at, next)) exchange(at, next);
    grid_barrier();
  }
  double loss = objective.cost(at, sums), length = kInfinity, first_step = 0;
  objective.gradient(grad);
  grid_barrier();
  objective.project(at, 1, grad, grad);
  grid_barrier();
  double squares[2];  // of the gradient and of what projecting it has taken away
  over_entries(squares, [&](std::int64_t e, double (&sum)[2]) {
    direction[e] = -grad[e];
    sum[0] += product_of(grad[e], grad[e]);
    sum[1] += normal_square(e, 1);
  });
  double slope = -squares[0], norm_square = squares[0];
  std::int64_t done = 0, evaluations = 1;

  while (done < iterations && descends<T>(sqrt(squares[0]), sqrt(squares[1])) && length >= kLeastStep) {
    if (!leads_down<T>(slope, sqrt(squares[0]), sqrt(squares[1]))) {  // start again from the gradient
      for (std::int64_t e = thread_id(); e < size; e += thread_count()) direction[e] = -grad[e];
      grid_barrier();
      slope = -squares[0];
      norm_square = squares[0];
    }
    const double norm = sqrt(norm_square);
    double step = fmin(done == 0 ? 1 / norm : first_step, kLongestStep<T> / norm), reached;
    int trials = 0;
    for (;; step *= kContraction) {
      ++trials;
      const bool is_on_manifold = objective.retract(at, static_cast<T>(step), direction, next);
      grid_barrier();
      reached = is_on_manifold ? objective.cost(next, sums) : kInfinity;
      if (reached <= loss + kSufficientDecrease * step * slope || trials == kMostTrials) break;
    }
    first_step = next_first_step(trials, step);
    evaluations += trials;
    if (!gains<T>(loss, reached)) break;
    length = step * norm;
    ++done;

    objective.gradient(next_grad);
    grid_barrier();
    objective.project(next, 2, next_grad, direction);
    grid_barrier();
    double products[5];
    over_entries(products, [&](std::int64_t e, double (&sum)[5]) {
      sum[0] += product_of(next_grad[e], next_grad[e]);
      sum[1] += product_of(next_grad[e], grad[e]);
      sum[2] += product_of(next_grad[e], direction[e]);
      sum[3] += product_of(grad[e], direction[e]);
      sum[4] += normal_square(e, 2);
    });
    const double change = products[0] - products[1], along = products[2] - products[3];
    const T beta = static_cast<T>(along == 0 ? 1 : fmax(0.0, change / along));
    double moved[2];
    over_entries(moved, [&](std::int64_t e, double (&sum)[2]) {
      direction[e] = beta * direction[e] - next_grad[e];
      sum[0] += product_of(next_grad[e], direction[e]);
      sum[1] += product_of(direction[e], direction[e]);
    });
    exchange(at, next);
    exchange(grad, next_grad);
    squares[0] = products[0];
    squares[1] = products[4];
    slope = moved[0];
    norm_square = moved[1];
    loss = reached;
  }

  if (at != L)
    for (std::int64_t e = thread_id(); e < size; e += thread_count()) L[e] = at[e];
  if (thread_id() == 0) {
    report[0] = loss;
    report[1] = sqrt(squares[0]);
    report[2] = static_cast<double>(done);
    report[3] = static_cast<double>(evaluations);
  }
}

}  // namespace

template <typename T>
std::int64_t riemannian_cg_workspace(std::int64_t n, std::int64_t d, std::int64_t l, std::int64_t n_triplets) {
  Workspace workspace(nullptr);
  Work<T>(workspace, n, d, l, n_triplets);
  return workspace.bytes();
}

template <typename T>
void riemannian_cg(const T* z, std::int64_t n, std::int64_t d, std::int64_t l, const std::int64_t* triplets,
                   std::int64_t n_triplets, double tan2_alpha, const T* weight, std::int64_t iterations, T* L,
                   double* report, void* workspace, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  Workspace memory(workspace);
  Work<T> work(memory, n, d, l, n_triplets);
  work.parts.sort(triplets, n_triplets, on);
  check(cudaMemsetAsync(report, 0, 5 * sizeof *report, on), "riemannian_cg");
  // No more blocks than have something to do, for each makes barriers longer.
  const std::int64_t rows = std::min(n, 3 * n_triplets),
                     tiles = ceil_div(std::max(rows, d), kRows) * ceil_div(l, kWarp);
  const Grid grid = grid_of_warps(std::max({tiles, d, n_triplets, l * ceil_div(2 * l, kWarp)}), kThreads);
  launch_together("riemannian_cg", on, grid, minimise<T>,
                  Objective<T>{z, d, l, n_triplets, 4 * tan2_alpha, weight, work}, iterations, L, report);
}

template std::int64_t riemannian_cg_workspace<float>(std::int64_t, std::int64_t, std::int64_t, std::int64_t);
template std::int64_t riemannian_cg_workspace<double>(std::int64_t, std::int64_t, std::int64_t, std::int64_t);
template void riemannian_cg(const float*, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*, std::int64_t,
                            double, const float*, std::int64_t, float*, double*, void*, void*);
template void riemannian_cg(const double*, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*, std::int64_t,
                            double, const double*, std::int64_t, double*, double*, void*, void*);

}  // namespace ssdml::cuda
