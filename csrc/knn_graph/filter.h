// Cheap lower bounds of the distance of every pair, from a matrix product over register tiles.
//
// Points are centred, scaled to at most 1 and stored as float32, or, where the processor multiplies those two or four
// times as fast, as int16 or int8 in steps of each point's own. With y the stored coordinates,
//
//   bound(i, j) = g_i + g_j - <y_i, y_j>   <=   v(i, j)   <=   bound(i, j) + 2 (slack_i + slack_j)
//
// where v is half the squared distance (or minus the inner product) of the points themselves in the scaled coordinates.
// The slack covers every rounding there is: of coordinates to what is stored, and of float32 sums. Where points lie
// near a space of few dimensions, y are their coordinates along its axes only (axes.h), and the slack also covers
// what lies outside: |<r_i, r_j>| <= |r_i|^2 / 2 + |r_j|^2 / 2. Slacks of bytes and of axes are wide, so a pair that
// they leave undecided gets a closer bound of the same form from int16 copies of its points.
//
// A register tile is kTileRows points against kTileVectors vectors of points. Points lie in panels of kPanel,
// coordinate by coordinate, so that one layout serves both sides of the product whatever the width of a vector.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <mutex>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/buffer.h"
#include "common/gemm.h"
#include "common/parallel.h"
#include "common/simd.h"
#include "knn_graph/axes.h"
#include "knn_graph/points.h"

namespace ssdml {

/// What the coordinates that tiles multiply are stored as: the narrower, the faster and the coarser.
enum class Storage { float32, int16, int8 };

/// What tiles multiply: all coordinates, or those along some of the frame's axes, which are stored as int16.
struct Form {
  Storage storage;
  std::int64_t axes;  // 0: all coordinates

  /// Whether bounds from tiles are wide enough for closer ones to pay.
  bool refines() const { return storage == Storage::int8 || axes > 0; }
};

/// What a unit of the integers that stand for a point is worth, by its largest coordinate and its norm. Sums of
/// products must fit 32 bits: those of int16 are at most the product of the norms, 46,000 squared.
template <typename Q>
double step_of(double widest, double norm) {
  return (sizeof(Q) == 1 ? widest / 127 : std::max(norm / 46000, widest / 32767)) * (1 + 0x1p-20);
}

/// The coordinates in which bounds are computed, shared by all filters that are compared with each other.
struct Frame {
  double scale;      // a power of two, so that scaling does not round
  double unit;       // v = unit * squared distance (of unit vectors for cosine), or unit * minus inner product
  double rounding;   // absolute error of exact distances, and of their rounding, in the units of v
  double raw_error;  // of a point, as its coordinates are divided by the norm and the centre is subtracted
  double balance8, balance16;  // see Filter, for int8 and int16
  bool centred;
  bool finite;  // no coordinate is NaN, infinite or beyond the largest
  std::vector<double> centre;
  std::vector<double> axes;  // (d, kAxes), the principal ones first; empty unless find_axes found any

  static constexpr std::int64_t kAxes = 64;
  static constexpr double kBalanceOfAxes = 50000;  // about what balance16 would be for coordinates along axes

  template <typename X>
  Frame(std::initializer_list<const Points<X>*> sets, Team& team);

  /// The mean of most of a sample, without the farthest, as bounds are the closer the less far points are from it.
  template <typename X>
  void set_centre(const Points<X>& points);

  /// Finds the axes near which some points lie, if there are any.
  template <typename X>
  void find_axes(const Points<X>& some) {
    std::vector<double> y(some.n * some.d);
    for (std::int64_t i = 0; i < some.n; ++i) place(some, i, &y[i * some.d]);
    if (some.n >= kAxes) axes = principal_axes(y, some.n, some.d, kAxes);
  }

  /// Writes the coordinates of a point in this frame to y.
  template <typename X>
  void place(const Points<X>& points, std::int64_t i, double* y) const {
    const X* const row = points.row(i);
    const double before = points.first_factor(i), after = points.second_factor(i);
    for (std::int64_t p = 0; p < points.d; ++p)
      y[p] = (static_cast<double>(row[p]) * before * after - centre[p]) * scale;
  }

