// One panel of columns, solved by one block of threads: solve.h for CUDA, with the same steps, the same arithmetic and
// the same bound. Only affinity.cu includes it.
//
// The panel lies in shared memory where it fits, or else in global memory with 64 bytes to a point. Relaxation, which
// is sequential in relax.h, takes points in groups: all points of a group are read before any of it is written, so that
// it is still in place, and an edge within a group counts as one that leads to a later point. The bound holds for any
// such split, and since groups are strided, neighbours are seldom in one.
#pragma once

#include "affinity/sor.h"
#include "cuda/launch.h"
#include "walk/cuda_graph.h"
#include "walk/rounding.h"

namespace ssdml::cuda::walk {

using ssdml::walk::Interval;
using ssdml::walk::Sor;
using ssdml::walk::unit_roundoff;

/// Slow modes of one component (modes.h), in float64; none where m = 0.
struct Modes {
  std::int64_t m = 0;
  int sweeps = 0;
  Sor relaxation{};
  const double *solved = nullptr, *coefficients = nullptr;  // (n, m): Z, and c of the column that starts at each place
  const double* basis = nullptr;                            // (m, n): V'
  double basis_norm = 0, solved_norm = 0, basis_error = 0;
};

/// What all columns of a graph write to.
struct Columns {
  Graph graph;
  std::int64_t classes;
  double gamma, tol;
  double* forward;   // (n, k): W*[i, j] at the edge i -> j, by the column of j
  double* backward;  // (n, k): W*[j, i] at the edge i -> j, by the column of i
  double* mass;      // (n, classes + 1), the sum over all classes last
};

/// What came of them.
struct ColumnsOutcome {
  double error, largest;       // of the entries; |value|
  unsigned long long sweeps;   // of the slowest column
  unsigned long long tickets;  // drawn so far
};

inline constexpr int kMostThreads = 1024;
inline constexpr int kGroups = 16;        // at least
inline constexpr int kSweepsPerLook = 8;  // of relaxation, in which the bound should shrink more than by the series
inline constexpr std::int64_t kStaticShared = 8 << 10;  // more than a block's variables take

/// The part of a point's line that one thread handles.
template <typename P, int kLanes>
struct alignas(sizeof(P) * kLanes) Chunk {
  P at[kLanes];
};

/// What is known of a column of the panel; thread c of the block writes that of column c.
struct ColumnState {
  double low, high;  // range of x
  double size;       // largest |x| where that was last of use
  double rounding;   // error of the entries by rounding so far
  double norm;       // of its coefficients
  double middle;     // of the residual

  __device__ double magnitude() const { return fmax(-low, high); }
};

/// Variables of a block.
template <typename P, int kWidth>
struct Shared {
  P low[kMostThreads / kWarp][kWidth], high[kMostThreads / kWarp][kWidth];
  ColumnState column[kWidth];
  double error;
  bool finished;
  std::int64_t ticket;
};

template <typename P, int kLanes, int kParts>
class Panel {
 public:
  static constexpr int kWidth = kLanes * kParts;
  using Line = Chunk<P, kLanes>;
  using SharedHere = Shared<P, kWidth>;

  /// On the component that begins at place `begin`; `x` and `other` are (size, kWidth), and `coefficients` (m, kWidth).
  __device__ Panel(const Graph& graph, std::int64_t begin, bool in_shared, P* x, P* other, double* coefficients,
                   SharedHere& shared)
      : graph_(graph),
        begin_(begin),
        n_(graph.size[begin]),
        x_(reinterpret_cast<Line*>(x)),
        other_(reinterpret_cast<Line*>(other)),
        in_shared_(in_shared),
        coefficients_(coefficients),
        shared_(shared) {
    const std::int64_t together = blockDim.x / kParts, fewest = n_ < kGroups ? n_ : kGroups;
    groups_ = ceil_div(n_, together) < fewest ? fewest : ceil_div(n_, together);
  }

  // ---- solving ------------------------------------------------------------------------------------------------------

