// Which pairs may be among the k nearest, by products on tensor cores: filter.h for CUDA. Only knn_graph.cu
// includes it.
//
// Points are centred, scaled and stored as float16. With y the stored coordinates,
//
//   g_i + g_j - <y_i, y_j>   is within slack_i + slack_j of   v(i, j),
//
// half the squared distance (or minus the inner product, or 1 - cosine) of the points in the scaled coordinates, as the
// exact kernels compute it. The slack covers every rounding there is: that of coordinates, measured point by point, of
// the sums on tensor cores and of float32. A row keeps the pairs whose lower bound does not exceed its k-th smallest
// upper bound so far, and a pair of points of the same set is visited once, for both rows.
//
// Points of a segment stand in an order that looks random, in blocks of kBlock or a little less, on a ring. Each block
// is compared with those at offsets 0, 1, ... up to half way round, in rounds: after each, every row has seen up to
// three times as many points as before, all of them alike, so that about 2 k more pass. Candidates are appended in any
// order and selected between rounds; what is kept depends on the set alone. A row that gets more than it has room for
// is left to the exact kernels: where many are equally far, or by less than the slack, which is about 2^-12 of a
// point's squared distance from the centre.
//
// Arithmetic for 100,000 x 128, k = 10 on an H100, which expects but has not measured: 5e9 pairs are 1.3e12 operations,
// 2 ms at the 600 T/s that mma.sync may reach, and 3 ms where shared memory holds it up; both sides of each pair apart
// would be twice that, and differences in float32 90 ms at their peak. Tiles read 20 GB from the second-level cache, 4
// ms unless hidden. Looking at both ends of a pair takes four instructions, 1 ms. What it costs to serve both: some 150
// candidates a row, appended by atomics, 15 million of 8 bytes.
#pragma once

#include <cuda_pipeline.h>

#include <cmath>
#include <limits>
#include <vector>

#include "common/halves.h"
#include "cuda/launch.h"
#include "cuda/tensor.h"
#include "knn_graph/knn_graph.h"

namespace ssdml::cuda::knn {

// ---- segments, blocks and the ring ----------------------------------------------------------------------------------

constexpr int kBlock = 128;  // points on either side of a tile

/// Points split into segments, all of them one if `ptr` is null.
struct Segments {
  const std::int64_t* ptr;
  std::int64_t count, n;

  __device__ std::int64_t begin(std::int64_t s) const { return ptr ? ptr[s] : 0; }
  __device__ std::int64_t size(std::int64_t s) const { return ptr ? ptr[s + 1] - ptr[s] : n; }

  /// The last segment s with f(s) <= i.
  template <typename F>
  __device__ std::int64_t last(std::int64_t i, F f) const {
    std::int64_t low = 0, high = count;
    while (high - low > 1) {
      const std::int64_t middle = low + (high - low) / 2;
      (f(middle) <= i ? low : high) = middle;
    }
    return low;
  }
  /// The segment that holds point i.
  __device__ std::int64_t of(std::int64_t i) const {
    return ptr ? last(i, [this](std::int64_t s) { return ptr[s]; }) : 0;
  }

  /// Blocks of segment s are numbered from first_block(s) on; not all numbers are taken.
  __device__ std::int64_t first_block(std::int64_t s) const { return begin(s) / kBlock + s; }
  std::int64_t most_blocks() const { return n / kBlock + count; }
};

/// The blocks of one segment: as few as can be, of which the first `longer` have a point more than the others.
struct Ring {
  std::int64_t begin;
  int blocks, shortest, longer;

