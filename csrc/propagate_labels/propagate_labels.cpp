#include "propagate_labels/propagate_labels.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "propagate_labels/parameters.h"
#include "walk/graph.h"

namespace ssdml {
namespace {

using namespace walk;

constexpr int kClasses = kWidth<double>;  // to a panel
constexpr std::int64_t kChunk = 512;      // rows summed at once, so that sums do not depend on the number of threads

/// M = I - gamma S on one component, S = D^-1 (Q + Q'): self-adjoint and positive in <u, v> = u' D v.
class Symmetrised {
 public:
  Symmetrised(const Graph& graph, double gamma, int num_threads)
      : graph_(graph), degree_(graph.n), gamma_(gamma), threads_(graph.n < 2048 ? 1 : num_threads) {
    const Lines<double> ones(graph.n, fill(1.0));
    std::int64_t most = 0;
    for (std::int64_t p = 0; p < graph.n; ++p) {
      degree_[p] = edges(p, ones.data())[0];
      most = std::max(most, graph.k + graph.in_degree(p));
    }
    relative_rounding_ = entry_rounding(static_cast<double>(most));
  }

  std::int64_t size() const { return graph_.n; }
  double degree(std::int64_t p) const { return degree_[p]; }
  /// Of an entry of M x, relative to the largest of x.
  double rounding() const { return relative_rounding_; }

  /// Entry p of M x.
  Line<double> operator()(std::int64_t p, const Line<double>* x) const {
    return x[p] - fill(gamma_ / degree_[p]) * edges(p, x);
  }

  /// Sum of f(p) over all p.
  template <typename F>
  Line<double> sum(const F& f) const {
    const std::int64_t n = graph_.n, chunks = (n + kChunk - 1) / kChunk;
    Lines<double> part(chunks, Line<double>{});
    in_shares(chunks, threads_, [&](std::int64_t first, std::int64_t last, int) {
      for (std::int64_t c = first; c < last; ++c)
        for (std::int64_t p = c * kChunk; p < std::min(n, (c + 1) * kChunk); ++p) part[c] += f(p);
    });
    Line<double> total{};
    for (const Line<double>& of : part) total += of;
    return total;
  }

 private:
  Line<double> edges(std::int64_t p, const Line<double>* x) const {
    const Line<double> same = fill(1.0 / graph_.k);
    return by_weights(graph_, [&](auto weighted) {
      return gather<double, weighted()>(graph_.edges_out(p), same, x) +
             gather<double, weighted()>(graph_.edges_in(p), same, x);
    });
  }

  const Graph& graph_;
  std::vector<double> degree_;
  double gamma_, relative_rounding_ = 0;
  int threads_;
};

/// M x = b for kClasses columns at a time, by conjugate gradients.
class ConjugateGradients {
 public:
  explicit ConjugateGradients(const Symmetrised& matrix)
      : b(matrix.size()),
        x(matrix.size()),
        matrix_(matrix),
        residual_(matrix.size()),
        direction_(matrix.size()),
        product_(matrix.size()) {}

  Lines<double> b, x;

  /// Improves x until the norm of each column's residual is at most `target`, or `most` steps. Returns the steps, or -1
  /// where `proceed` said false.
  template <typename Proceed>
  int solve(double target, int most, const Proceed& proceed) {
    Line<double> square = matrix_.sum([&](std::int64_t p) {
      direction_[p] = residual_[p] = b[p] - matrix_(p, x.data());
      return norm(p);
    });
    for (int step = 0;; ++step) {
      if (!proceed()) return -1;
      bool reached = true;
      for (int c = 0; c < kClasses; ++c) reached &= !(square[c] > target * target);
      if (reached || step == most) return step;
      const Line<double> curvature = matrix_.sum([&](std::int64_t p) {
        product_[p] = matrix_(p, direction_.data());
        return fill(matrix_.degree(p)) * direction_[p] * product_[p];
      });
      const Line<double> length = ratio(square, curvature);
      const Line<double> before = square;
      square = matrix_.sum([&](std::int64_t p) {
        x[p] += length * direction_[p];
        residual_[p] -= length * product_[p];
        return norm(p);
      });
      const Line<double> keep = ratio(square, before);
      matrix_.sum([&](std::int64_t p) { return direction_[p] = residual_[p] + keep * direction_[p]; });
    }
  }

  /// Range of the residual, computed afresh.
  Range<double> residual() const {
    Range<double> range = empty_range<double>();
    for (std::int64_t p = 0; p < matrix_.size(); ++p) range.add(b[p] - matrix_(p, x.data()));
    return range;
  }