  /// Solves for the `count` columns from place `first` on, or from class `first` on, whose entries are zero so far.
  /// Every wanted entry within `tol`; or as close as P allows, or, with `or_give_up`, none where that is not close
  /// enough, which is answered by false.
  __device__ bool solve(const Columns& columns, const Modes& modes, bool of_classes, std::int64_t first,
                        std::int64_t count, double tol, bool or_give_up) {
    columns_ = &columns, of_classes_ = of_classes, first_ = first, count_ = count;
    tol_ = tol, or_give_up_ = or_give_up;
    scale_ = 1, error_ = 0, sweeps = 0;
    own([](ColumnState& column) { column.rounding = 0, column.size = 1; });
    for (std::int64_t e = threadIdx.x; e < n_ * kWidth; e += blockDim.x)
      reinterpret_cast<P*>(x_)[e] = source(e / kWidth, e % kWidth) ? P(1) : P(0);
    __syncthreads();
    if (modes.m == 0) {
      walk(kNoLimit, true);  // without slow modes its bound shrinks faster, since it knows the mean
    } else {
      read_coefficients(modes);
      if (!walk(modes.sweeps, true)) {
        remove(modes);
        if (!relax(modes.relaxation)) walk(kNoLimit, false);
      }
    }
    const bool kept = !or_give_up || error_ <= tol;
    if (!kept) each_wanted([](double& entry, std::int64_t, int) { entry = 0; });
    __syncthreads();  // the next panel overwrites this one
    return kept;
  }

  int sweeps = 0;
  __device__ double error() const { return error_; }

  // ---- for modes: sweeps of kWidth columns of a (size, m) matrix from `column` on

  __device__ void load(const P* from, std::int64_t m, std::int64_t column) {
    for (std::int64_t e = threadIdx.x; e < n_ * kWidth; e += blockDim.x)
      reinterpret_cast<P*>(x_)[e] = from[e / kWidth * m + column + e % kWidth];
    __syncthreads();
  }
  __device__ void save(P* to, std::int64_t m, std::int64_t column) {
    for (std::int64_t e = threadIdx.x; e < n_ * kWidth; e += blockDim.x)
      to[e / kWidth * m + column + e % kWidth] = reinterpret_cast<const P*>(x_)[e];
    __syncthreads();
  }
  /// A sweep of relaxation, or `back`, the same for Q', from the last group to the first.
  __device__ void sweep(const Sor& relaxation, bool back) {
    const P keep = static_cast<P>(1 - relaxation.omega), take = static_cast<P>(relaxation.omega * relaxation.gamma);
    in_groups(back, [&](std::int64_t p) { return combine(keep, x_[at(p)], take, gather(edges(p, back), all)); });
  }
  /// x <- Q x, or Q' x.
  __device__ void step(bool back) {
    Range range;
    for (std::int64_t p = row(); p < n_; p += rows()) range.add(other_[at(p)] = gather(edges(p, back), all));
    reduce(range);
    if (in_shared_) {
      for (std::int64_t p = row(); p < n_; p += rows()) x_[at(p)] = other_[at(p)];
    } else {
      Line* const before = x_;
      x_ = other_, other_ = before;
    }
    __syncthreads();
  }

 private:
  static constexpr int kNoLimit = 0x7fffffff;

  struct Range {
    Line low, high;
    __device__ Range() {
      for (int l = 0; l < kLanes; ++l) low.at[l] = static_cast<P>(kInfinity), high.at[l] = static_cast<P>(-kInfinity);
    }
    __device__ void add(const Line& line) {
      for (int l = 0; l < kLanes; ++l) {
        low.at[l] = line.at[l] < low.at[l] ? line.at[l] : low.at[l];
        high.at[l] = line.at[l] > high.at[l] ? line.at[l] : high.at[l];
      }
    }
  };

  __device__ static std::int64_t row() { return threadIdx.x / kParts; }
  __device__ static std::int64_t rows() { return blockDim.x / kParts; }
  __device__ static std::int64_t at(std::int64_t p) { return p * kParts + threadIdx.x % kParts; }
  __device__ Edges edges(std::int64_t p, bool back) const {
    return back ? graph_.edges_in(begin_ + p) : graph_.edges_out(begin_ + p);
  }
  __device__ static bool all(std::int64_t) { return true; }