  /// A float32 limit that no v exceeds whose exact distance rounds to that of `v`, with room for float32 sums.
  float limit(double v) const { return static_cast<float>(v + std::abs(v) * 0x1p-20 + rounding); }
};

template <typename X>
void Frame::set_centre(const Points<X>& points) {
  const std::int64_t d = points.d, count = std::min<std::int64_t>(points.n, 1024);
  std::vector<std::pair<double, std::int64_t>> sample;  // squared distance from the centre so far, and which point
  const auto placed = [&](std::int64_t i, std::int64_t p) {
    return static_cast<double>(points.row(i)[p]) * points.first_factor(i) * points.second_factor(i);
  };
  const auto average = [&] {
    std::fill(centre.begin(), centre.end(), 0.0);
    for (const auto& [distance, i] : sample)
      for (std::int64_t p = 0; p < d; ++p) centre[p] += placed(i, p) / static_cast<double>(sample.size());
  };
  for (std::int64_t s = 0; s < count; ++s) sample.emplace_back(0.0, s * points.n / count);
  average();
  for (auto& [distance, i] : sample) {
    for (std::int64_t p = 0; p < d; ++p) distance += (placed(i, p) - centre[p]) * (placed(i, p) - centre[p]);
    if (std::isnan(distance)) return;  // to be refused
  }
  const auto kept = static_cast<std::ptrdiff_t>(sample.size() - sample.size() / 16);
  std::nth_element(sample.begin(), sample.begin() + kept - 1, sample.end());
  sample.resize(kept);
  average();
}

template <typename X>
Frame::Frame(std::initializer_list<const Points<X>*> sets, Team& team) {
  const Points<X>& some = **(sets.end() - 1);
  const std::int64_t d = some.d;
  centred = some.metric != Metric::inner_product;
  centre.assign(d, 0.0);
  if (centred) set_centre(some);

  double widest = 0, farthest = 0, largest = 0;  // coordinates: centred, not centred, as given
  double points = 0, lost8 = 0, lost16 = 0;      // squares of what rounding to steps loses, relative
  bool summable = true;
  std::mutex merging;
  for (const Points<X>* set : sets)
    team.each(set->n, 256, [&](std::int64_t begin, std::int64_t end, int) {
      double wide = 0, far = 0, large = 0, counted = 0, sum8 = 0, sum16 = 0;
      bool all_summable = true;
      for (std::int64_t i = begin; i < end; ++i) {
        const X* row = set->row(i);
        const double first = set->first_factor(i), second = set->second_factor(i);
        double square = 0, width = 0;
#pragma omp simd reduction(+ : square) reduction(max : width, far, large)
        for (std::int64_t p = 0; p < d; ++p) {
          const double raw = static_cast<double>(row[p]), placed = raw * first * second, value = placed - centre[p];
          large = std::max(large, std::abs(raw));
          far = std::max(far, std::abs(placed));
          width = std::max(width, std::abs(value));
          square += value * value;
        }
        all_summable = all_summable && std::isfinite(square);
        wide = std::max(wide, width);
        if (square == 0) continue;
        const double norm = std::sqrt(square), coarse = step_of<std::int8_t>(width, norm) / norm,
                     fine = step_of<std::int16_t>(width, norm) / norm;
        counted += 1;
        sum8 += coarse * coarse;
        sum16 += fine * fine;
      }
      const std::lock_guard guard(merging);
      widest = std::max(widest, wide);
      farthest = std::max(farthest, far);
      largest = std::max(largest, large);
      points += counted;
      lost8 += sum8;
      lost16 += sum16;
      summable = summable && all_summable;
    });
  finite = summable && largest <= largest_coordinate<X>(d);
  scale = widest > 0 ? std::exp2(std::min(-std::ceil(std::log2(widest)), 500.0)) : 1.0;  // its square must not overflow
  unit = centred ? scale * scale / 2 : scale * scale;
  rounding = unit * (static_cast<double>(d) + 4) * static_cast<double>(std::numeric_limits<Distance<X>>::denorm_min());
  raw_error = farthest * scale * 0x1p-51 * std::sqrt(static_cast<double>(d));
  const double losses =
      std::max(points, 1.0) * 12 / static_cast<double>(d);  // a step loses 1/12 of its square, on average
  balance8 = std::sqrt(losses / std::max(lost8, 0x1p-60));
  balance16 = std::sqrt(losses / std::max(lost16, 0x1p-60));
}

/// The points [first, first + count) of a set.
class Filter {
 public:
  static constexpr int kTileVectors = vector_registers == 32 ? 3 : 2;
  static constexpr int kTileRows = vector_registers == 32 ? 8 : 6;
  static constexpr int kTileColumns = kTileVectors * lanes<float>;
  static constexpr int kPanel = 48;
  static_assert(kPanel % kTileColumns == 0 && kPanel % kTileRows == 0);

