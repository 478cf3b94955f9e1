// The graph of walk/graph.h in device memory: connected components, and their edges in both directions. Only .cu
// files include it.
//
// Points stand at places, component by component: those of at least `large` points by their smallest point, then all
// others. Within a component the unlabelled stand before the labelled, each in their order. Edges lead to places within
// the component, from 0 on. Built by union-find and two radix sorts; the same for any order of threads.
#pragma once

#include "cuda/launch.h"
#include "cuda/sort.h"

namespace ssdml::cuda::walk {

/// The edges at one end of a point; `share` null where all edges of the graph have the same share of the walk.
struct Edges {
  const std::int32_t* at;
  const double* share;
  const std::int64_t* edge;  // where `share` is sorted otherwise than `at`: its place there
  std::int64_t count;

  __device__ double share_of(std::int64_t e) const { return edge ? share[edge[e]] : share[e]; }
};

struct Graph {
  std::int64_t n, k;
  std::int64_t *point, *place;  // (n): point at each place, and back
  std::int64_t *begin, *size;   // (n): where the component of each place begins, and its size
  std::int64_t* label;          // (n): of each place
  std::int32_t* out;            // (n, k)
  double* out_share;            // (n, k), or null
  std::int64_t* in_ptr;         // (n + 1)
  std::int32_t* in;             // (n k)
  std::int64_t* in_edge;        // (n k): place * k + rank of each edge of `in`

  __device__ Edges edges_out(std::int64_t p) const {
    return {out + p * k, out_share ? out_share + p * k : nullptr, nullptr, k};
  }
  __device__ Edges edges_in(std::int64_t p) const {
    return {in + in_ptr[p], out_share, in_edge + in_ptr[p], in_ptr[p + 1] - in_ptr[p]};
  }
};

/// A component of at least `large` points.
struct Large {
  std::int64_t begin, size;
};

/// What the host needs to know: one small copy.
struct Census {
  unsigned long long n_large, n_in_large;  // components, and their points
  unsigned long long largest_small;        // size
};

__device__ inline std::int64_t root_of(const unsigned long long* parent, std::int64_t i) {
  const volatile unsigned long long* up = parent;  // other threads change it
  for (auto at = static_cast<unsigned long long>(i);;) {
    const unsigned long long next = up[at];
    if (next == at) return static_cast<std::int64_t>(at);
    at = next;
  }
}

static __global__ void own_parents(std::int64_t n, unsigned long long* parent, std::int64_t* size) {
  for (std::int64_t i = thread_id(); i < n; i += thread_count()) parent[i] = i, size[i] = 0;
}

/// Joins both ends of every edge: the larger root gets the smaller as its parent, so that a component's root is its
/// smallest point.
static __global__ void join(const std::int64_t* indices, std::int64_t n, std::int64_t k, unsigned long long* parent) {
  for (std::int64_t e = thread_id(); e < n * k; e += thread_count()) {
    auto a = static_cast<unsigned long long>(root_of(parent, e / k));
    auto b = static_cast<unsigned long long>(root_of(parent, indices[e]));
    while (a != b) {
      if (a < b) {
        const auto other = a;
        a = b, b = other;
      }
      const unsigned long long found = atomicCAS(&parent[a], a, b);
      if (found == a) break;
      a = static_cast<unsigned long long>(root_of(parent, static_cast<std::int64_t>(found)));
    }
  }
}

/// size[root] counts the points of each component.
static __global__ void count_members(std::int64_t n, const unsigned long long* parent, std::int64_t* size) {
  for (std::int64_t i = thread_id(); i < n; i += thread_count())
    atomicAdd(reinterpret_cast<unsigned long long*>(&size[root_of(parent, i)]), 1ull);
}

/// What points are sorted by.
static __global__ void place_keys(std::int64_t n, std::int64_t large, const unsigned long long* parent,
                                  const std::int64_t* size, const std::int64_t* labels, std::int64_t* key,
                                  std::int64_t* point) {
  for (std::int64_t i = thread_id(); i < n; i += thread_count()) {
    const std::int64_t root = root_of(parent, i);
    key[i] = ((size[root] < large ? n : 0) + root) * 2 + (labels[i] >= 0);
    point[i] = i;
  }
}

/// From the sorted keys: start[root], and the census.
static __global__ void find_starts(Graph graph, std::int64_t large, const std::int64_t* key, const std::int64_t* size,
                                   std::int64_t* start, Census* census, Large* list) {
  for (std::int64_t p = thread_id(); p < graph.n; p += thread_count()) {
    graph.place[graph.point[p]] = p;
    if (p > 0 && key[p - 1] / 2 == key[p] / 2) continue;
    const std::int64_t root = key[p] / 2 % graph.n;
    start[root] = p;
    if (size[root] >= large) {
      list[atomicAdd(&census->n_large, 1ull)] = {p, size[root]};
      atomicAdd(&census->n_in_large, static_cast<unsigned long long>(size[root]));
    } else {
      atomicMax(&census->largest_small, static_cast<unsigned long long>(size[root]));
    }
  }
}

/// `weights` may be null.
static __global__ void fill_out(Graph graph, const std::int64_t* indices, const double* weights,
                                const std::int64_t* labels, const std::int64_t* key, const std::int64_t* start,
                                const std::int64_t* size, std::int64_t* target, std::int64_t* edge) {
  const std::int64_t k = graph.k;
  for (std::int64_t p = thread_id(); p < graph.n; p += thread_count()) {
    const std::int64_t i = graph.point[p], root = key[p] / 2 % graph.n, begin = start[root];
    graph.begin[p] = begin;
    graph.size[p] = size[root];
    graph.label[p] = labels[i];
    for (std::int64_t r = 0; r < k; ++r) {
      const std::int64_t to = graph.place[indices[i * k + r]];
      graph.out[p * k + r] = static_cast<std::int32_t>(to - begin);
      target[p * k + r] = to;
      edge[p * k + r] = p * k + r;
    }
    if (!weights) continue;
    double largest = 0, total = 0;  // the sum itself might overflow
    for (std::int64_t r = 0; r < k; ++r) largest = fmax(largest, weights[i * k + r]);
    for (std::int64_t r = 0; r < k; ++r) total += weights[i * k + r] / largest;
    for (std::int64_t r = 0; r < k; ++r) graph.out_share[p * k + r] = weights[i * k + r] / largest / total;
  }
}

static __global__ void fill_in(Graph graph, const std::int64_t* target) {
  const std::int64_t edges = graph.n * graph.k;
  for (std::int64_t e = thread_id(); e < edges; e += thread_count()) {
    const std::int64_t to = target[e], from = graph.in_edge[e] / graph.k;
    graph.in[e] = static_cast<std::int32_t>(from - graph.begin[from]);
    for (std::int64_t p = e > 0 ? target[e - 1] + 1 : 0; p <= to; ++p) graph.in_ptr[p] = e;
    if (e == edges - 1)
      for (std::int64_t p = to + 1; p <= graph.n; ++p) graph.in_ptr[p] = edges;
  }
}

/// A graph and the memory it is built in.
class Build {
 public:
  Build(Workspace& workspace, std::int64_t n, std::int64_t k, bool weighted, std::int64_t large)
      : large_(large), edges_(n * k), by_component_(workspace, n, 4 * n), by_target_(workspace, edges_, n) {
    graph.n = n, graph.k = k;
    for (std::int64_t** each : {&graph.point, &graph.place, &graph.begin, &graph.size, &graph.label})
      *each = workspace.take<std::int64_t>(n);
    graph.out = workspace.take<std::int32_t>(edges_);
    graph.out_share = weighted ? workspace.take<double>(edges_) : nullptr;
    graph.in_ptr = workspace.take<std::int64_t>(n + 1);
    graph.in = workspace.take<std::int32_t>(edges_);
    graph.in_edge = workspace.take<std::int64_t>(edges_);
    census = workspace.take<Census>(1);
    list = workspace.take<Large>(n / large + 1);
    for (std::int64_t** each : {&key_, &sorted_key_, &unsorted_, &members_, &start_})
      *each = workspace.take<std::int64_t>(n);
    for (std::int64_t** each : {&target_, &sorted_target_, &edge_}) *each = workspace.take<std::int64_t>(edges_);
    parent_ = workspace.take<unsigned long long>(n);
  }

