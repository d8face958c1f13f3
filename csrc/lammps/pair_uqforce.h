// pair_style uqforce [exchange | shell [chunk N]] [every N] [device auto | cpu | cuda | cuda:K]
// pair_coeff * * model.pt Element1 Element2 ...
//
// docs/lammps.md is the manual. Of the files here only engine.cpp sees libtorch, and it sees no LAMMPS.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lammps/chunks.h"
#include "lammps/engine.h"
#include "lammps/messages.h"
#include "lammps/model_file.h"
#include "lammps/share.h"
#include "lammps/uncertainties.h"
#include "pair.h"

namespace LAMMPS_NS {

class PairUqforce : public Pair {
 public:
  explicit PairUqforce(LAMMPS* lmp);
  ~PairUqforce() override;

  void settings(int narg, char** arg) override;
  void coeff(int narg, char** arg) override;
  void init_style() override;
  double init_one(int i, int j) override;
  void compute(int eflag, int vflag) override;
  void* extract(const char* name, int& dimension) override;
  void* extract_peratom(const char* name, int& columns) override;

  int pack_forward_comm(int n, int* list, double* buffer, int, int*) override {
    return messages_.pack_forward(n, list, buffer);
  }
  void unpack_forward_comm(int n, int first, double* buffer) override {
    messages_.unpack_forward(n, first, buffer);
  }
  int pack_reverse_comm(int n, int first, double* buffer) override {
    return messages_.pack_reverse(n, first, buffer);
  }
  void unpack_reverse_comm(int n, int* list, double* buffer) override {
    messages_.unpack_reverse(n, list, buffer);
  }

 private:
  [[noreturn]] void stop(const std::string& sentence);
  void read(const std::string& path);
  std::string description(const std::string& path) const;
  int rank_on_machine() const;
  bool wants_uncertainties() const;

  void evaluate_whole(bool uncertain);
  void evaluate_chunks(bool uncertain);
  void scatter(const uqforce::lammps::Prediction& prediction);
  void check_finite(const double* energies, const double* edge_gradient);

  bool exchange_ = true;  // features, or else a wide shell of ghosts with edges of their own
  int chunk_ = 0;         // own atoms at a time; 0: all
  int every_ = 1;         // steps between uncertainties
  std::string wanted_device_ = "auto", device_;
  std::vector<std::string> device_archs_;  // what each device of this machine runs of the op library

  std::unique_ptr<uqforce::lammps::Engine> engine_;
  std::unique_ptr<uqforce::lammps::ModelFile> file_;
  Share share_;
  Messages messages_;
  uqforce::lammps::ChunkSums sums_;
  uqforce::lammps::Uncertainties uncertainties_;
  int requested_ = 0;  // by `fix pair` with trigger, for this step
};

}  // namespace LAMMPS_NS
