#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>
#include <utility>
#include <vector>

#include "affinity/affinity.h"
#include "affinity/cuda_modes.h"
#include "affinity/cuda_panel.h"
#include "affinity/parameters.h"
#include "affinity/sor.h"
#include "common/peers.h"
#include "common/random.h"
#include "common/small_matrix.h"
#include "cuda/exchange.h"
#include "cuda/launch.h"
#include "walk/cuda_graph.h"

namespace ssdml::cuda {
namespace {

using namespace walk;

// As in affinity.cpp, but that modes pay in larger components only: a device has done many sweeps before the host has
// seen a few small matrices; and whatever the tolerance. Reasoned, not measured: benchmarks/bench_gpu.py would.
constexpr std::int64_t kFewestForModes = 1024;
constexpr double kMostOmega = 1.45;           // what lies within a group limits it
constexpr std::int64_t kPanelsPerBlock = 16;  // between looks at progress

/// What the device has, and how a component is laid out on it.
struct Device {
  static constexpr std::int64_t kWidest = 16;  // panel in global memory: 64 bytes to a point

  std::int64_t processors, shared_bytes;

  Device() {
    int device, count, most;
    check(cudaGetDevice(&device), "affinity: device");
    check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "affinity: device");
    check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "affinity: device");
    processors = count;
    shared_bytes = std::max<std::int64_t>(most - kStaticShared, 0);
  }

  /// Slow modes of a component of n points: as many as their coefficients have room for beside a panel in global
  /// memory.
  std::int64_t modes(std::int64_t n) const {
    if (n < kFewestForModes) return 0;
    const std::int64_t room = std::max<std::int64_t>(shared_bytes - 16, 0) / (16 * kWidest * 8);
    return std::min(modes_wanted(n), 16 * room);
  }
  /// Threads of a block for components of up to n points: one for every point of a group.
  static int threads(std::int64_t n, int parts) {
    const std::int64_t wanted = ceil_div(std::min<std::int64_t>(ceil_div(n, kGroups) * parts, kMostThreads), kWarp);
    return static_cast<int>(wanted * kWarp);
  }
  /// Blocks that run at the same time.
  std::int64_t blocks(int threads, std::int64_t shared) const {
    const std::int64_t fit = (shared_bytes + kStaticShared) / (shared + kStaticShared);
    return processors * std::clamp<std::int64_t>(std::min<std::int64_t>(2048 / threads, fit), 1, 32);
  }
  /// Bytes that all blocks together need besides shared memory, for components of up to n points.
  std::int64_t room(std::int64_t n) const {
    const std::int64_t of_shared = std::min<std::int64_t>(shared_bytes, 32 * 16 * n);
    const bool fits = (n + modes(n)) * 8 + 16 <= shared_bytes;  // the narrowest panel of doubles
    return processors * (fits ? of_shared : std::max<std::int64_t>(of_shared, n * 2 * 64));
  }
};

template <int kLanes_, int kParts_>
struct Shape {
  static constexpr int kLanes = kLanes_, kParts = kParts_;
};

/// How panels of P lie: threads and shared memory of a block, and how many blocks.
struct Layout {
  bool in_shared;
  std::int64_t blocks;
  int threads;
  std::int64_t shared;

  Grid grid(std::int64_t panels) const { return {std::min(blocks, panels), threads, shared}; }
};

/// f(shape, layout) for the widest panel of P that fits.
template <typename P, typename F>
void with_panel(const Device& device, std::int64_t n, std::int64_t modes, F f) {
  constexpr int kLanes = 16 / sizeof(P);
  const auto bytes = [&](int width, bool in_shared) {
    return width * ((in_shared ? n * static_cast<std::int64_t>(sizeof(P)) : 0) + modes * 8) + 16;
  };
  const auto call = [&](auto shape, bool in_shared) {
    const int threads = Device::threads(n, shape.kParts);
    const std::int64_t shared = bytes(shape.kLanes * shape.kParts, in_shared);
    f(shape, Layout{in_shared, in_shared ? device.blocks(threads, shared) : device.processors, threads, shared});
  };
  if (bytes(kLanes, true) <= device.shared_bytes) return call(Shape<kLanes, 1>{}, true);
  if (bytes(kLanes / 2, true) <= device.shared_bytes) return call(Shape<kLanes / 2, 1>{}, true);
  if constexpr (kLanes == 4)
    if (bytes(1, true) <= device.shared_bytes) return call(Shape<1, 1>{}, true);
  static_assert(kLanes * 4 <= Device::kWidest);
  call(Shape<kLanes, 4>{}, false);
}