  __device__ Ring(const Segments& segments, std::int64_t s) : begin(segments.begin(s)) {
    const std::int64_t size = segments.size(s);
    blocks = static_cast<int>(ceil_div(size, kBlock));
    shortest = blocks > 0 ? static_cast<int>(size / blocks) : 0;
    longer = static_cast<int>(size - std::int64_t{blocks} * shortest);
  }
  /// The place of a block's first point in its segment.
  __device__ std::int64_t first(int block) const { return std::int64_t{block} * shortest + min(block, longer); }
  __device__ int length(int block) const { return shortest + (block < longer); }
};

/// The point at a place of a segment: an order that looks random, lest the order of the points be that of their
/// distances. Steps that permute the numbers of as many bits, until one is less than the size.
__device__ inline std::int64_t point_at(std::int64_t place, std::int64_t size) {
  int bits = 0;
  while (size > std::int64_t{1} << bits) ++bits;
  const auto mask = (std::uint64_t{1} << bits) - 1;
  const int shift = bits / 2 + 1;
  auto at = static_cast<std::uint64_t>(place);
  do {
    at = at * 0x9e3779b97f4a7c15u & mask;
    at ^= at >> shift;
    at = at * 0xd1b54a32d192ed03u & mask;
    at ^= at >> shift;
  } while (at >= static_cast<std::uint64_t>(size));
  return static_cast<std::int64_t>(at);
}

// ---- points as float16 ----------------------------------------------------------------------------------------------

constexpr int kSlice = 64;  // coordinates that are loaded at a time, 128 bytes of a point

constexpr float kLargest = std::numeric_limits<float>::max();

/// A pair that may be near: an upper bound of its v, less the row's own terms, and the other point's place in its
/// segment.
struct Candidate {
  float most;
  std::uint32_t place;
};

/// Points of one set, by place, and, if they are rows, what each has so far.
struct Side {
  Segments segments;
  float16* y;        // (n + kBlock, slices * kSlice), the last block unused
  float *g, *slack;  // (n)
  float* limit;      // (n): pairs are kept while g_j - slack_j - <y_i, y_j> is no more; -inf after an overflow
  unsigned* count;   // (n): of `kept`; beyond the capacity after an overflow
  Candidate* kept;   // (n, capacity)
};

/// What all points are compared by.
struct Frame {
  double* centre;   // (d)
  double* largest;  // coordinate once centred
  std::int64_t d, slices;
  Metric metric;

