// The mixture's CUDA ops: checks, memory, the stream; the kernels are in cuda.cu.
#include "common/cuda_op.h"

#ifdef UQFORCE_HAS_CUDA

#include <ATen/ops/empty_like.h>

#include "gmm_nll/cuda.h"
#include "gmm_nll/op.h"

namespace uqforce::gmm_nll {
namespace {

using at::Tensor;

struct Results {
  Tensor nll, grad, product;
};

template <typename T>
T* pointer(const Tensor& tensor) {
  return tensor.defined() ? tensor.mutable_data_ptr<T>() : nullptr;
}

Results run(const Tensor& features, const Tensor& means, const Tensor& cholesky, const Tensor& log_weights,
            const Tensor& vector, Results results) {
  const c10::DeviceGuard guard(features.device());
  const Tensor x = features.contiguous(), mu = means.contiguous(), P = cholesky.contiguous(),
               log_w = log_weights.contiguous(), u = vector.defined() ? vector.contiguous() : vector;
  TORCH_CHECK_VALUE(x.size(1) < 1024 && mu.size(0) < 16384,
                    "a mixture on CUDA has at most 1023 features and ", "16383 components, got ", x.size(1),
                    " and ", mu.size(0));
  const int dim = int(x.size(1)), components = int(mu.size(0));
  const Tensor prepared = x.new_empty({prepared_size(dim, components)});
  const auto with_type = [&]<typename T>(T) {
    evaluate<T>(
        {x.size(0), dim, components, x.const_data_ptr<T>(), mu.const_data_ptr<T>(), P.const_data_ptr<T>(),
         log_w.const_data_ptr<T>(), u.defined() ? u.const_data_ptr<T>() : nullptr, pointer<T>(results.nll),
         pointer<T>(results.grad), pointer<T>(results.product), prepared.mutable_data_ptr<T>()},
        current_stream(x.device()));
  };
  x.scalar_type() == at::kFloat ? with_type(float{}) : with_type(double{});
  return results;
}

Tensor per_atom(const Tensor& features) { return features.new_empty({features.size(0)}); }

Tensor per_feature(const Tensor& features) { return at::empty_like(features, at::MemoryFormat::Contiguous); }

Tensor nll_cuda(const Tensor& features, const Tensor& means, const Tensor& cholesky,
                const Tensor& log_weights) {
  check_arguments(features, means, cholesky, log_weights);
  return run(features, means, cholesky, log_weights, {}, {.nll = per_atom(features)}).nll;
}

std::tuple<Tensor, Tensor> grad_cuda(const Tensor& features, const Tensor& means, const Tensor& cholesky,
                                     const Tensor& log_weights) {
  check_arguments(features, means, cholesky, log_weights);
  const auto results = run(features, means, cholesky, log_weights, {},
                           {.nll = per_atom(features), .grad = per_feature(features)});
  return {results.nll, results.grad};
}

Tensor hvp_cuda(const Tensor& features, const Tensor& means, const Tensor& cholesky,
                const Tensor& log_weights, const Tensor& vector) {
  check_arguments(features, means, cholesky, log_weights);
  check_vector(vector, features);
  return run(features, means, cholesky, log_weights, vector, {.product = per_feature(features)}).product;
}

}  // namespace

UQFORCE_CUDA_KERNELS(m) {
  m.impl("gmm_nll", nll_cuda);
  m.impl("gmm_nll_grad", grad_cuda);
  m.impl("gmm_nll_hvp", hvp_cuda);
}

}  // namespace uqforce::gmm_nll

#else

UQFORCE_WITHOUT_CUDA("gmm_nll", "gmm_nll_grad", "gmm_nll_hvp")

#endif
