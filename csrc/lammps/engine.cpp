#include "lammps/engine.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/python/update_graph_executor_opt.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <optional>
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
  const std::string line = words.substr(0, words.find('\n'));
  const bool memory = line == "std::bad_alloc" || words.find("allocate memory") != std::string::npos ||
                      words.find("CUDA out of memory") != std::string::npos;
  return memory ? std::string(kOutOfMemory) + " (" + line + ")" : line;
}

using Named = std::vector<std::pair<std::string, Tensor>>;

// A file's `domain`, however it was compiled.
class Model {
 public:
  virtual ~Model() = default;
  virtual Named domain(const Tensor& edge_vec, const Tensor& edge_index, const Tensor& types,
                       const Tensor& numbers, int64_t owned, bool exchange, bool uncertain) = 0;
};

class Script : public Model {
 public:
  Script(const std::string& path, const at::Device& device) {
    // Every call is computed the same way, the first ones too: see `call` in uqforce/exporting/opening.py.
    torch::jit::setGraphExecutorOptimize(false);
    module_ = torch::jit::load(path, device);
  }
  Named domain(const Tensor& edge_vec, const Tensor& edge_index, const Tensor& types, const Tensor& numbers,
               int64_t owned, bool exchange, bool uncertain) override {
    Named out;
    const auto result =
        module_.get_method("domain")({edge_vec, edge_index, types, numbers, owned, exchange, uncertain});
    for (const auto& entry : result.toGenericDict()) {
      out.emplace_back(entry.key().toStringRef(), entry.value().toTensor());
    }
    return out;
  }

 private:
  torch::jit::Module module_;
};

// uqforce/exporting/aoti.py; the names of the results are in the file's metadata.
class Package : public Model {
 public:
  Package(const std::string& path, Methods methods) : methods_(std::move(methods)) {
    for (const auto& [name, outputs] : methods_) {
      if (name == "forward") continue;
      loaders_.emplace(name, std::make_unique<Loader>(path, name));
    }
  }
  Named domain(const Tensor& edge_vec, const Tensor& edge_index, const Tensor& types, const Tensor& numbers,
               int64_t owned, bool exchange, bool uncertain) override {
    if (!exchange) {
      throw std::runtime_error(
          "an AOTInductor file exchanges features: leave out `shell`, or export to TorchScript");
    }
    const std::string name = !uncertain && methods_.count("domain_plain") ? "domain_plain" : "domain";
    const std::vector<Tensor> results = loaders_.at(name)->run(
        {edge_vec, edge_index, types, numbers, at::empty({owned}, at::TensorOptions().dtype(at::kFloat))});
    const std::vector<std::string>& names = methods_.at(name);
    Named out;
    for (size_t k = 0; k < names.size(); ++k) out.emplace_back(names[k], results.at(k));
    return out;
  }

 private:
  using Loader = torch::inductor::AOTIModelPackageLoader;
  Methods methods_;
  std::map<std::string, std::unique_ptr<Loader>> loaders_;
};

}  // namespace

struct Engine::Impl {
  std::string path, metadata;
  bool compiled = false;  // ahead of time
  at::Device device = at::kCPU;
  std::unique_ptr<Model> model;
  Named out;  // keeps the results alive
  Prediction prediction;
};

Engine::Engine(const std::string& path, int threads) : impl_(std::make_unique<Impl>()) {
  if (!std::ifstream(path)) throw std::runtime_error("there is no model file " + path);
  at::set_num_threads(threads);
  impl_->path = path;
  try {
    caffe2::serialize::PyTorchStreamReader reader(path);
    const std::vector<std::string> names = reader.getAllRecords();
    impl_->compiled = std::any_of(names.begin(), names.end(), [](const std::string& name) {
      return name.find("data/aotinductor/") != std::string::npos;
    });
    if (reader.hasRecord("extra/metadata.json")) {
      const auto [data, size] = reader.getRecord("extra/metadata.json");
      impl_->metadata.assign(static_cast<const char*>(data.get()), size);
    }
  } catch (const std::exception& error) {
    throw std::runtime_error(path + " is not an exported model, or is damaged (" + first_line(error) +
                             "): write it with `uqforce export model.uqf -o model.pt`");
  }
  if (impl_->metadata.empty()) {
    throw std::runtime_error(path +
                             " holds no metadata of uqforce: write it with `uqforce export model.uqf -o "
                             "model.pt`");
  }
}

