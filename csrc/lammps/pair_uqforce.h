// pair_style uqforce [exchange | shell] [every N]
// pair_coeff * * model.pt Element1 Element2 ...
//
// docs/lammps.md is the manual. This file and its .cpp see LAMMPS headers only, no libtorch.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "lammps/engine.h"
#include "lammps/uncertainties.h"
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
  void* extract(const char* name, int& dimension) override;
  void* extract_peratom(const char* name, int& columns) override;

  int pack_forward_comm(int n, int* list, double* buffer, int pbc_flag, int* pbc) override;
  void unpack_forward_comm(int n, int first, double* buffer) override;
  int pack_reverse_comm(int n, int first, double* buffer) override;
  void unpack_reverse_comm(int n, int* list, double* buffer) override;

 private:
  [[noreturn]] void stop(const std::string& sentence);
  std::string read_metadata(const std::string& path);
  void number_rows();
  void find_edges();
  bool wants_uncertainties() const;
  void check_finite(const double* energies, const double* edge_gradient);
  void scatter(const double* energies, const double* edge_gradient);

  void to_ghosts(const uqforce::lammps::Rows& rows) override;
  void to_owners(const uqforce::lammps::Rows& rows) override;
  void sum(double* values, int count) override;

  bool exchange_ = true;  // features, or else a wide shell of ghosts with edges of their own
  std::unique_ptr<uqforce::lammps::Engine> engine_;
  std::vector<std::string> type_names_;
  std::vector<int64_t> model_type_;  // of LAMMPS's types, from 1
  double cutoff_ = 0;
  int num_layers_ = 0;
  int64_t forward_bytes_ = 0, reverse_bytes_ = 0;  // of an atom, at most, in the model's messages
  bool one_variance_ = false;                      // of the whole system

  uqforce::lammps::Domain domain_;
  std::vector<char> is_center_;
  // Of LAMMPS's atoms: their rows in `domain_`. An image of an own atom is that atom's row.
  std::vector<int> row_of_;
  std::unordered_map<tagint, int> own_;
  std::vector<int> edge_atoms_;  // LAMMPS's neighbor of each edge
  uqforce::lammps::Uncertainties uncertainties_;
  int every_ = 1;                                // steps between them
  int requested_ = 0;                            // by `fix pair` with trigger, for this step
  const uqforce::lammps::Rows* rows_ = nullptr;  // that are being communicated
};

}  // namespace LAMMPS_NS
