// A C++ host of an exported model: needs libtorch and libuqforce.so, no Python.
//
//   driver LIBUQFORCE MODEL STRUCTURE
//
// STRUCTURE (written by write_case.py): atoms; nine cell entries; three pbc flags; the expected energy; and
// per atom type x y z and the expected force. Prints energy and forces; exits 1 when they differ by more than
// 1e-6 of the largest value.
#include <ATen/core/dispatch/Dispatcher.h>
#include <dlfcn.h>
#include <torch/script.h>

#include <fstream>
#include <iostream>

using at::Tensor;

Tensor read(std::istream& in, at::IntArrayRef shape) {
  Tensor values = at::empty(shape, at::kDouble);
  for (int64_t k = 0; k < values.numel(); ++k) in >> values.data_ptr<double>()[k];
  return values;
}

bool same(const char* name, const Tensor& found, const Tensor& expected) {
  const double error = ((found - expected).abs().max() / expected.abs().max().clamp_min(1.0)).item<double>();
  std::cout << name << ": relative difference " << error << "\n";
  return error <= 1e-6;
}

int main(int argc, char** argv) {
  if (argc != 4) return std::cerr << "usage: driver LIBUQFORCE MODEL STRUCTURE\n", 2;
  if (dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL) == nullptr) return std::cerr << dlerror() << "\n", 2;
  torch::jit::ExtraFilesMap extra{{"metadata.json", ""}};
  torch::jit::Module model = torch::jit::load(argv[2], at::kCPU, extra);
  const std::string key = "\"cutoff\": ", metadata = extra["metadata.json"];
  const double cutoff = std::stod(metadata.substr(metadata.find(key) + key.size()));

  std::ifstream in(argv[3]);
  int64_t atoms = 0;
  in >> atoms;
  const Tensor cell = read(in, {1, 3, 3}), pbc = read(in, {1, 3}).to(at::kBool), energy = read(in, {1});
  const Tensor table = read(in, {atoms, 7});  // type, position, force
  if (!in) return std::cerr << argv[3] << " cannot be read\n", 2;
  const Tensor types = table.select(1, 0).to(at::kLong), batch = at::zeros_like(types);
  const Tensor positions = table.slice(1, 1, 4).contiguous(), forces = table.slice(1, 4, 7);

  using NeighborList = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, double,
                                                          const std::optional<Tensor>&);
  const auto neighbor_list =
      c10::Dispatcher::singleton().findSchemaOrThrow("uqforce::neighbor_list", "").typed<NeighborList>();
  const auto [edge_index, cell_shift, edge_vec] =
      neighbor_list.call(positions, cell, pbc, cutoff, std::nullopt);
  const auto out = model.forward({edge_vec, edge_index, types, batch, 1}).toGenericDict();

  std::cout.precision(12);
  std::cout << "energy " << out.at("energy").toTensor().item<double>() << " eV\nforces eV/A\n"
            << out.at("forces").toTensor() << "\n";
  const bool energy_ok = same("energy", out.at("energy").toTensor(), energy);
  return same("forces", out.at("forces").toTensor(), forces) && energy_ok ? 0 : 1;
}
