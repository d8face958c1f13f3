#include "lammps/pair_uqforce.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "exceptions.h"
#include "force.h"
#include "json.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "update.h"

using namespace LAMMPS_NS;
using uqforce::lammps::Engine;
using uqforce::lammps::Prediction;
using uqforce::lammps::Rows;

static constexpr int kFormatVersion = 3;  // of the model files, see uqforce/deploy/export.py

PairUqforce::PairUqforce(LAMMPS* lmp) : Pair(lmp) {
  single_enable = 0;
  restartinfo = 0;
  one_coeff = 1;
  manybody_flag = 1;
  no_virial_fdotr_compute = 1;  // the virial is summed over edges
  centroidstressflag = CENTROID_NOTAVAIL;
  nextra = uncertainties_.size();
  pvector = new double[nextra]();
}

PairUqforce::~PairUqforce() {
  delete[] pvector;
  if (allocated) {
    memory->destroy(setflag);
    memory->destroy(cutsq);
    memory->destroy(cutghost);
  }
}

void PairUqforce::settings(int narg, char** arg) {
  exchange_ = true, every_ = 1;
  for (int k = 0; k < narg; ++k) {
    if (strcmp(arg[k], "exchange") == 0 || strcmp(arg[k], "shell") == 0) {
      exchange_ = strcmp(arg[k], "exchange") == 0;
    } else if (strcmp(arg[k], "every") == 0 && k + 1 < narg) {
      every_ = utils::inumeric(FLERR, arg[++k], false, lmp);
      if (every_ < 0) error->all(FLERR, "pair_style uqforce: every {}: use 0 or more steps", every_);
    } else {
      error->all(FLERR, "pair_style uqforce does not know {}: use exchange or shell, and every N", arg[k]);
    }
  }
}

void PairUqforce::coeff(int narg, char** arg) {
  const int ntypes = atom->ntypes;
  if (narg != 3 + ntypes || strcmp(arg[0], "*") != 0 || strcmp(arg[1], "*") != 0) {
    error->all(FLERR,
               "pair_coeff of uqforce needs `* * model.pt` and an element for each of the {} atom types",
               ntypes);
  }
  if (strcmp(update->unit_style, "metal") != 0) {
    error->all(FLERR, "pair_style uqforce computes in eV and A: use `units metal`, not {}",
               update->unit_style);
  }
  std::string description, failure;
  try {
    engine_ = std::make_unique<Engine>(arg[2], comm->nthreads);
    description = read_metadata(arg[2]);
    delete[] pvector;
    nextra = uncertainties_.size();
    pvector = new double[nextra]();
  } catch (const std::exception& error) {
    failure = error.what();
  }
  // A file that is wrong everywhere is one error of all ranks, in one voice; one that a node lacks is its
  // own.
  int failed = !failure.empty(), all_failed = 0;
  MPI_Allreduce(&failed, &all_failed, 1, MPI_INT, MPI_MIN, world);
  if (all_failed) error->all(FLERR, "pair_style uqforce: {}", failure);
  if (failed) stop(failure);
  model_type_.assign(ntypes + 1, -1);
  for (int type = 1; type <= ntypes; ++type) {
    const auto found = std::find(type_names_.begin(), type_names_.end(), arg[2 + type]);
    if (found == type_names_.end()) {
      error->all(FLERR, "pair_coeff of uqforce: the model does not know {}: it was made for {}",
                 arg[2 + type], utils::join_words(type_names_, " "));
    }
    model_type_[type] = found - type_names_.begin();
  }
  if (!allocated) {
    allocated = 1;
    memory->create(setflag, ntypes + 1, ntypes + 1, "pair:setflag");
    memory->create(cutsq, ntypes + 1, ntypes + 1, "pair:cutsq");
    memory->create(cutghost, ntypes + 1, ntypes + 1, "pair:cutghost");
  }
  for (int i = 1; i <= ntypes; ++i) {
    for (int j = i; j <= ntypes; ++j) setflag[i][j] = 1;
  }
  if (comm->me == 0) utils::logmesg(lmp, description);
}

