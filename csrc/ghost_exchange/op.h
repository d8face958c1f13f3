// Rows of features between the processes of a parallel engine, each with its own atoms and, behind them,
// ghosts: copies of atoms that belong to others, or periodic images of its own.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

#include "common/api.h"

namespace uqforce {

// What a parallel engine does for the ops. All processes call the same functions in the same order, those
// without atoms too. Tensors are contiguous and on the CPU; exceptions pass through the model to the engine.
class UQFORCE_API Ranks {
 public:
  virtual ~Ranks() = default;
  // rows [atoms, dim]: gives every ghost the row of its owner.
  virtual void to_ghosts(at::Tensor& rows) = 0;
  // rows [K, atoms, dim]: adds every ghost's rows to those of its owner, and leaves the ghosts' undefined.
  virtual void to_owners(at::Tensor& rows) = 0;
  // Sums each value over all processes.
  virtual void sum(at::Tensor& values) = 0;
};

// While it lives, the ops called by this thread talk to `ranks`.
class UQFORCE_API UseRanks {
 public:
  explicit UseRanks(Ranks& ranks);
  ~UseRanks();
  UseRanks(const UseRanks&) = delete;
  UseRanks& operator=(const UseRanks&) = delete;

 private:
  Ranks* before_;
};

// The engine that this thread uses; null outside of one, where a process has all atoms: ghosts are an error.
UQFORCE_API Ranks* ranks(const char* op, int64_t ghosts);

// What the ops take.
UQFORCE_API void check_exchange(const at::Tensor& x, const c10::SymInt& num_atoms);
UQFORCE_API void check_exchange_vjp(const at::Tensor& cotangents, const c10::SymInt& num_owned);
UQFORCE_API void check_sum(const at::Tensor& values);

}  // namespace uqforce
