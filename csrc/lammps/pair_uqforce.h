// pair_style uqforce [exchange | shell]
// pair_coeff * * model.pt Element1 Element2 ...
//
// docs/lammps.md is the manual. This file and its .cpp see LAMMPS headers only, no libtorch.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lammps/engine.h"
#include "pair.h"

namespace LAMMPS_NS {

class PairUqforce : public Pair, private uqforce::lammps::Communication {
 public:
  explicit PairUqforce(LAMMPS* lmp);
  ~PairUqforce() override;

  void settings(int narg, char** arg) override;
  void coeff(int narg, char** arg) override;
  void init_style() override;
  double init_one(int i, int j) override;
  void compute(int eflag, int vflag) override;
  void* extract_peratom(const char* name, int& columns) override;

  int pack_forward_comm(int n, int* list, double* buffer, int pbc_flag, int* pbc) override;
  void unpack_forward_comm(int n, int first, double* buffer) override;
  int pack_reverse_comm(int n, int first, double* buffer) override;
  void unpack_reverse_comm(int n, int* list, double* buffer) override;

 private:
  // Results of the last step; `pvector` has these in this order, nan where the model lacks them.
  enum { NLL_MAX, NLL_MEAN, FORCES_MAX, FORCES_MEAN, ENERGY, NUM_EXTRA };

  [[noreturn]] void stop(const std::string& sentence);
  std::string read_metadata(const std::string& path);
  void find_edges();
  void scatter(const uqforce::lammps::Prediction& prediction);
  void keep_uncertainties(const uqforce::lammps::Prediction& prediction);
  void check_finite(const uqforce::lammps::Prediction& prediction);

  void to_ghosts(const uqforce::lammps::Rows& rows) override;
  void to_owners(const uqforce::lammps::Rows& rows) override;
  void sum(double* values, int count) override;

  bool exchange_ = true;  // features, or else a wide shell of ghosts with edges of their own
  std::unique_ptr<uqforce::lammps::Engine> engine_;
  std::vector<std::string> type_names_;
  std::vector<int64_t> model_type_;  // of LAMMPS's types, from 1
  double cutoff_ = 0;
  int num_layers_ = 0, exchange_width_ = 0, cotangents_ = 1;
  bool single_ = false;

  uqforce::lammps::Domain domain_;
  std::vector<char> is_center_;
  std::vector<double> nll_, forces_uncertainty_, energies_variance_;  // of own atoms; empty: not carried
  const uqforce::lammps::Rows* rows_ = nullptr;                       // that are being communicated
};

}  // namespace LAMMPS_NS