 private:
  Line<double> norm(std::int64_t p) const { return fill(matrix_.degree(p)) * residual_[p] * residual_[p]; }

  /// a / b, and 0 for columns that are solved.
  static Line<double> ratio(Line<double> a, Line<double> b) {
    for (int c = 0; c < kClasses; ++c) a[c] = b[c] > 0 ? a[c] / b[c] : 0.0;
    return a;
  }

  const Symmetrised& matrix_;
  Lines<double> residual_, direction_, product_;
};

/// F = (1 - gamma) M^-1 Y, Y[j, c] = 1 if j is labelled c.
class Propagation {
 public:
  Propagation(const std::int64_t* indices, const double* weights, std::int64_t n, std::int64_t k,
              const std::int64_t* labels, std::int64_t classes, double gamma, int num_threads, Progress& progress,
              Peers& peers)
      : indices_(indices),
        weights_(weights),
        labels_(labels),
        n_(n),
        k_(k),
        classes_(classes),
        gamma_(gamma),
        threads_(num_threads),
        progress_(progress),
        peers_(peers),
        components_(indices, n, k),
        reached_(components_.count() * classes),
        mass_(n * classes) {
    for (std::int64_t s = 0; s < components_.count(); ++s)
      for (const std::int64_t i : components_[s])
        if (labels[i] >= 0) reached_[s * classes + labels[i]] = true;
  }

  int steps = 0;
  double error = 0;  // of any entry
  bool proceeding = true;

  /// Brings every entry within `target`, or as close as rounding allows: this process its panels, and the others
  /// theirs.
  void improve(double target) {
    error = 0;
    std::int64_t points_done = 0;
    Deal deal(peers_);
    for (std::int64_t s = 0; s < components_.count() && proceeding; ++s) {
      const Graph graph(indices_, weights_, k_, components_[s], components_.place);
      const Symmetrised matrix(graph, gamma_, threads_);
      ConjugateGradients solver(matrix);
      for (std::int64_t begin = 0; begin < classes_ && proceeding; begin += kClasses) {
        if (!is_reached(s, begin)) continue;
        if (deal.is_mine(graph.n))
          solve(s, begin, graph, matrix, solver, target, points_done);
        else
          clear(s, begin);
      }
      points_done += graph.n;
    }
    peers_.sum(mass_.data(), n_ * classes_);
    double most[] = {static_cast<double>(steps), error};
    peers_.max(most, 2);
    steps = static_cast<int>(most[0]);
    error = most[1];
  }

  /// Rows and columns of F normalised; returns a bound on the error of any entry.
  template <typename T>
  double normalise(const std::int64_t* ptr, std::int64_t segments, T* posteriors) const {
    std::vector<std::int64_t> component(n_);
    for (std::int64_t s = 0; s < components_.count(); ++s)
      for (const std::int64_t i : components_[s]) component[i] = s;
    double bound = 0;
    std::vector<double> total(classes_), share(classes_);
    for (std::int64_t s = 0; s < segments; ++s) {
      std::fill(total.begin(), total.end(), 0.0);
      for (std::int64_t i = ptr[s]; i < ptr[s + 1]; ++i)
        for (std::int64_t c = 0; c < classes_; ++c) total[c] += mass_[i * classes_ + c];
      const double total_error = static_cast<double>(ptr[s + 1] - ptr[s]) * (error + 0x1p-52);
      for (std::int64_t i = ptr[s]; i < ptr[s + 1]; ++i) {
        double sum = 0, sum_error = 0;
        for (std::int64_t c = 0; c < classes_; ++c) {
          share[c] = 0;
          if (!reached_[component[i] * classes_ + c]) continue;
          share[c] = mass_[i * classes_ + c] / total[c];
          sum += share[c];
          sum_error += (error + share[c] * total_error) / std::max(total[c] - total_error, 0.0);
        }
        for (std::int64_t c = 0; c < classes_; ++c)
          posteriors[i * classes_ + c] = static_cast<T>(sum > 0 ? share[c] / sum : 1.0 / static_cast<double>(classes_));
        if (sum_error > 0) bound = std::max(bound, sum > 0 ? std::min(sum_error / sum, 1.0) : 1.0);
      }
    }
    return std::min(bound + unit_roundoff<T> + posterior_rounding(static_cast<double>(classes_)), 1.0);
  }

 private:
  std::int64_t end_of(std::int64_t begin) const { return std::min<std::int64_t>(begin + kClasses, classes_); }

