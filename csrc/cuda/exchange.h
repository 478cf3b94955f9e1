// What processes exchange of their devices' memory (common/peers.h), by way of the host.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/peers.h"
#include "cuda/launch.h"

namespace ssdml::cuda {

/// Takes numbers of the host to the device, and returns when they may go.
template <typename T>
void write(const char* name, const std::vector<T>& values, T* device, cudaStream_t stream) {
  if (values.empty()) return;
  check(cudaMemcpyAsync(device, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice, stream), name);
  check(cudaStreamSynchronize(stream), name);
}

/// exchange(x, n) on the host for all `count` numbers, n at a time, converted to double and back.
template <typename T, typename Exchange>
void through_host(const char* name, const Peers& peers, T* device, std::int64_t count, cudaStream_t stream,
                  const Exchange& exchange) {
  constexpr std::int64_t most = 1 << 19;
  if (peers.size == 1) return;
  for (std::int64_t first = 0; first < count; first += most) {
    std::vector<T> values = read(name, device + first, std::min(most, count - first), stream);
    std::vector<double> numbers(values.begin(), values.end());
    exchange(numbers.data(), static_cast<std::int64_t>(numbers.size()));
    std::transform(numbers.begin(), numbers.end(), values.begin(), [](double x) { return static_cast<T>(x); });
    write(name, values, device + first, stream);
  }
}

template <typename T>
void sum_on_device(const char* name, Peers& peers, T* device, std::int64_t count, cudaStream_t stream) {
  through_host(name, peers, device, count, stream, [&](double* x, std::int64_t n) { peers.sum(x, n); });
}

template <typename T>
void max_on_device(const char* name, Peers& peers, T* device, std::int64_t count, cudaStream_t stream) {
  through_host(name, peers, device, count, stream, [&](double* x, std::int64_t n) { peers.max(x, n); });
}

}  // namespace ssdml::cuda