/// Which columns a launch solves: those of a range of components or of their unlabelled points.
struct Tickets {
  std::int64_t rank, size;    // of this process and of all, which share the panels
  std::int64_t first, count;  // places that may head a panel
  bool of_classes;
  const char* only;  // or null: places whose panel of `only_width` columns failed before
  std::int64_t only_width;
  char* failed;  // or null: give up columns that P cannot get within tol, and mark their panels here

  /// Whether a column of the component that begins there, or a class, is this process's: by as many as the widest panel
  /// has, in turn from a random process on, so that devices of whatever widths divide them alike.
  __device__ bool is_mine(std::int64_t begin, std::int64_t column) const {
    return (Random{0, 0}.below(begin, size) + column / Device::kWidest) % size == rank;
  }
};

template <typename P, int kLanes, int kParts>
__global__ void __launch_bounds__(kMostThreads)
    solve_columns(Columns columns, Modes modes, Tickets tickets, double tol, std::int64_t up_to, bool in_shared,
                  std::int64_t largest, P* room, ColumnsOutcome* outcome) {
  using PanelHere = Panel<P, kLanes, kParts>;
  constexpr int kWidth = PanelHere::kWidth;
  static_assert(Device::kWidest % kWidth == 0);
  __shared__ typename PanelHere::SharedHere shared;
  auto* const coefficients = reinterpret_cast<double*>(shared_memory);
  const Graph& graph = columns.graph;
  const std::int64_t entries = largest * kWidth;
  P* const own = room + blockIdx.x * entries * (in_shared ? 1 : 2);
  P* const x =
      in_shared ? reinterpret_cast<P*>(shared_memory + ceil_div(modes.m * kWidth * 8, 16) * 16) : own + entries;
  const std::int64_t per_place = tickets.of_classes ? ceil_div(columns.classes + 1, kWidth) : 1;
  for (;;) {
    if (threadIdx.x == 0) shared.ticket = static_cast<std::int64_t>(atomicAdd(&outcome->tickets, 1ull));
    __syncthreads();
    const std::int64_t ticket = shared.ticket;
    __syncthreads();
    if (ticket >= up_to) break;
    const std::int64_t place = tickets.first + ticket / per_place, begin = graph.begin[place];
    const std::int64_t end = begin + graph.size[place];
    std::int64_t first = place, count = 0;
    if (tickets.of_classes) {
      if (place != begin || graph.label[end - 1] < 0 || !tickets.is_mine(begin, ticket % per_place * kWidth)) continue;
      first = ticket % per_place * kWidth;
      count = min(static_cast<long long>(kWidth), static_cast<long long>(columns.classes + 1 - first));
    } else {
      if ((place - begin) % kWidth != 0 || !tickets.is_mine(begin, place - begin)) continue;
      if (tickets.only && !tickets.only[place - (place - begin) % tickets.only_width]) continue;
      while (count < kWidth && place + count < end && graph.label[place + count] < 0) ++count;
      if (count == 0) continue;
    }
    PanelHere panel(graph, begin, in_shared, x, own, coefficients, shared);
    const bool kept = panel.solve(columns, modes, tickets.of_classes, first, count, tol, tickets.failed != nullptr);
    if (threadIdx.x != 0) continue;
    if (!kept) {
      tickets.failed[place] = 1;
    } else {
      const double error = tickets.of_classes ? 3 * panel.error() : panel.error();  // of 2 mass - total
      atomicMax(reinterpret_cast<long long*>(&outcome->error), to_ordered(error));
      atomicMax(&outcome->sweeps, static_cast<unsigned long long>(panel.sweeps));
    }
  }
}