  /// Depth that a panel of rows goes through at a time, for both sides to stay in the cache nearest to the core. Where
  /// a step of the product takes as long as its operands take to arrive, there is no need.
  static constexpr std::int64_t kDepth = vector_registers == 32 ? std::numeric_limits<std::int64_t>::max() : 64;

  using Tile = Vec<float>[kTileRows][kTileVectors];

  /// A part of the bounds of each point; NaN, and no slack, in the places that fill up the last panel.
  struct Part {
    std::vector<float> g, slack;
  };

  std::int64_t first, count;
  Part tiled;    // of the bounds that products() gives
  Part refined;  // of those that refine() gives; empty unless pairs are refined

  template <typename X>
  Filter(const Points<X>& points, std::int64_t first_, std::int64_t count_, const Frame& frame, Form form, Team& team);

  /// Bytes that a point of d coordinates takes.
  static std::int64_t bytes_per_point(std::int64_t d, Form form) {
    return groups(d, form) * 4 + (form.refines() ? padded(d) * 2 + 28 : 12);
  }

  bool refines() const { return !refined.g.empty(); }

  /// The closest bounds there are.
  const Part& closest() const { return refines() ? refined : tiled; }

  /// Calls visit(row, tile) for the tiles of the rows from `begin` to `end` against the kTileColumns points of
  /// `columns` from `column` on: tile[a][.] = <y_(row + a), y_j> - g_j. Points are numbered from the first of their
  /// filter; both ranges start on a tile, that of rows on a panel.
  template <typename Visit>
  void each_tile(std::int64_t begin, std::int64_t end, const Filter& columns, std::int64_t column, Visit visit) const {
    if (has_byte_products && storage_ == Storage::int8)
      each_tile_of<std::int8_t>(begin, end, columns, column, visit);
    else if (has_pair_products && storage_ == Storage::int16)
      each_tile_of<std::int16_t>(begin, end, columns, column, visit);
    else
      each_tile_of<float>(begin, end, columns, column, visit);
  }

  /// The closer bound of point `row` and point `column` of `columns`. The column asked for next is read ahead, line by
  /// line: all at once, it would keep this pair waiting.
  float refine(std::int64_t row, std::int64_t column, const Filter& columns, std::int64_t next_column) const {
    constexpr int width = lanes<std::int16_t>;
    const auto at = [](const Filter& filter, std::int64_t i) { return &filter.fine_[i * filter.fine_depth_]; };
    const std::int16_t *a = at(*this, row), *b = at(columns, column), *next = at(columns, next_column);
    Vec<std::int32_t> even{}, odd{};
    for (std::int64_t p = 0; p < fine_depth_; p += 2 * width) {
      for (int r = 0; r < 2 * width; r += 32) __builtin_prefetch(next + p + r);
      even = multiply_add_pairs(as_lanes(a + p), as_lanes(b + p), even);
      odd = multiply_add_pairs(as_lanes(a + p + width), as_lanes(b + p + width), odd);
    }
    const float product = static_cast<float>(sum(even + odd)) * (fine_step_[row] * columns.fine_step_[column]);
    return refined.g[row] - (product - columns.refined.g[column]);
  }

 private:
  /// How many 32-bit places a point of d coordinates takes.
  static std::int64_t groups(std::int64_t d, Form form) {
    const std::int64_t stored = form.axes > 0 ? form.axes : d;
    return form.storage == Storage::int8    ? (stored + 3) / 4
           : form.storage == Storage::int16 ? (stored + 1) / 2
                                            : stored;
  }
  static std::int64_t padded(std::int64_t d) {
    constexpr std::int64_t step = 2 * lanes<std::int16_t>;
    return (d + step - 1) / step * step;
  }

  /// What coordinates of type Q are read and summed as: bytes and int16 lie in groups that fill 32 bits.
  template <typename Q>
  using Sum = std::conditional_t<std::is_same_v<Q, float>, float, std::int32_t>;
  template <typename Q>
  using Sums = Vec<Sum<Q>>[kTileRows][kTileVectors];