  /// a x + b y
  __device__ static Line combine(P a, const Line& x, P b, const Line& y) {
    Line sum;
    for (int l = 0; l < kLanes; ++l) sum.at[l] = a * x.at[l] + b * y.at[l];
    return sum;
  }
  __device__ static Line add(const Line& x, const Line& y) {
    Line sum;
    for (int l = 0; l < kLanes; ++l) sum.at[l] = x.at[l] + y.at[l];
    return sum;
  }

  /// Sum over those edges that lead to places that `counts`; rounded as gather() of walk/graph.h.
  template <typename Counts>
  __device__ Line gather(const Edges& edges, Counts counts) const {
    const auto term = [&](std::int64_t e) {
      const std::int64_t to = edges.at[e];
      Line line = x_[at(to)];
      const P share = !counts(to) ? P(0) : edges.share ? static_cast<P>(edges.share_of(e)) : P(1);
      for (int l = 0; l < kLanes; ++l) line.at[l] *= share;
      return line;
    };
    Line sum{};
    std::int64_t e = 0;
    for (; e + 4 <= edges.count; e += 4) sum = add(sum, add(add(term(e), term(e + 1)), add(term(e + 2), term(e + 3))));
    if (e + 2 <= edges.count) {
      sum = add(sum, add(term(e), term(e + 1)));
      e += 2;
    }
    if (e < edges.count) sum = add(sum, term(e));
    if (!edges.share)
      for (int l = 0; l < kLanes; ++l) sum.at[l] *= P(1) / static_cast<P>(graph_.k);
    return sum;
  }

  /// x[p] = update(p) for all p, group by group.
  template <typename Update>
  __device__ Range in_groups(bool back, Update update) {
    Range range;
    for (std::int64_t g = 0; g < groups_; ++g) {
      const std::int64_t p = row() * groups_ + (back ? groups_ - 1 - g : g);
      Line line;
      if (p < n_) range.add(line = update(p));
      __syncthreads();
      if (p < n_) x_[at(p)] = line;
      __syncthreads();
    }
    return range;
  }

  /// Leaves the range of column c over all threads in its state.
  __device__ void reduce(Range range) {
    for (int l = 0; l < kLanes; ++l)
      for (int apart = kWarp / 2; apart >= kParts; apart /= 2) {
        const P low = __shfl_xor_sync(kAllLanes, range.low.at[l], apart);
        const P high = __shfl_xor_sync(kAllLanes, range.high.at[l], apart);
        range.low.at[l] = low < range.low.at[l] ? low : range.low.at[l];
        range.high.at[l] = high > range.high.at[l] ? high : range.high.at[l];
      }
    const int warp = threadIdx.x / kWarp, part = lane_id();
    if (part < kParts)
      for (int l = 0; l < kLanes; ++l) {
        shared_.low[warp][part * kLanes + l] = range.low.at[l];
        shared_.high[warp][part * kLanes + l] = range.high.at[l];
      }
    __syncthreads();
    own([&](ColumnState& column) {
      P low = shared_.low[0][threadIdx.x], high = shared_.high[0][threadIdx.x];
      for (unsigned w = 1; w < blockDim.x / kWarp; ++w) {
        low = shared_.low[w][threadIdx.x] < low ? shared_.low[w][threadIdx.x] : low;
        high = shared_.high[w][threadIdx.x] > high ? shared_.high[w][threadIdx.x] : high;
      }
      column.low = low, column.high = high;
    });
  }

  /// f(state of its column) in those threads that have one.
  template <typename F>
  __device__ void own(F f) const {
    if (threadIdx.x < kWidth) f(shared_.column[threadIdx.x]);
  }

  // ---- the steps of solve.h

  __device__ bool source(std::int64_t p, std::int64_t c) const {
    if (c >= count_) return false;
    const std::int64_t label = graph_.label[begin_ + p];
    if (of_classes_) return label >= 0 && (label == first_ + c || first_ + c == columns_->classes);
    return begin_ + p == first_ + c;
  }