// Takes what is needed and loads the model; returns what is said at the start.
std::string PairUqforce::read_metadata(const std::string& path) {
  const json model = json::parse(engine_->metadata()), build = json::parse(engine_->build());
  const int format = model.at("format_version");
  if (format > kFormatVersion) {
    throw std::runtime_error(
        fmt::format("{} is an exported model of format {}, this plugin (uqforce {}) reads "
                    "up to {}: upgrade uqforce",
                    path, format, build.at("uqforce").get<std::string>(), kFormatVersion));
  }
  if (format < kFormatVersion) {
    throw std::runtime_error(
        fmt::format("{} is of format {} of uqforce {}, this plugin reads {}: export it again", path, format,
                    model.at("uqforce_version").get<std::string>(), kFormatVersion));
  }
  if (model.at("tabulation").empty()) {
    throw std::runtime_error(path +
                             " holds radial networks, LAMMPS runs tables: export it without "
                             "`--tabulation 0`");
  }
  type_names_ = model.at("type_names").get<std::vector<std::string>>();
  cutoff_ = model.at("cutoff");
  num_layers_ = model.at("num_layers");
  uncertainties_ = uqforce::lammps::Uncertainties();
  const json &domain = model.at("domain"), known = model.at("thresholds").value("nll", json::object());
  forward_bytes_ = domain.at("forward_bytes");
  reverse_bytes_ = domain.at("reverse_bytes");
  one_variance_ = domain.at("one_variance");
  for (const auto& [key, columns] : domain.at("per_atom").items()) uncertainties_.add(key, true, columns);
  for (const std::string key : domain.at("per_structure")) uncertainties_.add(key, false);
  std::string thresholds;
  for (const auto& [name, value] : known.items()) {
    thresholds += fmt::format("{} {} {:.6g}", thresholds.empty() ? "\n  nll of the training atoms:" : ",",
                              name, value.get<double>());
  }
  const bool compiled = model.contains("methods");
  engine_->load(compiled ? model.at("methods").get<uqforce::lammps::Methods>() : uqforce::lammps::Methods(),
                compiled ? model.at("processor").get<std::string>() : "");
  return fmt::format(
      "uqforce {}: {} ({}), {} layers, cutoff {} A, {}, {}\n"
      "  uncertainties: {}{}{}\n"
      "  kernels {} on the cpu, {} rank(s) of {} thread(s), {}\n",
      build.at("uqforce").get<std::string>(), path, utils::join_words(type_names_, " "), num_layers_, cutoff_,
      model.at("dtype").get<std::string>(), compiled ? "AOTInductor" : "TorchScript",
      uncertainties_.any() ? "compute pair gives " + uncertainties_.legend() : "none",
      uncertainties_.any() && every_ != 1 ? fmt::format("; every {} steps", every_) : "", thresholds,
      build.at("instruction_set").get<std::string>(), comm->nprocs, comm->nthreads,
      exchange_ ? "features exchanged between layers"
                : fmt::format("ghosts within {} A with edges of their own", num_layers_ * cutoff_));
}

