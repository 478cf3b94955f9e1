// A cheap lower bound of the distance of every pair, from a matrix product over register tiles.
//
// Points are centred, scaled to at most 1 and stored as float32, or as int16 or int8 where the processor multiplies
// those two or four times as fast. With y the stored coordinates,
//
//   bound(i, j) = g_i + g_j - <y_i, y_j>   <=   v(i, j)   <=   bound(i, j) + 2 (slack_i + slack_j)
//
// where v is half the squared distance (or minus the inner product) of the points themselves in the scaled coordinates.
// The slack covers every rounding there is: of coordinates to what is stored, and of float32 sums.
//
// A register tile is kTileRows points against kTileVectors vectors of points. Points lie in panels of kPanel,
// coordinate by coordinate, so that one layout serves both sides of the product whatever the width of a vector.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <vector>

#include "knn_points.h"
#include "simd.h"

namespace ssdml {

/// What coordinates are stored as: the narrower, the faster and the coarser.
enum class Storage { float32, int16, int8 };

/// The coordinates in which bounds are computed, shared by all filters that are compared with each other.
struct Frame {
  Storage storage = Storage::float32;
  double unit;      // v = unit * squared distance (of unit vectors for cosine), or unit * minus inner product
  double rounding;  // absolute error of exact distances, and of their rounding to T, in the units of v
  bool centred;
  std::vector<double> centre;
  double scale;
  double spread = 0, farthest = 0, longest = 0;  // largest centred coordinate, raw coordinate, centred squared norm
  double quantum = 1;                            // stored integers are multiples of it
  double rho = 1;                                // see Filter

  template <typename T>
  Frame(std::initializer_list<const Points<T>*> sets, int num_threads);

  void store_as(Storage storage_);

  /// A float32 limit that no v exceeds whose exact distance rounds to that of `v`, with room for float32 sums.
  float limit(double v) const { return static_cast<float>(v + std::abs(v) * 0x1p-20 + rounding); }

 private:
  double mean_square_ = 0;
};

template <typename T>
Frame::Frame(std::initializer_list<const Points<T>*> sets, int num_threads) {
  const Points<T>& some = **(sets.end() - 1);
  const std::int64_t d = some.d;
  centred = some.metric != Metric::inner_product;
  centre.assign(d, 0.0);  // any centre will do: that of a sample is nearly the best
  const std::int64_t stride = std::max<std::int64_t>(1, some.n / 1024);
  if (centred) {
    for (std::int64_t i = 0; i < some.n; i += stride)
      for (std::int64_t p = 0; p < d; ++p) centre[p] += static_cast<double>(some.row(i)[p]) * some.factor(i);
    for (double& c : centre) c /= static_cast<double>((some.n + stride - 1) / stride);
  }
  std::int64_t count = 0;
  double widest = 0, highest = 0, largest = 0, total = 0;
  for (const Points<T>* points : sets) {
    count += points->n;
#pragma omp parallel for num_threads(num_threads) reduction(max : widest, highest, largest) reduction(+ : total)
    for (std::int64_t i = 0; i < points->n; ++i) {
      const T* row = points->row(i);
      const double factor = points->factor(i);
      double square = 0;
#pragma omp simd reduction(+ : square) reduction(max : widest, highest)
      for (std::int64_t p = 0; p < d; ++p) {
        const double raw = static_cast<double>(row[p]) * factor, value = raw - centre[p];
        widest = std::max(widest, std::abs(value));
        highest = std::max(highest, std::abs(raw));
        square += value * value;
      }
      largest = std::max(largest, square);
      total += square;
    }
  }
  spread = widest, farthest = highest, longest = largest;
  // A power of two, so that scaling does not round; not so large that its square overflows.
  scale = spread > 0 ? std::exp2(std::min(-std::ceil(std::log2(spread)), 500.0)) : 1.0;
  mean_square_ = total * scale * scale / static_cast<double>(std::max<std::int64_t>(count, 1));
  unit = centred ? scale * scale / 2 : scale * scale;
  rounding = unit * (static_cast<double>(d) + 4) * static_cast<double>(std::numeric_limits<T>::denorm_min());
}

inline void Frame::store_as(Storage storage_) {
  storage = storage_;
  if (storage == Storage::float32) return;
  // Sums of integer products are at most the product of the norms: 46,000 squared fits 32 bits, and so do 2^16 * 2^14.
  const double finest = storage == Storage::int8 ? spread / 127 : std::max(std::sqrt(longest) / 46000, spread / 32767);
  quantum = std::max(finest * scale, 0x1p-60);
  const double lost = static_cast<double>(centre.size()) * quantum * quantum / 12;  // of a point, on average
  rho = std::max(std::sqrt(mean_square_ / lost), 0x1p-60);
}

/// The points [first, first + count) of a set.
class Filter {
 public:
  static constexpr int kTileVectors = 3;
  static constexpr int kTileRows = vector_registers == 32 ? 8 : 4;
  static constexpr int kTileColumns = kTileVectors * lanes<float>;
  static constexpr int kPanel = 48;
  static_assert(kPanel % kTileColumns == 0 && kPanel % kTileRows == 0);

