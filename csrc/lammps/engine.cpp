#include "lammps/engine.h"

#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/python/update_graph_executor_opt.h>
#include <torch/csrc/jit/serialization/import.h>

#include <cstring>
#include <fstream>
#include <stdexcept>

#include "ghost_exchange/op.h"

namespace uqforce::lammps {
namespace {

using at::Tensor;

// The ops' tensors as the pair style's rows.
class TensorRanks : public Ranks {
 public:
  explicit TensorRanks(Communication& communication) : communication_(communication) {}
  void to_ghosts(Tensor& rows) override { communication_.to_ghosts(as_rows(rows.unsqueeze(0))); }
  void to_owners(Tensor& rows) override { communication_.to_owners(as_rows(rows)); }
  void sum(Tensor& values) override {
    communication_.sum(values.data_ptr<double>(), static_cast<int>(values.numel()));
  }

 private:
  static Rows as_rows(const Tensor& rows) {  // [parts, atoms, dim]
    const int64_t bytes = rows.size(2) * rows.element_size();
    return {static_cast<char*>(rows.data_ptr()), rows.size(0), rows.size(1) * bytes, bytes,
            rows.scalar_type() == at::kFloat};
  }
  Communication& communication_;
};

// What libtorch says, without its list of stack frames.
std::string first_line(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  const std::string text = torch_error ? torch_error->what_without_backtrace() : error.what();
  const size_t start = text.find("RuntimeError: ");  // TorchScript puts its own trace before it
  const std::string words = start == std::string::npos ? text : text.substr(start + 14);
  return words.substr(0, words.find('\n'));
}

}  // namespace

struct Engine::Impl {
  torch::jit::Module model;
  std::string metadata;
  c10::impl::GenericDict out{c10::StringType::get(), c10::TensorType::get()};  // keeps the results alive
};

Engine::Engine(const std::string& path, int threads) : impl_(std::make_unique<Impl>()) {
  if (!std::ifstream(path)) throw std::runtime_error("there is no model file " + path);
  at::set_num_threads(threads);
  // Every call is computed the same way, the first ones too: see `call` in uqforce/deploy/export.py.
  torch::jit::setGraphExecutorOptimize(false);
  torch::jit::ExtraFilesMap extra{{"metadata.json", ""}};
  try {
    impl_->model = torch::jit::load(path, at::kCPU, extra);
  } catch (const std::exception& error) {
    throw std::runtime_error(path + " is not a TorchScript file, or is damaged (" + first_line(error) +
                             "): write it with `uqforce export model.uqf -o model.pt`");
  }
  impl_->metadata = extra["metadata.json"];
  if (impl_->metadata.empty()) {
    throw std::runtime_error(path +
                             " is a TorchScript file without uqforce's metadata: write it with "
                             "`uqforce export model.uqf -o model.pt`");
  }
}

Engine::~Engine() = default;

const std::string& Engine::metadata() const { return impl_->metadata; }

std::string Engine::build() const {
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("uqforce::build_info", "");
  return op.typed<std::string()>().call();
}

Prediction Engine::evaluate(const Domain& domain, bool exchange, Communication& communication) {
  const auto edges = static_cast<int64_t>(domain.centers.size());
  const auto blob = [](const auto& values, at::IntArrayRef shape, at::ScalarType type) {
    return at::from_blob(const_cast<void*>(static_cast<const void*>(values.data())), shape, type);
  };
  try {
    const at::NoGradGuard no_grad;
    TensorRanks ranks(communication);
    const UseRanks use(ranks);
    Tensor edge_index = at::empty({2, edges}, at::kLong);
    edge_index[0].copy_(blob(domain.centers, {edges}, at::kLong));
    edge_index[1].copy_(blob(domain.neighbors, {edges}, at::kLong));
    impl_->out =
        impl_->model
            .get_method("domain")({blob(domain.edge_vec, {edges, 3}, at::kDouble), edge_index,
                                   blob(domain.types, {domain.atoms}, at::kLong), domain.owned, exchange})
            .toGenericDict();
  } catch (const std::exception& error) {
    throw std::runtime_error("the model cannot be evaluated for " + std::to_string(domain.atoms) +
                             " atoms and " + std::to_string(edges) + " edges: " + first_line(error));
  }
  const auto values = [this](const char* name) -> const double* {
    const auto entry = impl_->out.find(name);
    if (entry == impl_->out.end()) return nullptr;
    const Tensor values = entry->value().toTensor().contiguous();
    impl_->out.insert_or_assign(name, values);
    return values.const_data_ptr<double>();
  };
  Prediction prediction{values("energies"), values("edge_gradient"), values("nll"),
                        values("energies_variance"), values("forces_uncertainty")};
  if (const double* sigma = values("energy_uncertainty")) prediction.energy_uncertainty = *sigma;
  return prediction;
}

}  // namespace uqforce::lammps