  /// Whether the component holds a label of any class of the panel.
  bool is_reached(std::int64_t s, std::int64_t begin) const {
    const auto reached = reached_.begin() + s * classes_;
    return std::find(reached + begin, reached + end_of(begin), true) != reached + end_of(begin);
  }

  /// Leaves a panel to another process, which will add it.
  void clear(std::int64_t s, std::int64_t begin) {
    for (const std::int64_t i : components_[s])
      std::fill(mass_.begin() + i * classes_ + begin, mass_.begin() + i * classes_ + end_of(begin), 0.0);
  }

  void solve(std::int64_t s, std::int64_t begin, const Graph& graph, const Symmetrised& matrix,
             ConjugateGradients& solver, double target, std::int64_t points_done) {
    const std::int64_t end = end_of(begin);
    const auto reached = reached_.begin() + s * classes_;
    for (std::int64_t p = 0; p < graph.n; ++p) {
      const std::int64_t i = graph.points[p];
      solver.x[p] = solver.b[p] = Line<double>{};
      if (labels_[i] >= begin && labels_[i] < end) solver.b[p][labels_[i] - begin] = 1 - gamma_;
      for (std::int64_t c = begin; c < end; ++c) solver.x[p][c - begin] = mass_[i * classes_ + c];
    }
    const auto proceed = [&] {
      const double share = static_cast<double>(points_done) + static_cast<double>(graph.n * begin) / classes_;
      return proceeding = progress_.update(share / static_cast<double>(n_));
    };
    const int taken = solver.solve(target * (1 - gamma_), most_steps(gamma_), proceed);
    if (taken < 0) return;
    steps = std::max(steps, taken);
    // S is row-stochastic, so that the rest, M^-1 times the residual, lies within its range / (1 - gamma).
    const Range<double> range = solver.residual();
    for (std::int64_t c = begin; c < end; ++c) {
      if (!reached[c]) continue;
      const auto lane = static_cast<int>(c - begin);
      double largest = 0;
      const double middle = (range.low[lane] + range.high[lane]) / 2 / (1 - gamma_);
      for (std::int64_t p = 0; p < graph.n; ++p) {
        largest = std::max(largest, std::abs(solver.x[p][lane]));
        mass_[graph.points[p] * classes_ + c] = std::clamp(solver.x[p][lane] + middle, 0.0, 1.0);
      }
      error = std::max(error, ((range.high[lane] - range.low[lane]) / 2 + matrix.rounding() * (largest + 1 - gamma_)) /
                                  (1 - gamma_));
    }
  }

  const std::int64_t* indices_;
  const double* weights_;
  const std::int64_t* labels_;
  std::int64_t n_, k_, classes_;
  double gamma_;
  int threads_;
  Progress& progress_;
  Peers& peers_;
  Components components_;
  std::vector<char> reached_;  // (components, classes): whether a label of the class lies in the component
  std::vector<double> mass_;   // (n, classes): F
};

}  // namespace

template <typename T>
WalkReport propagate_labels(const std::int64_t* indices, const double* weights, std::int64_t n, std::int64_t k,
                            const std::int64_t* ptr, std::int64_t segments, const std::int64_t* labels,
                            std::int64_t classes, double gamma, double tol, T* posteriors, int num_threads,
                            Progress& progress, Peers& peers) {
  if (n == 0 || classes == 0) return {0, 0.0, true};
  Propagation propagation(indices, weights, n, k, labels, classes, gamma, num_threads, progress, peers);
  double target = tol / static_cast<double>(n), bound = 1;
  for (double before = 2;;) {
    propagation.improve(target);
    if (!propagation.proceeding) return {propagation.steps, 1.0, false};
    bound = propagation.normalise(ptr, segments, posteriors);
    if (bound <= tol || !(propagation.error < before / 2)) break;  // rounding of T alone may exceed tol
    before = propagation.error;
    target = next_target(propagation.error, target, tol, bound);
  }
  return {propagation.steps, bound, true};
}

template WalkReport propagate_labels(const std::int64_t*, const double*, std::int64_t, std::int64_t,
                                     const std::int64_t*, std::int64_t, const std::int64_t*, std::int64_t, double,
                                     double, float*, int, Progress&, Peers&);
template WalkReport propagate_labels(const std::int64_t*, const double*, std::int64_t, std::int64_t,
                                     const std::int64_t*, std::int64_t, const std::int64_t*, std::int64_t, double,
                                     double, double*, int, Progress&, Peers&);

}  // namespace ssdml
