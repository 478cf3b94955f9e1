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
#include <limits>
#include <vector>

#include "knn_points.h"
#include "simd.h"

namespace ssdml {

/// What the coordinates of a filter are stored as: the narrower, the faster and the coarser.
enum class Storage { float32, int16, int8 };

class Filter {
 public:
  static constexpr int kTileVectors = 3;
  static constexpr int kTileRows = vector_registers == 32 ? 8 : 4;
  static constexpr int kTileColumns = kTileVectors * lanes<float>;
  static constexpr int kPanel = 48;
  static_assert(kPanel % kTileColumns == 0 && kPanel % kTileRows == 0);

  using Tile = Vec<float>[kTileRows][kTileVectors];

  double unit;      // v = unit * squared distance (of unit vectors for cosine), or unit * minus inner product
  double rounding;  // absolute error of exact distances, and of their rounding to T, in the units of v
  std::vector<float> g, slack;  // NaN and 0 in the places that fill up the last panel

  template <typename T>
  Filter(const Points<T>& points, Storage storage, int num_threads);

  /// Whether bounds are so coarse that rows have several times k undecided candidates.
  bool coarse() const { return storage_ == Storage::int8; }

  /// A float32 limit that no v exceeds whose exact distance rounds to that of `v`, with room for float32 sums.
  float limit(double v) const { return static_cast<float>(v + std::abs(v) * 0x1p-20 + rounding); }

  /// tile[a][.] = <y_(row + a), y_j> - g_j for the kTileColumns points j from `column` on. Both starts lie on a tile.
  void products(std::int64_t row, std::int64_t column, Tile& tile) const {
    if (has_integer_products && storage_ == Storage::int8)
      integer_products<std::int8_t>(row, column, tile);
    else if (has_integer_products && storage_ == Storage::int16)
      integer_products<std::int16_t>(row, column, tile);
    else
      float_products(row, column, tile);
  }

 private:
  void float_products(std::int64_t row, std::int64_t column, Tile& tile) const;
  template <typename Q>
  void integer_products(std::int64_t row, std::int64_t column, Tile& tile) const;