void PairUqforce::init_style() {
  if (!force->newton_pair) {
    error->all(FLERR, "pair_style uqforce adds forces to ghost atoms: use `newton on`");
  }
  if (!atom->tag_enable)
    error->all(FLERR, "pair_style uqforce needs atom IDs: leave out `atom_modify id no`");
  if (domain->dimension != 3) error->all(FLERR, "pair_style uqforce needs three dimensions");
  const double* special = force->special_lj;
  if (atom->molecular != Atom::ATOMIC && (special[1] == 0 || special[2] == 0 || special[3] == 0)) {
    error->all(FLERR, "pair_style uqforce needs bonded neighbors too: use `special_bonds lj/coul 1 1 1`");
  }
  if (one_variance_ && comm->me == 0) {
    error->warning(FLERR,
                   "the energy and force uncertainties of uqforce come from one variance of the whole "
                   "system: they grow with its size, nll does not");
  }
  if (exchange_) {
    comm_forward = std::max(static_cast<int>((forward_bytes_ + 7) / 8), 1);
    comm_reverse = std::max(static_cast<int>((reverse_bytes_ + 7) / 8), 3);
    neighbor->add_request(this, NeighConst::REQ_FULL);
  } else {
    comm_reverse = std::max(static_cast<int>((reverse_bytes_ + 7) / 8), 3);
    ghostneigh = 1;
    comm->cutghostuser = std::max(comm->cutghostuser, num_layers_ * cutoff_ + neighbor->skin);
    neighbor->add_request(this, NeighConst::REQ_FULL | NeighConst::REQ_GHOST);
  }
  // Below a hybrid style, which read our widths before the model was known.
  force->pair->comm_forward = std::max(force->pair->comm_forward, comm_forward);
  force->pair->comm_reverse = std::max(force->pair->comm_reverse, comm_reverse);
}

double PairUqforce::init_one(int i, int j) {
  cutghost[i][j] = cutghost[j][i] = cutoff_;
  return cutoff_;
}

void PairUqforce::compute(int eflag, int vflag) {
  ev_init(eflag, vflag);
  try {
    find_edges();
    const bool uncertain = uncertainties_.any() && wants_uncertainties();
    const Prediction& prediction = engine_->evaluate(domain_, exchange_, uncertain, *this);
    const double* energies = prediction.at("energies").data;
    const double* edge_gradient = prediction.at("edge_gradient").data;
    check_finite(energies, edge_gradient);
    scatter(energies, edge_gradient);
    if (uncertain) {
      uncertainties_.keep(prediction, domain_.owned, static_cast<double>(atom->natoms), world, pvector);
    } else {
      uncertainties_.skip(domain_.owned, world, pvector);
    }
  } catch (const LAMMPSException&) {
    throw;  // has been said
  } catch (const std::exception& failure) {
    stop(failure.what());
  }
}

// In every n-th step, in the first and the last of a run, which are printed, and when a fix asks for it.
bool PairUqforce::wants_uncertainties() const {
  const bigint step = update->ntimestep;
  const bool edge = step == update->firststep || step == update->laststep;
  return requested_ || (every_ > 0 && (edge || step % every_ == 0));
}

// Own atoms first, then ghosts. Of what is exchanged, a ghost that is an image of an own atom is no ghost:
// one rank has none at all.
void PairUqforce::number_rows() {
  const int owned = atom->nlocal, atoms = atom->nlocal + atom->nghost;
  row_of_.resize(atoms);
  std::iota(row_of_.begin(), row_of_.end(), 0);
  int rows = atoms;
  if (exchange_) {
    own_.clear();
    for (int i = 0; i < owned; ++i) own_.emplace(atom->tag[i], i);
    rows = owned;
    for (int i = owned; i < atoms; ++i) {
      const auto found = own_.find(atom->tag[i]);
      row_of_[i] = found == own_.end() ? rows++ : found->second;
    }
  }
  domain_.owned = owned;
  domain_.atoms = rows;
  domain_.types.resize(rows);
  domain_.numbers.resize(rows);
  for (int i = 0; i < atoms; ++i) {
    domain_.types[row_of_[i]] = model_type_[atom->type[i]];
    domain_.numbers[row_of_[i]] = atom->tag[i];
  }
}

