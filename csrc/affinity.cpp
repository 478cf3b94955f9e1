#include "affinity.h"

#include <atomic>
#include <cmath>
#include <numeric>
#include <vector>

namespace ssdml {
namespace {

constexpr int kPanel = 8;                // columns solved together: one cache line of float64 per point
constexpr std::int64_t kCheckEvery = 8;  // sweeps between two looks at the error bound

/// One segment's edges, and the pairs (i, r) of each point j with indices[i, r] = j.
struct Edges {
  const std::int64_t* indices;  // of the segment's rows, numbered from `first`
  std::int64_t first, n, k;
  std::vector<std::int64_t> reverse_ptr, reverse;  // reverse[e] = i * k + r

  std::int64_t neighbour(std::int64_t i, std::int64_t r) const { return indices[i * k + r] - first; }
};

Edges make_edges(const std::int64_t* indices, std::int64_t first, std::int64_t n, std::int64_t k) {
  Edges edges{indices + first * k, first, n, k, std::vector<std::int64_t>(n + 1, 0), std::vector<std::int64_t>(n * k)};
  for (std::int64_t e = 0; e < n * k; ++e) ++edges.reverse_ptr[edges.indices[e] - first + 1];
  std::partial_sum(edges.reverse_ptr.begin(), edges.reverse_ptr.end(), edges.reverse_ptr.begin());
  std::vector<std::int64_t> next(edges.reverse_ptr.begin(), edges.reverse_ptr.end() - 1);
  for (std::int64_t e = 0; e < n * k; ++e) edges.reverse[next[edges.indices[e] - first]++] = e;
  return edges;
}

struct Panel {
  std::vector<double> x, swept;  // (n, kPanel): current solution and the next
  explicit Panel(std::int64_t n) : x(n * kPanel), swept(n * kPanel) {}
};

struct Solved {
  std::int64_t iterations;
  double error;
};

/// Solves (I - gamma Q) x = (1 - gamma) b for the kPanel columns b[i, c] = source(i, c). Stops when no entry is off by
/// more than `tol`, or when rounding allows no better.
template <typename Source>
Solved solve(const Edges& edges, double gamma, double tol, Panel& panel, const Source& source) {
  const std::int64_t n = edges.n, k = edges.k;
  const double scale = gamma / static_cast<double>(k);
  // Rounding of one sweep: k + 2 operations on numbers of at most 1, seen through (I - gamma Q)^-1.
  const double rounding = static_cast<double>(k + 4) * 0x1p-53 / (1 - gamma);
  // After this many sweeps gamma^t is below 1e-17: nothing more can be gained.
  const auto limit = static_cast<std::int64_t>(std::ceil(std::log(1e-17) / std::log(gamma))) + 1;
  for (std::int64_t i = 0; i < n; ++i)
    for (int c = 0; c < kPanel; ++c) panel.x[i * kPanel + c] = source(i, c);
  Solved solved{0, 0};
  for (;;) {
    double low[kPanel], high[kPanel];
    std::fill(low, low + kPanel, std::numeric_limits<double>::infinity());
    std::fill(high, high + kPanel, -std::numeric_limits<double>::infinity());
    for (std::int64_t i = 0; i < n; ++i) {
      double sum[kPanel] = {};
      for (std::int64_t r = 0; r < k; ++r) {
        const double* from = &panel.x[edges.neighbour(i, r) * kPanel];
        for (int c = 0; c < kPanel; ++c) sum[c] += from[c];
      }
      for (int c = 0; c < kPanel; ++c) {
        const double next = scale * sum[c] + (1 - gamma) * source(i, c);
        const double residual = next - panel.x[i * kPanel + c];
        low[c] = std::min(low[c], residual);
        high[c] = std::max(high[c], residual);
        panel.swept[i * kPanel + c] = next;
      }
    }
    ++solved.iterations;
    const bool last = solved.iterations >= limit;
    if (solved.iterations % kCheckEvery == 0 || last) {
      // x + (I - gamma Q)^-1 residual is the solution, and the last term lies in [low, high] / (1 - gamma).
      solved.error = 0;
      for (int c = 0; c < kPanel; ++c) solved.error = std::max(solved.error, (high[c] - low[c]) / 2 / (1 - gamma));
      solved.error += rounding;
      if (solved.error <= tol || last) {
        for (std::int64_t i = 0; i < n; ++i)
          for (int c = 0; c < kPanel; ++c) panel.x[i * kPanel + c] += (low[c] + high[c]) / 2 / (1 - gamma);
        return solved;
      }
    }
    panel.x.swap(panel.swept);
  }
}

/// Columns of the unit vectors first .. first + kPanel - 1.
struct UnitColumns {
  std::int64_t first;
  double operator()(std::int64_t i, int c) const { return i == first + c ? 1.0 : 0.0; }
};

/// Columns that mark the labelled points of each class.
struct ClassColumns {
  const std::int64_t* labels;
  std::int64_t first;
  double operator()(std::int64_t i, int c) const { return labels[i] == first + c ? 1.0 : 0.0; }
};

}  // namespace

template <typename T>
AffinityReport propagate_affinity(const std::int64_t* indices, std::int64_t n, std::int64_t k, const std::int64_t* ptr,
                                  std::int64_t segments, const std::int64_t* labels, std::int64_t classes, double gamma,
                                  double tol, T* values, T* class_mass, int num_threads, Progress& progress) {
  std::atomic<bool> stop{false};
  std::int64_t iterations = 0;
  double edge_error = 0;                                      // of entries of W*
  std::vector<double> sum(n * k);                             // W*[i, j] + W*[j, i] on every edge
  const double rounded = sizeof(T) == 4 ? 0x1p-24 : 0x1p-53;  // values are at most 1

  for (std::int64_t s = 0; s < segments && !stop; ++s) {
    const std::int64_t first = ptr[s], size = ptr[s + 1] - first;
    if (size == 0) continue;
    const Edges edges = make_edges(indices, first, size, k);
    const std::int64_t* own_labels = labels + first;
    double* own_sum = sum.data() + first * k;

    // Class mass, and from it every labelled column. One that adds up all classes is as far off as all of them.
    const std::int64_t class_panels = (classes + kPanel - 1) / kPanel;
    std::vector<double> mass(size * classes);
    double mass_error = 0;
    const double mass_tol = tol / 4 / static_cast<double>(std::max<std::int64_t>(classes, 1));
#pragma omp parallel num_threads(num_threads) reduction(max : iterations, mass_error)
    {
      Panel panel(size);
#pragma omp for schedule(dynamic)
      for (std::int64_t p = 0; p < class_panels; ++p) {
        if (stop) continue;
        const ClassColumns source{own_labels, p * kPanel};
        const Solved solved = solve(edges, gamma, mass_tol, panel, source);
        iterations = std::max(iterations, solved.iterations);
        mass_error = std::max(mass_error, solved.error);
        const auto width = static_cast<int>(std::min<std::int64_t>(kPanel, classes - p * kPanel));
        for (std::int64_t i = 0; i < size; ++i)
          for (int c = 0; c < width; ++c) mass[i * classes + p * kPanel + c] = panel.x[i * kPanel + c];
      }
    }
    std::vector<double> total(size, 0.0);
    for (std::int64_t i = 0; i < size; ++i)
      for (std::int64_t c = 0; c < classes; ++c) {
        total[i] += mass[i * classes + c];
        class_mass[(first + i) * classes + c] = static_cast<T>(mass[i * classes + c]);
      }
    if (classes > 0) edge_error = std::max(edge_error, mass_error * static_cast<double>(classes + 2));
    const auto labelled_entry = [&](std::int64_t i, std::int64_t j) {
      return 2 * mass[i * classes + own_labels[j]] - total[i];
    };

    std::vector<std::int64_t> unlabelled;  // panels with at least one unlabelled column
    const std::int64_t panels = (size + kPanel - 1) / kPanel;
    // Column j gives W*[i, j] to the edges i -> j, and W*[i, j] to the edges j -> i: two terms per edge, each written
    // by the panel of one column, so two arrays keep threads apart.
    std::vector<double> other(size * k);
    std::atomic<std::int64_t> done{0};
#pragma omp parallel num_threads(num_threads) reduction(max : iterations, edge_error)
    {
      Panel panel(size);
#pragma omp for schedule(dynamic)
      for (std::int64_t p = 0; p < panels; ++p) {
        if (stop) continue;
        const std::int64_t begin = p * kPanel, end = std::min(begin + kPanel, size);
        bool needed = false;
        for (std::int64_t j = begin; j < end; ++j) needed |= own_labels[j] < 0;
        if (needed) {
          const UnitColumns source{begin};
          const Solved solved = solve(edges, gamma, tol / 2, panel, source);
          iterations = std::max(iterations, solved.iterations);
          edge_error = std::max(edge_error, solved.error);
        }
        for (std::int64_t j = begin; j < end; ++j) {
          const auto entry = [&](std::int64_t i) {
            return own_labels[j] < 0 ? panel.x[i * kPanel + (j - begin)] : labelled_entry(i, j);
          };
          for (std::int64_t e = edges.reverse_ptr[j]; e < edges.reverse_ptr[j + 1]; ++e)
            own_sum[edges.reverse[e]] = entry(edges.reverse[e] / k);
          for (std::int64_t r = 0; r < k; ++r) other[j * k + r] = entry(edges.neighbour(j, r));
        }
        const std::int64_t so_far = ++done;
        if (thread_index() == 0) {
          const double points = static_cast<double>(first) + static_cast<double>(size) * so_far / panels;
          if (!progress.update(points / static_cast<double>(n))) stop = true;
        }
      }
    }
    for (std::int64_t e = 0; e < size * k; ++e) values[first * k + e] = static_cast<T>((own_sum[e] + other[e]) / 2);
  }
  return {iterations, n > 0 && k > 0 ? edge_error + rounded : 0.0, !stop};
}

template AffinityReport propagate_affinity(const std::int64_t*, std::int64_t, std::int64_t, const std::int64_t*,
                                           std::int64_t, const std::int64_t*, std::int64_t, double, double, float*,
                                           float*, int, Progress&);
template AffinityReport propagate_affinity(const std::int64_t*, std::int64_t, std::int64_t, const std::int64_t*,
                                           std::int64_t, const std::int64_t*, std::int64_t, double, double, double*,
                                           double*, int, Progress&);

}  // namespace ssdml