/// values and class_mass at each point from the columns at each place.
template <typename T>
__global__ void write_results(Columns columns, T* values, T* class_mass, ColumnsOutcome* outcome) {
  const Graph& graph = columns.graph;
  const std::int64_t k = graph.k, classes = columns.classes;
  const auto labelled_entry = [&](std::int64_t p, std::int64_t label) {
    const double* row = columns.mass + p * (classes + 1);
    return 2 * row[label] - row[classes];
  };
  double largest = 0;
  for (std::int64_t e = thread_id(); e < graph.n * k; e += thread_count()) {
    const std::int64_t p = e / k, to = graph.begin[p] + graph.out[e], label = graph.label[p],
                       label_to = graph.label[to];
    const double forward = label_to < 0 ? columns.forward[e] : labelled_entry(p, label_to);
    const double backward = label < 0 ? columns.backward[e] : labelled_entry(to, label);
    const double value = (forward + backward) / 2;
    values[graph.point[p] * k + e % k] = static_cast<T>(value);
    largest = fmax(largest, fabs(value));
  }
  for (std::int64_t e = thread_id(); e < graph.n * classes; e += thread_count())
    class_mass[graph.point[e / classes] * classes + e % classes] =
        static_cast<T>(columns.mass[e / classes * (classes + 1) + e % classes]);
  raise_to(&outcome->largest, largest);
}

struct AffinityWork {
  Build build;
  Columns columns;
  ColumnsOutcome* outcome;
  char* failed;                           // (n)
  double *solved, *left, *other, *basis;  // (n, modes) of a component
  double *piece, *product, *largest;      // (kPieces, modes, modes), (modes, modes), (3)
  unsigned char* room;                    // what blocks work in

  AffinityWork(Workspace& workspace, const Device& device, std::int64_t n, std::int64_t k, bool weighted,
               std::int64_t classes)
      : build(workspace, n, k, weighted, kFewestForModes) {
    const std::int64_t m = device.modes(n);
    columns = {build.graph,
               classes,
               0,
               0,
               workspace.take<double>(n * k),
               workspace.take<double>(n * k),
               workspace.take<double>(n * (classes + 1))};
    outcome = workspace.take<ColumnsOutcome>(1);
    failed = workspace.take<char>(n);
    for (double** each : {&solved, &left, &other, &basis}) *each = workspace.take<double>(n * m);
    piece = workspace.take<double>(kPieces * m * m);
    product = workspace.take<double>(m * m);
    largest = workspace.take<double>(3);
    room = workspace.take<unsigned char>(device.room(n));
  }
};

/// Finds the modes of a component, as modes.h does.
class ModesOf {
 public:
  ModesOf(const Device& device, AffinityWork& work, const Large& part, double gamma, cudaStream_t stream)
      : device_(device),
        work_(work),
        part_(part),
        m_(device.modes(part.size)),
        relaxation_{gamma, kOmega},
        stream_(stream) {}

  /// None, m = 0, where there is no room for any, or the iteration breaks down.
  Modes find() {
    if (m_ == 0 || !find_basis()) return {};
    const double rounding = unit_roundoff<double> * 2 * static_cast<double>(work_.build.graph.k + 8);
    return {m_,
            kSweepsBeforeModes,
            relaxation_,
            work_.solved,
            work_.basis,
            work_.other,
            1.01 * largest_[1],
            1.01 * largest_[2],
            rounding * largest_[0] / (1 - relaxation_.gamma)};
  }

 private:
  bool find_basis() {
    const std::int64_t n = part_.size;
    double rate = 0;
    if (!iterate(false, kSweepsForZ, work_.solved, rate)) return false;
    if (relaxation_.adapt(rate)) {
      relaxation_.omega = std::min(relaxation_.omega, kMostOmega);
      if (!iterate(false, kSweepsForZ, work_.solved, rate)) return false;
    }
    if (!iterate(true, kSweepsForU, work_.left, rate)) return false;
    restart();
    std::vector<double> small = transposed_product(work_.basis, work_.basis);
    if (!triangular_inverse(small, m_, unit_roundoff<double>)) return false;
    multiply(&work_.solved, small);
    restart();
    largest_ = read("affinity: read", work_.largest, 3, stream_);
    small = transposed_product(work_.basis, work_.left);
    if (!invert_pivoted(small, m_, kLeastOverlap)) return false;
    for (const double entry : small)
      if (!std::isfinite(entry)) return false;
    launch("affinity: transpose", stream_, grid_of_threads(n * m_), transpose, n, m_, work_.basis, work_.other);
    sweep(work_.left, kSweepsBeforeModes, true, true);
    write("affinity: modes", small, work_.product, stream_);
    launch("affinity: multiply_by_square", stream_, grid_of_threads(n * m_), multiply_by_square, n, m_, work_.left,
           work_.product, work_.basis);
    return true;
  }