// Edges within the cutoff of own atoms; without exchange, also of the ghosts that their features depend on.
void PairUqforce::find_edges() {
  double** x = atom->x;
  const auto for_neighbors = [&](int i, const auto& use) {
    for (int k = 0; k < list->numneigh[i]; ++k) {
      const int j = list->firstneigh[i][k] & NEIGHMASK;
      const double d[3] = {x[j][0] - x[i][0], x[j][1] - x[i][1], x[j][2] - x[i][2]};
      if (d[0] * d[0] + d[1] * d[1] + d[2] * d[2] < cutoff_ * cutoff_) use(j, d);
    }
  };
  const int owned = atom->nlocal, atoms = atom->nlocal + atom->nghost;
  is_center_.assign(atoms, 0);
  std::fill_n(is_center_.begin(), owned, 1);
  std::vector<int> newest(list->ilist, list->ilist + list->inum), next;
  for (int layer = 1; !exchange_ && layer < num_layers_; ++layer, newest.swap(next)) {
    next.clear();
    for (int i : newest) {
      for_neighbors(i, [&](int j, const double*) {
        if (!std::exchange(is_center_[j], 1)) next.push_back(j);
      });
    }
  }
  number_rows();
  domain_.centers.clear(), domain_.neighbors.clear(), domain_.edge_vec.clear(), edge_atoms_.clear();
  const int listed = list->inum + (exchange_ ? 0 : list->gnum);
  for (int k = 0; k < listed; ++k) {
    const int i = list->ilist[k];
    if (!is_center_[i]) continue;
    for_neighbors(i, [&](int j, const double* d) {
      domain_.centers.push_back(i);
      domain_.neighbors.push_back(row_of_[j]);
      edge_atoms_.push_back(j);
      domain_.edge_vec.insert(domain_.edge_vec.end(), d, d + 3);
    });
  }
}

// One rank ends all of them. `mpirun` may end before it has read what a rank printed just before the abort.
void PairUqforce::stop(const std::string& sentence) {
  try {
    error->one(FLERR, "pair_style uqforce: {}", sentence);
  } catch (...) {
    fflush(stdout);
    platform::usleep(200000);
    throw;
  }
}

