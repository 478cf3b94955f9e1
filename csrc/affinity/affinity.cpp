#include "affinity/affinity.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "affinity/direct.h"
#include "affinity/eliminate.h"
#include "affinity/modes.h"
#include "affinity/parameters.h"
#include "affinity/relax.h"
#include "affinity/solve.h"
#include "walk/graph.h"

namespace ssdml {
namespace {

using namespace walk;

/// How many slow modes to take out of a component of n points: a multiple of kWidth, fewer where a loose `tol` needs
/// few sweeps.
std::int64_t modes_for(std::int64_t n, double tol) {
  if (n < 512) return 0;
  return tol < 1e-5 ? modes_wanted(n) : std::min<std::int64_t>(modes_wanted(n), 64);
}
constexpr std::int64_t kSmall = 2048;  // components below are soonest solved in float64 right away, see parameters.h
constexpr double kModesTol = 5e-10;    // what float64 reaches with modes, unless they nearly coincide; then without

/// Up to how many points a component is solved directly: where that takes about as long as slow modes and relaxation,
/// which sweep k edges per point, oftener for a small `tol`. No fewer than have no modes, and bounded for memory and
/// the time between polls. Found as parameters.h says, on graphs of many such components.
std::int64_t most_direct(std::int64_t k, double tol) {
  return std::clamp<std::int64_t>(320 + 8 * k, 511, tol < 1e-5 ? 1024 : 511);
}

/// What all columns of one component write to.
struct Component {
  const Graph& graph;
  const std::int64_t* labels;
  double gamma, tol;
  int num_threads;
  Peers& peers;
  double* forward;   // (N, k): W*[i, j] at the edge i -> j, by the column of j
  double* backward;  // (N, k): W*[j, i] at the edge i -> j, by the column of i

  /// Writes column `place` of W* to both ends of its edges, entry(i) being its value at place i.
  template <typename Entry>
  void write(std::int64_t place, const Entry& entry) const {
    const std::int64_t k = graph.k;
    for (std::int64_t e = graph.in_ptr[place]; e < graph.in_ptr[place + 1]; ++e)
      forward[graph.points[graph.in[e]] * k + graph.in_rank[e]] = entry(graph.in[e]);
    for (std::int64_t r = 0; r < k; ++r) backward[graph.points[place] * k + r] = entry(graph.out[place * k + r]);
  }
};

/// What one component's columns came to, in one precision.
struct ColumnsOutcome {
  std::int64_t sweeps = 0;
  double error = 0;

  void include(const ColumnsOutcome& other) {
    sweeps = std::max(sweeps, other.sweeps);
    error = std::max(error, other.error);
  }

