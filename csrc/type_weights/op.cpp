// Schemas, checks, shapes (Meta) and dispatcher calls of the weights per type.
#include "type_weights/op.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "common/checks.h"

namespace uqforce {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

void check_type_weights(const BlockSpec& spec, const c10::SymInt& num_features,
                        const OptionalTensor& features, const OptionalTensor& weight,
                        const OptionalTensor& grad) {
  const Tensor& first = features ? *features : *grad;
  const char* first_name = features ? "features" : "grad";
  check_floating(first, first_name);
  const auto check = [&](const OptionalTensor& tensor, const char* name,
                         std::initializer_list<c10::SymInt> shape) {
    if (!tensor) return;
    check_shape(*tensor, name, shape);
    check_same_dtype(*tensor, name, first, first_name);
    check_same_device(*tensor, name, first, first_name);
  };
  check(features, "features", {kAny, num_features});
  check(grad, "grad", {features ? features->sym_size(0) : c10::SymInt(kAny), spec.weight_numel});
  check(weight, "weight", {num_features * spec.weight_numel});
}

Tensor type_weights(const Tensor& features, const Tensor& weight, at::IntArrayRef spec) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("uqforce::type_weights", "")
                       .typed<decltype(type_weights)>();
  return op.call(features, weight, spec);
}

Tensor type_weights_features(const Tensor& grad, const Tensor& weight, c10::SymInt num_features,
                             at::IntArrayRef spec) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("uqforce::type_weights_features", "")
                       .typed<decltype(type_weights_features)>();
  return op.call(grad, weight, std::move(num_features), spec);
}

Tensor type_weights_weight(const Tensor& features, const Tensor& grad, at::IntArrayRef spec) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("uqforce::type_weights_weight", "")
                       .typed<decltype(type_weights_weight)>();
  return op.call(features, grad, spec);
}

namespace {

// The number of features, which checks compare with.
c10::SymInt width(const Tensor& features) {
  check_shape(features, "features", {kAny, kAny});
  return features.sym_size(1);
}

Tensor meta(const Tensor& features, const Tensor& weight, at::IntArrayRef flat) {
  const BlockSpec& spec = BlockSpec::parse(flat);
  check_type_weights(spec, width(features), features, weight, {});
  return features.new_empty_symint({features.sym_size(0), spec.weight_numel});
}

Tensor meta_features(const Tensor& grad, const Tensor& weight, c10::SymInt num_features,
                     at::IntArrayRef flat) {
  check_type_weights(BlockSpec::parse(flat), num_features, {}, weight, grad);
  return grad.new_empty_symint({grad.sym_size(0), num_features});
}

Tensor meta_weight(const Tensor& features, const Tensor& grad, at::IntArrayRef flat) {
  const BlockSpec& spec = BlockSpec::parse(flat);
  check_type_weights(spec, width(features), features, {}, grad);
  return features.new_empty_symint({features.sym_size(1) * spec.weight_numel});
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(uqforce, m) {
  m.def("type_weights(Tensor features, Tensor weight, int[] spec) -> Tensor");
  m.def("type_weights_features(Tensor grad, Tensor weight, SymInt num_features, int[] spec) -> Tensor");
  m.def("type_weights_weight(Tensor features, Tensor grad, int[] spec) -> Tensor");
}

TORCH_LIBRARY_IMPL(uqforce, Meta, m) {
  m.impl("type_weights", &meta);
  m.impl("type_weights_features", &meta_features);
  m.impl("type_weights_weight", &meta_weight);
}

}  // namespace uqforce