// What goes on from numbers that are not finite would be wrong.
void PairUqforce::check_finite(const double* energies, const double* edge_gradient) {
  double closest = std::numeric_limits<double>::infinity();
  int64_t atom_at = -1;
  for (int64_t i = 0; i < domain_.owned && atom_at < 0; ++i) {
    if (!std::isfinite(energies[i])) atom_at = i;
  }
  const auto edges = static_cast<int64_t>(domain_.centers.size());
  for (int64_t e = 0; e < edges && atom_at < 0; ++e) {
    const double* g = edge_gradient + 3 * e;
    if (!std::isfinite(g[0] + g[1] + g[2])) atom_at = domain_.centers[e];
  }
  if (atom_at < 0) return;
  for (int64_t e = 0; e < edges; ++e) {
    const double* d = domain_.edge_vec.data() + 3 * e;
    closest = std::min(closest, d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
  }
  stop(fmt::format(
      "energy or forces of atom {} are not finite at step {}; the two closest atoms of its rank are "
      "{:.3f} A apart",
      atom->tag[atom_at], update->ntimestep, std::sqrt(closest)));
}

// An edge pulls its two atoms; half of its virial belongs to each.
void PairUqforce::scatter(const double* energies, const double* edge_gradient) {
  double** f = atom->f;
  const auto edges = static_cast<int64_t>(domain_.centers.size());
  for (int64_t e = 0; e < edges; ++e) {
    const double *g = edge_gradient + 3 * e, *d = domain_.edge_vec.data() + 3 * e;
    const int64_t i = domain_.centers[e], j = edge_atoms_[e];
    for (int c = 0; c < 3; ++c) {
      f[i][c] += g[c];
      f[j][c] -= g[c];
    }
    if (!vflag_either) continue;
    const double w[6] = {-d[0] * g[0],
                         -d[1] * g[1],
                         -d[2] * g[2],
                         -0.5 * (d[0] * g[1] + d[1] * g[0]),
                         -0.5 * (d[0] * g[2] + d[2] * g[0]),
                         -0.5 * (d[1] * g[2] + d[2] * g[1])};
    for (int c = 0; c < 6; ++c) {
      if (vflag_global) virial[c] += w[c];
      if (!vflag_atom) continue;
      vatom[i][c] += 0.5 * w[c];
      vatom[j][c] += 0.5 * w[c];
    }
  }
  for (int64_t i = 0; i < domain_.owned; ++i) {
    if (eflag_global) eng_vdwl += energies[i];
    if (eflag_atom) eatom[i] += energies[i];
  }
}

// `fix pair N uqforce KEY 1` asks for the uncertainties of its steps: LAMMPS sets KEY_flag before them.
void* PairUqforce::extract(const char* name, int& dimension) {
  dimension = 0;
  const std::string_view text = name, suffix = "_flag";
  if (text.size() <= suffix.size() || text.substr(text.size() - suffix.size()) != suffix) return nullptr;
  const std::string key(text.substr(0, text.size() - suffix.size()));
  return uncertainties_.carries(key) ? &requested_ : nullptr;
}

void* PairUqforce::extract_peratom(const char* name, int& columns) {
  columns = 0;
  return uncertainties_.find(name, columns);
}

void PairUqforce::to_ghosts(const Rows& rows) {
  if (exchange_ && comm->nprocs == 1) return;  // there are no ghosts
  rows_ = &rows;
  comm->forward_comm(this, rows.doubles());
}

void PairUqforce::to_owners(const Rows& rows) {
  if (exchange_ && comm->nprocs == 1) return;
  rows_ = &rows;
  comm->reverse_comm(this, rows.doubles());
}

void PairUqforce::sum(double* values, int count) {
  MPI_Allreduce(MPI_IN_PLACE, values, count, MPI_DOUBLE, MPI_SUM, world);
}

// Where part p of atom k of a message is.
static char* in_message(double* buffer, const Rows& rows, int k, int64_t part) {
  return reinterpret_cast<char*>(buffer + static_cast<int64_t>(k) * rows.doubles()) + part * rows.bytes;
}

int PairUqforce::pack_forward_comm(int n, int* list, double* buffer, int, int*) {
  for (int k = 0; k < n; ++k) {
    for (int64_t p = 0; p < rows_->parts; ++p) {
      memcpy(in_message(buffer, *rows_, k, p), rows_->at(p, row_of_[list[k]]), rows_->bytes);
    }
  }
  return n * rows_->doubles();
}

void PairUqforce::unpack_forward_comm(int n, int first, double* buffer) {
  for (int k = 0; k < n; ++k) {
    const int row = row_of_[first + k];
    if (row < domain_.owned) continue;  // an own atom, which needs no message
    for (int64_t p = 0; p < rows_->parts; ++p) {
      memcpy(rows_->at(p, row), in_message(buffer, *rows_, k, p), rows_->bytes);
    }
  }
}

int PairUqforce::pack_reverse_comm(int n, int first, double* buffer) {
  for (int k = 0; k < n; ++k) {
    const int row = row_of_[first + k];
    for (int64_t p = 0; p < rows_->parts; ++p) {
      char* to = in_message(buffer, *rows_, k, p);
      if (row < domain_.owned) {
        memset(to, 0, rows_->bytes);  // what is its own is there already
      } else {
        memcpy(to, rows_->at(p, row), rows_->bytes);
      }
    }
  }
  return n * rows_->doubles();
}

template <typename T>
static void add(char* to, const char* from, int64_t bytes) {
  for (int64_t c = 0; c < bytes; c += sizeof(T)) {
    *reinterpret_cast<T*>(to + c) += *reinterpret_cast<const T*>(from + c);
  }
}

void PairUqforce::unpack_reverse_comm(int n, int* list, double* buffer) {
  for (int k = 0; k < n; ++k) {
    for (int64_t p = 0; p < rows_->parts; ++p) {
      char *to = rows_->at(p, row_of_[list[k]]), *from = in_message(buffer, *rows_, k, p);
      rows_->single ? add<float>(to, from, rows_->bytes) : add<double>(to, from, rows_->bytes);
    }
  }
}
