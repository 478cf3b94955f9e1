// The Python face of the CPU kernels: one short block per operation. Arrays arrive as addresses, already validated and
// allocated by ssdml_fast/_run/<op>.py; the GIL is released while a kernel runs.
#include <string>

#include "affinity/affinity.h"
#include "angular_loss/angular_loss.h"
#include "bindings/bindings.h"
#include "common/check.h"
#include "common/parallel.h"
#include "common/simd.h"
#include "knn_graph/knn_graph.h"
#include "mine_class_triplets/mine_class_triplets.h"
#include "mine_triplets/mine_triplets.h"
#include "propagate_labels/propagate_labels.h"
#include "riemannian_cg/riemannian_cg.h"
#include "stiefel/stiefel.h"

using namespace ssdml;

namespace {

py::tuple supported_isas() {
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni");
  if (avx512) return py::make_tuple("baseline", "avx2", "avx512");
  if (avx2) return py::make_tuple("baseline", "avx2");
#endif
  return py::make_tuple("baseline");
}

}  // namespace

PYBIND11_MODULE(SSDML_ISA, m) {
  m.doc() = "Kernels of ssdml_fast built for one instruction set.";
  m.attr("isa") = isa_name;
  m.attr("compiler") = SSDML_COMPILER;
  m.attr("cuda_build") = SSDML_CUDA_BUILD;
  m.def("default_threads", &default_threads);
  m.def("supported_isas", &supported_isas, "Instruction sets that this processor runs, the least demanding first.");

  m.def(
      "largest_magnitude",
      [](const std::string& dtype, Address x, std::int64_t count) {
        return by_dtype(dtype, [&]<typename T>(T) {
          const py::gil_scoped_release nogil;
          return static_cast<double>(largest_magnitude(at<const T>(x), count));
        });
      },
      py::arg("dtype"), py::arg("x"), py::arg("count"));

  m.def(
      "all_indices",
      [](Address x, std::int64_t count, std::int64_t n) {
        const py::gil_scoped_release nogil;
        return all_indices(at<const std::int64_t>(x), count, n);
      },
      py::arg("x"), py::arg("count"), py::arg("n"));

  m.def(
      "knn_graph",
      [](const std::string& dtype, Address x, std::int64_t n, std::int64_t d, std::int64_t k, const std::string& metric,
         Address ptr, std::int64_t segments, Address indices, Address distances, int num_threads,
         std::int64_t block_bytes, py::object callback) {
        PythonProgress progress(std::move(callback));
        return by_point_dtype(dtype, [&]<typename X>(X) {
          return progress.watch([&, metric = metric_of(metric)] {
            return knn_graph(at<const X>(x), n, d, k, metric, at<const std::int64_t>(ptr), segments,
                             at<std::int64_t>(indices), at<Distance<X>>(distances), num_threads, block_bytes,
                             progress) != SearchOutcome::refused;
          });
        });
      },
      py::arg("dtype"), py::arg("x"), py::arg("n"), py::arg("d"), py::arg("k"), py::arg("metric"), py::arg("ptr"),
      py::arg("segments"), py::arg("indices"), py::arg("distances"), py::arg("num_threads"), py::arg("block_bytes"),
      py::arg("progress"));

  m.def(
      "knn_search",
      [](const std::string& dtype, Address queries, std::int64_t n_queries, Address base, std::int64_t n_base,
         std::int64_t d, std::int64_t k, const std::string& metric, Address indices, Address distances, int num_threads,
         std::int64_t block_bytes, py::object callback) {
        PythonProgress progress(std::move(callback));
        return by_point_dtype(dtype, [&]<typename X>(X) {
          return progress.watch([&, metric = metric_of(metric)] {
            return knn_search(at<const X>(queries), n_queries, at<const X>(base), n_base, d, k, metric,
                              at<std::int64_t>(indices), at<Distance<X>>(distances), num_threads, block_bytes,
                              progress) != SearchOutcome::refused;
          });
        });
      },
      py::arg("dtype"), py::arg("queries"), py::arg("n_queries"), py::arg("base"), py::arg("n_base"), py::arg("d"),
      py::arg("k"), py::arg("metric"), py::arg("indices"), py::arg("distances"), py::arg("num_threads"),
      py::arg("block_bytes"), py::arg("progress"));

  m.def(
      "knn_between",
      [](const std::string& dtype, Address a, std::int64_t n_a, Address b, std::int64_t n_b, std::int64_t d,
         std::int64_t k, const std::string& metric, Address limits_a, Address indices_a, Address distances_a,
         Address limits_b, Address indices_b, Address distances_b, int num_threads, std::int64_t block_bytes,
         py::object callback) {
        PythonProgress progress(std::move(callback));
        return by_point_dtype(dtype, [&]<typename X>(X) {
          using T = Distance<X>;
          return progress.watch([&, metric = metric_of(metric)] {
            return knn_between(at<const X>(a), n_a, at<const X>(b), n_b, d, k, metric, at<const T>(limits_a),
                               at<std::int64_t>(indices_a), at<T>(distances_a), at<const T>(limits_b),
                               at<std::int64_t>(indices_b), at<T>(distances_b), num_threads, block_bytes,
                               progress) != SearchOutcome::refused;
          });
        });
      },
      py::arg("dtype"), py::arg("a"), py::arg("n_a"), py::arg("b"), py::arg("n_b"), py::arg("d"), py::arg("k"),
      py::arg("metric"), py::arg("limits_a"), py::arg("indices_a"), py::arg("distances_a"), py::arg("limits_b"),
      py::arg("indices_b"), py::arg("distances_b"), py::arg("num_threads"), py::arg("block_bytes"),
      py::arg("progress"));

  m.def(
      "merge_neighbors",
      [](const std::string& dtype, std::int64_t n, std::int64_t k, Address indices, Address distances, std::int64_t m,
         Address further, Address further_distances, std::int64_t first, int num_threads) {
        by_dtype(dtype, [&]<typename T>(T) {
          const py::gil_scoped_release nogil;
          merge_neighbors(n, k, at<std::int64_t>(indices), at<T>(distances), m, at<const std::int64_t>(further),
                          at<const T>(further_distances), first, num_threads);
        });
      },
      py::arg("dtype"), py::arg("n"), py::arg("k"), py::arg("indices"), py::arg("distances"), py::arg("m"),
      py::arg("further"), py::arg("further_distances"), py::arg("first"), py::arg("num_threads"));

  m.def(
      "propagate_affinity",
      [](const std::string& dtype, Address indices, Address weights, std::int64_t n, std::int64_t k, Address labels,
         std::int64_t classes, double gamma, double tol, Address values, Address class_mass, int num_threads,
         py::object callback, py::object others) {
        PythonProgress progress(std::move(callback));
        PythonPeers peers(std::move(others), progress);
        const WalkReport report = by_dtype(dtype, [&]<typename T>(T) {
          return progress.watch([&] {
            return propagate_affinity(at<const std::int64_t>(indices), at<const double>(weights), n, k,
                                      at<const std::int64_t>(labels), classes, gamma, tol, at<T>(values),
                                      at<T>(class_mass), num_threads, progress, peers);
          });
        });
        return py::make_tuple(report.iterations, report.error_bound);
      },
      py::arg("dtype"), py::arg("indices"), py::arg("weights"), py::arg("n"), py::arg("k"), py::arg("labels"),
      py::arg("classes"), py::arg("gamma"), py::arg("tol"), py::arg("values"), py::arg("class_mass"),
      py::arg("num_threads"), py::arg("progress"), py::arg("peers") = py::none());

  m.def(
      "propagate_labels",
      [](const std::string& dtype, Address indices, Address weights, std::int64_t n, std::int64_t k, Address ptr,
         std::int64_t segments, Address labels, std::int64_t classes, double gamma, double tol, Address posteriors,
         int num_threads, py::object callback, py::object others) {
        PythonProgress progress(std::move(callback));
        PythonPeers peers(std::move(others), progress);
        const WalkReport report = by_dtype(dtype, [&]<typename T>(T) {
          return progress.watch([&] {
            return propagate_labels(at<const std::int64_t>(indices), at<const double>(weights), n, k,
                                    at<const std::int64_t>(ptr), segments, at<const std::int64_t>(labels), classes,
                                    gamma, tol, at<T>(posteriors), num_threads, progress, peers);
          });
        });
        return py::make_tuple(report.iterations, report.error_bound);
      },
      py::arg("dtype"), py::arg("indices"), py::arg("weights"), py::arg("n"), py::arg("k"), py::arg("ptr"),
      py::arg("segments"), py::arg("labels"), py::arg("classes"), py::arg("gamma"), py::arg("tol"),
      py::arg("posteriors"), py::arg("num_threads"), py::arg("progress"), py::arg("peers") = py::none());

  m.def(
      "mine_triplets",
      [](const std::string& dtype, Address indices, Address distances, Address affinity, std::int64_t k,
         Address anchors, std::int64_t n_anchors, Address triplets, int num_threads) {
        by_dtype(dtype, [&]<typename T>(T) {
          const py::gil_scoped_release nogil;
          mine_triplets(at<const std::int64_t>(indices), at<const T>(distances), at<const T>(affinity), k,
                        at<const std::int64_t>(anchors), n_anchors, at<std::int64_t>(triplets), num_threads);
        });
      },
      py::arg("dtype"), py::arg("indices"), py::arg("distances"), py::arg("affinity"), py::arg("k"), py::arg("anchors"),
      py::arg("n_anchors"), py::arg("triplets"), py::arg("num_threads"));

  m.def(
      "mine_class_triplets",
      [](Address points, Address starts, std::int64_t n_groups, std::int64_t n_anchor_groups, Address nearest,
         std::int64_t width, std::uint64_t seed, bool balanced, std::int64_t n_triplets, Address triplets,
         int num_threads) {
        const py::gil_scoped_release nogil;
        mine_class_triplets({at<const std::int64_t>(points), at<const std::int64_t>(starts), n_groups, n_anchor_groups,
                             at<const std::int64_t>(nearest), width, seed, balanced},
                            n_triplets, at<std::int64_t>(triplets), num_threads);
      },
      py::arg("points"), py::arg("starts"), py::arg("n_groups"), py::arg("n_anchor_groups"), py::arg("nearest"),
      py::arg("width"), py::arg("seed"), py::arg("balanced"), py::arg("n_triplets"), py::arg("triplets"),
      py::arg("num_threads"));

  m.def(
      "angular_loss",
      [](const std::string& dtype, Address z, std::int64_t n, std::int64_t d, Address L, std::int64_t l,
         Address triplets, std::int64_t n_triplets, double tan2_alpha, Address weight, Address losses, Address grad_y,
         Address x, Address rows, int num_threads) {
        const AngularLossReport report = by_dtype(dtype, [&]<typename T>(T) {
          const py::gil_scoped_release nogil;
          return angular_loss(at<const T>(z), n, d, at<const T>(L), l, at<const std::int64_t>(triplets), n_triplets,
                              tan2_alpha, at<const T>(weight), at<T>(losses), at<T>(grad_y), at<T>(x),
                              at<std::int64_t>(rows), num_threads);
        });
        return py::make_tuple(report.loss, report.used, report.in_range, report.is_finite);
      },
      py::arg("dtype"), py::arg("z"), py::arg("n"), py::arg("d"), py::arg("L"), py::arg("l"), py::arg("triplets"),
      py::arg("n_triplets"), py::arg("tan2_alpha"), py::arg("weight"), py::arg("losses"), py::arg("grad_y"),
      py::arg("x"), py::arg("rows"), py::arg("num_threads"));

  m.def(
      "angular_loss_backward",
      [](const std::string& dtype, Address x, std::int64_t used, std::int64_t d, Address L, std::int64_t l,
         Address grad_y, double scale, Address rows, std::int64_t n, Address grad_z, Address grad_L, int num_threads) {
        by_dtype(dtype, [&]<typename T>(T) {
          const py::gil_scoped_release nogil;
          angular_loss_backward(at<const T>(x), used, d, at<const T>(L), l, at<const T>(grad_y), static_cast<T>(scale),
                                at<const std::int64_t>(rows), n, at<T>(grad_z), at<T>(grad_L), num_threads);
        });
      },
      py::arg("dtype"), py::arg("x"), py::arg("used"), py::arg("d"), py::arg("L"), py::arg("l"), py::arg("grad_y"),
      py::arg("scale"), py::arg("rows"), py::arg("n"), py::arg("grad_z"), py::arg("grad_L"), py::arg("num_threads"));

  m.def(
      "projected_loss",
      [](const std::string& dtype, Address y, std::int64_t n, std::int64_t l, Address triplets, std::int64_t n_triplets,
         double tan2_alpha, Address weight, Address losses, Address grad_y, int num_threads) {
        return by_dtype(dtype, [&]<typename T>(T) {
          const py::gil_scoped_release nogil;
          return projected_loss(at<const T>(y), n, l, at<const std::int64_t>(triplets), n_triplets, tan2_alpha,
                                at<const T>(weight), at<T>(losses), at<T>(grad_y), num_threads);
        });
      },
      py::arg("dtype"), py::arg("y"), py::arg("n"), py::arg("l"), py::arg("triplets"), py::arg("n_triplets"),
      py::arg("tan2_alpha"), py::arg("weight"), py::arg("losses"), py::arg("grad_y"), py::arg("num_threads"));

  m.def(
      "cayley_update",
      [](const std::string& dtype, Address L, Address grad, std::int64_t batch, std::int64_t d, std::int64_t l,
         double step, Address updated, int num_threads) {
        const CayleyReport report = by_dtype(dtype, [&]<typename T>(T) {
          const py::gil_scoped_release nogil;
          return cayley_update(at<const T>(L), at<const T>(grad), batch, d, l, step, at<T>(updated), num_threads);
        });
        return py::make_tuple(report.drift, report.updated_drift);
      },
      py::arg("dtype"), py::arg("L"), py::arg("grad"), py::arg("batch"), py::arg("d"), py::arg("l"), py::arg("step"),
      py::arg("updated"), py::arg("num_threads"));

  m.def(
      "qr_retraction",
      [](const std::string& dtype, Address L, Address direction, std::int64_t batch, std::int64_t d, std::int64_t l,
         Address q, int num_threads) {
        const RetractionReport report = by_dtype(dtype, [&]<typename T>(T) {
          const py::gil_scoped_release nogil;
          return qr_retraction(at<const T>(L), at<const T>(direction), batch, d, l, at<T>(q), num_threads);
        });
        return py::make_tuple(report.drift, report.is_accurate);
      },
      py::arg("dtype"), py::arg("L"), py::arg("direction"), py::arg("batch"), py::arg("d"), py::arg("l"), py::arg("q"),
      py::arg("num_threads"));

  m.def(
      "riemannian_cg",
      [](const std::string& dtype, Address z, std::int64_t n, std::int64_t d, std::int64_t l, Address triplets,
         std::int64_t n_triplets, double tan2_alpha, Address weight, std::int64_t iterations, Address L,
         int num_threads) {
        PythonProgress progress(py::none{});
        const CgReport report = by_dtype(dtype, [&]<typename T>(T) {
          return progress.watch([&] {
            return riemannian_cg(at<const T>(z), n, d, l, at<const std::int64_t>(triplets), n_triplets, tan2_alpha,
                                 at<const T>(weight), iterations, at<T>(L), num_threads, progress);
          });
        });
        return py::make_tuple(report.loss, report.grad_norm, report.iterations, report.evaluations, report.drift);
      },
      py::arg("dtype"), py::arg("z"), py::arg("n"), py::arg("d"), py::arg("l"), py::arg("triplets"),
      py::arg("n_triplets"), py::arg("tan2_alpha"), py::arg("weight"), py::arg("iterations"), py::arg("L"),
      py::arg("num_threads"));
}