  /// Where the first coordinate, or group, of a point is; the next is kPanel further.
  template <typename Q>
  const Sum<Q>* at(std::int64_t point) const {
    const std::int64_t place = point / kPanel * depth_ * kPanel + point % kPanel;
    if constexpr (std::is_same_v<Q, float>)
      return &floats_[place];
    else
      return &integers_[place];
  }

  template <typename Q, typename Visit>
  void each_tile_of(std::int64_t begin, std::int64_t end, const Filter& columns, std::int64_t column,
                    Visit visit) const;
  template <typename Q>
  static void add_products(const Sum<Q>* left, const Sum<Q>* right, std::int64_t depth, Sums<Q>& sums);

  Storage storage_;
  std::int64_t depth_;              // coordinates, or groups of as many as fill 32 bits
  Buffer<float> floats_;            // [panel][coordinate][point], or
  Buffer<std::int32_t> integers_;   // [panel][group][point]
  std::vector<float> step_;         // of integers_
  std::vector<std::int32_t> bias_;  // int8: 128 * sum of a point's integers, as one side is unsigned, 128 higher
  std::int64_t fine_depth_;
  Buffer<std::int16_t> fine_;  // [point][coordinate], filled up with zeros; none unless pairs are refined
  std::vector<float> fine_step_;
};

/// The sum of the squares of n numbers, and the largest of their sizes.
inline void measure(const double* y, std::int64_t n, double& square, double& widest) {
  double sum = 0, most = 0;
#pragma omp simd reduction(+ : sum) reduction(max : most)
  for (std::int64_t p = 0; p < n; ++p) {
    sum += y[p] * y[p];
    most = std::max(most, std::abs(y[p]));
  }
  square = sum;
  widest = most;
}

template <typename X>
Filter::Filter(const Points<X>& points, std::int64_t first_, std::int64_t count_, const Frame& frame, Form form,
               Team& team)
    : first(first_),
      count(count_),
      storage_(form.storage),
      depth_(groups(points.d, form)),
      fine_depth_(padded(points.d)) {
  const std::int64_t d = points.d, panels = (count + kPanel - 1) / kPanel;
  const auto places = static_cast<std::size_t>(panels * kPanel);
  const auto fill = [places](Part& part) {
    part.g.assign(places, std::numeric_limits<float>::quiet_NaN());
    part.slack.assign(places, 0.0f);
  };
  // Large arrays are first touched by the threads that fill them; the last panel has places that nobody fills.
  const auto storage_for = [&]<typename Q>(Q) {
    auto values = make_buffer<Q>(places * depth_);
    if (panels > 0) std::fill_n(&values[(panels - 1) * depth_ * kPanel], depth_ * kPanel, Q(0));
    return values;
  };
  fill(tiled);
  if (form.storage == Storage::float32) {
    floats_ = storage_for(float{});
  } else {
    integers_ = storage_for(std::int32_t{});
    step_.assign(places, 0.0f);
  }
  if (form.storage == Storage::int8) bias_.assign(places, 0);
  if (form.refines()) {
    fill(refined);
    fine_ = make_buffer<std::int16_t>(places * fine_depth_);
    fine_step_.assign(places, 0.0f);
  }
  // Float32 coordinates and sums: <y_i, y_j> is off by at most e |y_i| |y_j| <= e (|y_i|^2 + |y_j|^2) / 2. Sums of
  // integers are exact until they become float32.
  const double sum_error = ((form.storage == Storage::float32 ? static_cast<double>(d) : 0.0) + 8) * 0x1p-23;
  // Coordinates along axes have rounding errors of float64, and axes are orthonormal up to theirs.
  constexpr double axes_error = 0x1p-26;

  const std::int64_t batch = form.axes > 0 ? 8 : 1;  // points whose coordinates along the axes are computed together
  team.each(panels, 4, [&](std::int64_t first_panel, std::int64_t last_panel, int) {
    std::vector<double> placed(batch * d), along(batch * form.axes);
    std::vector<std::int8_t> q8(depth_ * 4, 0);
    std::vector<std::int16_t> q16(depth_ * 2, 0);
    const std::int64_t end = std::min(count, last_panel * kPanel);
    for (std::int64_t i = first_panel * kPanel; i < end; ++i) {
      const std::int64_t in_batch = i % batch;
      if (in_batch == 0) {
        const std::int64_t some = std::min(batch, end - i);
        for (std::int64_t b = 0; b < some; ++b) frame.place(points, first + i + b, &placed[b * d]);
        if (form.axes > 0)
          gemm(some, form.axes, d, Strided<double>{placed.data(), d, 1}, frame.axes.data(), Frame::kAxes, along.data(),
               form.axes, false, 1);
      }
      const double* const y = &placed[in_batch * d];
      double square = 0, widest = 0;
      measure(y, d, square, widest);
      const double norm = std::sqrt(square);
      double own = square * sum_error + frame.raw_error * (norm + frame.raw_error);
      if (points.metric == Metric::cosine && points.inverse_norm[first + i] == 0)
        own += frame.scale * frame.scale / 2;  // its distances are 1, not 1/2
      const auto set = [&](Part& part, double lost_to_steps) {
        const double slack = (own + lost_to_steps) * 1.01 + 0x1p-120;
        part.slack[i] = static_cast<float>(slack);
        part.g[i] = static_cast<float>((frame.centred ? square / 2 : 0.0) - slack);
      };
      const std::int64_t place = i / kPanel * depth_ * kPanel + i % kPanel;
      if (form.storage == Storage::float32) {
        for (std::int64_t p = 0; p < d; ++p) floats_[place + p * kPanel] = static_cast<float>(y[p]);
        set(tiled, 0);
        continue;
      }
      // Rounds the coordinates u to multiples of a step; returns what is lost. With e the norm of the error, |<u_i,
      // u_j> - <q_i, q_j>| <= |u_i| e_j + e_i |q_j|, and 2 r e <= b e^2 + r^2 / b splits that into a part of each
      // point; the balance b makes it nearly sharp for the average point.
      const auto round = [&]<typename Q>(const double* u, std::int64_t n, double u_widest, double u_norm, Q* q,
                                         float& step, double balance) {
        step = static_cast<float>(std::max(step_of<Q>(u_widest, u_norm), 0x1p-60));
        const double exactly = step, inverse = 1 / exactly;
        double lost = 0;
#pragma omp simd reduction(+ : lost)
        for (std::int64_t p = 0; p < n; ++p) {
          const double rounded = std::rint(u[p] * inverse);
          q[p] = static_cast<Q>(static_cast<std::int32_t>(rounded));
          lost += (u[p] - rounded * exactly) * (u[p] - rounded * exactly);
        }
        const double size = u_norm + std::sqrt(lost);
        return (balance * lost + size * size / balance) / 2;
      };
      const auto place_groups = [&](const auto* q) {
        constexpr int group = 4 / sizeof *q;
        for (std::int64_t p = 0; p < depth_; ++p) std::memcpy(&integers_[place + p * kPanel], q + p * group, 4);
      };
      if (form.axes > 0) {
        const double* const z = &along[in_batch * form.axes];
        double inside = 0, widest_inside = 0;
        measure(z, form.axes, inside, widest_inside);
        const double outside = std::max(square - inside, 0.0) / 2 + square * axes_error;
        set(tiled, outside + round(z, form.axes, widest_inside, std::sqrt(inside), q16.data(), step_[i],
                                   Frame::kBalanceOfAxes));
        place_groups(q16.data());
      } else if (form.storage == Storage::int16) {
        set(tiled, round(y, d, widest, norm, q16.data(), step_[i], frame.balance16));
        place_groups(q16.data());
      } else {
        set(tiled, round(y, d, widest, norm, q8.data(), step_[i], frame.balance8));
        place_groups(q8.data());
        std::int32_t total = 0;
        for (std::int64_t p = 0; p < d; ++p) total += q8[p];
        bias_[i] = 128 * total;
      }
      if (form.refines()) {
        std::int16_t* const fine = &fine_[i * fine_depth_];
        set(refined, round(y, d, widest, norm, fine, fine_step_[i], frame.balance16));
        std::fill(fine + d, fine + fine_depth_, std::int16_t{0});
      }
    }
  });
}

/// Adds the products of `depth` coordinates or groups.
template <typename Q>
inline void Filter::add_products(const Sum<Q>* left, const Sum<Q>* right, std::int64_t depth, Sums<Q>& sums) {
  Sums<Q> acc;  // in registers
#pragma GCC unroll 8
  for (int a = 0; a < kTileRows; ++a)
#pragma GCC unroll 3
    for (int v = 0; v < kTileVectors; ++v) acc[a][v] = sums[a][v];
  for (std::int64_t p = 0; p < depth; ++p, left += kPanel, right += kPanel) {
    Vec<Sum<Q>> b[kTileVectors];
#pragma GCC unroll 3
    for (int v = 0; v < kTileVectors; ++v) {
      b[v] = load(right + v * lanes<float>);
      if constexpr (sizeof(Q) == 1) b[v] ^= static_cast<std::int32_t>(0x80808080u);  // 128 up, as unsigned
    }
#pragma GCC unroll 8
    for (int a = 0; a < kTileRows; ++a) {
      const Vec<Sum<Q>> value = broadcast(left[a]);
#pragma GCC unroll 3
      for (int v = 0; v < kTileVectors; ++v)
        if constexpr (sizeof(Q) == 1)
          acc[a][v] = multiply_add_bytes(b[v], value, acc[a][v]);
        else if constexpr (sizeof(Q) == 2)
          acc[a][v] = multiply_add_pairs(b[v], value, acc[a][v]);
        else
          acc[a][v] = multiply_add<float>(value, b[v], acc[a][v]);
    }
  }
#pragma GCC unroll 8
  for (int a = 0; a < kTileRows; ++a)
#pragma GCC unroll 3
    for (int v = 0; v < kTileVectors; ++v) sums[a][v] = acc[a][v];
}

template <typename Q, typename Visit>
inline void Filter::each_tile_of(std::int64_t begin, std::int64_t end, const Filter& columns, std::int64_t column,
                                 Visit visit) const {
  constexpr bool integers = !std::is_same_v<Q, float>;
  const Sum<Q>* const right = columns.at<Q>(column);
  Vec<float> g[kTileVectors];
  for (int v = 0; v < kTileVectors; ++v) g[v] = load(&columns.tiled.g[column + v * lanes<float>]);
  const auto start = [&](std::int64_t row, Sums<Q>& sums) {
    const std::int32_t* const bias = sizeof(Q) == 1 ? &bias_[row] : nullptr;
#pragma GCC unroll 8
    for (int a = 0; a < kTileRows; ++a)
#pragma GCC unroll 3
      for (int v = 0; v < kTileVectors; ++v)
        if constexpr (integers)
          sums[a][v] = broadcast(sizeof(Q) == 1 ? -bias[a] : 0);
        else
          sums[a][v] = -g[v];
  };
  Sums<Q> partial[kPanel / kTileRows];
  for (std::int64_t panel = begin; panel < end; panel += kPanel) {
    const Sum<Q>* const left = at<Q>(panel);
    const std::int64_t tiles = (std::min<std::int64_t>(kPanel, end - panel) + kTileRows - 1) / kTileRows;
    std::int64_t done = 0;
    for (; depth_ - done > kDepth; done += kDepth)
      for (std::int64_t t = 0; t < tiles; ++t) {
        if (done == 0) start(panel + t * kTileRows, partial[t]);
        add_products<Q>(left + t * kTileRows + done * kPanel, right + done * kPanel, kDepth, partial[t]);
      }
    for (std::int64_t t = 0; t < tiles; ++t) {
      const std::int64_t row = panel + t * kTileRows;
      Sums<Q> sums;
      if (done == 0)
        start(row, sums);
      else
        std::memcpy(&sums, &partial[t], sizeof sums);
      add_products<Q>(left + t * kTileRows + done * kPanel, right + done * kPanel, depth_ - done, sums);
      Tile tile;
      const float* const row_step = integers ? &step_[row] : nullptr;
#pragma GCC unroll 3
      for (int v = 0; v < kTileVectors; ++v) {
        Vec<float> step{};
        if constexpr (integers) step = load(&columns.step_[column + v * lanes<float>]);
#pragma GCC unroll 8
        for (int a = 0; a < kTileRows; ++a)
          if constexpr (integers)
            tile[a][v] = multiply_add<float>(to_float(sums[a][v]), step * row_step[a], -g[v]);
          else
            tile[a][v] = sums[a][v];
      }
      visit(row, tile);
    }
  }
}

}  // namespace ssdml
