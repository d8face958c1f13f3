// Schemas, checks, shapes (Meta) and CPU implementation: memory and order are ours, the way is the engine's.
#include "ghost_exchange/op.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "common/checks.h"

namespace uqforce {

using at::Tensor;

static thread_local Ranks* in_use = nullptr;

Ranks* ranks(const char* op, int64_t ghosts) {
  TORCH_CHECK_NOT_IMPLEMENTED(in_use || ghosts == 0, op, " is called with ", ghosts,
                              " ghosts outside of a parallel engine: only an engine that divides the atoms "
                              "among processes has some; call the model itself");
  return in_use;
}

void check_exchange(const Tensor& x, const c10::SymInt& num_atoms) {
  check_floating(x, "x");
  check_shape(x, "x", {kAny, kAny});
  TORCH_CHECK_VALUE(x.sym_size(0) <= num_atoms, "x has ", x.sym_size(0),
                    " rows, more than num_atoms = ", num_atoms);
}

void check_exchange_vjp(const Tensor& cotangents, const c10::SymInt& num_owned) {
  check_floating(cotangents, "cotangents");
  check_shape(cotangents, "cotangents", {kAny, kAny, kAny});
  TORCH_CHECK_VALUE(num_owned >= 0 && num_owned <= cotangents.sym_size(1), "num_owned is ", num_owned,
                    ", expected 0 to ", cotangents.sym_size(1), ", the atoms of cotangents");
}

void check_sum(const Tensor& values) { check_dtype(values, "values", at::kDouble); }

namespace {

// x [owned, dim] -> [num_atoms, dim]: the ghosts' rows come from their owners.
Tensor exchange(const Tensor& x, int64_t num_atoms) {
  check_exchange(x, num_atoms);
  Tensor rows = at::empty({num_atoms, x.size(1)}, x.options());
  rows.narrow(0, 0, x.size(0)).copy_(x);
  if (Ranks* engine = ranks("ghost_exchange", num_atoms - x.size(0))) engine->to_ghosts(rows);
  return rows;
}

// cotangents [K, atoms, dim] -> [K, num_owned, dim]: the ghosts' are added to their owners'.
Tensor exchange_vjp(const Tensor& cotangents, int64_t num_owned) {
  check_exchange_vjp(cotangents, num_owned);
  Tensor rows = cotangents.clone(at::MemoryFormat::Contiguous);
  if (Ranks* engine = ranks("ghost_exchange_vjp", rows.size(1) - num_owned)) engine->to_owners(rows);
  return rows.narrow(1, 0, num_owned).contiguous();
}

Tensor sum(const Tensor& values) {
  check_sum(values);
  Tensor sums = values.clone(at::MemoryFormat::Contiguous);
  if (Ranks* engine = ranks("sum_over_ranks", 0)) engine->sum(sums);
  return sums;
}

Tensor exchange_meta(const Tensor& x, c10::SymInt num_atoms) {
  check_exchange(x, num_atoms);
  return x.new_empty_symint({num_atoms, x.sym_size(1)});
}

Tensor exchange_vjp_meta(const Tensor& cotangents, c10::SymInt num_owned) {
  check_exchange_vjp(cotangents, num_owned);
  return cotangents.new_empty_symint({cotangents.sym_size(0), num_owned, cotangents.sym_size(2)});
}

Tensor sum_meta(const Tensor& values) {
  check_sum(values);
  return values.new_empty_symint(values.sym_sizes());
}

}  // namespace

UseRanks::UseRanks(Ranks& ranks) : before_(in_use) { in_use = &ranks; }
UseRanks::~UseRanks() { in_use = before_; }

TORCH_LIBRARY_FRAGMENT(uqforce, m) {
  m.def("ghost_exchange(Tensor x, SymInt num_atoms) -> Tensor");
  m.def("ghost_exchange_vjp(Tensor cotangents, SymInt num_owned) -> Tensor");
  m.def("sum_over_ranks(Tensor values) -> Tensor");
}

TORCH_LIBRARY_IMPL(uqforce, CPU, m) {
  m.impl("ghost_exchange", &exchange);
  m.impl("ghost_exchange_vjp", &exchange_vjp);
  m.impl("sum_over_ranks", &sum);
}

TORCH_LIBRARY_IMPL(uqforce, Meta, m) {
  m.impl("ghost_exchange", &exchange_meta);
  m.impl("ghost_exchange_vjp", &exchange_vjp_meta);
  m.impl("sum_over_ranks", &sum_meta);
}

}  // namespace uqforce
