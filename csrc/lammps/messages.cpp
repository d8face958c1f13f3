#include "lammps/messages.h"

#include <cstring>

#include "atom.h"
#include "comm.h"
#include "pair.h"

namespace LAMMPS_NS {

using uqforce::lammps::Rows;

void Messages::to_ghosts(const Rows& rows) {
  rows_ = &rows;
  comm->forward_comm(pair_, rows.doubles());
}

void Messages::to_owners(const Rows& rows) {
  rows_ = &rows;
  comm->reverse_comm(pair_, rows.doubles());
}

void Messages::sum(double* values, int count) {
  MPI_Allreduce(MPI_IN_PLACE, values, count, MPI_DOUBLE, MPI_SUM, world);
}

// Where part p of atom k of a message is.
static char* in_message(double* buffer, const Rows& rows, int k, int64_t part) {
  return reinterpret_cast<char*>(buffer + static_cast<int64_t>(k) * rows.doubles()) + part * rows.bytes;
}

static const char* in_message(const double* buffer, const Rows& rows, int k, int64_t part) {
  return in_message(const_cast<double*>(buffer), rows, k, part);
}

int Messages::pack_forward(int n, const int* list, double* buffer) const {
  for (int k = 0; k < n; ++k) {
    for (int64_t p = 0; p < rows_->parts; ++p) {
      memcpy(in_message(buffer, *rows_, k, p), rows_->at(p, row(list[k])), rows_->bytes);
    }
  }
  return n * rows_->doubles();
}

void Messages::unpack_forward(int n, int first, const double* buffer) const {
  for (int k = 0; k < n; ++k) {
    const int to = row(first + k);
    if (to < atom->nlocal) continue;  // an own atom, which needs no message
    for (int64_t p = 0; p < rows_->parts; ++p) {
      memcpy(rows_->at(p, to), in_message(buffer, *rows_, k, p), rows_->bytes);
    }
  }
}

int Messages::pack_reverse(int n, int first, double* buffer) const {
  for (int k = 0; k < n; ++k) {
    const int from = row(first + k);
    for (int64_t p = 0; p < rows_->parts; ++p) {
      char* to = in_message(buffer, *rows_, k, p);
      if (from < atom->nlocal) {
        memset(to, 0, rows_->bytes);  // what is its own is there already
      } else {
        memcpy(to, rows_->at(p, from), rows_->bytes);
      }
    }
  }
  return n * rows_->doubles();
}

void Messages::unpack_reverse(int n, const int* list, const double* buffer) const {
  for (int k = 0; k < n; ++k) {
    for (int64_t p = 0; p < rows_->parts; ++p) {
      rows_->add(p, row(list[k]), in_message(buffer, *rows_, k, p));
    }
  }
}

}  // namespace LAMMPS_NS