  using Tile = Vec<float>[kTileRows][kTileVectors];

  std::int64_t first, count;
  std::vector<float> g, slack;  // NaN and 0 in the places that fill up the last panel

  template <typename T>
  Filter(const Points<T>& points, std::int64_t first_, std::int64_t count_, const Frame& frame, int num_threads);

  /// Bytes that a point of d coordinates takes.
  static std::int64_t bytes_per_point(std::int64_t d, Storage storage) { return groups(d, storage) * 4 + 8; }

  /// tile[a][.] = <y_(row + a), y_j> - g_j for the kTileColumns points j of `columns` from `column` on. Both are
  /// numbered from the first point of their filter and lie on a tile.
  void products(std::int64_t row, const Filter& columns, std::int64_t column, Tile& tile) const {
    if (has_integer_products && storage_ == Storage::int8)
      integer_products<std::int8_t>(row, columns, column, tile);
    else if (has_integer_products && storage_ == Storage::int16)
      integer_products<std::int16_t>(row, columns, column, tile);
    else
      float_products(row, columns, column, tile);
  }

 private:
  static std::int64_t groups(std::int64_t d, Storage storage) {
    return storage == Storage::int8 ? (d + 3) / 4 : storage == Storage::int16 ? (d + 1) / 2 : d;
  }

  void float_products(std::int64_t row, const Filter& columns, std::int64_t column, Tile& tile) const;
  template <typename Q>
  void integer_products(std::int64_t row, const Filter& columns, std::int64_t column, Tile& tile) const;

