// Energy, forces and uncertainties of a water molecule: `water model.pt`, a file of `uqforce export`.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/script.h>

#include <iostream>
#include <sstream>

using at::Tensor;
using NeighborList = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, double,
                                                        const std::optional<Tensor>&);

// The model's own words: a number or a list after "key": in metadata.json.
std::string look_up(const std::string& metadata, const std::string& key) {
  const size_t start = metadata.find("\"" + key + "\": ") + key.size() + 4;
  return metadata.substr(start, metadata.find_first_of(metadata[start] == '[' ? "]" : ",\n", start) - start);
}

int main(int argc, char** argv) {
  if (argc != 2) return std::cerr << "usage: water model.pt\n", 2;
  torch::jit::ExtraFilesMap extra{{"metadata.json", ""}};
  torch::jit::Module model = torch::jit::load(argv[1], at::kCPU, extra);
  const std::string& metadata = extra["metadata.json"];

  const Tensor positions =
      at::tensor({0.0, 0.0, 0.0, 0.96, 0.0, 0.0, -0.24, 0.93, 0.0}, at::kDouble).view({3, 3});
  const Tensor cell = at::zeros({1, 3, 3}, at::kDouble), pbc = at::zeros({1, 3}, at::kBool);
  const auto neighbor_list =
      c10::Dispatcher::singleton().findSchemaOrThrow("uqforce::neighbor_list", "").typed<NeighborList>();
  const double cutoff = std::stod(look_up(metadata, "cutoff"));
  const auto [edge_index, cell_shift, edge_vec] =
      neighbor_list.call(positions, cell, pbc, cutoff, std::nullopt);

  const std::string names = look_up(metadata, "type_names");  // [ "C", "H", ...
  const auto type = [&](const std::string& name) {
    const size_t at = names.find("\"" + name + "\"");
    if (at == std::string::npos) throw std::runtime_error("the model does not know " + name);
    return static_cast<int64_t>(std::count(names.begin(), names.begin() + at, ','));
  };
  const Tensor types = at::tensor({type("O"), type("H"), type("H")}, at::kLong);
  for (const auto& item :
       model.forward({edge_vec, edge_index, types, at::zeros_like(types), 1}).toGenericDict()) {
    const std::string name = item.key().toStringRef();
    const bool shown = name == "energy" || name == "forces" || name.find("uncertainty") != std::string::npos;
    if (shown || name == "nll") std::cout << name << "\n" << item.value().toTensor() << "\n";
  }
}