  bool iterate(bool back, int sweeps, double*& x, double& rate) {
    for (const int between : kSweepsBetween) {
      launch("affinity: fill_random", stream_, grid_of_threads(part_.size * m_), fill_random,
             static_cast<std::uint64_t>(back), part_.size * m_, x);
      bool independent = true;
      for (int s = 0; s < sweeps && independent; s += between) {
        sweep(x, between, back, false);
        std::vector<double> small = transposed_product(x, x);
        independent = triangular_inverse(small, m_, unit_roundoff<double>);
        if (!independent) break;
        multiply(&x, small);
        double logarithms = 0;
        for (std::int64_t a = m_ - m_ / 4; a < m_; ++a) logarithms -= std::log(small[a * m_ + a]);
        rate = std::pow(std::exp(logarithms / static_cast<double>(m_ / 4)), 1.0 / between);
      }
      if (independent) return true;
    }
    return false;
  }

  void sweep(double* x, int sweeps, bool back, bool steps) {
    with_panel<double>(device_, part_.size, 0, [&](auto shape, const Layout& layout) {
      const auto kernel = sweep_all<double, shape.kLanes, shape.kParts>;
      admit_shared("affinity: shared memory", kernel, device_.shared_bytes);
      launch("affinity: sweep_all", stream_, layout.grid(m_ / (shape.kLanes * shape.kParts)), kernel, work_.build.graph,
             part_.begin, m_, relaxation_, sweeps, back, steps, layout.in_shared, reinterpret_cast<double*>(work_.room),
             x);
    });
  }

  void restart() {
    check(cudaMemsetAsync(work_.largest, 0, 3 * sizeof(double), stream_), "affinity: restart");
    launch("affinity: restart", stream_, grid_of_warps(part_.size), walk::restart, work_.build.graph, part_.begin,
           part_.size, m_, relaxation_.gamma, work_.solved, work_.basis, work_.largest);
  }

  std::vector<double> transposed_product(const double* x, const double* y) {
    const std::int64_t tiles = m_ / kTile;
    launch("affinity: multiply_transposed", stream_, {kPieces * tiles * tiles, kTile * kTile}, multiply_transposed,
           part_.size, m_, x, y, work_.piece);
    launch("affinity: sum_pieces", stream_, grid_of_threads(m_ * m_), sum_pieces, m_ * m_, work_.piece, work_.product);
    return read("affinity: read", work_.product, m_ * m_, stream_);
  }

  /// *x <- *x small
  void multiply(double** x, const std::vector<double>& small) {
    write("affinity: modes", small, work_.product, stream_);
    launch("affinity: multiply_by_square", stream_, grid_of_threads(part_.size * m_), multiply_by_square, part_.size,
           m_, *x, work_.product, work_.other);
    std::swap(*x, work_.other);
  }

  const Device& device_;
  AffinityWork& work_;
  const Large& part_;
  std::int64_t m_;
  Sor relaxation_;
  cudaStream_t stream_;
  std::vector<double> largest_;
};

}  // namespace

std::int64_t propagate_affinity_workspace(std::int64_t n, std::int64_t k, bool weighted, std::int64_t classes) {
  Workspace workspace(nullptr);
  AffinityWork(workspace, Device(), n, k, weighted, classes);
  return workspace.bytes();
}