  /// Includes what they came to on all processes.
  void include_all(Peers& peers) {
    double most[] = {static_cast<double>(sweeps), error};
    peers.max(most, 2);
    sweeps = static_cast<std::int64_t>(most[0]);
    error = most[1];
  }
};

/// Class mass at every place, (n, classes + 1) with the sum over all classes last, within tol where `error` says so.
struct ClassMass {
  std::vector<double> mass;
  ColumnsOutcome outcome;
};

template <typename T, typename Proceed>
ClassMass solve_classes(const Component& part, const Modes<T>& modes, std::int64_t classes, double tol,
                        const Proceed& proceed) {
  constexpr int width = kWidth<double>;
  const Graph& graph = part.graph;
  const std::int64_t columns = classes + 1, panels = part.peers.share((columns + width - 1) / width);
  ClassMass result{std::vector<double>(graph.n * columns), {}};
  std::vector<PanelSolver<double>> solvers;
  const std::int64_t entries = std::int64_t{graph.n} * width;
  for (int t = 0; t < part.num_threads && t < panels; ++t) solvers.emplace_back(graph, entries, modes.count());
  std::vector<ColumnsOutcome> outcomes(panels);
  in_turn(panels, part.num_threads, [&](std::int64_t q, int thread) {
    PanelSolver<double>& solver = solvers[thread];
    const std::int64_t begin = part.peers.piece(q) * width, end = std::min<std::int64_t>(begin + width, columns);
    solver.clear();
    bool any = false;
    for (std::int64_t p = 0; p < graph.n; ++p) {
      const std::int64_t label = part.labels[graph.points[p]];
      if (label < 0) continue;
      if (label >= begin && label < end) solver.source(p, static_cast<int>(label - begin)), any = true;
      if (end == columns) solver.source(p, static_cast<int>(classes - begin)), any = true;
    }
    if (!any) return true;
    for (std::int64_t p = 0; p < graph.n; ++p)
      for (std::int64_t c = begin; c < end; ++c) solver.want(p, static_cast<int>(c - begin));
    const Solved solved = solver.solve(modes, part.gamma, tol, false);
    outcomes[q] = {solved.sweeps, solved.error};
    std::int64_t number = 0;
    for (std::int64_t p = 0; p < graph.n; ++p)
      for (std::int64_t c = begin; c < end; ++c) result.mass[p * columns + c] = solver.entry(number++);
    return thread != 0 || proceed(0);
  });
  for (const ColumnsOutcome& of_panel : outcomes) result.outcome.include(of_panel);
  result.outcome.include_all(part.peers);
  part.peers.sum(result.mass.data(), static_cast<std::int64_t>(result.mass.size()));
  return result;
}

/// Orders places so that panels are of columns that need about as many sweeps: groups of ascending popularity, 1' Q^t,
/// and within a group as they lie in memory.
void group_by_popularity(const Graph& graph, std::vector<std::int32_t>& places) {
  constexpr int kGroups = 8, kSweeps = 6;
  std::vector<double> popularity(graph.n, 1.0), swept(graph.n);
  for (int t = 0; t < kSweeps; ++t) {
    for (std::int64_t p = 0; p < graph.n; ++p) {
      const Edges edges = graph.edges_in(p);
      swept[p] = 0;
      for (std::int64_t e = 0; e < edges.count; ++e)
        swept[p] += (edges.share ? edges.share[e] : 1.0 / graph.k) * popularity[edges.at[e]];
    }
    popularity.swap(swept);
  }
  std::stable_sort(places.begin(), places.end(),
                   [&](std::int32_t p, std::int32_t q) { return popularity[p] < popularity[q]; });
  const auto panels = static_cast<std::int64_t>(places.size()) / kWidth<float>;
  for (std::int64_t g = 0; g < kGroups; ++g) {
    const auto end = g + 1 == kGroups ? places.end() : places.begin() + panels * (g + 1) / kGroups * kWidth<float>;
    std::sort(places.begin() + panels * g / kGroups * kWidth<float>, end);
  }
}

/// Solves this process's panels of P of the columns of `places`, as to their wanted entries, within tol or as close as
/// P can. Those of any process with a larger error than `acceptable` are returned instead.
template <typename P, typename T, typename Proceed>
std::vector<std::int32_t> solve_columns(const Component& part, const Modes<T>& modes,
                                        const std::vector<std::int32_t>& places, double acceptable,
                                        Elimination& columns, ColumnsOutcome& outcome, const Proceed& proceed) {
  if (places.empty()) return {};
  const Graph& graph = part.graph;
  const auto count = static_cast<std::int64_t>(places.size());
  const std::int64_t panels = (count + kWidth<P> - 1) / kWidth<P>;
  const std::int64_t mine = part.peers.share(panels);
  std::vector<double> failed(panels, false);  // numbers, which processes can exchange
  std::int64_t wanted = 0;
  for (std::int64_t begin = 0; begin < count; begin += kWidth<P>) {
    std::int64_t of_panel = 0;
    for (std::int64_t q = begin; q < std::min<std::int64_t>(begin + kWidth<P>, count); ++q)
      of_panel += static_cast<std::int64_t>(columns.rows(places[q]).size());
    wanted = std::max(wanted, of_panel);
  }
  std::vector<PanelSolver<P>> solvers;
  for (int t = 0; t < part.num_threads && t < mine; ++t) solvers.emplace_back(graph, wanted, modes.count());

  std::vector<ColumnsOutcome> outcomes(mine);
  std::atomic<std::int64_t> done{0};
  in_turn(mine, part.num_threads, [&](std::int64_t q, int thread) {
    PanelSolver<P>& solver = solvers[thread];
    const std::int64_t panel = part.peers.piece(q), begin = panel * kWidth<P>,
                       end = std::min<std::int64_t>(begin + kWidth<P>, count);
    solver.clear();
    for (std::int64_t at = begin; at < end; ++at) {
      const int c = static_cast<int>(at - begin);
      solver.source(places[at], c);
      for (const std::int32_t row : columns.rows(places[at])) solver.want(row, c);
    }
    const Solved solved = solver.solve(modes, part.gamma, part.tol, acceptable <= part.tol);
    if (!(solved.error <= acceptable || std::isinf(acceptable))) {
      failed[panel] = true;
    } else {
      outcomes[q] = {solved.sweeps, std::min(1.0, solved.error)};  // as entries are in [0, 1]; also where it is NaN
      std::int64_t number = 0;
      for (std::int64_t at = begin; at < end; ++at)
        for (double& entry : columns.entries(places[at])) entry = solver.entry(number++);
    }
    const std::int64_t so_far = ++done;
    return thread != 0 || proceed(static_cast<double>(so_far) / static_cast<double>(mine));
  });
  for (const ColumnsOutcome& of_panel : outcomes) outcome.include(of_panel);
  part.peers.max(failed.data(), panels);
  std::vector<std::int32_t> again;
  for (std::int64_t at = 0; at < count; ++at)
    if (failed[at / kWidth<P>] != 0) again.push_back(places[at]);
  return again;
}

/// Class mass and the columns at `places` in precision T; those with a larger error than `acceptable` are left in
/// `places`, and `mass` empty.
template <typename T, typename Proceed>
void solve_component(const Component& part, const Modes<T>& modes, std::int64_t classes, double acceptable,
                     bool labelled, std::vector<std::int32_t>& places, Elimination& columns, std::vector<double>& mass,
                     ColumnsOutcome& outcome, const Proceed& proceed) {
  if (labelled && mass.empty()) {
    ClassMass solved = solve_classes(part, modes, classes, part.tol / 3, proceed);
    const auto [sweeps, error] = solved.outcome;
    outcome.sweeps = std::max(outcome.sweeps, sweeps);
    if (error <= acceptable / 3 || std::isinf(acceptable)) {  // the last way takes what there is
      mass = std::move(solved.mass);
      outcome.error = std::max(outcome.error, 3 * error);  // of 2 mass - total
    }
  }
  places = solve_columns<T>(part, modes, places, acceptable, columns, outcome, proceed);
}

/// Components of few points, which are solved directly.
struct Small {
  std::vector<std::int64_t> points;                 // of all of them
  std::vector<std::span<const std::int64_t>> mine;  // those that this process solves
  std::int64_t largest = 0, work = 0;               // of these: most points, and operations of all