Engine::~Engine() = default;

int Engine::cuda_devices() { return at::hasCUDA() ? static_cast<int>(at::getNumGPUs()) : 0; }

std::string Engine::cuda_arch_for(int device, const std::vector<std::string>& archs) {
  auto& ops = c10::Dispatcher::singleton();
  const auto capability = ops.findSchemaOrThrow("uqforce::cuda_capability", "").typed<int64_t(int64_t)>();
  const auto arch_for = ops.findSchemaOrThrow("uqforce::cuda_arch_for", "")
                            .typed<std::string(int64_t, const std::vector<std::string>&)>();
  return arch_for.call(capability.call(device), archs);
}

void Engine::load(const Methods& methods, const std::string& processor, const std::string& device) {
  const std::string& path = impl_->path;
  impl_->device = at::Device(device);
  if (impl_->compiled && processor != at::get_cpu_capability()) {
    throw std::runtime_error(path + " was compiled for a processor with " + processor + ", this one has " +
                             at::get_cpu_capability() + ": export it here");
  }
  try {
    if (impl_->compiled) {
      impl_->model = std::make_unique<Package>(path, methods);
    } else {
      impl_->model = std::make_unique<Script>(path, impl_->device);
    }
  } catch (const std::exception& error) {
    throw std::runtime_error(path + " is damaged, or was written with another torch (" + first_line(error) +
                             "): export it again");
  }
}

const std::string& Engine::metadata() const { return impl_->metadata; }

std::string Engine::build() const {
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("uqforce::build_info", "");
  return op.typed<std::string()>().call();
}

const Prediction& Engine::evaluate(const Domain& domain, bool exchange, bool uncertain,
                                   Communication* communication) {
  const auto edges = static_cast<int64_t>(domain.centers.size());
  const auto blob = [](const auto& values, at::IntArrayRef shape, at::ScalarType type) {
    return at::from_blob(const_cast<void*>(static_cast<const void*>(values.data())), shape, type);
  };
  impl_->prediction.clear();
  impl_->out.clear();  // before the next results take memory
  try {
    const at::NoGradGuard no_grad;
    std::optional<TensorRanks> ranks;
    std::optional<UseRanks> use;
    if (communication) use.emplace(ranks.emplace(*communication));
    Tensor edge_index = at::empty({2, edges}, at::kLong);
    edge_index[0].copy_(blob(domain.centers, {edges}, at::kLong));
    edge_index[1].copy_(blob(domain.neighbors, {edges}, at::kLong));
    const at::Device device = impl_->device;
    impl_->out = impl_->model->domain(
        blob(domain.edge_vec, {edges, 3}, at::kDouble).to(device), edge_index.to(device),
        blob(domain.types, {domain.atoms}, at::kLong).to(device),
        blob(domain.numbers, {domain.atoms}, at::kLong).to(device), domain.owned, exchange, uncertain);
    for (auto& [name, tensor] : impl_->out) {
      tensor = tensor.to(at::kCPU).contiguous();
      const int64_t columns = c10::multiply_integers(tensor.sizes().slice(1));
      impl_->prediction[name] = {tensor.const_data_ptr<double>(), tensor.size(0), columns};
    }
  } catch (const std::exception& error) {
    throw std::runtime_error("the model cannot be evaluated for " + std::to_string(domain.atoms) +
                             " atoms and " + std::to_string(edges) + " edges: " + first_line(error));
  }
  return impl_->prediction;
}

}  // namespace uqforce::lammps