template <typename T>
WalkReport propagate_affinity(const std::int64_t* indices, const double* weights, std::int64_t n, std::int64_t k,
                              const std::int64_t* labels, std::int64_t classes, double gamma, double tol, T* values,
                              T* class_mass, Progress& progress, Peers& peers, void* workspace, void* stream) {
  if (n == 0) return {0, 0.0, true};
  const auto on = static_cast<cudaStream_t>(stream);
  const Device device;
  Workspace memory(workspace);
  AffinityWork work(memory, device, n, k, weights != nullptr, classes);
  const double target = columns_tol<T>(tol);
  work.columns.gamma = gamma, work.columns.tol = target;
  check(cudaMemsetAsync(work.columns.forward, 0, n * k * sizeof(double), on), "affinity: columns");
  check(cudaMemsetAsync(work.columns.backward, 0, n * k * sizeof(double), on), "affinity: columns");
  check(cudaMemsetAsync(work.columns.mass, 0, n * (classes + 1) * sizeof(double), on), "affinity: columns");
  check(cudaMemsetAsync(work.outcome, 0, sizeof(ColumnsOutcome), on), "affinity: columns");
  check(cudaMemsetAsync(work.failed, 0, n, on), "affinity: columns");
  work.build.run(indices, weights, labels, on);
  const Census census = read("affinity: read", work.build.census, 1, on)[0];
  std::vector<Large> parts = read("affinity: read", work.build.list, static_cast<std::int64_t>(census.n_large), on);
  std::sort(parts.begin(), parts.end(), [](const Large& a, const Large& b) { return a.begin < b.begin; });

  bool proceeding = true;
  /// Solves the columns of `tickets` in panels of P, until `proceeding` is false. Returns the width of a panel.
  const auto solve = [&]<typename P>(P, std::int64_t largest, const Modes& modes, const Tickets& tickets, double tol) {
    int width = 0;
    with_panel<P>(device, largest, modes.m, [&](auto shape, const Layout& layout) {
      const auto kernel = solve_columns<P, shape.kLanes, shape.kParts>;
      width = shape.kLanes * shape.kParts;
      admit_shared("affinity: shared memory", kernel, device.shared_bytes);
      const std::int64_t total = tickets.of_classes ? tickets.count * ceil_div(classes + 1, width) : tickets.count;
      const std::int64_t together = layout.blocks * kPanelsPerBlock * width;
      for (std::int64_t done = 0; done < total && proceeding; done += together) {
        // Blocks draw tickets until there are no more; those that found none drew one too many each.
        check(cudaMemsetAsync(&work.outcome->tickets, 0, sizeof work.outcome->tickets, on), "affinity: tickets");
        Tickets these = tickets;
        these.first += tickets.of_classes ? 0 : done;
        const std::int64_t up_to = tickets.of_classes ? total : std::min(together, total - done);
        launch("affinity: solve_columns", on, layout.grid(up_to), kernel, work.columns, modes, these, tol, up_to,
               layout.in_shared, largest, reinterpret_cast<P*>(work.room), work.outcome);
        if (tickets.of_classes) break;
        if (done + together < total) check(cudaStreamSynchronize(on), "affinity: solve_columns");
        proceeding = progress.update(static_cast<double>(tickets.first + done) / static_cast<double>(n));
      }
    });
    return width;
  };

  const auto tickets = [&](std::int64_t first, std::int64_t count, bool of_classes) {
    return Tickets{peers.rank, peers.size, first, count, of_classes, nullptr, 1, nullptr};
  };
  for (const Large& part : parts) {
    if (!proceeding) break;
    const Modes modes = ModesOf(device, work, part, gamma, on).find();
    proceeding = progress.update(static_cast<double>(part.begin) / static_cast<double>(n));
    solve(double{}, part.size, modes, tickets(part.begin, 1, true), target / 3);
    Tickets columns = tickets(part.begin, part.size, false);
    if (sizeof(T) == 4 && target > kFloatTol) {
      columns.failed = work.failed;
      columns.only_width = solve(float{}, part.size, modes, columns, target);
      columns.only = std::exchange(columns.failed, nullptr);
    }
    solve(double{}, part.size, modes, columns, target);
  }
  if (const auto begin = static_cast<std::int64_t>(census.n_in_large); begin < n && proceeding) {
    const Modes none;
    const auto largest = static_cast<std::int64_t>(census.largest_small);
    solve(double{}, largest, none, tickets(begin, n - begin, true), target / 3);
    solve(double{}, largest, none, tickets(begin, n - begin, false), target);
  }
  for (double* const entries : {work.columns.forward, work.columns.backward})
    sum_on_device("affinity: exchange", peers, entries, n * k, on);
  sum_on_device("affinity: exchange", peers, work.columns.mass, n * (classes + 1), on);
  launch("affinity: write_results", on, grid_of_threads(n * std::max(k, classes)), write_results<T>, work.columns,
         values, class_mass, work.outcome);
  const ColumnsOutcome outcome = read("affinity: read", work.outcome, 1, on)[0];
  double most[] = {static_cast<double>(outcome.sweeps), outcome.error};
  peers.max(most, 2);
  return {static_cast<std::int64_t>(most[0]), most[1] + 1.01 * unit_roundoff<T> * outcome.largest, proceeding};
}

template WalkReport propagate_affinity(const std::int64_t*, const double*, std::int64_t, std::int64_t,
                                       const std::int64_t*, std::int64_t, double, double, float*, float*, Progress&,
                                       Peers&, void*, void*);
template WalkReport propagate_affinity(const std::int64_t*, const double*, std::int64_t, std::int64_t,
                                       const std::int64_t*, std::int64_t, double, double, double*, double*, Progress&,
                                       Peers&, void*, void*);

}  // namespace ssdml::cuda