  /// Those of up to `limit` points.
  Small(const Components& components, std::int64_t k, std::int64_t limit, const Peers& peers) {
    constexpr std::int64_t together = 8;  // operations at the rate of a product of matrices
    Deal deal(peers);
    for (std::int64_t s = 0; s < components.count(); ++s) {
      const auto n = static_cast<std::int64_t>(components[s].size());
      if (n > limit) continue;
      points.insert(points.end(), components[s].begin(), components[s].end());
      const std::int64_t operations = n * n * (n / together + k);
      if (!deal.is_mine(operations)) continue;
      mine.push_back(components[s]);
      largest = std::max(largest, n);
      work += operations;
    }
  }
};

/// What solving small components came to.
struct Direct {
  double error;
  bool stopped;
};

/// Solves this process's small components, one per thread.
template <typename T>
Direct solve_directly(const Problem& problem, const Components& components, const Small& small, double* forward,
                      double* backward, T* class_mass, int num_threads, Progress& progress) {
  const auto count = static_cast<std::int64_t>(small.mine.size());
  if (count == 0) return {0.0, false};
  Team team(static_cast<int>(std::min<std::int64_t>(threads_for(small.work, num_threads), count)), progress);
  std::vector<DirectSolver> solvers;
  for (int t = 0; t < team.threads; ++t) solvers.emplace_back(problem, small.largest);
  std::vector<double> error(count, 0.0);
  std::atomic<std::int64_t> done{0};
  team.each(count, 1, [&](std::int64_t c, std::int64_t, int thread) {
    DirectSolver& solver = solvers[thread];
    error[c] = solver.solve(small.mine[c], components.place);
    solver.write(forward, backward, class_mass);
    done += static_cast<std::int64_t>(small.mine[c].size());
    team.poll(thread, static_cast<double>(done) / static_cast<double>(components.points.size()));
  });
  return {*std::max_element(error.begin(), error.end()), team.stopped()};
}

}  // namespace

template <typename T>
WalkReport propagate_affinity(const std::int64_t* indices, const double* weights, std::int64_t n, std::int64_t k,
                              const std::int64_t* labels, std::int64_t classes, double gamma, double tol, T* values,
                              T* class_mass, int num_threads, Progress& progress, Peers& peers) {
  if (n == 0) return {0, 0.0, true};
  const Components components(indices, n, k);
  std::vector<double> forward(n * k), backward(n * k);
  const double target = columns_tol<T>(tol);
  ColumnsOutcome outcome;
  std::fill_n(class_mass, n * classes, T(0));
  const Problem problem{indices, weights, k, labels, classes, gamma};
  const std::int64_t limit = most_direct(k, tol);
  const Small small(components, k, limit, peers);
  const Direct direct =
      solve_directly(problem, components, small, forward.data(), backward.data(), class_mass, num_threads, progress);
  outcome.error = direct.error;
  bool proceeding = !direct.stopped;
  auto points_done = static_cast<std::int64_t>(small.points.size());
  for (double* const entries : {forward.data(), backward.data()})
    sum_parts(peers, points_done, [&](std::int64_t p) { return std::span(entries + small.points[p] * k, k); });
  sum_parts(peers, points_done,
            [&](std::int64_t p) { return std::span(class_mass + small.points[p] * classes, classes); });

  for (std::int64_t s = 0; s < components.count() && proceeding; ++s) {
    if (static_cast<std::int64_t>(components[s].size()) <= limit) continue;
    const Graph graph(indices, weights, k, components[s], components.place);
    const Component part{graph, labels, gamma, target, num_threads, peers, forward.data(), backward.data()};
    const auto proceed = [&](double share) {
      const double done = static_cast<double>(points_done) + share * graph.n;
      return proceeding = proceeding && progress.update(done / static_cast<double>(n));
    };

    std::vector<std::int32_t> labelled, unlabelled;
    for (std::int32_t p = 0; p < graph.n; ++p) {
      (labels[graph.points[p]] >= 0 ? labelled : unlabelled).push_back(p);
    }
    Elimination columns(graph, unlabelled, gamma, target);
    std::vector<std::int32_t> unsolved = columns.solved();
    group_by_popularity(graph, unsolved);
    std::vector<double> mass;
    const auto solve = [&]<typename M>(const Modes<M>& modes, double acceptable) {
      if (proceeding)
        solve_component(part, modes, classes, acceptable, !labelled.empty(), unsolved, columns, mass, outcome, proceed);
    };
    const auto find_modes = [&]<typename M>(M) {
      return Modes<M>(graph, modes_for(graph.n, tol), {gamma, kOmega}, kSweepsBeforeModes, num_threads,
                      [&] { return proceed(0); });
    };
    const auto left = [&] { return !unsolved.empty() || (mass.empty() && !labelled.empty()); };
    const double acceptable = std::max(target, kModesTol), any = std::numeric_limits<double>::infinity();
    if (sizeof(T) == 4 && graph.n >= kSmall && target > kFloatTol) {
      const Modes<float> modes = find_modes(float{});
      solve(modes, target);
      if (left()) solve(Modes<double>(graph, modes), acceptable);
    } else {
      solve(find_modes(double{}), acceptable);
    }
    if (left()) solve(Modes<double>(graph, 0, {gamma, kOmega}, 0, num_threads, [] { return true; }), any);

    if (!proceeding) break;
    sum_parts(peers, static_cast<std::int64_t>(columns.solved().size()),
              [&](std::int64_t c) { return std::span(columns.entries(columns.solved()[c])); });
    outcome.error = std::max(outcome.error, columns.complete(outcome.error));
    std::vector<double> at(graph.n);
    for (const std::int32_t p : unlabelled) {
      const std::vector<std::int32_t>& rows = columns.rows(p);
      for (std::size_t e = 0; e < rows.size(); ++e) at[rows[e]] = columns.entries(p)[e];
      part.write(p, [&](std::int64_t i) { return at[i]; });
    }
    if (!labelled.empty())
      for (std::int64_t p = 0; p < graph.n; ++p)
        for (std::int64_t c = 0; c < classes; ++c)
          class_mass[graph.points[p] * classes + c] = static_cast<T>(mass[p * (classes + 1) + c]);
    for (const std::int32_t p : labelled)
      part.write(p, [&](std::int64_t i) {
        const double* row = &mass[i * (classes + 1)];
        return 2 * row[labels[graph.points[p]]] - row[classes];
      });
    points_done += graph.n;
  }
  outcome.include_all(peers);
  double largest = 0;
  for (std::int64_t e = 0; e < n * k; ++e) {
    const double value = (forward[e] + backward[e]) / 2;
    values[e] = static_cast<T>(value);
    largest = std::max(largest, std::abs(value));
  }
  return {outcome.sweeps, outcome.error + 1.01 * unit_roundoff<T> * largest, proceeding};
}

template WalkReport propagate_affinity(const std::int64_t*, const double*, std::int64_t, std::int64_t,
                                       const std::int64_t*, std::int64_t, double, double, float*, float*, int,
                                       Progress&, Peers&);
template WalkReport propagate_affinity(const std::int64_t*, const double*, std::int64_t, std::int64_t,
                                       const std::int64_t*, std::int64_t, double, double, double*, double*, int,
                                       Progress&, Peers&);

}  // namespace ssdml
