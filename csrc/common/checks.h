// Checks of an op's arguments. Every message names the argument, the value found and what is wanted.
//
// Use them in op.cpp, in the function every path goes through (also Meta and Autograd), before anything is
// computed. Shapes are SymInt, so that they hold under torch.export with dynamic sizes.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <initializer_list>
#include <sstream>

namespace uqforce {

// A size that may be anything, for `check_shape`.
inline constexpr int64_t kAny = -1;

// ValueError unless the shape of `tensor` is `wanted`: check_shape(means, "means", {kAny,
// features.sym_size(1)}).
inline void check_shape(const at::Tensor& tensor, const char* name,
                        std::initializer_list<c10::SymInt> wanted) {
  const auto sizes = tensor.sym_sizes();
  bool equal = sizes.size() == wanted.size();
  auto size = sizes.begin();
  for (auto want = wanted.begin(); equal && want != wanted.end(); ++want, ++size) {
    equal = want->maybe_as_int() == kAny || *size == *want;
  }
  if (equal) return;
  std::ostringstream shape;
  for (const auto& want : wanted) {
    shape << (shape.tellp() > 0 ? ", " : "");
    want.maybe_as_int() == kAny ? shape << "any" : shape << want;
  }
  TORCH_CHECK_VALUE(false, name, " has shape ", sizes, ", expected [", shape.str(), "]");
}

// TypeError unless `tensor` holds `wanted`.
inline void check_dtype(const at::Tensor& tensor, const char* name, at::ScalarType wanted) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == wanted, name, " is ", tensor.scalar_type(), ", expected ", wanted,
                   ": convert it with .to()");
}

// TypeError unless `tensor` is float32 or float64.
inline void check_floating(const at::Tensor& tensor, const char* name) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kDouble, name, " is ",
                   tensor.scalar_type(), ", expected float32 or float64: convert it with .to()");
}

// TypeError unless `tensor` has the dtype of `other`: the kernels never mix precisions.
inline void check_same_dtype(const at::Tensor& tensor, const char* name, const at::Tensor& other,
                             const char* other_name) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == other.scalar_type(), name, " is ", tensor.scalar_type(), " but ",
                   other_name, " is ", other.scalar_type(), ": convert one of them with .to()");
}

// ValueError unless `tensor` is on the device of `other`.
inline void check_same_device(const at::Tensor& tensor, const char* name, const at::Tensor& other,
                              const char* other_name) {
  TORCH_CHECK_VALUE(tensor.device() == other.device(), name, " is on ", tensor.device(), " but ", other_name,
                    " is on ", other.device(), ": move one of them with .to()");
}

}  // namespace uqforce
