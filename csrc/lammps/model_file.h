// What an exported model says of itself: its metadata, see uqforce/exporting/exported_potential.py.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lammps/engine.h"

namespace uqforce::lammps {

struct ModelFile {
  // Reads both documents (JSON). std::runtime_error says what this plugin cannot run.
  ModelFile(const std::string& path, const std::string& metadata, const std::string& build);

  std::vector<std::string> type_names;
  double cutoff = 0;  // A
  int num_layers = 0;
  std::string dtype;
  std::map<std::string, int> per_atom;           // uncertainties of atoms, and their columns
  std::vector<std::string> per_structure;        // of the whole system
  bool one_variance = false;                     // they come of one process of it
  int64_t forward_bytes = 0, reverse_bytes = 0;  // of an atom, at most, in the model's messages
  std::map<std::string, double> thresholds;      // of nll

  bool compiled = false;  // ahead of time: its methods and the kind of processor
  Methods methods;
  std::string processor;

  // Of the op library.
  std::string version, instruction_set;
  std::vector<std::string> cuda_archs;  // none: no CUDA kernels
};

// Where a rank computes: "cpu" or "cuda:K". `wanted` is "auto", "cpu", "cuda" or "cuda:K"; of several devices
// a rank takes that of its number on its machine. `device_archs` has, for each device, what of the op library
// it runs (Engine::cuda_arch_for): with "auto" a rank of a device that runs nothing computes on the cpu.
// std::runtime_error where it cannot be had.
std::string choose_device(const std::string& wanted, const ModelFile& file,
                          const std::vector<std::string>& device_archs, int local_rank);

}  // namespace uqforce::lammps
