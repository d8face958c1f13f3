// Prints where a rank computes: choose_device METADATA.json BUILD.json WANTED RANK [ARCH_OF_DEVICE...]
// "-" is a device that runs nothing of what was built.
#include <cstdio>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "lammps/model_file.h"

static std::string content(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

int main(int /*count*/, char** arguments) {
  const uqforce::lammps::ModelFile file("model.pt", content(arguments[1]), content(arguments[2]));
  std::vector<std::string> archs;
  for (char** arch = arguments + 5; *arch; ++arch) archs.push_back(std::string(*arch) == "-" ? "" : *arch);
  try {
    std::puts(uqforce::lammps::choose_device(arguments[3], file, archs, std::stoi(arguments[4])).c_str());
  } catch (const std::runtime_error& error) {
    std::puts(error.what());
  }
}