  Storage storage_;
  std::int64_t depth_;                // coordinates, or groups of as many as fill 32 bits
  std::vector<float> y_;              // [panel][coordinate][point], or
  std::vector<std::int32_t> groups_;  // [panel][group][point]
  std::vector<std::int32_t> bias_;    // int8: 128 * sum of a point's coordinates, as one side is unsigned, 128 higher
  float quantum_square_;              // <y_i, y_j> = quantum_square_ * <q_i, q_j>
};

template <typename T>
Filter::Filter(const Points<T>& points, std::int64_t first_, std::int64_t count_, const Frame& frame, int num_threads)
    : first(first_),
      count(count_),
      storage_(frame.storage),
      depth_(groups(points.d, frame.storage)),
      quantum_square_(static_cast<float>(frame.quantum * frame.quantum)) {
  const std::int64_t d = points.d, panels = (count + kPanel - 1) / kPanel;
  const double scale = frame.scale, quantum = frame.quantum;
  const std::int64_t group = storage_ == Storage::int8 ? 4 : storage_ == Storage::int16 ? 2 : 1;
  if (storage_ == Storage::float32)
    y_.assign(static_cast<std::size_t>(panels * depth_ * kPanel), 0.0f);
  else
    groups_.assign(static_cast<std::size_t>(panels * depth_ * kPanel), 0);
  if (storage_ == Storage::int8) bias_.assign(static_cast<std::size_t>(panels * kPanel), 0);
  g.assign(static_cast<std::size_t>(panels * kPanel), std::numeric_limits<float>::quiet_NaN());
  slack.assign(g.size(), 0.0f);

  // Float32 coordinates and sums: <y_i, y_j> is off by at most e |y_i| |y_j| <= e (|y_i|^2 + |y_j|^2) / 2.
  // Raw coordinates are off by 2^-52 of their size, from dividing by norms and subtracting the centre.
  const double sum_error = (static_cast<double>(d) + 8) * 0x1p-23;
  const double raw_error = frame.farthest * scale * 0x1p-51 * std::sqrt(static_cast<double>(d));
#pragma omp parallel num_threads(num_threads)
  {
    std::vector<double> y(d);
    std::vector<std::int32_t> q(depth_ * group, 0);
#pragma omp for
    for (std::int64_t i = 0; i < count; ++i) {
      const T* row = points.row(first + i);
      const std::int64_t place = i / kPanel * depth_ * kPanel + i % kPanel;
      const double factor = points.factor(first + i);
      double square = 0, lost = 0;  // |y_i|^2, and |y_i - stored y_i|^2 of integers
#pragma omp simd reduction(+ : square)
      for (std::int64_t p = 0; p < d; ++p) {
        y[p] = (static_cast<double>(row[p]) * factor - frame.centre[p]) * scale;
        square += y[p] * y[p];
      }
      double own = square * sum_error + raw_error * (std::sqrt(square) + raw_error);
      if (storage_ == Storage::float32) {
        for (std::int64_t p = 0; p < d; ++p) y_[place + p * kPanel] = static_cast<float>(y[p]);
      } else {
        std::int32_t total = 0;
#pragma omp simd reduction(+ : lost, total)
        for (std::int64_t p = 0; p < d; ++p) {
          const double rounded = std::rint(y[p] / quantum);
          q[p] = static_cast<std::int32_t>(rounded);
          total += q[p];
          lost += (y[p] - rounded * quantum) * (y[p] - rounded * quantum);
        }
        const auto part = [&](std::int64_t p, int bits, int shift) {
          return static_cast<std::int32_t>((static_cast<std::uint32_t>(q[p]) & ((1u << bits) - 1)) << shift);
        };
        if (storage_ == Storage::int16)
          for (std::int64_t p = 0; p < depth_; ++p)
            groups_[place + p * kPanel] = part(2 * p, 16, 0) | part(2 * p + 1, 16, 16);
        else
          for (std::int64_t p = 0; p < depth_; ++p)
            groups_[place + p * kPanel] =
                part(4 * p, 8, 0) | part(4 * p + 1, 8, 8) | part(4 * p + 2, 8, 16) | part(4 * p + 3, 8, 24);
        if (storage_ == Storage::int8) bias_[i] = total * 128;
        // |<y_i, y_j> - <q_i, q_j>| <= |y_i| e_j + e_i |q_j|, and 2 r e <= rho e^2 + r^2 / rho splits that into a part
        // of each point; the frame's rho makes it nearly sharp for points of average size.
        const double size = std::sqrt(square) + std::sqrt(lost);
        own += (frame.rho * lost + size * size / frame.rho) / 2;
      }
      if (points.metric == Metric::cosine && points.inverse_norm[first + i] == 0)
        own += scale * scale / 2;  // its distances are 1, not 1/2
      own = own * 1.01 + 0x1p-120;
      slack[i] = static_cast<float>(own);
      g[i] = static_cast<float>((frame.centred ? square / 2 : 0.0) - own);
    }
  }
}

inline void Filter::float_products(std::int64_t row, const Filter& columns, std::int64_t column, Tile& tile) const {
  const float* left = &y_[row / kPanel * depth_ * kPanel + row % kPanel];
  const float* right = &columns.y_[column / kPanel * depth_ * kPanel + column % kPanel];
  Vec<float> acc[kTileRows][kTileVectors];
#pragma GCC unroll 8
  for (int a = 0; a < kTileRows; ++a)
#pragma GCC unroll 3
    for (int v = 0; v < kTileVectors; ++v) acc[a][v] = -load(&columns.g[column + v * lanes<float>]);
  for (std::int64_t p = 0; p < depth_; ++p, left += kPanel, right += kPanel) {
    Vec<float> b[kTileVectors];
#pragma GCC unroll 3
    for (int v = 0; v < kTileVectors; ++v) b[v] = load(right + v * lanes<float>);
#pragma GCC unroll 8
    for (int a = 0; a < kTileRows; ++a) {
      const Vec<float> value = broadcast(left[a]);
#pragma GCC unroll 3
      for (int v = 0; v < kTileVectors; ++v) acc[a][v] = multiply_add<float>(value, b[v], acc[a][v]);
    }
  }
#pragma GCC unroll 8
  for (int a = 0; a < kTileRows; ++a)
#pragma GCC unroll 3
    for (int v = 0; v < kTileVectors; ++v) tile[a][v] = acc[a][v];
}

template <typename Q>
inline void Filter::integer_products(std::int64_t row, const Filter& columns, std::int64_t column, Tile& tile) const {
  constexpr bool bytes = sizeof(Q) == 1;
  const std::int32_t* left = &groups_[row / kPanel * depth_ * kPanel + row % kPanel];
  const std::int32_t* right = &columns.groups_[column / kPanel * depth_ * kPanel + column % kPanel];
  Vec<std::int32_t> acc[kTileRows][kTileVectors];
#pragma GCC unroll 8
  for (int a = 0; a < kTileRows; ++a)
#pragma GCC unroll 3
    for (int v = 0; v < kTileVectors; ++v) acc[a][v] = broadcast(bytes ? -bias_[row + a] : 0);
  for (std::int64_t p = 0; p < depth_; ++p, left += kPanel, right += kPanel) {
    Vec<std::int32_t> b[kTileVectors];
#pragma GCC unroll 3
    for (int v = 0; v < kTileVectors; ++v) {
      b[v] = load(right + v * lanes<float>);
      if (bytes) b[v] ^= static_cast<std::int32_t>(0x80808080u);  // 128 up, as unsigned
    }
#pragma GCC unroll 8
    for (int a = 0; a < kTileRows; ++a) {
      const Vec<std::int32_t> value = broadcast(left[a]);
#pragma GCC unroll 3
      for (int v = 0; v < kTileVectors; ++v)
        acc[a][v] = bytes ? multiply_add_bytes(b[v], value, acc[a][v]) : multiply_add_pairs(b[v], value, acc[a][v]);
    }
  }
  const Vec<float> quantum_square = broadcast(quantum_square_);
#pragma GCC unroll 8
  for (int a = 0; a < kTileRows; ++a)
#pragma GCC unroll 3
    for (int v = 0; v < kTileVectors; ++v)
      tile[a][v] =
          multiply_add<float>(to_float(acc[a][v]), quantum_square, -load(&columns.g[column + v * lanes<float>]));
}

}  // namespace ssdml