  /// f(entry, place, column) for every entry that is wanted, always by the same thread.
  template <typename F>
  __device__ void each_wanted(F f) const {
    if (of_classes_) {
      for (std::int64_t e = threadIdx.x; e < n_ * kWidth; e += blockDim.x)
        if (const int c = static_cast<int>(e % kWidth); c < count_)
          f(columns_->mass[(begin_ + e / kWidth) * (columns_->classes + 1) + first_ + c], e / kWidth, c);
      return;
    }
    const std::int64_t warps = blockDim.x / kWarp, pieces = warps > count_ ? warps / count_ : 1;
    for (std::int64_t q = threadIdx.x / kWarp; q < pieces * count_; q += warps) {
      const auto c = static_cast<int>(q % count_);
      const std::int64_t p = first_ + c, from = q / count_ * kWarp + lane_id();
      const Edges in = graph_.edges_in(p), out = graph_.edges_out(p);
      for (std::int64_t e = from; e < in.count; e += pieces * kWarp) f(columns_->forward[in.edge[e]], in.at[e], c);
      for (std::int64_t e = from; e < out.count; e += pieces * kWarp)
        f(columns_->backward[p * graph_.k + e], out.at[e], c);
    }
  }

  /// Adds `factor` x to the entries.
  __device__ void add(double factor) const {
    const P* x = reinterpret_cast<const P*>(x_);
    each_wanted(
        [&](double& entry, std::int64_t p, int c) { entry += factor * static_cast<double>(x[p * kWidth + c]); });
  }

  __device__ bool walk(int most, bool from_source) {
    const double gamma = columns_->gamma, relative = gather_rounding();
    for (int s = 0; s < most; ++s) {
      add((1 - gamma) * scale_);
      step(false);
      scale_ *= gamma;
      own([&](ColumnState& column) {
        column.rounding += scale_ * relative * (from_source ? column.magnitude() : column.size);
        column.size = column.magnitude();
      });
      if (finished([](double low, double high) { return Interval{low, high}; })) return true;
    }
    return false;
  }

  /// Takes the slow modes out of x, with their part of the entries.
  __device__ void remove(const Modes& modes) {
    const std::int64_t m = modes.m;
    each_wanted([&](double& entry, std::int64_t p, int c) {
      double sum = 0;
      for (std::int64_t a = 0; a < m; ++a) sum += modes.solved[p * m + a] * coefficients_[a * kWidth + c];
      entry += scale_ * sum;
    });
    const double* factors = coefficients_ + threadIdx.x % kParts * kLanes;
    Range range;
    for (std::int64_t p = row(); p < n_; p += rows()) {
      double sum[kLanes] = {};
      for (std::int64_t a = 0; a < m; ++a) {
        const double entry = modes.basis[a * n_ + p];
        for (int l = 0; l < kLanes; ++l) sum[l] = fma(entry, factors[a * kWidth + l], sum[l]);
      }
      Line& line = x_[at(p)];
      for (int l = 0; l < kLanes; ++l) line.at[l] = static_cast<P>(static_cast<double>(line.at[l]) - sum[l]);
      range.add(line);
    }
    reduce(range);
    own([&](ColumnState& column) {
      const double sums = 0x1p-52 * static_cast<double>(m + 3), size = fmax(column.size, column.magnitude());
      const double of_basis = (sums + 0x1p-53) * modes.basis_norm + modes.basis_error * sqrt(static_cast<double>(m));
      const double of_solved = 0x1p-52 * static_cast<double>(m + 4) * modes.solved_norm;
      const double of_x = 1.01 * ((unit_roundoff<P> + sums) * size + of_basis * column.norm);
      column.rounding += scale_ * (of_x + of_solved * column.norm);
      column.size = column.magnitude();
    });
  }

