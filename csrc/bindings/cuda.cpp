// The Python face of the CUDA kernels, block for block like cpu.cpp. Arrays arrive as addresses of memory on the
// current device, `stream` as the address of a stream of that device. Calls return before their kernels have run, but
// for searches that report their progress, and for propagate_affinity and propagate_labels, which look at their error
// bounds as they go. A workspace is that many bytes, aligned to 256.
#include <string>

#include "affinity/affinity.h"
#include "angular_loss/angular_loss.h"
#include "bindings/bindings.h"
#include "common/parallel.h"
#include "cuda/device.h"
#include "knn_graph/knn_graph.h"
#include "mine_class_triplets/mine_class_triplets.h"
#include "mine_triplets/mine_triplets.h"
#include "propagate_labels/propagate_labels.h"
#include "riemannian_cg/riemannian_cg.h"
#include "stiefel/stiefel.h"

using namespace ssdml;

PYBIND11_MODULE(cuda_kernels, m) {
  m.doc() = "Kernels of ssdml_fast for CUDA devices.";

  m.def("device_of", &cuda::device_of, py::arg("address"));

  m.def(
      "knn_graph_workspace",
      [](std::int64_t n, std::int64_t d, std::int64_t k, const std::string& metric, std::int64_t largest) {
        return cuda::knn_graph_workspace(n, d, k, metric_of(metric), largest);
      },
      py::arg("n"), py::arg("d"), py::arg("k"), py::arg("metric"), py::arg("largest"));

  m.def(
      "knn_graph",
      [](const std::string& dtype, Address x, std::int64_t n, std::int64_t d, std::int64_t k, const std::string& metric,
         Address ptr, std::int64_t segments, std::int64_t largest, Address indices, Address distances,
         Address workspace, Address stream, py::object callback) {
        PythonProgress progress(std::move(callback));
        by_point_dtype(dtype, [&, metric = metric_of(metric)]<typename X>(X) {
          progress.watch([&] {
            return cuda::knn_graph(at<const X>(x), n, d, k, metric, at<const std::int64_t>(ptr), segments, largest,
                                   at<std::int64_t>(indices), at<Distance<X>>(distances), progress.if_wanted(),
                                   at<void>(workspace), at<void>(stream));
          });
        });
      },
      py::arg("dtype"), py::arg("x"), py::arg("n"), py::arg("d"), py::arg("k"), py::arg("metric"), py::arg("ptr"),
      py::arg("segments"), py::arg("largest"), py::arg("indices"), py::arg("distances"), py::arg("workspace"),
      py::arg("stream"), py::arg("progress"));

  m.def(
      "knn_search_workspace",
      [](std::int64_t n_queries, std::int64_t n_base, std::int64_t d, std::int64_t k, const std::string& metric) {
        return cuda::knn_search_workspace(n_queries, n_base, d, k, metric_of(metric));
      },
      py::arg("n_queries"), py::arg("n_base"), py::arg("d"), py::arg("k"), py::arg("metric"));

  m.def(
      "knn_search",
      [](const std::string& dtype, Address queries, std::int64_t n_queries, Address base, std::int64_t n_base,
         std::int64_t d, std::int64_t k, const std::string& metric, Address indices, Address distances,
         Address workspace, Address stream, py::object callback) {
        PythonProgress progress(std::move(callback));
        by_point_dtype(dtype, [&, metric = metric_of(metric)]<typename X>(X) {
          progress.watch([&] {
            return cuda::knn_search(at<const X>(queries), n_queries, at<const X>(base), n_base, d, k, metric,
                                    at<std::int64_t>(indices), at<Distance<X>>(distances), progress.if_wanted(),
                                    at<void>(workspace), at<void>(stream));
          });
        });
      },
      py::arg("dtype"), py::arg("queries"), py::arg("n_queries"), py::arg("base"), py::arg("n_base"), py::arg("d"),
      py::arg("k"), py::arg("metric"), py::arg("indices"), py::arg("distances"), py::arg("workspace"),
      py::arg("stream"), py::arg("progress"));

  m.def("propagate_affinity_workspace", &cuda::propagate_affinity_workspace, py::arg("n"), py::arg("k"),
        py::arg("weighted"), py::arg("classes"));

  m.def(
      "propagate_affinity",
      [](const std::string& dtype, Address indices, Address weights, std::int64_t n, std::int64_t k, Address labels,
         std::int64_t classes, double gamma, double tol, Address values, Address class_mass, Address workspace,
         Address stream, py::object callback, py::object others) {
        PythonProgress progress(std::move(callback));
        PythonPeers peers(std::move(others), progress);
        const WalkReport report = by_dtype(dtype, [&]<typename T>(T) {
          return progress.watch([&] {
            return cuda::propagate_affinity(at<const std::int64_t>(indices), at<const double>(weights), n, k,
                                            at<const std::int64_t>(labels), classes, gamma, tol, at<T>(values),
                                            at<T>(class_mass), progress, peers, at<void>(workspace), at<void>(stream));
          });
        });
        return py::make_tuple(report.iterations, report.error_bound);
      },
      py::arg("dtype"), py::arg("indices"), py::arg("weights"), py::arg("n"), py::arg("k"), py::arg("labels"),
      py::arg("classes"), py::arg("gamma"), py::arg("tol"), py::arg("values"), py::arg("class_mass"),
      py::arg("workspace"), py::arg("stream"), py::arg("progress"), py::arg("peers") = py::none());

  m.def("propagate_labels_workspace", &cuda::propagate_labels_workspace, py::arg("n"), py::arg("k"),
        py::arg("weighted"), py::arg("segments"), py::arg("classes"));

  m.def(
      "propagate_labels",
      [](const std::string& dtype, Address indices, Address weights, std::int64_t n, std::int64_t k, Address ptr,
         std::int64_t segments, Address labels, std::int64_t classes, double gamma, double tol, Address posteriors,
         Address workspace, Address stream, py::object callback, py::object others) {
        PythonProgress progress(std::move(callback));
        PythonPeers peers(std::move(others), progress);
        const WalkReport report = by_dtype(dtype, [&]<typename T>(T) {
          return progress.watch([&] {
            return cuda::propagate_labels(at<const std::int64_t>(indices), at<const double>(weights), n, k,
                                          at<const std::int64_t>(ptr), segments, at<const std::int64_t>(labels),
                                          classes, gamma, tol, at<T>(posteriors), progress, peers, at<void>(workspace),
                                          at<void>(stream));
          });
        });
        return py::make_tuple(report.iterations, report.error_bound);
      },
      py::arg("dtype"), py::arg("indices"), py::arg("weights"), py::arg("n"), py::arg("k"), py::arg("ptr"),
      py::arg("segments"), py::arg("labels"), py::arg("classes"), py::arg("gamma"), py::arg("tol"),
      py::arg("posteriors"), py::arg("workspace"), py::arg("stream"), py::arg("progress"),
      py::arg("peers") = py::none());

  m.def(
      "mine_triplets",
      [](const std::string& dtype, Address indices, Address distances, Address affinity, std::int64_t k,
         Address anchors, std::int64_t n_anchors, Address triplets, Address stream) {
        by_dtype(dtype, [&]<typename T>(T) {
          const py::gil_scoped_release nogil;
          cuda::mine_triplets(at<const std::int64_t>(indices), at<const T>(distances), at<const T>(affinity), k,
                              at<const std::int64_t>(anchors), n_anchors, at<std::int64_t>(triplets), at<void>(stream));
        });
      },
      py::arg("dtype"), py::arg("indices"), py::arg("distances"), py::arg("affinity"), py::arg("k"), py::arg("anchors"),
      py::arg("n_anchors"), py::arg("triplets"), py::arg("stream"));

  m.def(
      "mine_class_triplets",
      [](Address points, Address starts, std::int64_t n_groups, std::int64_t n_anchor_groups, Address nearest,
         std::int64_t width, std::uint64_t seed, bool balanced, std::int64_t n_triplets, Address triplets,
         Address stream) {
        const py::gil_scoped_release nogil;
        cuda::mine_class_triplets({at<const std::int64_t>(points), at<const std::int64_t>(starts), n_groups,
                                   n_anchor_groups, at<const std::int64_t>(nearest), width, seed, balanced},
                                  n_triplets, at<std::int64_t>(triplets), at<void>(stream));
      },
      py::arg("points"), py::arg("starts"), py::arg("n_groups"), py::arg("n_anchor_groups"), py::arg("nearest"),
      py::arg("width"), py::arg("seed"), py::arg("balanced"), py::arg("n_triplets"), py::arg("triplets"),
      py::arg("stream"));

  m.def("projected_loss_workspace", &cuda::projected_loss_workspace, py::arg("n"), py::arg("n_triplets"));

  m.def(
      "projected_loss",
      [](const std::string& dtype, Address y, std::int64_t n, std::int64_t l, Address triplets, std::int64_t n_triplets,
         double tan2_alpha, Address weight, Address losses, Address grad_y, Address workspace, Address stream) {
        by_dtype(dtype, [&]<typename T>(T) {
          const py::gil_scoped_release nogil;
          cuda::projected_loss(at<const T>(y), n, l, at<const std::int64_t>(triplets), n_triplets, tan2_alpha,
                               at<const T>(weight), at<T>(losses), at<T>(grad_y), at<void>(workspace),
                               at<void>(stream));
        });
      },
      py::arg("dtype"), py::arg("y"), py::arg("n"), py::arg("l"), py::arg("triplets"), py::arg("n_triplets"),
      py::arg("tan2_alpha"), py::arg("weight"), py::arg("losses"), py::arg("grad_y"), py::arg("workspace"),
      py::arg("stream"));

  m.def(
      "cayley_update_workspace",
      [](const std::string& dtype, std::int64_t batch, std::int64_t l) {
        return by_dtype(dtype, [&]<typename T>(T) { return cuda::cayley_update_workspace<T>(batch, l); });
      },
      py::arg("dtype"), py::arg("batch"), py::arg("l"));

  m.def(
      "cayley_update",
      [](const std::string& dtype, Address L, Address grad, std::int64_t batch, std::int64_t d, std::int64_t l,
         double step, Address updated, Address drift, Address workspace, Address stream) {
        by_dtype(dtype, [&]<typename T>(T) {
          const py::gil_scoped_release nogil;
          cuda::cayley_update(at<const T>(L), at<const T>(grad), batch, d, l, step, at<T>(updated), at<double>(drift),
                              at<void>(workspace), at<void>(stream));
        });
      },
      py::arg("dtype"), py::arg("L"), py::arg("grad"), py::arg("batch"), py::arg("d"), py::arg("l"), py::arg("step"),
      py::arg("updated"), py::arg("drift"), py::arg("workspace"), py::arg("stream"));

  m.def(
      "riemannian_cg_workspace",
      [](const std::string& dtype, std::int64_t n, std::int64_t d, std::int64_t l, std::int64_t n_triplets) {
        return by_dtype(dtype, [&]<typename T>(T) { return cuda::riemannian_cg_workspace<T>(n, d, l, n_triplets); });
      },
      py::arg("dtype"), py::arg("n"), py::arg("d"), py::arg("l"), py::arg("n_triplets"));

  m.def(
      "riemannian_cg",
      [](const std::string& dtype, Address z, std::int64_t n, std::int64_t d, std::int64_t l, Address triplets,
         std::int64_t n_triplets, double tan2_alpha, Address weight, std::int64_t iterations, Address L, Address report,
         Address workspace, Address stream) {
        by_dtype(dtype, [&]<typename T>(T) {
          const py::gil_scoped_release nogil;
          cuda::riemannian_cg(at<const T>(z), n, d, l, at<const std::int64_t>(triplets), n_triplets, tan2_alpha,
                              at<const T>(weight), iterations, at<T>(L), at<double>(report), at<void>(workspace),
                              at<void>(stream));
        });
      },
      py::arg("dtype"), py::arg("z"), py::arg("n"), py::arg("d"), py::arg("l"), py::arg("triplets"),
      py::arg("n_triplets"), py::arg("tan2_alpha"), py::arg("weight"), py::arg("iterations"), py::arg("L"),
      py::arg("report"), py::arg("workspace"), py::arg("stream"));
}