  /// A power of two that brings coordinates below 2^15.
  __device__ double scale() const { return *largest > 0 ? ldexp(1.0, min(14 - ilogb(*largest), 1000)) : 1.0; }
  /// How far apart v of two pairs may be, in scaled coordinates, whose distances, as small as they may be, round to the
  /// same number of type T.
  template <typename T>
  __device__ double rounding() const {
    double root = sizeof(T) == 4 ? 0x1p-74 : sqrt(static_cast<double>(d) + 4) * 0x1p-537;
    if (metric == Metric::euclidean) root = sizeof(T) == 4 ? 0x1p-137 : 0x1p-1048;
    return root * scale() * (root * scale());
  }
};

constexpr int kSample = 64;  // points whose mean is the centre

/// A coordinate, 0 for those of a vector without a direction (see unit_rows).
template <typename C>
__device__ double coordinate(C value) {
  const auto x = static_cast<double>(value);
  return isnan(x) ? 0.0 : x;
}

template <typename C>
__global__ void find_centre(const C* x, std::int64_t n, Frame frame) {
  for (std::int64_t p = thread_id(); p < frame.d; p += thread_count()) {
    double sum = 0;
    const std::int64_t count = n < kSample ? n : kSample;
    for (std::int64_t s = 0; s < count; ++s) sum += coordinate(x[s * n / count * frame.d + p]) / kSample;
    frame.centre[p] = sum * kSample / static_cast<double>(count);
  }
}

/// Not much less than coordinates of the centre either, so that these fit float32 too.
template <typename C>
__global__ void find_largest(const C* x, std::int64_t n, Frame frame) {
  double largest = 0;
  for (std::int64_t e = thread_id(); e < n * frame.d; e += thread_count()) {
    const double centre = frame.centre[e % frame.d];
    largest = fmax(largest, fmax(fabs(coordinate(x[e]) - centre), fabs(centre) * 0x1p-30));
  }
  raise_to(frame.largest, largest);
}

/// The nearest float16 to a number below 2^15; 0 for those that would be subnormal.
__device__ inline float16 to_half(float value) {
  const auto bits = detail::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = ((bits & 0x7fffffffu) + 0x1000u) >> 13;
  const std::uint32_t magnitude = rounded < 113u << 10 ? 0 : rounded - (112u << 10);
  return {static_cast<std::uint16_t>(bits >> 16 & 0x8000u | magnitude)};
}

/// Puts points into their places; one warp each.
template <typename C>
__global__ void place_points(const C* x, Frame frame, Side side, bool are_rows) {
  // |<r_i, z_j>| <= (balance |r_i|^2 + |z_j|^2 / balance) / 2 for what rounding takes from z, which is about |z| /
  // 2^12.
  constexpr double balance = 0x1p12;
  const double scale = frame.scale();
  const std::int64_t width = frame.slices * kSlice;
  const double summing = 2 * kTensorRounding * static_cast<double>(width + width / 16 + 16);
  for (std::int64_t i = warp_id(); i < side.segments.n; i += warp_count()) {
    const std::int64_t s = side.segments.of(i), begin = side.segments.begin(s);
    const C* const row = x + (begin + point_at(i - begin, side.segments.size(s))) * frame.d;
    double lost = 0, before = 0, after = 0, centres = 0, product = 0;  // |r|^2, |z|^2, |y|^2, |c|^2, <c, x>
    bool has_direction = true;
    for (std::int64_t p = lane_id(); p < width; p += kWarp) {
      float16 stored{};
      if (p < frame.d) {
        has_direction = has_direction && !isnan(static_cast<double>(row[p]));
        const double value = coordinate(row[p]), centre = frame.centre[p];
        const double z = (value - centre) * scale;
        stored = to_half(static_cast<float>(z));
        const auto y = static_cast<double>(stored);
        lost += (z - y) * (z - y);
        before += z * z;
        after += y * y;
        centres += centre * scale * (centre * scale);
        product += centre * scale * (value * scale);
      }
      side.y[i * width + p] = stored;
    }
    lost = sum_of_warp(lost), before = sum_of_warp(before), after = sum_of_warp(after);
    centres = sum_of_warp(centres), product = sum_of_warp(product);
    const bool directed = __ballot_sync(kAllLanes, !has_direction) == 0;
    if (lane_id() != 0) continue;
    double g = before / 2;  // of unit vectors too, for which v is 1 - cosine
    if (frame.metric == Metric::inner_product) g = centres / 2 - product;
    if (!directed) g = (scale * scale + centres) / 2;  // so that it is 1 from all others
    const double square = fmax(before, after);
    const double slack = (balance * lost + (1 / balance + summing) * square) / 2 + 0x1p-20 * (square + fabs(g));
    side.g[i] = static_cast<float>(g);
    side.slack[i] = static_cast<float>((slack + 0x1p-60) * (1 + 0x1p-20));
    if (!are_rows) continue;
    side.limit[i] = kLargest;
    side.count[i] = 0;
  }
}

// ---- tiles ----------------------------------------------------------------------------------------------------------

constexpr int kThreads = 256;
constexpr int kStages = 3;                                  // slices of both sides that are loaded or on their way
constexpr int kSliceBytes = kSlice * 2;                     // of a point,
constexpr int kSideBytes = kBlock * kSliceBytes;            // of a block,
constexpr int kStageBytes = 2 * kSideBytes;                 // of both
constexpr int kChunk = 16, kChunks = kSliceBytes / kChunk;  // what a thread copies at once
constexpr int kOffsetsAtOnce = 4;                           // tiles of a block of threads
constexpr int kWarpRows = 64, kWarpColumns = 32;            // of a tile, for a warp
constexpr int kRowTiles = kWarpRows / 16, kColumnTiles = kWarpColumns / 8;
static_assert(kThreads / kWarp * kWarpRows * kWarpColumns == kBlock * kBlock);

/// Where a chunk of a slice lies, so that the eight that load_tiles() reads at a time are in different banks.
__device__ inline int at_chunk(int point, int chunk) {
  return point * kSliceBytes + (chunk ^ point % kChunks) * kChunk;
}

/// Starts to copy a slice of kBlock points into shared memory: more than a block may have, which nobody looks at.
__device__ inline void load_slice(unsigned char* shared, const float16* y, std::int64_t width) {
  constexpr int together = kThreads / kChunks;  // points
  static_assert(together % kChunks == 0);
  const int point = static_cast<int>(threadIdx.x) / kChunks, chunk = static_cast<int>(threadIdx.x) % kChunks;
  const float16* from = y + point * width + chunk * (kChunk / 2);
  unsigned char* const to = shared + at_chunk(point, chunk);
#pragma unroll
  for (int e = 0; e < kBlock / together; ++e, from += together * width)
    __pipeline_memcpy_async(to + e * together * kSliceBytes, from, kChunk);
}

/// What pairs of a point are compared by: its term of lower bounds, and how large these may be.
struct alignas(8) Ends {
  float least, limit;
};

/// A pair of a tile that one of its points keeps, or both.
struct alignas(8) Found {
  float product;
  std::uint16_t row, column;
};
constexpr int kMostFound = kStageBytes / static_cast<int>(sizeof(Found));
constexpr int kParts = 4;  // of a tile
static_assert(kBlock * kBlock / kParts <= kMostFound);

__device__ inline Ends ends_of(const Side& side, std::int64_t first, int point, int length, bool keeps) {
  constexpr auto infinity = static_cast<float>(kInfinity);  // never exceeded, nor is the NaN that memory may hold
  if (point >= length) return {infinity, -infinity};
  const std::int64_t i = first + point;
  return {side.g[i] - side.slack[i], keeps ? side.limit[i] : -infinity};
}

__device__ inline void keep(const Side& side, std::int64_t i, float most, std::int64_t place, std::int64_t capacity) {
  const unsigned at = atomicAdd(&side.count[i], 1u);
  if (at < capacity) side.kept[i * capacity + at] = {most, static_cast<std::uint32_t>(place)};
}

/// Compares every block of rows with the blocks of columns at the offsets from `first_offset` to `end_offset`, or those
/// of them up to half way round where both are the same points, for both. Two blocks of threads run on a
/// multiprocessor: 64 of a thread's 128 registers are sums, and each has 98 KB of shared memory.
static __global__ void __launch_bounds__(kThreads, 2)
    compare(Side rows, Side columns, bool mutual, std::int64_t blocks, int slices, std::int64_t capacity,
            int first_offset, int end_offset) {
  __shared__ Ends row_ends[kBlock], column_ends[kBlock];
  __shared__ int n_found;
  const std::int64_t width = std::int64_t{kSlice} * slices;
  const int groups = (end_offset - first_offset + kOffsetsAtOnce - 1) / kOffsetsAtOnce;
  const int own = static_cast<int>(threadIdx.x), lane = lane_id(), warp = own / kWarp;
  const auto column_in_warp = [&](int n) { return n / 2 * 8 + lane % 4 * 2 + n % 2; };
  const int down = warp % (kBlock / kWarpRows) * kWarpRows, across = warp / (kBlock / kWarpRows) * kWarpColumns;

  for (std::int64_t item = blockIdx.x; item < blocks * groups; item += gridDim.x) {
    const std::int64_t q = item / groups;
    const std::int64_t s = rows.segments.last(q, [&](std::int64_t t) { return rows.segments.first_block(t); });
    const Ring ring(rows.segments, s), other_ring(columns.segments, s);
    const std::int64_t block_or_none = q - rows.segments.first_block(s);
    if (block_or_none >= ring.blocks) continue;
    const int block = static_cast<int>(block_or_none);
    const int from = first_offset + static_cast<int>(item % groups) * kOffsetsAtOnce;
    int end = other_ring.blocks;
    if (mutual) end = ring.blocks / 2 + (ring.blocks % 2 == 0 && block >= ring.blocks / 2 ? 0 : 1);
    end = min(end, min(end_offset, from + kOffsetsAtOnce));
    if (from >= end) continue;

    const std::int64_t first_row = ring.begin + ring.first(block);
    const int height = ring.length(block);
    const int start = block % other_ring.blocks;
    const auto column_block = [&](int offset) {
      return start + offset - (start + offset < other_ring.blocks ? 0 : other_ring.blocks);
    };

    // Slices are loaded ahead, those of the next tile too.
    int loading = from, loading_slice = 0;
    int stage = 0;
    const auto load = [&](int to) {
      if (loading < end) {
        const int b = column_block(loading);
        unsigned char* const shared = shared_memory + to * kStageBytes;
        load_slice(shared, rows.y + first_row * width + loading_slice * kSlice, width);
        load_slice(shared + kSideBytes,
                   columns.y + (other_ring.begin + other_ring.first(b)) * width + loading_slice * kSlice, width);
        if (++loading_slice == slices) ++loading, loading_slice = 0;
      }
      __pipeline_commit();
    };
    __syncthreads();  // what the last tile used is no longer needed
    for (int ahead = 0; ahead < kStages - 1; ++ahead) load(ahead);

    for (int offset = from; offset < end; ++offset) {
      const bool diagonal = mutual && offset == 0;
      const int b = column_block(offset);
      const std::int64_t first_place = other_ring.first(b);
      const std::int64_t first_column = other_ring.begin + first_place;
      float sum[kRowTiles][kColumnTiles][4] = {};
      for (int slice = 0; slice < slices; ++slice) {
        __pipeline_wait_prior(kStages - 2);
        __syncthreads();  // the slice is there for all, and all are done with the one before
        load((stage + kStages - 1) % kStages);
        if (slice == 0) {
          if (own == 0) n_found = 0;
          const int point = own % kBlock;
          if (own < kBlock)
            row_ends[point] = ends_of(rows, first_row, point, height, true);
          else
            column_ends[point] = ends_of(columns, first_column, point, other_ring.length(b), mutual && !diagonal);
        }
        // Of the chunks that a lane addresses, only the number of the pair depends on the step.
        const unsigned char* const left = shared_memory + stage * kStageBytes + (down + lane % 16) * kSliceBytes;
        const unsigned char* const right =
            shared_memory + stage * kStageBytes + kSideBytes + (across + lane / 16 * 8 + lane % 8) * kSliceBytes;
        const int left_chunk = lane / 16 ^ lane % kChunks, right_chunk = lane / 8 % 2 ^ lane % kChunks;
#pragma unroll
        for (int step = 0; step < kSlice / 16; ++step) {
          std::uint32_t a[kRowTiles][4], c[kColumnTiles / 2][4];
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m)
            load_tiles(a[m], left + m * 16 * kSliceBytes + (left_chunk ^ 2 * step) * kChunk);
#pragma unroll
          for (int m = 0; m < kColumnTiles / 2; ++m)
            load_tiles(c[m], right + m * 16 * kSliceBytes + (right_chunk ^ 2 * step) * kChunk);
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
            for (int n = 0; n < kColumnTiles; ++n)
              multiply_add_tiles(sum[m][n], a[m], {c[n / 2][n % 2 * 2], c[n / 2][n % 2 * 2 + 1]});
        }
        stage = (stage + 1) % kStages;
      }
      __syncthreads();  // row_ends and column_ends are there for all, and all are done with the last slice

      // Pairs to keep are few: all threads share the work of the threads that have found them. They are listed where
      // the last slice was; a part of the tile at a time if they are too many, as at first.
      auto* const found = reinterpret_cast<Found*>(shared_memory + (stage + kStages - 1) % kStages * kStageBytes);
      int parts = 1;
      for (int part = 0; part < parts; ++part) {
        Ends of_column[2 * kColumnTiles];
#pragma unroll
        for (int n = 0; n < 2 * kColumnTiles; ++n) of_column[n] = column_ends[across + column_in_warp(n)];
#pragma unroll
        for (int m = 0; m < 2 * kRowTiles; ++m) {
          if (parts > 1 && m * kParts / (2 * kRowTiles) != part) continue;
          const int r = down + m / 2 * 16 + m % 2 * 8 + lane / 4;
          const Ends of_row = row_ends[r];
          const auto passes = [&](int n) {
            const float product = sum[m / 2][n / 2][m % 2 * 2 + n % 2];
            return of_column[n].least - product <= of_row.limit || of_row.least - product <= of_column[n].limit;
          };
          bool any = false;
#pragma unroll
          for (int n = 0; n < 2 * kColumnTiles; ++n) any |= passes(n);
          if (!any) continue;
#pragma unroll
          for (int n = 0; n < 2 * kColumnTiles; ++n) {
            if (!passes(n)) continue;
            const int at = atomicAdd(&n_found, 1);
            if (at < kMostFound)
              found[at] = {sum[m / 2][n / 2][m % 2 * 2 + n % 2], static_cast<std::uint16_t>(r),
                           static_cast<std::uint16_t>(across + column_in_warp(n))};
          }
        }
        __syncthreads();  // all are listed
        const int count = n_found;
        const bool all_found = count <= kMostFound;
        if (!all_found) parts = kParts, part = -1;
        for (int e = own; all_found && e < count; e += kThreads) {
          const auto [product, r, c] = found[e];
          const float for_row = column_ends[c].least - product, for_column = row_ends[r].least - product;
          if (for_row <= row_ends[r].limit && !(diagonal && r == c))
            keep(rows, first_row + r, for_row + 2 * columns.slack[first_column + c], first_place + c, capacity);
          if (for_column <= column_ends[c].limit)
            keep(columns, first_column + c, for_column + 2 * rows.slack[first_row + r], first_row - ring.begin + r,
                 capacity);
        }
        if (part + 1 == parts) break;
        __syncthreads();  // all have read
        if (own == 0) n_found = 0;
        __syncthreads();
      }
    }
    __pipeline_wait_prior(0);
  }
}

