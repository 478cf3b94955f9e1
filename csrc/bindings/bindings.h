// What both faces of the kernels, cpu.cpp and cuda.cpp, need to take Python's arguments.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <exception>
#include <string>

#include "common/parallel.h"
#include "common/peers.h"
#include "knn_graph/knn_graph.h"

namespace ssdml {

namespace py = pybind11;
using Address = std::uintptr_t;

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);  // NOLINT: the one place where addresses become pointers
}

/// Calls f(T{}) with the element type of that name.
template <typename F>
auto by_dtype(const std::string& dtype, F f) {
  if (dtype == "float32") return f(float{});
  if (dtype == "float64") return f(double{});
  throw py::type_error("dtype must be float32 or float64, found " + dtype);
}

/// Calls f(X{}) with the type of points of that name, which may be 16 bits wide.
template <typename F>
auto by_point_dtype(const std::string& dtype, F f) {
  if (dtype == "float16") return f(float16{});
  if (dtype == "bfloat16") return f(bfloat16{});
  return by_dtype(dtype, f);
}

/// Looks for Ctrl-C, and calls a Python function with the share that is done: ten times a second at most, and at the
/// end.
class PythonProgress : public Progress {
 public:
  explicit PythonProgress(py::object callback) : callback_(std::move(callback)) {}

  bool update(double share) override {
    const auto now = std::chrono::steady_clock::now();
    if (now - last_ < std::chrono::milliseconds(100)) return true;
    last_ = now;
    const py::gil_scoped_acquire gil;
    try {
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      if (!callback_.is_none()) callback_(share);
    } catch (const py::error_already_set&) {
      raised_ = std::current_exception();
      return false;
    }
    return true;
  }

  /// For kernels that need not wait for what they queue if nobody asks how far it is: then null.
  Progress* if_wanted() { return callback_.is_none() ? nullptr : this; }

  bool stopped() const { return raised_ != nullptr; }

  /// Runs a kernel without the GIL; what stopped it is raised afterwards.
  template <typename F>
  auto watch(F kernel) {
    auto result = [&] {
      const py::gil_scoped_release nogil;
      return kernel();
    }();
    if (raised_) std::rethrow_exception(raised_);
    if (!callback_.is_none()) callback_(1.0);
    return result;
  }

 private:
  py::object callback_;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
  std::exception_ptr raised_;
};

/// Exchanges numbers with other processes by a Python object with `rank`, `size` and, of a float64 memoryview, `sum`
/// and `max`; None is a process alone. What these raise ends the kernel.
class PythonPeers : public Peers {
 public:
  PythonPeers(py::object others, const PythonProgress& progress)
      : Peers(others.is_none() ? 0 : others.attr("rank").cast<std::int64_t>(),
              others.is_none() ? 1 : others.attr("size").cast<std::int64_t>()),
        others_(std::move(others)),
        progress_(progress) {}

  void sum(double* x, std::int64_t count) override { exchange("sum", x, count); }
  void max(double* x, std::int64_t count) override { exchange("max", x, count); }

 private:
  void exchange(const char* how, double* x, std::int64_t count) {
    if (size == 1 || count == 0 || progress_.stopped()) return;
    const py::gil_scoped_acquire gil;
    others_.attr(how)(py::memoryview::from_buffer(x, {count}, {sizeof(double)}));
  }

  py::object others_;
  const PythonProgress& progress_;
};

inline Metric metric_of(const std::string& name) {
  if (name == "sqeuclidean") return Metric::sqeuclidean;
  if (name == "euclidean") return Metric::euclidean;
  if (name == "cosine") return Metric::cosine;
  if (name == "inner_product") return Metric::inner_product;
  throw py::value_error("metric must be sqeuclidean, euclidean, cosine or inner_product, found " + name);
}

}  // namespace ssdml
