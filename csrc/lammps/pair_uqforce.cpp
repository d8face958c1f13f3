#include "lammps/pair_uqforce.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <limits>
#include <new>
#include <numeric>
#include <string_view>

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "exceptions.h"
#include "force.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "update.h"

using namespace LAMMPS_NS;
using uqforce::lammps::Engine;
using uqforce::lammps::ModelFile;
using uqforce::lammps::Prediction;

PairUqforce::PairUqforce(LAMMPS* lmp) : Pair(lmp), share_(lmp), messages_(lmp, this) {
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

static bool is_device(const char* name) {
  const std::string_view text = name;
  return text == "auto" || text == "cpu" || text == "cuda" ||
         (text.substr(0, 5) == "cuda:" && utils::is_integer(std::string(text.substr(5))));
}

void PairUqforce::settings(int narg, char** arg) {
  exchange_ = true, chunk_ = 0, every_ = 1, wanted_device_ = "auto";
  for (int k = 0; k < narg; ++k) {
    const std::string word = arg[k];
    const bool more = k + 1 < narg;
    if (word == "exchange" || word == "shell") {
      exchange_ = word == "exchange";
    } else if (word == "chunk" && more) {
      chunk_ = utils::inumeric(FLERR, arg[++k], false, lmp);
      if (chunk_ < 1) error->all(FLERR, "pair_style uqforce: chunk {}: use 1 or more atoms", chunk_);
    } else if (word == "every" && more) {
      every_ = utils::inumeric(FLERR, arg[++k], false, lmp);
      if (every_ < 0) error->all(FLERR, "pair_style uqforce: every {}: use 0 or more steps", every_);
    } else if (word == "device" && more && is_device(arg[k + 1])) {
      wanted_device_ = arg[++k];
    } else {
      error->all(FLERR,
                 "pair_style uqforce does not know {}: use exchange or shell, chunk N, every N, and device "
                 "auto, cpu, cuda or cuda:N",
                 word + (word == "device" && more ? std::string(" ") + arg[k + 1] : ""));
    }
  }
  if (chunk_ > 0 && exchange_) {
    error->all(
        FLERR,
        "pair_style uqforce: chunks are evaluated one after the other, which cannot exchange features: "
        "use `shell chunk {}`",
        chunk_);
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
  std::string failure;
  try {
    read(arg[2]);
  } catch (const std::exception& error) {
    failure = error.what();
  }
  // A file that is wrong everywhere is one error of all ranks, in one voice; one that a node lacks is its
  // own.
  int failed = !failure.empty(), all_failed = 0;
  MPI_Allreduce(&failed, &all_failed, 1, MPI_INT, MPI_MIN, world);
  if (all_failed) error->all(FLERR, "pair_style uqforce: {}", failure);
  if (failed) stop(failure);
  const std::vector<std::string>& names = file_->type_names;
  share_.model_type.assign(ntypes + 1, -1);
  for (int type = 1; type <= ntypes; ++type) {
    const auto found = std::find(names.begin(), names.end(), arg[2 + type]);
    if (found == names.end()) {
      error->all(FLERR, "pair_coeff of uqforce: the model does not know {}: it was made for {}",
                 arg[2 + type], utils::join_words(names, " "));
    }
    share_.model_type[type] = found - names.begin();
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
  if (comm->me == 0) utils::logmesg(lmp, description(arg[2]));
}

void PairUqforce::read(const std::string& path) {
  const int rank = rank_on_machine();  // all ranks ask, whatever fails
  engine_ = std::make_unique<Engine>(path, comm->nthreads);
  file_ = std::make_unique<ModelFile>(path, engine_->metadata(), engine_->build());
  share_.cutoff = file_->cutoff;
  uncertainties_ = uqforce::lammps::Uncertainties();
  for (const auto& [key, columns] : file_->per_atom) uncertainties_.add(key, true, columns);
  for (const std::string& key : file_->per_structure) uncertainties_.add(key, false);
  delete[] pvector;
  nextra = uncertainties_.size();
  pvector = new double[nextra]();
  device_archs_.clear();
  for (int device = 0; !file_->cuda_archs.empty() && device < Engine::cuda_devices(); ++device) {
    device_archs_.push_back(Engine::cuda_arch_for(device, file_->cuda_archs));
  }
  device_ = choose_device(wanted_device_, *file_, device_archs_, rank);
  engine_->load(file_->methods, file_->processor, device_);
}

int PairUqforce::rank_on_machine() const {
  MPI_Comm machine;
  MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, comm->me, MPI_INFO_NULL, &machine);
  int rank;
  MPI_Comm_rank(machine, &rank);
  MPI_Comm_free(&machine);
  return rank;
}

// What is said at the start.
std::string PairUqforce::description(const std::string& path) const {
  std::string thresholds, kernels = "kernels " + file_->instruction_set + " on the cpu", scheme;
  for (const auto& [name, value] : file_->thresholds) {
    thresholds +=
        fmt::format("{} {} {:.6g}", thresholds.empty() ? "\n  nll of the training atoms:" : ",", name, value);
  }
  if (device_ != "cpu") {
    kernels = fmt::format(
        "CUDA kernels ({}) on {} and, of other ranks, the machine's {} devices in turn; they have been "
        "tested in emulation only: compare with `device cpu`;",
        device_archs_[std::stoi(device_.substr(5))], device_, device_archs_.size());
  } else if (wanted_device_ == "auto" && !device_archs_.empty() && !file_->compiled) {
    kernels += fmt::format(", because a CUDA device here does not run what was built ({})",
                           utils::join_words(file_->cuda_archs, " "));
  }
  if (exchange_) {
    scheme = "features exchanged between layers";
  } else {
    scheme = fmt::format("ghosts within {} A with edges of their own", file_->num_layers * file_->cutoff);
    if (chunk_ > 0) scheme += fmt::format(", {} atoms at a time", chunk_);
  }
  return fmt::format(
      "uqforce {}: {} ({}), {} layers, cutoff {} A, {}, {}\n"
      "  uncertainties: {}{}{}\n"
      "  {}, {} rank(s) of {} thread(s), {}\n",
      file_->version, path, utils::join_words(file_->type_names, " "), file_->num_layers, file_->cutoff,
      file_->dtype, file_->compiled ? "AOTInductor" : "TorchScript",
      uncertainties_.any() ? "compute pair gives " + uncertainties_.legend() : "none",
      uncertainties_.any() && every_ != 1 ? fmt::format("; every {} steps", every_) : "", thresholds, kernels,
      comm->nprocs, comm->nthreads, scheme);
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
  if (file_->one_variance && comm->me == 0) {
    error->warning(FLERR,
                   "the energy and force uncertainties of uqforce come from one variance of the whole "
                   "system: they grow with its size, nll does not");
  }
  comm_reverse = std::max(static_cast<int>((file_->reverse_bytes + 7) / 8), 3);
  if (exchange_) {
    comm_forward = std::max(static_cast<int>((file_->forward_bytes + 7) / 8), 1);
    neighbor->add_request(this, NeighConst::REQ_FULL);
  } else {
    ghostneigh = 1;
    comm->cutghostuser = std::max(comm->cutghostuser, file_->num_layers * file_->cutoff + neighbor->skin);
    neighbor->add_request(this, NeighConst::REQ_FULL | NeighConst::REQ_GHOST);
  }
  // Below a hybrid style, which read our widths before the model was known.
  force->pair->comm_forward = std::max(force->pair->comm_forward, comm_forward);
  force->pair->comm_reverse = std::max(force->pair->comm_reverse, comm_reverse);
}

double PairUqforce::init_one(int i, int j) {
  cutghost[i][j] = cutghost[j][i] = file_->cutoff;
  return file_->cutoff;
}

void PairUqforce::compute(int eflag, int vflag) {
  ev_init(eflag, vflag);
  try {
    const bool uncertain = uncertainties_.any() && wants_uncertainties();
    uncertainties_.begin(atom->nlocal);
    chunk_ > 0 ? evaluate_chunks(uncertain) : evaluate_whole(uncertain);
    uncertainties_.end(uncertain, static_cast<double>(atom->natoms), world, pvector);
  } catch (const LAMMPSException&) {
    throw;  // has been said
  } catch (const std::bad_alloc&) {
    stop(uqforce::lammps::kOutOfMemory);
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

void PairUqforce::evaluate_whole(bool uncertain) {
  std::vector<int> own(atom->nlocal);
  std::iota(own.begin(), own.end(), 0);
  if (exchange_) {
    share_.with_ghosts(*list);
  } else {
    share_.with_shell(*list, own, file_->num_layers, true);
  }
  messages_.use(&share_.rows);
  const bool alone = exchange_ && comm->nprocs == 1;  // there are no ghosts
  const Prediction& prediction =
      engine_->evaluate(share_.domain, exchange_, uncertain, alone ? nullptr : &messages_);
  scatter(prediction);
  if (uncertain) uncertainties_.take(prediction, own);
}

void PairUqforce::evaluate_chunks(bool uncertain) {
  const std::vector<std::vector<int>> pieces = share_.pieces(chunk_);
  sums_.begin(atom->nlocal, atom->nlocal + atom->nghost);
  messages_.use(nullptr);
  for (bool first = true, settled = false; !settled; first = false) {
    for (const std::vector<int>& own : pieces) {
      share_.with_shell(*list, own, file_->num_layers, false);
      sums_.next(share_.atoms, share_.domain.owned);
      const Prediction& prediction = engine_->evaluate(share_.domain, false, uncertain, &sums_);
      if (first) scatter(prediction);  // energies and forces need no sums
      if (uncertain) uncertainties_.take(prediction, own);
    }
    settled = !uncertain || sums_.settled(messages_);
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
  const uqforce::lammps::Domain& domain = share_.domain;
  double closest = std::numeric_limits<double>::infinity();
  int64_t row = -1;
  for (int64_t i = 0; i < domain.owned && row < 0; ++i) {
    if (!std::isfinite(energies[i])) row = i;
  }
  const auto edges = static_cast<int64_t>(domain.centers.size());
  for (int64_t e = 0; e < edges && row < 0; ++e) {
    const double* g = edge_gradient + 3 * e;
    if (!std::isfinite(g[0] + g[1] + g[2])) row = domain.centers[e];
  }
  if (row < 0) return;
  for (int64_t e = 0; e < edges; ++e) {
    const double* d = domain.edge_vec.data() + 3 * e;
    closest = std::min(closest, d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
  }
  stop(fmt::format(
      "energy or forces of atom {} are not finite at step {}; the two closest atoms of its rank are "
      "{:.3f} A apart",
      atom->tag[share_.atoms[row]], update->ntimestep, std::sqrt(closest)));
}

// An edge pulls its two atoms; half of its virial belongs to each.
void PairUqforce::scatter(const Prediction& prediction) {
  const double* energies = prediction.at("energies").data;
  const double* edge_gradient = prediction.at("edge_gradient").data;
  check_finite(energies, edge_gradient);
  const uqforce::lammps::Domain& domain = share_.domain;
  double** f = atom->f;
  const auto edges = static_cast<int64_t>(domain.centers.size());
  for (int64_t e = 0; e < edges; ++e) {
    const double *g = edge_gradient + 3 * e, *d = domain.edge_vec.data() + 3 * e;
    const int i = share_.atoms[domain.centers[e]], j = share_.edge_atoms[e];
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
  for (int64_t row = 0; row < domain.owned; ++row) {
    if (eflag_global) eng_vdwl += energies[row];
    if (eflag_atom) eatom[share_.atoms[row]] += energies[row];
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