// ---- selection ------------------------------------------------------------------------------------------------------

/// Floats as integers of the same order, and back.
__device__ inline std::uint32_t key_of(float value) {
  const auto bits = detail::bit_cast<std::uint32_t>(value);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float of_key(std::uint32_t key) {
  return detail::bit_cast<float>(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

/// An upper bound of the k-th smallest of the `count` >= k keys, of which it has the first kDigits binary digits in
/// which they differ. All lanes of the warp must call it.
__device__ inline std::uint32_t kth_key(const Candidate* kept, unsigned count, std::int64_t k) {
  constexpr int kDigits = 16;
  std::uint32_t all = ~0u, any = 0;
  for (unsigned e = lane_id(); e < count; e += kWarp) {
    const std::uint32_t key = key_of(kept[e].most);
    all &= key, any |= key;
  }
  for (int half = kWarp / 2; half > 0; half /= 2) {
    all &= __shfl_xor_sync(kAllLanes, all, half);
    any |= __shfl_xor_sync(kAllLanes, any, half);
  }
  int digits = 0;  // from the first that differs on
  while (digits < 32 && (all ^ any) >> digits != 0) ++digits;
  const int last = digits > kDigits ? digits - kDigits : 0;
  std::uint32_t kth = digits < 32 ? all >> digits << digits : 0;
  for (int digit = digits - 1; digit >= last; --digit) {
    const std::uint32_t trial = kth | 1u << digit;
    std::int64_t below = 0;
    for (unsigned first = 0; first < count; first += kWarp) {
      const unsigned e = first + lane_id();
      below += __popc(__ballot_sync(kAllLanes, e < count && key_of(kept[e].most) < trial));
    }
    if (below < k) kth = trial;
  }
  return kth | ((1u << last) - 1);
}

/// Lowers the limits of rows to what their candidates allow, and drops those beyond. One warp per row; T is the type of
/// distances.
template <typename T>
__global__ void tighten(Frame frame, Side rows, Side columns, std::int64_t k, std::int64_t capacity) {
  for (std::int64_t i = warp_id(); i < rows.segments.n; i += warp_count()) {
    const unsigned count = rows.count[i];
    if (count > capacity) {
      if (lane_id() == 0) rows.limit[i] = -static_cast<float>(kInfinity);
      continue;
    }
    if (count < k) continue;
    Candidate* const kept = rows.kept + i * capacity;
    const double most = of_key(kth_key(kept, count, k)), slack = rows.slack[i];
    const double exact =
        most + 2 * slack + 0x1p-20 * (fabs(static_cast<double>(rows.g[i])) + slack + fabs(most)) + frame.rounding<T>();
    const auto limit = static_cast<float>(fmin(exact, static_cast<double>(kLargest)));
    const std::int64_t others = columns.segments.begin(rows.segments.of(i));
    unsigned left = 0;
    for (unsigned first = 0; first < count; first += kWarp) {
      const unsigned e = first + lane_id();
      Candidate candidate{};
      bool stays = false;
      if (e < count) {
        candidate = kept[e];
        stays = candidate.most - 2 * columns.slack[others + candidate.place] <= limit;
      }
      const unsigned staying = __ballot_sync(kAllLanes, stays);  // all lanes have read
      if (stays) kept[left + __popc(staying & ((1u << lane_id()) - 1))] = candidate;
      left += __popc(staying);
      __syncwarp();
    }
    if (lane_id() != 0) continue;
    rows.limit[i] = limit;
    rows.count[i] = left;
  }
}

// ---- rounds ---------------------------------------------------------------------------------------------------------

/// How a search goes: room for the candidates of a row, and after how many offsets to select.
struct Plan {
  std::int64_t capacity = 0;
  std::vector<std::int64_t> ends;  // none: left to the exact kernels

  /// `largest` is the number of columns in the largest segment.
  Plan(std::int64_t largest, std::int64_t k, bool mutual) {
    // Fewer columns are soon compared exactly; and where most are wanted, there is nothing to filter.
    if (largest < 512 || largest < 8 * k) return;
    const std::int64_t blocks = ceil_div(largest, kBlock), all = mutual ? blocks / 2 + 1 : blocks;
    const auto seen = [&](std::int64_t offsets) { return mutual ? 2 * offsets - 1 : offsets; };  // blocks
    // All of what the first round sees is kept, and it must be k at least.
    std::int64_t end = 1;
    while (seen(end) * kBlock / 2 < k + 1 || (k > 32 && seen(end) < 3)) ++end;
    capacity = std::max(seen(end) * kBlock, 2 * k + 128 + std::min<std::int64_t>(k, 256));
    // Points seen for the first time should take half of the room that is left. Bounds being bounds, a quarter more
    // than k are kept.
    const double kept = 1.25 * static_cast<double>(k);
    const double growth = 1 + std::min(2.0, (static_cast<double>(capacity) - kept) / kept / 2);
    while (end < all) {
      ends.push_back(end);
      const double most = growth * static_cast<double>(seen(end));
      for (++end; static_cast<double>(seen(end + 1)) <= most;) ++end;
    }
    ends.push_back(all);
  }
};

}  // namespace ssdml::cuda::knn