  /// Sweeps of relaxation until the panel is finished; false, with the residual in x, where they are no better than the
  /// series.
  __device__ bool relax(const Sor& relaxation) {
    const P omega = static_cast<P>(relaxation.omega), take = static_cast<P>(relaxation.omega * relaxation.gamma);
    const P itself = static_cast<P>((1 - relaxation.omega) / relaxation.omega),
            gamma = static_cast<P>(relaxation.gamma);
    const double relative = gather_rounding() + 6 * unit_roundoff<P>, series = pow(columns_->gamma, kSweepsPerLook);
    const auto round = [&](const Range& range) {
      reduce(range);
      own([&](ColumnState& column) {
        column.rounding += scale_ * relative * fmax(column.size, column.magnitude());
        column.size = column.magnitude();
      });
    };
    Range range = in_groups(false, [&](std::int64_t p) {
      const auto before = [&, g = p % groups_](std::int64_t to) { return to % groups_ < g; };
      return combine(omega, x_[at(p)], take, gather(edges(p, false), before));
    });
    double last = kInfinity;
    for (int s = 1;; ++s) {
      round(range);
      add((1 - columns_->gamma) * scale_);
      if (finished([&](double low, double high) { return relaxation.residual(low, high); })) return true;
      if (s % kSweepsPerLook == 0) {
        if (!(error_ < series * last)) break;
        last = error_;
      }
      const P keep = static_cast<P>(1 - relaxation.omega);
      range = in_groups(false,
                        [&](std::int64_t p) { return combine(keep, x_[at(p)], take, gather(edges(p, false), all)); });
    }
    range = in_groups(false, [&](std::int64_t p) {
      const auto not_before = [&, g = p % groups_](std::int64_t to) { return to % groups_ >= g; };
      return combine(itself, x_[at(p)], gamma, gather(edges(p, false), not_before));
    });
    round(range);
    __syncthreads();  // the next range goes where this one was
    return false;
  }

  /// After a sweep that left a residual in residual(low, high) for each column: is that good enough, or nothing more to
  /// be gained? If so the entries are completed.
  template <typename Residual>
  __device__ bool finished(Residual residual) {
    ++sweeps;
    if (threadIdx.x < kWarp) {
      double error = 0;
      bool reached = true, hopeless = false, done = true;
      own([&](ColumnState& column) {
        const Interval left = residual(column.low, column.high);
        const double tail = scale_ * left.width() / 2, known = column.rounding + 0x1p-52 * (sweeps + 4);
        error = known + tail;
        reached = error <= tol_, hopeless = known > tol_, done = tail <= known / 8;
        column.middle = left.middle();
      });
      reached = __ballot_sync(kAllLanes, reached) == kAllLanes;
      hopeless = __ballot_sync(kAllLanes, hopeless) != 0;
      done = __ballot_sync(kAllLanes, done) == kAllLanes;
      for (int apart = kWarp / 2; apart > 0; apart /= 2) error = fmax(error, __shfl_xor_sync(kAllLanes, error, apart));
      if (threadIdx.x == 0) {
        shared_.error = error;
        shared_.finished = reached || (hopeless && or_give_up_) || done;
      }
    }
    __syncthreads();
    error_ = shared_.error;
    if (!shared_.finished) return false;
    each_wanted([&](double& entry, std::int64_t, int c) {
      entry = fmin(fmax(entry + scale_ * shared_.column[c].middle, 0.0), 1.0);  // as P's entries are
    });
    return true;
  }

  /// c of every column, and their norms.
  __device__ void read_coefficients(const Modes& modes) {
    const std::int64_t m = modes.m;
    for (std::int64_t e = threadIdx.x; e < m * kWidth; e += blockDim.x) {
      const std::int64_t a = e / kWidth, c = e % kWidth;
      double sum = 0;
      if (of_classes_) {
        for (std::int64_t p = 0; p < n_; ++p)
          if (source(p, c)) sum += modes.coefficients[p * m + a];
      } else if (c < count_) {
        sum = modes.coefficients[(first_ + c - begin_) * m + a];
      }
      coefficients_[e] = sum;
    }
    __syncthreads();
    own([&](ColumnState& column) {
      double square = 0;
      for (std::int64_t a = 0; a < m; ++a) {
        const double c = coefficients_[a * kWidth + threadIdx.x];
        square += c * c;
      }
      column.norm = 1.01 * sqrt(square);
    });
  }

  __device__ double gather_rounding() const {
    return ssdml::walk::gather_rounding(unit_roundoff<P>, static_cast<double>(graph_.k), graph_.out_share != nullptr);
  }

  const Graph& graph_;
  std::int64_t begin_, n_, groups_;
  Line *x_, *other_;
  bool in_shared_;
  double* coefficients_;
  SharedHere& shared_;

  const Columns* columns_ = nullptr;
  bool of_classes_ = false, or_give_up_ = false;
  std::int64_t first_ = 0, count_ = 0;
  double tol_ = 0, scale_ = 1, error_ = 0;
};

}  // namespace ssdml::cuda::walk