  Graph graph;
  Census* census;
  Large* list;  // components of at least `large` points, in no order

  void run(const std::int64_t* indices, const double* weights, const std::int64_t* labels, cudaStream_t stream) {
    const std::int64_t n = graph.n, k = graph.k;
    check(cudaMemsetAsync(census, 0, sizeof *census, stream), "graph: census");
    launch("graph: own_parents", stream, grid_of_threads(n), own_parents, n, parent_, members_);
    launch("graph: join", stream, grid_of_threads(edges_), join, indices, n, k, parent_);
    launch("graph: count_members", stream, grid_of_threads(n), count_members, n, parent_, members_);
    launch("graph: place_keys", stream, grid_of_threads(n), place_keys, n, large_, parent_, members_, labels, key_,
           unsorted_);
    by_component_.run("graph: sort", key_, sorted_key_, unsorted_, graph.point, stream);
    launch("graph: find_starts", stream, grid_of_threads(n), find_starts, graph, large_, sorted_key_, members_, start_,
           census, list);
    launch("graph: fill_out", stream, grid_of_threads(n), fill_out, graph, indices, weights, labels, sorted_key_,
           start_, members_, target_, edge_);
    by_target_.run("graph: sort", target_, sorted_target_, edge_, graph.in_edge, stream);
    launch("graph: fill_in", stream, grid_of_threads(edges_), fill_in, graph, sorted_target_);
  }

 private:
  std::int64_t large_, edges_;
  PairSort by_component_, by_target_;
  std::int64_t *key_, *sorted_key_, *unsorted_, *members_, *start_, *target_, *sorted_target_, *edge_;
  unsigned long long* parent_;
};

}  // namespace ssdml::cuda::walk
