#include "lammps/model_file.h"

#include <stdexcept>

#include "fmt/format.h"
#include "json.h"

namespace uqforce::lammps {

using LAMMPS_NS::json;

static constexpr int kFormatVersion = 3;  // see uqforce/exporting/exported_potential.py

ModelFile::ModelFile(const std::string& path, const std::string& metadata, const std::string& build) {
  const json model = json::parse(metadata), library = json::parse(build);
  version = library.at("uqforce");
  instruction_set = library.at("instruction_set");
  if (!library.at("cuda_archs").is_null()) cuda_archs = library.at("cuda_archs");
  const int format = model.at("format_version");
  if (format > kFormatVersion) {
    throw std::runtime_error(
        fmt::format("{} is an exported model of format {}, this plugin (uqforce {}) reads up to {}: upgrade "
                    "uqforce",
                    path, format, version, kFormatVersion));
  }
  if (format < kFormatVersion) {
    throw std::runtime_error(
        fmt::format("{} is of format {} of uqforce {}, this plugin reads {}: export it again", path, format,
                    model.at("uqforce_version").get<std::string>(), kFormatVersion));
  }
  if (model.at("tabulation").empty()) {
    throw std::runtime_error(
        path + " holds radial networks, LAMMPS runs tables: export it without `--tabulation 0`");
  }
  const json& domain = model.at("domain");
  type_names = model.at("type_names");
  cutoff = model.at("cutoff");
  num_layers = model.at("num_layers");
  dtype = model.at("dtype");
  per_atom = domain.at("per_atom").get<std::map<std::string, int>>();
  per_structure = domain.at("per_structure");
  one_variance = domain.at("one_variance");
  forward_bytes = domain.at("forward_bytes");
  reverse_bytes = domain.at("reverse_bytes");
  thresholds = model.at("thresholds").value("nll", std::map<std::string, double>());
  compiled = model.contains("methods");
  if (compiled) {
    methods = model.at("methods").get<Methods>();
    processor = model.at("processor");
  }
}

std::string choose_device(const std::string& wanted, const ModelFile& file,
                          const std::vector<std::string>& device_archs, int local_rank) {
  const int devices = static_cast<int>(device_archs.size());
  const bool kernels = !file.cuda_archs.empty(), automatic = wanted == "auto";
  if (wanted == "cpu" || (automatic && (devices == 0 || !kernels || file.compiled))) return "cpu";
  if (file.compiled) {
    throw std::runtime_error("an AOTInductor file was compiled for the cpu: leave out `device " + wanted +
                             "`, or export to TorchScript");
  }
  if (!kernels) {
    throw std::runtime_error("device " + wanted +
                             " was asked for, but uqforce was built without CUDA kernels: install it where "
                             "nvcc is found, or leave it out");
  }
  const int asked = wanted.rfind("cuda:", 0) == 0 ? std::stoi(wanted.substr(5)) : -1;
  if (devices == 0 || asked >= devices) {
    throw std::runtime_error(
        fmt::format("device {} was asked for, but libtorch sees {} CUDA device(s) here: a torch built for "
                    "CUDA and its driver are needed",
                    wanted, devices));
  }
  const int number = asked >= 0 ? asked : local_rank % devices;
  if (!device_archs[number].empty()) return fmt::format("cuda:{}", number);
  if (automatic) return "cpu";
  std::string archs;
  for (const std::string& arch : file.cuda_archs) archs += (archs.empty() ? "" : " ") + arch;
  throw std::runtime_error(fmt::format(
      "device {} was asked for, but uqforce was built for {}, which card {} does not run: rebuild "
      "it there, see UQFORCE_CUDA_ARCHS",
      wanted, archs, number));
}

}  // namespace uqforce::lammps
