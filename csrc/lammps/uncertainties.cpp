#include "lammps/uncertainties.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace uqforce::lammps {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

bool is_first(MPI_Comm world) {
  int rank;
  MPI_Comm_rank(world, &rank);
  return rank == 0;
}

}  // namespace

Uncertainties::Uncertainties()
    : quantities_{{"nll", false, true, 1, kNone, {}, {}},
                  {"forces_uncertainty", false, true, 1, kNone, {}, {}},
                  {"energy_uncertainty", false, false, 1, kNone, {}, {}}} {}

void Uncertainties::add(const std::string& key, bool per_atom, int columns) {
  auto found = std::find_if(quantities_.begin(), quantities_.end(),
                            [&](const Quantity& quantity) { return quantity.key == key; });
  if (found == quantities_.end()) {
    found = quantities_.insert(found, {key, true, per_atom, columns, kNone, {}, {}});
  }
  found->carried = true;
  found->resize(0);
}

bool Uncertainties::carries(const std::string& key) const {
  return std::any_of(quantities_.begin(), quantities_.end(),
                     [&](const Quantity& quantity) { return quantity.carried && quantity.key == key; });
}

bool Uncertainties::any() const {
  return std::any_of(quantities_.begin(), quantities_.end(),
                     [](const Quantity& quantity) { return quantity.carried; });
}

int Uncertainties::size() const {
  int size = 0;
  for (const Quantity& quantity : quantities_) size += quantity.places();
  return size;
}

std::string Uncertainties::legend() const {
  std::string text;
  int place = 1;
  for (const Quantity& quantity : quantities_) {
    const std::string comma = text.empty() ? "" : ", ", number = std::to_string(place);
    if (quantity.carried && quantity.places() == 2) {
      text += comma + number + " largest and " + std::to_string(place + 1) + " mean " + quantity.key;
    } else if (quantity.carried && quantity.places() == 1) {
      text += comma + number + " " + quantity.key;
    }
    place += quantity.places();
  }
  return text;
}

void Uncertainties::Quantity::resize(int64_t owned) {
  values.assign(std::max<int64_t>(owned, 1) * columns, kNone);  // never without a pointer to give
  rows.resize(columns > 1 ? std::max<int64_t>(owned, 1) : 0);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = values.data() + i * columns;
}

void Uncertainties::begin(int64_t owned) {
  owned_ = owned;
  for (Quantity& quantity : quantities_) {
    if (quantity.carried && quantity.per_atom) quantity.resize(owned);
  }
}

void Uncertainties::take(const Prediction& prediction, const std::vector<int>& atoms) {
  const auto count = static_cast<int64_t>(atoms.size());
  for (Quantity& quantity : quantities_) {
    if (!quantity.carried) continue;
    const Values& found = prediction.at(quantity.key);
    if (found.columns != quantity.columns || found.rows != (quantity.per_atom ? count : 1)) {
      throw std::runtime_error("the model gives " + std::to_string(found.rows) + " rows of " +
                               std::to_string(found.columns) + " numbers for " + quantity.key);
    }
    if (!quantity.per_atom) quantity.of_system = found.data[0];
    for (int64_t k = 0; quantity.per_atom && k < count; ++k) {
      std::copy_n(found.data + k * found.columns, found.columns,
                  quantity.values.begin() + atoms[k] * found.columns);
    }
  }
}

void Uncertainties::end(bool taken, double all_atoms, MPI_Comm world, double* vector) const {
  // LAMMPS sums over the processes: what is one number of all stands on the first of them only.
  const bool first = is_first(world);
  for (const Quantity& quantity : quantities_) {
    double* places = vector;
    vector += quantity.places();
    if (!taken || !quantity.carried) {
      std::fill(places, vector, first ? kNone : 0.0);
    } else if (!quantity.per_atom) {
      places[0] = first ? quantity.of_system : 0.0;
    } else if (quantity.columns == 1) {
      double most = -std::numeric_limits<double>::infinity(), sum = 0, all = 0;
      for (int64_t i = 0; i < owned_; ++i) {
        most = std::max(most, quantity.values[i]);
        sum += quantity.values[i];
      }
      MPI_Reduce(&most, &all, 1, MPI_DOUBLE, MPI_MAX, 0, world);
      places[0] = first ? all : 0.0;
      places[1] = sum / all_atoms;
    }
  }
}

void* Uncertainties::find(const std::string& key, int& columns) {
  for (Quantity& quantity : quantities_) {
    if (quantity.key != key || !quantity.carried || !quantity.per_atom) continue;
    columns = quantity.columns == 1 ? 0 : static_cast<int>(quantity.columns);
    return quantity.columns == 1 ? static_cast<void*>(quantity.values.data()) : quantity.rows.data();
  }
  return nullptr;
}

}  // namespace uqforce::lammps