  Storage storage_;
  std::int64_t depth_;                // coordinates, or groups of as many as fill 32 bits
  std::vector<float> y_;              // [panel][coordinate][point]
  std::vector<std::int32_t> groups_;  // [panel][group][point], or
  std::vector<std::int32_t>
      bias_;                  // int8: 128 * sum of a point's coordinates; products take one side as unsigned, 128 up
  float quantum_square_ = 1;  // <y_i, y_j> = quantum_square_ * <q_i, q_j>
};

template <typename T>
Filter::Filter(const Points<T>& points, Storage storage, int num_threads) : storage_(storage) {
  const std::int64_t n = points.n, d = points.d;
  const bool centred = points.metric != Metric::inner_product, cosine = points.metric == Metric::cosine;
  const auto factor = [&](std::int64_t i) { return cosine ? points.inverse_norm[i] : 1.0; };

  std::vector<double> centre(d, 0.0);  // any centre will do: that of a sample is nearly the best
  const std::int64_t stride = std::max<std::int64_t>(1, n / 1024);
  if (centred) {
    for (std::int64_t i = 0; i < n; i += stride)
      for (std::int64_t p = 0; p < d; ++p) centre[p] += static_cast<double>(points.row(i)[p]) * factor(i);
    for (double& c : centre) c /= static_cast<double>((n + stride - 1) / stride);
  }
  double spread = 0, farthest = 0, longest = 0;  // largest centred coordinate, raw coordinate, centred squared norm
#pragma omp parallel for num_threads(num_threads) reduction(max : spread, farthest, longest)
  for (std::int64_t i = 0; i < n; ++i) {
    const T* row = points.row(i);
    const double f = factor(i);
    double square = 0;
#pragma omp simd reduction(+ : square) reduction(max : spread, farthest)
    for (std::int64_t p = 0; p < d; ++p) {
      const double raw = static_cast<double>(row[p]) * f, value = raw - centre[p];
      spread = std::max(spread, std::abs(value));
      farthest = std::max(farthest, std::abs(raw));
      square += value * value;
    }
    longest = std::max(longest, square);
  }
  // A power of two, so that scaling does not round; not so large that its square overflows.
  const double scale = spread > 0 ? std::exp2(std::min(-std::ceil(std::log2(spread)), 500.0)) : 1.0;
  // Sums of integer products are at most the product of the norms: 46,000 squared fits 32 bits, and so do 2^16 * 2^14.
  const double quantum =
      std::max(scale * (storage == Storage::int8 ? spread / 127 : std::max(std::sqrt(longest) / 46000, spread / 32767)),
               0x1p-60);
  quantum_square_ = static_cast<float>(quantum * quantum);

  const std::int64_t panels = (n + kPanel - 1) / kPanel;
  const std::int64_t group = storage == Storage::int8 ? 4 : storage == Storage::int16 ? 2 : 1;
  depth_ = (d + group - 1) / group;
  if (storage == Storage::float32)
    y_.assign(static_cast<std::size_t>(panels * depth_ * kPanel), 0.0f);
  else
    groups_.assign(static_cast<std::size_t>(panels * depth_ * kPanel), 0);
  bias_.assign(static_cast<std::size_t>(storage == Storage::int8 ? panels * kPanel : 0), 0);
  g.assign(static_cast<std::size_t>(panels * kPanel), std::numeric_limits<float>::quiet_NaN());
  slack.assign(g.size(), 0.0f);
  unit = centred ? scale * scale / 2 : scale * scale;
  rounding = unit * (static_cast<double>(d) + 4) * static_cast<double>(std::numeric_limits<T>::denorm_min());

  // Float32 coordinates and sums: <y_i, y_j> is off by at most e |y_i| |y_j| <= e (|y_i|^2 + |y_j|^2) / 2.
  // Raw coordinates are off by 2^-52 of their size, from dividing by norms and subtracting the centre.
  const double sum_error = (static_cast<double>(d) + 8) * 0x1p-23;
  const double raw_error = farthest * scale * 0x1p-51 * std::sqrt(static_cast<double>(d));
  std::vector<double> square(n), lost(n);  // |y_i|^2, and |y_i - stored y_i|^2 of integers
  double squares = 0, losses = 0;
#pragma omp parallel num_threads(num_threads)
  {
    std::vector<double> y(d);
    std::vector<std::int32_t> q(depth_ * group, 0);
#pragma omp for
    for (std::int64_t i = 0; i < n; ++i) {
      const T* row = points.row(i);
      const std::int64_t place = i / kPanel * depth_ * kPanel + i % kPanel;
      const double f = factor(i);
      double sum = 0;
#pragma omp simd reduction(+ : sum)
      for (std::int64_t p = 0; p < d; ++p) {
        y[p] = (static_cast<double>(row[p]) * f - centre[p]) * scale;
        sum += y[p] * y[p];
      }
      square[i] = sum;
      if (storage == Storage::float32) {
        for (std::int64_t p = 0; p < d; ++p) y_[place + p * kPanel] = static_cast<float>(y[p]);
        continue;
      }
      double loss = 0;
      std::int32_t total = 0;
#pragma omp simd reduction(+ : loss, total)
      for (std::int64_t p = 0; p < d; ++p) {
        const double rounded = std::rint(y[p] / quantum);
        q[p] = static_cast<std::int32_t>(rounded);
        total += q[p];
        loss += (y[p] - rounded * quantum) * (y[p] - rounded * quantum);
      }
      lost[i] = loss;
      if (storage == Storage::int16) {
        for (std::int64_t p = 0; p < depth_; ++p)
          groups_[place + p * kPanel] =
              (q[2 * p] & 0xffff) | static_cast<std::int32_t>(static_cast<std::uint32_t>(q[2 * p + 1]) << 16);
      } else {
        for (std::int64_t p = 0; p < depth_; ++p)
          groups_[place + p * kPanel] = (q[4 * p] & 0xff) | (q[4 * p + 1] & 0xff) << 8 | (q[4 * p + 2] & 0xff) << 16 |
                                        static_cast<std::int32_t>(static_cast<std::uint32_t>(q[4 * p + 3]) << 24);
        bias_[i] = total * 128;
      }
    }
  }
  for (std::int64_t i = 0; i < n; ++i) squares += square[i], losses += lost[i];
  // Integers: |<y_i, y_j> - <q_i, q_j>| <= |y_i| e_j + e_i |q_j|, and 2 r e <= rho e^2 + r^2 / rho splits that into a
  // part of each point; rho makes it nearly sharp for points of average size.
  const double rho = losses > 0 ? std::sqrt(squares / losses) : 1.0;
  for (std::int64_t i = 0; i < n; ++i) {
    double own = square[i] * sum_error + raw_error * (std::sqrt(square[i]) + raw_error);
    if (storage != Storage::float32) {
      const double size = std::sqrt(square[i]) + std::sqrt(lost[i]);
      own += (rho * lost[i] + size * size / rho) / 2;
    }
    if (cosine && points.inverse_norm[i] == 0) own += scale * scale / 2;  // its distances are 1, not 1/2
    own = own * 1.01 + 0x1p-120;
    slack[i] = static_cast<float>(own);
    g[i] = static_cast<float>((centred ? square[i] / 2 : 0.0) - own);
  }
}

inline void Filter::float_products(std::int64_t row, std::int64_t column, Tile& tile) const {
  const float* rows = &y_[row / kPanel * depth_ * kPanel + row % kPanel];
  const float* columns = &y_[column / kPanel * depth_ * kPanel + column % kPanel];
  Vec<float> acc[kTileRows][kTileVectors];
#pragma GCC unroll 8
  for (int a = 0; a < kTileRows; ++a)
#pragma GCC unroll 3
    for (int v = 0; v < kTileVectors; ++v) acc[a][v] = -load(&g[column + v * lanes<float>]);
  for (std::int64_t p = 0; p < depth_; ++p, rows += kPanel, columns += kPanel) {
    Vec<float> b[kTileVectors];
#pragma GCC unroll 3
    for (int v = 0; v < kTileVectors; ++v) b[v] = load(columns + v * lanes<float>);
#pragma GCC unroll 8
    for (int a = 0; a < kTileRows; ++a) {
      const Vec<float> value = broadcast(rows[a]);
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
inline void Filter::integer_products(std::int64_t row, std::int64_t column, Tile& tile) const {
  constexpr bool bytes = sizeof(Q) == 1;
  const std::int32_t* rows = &groups_[row / kPanel * depth_ * kPanel + row % kPanel];
  const std::int32_t* columns = &groups_[column / kPanel * depth_ * kPanel + column % kPanel];
  Vec<std::int32_t> acc[kTileRows][kTileVectors];
#pragma GCC unroll 8
  for (int a = 0; a < kTileRows; ++a)
#pragma GCC unroll 3
    for (int v = 0; v < kTileVectors; ++v) acc[a][v] = broadcast(bytes ? -bias_[row + a] : 0);
  for (std::int64_t p = 0; p < depth_; ++p, rows += kPanel, columns += kPanel) {
    Vec<std::int32_t> b[kTileVectors];
#pragma GCC unroll 3
    for (int v = 0; v < kTileVectors; ++v) {
      b[v] = load(columns + v * lanes<float>);
      if (bytes) b[v] ^= static_cast<std::int32_t>(0x80808080u);  // 128 up, as unsigned
    }
#pragma GCC unroll 8
    for (int a = 0; a < kTileRows; ++a) {
      const Vec<std::int32_t> value = broadcast(rows[a]);
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
      tile[a][v] = multiply_add<float>(to_float(acc[a][v]), quantum_square, -load(&g[column + v * lanes<float>]));
}

}  // namespace ssdml
